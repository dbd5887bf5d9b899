//! Goal: what another implementation says is understood, and what we say is understood by it. Method: the `h2` crate as the client
//! of random conversations, over pipes in memory; each answer tells what of the request came.
//!
//! Must stay true: the server reads whether or not it can write. `h2` reads nothing while it cannot write that it has read our
//! SETTINGS; a server that read nothing while it writes an answer, and it, would wait for each other for ever.

use bytes::Bytes;
use http::{Method, Request};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;
use tidegate_http2::{Connection, Event, PIECES_MAX, Scratch};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What is asked: fields, a body, and how long an answer is wanted.
#[derive(Debug, Clone)]
struct Ask {
    path: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    wanted: usize,
    /// The client gives it up when it has the head.
    gives_up: bool,
}

/// Fields and body of a request, as far as they have come.
type Asked = (Vec<(String, String)>, Vec<u8>);

/// A server that answers `wanted` bytes, with what it read as fields.
async fn serve(io: DuplexStream, cut: usize) -> Connection {
    let (mut reader, mut writer) = tokio::io::split(io);
    let (mut machine, mut scratch) = (Connection::new(), Scratch::default());
    let mut asked: BTreeMap<u32, Asked> = BTreeMap::new();
    let mut sending: BTreeMap<u32, Bytes> = BTreeMap::new();
    let mut buffer = vec![0; cut];
    // Slow enough for whatever is said of windows.
    let mut now = Duration::ZERO;
    let mut bytes = Vec::new();
    loop {
        while !machine.is_written() {
            let mut pieces = [&[][..]; PIECES_MAX];
            let count = machine.output(&mut pieces);
            let piece = &pieces[..count][0];
            let n = piece.len().min(cut);
            bytes.extend_from_slice(&piece[..n]);
            machine.written(n);
        }
        if machine.is_over() && bytes.is_empty() {
            return machine;
        }
        let n = tokio::select! {
            came = reader.read(&mut buffer) => match came {
                Ok(_) if machine.is_over() => continue,
                Ok(n @ 1..) => n,
                Ok(0) | Err(_) => return machine,
            },
            went = writer.write(&bytes), if !bytes.is_empty() => match went {
                Ok(n) => {
                    bytes.drain(..n);
                    continue;
                }
                Err(_) => return machine,
            },
        };
        now += Duration::from_secs(10);
        let mut rest = &buffer[..n];
        while let Some(event) = machine.read(now, &mut rest, &mut scratch).unwrap() {
            let whole = match event {
                Event::Request { stream, ended } => {
                    let text = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
                    let head = scratch.head();
                    let mut lines: Vec<_> =
                        head.fields().map(|(name, value)| (text(name), text(value))).collect();
                    lines.push(("x-path".into(), text(head.path())));
                    asked.insert(stream, (lines, Vec::new()));
                    ended.then_some(stream)
                }
                Event::Data { stream, bytes, ended } => {
                    if let Some((_, body)) = asked.get_mut(&stream) {
                        body.extend_from_slice(&bytes);
                    }
                    ended.then_some(stream)
                }
                Event::Reset { stream } => {
                    asked.remove(&stream);
                    sending.remove(&stream);
                    machine.release(stream);
                    None
                }
                Event::Window { .. } | Event::Priority { .. } => None,
                Event::Refused { .. } => panic!("nothing is that large"),
            };
            let Some(stream) = whole else { continue };
            let Some((lines, body)) = asked.remove(&stream) else { continue };
            let wanted = lines.iter().find(|line| line.0 == "x-wanted").unwrap();
            let wanted: usize = wanted.1.parse().unwrap();
            let sum = body.iter().map(|byte| u64::from(*byte)).sum::<u64>().to_string();
            let length = Some(wanted as u64);
            machine.send_head(stream, 200, length, wanted == 0, |writer| {
                lines.iter().for_each(|(n, v)| writer.put(n.as_bytes(), v.as_bytes()));
                writer.put(b"x-sum", sum.as_bytes());
                writer.put(b"x-len", body.len().to_string().as_bytes());
            });
            sending.insert(stream, Bytes::from(vec![wanted as u8; wanted]));
        }
        sending.retain(|stream, body| {
            machine.send_data(*stream, body, usize::MAX, true);
            if body.is_empty() {
                machine.release(*stream);
            }
            !body.is_empty()
        });
    }
}

