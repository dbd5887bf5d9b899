//! Requests that must be answered alike whatever version of HTTP carried them, and what HTTP/1.1 answers.

use crate::client::Connection;
use crate::fleet::{Fleet, HOST};

/// An answer, whole, of any version.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The fields that do not change from one request to the next, nor from one version to the other.
    fn lasting(&self) -> Vec<&(String, String)> {
        let changing = ["age", "date", "cache-status", "connection", "keep-alive", "alt-svc"];
        let lasts = |field: &&(String, String)| !changing.contains(&field.0.as_str());
        let mut fields: Vec<_> = self.fields.iter().filter(lasts).collect();
        fields.sort();
        fields
    }
}

/// A request, and its answer over HTTP/1.1 and TLS.
pub struct Case {
    pub method: &'static str,
    pub path: &'static str,
    pub fields: Vec<(&'static str, String)>,
    answer: Answer,
}

impl Case {
    fn ask(
        fleet: &Fleet,
        method: &'static str,
        path: &'static str,
        fields: Vec<(&'static str, String)>,
    ) -> Case {
        let tls = fleet.tls.clone().expect("a fleet with https");
        let mut connection =
            Connection::open_tls(fleet.member("edge-1").https(), tls).expect("the edge listens");
        let lines: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n");
        connection.send(head.as_bytes()).expect("the edge takes it");
        let response = connection.response(method == "HEAD").expect("the edge answers");
        let answer = Answer {
            status: response.status,
            fields: response.fields.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
            body: response.body,
        };
        Case { method, path, fields, answer }
    }

    /// Holds another version's answer against that of HTTP/1.1.
    pub fn check(&self, other: &Answer) {
        let name = format!("{} {} {:?}", self.method, self.path, self.fields);
        assert_eq!(self.answer.status, other.status, "{name}");
        assert_eq!(self.answer.lasting(), other.lasting(), "{name}");
        assert!(self.answer.body == other.body, "{name}: bodies differ");
    }
}

/// All cases, with their files at the origin and their answers.
pub fn cases(fleet: &Fleet) -> Vec<Case> {
    fleet.put("a.m4s", 700_000);
    fleet.put("t.txt", 5000);
    let ask = |method, path, fields: &[(&'static str, &str)]| {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Case::ask(fleet, method, path, fields)
    };
    let first = ask("GET", "/a.m4s", &[]);
    let tag = first.answer.field("etag").expect("a file has one").to_owned();
    vec![
        ask("HEAD", "/a.m4s", &[]),
        ask("GET", "/a.m4s", &[("range", "bytes=500000-600000")]),
        ask("GET", "/a.m4s", &[("range", "bytes=0-9,600000-600009")]),
        ask("GET", "/a.m4s", &[("range", "bytes=900000-")]),
        ask("GET", "/a.m4s", &[("if-none-match", &tag)]),
        ask("GET", "/a.m4s", &[("if-match", "\"other\"")]),
        ask("GET", "/a.m4s", &[("cache-control", "only-if-cached")]),
        ask("GET", "/none.m4s", &[]),
        ask("OPTIONS", "/a.m4s", &[("origin", "https://player.example")]),
        ask("DELETE", "/a.m4s", &[]),
        ask("GET", "/t.txt?token=1&x=%41", &[]),
        ask("GET", "/../up", &[]),
        first,
    ]
}
