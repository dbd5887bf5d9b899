//! Bodies of requests: kept for methods that pass one on, dropped for the others.

use super::Wire;
use std::borrow::Cow;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use tidegate_engine::session::{BODY_SPAN_MAX, PASSED_BODY_BYTES_MAX};
use tidegate_http::Method;
use tidegate_ring::timeout;

/// A body that is not whole yet.
pub struct Upload {
    kept: Option<Vec<u8>>,
    taken: usize,
    state: State,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Coming,
    Whole,
    TooLarge,
    Broken,
}

impl Upload {
    /// Of a request by this method.
    pub fn of(method: &Method) -> Upload {
        let is_dropped = matches!(method, Method::Get | Method::Head | Method::Options);
        let kept = (!is_dropped).then(Vec::new);
        Upload { kept, taken: 0, state: State::Coming, waker: None }
    }

    /// The next of it; `false`: no more is wanted.
    pub fn came(&mut self, bytes: Cow<'_, [u8]>, ended: bool) -> bool {
        self.taken = self.taken.saturating_add(bytes.len());
        if self.taken > PASSED_BODY_BYTES_MAX {
            self.kept = None;
            self.becomes(State::TooLarge);
            return false;
        }
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&bytes);
        }
        if ended {
            self.becomes(State::Whole);
        }
        true
    }

    /// No more will come.
    pub fn broke_off(&mut self) {
        self.becomes(State::Broken);
    }

    fn becomes(&mut self, state: State) {
        if self.state == State::Coming {
            self.state = state;
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The body of a stream's request.
///
/// # Errors
/// With which status it is refused, and why.
pub async fn read(wire: &Wire, stream: u32) -> Result<Vec<u8>, (u16, &'static str)> {
    let whole = poll_fn(|cx| {
        let mut uploads = wire.uploads.borrow_mut();
        let broken = Err((400, "the request body broke off"));
        let Some(upload) = uploads.get_mut(&stream) else { return Poll::Ready(broken) };
        Poll::Ready(match upload.state {
            State::Coming => {
                upload.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            State::Whole => Ok(upload.kept.take().unwrap_or_default()),
            State::TooLarge => Err((413, "the request body is too large")),
            State::Broken => broken,
        })
    });
    let outcome = timeout(BODY_SPAN_MAX, whole).await;
    wire.uploads.borrow_mut().remove(&stream);
    outcome.unwrap_or(Err((408, "the request body did not come in time")))
}