async fn converse(mut asks: Vec<Ask>, cut: usize, window: u32) {
    let size_max = if cut < 1000 { 3000 } else { usize::MAX };
    for ask in &mut asks {
        ask.body.truncate(size_max);
        ask.wanted = ask.wanted.min(size_max);
    }
    // Narrow, so that who writes waits for who reads.
    let (ours, theirs) = tokio::io::duplex(cut);
    let server = tokio::task::spawn_local(serve(theirs, cut));
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(65_535.max(window));
    let (sender, connection) = builder.handshake::<_, Bytes>(ours).await.unwrap();
    let driven = tokio::task::spawn_local(connection);
    let one = |ask: Ask| {
        let sender = sender.clone();
        async move {
            let mut request = Request::builder().method(Method::POST);
            request = request.uri(format!("https://a.example{}", ask.path));
            for (name, value) in &ask.fields {
                request = request.header(name, value);
            }
            let request = request.header("x-wanted", ask.wanted.to_string()).body(()).unwrap();
            let mut sender = sender.ready().await.unwrap();
            let (answer, mut sending) = sender.send_request(request, ask.body.is_empty()).unwrap();
            if !ask.body.is_empty() {
                sending.send_data(Bytes::from(ask.body.clone()), true).unwrap();
            }
            let answer = answer.await.unwrap();
            let (head, mut body) = answer.into_parts();
            let field = |name: &str| {
                let values = head.headers.get_all(name).iter();
                values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(field("x-path"), [ask.path]);
            assert_eq!(field("x-len"), [ask.body.len().to_string()]);
            let sum: u64 = ask.body.iter().map(|byte| u64::from(*byte)).sum();
            assert_eq!(field("x-sum"), [sum.to_string()]);
            for (name, _) in &ask.fields {
                let said = ask.fields.iter().filter(|(n, _)| n == name);
                assert_eq!(field(name), said.map(|(_, v)| v.trim().to_owned()).collect::<Vec<_>>());
            }
            if ask.gives_up {
                return; // dropped: RST_STREAM
            }
            let mut came = 0;
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                assert!(data.iter().all(|byte| *byte == ask.wanted as u8));
                came += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            assert_eq!(came, ask.wanted);
        }
    };
    let all: Vec<_> = asks.into_iter().map(|ask| tokio::task::spawn_local(one(ask))).collect();
    for ask in all {
        ask.await.unwrap();
    }
    drop(sender);
    driven.await.unwrap().unwrap();
    server.await.unwrap();
}

fn ask() -> impl Strategy<Value = Ask> {
    let field = ("x-[a-d]{1,3}", "[!-~]([ -~]{0,80}[!-~])?");
    let body = prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(any::<u8>(), 0..500),
        (0usize..150_000).prop_map(|len| vec![3; len]),
    ];
    let wanted = prop_oneof![Just(0usize), 0usize..2000, 0usize..200_000];
    let path = "/[a-z0-9/._~%-]{0,60}";
    (path, proptest::collection::vec(field, 0..6), body, wanted, 0u8..8).prop_map(
        |(path, fields, body, wanted, n)| Ask { path, fields, body, wanted, gives_up: n == 0 },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn another_implementation_and_we_understand_each_other(
        asks in proptest::collection::vec(ask(), 1..30),
        cut in prop_oneof![1usize..200, 1000usize..70_000],
        window in prop_oneof![1u32..3000, 10_000u32..1_000_000],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, converse(asks, cut, window));
    }
}
