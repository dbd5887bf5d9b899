//! Conformance: a table of cases, each with the section of the standard that it comes from, what the origin answers, what
//! clients ask, and what both must see. Method: one edge, one parent and one origin for all; each case has a path of
//! its own. Time passes by what answers say (`Age`, `Date`, short lifetimes), never by waiting. All of it is run over each
//! version of HTTP.
//!
//! The table is printed to docs/reference/conformance.md, and a test holds the page against it.

mod case;
mod fields;
mod invalidation;
mod page;
mod ranges;
mod reuse;
mod status;
mod storing;
mod targeted;
mod validation;

use bytes::Bytes;
use case::{Answer, Case, Expected, Step, TOTAL};
use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_contract::Snapshot;
use tidegate_e2e::fleet::{HOST, behaviour};
use tidegate_e2e::{
    Asked, Connection, Fleet, FleetOptions, HandOrigin, Response, alike, block_on, content, h2, h3,
    range_of, reply,
};

/// All cases, in the order of the page.
fn table() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("Storing", storing::cases()),
        ("Reuse", reuse::cases()),
        ("Validation and stale answers", validation::cases()),
        ("Invalidation", invalidation::cases()),
        ("Ranges", ranges::cases()),
        ("Fields and messages", fields::cases()),
        ("Targeted fields", targeted::cases()),
        ("Cache-Status", status::cases()),
    ]
}

fn rules(snapshot: &mut Snapshot) {
    let methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"];
    let mut bare = behaviour("bare", "/bare/*", true, 0);
    bare.default_ttl_seconds = None;
    bare.stale_if_error_seconds = 0;
    // Of errors the standard says nothing more than of others.
    bare.negative_ttl_seconds = 3600;
    bare.cors_allow_origin = None;
    bare.response_headers = Vec::new();
    bare.methods = methods.map(str::to_owned).to_vec();
    let mut letter = bare.clone();
    (letter.name, letter.path) = ("letter".to_owned(), "/letter/*".to_owned());
    letter.vary_ignore = Vec::new();
    let mut pass = bare.clone();
    (pass.name, pass.path) = ("pass".to_owned(), "/pass/*".to_owned());
    (pass.cache, pass.negative_ttl_seconds) = (false, 0);
    let usual = behaviour("usual", "*", true, 3600);
    snapshot.delivery_services[0].behaviours = vec![bare, letter, pass, usual];
}

/// Answers and requests of the cases, by the path that each has.
#[derive(Default)]
struct Script {
    answers: Vec<Answer>,
    asked: Vec<Asked>,
}

type Scripts = Arc<Mutex<HashMap<String, Script>>>;

/// The case's own part of a target: `/bare/17`.
fn place_of(target: &str) -> String {
    target.split(['/', '?']).take(3).collect::<Vec<_>>().join("/")
}

