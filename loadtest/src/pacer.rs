//! Wakes users when their requests are due.
//!
//! Must stay true: a user is never woken early, and late only by what the kernel and this thread's other work
//! cost. tokio's own timers tick in milliseconds, which is longer than a cached answer takes; so one timerfd
//! per thread is set to the next due moment. Moments are added in order, since slots are handed out in order.

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::unix::pipe;
use tokio::sync::Notify;

/// The moments that users of this thread wait for. It has at most one entry per user.
#[derive(Debug)]
pub struct Pacer {
    start: Instant,
    waiting: RefCell<VecDeque<(u64, Rc<Notify>)>>,
    /// The list was empty and is no more.
    begun: Notify,
}

impl Pacer {
    pub fn new(start: Instant) -> Pacer {
        Pacer { start, waiting: RefCell::default(), begun: Notify::new() }
    }

    /// Nanoseconds since the start of the run; 0 before it.
    pub fn now_ns(&self) -> u64 {
        crate::units::nanos(Instant::now().saturating_duration_since(self.start))
    }

    /// Waits until `due_ns`. `mine` belongs to this user alone.
    pub async fn wait(&self, due_ns: u64, mine: &Rc<Notify>) {
        if due_ns <= self.now_ns() {
            return;
        }
        let was_empty = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.push_back((due_ns, Rc::clone(mine)));
            waiting.len() == 1
        };
        if was_empty {
            self.begun.notify_one();
        }
        mine.notified().await;
    }

    /// Wakes users for as long as it is polled.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub async fn drive(&self) -> io::Result<()> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // tokio waits for any descriptor only by unsafe calls; its reading end of a pipe owns the descriptor
        // it is given, and does with it just what a timerfd wants: poll and read. The copy is the same timer.
        let ticks = timer.as_fd().try_clone_to_owned()?;
        let ticks = pipe::Receiver::from_owned_fd_unchecked(ticks)?;
        loop {
            let now = self.now_ns();
            let next = loop {
                let mut waiting = self.waiting.borrow_mut();
                match waiting.front() {
                    Some((due, user)) if *due <= now => user.notify_one(),
                    Some((due, _)) => break Some(*due),
                    None => break None,
                }
                waiting.pop_front();
            };
            let Some(due) = next else {
                self.begun.notified().await;
                continue;
            };
            // Zero would switch the timer off; `due` is later than `now`.
            let left = TimeSpec::from_duration(Duration::from_nanos(due - now));
            timer.set(Expiration::OneShot(left), TimerSetTimeFlags::empty())?;
            loop {
                ticks.readable().await?;
                match ticks.try_read(&mut [0; TICK_BYTES]) {
                    Ok(_) => break,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// A timerfd is read as one number of this size.
const TICK_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::{JoinSet, LocalSet};

    /// Users wait for moments that are close together, equal, and already past; each is woken, not early.
    #[test]
    fn nobody_is_woken_early_or_forgotten() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let pacer = Rc::new(Pacer::new(Instant::now()));
            let mut users = JoinSet::new();
            for user in 0..500u64 {
                let pacer = Rc::clone(&pacer);
                users.spawn_local(async move {
                    let wake = Rc::new(Notify::new());
                    for round in 0..3 {
                        let due = round * 10_000_000 + user / 2 * 20_000;
                        pacer.wait(due, &wake).await;
                        assert!(pacer.now_ns() >= due);
                    }
                });
            }
            tokio::select! {
                failed = pacer.drive() => panic!("{failed:?}"),
                all = users.join_all() => assert_eq!(all.len(), 500),
            }
            assert!(pacer.waiting.borrow().is_empty());
        });
    }
}
