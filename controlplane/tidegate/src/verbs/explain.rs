//! `tidegate explain`: which edge a client gets for a URL and why, then what that edge does with it.
//!
//! The router is asked first, so that the answer is the one it gives now; without a router the same function
//! is asked here, with all edges taken as up, and that is said.

use crate::admin_port::Identity;
use crate::failure::Failure;
use crate::source_dir;
use clap::Args;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidegate_contract::{Role, Server, Snapshot};
use tidegate_steer::{Ask, Health, Request, Table};

#[derive(Args)]
pub struct Explain {
    /// http:// or https:// URL, as the client would ask for it.
    url: String,
    /// Address of the client.
    #[arg(long)]
    client: IpAddr,
    /// The snapshot file.
    #[arg(long)]
    snapshot: PathBuf,
    /// The trust file.
    #[arg(long)]
    trust: PathBuf,
    #[command(flatten)]
    identity: Identity,
    /// Explain the DNS answer for the host instead of the redirect.
    #[arg(long)]
    dns: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

struct Url<'a> {
    secure: bool,
    host: String,
    target: &'a str,
}

impl Explain {
    pub fn run(self) -> Result<(), Failure> {
        let url = parse(&self.url)?;
        let snapshot = Arc::new(source_dir::trusted(&self.snapshot, &self.trust)?);
        let (source, decision) = self.steer(&url, &snapshot);
        let edge = ask_edge(&self.identity, &url, &snapshot, &decision);
        if self.json {
            println!(
                "{:#}",
                json!({ "source": source, "decision": decision, "edge": edge.as_ref().ok() })
            );
        } else {
            print_decision(&source, &decision, url.target);
            match edge {
                Ok(Some((server, answer))) => {
                    println!("edge {server} says");
                    print_value(&answer, 1);
                }
                Ok(None) => {}
                Err(what) => println!("edge: {what}"),
            }
        }
        match decision["outcome"].as_str() {
            Some("edges") => Ok(()),
            Some("no-service") => {
                Err(Failure::Input(format!("no active delivery service has host `{}`", url.host)))
            }
            _ => Err(Failure::Input("no edge can serve this request".to_owned())),
        }
    }

    /// The decision of the first router that answers, else our own.
    fn steer(&self, url: &Url<'_>, snapshot: &Arc<Snapshot>) -> (String, Value) {
        let via = match (self.dns, url.secure) {
            (true, _) => "dns",
            (false, true) => "https",
            (false, false) => "http",
        };
        let path = url.target.split('?').next().unwrap_or("/");
        for router in snapshot.servers.iter().filter(|server| server.role == Role::Router) {
            let Some(address) = router.addresses.first() else { continue };
            let address = SocketAddr::new(*address, router.admin_port);
            let query = [
                ("client", &*self.client.to_string()),
                ("host", &url.host),
                ("path", path),
                ("via", via),
            ];
            let asked = target("/api/v1/explain", &query);
            let answer = get(&self.identity, address, router, &snapshot.zone, &asked);
            if let Ok(mut answer) = answer
                && answer["decision"].is_object()
            {
                return (
                    format!("router {}, generation {}", router.id, answer["generation"]),
                    answer["decision"].take(),
                );
            }
        }
        let table = Table::new(snapshot.clone(), None);
        let ask = if self.dns { Ask::Dns } else { Ask::Http { path, secure: url.secure } };
        let request = Request { client: self.client, host: &url.host, ask, trace: true };
        let decision = table.decide(&Health::all_up(), &request);
        let source = format!(
            "no router reachable: generation {} alone, all edges taken as up, no geography",
            snapshot.generation
        );
        (source, json!(decision))
    }
}

/// What the chosen edge does with the request: rule, key, freshness, parents.
fn ask_edge(
    identity: &Identity,
    url: &Url<'_>,
    snapshot: &Snapshot,
    decision: &Value,
) -> Result<Option<(String, Value)>, String> {
    let chosen = &decision["edges"][0];
    let Some(id) = chosen["server"].as_str() else { return Ok(None) };
    let server = snapshot.servers.iter().find(|server| server.id == id);
    let Some((server, address)) =
        server.and_then(|server| Some((server, server.addresses.first()?)))
    else {
        return Ok(None);
    };
    let address = SocketAddr::from((*address, server.admin_port));
    let host = chosen["host"].as_str().unwrap_or(&url.host);
    let asked = target("/explain", &[("host", host), ("path", url.target)]);
    let answer = get(identity, address, server, &snapshot.zone, &asked);
    answer
        .map(|answer| Some((id.to_owned(), answer)))
        .map_err(|error| format!("{id} does not answer on its admin port {address}: {error}"))
}