fn answer(scripts: &Scripts, asked: &Asked, stream: &mut TcpStream) {
    let (answer, number) = {
        let mut scripts = scripts.lock().unwrap();
        let script = scripts.entry(place_of(asked.target())).or_default();
        script.asked.push(asked.clone());
        let number = script.asked.len();
        let last = script.answers.len().saturating_sub(1);
        (script.answers.get((number - 1).min(last)).cloned(), number)
    };
    let lines = |fields: &str| lines(&fields.replace("{path}", &place_of(asked.target())));
    match answer {
        None => reply(stream, 500, "", b"no case has this path"),
        Some(Answer::Text { status, fields }) => {
            let lines = lines(&fields);
            if matches!(status, 204 | 304) {
                let _gone = write!(stream, "HTTP/1.1 {status} X\r\n{lines}\r\n");
            } else {
                reply(stream, status, &lines, format!("answer {number}").as_bytes());
            }
        }
        Some(Answer::Bytes { fields, total }) => {
            let (body, lines) = (content("large", total), lines(&fields));
            match range_of(asked, total) {
                Some((first, last)) => {
                    let lines = format!("{lines}Content-Range: bytes {first}-{last}/{total}\r\n");
                    reply(stream, 206, &lines, &body[first..=last]);
                }
                None => reply(stream, 200, &lines, &body),
            }
        }
        Some(Answer::NoRanges { fields, total }) => {
            reply(stream, 200, &lines(&fields), &content("large", total));
        }
        Some(Answer::Raw(text)) => {
            let _gone = stream.write_all(text.as_bytes());
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Field lines as they go over the wire.
fn lines(fields: &str) -> String {
    let dated = dates(fields);
    dated.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect()
}

/// Puts dates in the place of `{now}`, `{now-90}`, `{now+90}`.
fn dates(text: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{now") {
        let (shift, after) = after.split_once('}').unwrap();
        let shift: i64 = if shift.is_empty() { 0 } else { shift.parse().unwrap() };
        out.push_str(before);
        out.push_str(&tidegate_http::date::format((now + shift) as u64));
        rest = after;
    }
    out + rest
}

/// The version of HTTP that clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Http1,
    Http2,
    Http3,
}

impl Way {
    /// Whether the case can be put in this version's words: there is no absolute form and no field of the connection but in
    /// HTTP/1.1 (RFC 9113 §8.2.2, RFC 9114 §4.2).
    fn can_say(self, case: &Case) -> bool {
        let own = |line: &str| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            ["connection", "te", "transfer-encoding", "upgrade", "keep-alive"].contains(&&*name)
        };
        let is_own = |step: &Step| step.absolute || step.fields.lines().any(own);
        self == Way::Http1 || !case.steps.iter().any(is_own)
    }
}

/// Field lines as names and values.
fn pairs(lines: &str) -> Vec<(&str, &str)> {
    lines.lines().filter_map(|line| line.split_once(':')).map(|(n, v)| (n, v.trim())).collect()
}

fn response_of(answer: alike::Answer) -> Response {
    Response { status: answer.status, fields: answer.fields, body: answer.body }
}

struct World {
    fleet: Fleet,
    scripts: Scripts,
    large: Vec<u8>,
    _origin: HandOrigin,
}

impl World {
    fn start() -> World {
        let scripts = Scripts::default();
        let known = scripts.clone();
        let origin = HandOrigin::start(IpAddr::V4(Ipv4Addr::LOCALHOST), move |asked, stream| {
            answer(&known, asked, stream);
        });
        let options = FleetOptions {
            edges: 1,
            parents: 1,
            https: true,
            store_bytes: None,
            origin: Some(origin.address),
            adjust: rules,
            ..FleetOptions::default()
        };
        let fleet = Fleet::start("conformance", &options);
        World { fleet, scripts, large: content("large", TOTAL), _origin: origin }
    }

    /// What is wrong, if anything.
    fn run(&self, way: Way, number: usize, case: &Case) -> Result<(), String> {
        let path = format!("/{}/{number}", case.under.segment());
        let script = Script { answers: case.answers.clone(), asked: Vec::new() };
        self.scripts.lock().unwrap().insert(path.clone(), script);
        for (n, step) in case.steps.iter().enumerate() {
            let wrong = |what| format!("step {}: {what}", n + 1);
            if step.eventually {
                self.fleet.until("what goes on behind an answer has ended", |_| {
                    self.step(way, &path, step).is_ok()
                });
            } else {
                self.step(way, &path, step).map_err(wrong)?;
            }
            // A later step joins no fill of this one.
            self.fleet.settle("edge-1");
            self.fleet.settle("parent-1");
        }
        let asked = std::mem::take(&mut self.scripts.lock().unwrap().get_mut(&path).unwrap().asked);
        if asked.len() < case.seen.len() || (asked.len() > case.seen.len() && !case.any_more) {
            let lines: Vec<&str> = asked.iter().map(|asked| asked.line.as_str()).collect();
            let (came, wanted) = (asked.len(), case.seen.len());
            return Err(format!("the origin was asked {came} times, not {wanted}: {lines:?}"));
        }
        for (n, (asked, wanted)) in asked.iter().zip(&case.seen).enumerate() {
            for line in wanted.lines().map(dates) {
                if !has(asked, &line) {
                    return Err(format!("request {} at the origin: {line}: {asked:?}", n + 1));
                }
            }
        }
        Ok(())
    }

    fn step(&self, way: Way, path: &str, step: &Step) -> Result<(), String> {
        let fields = lines(&step.fields);
        let response = match way {
            Way::Http1 => self.ask_http1(path, step, &fields),
            Way::Http2 => self.ask_http2(path, step, &fields),
            Way::Http3 => self.ask_http3(path, step, &fields),
        };
        let broken = step.expected.iter().any(|expected| matches!(expected, Expected::Broken));
        let response = match response {
            Ok(_) if broken => return Err("it came whole".to_owned()),
            Err(_) if broken => return Ok(()),
            Ok(response) => response,
            Err(error) => return Err(format!("no answer: {error}")),
        };
        for expected in &step.expected {
            self.judge(&response, expected).map_err(|what| {
                let body = String::from_utf8_lossy(&response.body[..response.body.len().min(80)]);
                format!("{what}: {} {:?} {body:?}", response.status, response.fields)
            })?;
        }
        Ok(())
    }

    fn ask_http1(&self, path: &str, step: &Step, fields: &str) -> Result<Response, String> {
        let mut client = Connection::open(self.fleet.member("edge-1").http()).unwrap();
        let length = match step.body.len() {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let (method, more, body) = (step.method, step.more_path, step.body);
        let origin = if step.absolute { format!("http://{HOST}") } else { String::new() };
        let request = format!(
            "{method} {origin}{path}{more} HTTP/1.1\r\nHost: {HOST}\r\n{fields}{length}\r\n{body}"
        );
        client.send(request.as_bytes()).unwrap();
        client.response(method == "HEAD").map_err(|error| error.to_string())
    }

    fn ask_http2(&self, path: &str, step: &Step, fields: &str) -> Result<Response, String> {
        let method = http::Method::from_bytes(step.method.as_bytes()).unwrap();
        let path = format!("{path}{}", step.more_path);
        block_on(async {
            let client = h2::Client::connect(&self.fleet, "edge-1").await;
            client
                .ask(method, &path, &pairs(fields), Bytes::from_static(step.body.as_bytes()))
                .await
        })
        .map(response_of)
    }

    fn ask_http3(&self, path: &str, step: &Step, fields: &str) -> Result<Response, String> {
        let path = format!("{path}{}", step.more_path);
        block_on(async {
            let client = h3::Client::connect(&self.fleet).await;
            let body = Bytes::from_static(step.body.as_bytes());
            client.ask(step.method, &path, &pairs(fields), body).await
        })
        .map(response_of)
    }

    fn judge(&self, response: &Response, expected: &Expected) -> Result<(), String> {
        let holds = |good: bool, what: String| if good { Ok(()) } else { Err(what) };
        let member = |node: &str| response.cache_status(node).unwrap_or_default();
        match expected {
            Expected::Status(status) => {
                holds(response.status == *status, format!("status, not {status}"))
            }
            Expected::From(number) => {
                let wanted = format!("answer {number}");
                holds(response.body == wanted.as_bytes(), format!("body, not {wanted}"))
            }
            Expected::Body(wanted) => {
                holds(response.body == wanted.as_bytes(), format!("body, not {wanted:?}"))
            }
            Expected::Span(span) => {
                holds(response.body == self.large[span.clone()], format!("bytes, not {span:?}"))
            }
            Expected::Parts(spans) => self.judge_parts(response, spans),
            Expected::Field(name, wanted) => {
                let came: Vec<&str> = all(response, name);
                let wanted: Vec<String> = wanted.iter().map(|value| dates(value)).collect();
                holds(came == wanted, format!("{name}, not {wanted:?}"))
            }
            Expected::Has(name) => holds(!all(response, name).is_empty(), format!("no {name}")),
            Expected::Ttl(least, most) => {
                let own = member("edge-1");
                let ttl = own.split("; ttl=").nth(1).and_then(|rest| {
                    rest.split(';').next().unwrap_or_default().parse::<i64>().ok()
                });
                let inside = ttl.is_some_and(|ttl| (*least..=*most).contains(&ttl));
                holds(inside, format!("ttl, not {least} to {most}"))
            }
            Expected::Without(name) => holds(all(response, name).is_empty(), format!("has {name}")),
            Expected::Age(least, most) => {
                let age = response.field("age").and_then(|age| age.parse::<u64>().ok());
                let inside = age.is_some_and(|age| (*least..=*most).contains(&age));
                holds(inside, format!("Age, not {least} to {most}"))
            }
            Expected::Says(node, words) => {
                holds(member(node).contains(words), format!("{node} does not say {words}"))
            }
            Expected::SaysNot(node, words) => {
                holds(!member(node).contains(words), format!("{node} says {words}"))
            }
            Expected::Members(names) => {
                let value = response.field("cache-status").unwrap_or_default();
                let came: Vec<&str> = value
                    .split(',')
                    .map(|member| member.trim().split(';').next().unwrap_or_default())
                    .collect();
                holds(came == *names, format!("members, not {names:?}"))
            }
            Expected::Broken => Ok(()),
        }
    }

    fn judge_parts(
        &self,
        response: &Response,
        spans: &[std::ops::RangeInclusive<usize>],
    ) -> Result<(), String> {
        let kind = response.field("content-type").unwrap_or_default();
        let Some((_, boundary)) = kind.split_once("multipart/byteranges; boundary=") else {
            return Err("no multipart/byteranges".to_owned());
        };
        let mut wanted = Vec::new();
        for span in spans {
            let (first, last) = (span.start(), span.end());
            let head = format!(
                "\r\n--{boundary}\r\ncontent-type: video/mp4\r\ncontent-range: bytes {first}-{last}/{TOTAL}\r\n\r\n"
            );
            wanted.extend_from_slice(head.as_bytes());
            wanted.extend_from_slice(&self.large[span.clone()]);
        }
        wanted.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        if response.body == wanted { Ok(()) } else { Err(format!("parts, not {spans:?}")) }
    }
}

fn all<'a>(response: &'a Response, name: &str) -> Vec<&'a str> {
    let named = response.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}

