//! Goal: the rules of a connection's unidirectional streams (RFC 9114 §6.2, §7.2). Method: two machines against each
//! other, and one against bytes by hand, each case also byte by byte.

use bytes::Bytes;
use tidegate_http3::{Code, Connection, Error, Limits, Side, Uni, UniStream, varint};

fn connection(side: Side) -> Connection {
    Connection::new(side, Limits::REQUEST)
}

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::encode(kind, &mut out);
    varint::encode(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

fn id(kind: u64, id: u64) -> Vec<u8> {
    let mut number = Vec::new();
    varint::encode(id, &mut number);
    frame(kind, &number)
}

/// One stream with these bytes, whole and byte by byte, on connections of their own.
fn one_stream(side: Side, bytes: &[u8]) -> Result<Uni, Error> {
    let mut outcomes = [1, usize::MAX].map(|size| {
        let (mut connection, mut stream) = (connection(side), UniStream::default());
        let mut last = Ok(Uni::Open);
        for piece in bytes.chunks(size) {
            last = connection.receive(&mut stream, Bytes::copy_from_slice(piece));
            if last.is_err() {
                break;
            }
        }
        last
    });
    assert_eq!(outcomes[0], outcomes[1], "{bytes:?}");
    std::mem::replace(&mut outcomes[0], Ok(Uni::Open))
}

fn control(side: Side, frames: &[Vec<u8>]) -> Result<Uni, Code> {
    let bytes = [vec![0], frames.concat()].concat();
    one_stream(side, &bytes).map_err(|error| {
        assert!(matches!(error, Error::Connection { .. }));
        error.code()
    })
}

const SETTINGS: u64 = 4;
const GOAWAY: u64 = 7;
const CANCEL_PUSH: u64 = 3;
const MAX_PUSH_ID: u64 = 13;

fn settings() -> Vec<u8> {
    frame(SETTINGS, &[])
}

#[test]
fn two_machines_understand_each_other() {
    let (mut client, mut server) = (connection(Side::Client), connection(Side::Server));
    let (mut to_client, mut to_server) = (UniStream::default(), UniStream::default());
    let mut bytes = Vec::new();
    client.preamble(&mut bytes);
    assert_eq!(server.receive(&mut to_server, bytes.into()), Ok(Uni::Open));
    let mut bytes = Vec::new();
    server.preamble(&mut bytes);
    server.goaway(400, &mut bytes);
    server.goaway(800, &mut bytes);
    server.goaway(8, &mut bytes);
    assert_eq!(client.receive(&mut to_client, bytes.into()), Ok(Uni::Open));
    assert_eq!(client.peer_goaway(), Some(8));
    for side in [&client, &server] {
        let settings = side.settings().unwrap();
        assert_eq!(settings.section_bytes_max, Limits::REQUEST.section_bytes_max as u64);
        assert_eq!((settings.qpack_table_bytes_max, settings.qpack_blocked_streams_max), (0, 0));
    }
    let error = client.ended(&to_client).unwrap_err();
    assert_eq!(error.code(), Code::CLOSED_CRITICAL_STREAM);
    assert!(server.peer_opened_bidirectional().is_ok());
    let error = client.peer_opened_bidirectional().unwrap_err();
    assert_eq!(error.code(), Code::STREAM_CREATION_ERROR);
}

#[test]
fn the_control_stream_begins_with_settings_once() {
    for side in [Side::Client, Side::Server] {
        assert_eq!(control(side, &[settings(), frame(0x21, b"grease")]), Ok(Uni::Open));
        assert_eq!(control(side, &[id(GOAWAY, 0)]), Err(Code::MISSING_SETTINGS));
        assert_eq!(control(side, &[frame(0x21, b"")]), Err(Code::MISSING_SETTINGS));
        assert_eq!(control(side, &[settings(), settings()]), Err(Code::FRAME_UNEXPECTED));
        let large = frame(SETTINGS, &[0x40; 2000]);
        assert_eq!(control(side, &[large]), Err(Code::EXCESSIVE_LOAD));
    }
}

#[test]
fn frames_of_the_control_stream_have_their_rules() {
    use Side::{Client, Server};
    let cases = [
        (Server, vec![id(GOAWAY, 7), id(GOAWAY, 7), id(GOAWAY, 0)], Ok(Uni::Open)),
        (Server, vec![id(GOAWAY, 0), id(GOAWAY, 1)], Err(Code::ID_ERROR)),
        (Client, vec![id(GOAWAY, 8), id(GOAWAY, 12)], Err(Code::ID_ERROR)),
        (Client, vec![id(GOAWAY, 9)], Err(Code::ID_ERROR)),
        (Server, vec![id(MAX_PUSH_ID, 3), id(MAX_PUSH_ID, 3)], Ok(Uni::Open)),
        (Server, vec![id(MAX_PUSH_ID, 3), id(MAX_PUSH_ID, 2)], Err(Code::ID_ERROR)),
        (Client, vec![id(MAX_PUSH_ID, 3)], Err(Code::FRAME_UNEXPECTED)),
        (Server, vec![id(MAX_PUSH_ID, 9), id(CANCEL_PUSH, 0)], Err(Code::ID_ERROR)),
        (Client, vec![id(CANCEL_PUSH, 0)], Err(Code::ID_ERROR)),
        (Server, vec![frame(GOAWAY, &[])], Err(Code::FRAME_ERROR)),
        (Server, vec![frame(GOAWAY, &[0, 0])], Err(Code::FRAME_ERROR)),
        (Server, vec![frame(GOAWAY, &[0x40])], Err(Code::FRAME_ERROR)),
        (Server, vec![frame(GOAWAY, &[0; 9])], Err(Code::FRAME_ERROR)),
        (Server, vec![frame(0, b"x")], Err(Code::FRAME_UNEXPECTED)),
        (Server, vec![frame(1, b"x")], Err(Code::FRAME_UNEXPECTED)),
        (Server, vec![frame(5, b"x")], Err(Code::FRAME_UNEXPECTED)),
        (Server, vec![frame(2, b"x")], Err(Code::FRAME_UNEXPECTED)),
        (Client, vec![frame(9, b"x")], Err(Code::FRAME_UNEXPECTED)),
        (Client, vec![frame(0x21, b""); 300], Err(Code::EXCESSIVE_LOAD)),
        (Client, vec![id(GOAWAY, 0); 300], Err(Code::EXCESSIVE_LOAD)),
    ];
    for (side, frames, wanted) in cases {
        assert_eq!(
            control(side, &[vec![settings()], frames.clone()].concat()),
            wanted,
            "{frames:?}"
        );
    }
}

#[test]
fn stream_types_have_their_rules() {
    let code = |outcome: Result<Uni, Error>| outcome.map_err(|error| error.code());
    let unwanted = Ok(Uni::Unwanted(Code::STREAM_CREATION_ERROR));
    for side in [Side::Client, Side::Server] {
        assert_eq!(code(one_stream(side, &[0x21, 1, 2, 3])), unwanted);
        assert_eq!(code(one_stream(side, &[0x40, 0x54])), unwanted);
        assert_eq!(code(one_stream(side, &[2, 0x20])), Ok(Uni::Open));
        assert_eq!(code(one_stream(side, &[2, 0xc0])), Err(Code::QPACK_ENCODER_STREAM_ERROR));
        assert_eq!(code(one_stream(side, &[3, 0x80])), Err(Code::QPACK_DECODER_STREAM_ERROR));
        for kind in [0, 2, 3] {
            let mut connection = connection(side);
            let mut streams = [UniStream::default(), UniStream::default()];
            let first = connection.receive(&mut streams[0], vec![kind].into());
            assert_eq!(first, Ok(Uni::Open));
            let second = connection.receive(&mut streams[1], vec![kind].into());
            assert_eq!(code(second), Err(Code::STREAM_CREATION_ERROR));
            let ended = connection.ended(&streams[0]).map_err(|error| error.code());
            assert_eq!(ended, Err(Code::CLOSED_CRITICAL_STREAM));
        }
        let connection = connection(side);
        assert!(connection.ended(&UniStream::default()).is_ok());
    }
    assert_eq!(code(one_stream(Side::Server, &[1, 0])), Err(Code::STREAM_CREATION_ERROR));
    assert_eq!(code(one_stream(Side::Client, &[1, 0])), Err(Code::ID_ERROR));
}

#[test]
fn priorities_are_told_of_requests_and_no_more_often_than_is_borne() {
    const UPDATE: u64 = 0xf0700;
    let update = |stream: u64, value: &str| {
        let mut payload = Vec::new();
        tidegate_http3::varint::encode(stream, &mut payload);
        payload.extend_from_slice(value.as_bytes());
        frame(UPDATE, &payload)
    };
    let mut machine = connection(Side::Server);
    let mut stream = UniStream::default();
    let long = "x".repeat(500);
    let frames = [update(0, "u=1"), update(400, ""), update(4, &long), update(8, "i")];
    let bytes = [vec![0], settings(), frames.concat()].concat();
    // However they are cut.
    for piece in bytes.chunks(3) {
        machine.receive(&mut stream, Bytes::copy_from_slice(piece)).unwrap();
    }
    let told = machine.take_priority_updates();
    let told: Vec<(u64, &[u8])> = told.iter().map(|u| (u.stream, &u.value[..])).collect();
    assert_eq!(told, [(0, &b"u=1"[..]), (400, b""), (8, b"i")], "the long one is skipped");
    assert!(machine.take_priority_updates().is_empty());

    let judge = |side, frame: Vec<u8>| control(side, &[settings(), frame]).unwrap_err();
    assert_eq!(judge(Side::Server, update(2, "u=1")), Code::ID_ERROR);
    assert_eq!(judge(Side::Server, frame(UPDATE, b"")), Code::FRAME_ERROR);
    assert_eq!(judge(Side::Client, update(0, "u=1")), Code::FRAME_UNEXPECTED);
    // Pushes there are none.
    assert!(control(Side::Server, &[settings(), frame(UPDATE + 1, &[0])]).is_ok());

    let flood = Bytes::from(vec![update(0, "u=1"); 128].concat());
    let mut machine = connection(Side::Server);
    let mut stream = UniStream::default();
    machine.receive(&mut stream, Bytes::from([vec![0], settings()].concat())).unwrap();
    machine.receive(&mut stream, flood.clone()).unwrap();
    // A client that asks for things may go on for as long as it does.
    for _ in 0..100 {
        (0..8).for_each(|_| machine.request_came());
        machine.receive(&mut stream, flood.clone()).unwrap();
        assert_eq!(machine.take_priority_updates().len() % 128, 0);
    }
    let error = machine.receive(&mut stream, flood).unwrap_err();
    assert_eq!(error.code(), Code::EXCESSIVE_LOAD);
}
