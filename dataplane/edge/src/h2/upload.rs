//! Bodies of requests: kept for methods that pass one on, dropped for the others.

use super::Wire;
use std::borrow::Cow;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use tidegate_engine::Core;
use tidegate_engine::memory::{Held, USED_UP};
use tidegate_engine::min_rate::BodyWait;
use tidegate_engine::session::PASSED_BODY_BYTES_MAX;
use tidegate_http::Method;

/// A body that is not whole yet.
pub struct Upload {
    kept: Option<(Vec<u8>, Held)>,
    taken: usize,
    state: State,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Coming,
    Whole,
    TooLarge,
    /// There is no memory for it.
    Shed,
    Broken,
}

impl Upload {
    /// Of a request by this method.
    pub fn of(method: &Method, core: &Rc<Core>) -> Upload {
        let is_dropped = matches!(method, Method::Get | Method::Head | Method::Options);
        let kept = (!is_dropped).then(|| (Vec::new(), Held::new(core, 0)));
        Upload { kept, taken: 0, state: State::Coming, waker: None }
    }

    /// The next of it; `false`: no more is wanted.
    pub fn came(&mut self, bytes: Cow<'_, [u8]>, ended: bool) -> bool {
        self.taken = self.taken.saturating_add(bytes.len());
        if self.taken > PASSED_BODY_BYTES_MAX {
            return self.is_refused(State::TooLarge);
        }
        if let Some((kept, held)) = &mut self.kept {
            if held.more(bytes.len()).is_err() {
                return self.is_refused(State::Shed);
            }
            kept.extend_from_slice(&bytes);
        }
        if ended {
            self.becomes(State::Whole);
        }
        self.wake();
        true
    }

    /// What came is of no use, and no more is wanted.
    fn is_refused(&mut self, why: State) -> bool {
        self.kept = None;
        self.becomes(why);
        false
    }

    /// No more will come.
    pub fn broke_off(&mut self) {
        self.becomes(State::Broken);
    }

    fn becomes(&mut self, state: State) {
        if self.state == State::Coming {
            self.state = state;
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The body of a stream's request, and how it is counted.
///
/// # Errors
/// With which status it is refused, and why.
pub async fn read(
    wire: &Wire,
    stream: u32,
) -> Result<(Vec<u8>, Option<Held>), (u16, &'static str)> {
    let mut wait = BodyWait::default();
    let mut seen = 0;
    let outcome = loop {
        // More than was seen, or the end of it.
        let more = poll_fn(|cx| {
            let mut uploads = wire.uploads.borrow_mut();
            let Some(upload) = uploads.get_mut(&stream) else {
                return Poll::Ready((seen, State::Broken));
            };
            if upload.state == State::Coming && upload.taken == seen {
                upload.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready((upload.taken, upload.state))
        });
        match wait.next(more, |(taken, _)| taken - seen).await {
            Ok((taken, State::Coming)) => seen = taken,
            Ok((_, State::Whole)) => break Ok(()),
            Ok((_, State::TooLarge)) => break Err((413, "the request body is too large")),
            Ok((_, State::Shed)) => break Err(USED_UP),
            Ok((_, State::Broken)) => break Err((400, "the request body broke off")),
            Err(_) => break Err((408, "the request body did not come in time")),
        }
    };
    let upload = wire.uploads.borrow_mut().remove(&stream);
    let kept = outcome.map(|()| upload.and_then(|upload| upload.kept))?;
    Ok(kept.map_or((Vec::new(), None), |(body, held)| (body, Some(held))))
}
