//! Signals for the control thread: blocked in every thread at start, then waited for in one place.

use std::io;
use std::time::Duration;

/// A signal that the program answers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Replace,
}

fn set() -> libc::sigset_t {
    // SAFETY: all zeroes is a valid value to be initialised by sigemptyset.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes to a live value.
    unsafe { libc::sigemptyset(&mut set) };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2] {
        // SAFETY: writes to a live, initialised value.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

/// Blocks the signals in this thread and those that it starts; call it first thing in `main`.
pub fn block() -> io::Result<()> {
    // SAFETY: reads a live set; no old set is asked for.
    let outcome = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set(), std::ptr::null_mut()) };
    if outcome != 0 { Err(io::Error::from_raw_os_error(outcome)) } else { Ok(()) }
}

/// The next signal, or `None` after `span`.
pub fn wait(span: Duration) -> Option<Signal> {
    let time = libc::timespec {
        tv_sec: span.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(span.subsec_nanos() as i32),
    };
    // SAFETY: reads a live set and a live time; no details are asked for.
    match unsafe { libc::sigtimedwait(&set(), std::ptr::null_mut(), &time) } {
        libc::SIGTERM | libc::SIGINT => Some(Signal::Stop),
        libc::SIGHUP => Some(Signal::Reload),
        libc::SIGUSR2 => Some(Signal::Replace),
        _ => None,
    }
}

/// Raises the limit of open descriptors to what the host allows; gives the limit then in force.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes to a live value.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: reads a live value.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}
