//! What can go wrong when a ring is set up, said so that an operator knows what to do.
//!
//! Kernels before 6.1 lack DEFER_TASKRUN and are refused: without it the same loop costs 30 % more CPU
//! (docs/decisions/0001-ring-loop.md), and one supported shape is tested better than two.

use std::fmt;
use std::io;

/// Why no ring could be made on this host.
#[derive(Debug)]
pub enum RingError {
    /// The kernel knows no io_uring, or an older one than is needed.
    KernelTooOld(io::Error),
    /// io_uring is switched off (sysctl) or filtered (seccomp in a container).
    Forbidden(io::Error),
    /// Anything else, with what was being done.
    Setup(&'static str, io::Error),
}

impl RingError {
    pub(crate) fn from_setup(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) | Some(libc::EINVAL) => RingError::KernelTooOld(error),
            Some(libc::EPERM) | Some(libc::EACCES) => RingError::Forbidden(error),
            _ => RingError::Setup("io_uring_setup", error),
        }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::KernelTooOld(_) => f.write_str(
                "this kernel's io_uring is too old (Linux 6.1 or newer is needed, for SINGLE_ISSUER and \
                 DEFER_TASKRUN)\n    mend: run on a newer kernel; `uname -r` shows the running one",
            ),
            RingError::Forbidden(_) => f.write_str(
                "io_uring is forbidden here\n    mend: on a host, `sysctl kernel.io_uring_disabled=0`; in a \
                 container, allow io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile",
            ),
            RingError::Setup(what, _) => write!(f, "{what} failed"),
        }
    }
}

impl std::error::Error for RingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RingError::KernelTooOld(e) | RingError::Forbidden(e) | RingError::Setup(_, e) => {
                Some(e)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_its_mend() {
        for (errno, words) in
            [(libc::ENOSYS, "too old"), (libc::EINVAL, "too old"), (libc::EPERM, "seccomp")]
        {
            let text = RingError::from_setup(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(words) && text.contains("mend:"), "{text}");
        }
    }
}
