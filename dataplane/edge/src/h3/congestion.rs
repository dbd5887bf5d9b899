//! Congestion control of a QUIC connection that can be changed while it goes on: which delivery service a client wants is known with
//! its first request, and `quinn-proto` makes the controller with the connection.
//!
//! Each connection has a [`Switch`] for a controller, with CUBIC in it. What the service asks for is written into a [`Dial`] that
//! the switch shares with its copies (the library copies a controller when a client's port changes); it is looked at when a
//! packet leaves, comes over or is lost.
//!
//! Must stay true: a change keeps the window that the path is known to take, so that it is no second start from nothing; a
//! client at a new address is on a path of which nothing is known, and has CUBIC until its next answer.

use quinn_proto::congestion::{
    BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig, NewRenoConfig,
};
use quinn_proto::{Connection, RttEstimator};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;
use tidegate_contract::Congestion;

/// Makes switches.
pub struct Switchable;

impl ControllerFactory for Switchable {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::new(CubicConfig::default()).build(now, current_mtu);
        let dial = Arc::new(Dial(AtomicU8::new(number(Congestion::Cubic))));
        Box::new(Switch { inner, is: Congestion::Cubic, dial, mtu: current_mtu })
    }
}

/// Tells the controllers of a path which of them is wanted.
#[derive(Debug)]
pub struct Dial(AtomicU8);

impl Dial {
    /// Of the path that a connection is on now. It costs a copy of the controller: the library shows it and lends it to nobody; a
    /// copy has the same dial.
    pub fn of(quic: &Connection) -> Option<Arc<Dial>> {
        let copy = quic.congestion_state().clone_box().into_any();
        copy.downcast::<Switch>().ok().map(|switch| switch.dial)
    }

    /// Has the path controlled by this from now on. `false`: it was before.
    pub fn set(&self, congestion: Congestion) -> bool {
        let wanted = number(congestion);
        self.0.swap(wanted, Ordering::Relaxed) != wanted
    }
}

fn number(congestion: Congestion) -> u8 {
    match congestion {
        Congestion::Cubic => 0,
        Congestion::Bbr => 1,
        Congestion::Reno => 2,
    }
}

/// A controller in place of which another one can be put.
struct Switch {
    inner: Box<dyn Controller>,
    is: Congestion,
    dial: Arc<Dial>,
    mtu: u16,
}

impl Switch {
    /// The controller that is wanted now.
    fn current(&mut self, now: Instant) -> &mut dyn Controller {
        let wanted = self.dial.0.load(Ordering::Relaxed);
        if wanted != number(self.is) {
            let all = [Congestion::Cubic, Congestion::Bbr, Congestion::Reno];
            self.is = all.into_iter().find(|c| number(*c) == wanted).unwrap_or(self.is);
            self.inner = begin(self.is, self.inner.window(), now, self.mtu);
        }
        &mut *self.inner
    }
}

/// A controller with this window.
fn begin(congestion: Congestion, window: u64, now: Instant, mtu: u16) -> Box<dyn Controller> {
    match congestion {
        Congestion::Cubic => {
            let mut config = CubicConfig::default();
            config.initial_window(window);
            Arc::new(config).build(now, mtu)
        }
        Congestion::Bbr => {
            let mut config = BbrConfig::default();
            config.initial_window(window);
            Arc::new(config).build(now, mtu)
        }
        Congestion::Reno => {
            let mut config = NewRenoConfig::default();
            config.initial_window(window);
            Arc::new(config).build(now, mtu)
        }
    }
}

impl Controller for Switch {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.current(now).on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.current(now).on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.current(now).on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.current(now).on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let Switch { inner, is, dial, mtu } = self;
        let (is, dial, mtu) = (*is, dial.clone(), *mtu);
        Box::new(Switch { inner: inner.clone_box(), is, dial, mtu })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MTU: u16 = 1200;
    const PACKET: u64 = MTU as u64;

    fn switch(now: Instant) -> Switch {
        let made = Arc::new(Switchable).build(now, MTU);
        *made.into_any().downcast::<Switch>().unwrap()
    }

    fn want(switch: &Switch, congestion: Congestion) {
        switch.dial.set(congestion);
    }

    #[test]
    fn what_is_wanted_answers_a_loss_in_its_own_way_from_the_window_that_was() {
        let start = Instant::now();
        // The window after a packet was lost, of the one that was: CUBIC keeps 0.7 (RFC 9438), NewReno half (RFC 9002); BBR
        // does not take a loss for a sign of a full path.
        for (congestion, kept) in
            [(Congestion::Cubic, 0.7), (Congestion::Reno, 0.5), (Congestion::Bbr, 1.0)]
        {
            let mut switch = switch(start);
            switch.inner = begin(Congestion::Cubic, 100 * PACKET, start, MTU);
            want(&switch, congestion);
            let now = start + Duration::from_millis(100);
            switch.on_sent(now, PACKET, 1);
            assert_eq!(switch.window(), 100 * PACKET, "{congestion:?}: it begins where it was");
            let sent = now + Duration::from_millis(1);
            let noticed = now + Duration::from_millis(100);
            switch.on_congestion_event(noticed, sent, false, PACKET);
            let left = switch.window() as f64 / (100 * PACKET) as f64;
            assert!((left - kept).abs() < 0.01, "{congestion:?}: {left}");
        }
    }

    #[test]
    fn a_change_comes_with_the_next_packet_and_reaches_copies() {
        let start = Instant::now();
        let mut one = switch(start);
        let mut copy = *one.clone_box().into_any().downcast::<Switch>().unwrap();
        want(&one, Congestion::Bbr);
        one.on_sent(start, PACKET, 0);
        copy.on_sent(start, PACKET, 0);
        assert_eq!((one.is, copy.is), (Congestion::Bbr, Congestion::Bbr));
        // Back again, and nothing is begun anew by what is there already.
        want(&one, Congestion::Cubic);
        one.on_end_acks(start, 0, false, Some(0));
        assert_eq!(one.is, Congestion::Cubic);
        let later = start + Duration::from_secs(1);
        one.on_congestion_event(later, start, false, PACKET);
        let after_loss = one.window();
        want(&one, Congestion::Cubic);
        one.on_sent(later, PACKET, 1);
        assert_eq!(one.window(), after_loss);
    }

    #[test]
    fn packets_of_another_size_are_told_to_whoever_is_there() {
        let start = Instant::now();
        let mut switch = switch(start);
        switch.on_mtu_update(1452);
        want(&switch, Congestion::Reno);
        switch.on_sent(start, 1452, 0);
        // All of it is lost, twice: two packets of the new size are left.
        for second in 1..3 {
            let now = start + Duration::from_secs(second);
            switch.on_congestion_event(now, now - Duration::from_millis(1), true, 1452);
        }
        assert_eq!(switch.window(), 2 * 1452);
    }
}
