//! How many requests may be under way at one hop, over all cores, and who waits for a place.
//!
//! A place that becomes free goes to whoever has waited longest, by a wake-up; nobody looks now and then. Must stay
//! true: no more than `requests_max` have a place; a place given to somebody who has just left goes on to the next; the
//! queue has an end.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tidegate_contract::OriginLimit;

/// The door of one hop.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: as many as come.
    limit: Option<OriginLimit>,
    inside: u32,
    queue: VecDeque<Arc<Mutex<Seat>>>,
}

/// Of one who waits.
#[derive(Debug)]
enum Seat {
    Waiting(Option<Waker>),
    Given,
    Left,
}

/// Held by whom the hop is asked for.
#[derive(Debug)]
pub struct Permit(Arc<Gate>);

impl Gate {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets what may be under way; who waits is let in when that is more than before.
    pub fn set_limit(&self, limit: Option<OriginLimit>) {
        wake(self.change(|state| {
            state.limit = limit;
            state.let_in()
        }));
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.change(|state| state.queue.len())
    }

    /// How long one may wait.
    pub fn patience_seconds(&self) -> u32 {
        self.change(|state| state.limit.map_or(0, |limit| limit.queue_seconds))
    }

    /// A place at once, or one in the queue; `None`: the queue is full.
    pub fn enter(self: &Arc<Self>) -> Option<Entering> {
        self.change(|state| {
            let Some(limit) = state.limit else {
                state.inside += 1;
                return Some(Entering { gate: self.clone(), seat: None });
            };
            if state.inside < limit.requests_max && state.queue.is_empty() {
                state.inside += 1;
                return Some(Entering { gate: self.clone(), seat: None });
            }
            if state.queue.len() >= limit.queue_max as usize {
                return None;
            }
            let seat = Arc::new(Mutex::new(Seat::Waiting(None)));
            state.queue.push_back(seat.clone());
            Some(Entering { gate: self.clone(), seat: Some(seat) })
        })
    }

    fn leave(&self) {
        wake(self.change(|state| {
            state.inside -= 1;
            state.let_in()
        }));
    }
}

impl State {
    /// Gives free places to those who have waited longest.
    fn let_in(&mut self) -> Vec<Waker> {
        let max = self.limit.map_or(u32::MAX, |limit| limit.requests_max);
        let mut woken = Vec::new();
        while self.inside < max
            && let Some(seat) = self.queue.pop_front()
        {
            let mut seat = seat.lock().unwrap_or_else(PoisonError::into_inner);
            if let Seat::Waiting(waker) = &mut *seat {
                woken.extend(waker.take());
                *seat = Seat::Given;
                self.inside += 1;
            }
        }
        woken
    }
}

/// Outside of the lock: waking may cross to other cores.
fn wake(woken: Vec<Waker>) {
    woken.into_iter().for_each(Waker::wake);
}

/// On the way to a place.
#[derive(Debug)]
pub struct Entering {
    gate: Arc<Gate>,
    /// `None`: it has its place.
    seat: Option<Arc<Mutex<Seat>>>,
}

impl Entering {
    /// Whether it has to wait.
    pub fn waits(&self) -> bool {
        self.seat.is_some()
    }
}

impl Future for Entering {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        if let Some(seat) = &self.seat {
            let mut seat = seat.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *seat {
                Seat::Waiting(waker) => {
                    *waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Seat::Given | Seat::Left => *seat = Seat::Left,
            }
        }
        // From here on the permit gives the place back.
        self.seat = Some(Arc::new(Mutex::new(Seat::Left)));
        Poll::Ready(Permit(self.gate.clone()))
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        let had_place = match &self.seat {
            None => true,
            Some(seat) => {
                // In the order of the others: first the gate, then the seat.
                self.gate.change(|state| {
                    let before = std::mem::replace(
                        &mut *seat.lock().unwrap_or_else(PoisonError::into_inner),
                        Seat::Left,
                    );
                    if matches!(before, Seat::Waiting(_)) {
                        state.queue.retain(|other| !Arc::ptr_eq(other, seat));
                    }
                    matches!(before, Seat::Given)
                })
            }
        };
        if had_place {
            self.gate.leave();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gate(requests_max: u32, queue_max: u32) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        gate.set_limit(Some(OriginLimit { requests_max, queue_max, queue_seconds: 5 }));
        gate
    }

    fn poll(entering: &mut Entering) -> Option<Permit> {
        match Pin::new(entering).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn places_go_to_who_has_waited_longest_and_the_queue_has_an_end() {
        let gate = gate(1, 2);
        let first = poll(&mut gate.enter().unwrap()).unwrap();
        let (mut second, mut third) = (gate.enter().unwrap(), gate.enter().unwrap());
        assert!(second.waits() && gate.enter().is_none());
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        drop(first);
        assert!(poll(&mut third).is_none(), "it came later");
        let permit = poll(&mut second).unwrap();
        drop(second);
        // Given, but not taken: it goes on to the next.
        let fourth = gate.enter().unwrap();
        drop(permit);
        drop(third);
        let mut fourth = fourth;
        assert!(poll(&mut fourth).is_some());
        drop(fourth);
        assert_eq!((gate.waiting(), gate.change(|state| state.inside)), (0, 0));
    }

    #[test]
    fn more_room_lets_in_at_once_and_less_waits_for_who_is_inside() {
        let gate = gate(1, 9);
        let first = poll(&mut gate.enter().unwrap()).unwrap();
        let mut second = gate.enter().unwrap();
        gate.set_limit(Some(OriginLimit { requests_max: 2, queue_max: 9, queue_seconds: 5 }));
        let second = poll(&mut second).unwrap();
        gate.set_limit(Some(OriginLimit { requests_max: 1, queue_max: 9, queue_seconds: 5 }));
        let mut third = gate.enter().unwrap();
        drop(first);
        assert!(poll(&mut third).is_none());
        drop(second);
        assert!(poll(&mut third).is_some());
    }

    proptest! {
        #[test]
        fn never_more_inside_than_allowed_and_no_place_is_lost(
            max in 1..5u32, queue in 0..6u32,
            steps in proptest::collection::vec((0..4u8, any::<proptest::sample::Index>()), 0..300)
        ) {
            let gate = gate(max, queue);
            let (mut waiting, mut inside) = (Vec::<Entering>::new(), Vec::<Permit>::new());
            for (step, which) in steps {
                match step {
                    0 => waiting.extend(gate.enter()),
                    1 if !waiting.is_empty() => {
                        let index = which.index(waiting.len());
                        if let Some(permit) = poll(&mut waiting[index]) {
                            inside.push(permit);
                            waiting.remove(index);
                        }
                    }
                    2 if !waiting.is_empty() => drop(waiting.remove(which.index(waiting.len()))),
                    3 if !inside.is_empty() => drop(inside.swap_remove(which.index(inside.len()))),
                    _ => {}
                }
                let counted = gate.change(|state| state.inside);
                prop_assert!(counted <= max && inside.len() as u32 <= counted);
                prop_assert!(gate.waiting() <= queue as usize);
                prop_assert!(counted == max || gate.waiting() == 0, "room, but somebody waits");
            }
            drop((waiting, inside));
            prop_assert_eq!((gate.waiting(), gate.change(|state| state.inside)), (0, 0));
        }
    }
}
