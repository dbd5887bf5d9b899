//! One parent before an origin that a test writes: for meetings that are known, so that they stay mended whatever the
//! seeds draw.

use crate::content::Item;
use crate::node::{HOST, SimNode, http};
use crate::origin;
use crate::plan::Plan;
use crate::scene::{Scene, Stage};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tidegate_faults::Random;
use tidegate_http::{Method, RequestHead};
use tidegate_http1::{ChunkedDecoder, Limits, RequestParser, ResponseBody, ResponseParser};
use tidegate_ring::sim::{Death, Link, World, WorldOptions};
use tidegate_ring::{TcpListener, TcpStream, sleep, spawn};

const STALL: Duration = Duration::from_secs(30);

/// What the origin does with one request.
pub struct Act {
    /// Sent after its pause, one after the other.
    pub pieces: Vec<(Duration, Vec<u8>)>,
    pub then_close: bool,
}

impl Act {
    /// A response with a body of known length.
    pub fn reply(status: u16, fields: &str, body: &[u8]) -> Act {
        let head = format!("HTTP/1.1 {status} x\r\n{fields}content-length: {}\r\n\r\n", body.len());
        Act { pieces: vec![(Duration::ZERO, [head.as_bytes(), body].concat())], then_close: false }
    }
}

/// What a client got.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub cache_status: String,
    pub body: Vec<u8>,
    pub complete: bool,
}

/// Runs `test` beside a parent whose origin does as `origin` says of the n-th question.
pub fn with_parent<T: 'static, F: Future<Output = T> + 'static>(
    adjust: impl FnOnce(&mut Plan),
    origin: impl Fn(usize, &RequestHead) -> Act + 'static,
    test: impl FnOnce(Stage, Rc<SimNode>) -> F + 'static,
) -> T {
    let mut plan = Plan::quiet();
    adjust(&mut plan);
    let world = World::new(WorldOptions {
        unix: origin::EPOCH,
        choose: None,
        links: Box::new(|_| Link::default()),
        trace: false,
    });
    let stage: Stage = Rc::new(Scene {
        world: world.clone(),
        random: RefCell::new(Random(1)),
        items: RefCell::new(vec![Item::new(0, plan.sizes, &mut Random(1))]),
        plan,
        answers: RefCell::default(),
        purges: RefCell::default(),
        troubles: RefCell::default(),
        purges_from: Cell::new(Duration::ZERO),
        faulty: Cell::new(false),
        violations: RefCell::default(),
        tally: RefCell::default(),
    });
    let node = SimNode::new(&stage, "parent-1");
    let theirs = stage.clone();
    let value = world.run(async move {
        answer_all(origin);
        node.start();
        while !node.is_up() {
            sleep(Duration::from_millis(1)).await;
        }
        let value = test(theirs, node.clone()).await;
        node.kill(Death::Killed);
        value
    });
    let violations = stage.violations.take();
    assert!(violations.is_empty(), "{violations:?}");
    value.expect("something always happens")
}

fn answer_all(origin: impl Fn(usize, &RequestHead) -> Act + 'static) {
    let listener = TcpListener::simulated(origin::address());
    let (origin, asked) = (Rc::new(origin), Rc::new(Cell::new(0)));
    spawn(async move {
        while let Some(stream) = listener.accept().await {
            let (origin, asked) = (origin.clone(), asked.clone());
            spawn(async move {
                let mut buffer = Vec::new();
                let mut parser = RequestParser::new(Limits::REQUEST);
                loop {
                    let parsed = match parser.parse(&buffer) {
                        Ok(Some(parsed)) => parsed,
                        _ => match stream.receive(&mut buffer).await {
                            Ok(n) if n > 0 => continue,
                            _ => return,
                        },
                    };
                    buffer.drain(..parsed.head_bytes);
                    let act = origin(asked.replace(asked.get() + 1), &parsed.head);
                    for (pause, piece) in act.pieces {
                        sleep(pause).await;
                        if stream.send_all(&[&piece], STALL).await.is_err() {
                            return;
                        }
                    }
                    if act.then_close {
                        return;
                    }
                }
            });
        }
    });
}

/// Asks the parent; `None`: no head came.
pub async fn get(path: &str, fields: &str) -> Option<Got> {
    ask("GET", path, fields).await
}

/// Posts nothing to the parent.
pub async fn post(path: &str) -> Option<Got> {
    ask("POST", path, "content-length: 0\r\n").await
}

async fn ask(method: &str, path: &str, fields: &str) -> Option<Got> {
    let stream = TcpStream::connect(http("parent-1")).await.ok()?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n{fields}\r\n");
    stream.send_all(&[head.as_bytes()], STALL).await.ok()?;
    let mut buffer = Vec::new();
    let mut parser = ResponseParser::new(Limits::RESPONSE);
    let parsed = loop {
        stream.receive(&mut buffer).await.ok().filter(|n| *n > 0)?;
        if let Some(parsed) = parser.parse(&buffer, &Method::Get).ok()? {
            break parsed;
        }
    };
    buffer.drain(..parsed.head_bytes);
    let (mut body, mut decoder) = (Vec::new(), ChunkedDecoder::new());
    let complete = loop {
        match parsed.body {
            ResponseBody::Chunked => {
                let mut at = 0;
                loop {
                    let step = decoder.decode(&buffer[at..]).ok()?;
                    body.extend_from_slice(&buffer[at..][step.data]);
                    at += step.consumed;
                    if step.done || step.consumed == 0 {
                        break;
                    }
                }
                buffer.drain(..at);
                if decoder.is_done() {
                    break true;
                }
            }
            ResponseBody::Length(length) => {
                body.append(&mut buffer);
                if body.len() as u64 >= length {
                    break true;
                }
            }
            ResponseBody::None => break true,
            ResponseBody::UntilClose => body.append(&mut buffer),
        }
        match stream.receive(&mut buffer).await {
            Ok(n) if n > 0 => {}
            outcome => break outcome.is_ok() && matches!(parsed.body, ResponseBody::UntilClose),
        }
    };
    let cache_status = parsed.head.fields.get_str("cache-status").unwrap_or_default().to_owned();
    Some(Got { status: parsed.head.status, cache_status, body, complete })
}