/// Whether a request at the origin is as a line of [`Case::sees`] wants it.
fn has(asked: &Asked, line: &str) -> bool {
    if let Some(name) = line.strip_prefix('!') {
        return !asked.fields.contains_key(&name.to_ascii_lowercase());
    }
    match line.split_once(": ") {
        Some(("body", wanted)) => asked.body == wanted.as_bytes(),
        Some((name, wanted)) => asked.field(&name.to_ascii_lowercase()) == wanted,
        None => asked.line.starts_with(&format!("{line} ")),
    }
}

fn every_case_holds(way: Way) {
    let world = World::start();
    let cases: Vec<Case> = table().into_iter().flat_map(|(_, cases)| cases).collect();
    let count = cases.iter().filter(|case| way.can_say(case)).count();
    assert!(count >= 80, "{count}");
    let wrong: Vec<String> = cases
        .iter()
        .enumerate()
        .filter(|(_, case)| way.can_say(case))
        .filter_map(|(number, case)| {
            let what = world.run(way, number, case).err()?;
            Some(format!("{} ({}): {what}", case.place, case.rule))
        })
        .collect();
    println!("{way:?}: {count} cases of {}, {} wrong", cases.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_case_of_the_table_holds() {
    every_case_holds(Way::Http1);
}

#[test]
fn every_case_holds_over_http2() {
    every_case_holds(Way::Http2);
}

#[test]
fn every_case_holds_over_http3() {
    every_case_holds(Way::Http3);
}