fn print_decision(source: &str, decision: &Value, target: &str) {
    println!("asked       {source}");
    for (label, field) in [
        ("service", "service"),
        ("placed by", "reason"),
        ("group", "cache_group"),
        ("how", "detail"),
    ] {
        if let Some(word) = decision[field].as_str() {
            println!("{label:<11} {word}");
        }
    }
    println!("valid for   the client's first {} bits", decision["scope"]);
    println!("steps");
    for step in decision["trace"].as_array().into_iter().flatten() {
        println!("  {:<14} {}", text(&step["step"]), text(&step["what"]));
        for rejected in step["rejected"].as_array().into_iter().flatten() {
            println!(
                "  {:<14}   not {}: {}",
                "",
                text(&rejected["server"]),
                text(&rejected["why"])
            );
        }
    }
    println!("edges");
    for edge in decision["edges"].as_array().into_iter().flatten() {
        let (scheme, host) = (text(&edge["scheme"]), text(&edge["host"]));
        println!("  {:<14} {scheme}://{host}:{}{target}", text(&edge["server"]), edge["port"]);
    }
}

/// Any JSON as indented lines.
fn print_value(value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                match inner {
                    Value::Object(_) => {
                        println!("{indent}{name}");
                        print_value(inner, depth + 1);
                    }
                    Value::Array(items)
                        if items.iter().any(|item| item.is_object() || item.is_array()) =>
                    {
                        println!("{indent}{name}");
                        items.iter().for_each(|item| print_value(item, depth + 1));
                    }
                    Value::Array(items) => {
                        let words: Vec<String> = items.iter().map(text).collect();
                        println!("{indent}{name:<14} {}", words.join(", "));
                    }
                    leaf => println!("{indent}{name:<14} {}", text(leaf)),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| print_value(item, depth)),
        leaf => println!("{indent}{}", text(leaf)),
    }
}

/// A value for the terminal: without control characters, whoever sent it.
fn text(value: &Value) -> String {
    let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    plain.chars().filter(|c| !c.is_control()).collect()
}

fn parse(url: &str) -> Result<Url<'_>, Failure> {
    let wrong = || {
        Failure::Input(format!("`{url}` is no URL; write it like http://video.example/film.m3u8"))
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let secure = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(wrong()),
    };
    let rest = rest.split('#').next().unwrap_or(rest);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let host = match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or(""),
    };
    if host.is_empty() || authority.contains('@') {
        return Err(wrong());
    }
    let target = if target.is_empty() { "/" } else { target };
    Ok(Url { secure, host: host.to_ascii_lowercase(), target })
}

fn target(path: &str, query: &[(&str, &str)]) -> String {
    let mut target = path.to_owned();
    for (position, (name, value)) in query.iter().enumerate() {
        target.push(if position == 0 { '?' } else { '&' });
        target.push_str(name);
        target.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                target.push(char::from(byte));
            } else {
                target.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    target
}

/// One GET on an admin port; the body must be JSON.
fn get(
    identity: &Identity,
    address: SocketAddr,
    node: &Server,
    zone: &str,
    target: &str,
) -> Result<Value, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = identity.connect(address, node, zone, ADMIN_TIMEOUT)?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(text)?;
    let head_end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no HTTP answer")?;
    let head = String::from_utf8_lossy(&answer[..head_end]).to_ascii_lowercase();
    let body = &answer[head_end + 4..];
    let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
    if status != "200" {
        return Err(format!("status {status}"));
    }
    let body = if head.contains("transfer-encoding: chunked") {
        dechunk(body)
    } else {
        Some(body.to_vec())
    };
    serde_json::from_slice(&body.ok_or("cut answer")?).map_err(|error| format!("no JSON: {error}"))
}

fn dechunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        let rest = &body[end + 2..];
        whole.extend_from_slice(rest.get(..size)?);
        body = rest.get(size.checked_add(2)?..)?;
    }
}

const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 1 << 20;
