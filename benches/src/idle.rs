//! What an idle TLS connection costs the edge: many of them, opened by the harness' own client, each after one answer.
//!
//! Must stay true: all are open when it is looked, by the edge's own count.

use crate::{cpu, object_name};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tidegate_e2e::fleet::HOST;
use tidegate_e2e::{Fleet, FleetOptions};
use tidegate_http::Fields;
use tidegate_load::answer::Look;
use tidegate_load::channel::{Channel, Opened, Place, Protocol, Request};
use tidegate_load::client::{Endpoint, READ_BYTES, Watch};
use tidegate_load::tls::{Trust, client_config};
use tidegate_load::url::Url;

/// Measures the memory of idle TLS connections over HTTP/1.1, 2 and 3.
#[derive(Args, Debug)]
pub struct IdleArgs {
    /// Connections of each version.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    connections: u32,
    /// Only these versions of HTTP.
    #[arg(long, value_delimiter = ',', default_value = "1.1,2,3")]
    http: Vec<Protocol>,
    /// Bytes of the answer that each connection was given.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Where the report goes, as JSON.
    #[arg(long, default_value = "target/bench/idle.json")]
    out: PathBuf,
}

/// Opened before the first look, so that what is made once is there.
const FIRST: u32 = 100;
/// Opened at once.
const WIDTH: u32 = 32;
const RAM_BYTES: u64 = 32 << 20;
const MEMORY_BYTES: u64 = 8 << 30;
/// Descriptors beside the connections'.
const SPARE: u64 = 200;

/// Runs all of it.
///
/// # Errors
/// A connection cannot be opened.
pub fn run(args: &IdleArgs) -> Result<(), String> {
    let wanted = u64::from(args.connections + FIRST) + SPARE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| e.to_string())?;
    // Beyond the hard limit root alone may go. The edge starts with the same limits.
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard.max(wanted)).map_err(|e| {
        format!(
            "{wanted} open files are needed and {hard} allowed ({e}): run it with CAP_SYS_RESOURCE (root has it), raise \
             the limit (ulimit -Hn), or give --connections {}",
            hard.saturating_sub(SPARE + u64::from(FIRST))
        )
    })?;
    let mut rows = Vec::new();
    println!(
        "{:<10} {:>12} {:>22} {:>20}",
        "", "connections", "resident bytes each", "counted each"
    );
    for protocol in &args.http {
        // A process of its own for each: what one version left behind is not the next one's.
        let (resident, counted) = one(args, *protocol)?;
        println!(
            "{:<10} {:>12} {:>22} {:>20}",
            format!("HTTP/{protocol}"),
            args.connections,
            resident,
            counted
        );
        rows.push(serde_json::json!({
            "http": protocol.as_str(), "connections": args.connections, "answer_bytes": args.size,
            "resident_bytes_each": resident, "counted_bytes_each": counted,
        }));
    }
    let report = serde_json::json!({
        "machine": cpu::machine(), "source": crate::report::source(), "rows": rows,
    });
    crate::report::write(&args.out, &report)
}

/// Resident and counted bytes for each connection.
fn one(args: &IdleArgs, protocol: Protocol) -> Result<(u64, u64), String> {
    let fleet = Fleet::start(
        "bench-idle",
        &FleetOptions {
            parents: 1,
            edges: 1,
            cores: 1,
            ram_bytes: RAM_BYTES,
            https: true,
            adjust: |snapshot| {
                for server in snapshot.servers.iter_mut().filter(|server| server.id == "edge-1") {
                    server.machine.memory_bytes = Some(MEMORY_BYTES);
                }
            },
            ..FleetOptions::default()
        },
    );
    let name = object_name(args.size, 0);
    fleet.put(&name, args.size);
    let edge = fleet.member("edge-1");
    let clients = Clients::new(edge.https(), protocol, &name)?;
    let look = || (resident(edge.pid()), fleet.counter("edge-1", "memory_flexible_used_bytes"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("this host gives no runtime: {e}"))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let first = clients.open(FIRST).await?;
        fleet.settle("edge-1");
        let before = look();
        let more = clients.open(args.connections).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = look();
        let open = fleet.counter("edge-1", "connections_open");
        let made = (first.len() + more.len()) as u64;
        if open < made {
            return Err(format!("{made} connections were made and {open} are open"));
        }
        let each =
            |before: u64, after: u64| after.saturating_sub(before) / u64::from(args.connections);
        Ok((each(before.0?, after.0?), each(before.1, after.1)))
    })
}

fn resident(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| format!("{path}: no VmRSS"))
}

struct Clients {
    place: Arc<Place>,
    request: Request,
    open: Arc<AtomicU64>,
    scratch: RefCell<Vec<u8>>,
}

impl Clients {
    fn new(address: SocketAddr, protocol: Protocol, name: &str) -> Result<Rc<Clients>, String> {
        let url = Url::parse(&format!("https://{HOST}/{name}")).map_err(|e| e.to_string())?;
        let server = rustls::pki_types::ServerName::try_from(HOST).map_err(|e| e.to_string())?;
        let tls = client_config(&Trust::Anyone, protocol).map_err(|e| e.to_string())?;
        let endpoint = Endpoint { address, tls: Some((server, tls)) };
        let request = Request::get(protocol, &url, HOST, &Fields::new())?;
        Ok(Rc::new(Clients {
            place: Arc::new(Place::new(endpoint, protocol)?),
            request,
            open: Arc::default(),
            scratch: RefCell::new(vec![0; READ_BYTES]),
        }))
    }

    /// So many connections, each after one answer.
    async fn open(self: &Rc<Self>, count: u32) -> Result<Vec<Channel>, String> {
        let mut made = Vec::new();
        let mut under_way = VecDeque::new();
        for _ in 0..count {
            let mine = Rc::clone(self);
            under_way.push_back(tokio::task::spawn_local(async move { mine.one().await }));
            if under_way.len() >= WIDTH as usize
                && let Some(oldest) = under_way.pop_front()
            {
                made.push(oldest.await.map_err(|e| e.to_string())??);
            }
        }
        for rest in under_way {
            made.push(rest.await.map_err(|e| e.to_string())??);
        }
        Ok(made)
    }

    async fn one(&self) -> Result<Channel, String> {
        let channel = Channel::new(Arc::clone(&self.place), &self.open);
        let (mut stream, opened) = channel.stream().await.map_err(|e| e.to_string())?;
        debug_assert!(opened == Opened::First, "a new channel opens");
        let answer = stream.exchange(&self.request, &self.scratch, &mut Nobody).await;
        let answer = answer.map_err(|e| e.to_string())?;
        if answer.status != 200 {
            return Err(format!("an answer had status {}", answer.status));
        }
        channel.give_back(stream);
        Ok(channel)
    }
}

/// Looks at nothing.
struct Nobody;

impl Look for Nobody {}

impl Watch for Nobody {
    fn received(&mut self, _bytes: usize) {}
}
