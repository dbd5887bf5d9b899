//! Tasks that serve one stream after the other. The memory of a task is large; made anew for each request, it was some percent of
//! what a small answer costs.
//!
//! Must stay true: a lane that waits holds nothing of anybody; one whose request panicked is not used again.

use super::answer::Answer;
use super::upload;
use crate::head::Refused;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use tidegate_engine::Core;
use tidegate_engine::memory::Held;
use tidegate_engine::session::serve_stream;
use tidegate_engine::transaction::Exchange;

/// Lanes that wait on one core.
const LANES_KEPT: usize = 256;

thread_local! {
    static LANES: RefCell<Vec<Rc<Lane>>> = const { RefCell::new(Vec::new()) };
}

/// A request that came.
pub struct Job {
    pub core: Rc<Core>,
    pub answer: Answer,
    pub peer: SocketAddr,
    pub exchange: Result<Exchange, Refused>,
    /// Its body is still to come.
    pub with_body: bool,
    pub counted: Held,
}

#[derive(Default)]
struct Lane {
    job: RefCell<Option<Box<Job>>>,
    waker: Cell<Option<Waker>>,
}

/// Serves it beside all else.
pub fn serve(job: Job) {
    let job = Box::new(job); // it is given on several times
    if let Some(lane) = LANES.with_borrow_mut(Vec::pop) {
        *lane.job.borrow_mut() = Some(job);
        if let Some(waker) = lane.waker.take() {
            waker.wake();
        }
        return;
    }
    let (core, lane) = (job.core.clone(), Rc::new(Lane::default()));
    core.spawn(async move {
        let mut next = Some(job);
        while let Some(job) = next.take() {
            job.run().await;
            let is_kept = LANES.with_borrow_mut(|lanes| {
                let has_room = lanes.len() < LANES_KEPT;
                if has_room {
                    lanes.push(lane.clone());
                }
                has_room
            });
            if is_kept {
                next = Some(lane.next_job().await);
            }
        }
    });
}

impl Lane {
    async fn next_job(&self) -> Box<Job> {
        poll_fn(|cx| match self.job.borrow_mut().take() {
            Some(job) => Poll::Ready(job),
            None => {
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl Job {
    async fn run(mut self: Box<Job>) {
        // Used where it lies: a head and an answer are some hundred bytes each.
        let Job { core, answer, peer, exchange, with_body, counted: _counted } = &mut *self;
        let mut held = None;
        if *with_body {
            match upload::read(answer.wire(), answer.id()).await {
                Ok((body, bytes)) => {
                    held = bytes;
                    if let Ok(exchange) = exchange {
                        exchange.body = body;
                    }
                }
                Err(refused) => *exchange = Err(refused),
            }
        }
        let head_only = answer.is_head_only();
        let asked = exchange.as_ref().map_err(|refused| *refused);
        serve_stream(core, answer, *peer, head_only, asked).await;
        drop(held);
        core.count(|c| &c.lent_answers_total, u64::from(answer.has_lent()));
    }
}
