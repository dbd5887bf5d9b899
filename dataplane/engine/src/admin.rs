//! What operators ask a node: health, status, metrics, explain. On the admin port only; what they order is in
//! `orders.rs`.

use crate::client::{BodyLength, Client, Outlet};
use crate::explain;
use crate::node::Core;
use crate::orders;
use crate::steps::synth;
use crate::stores::StoreFace;
use crate::transaction::{Exchange, role_name};
use serde_json::json;
use std::fmt::Write;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use tidegate_certificates::earliest_end;
use tidegate_contract::Ktls;
use tidegate_http::{Fields, Method};
use tidegate_store::Reader;
use tidegate_telemetry::{Counters, render_labels, render_prometheus, to_json};

/// Answers one admin request.
pub async fn run<O: Outlet>(core: &Rc<Core>, client: &mut Client<'_, O>, exchange: Exchange) {
    let request = &exchange.request;
    let outcome = if request.path == "/purge" {
        orders::purge_order(core, client, &exchange).await
    } else if request.path == "/rejoin" {
        orders::rejoin_order(core, client, &exchange).await
    } else if matches!(request.method, Method::Get | Method::Head) {
        match request.path.as_str() {
            "/health" => health(core, client).await,
            "/status" => text(client, "application/json", status(core)).await,
            "/metrics" => text(client, "text/plain; version=0.0.4", metrics(core)).await,
            "/explain" => {
                match explain::explain(core, request.query.as_deref().unwrap_or_default()).await {
                    Ok(value) => text(client, "application/json", value.to_string()).await,
                    Err(what) => synth::answer(client, 400, &what, Fields::new()).await,
                }
            }
            _ => {
                let known = "this port answers /health, /status, /metrics, /explain?host=&path=, POST /purge and POST /rejoin";
                synth::answer(client, 404, known, Fields::new()).await
            }
        }
    } else {
        synth::answer(
            client,
            405,
            "this port answers GET and HEAD, and POST /purge and /rejoin",
            Fields::new(),
        )
        .await
    };
    if outcome.is_err() {
        client.abort();
    }
}

async fn health<O: Outlet>(core: &Core, client: &mut Client<'_, O>) -> io::Result<()> {
    if core.node.draining.load(Ordering::Relaxed) {
        return synth::answer(client, 503, "draining", Fields::new()).await;
    }
    let opening = core.node.stores.is_opening();
    let said = if opening { "ok, the store is being read\n" } else { "ok\n" };
    text(client, "text/plain; charset=utf-8", said.to_owned()).await
}

pub(crate) async fn text<O: Outlet>(
    client: &mut Client<'_, O>,
    media_type: &'static str,
    body: String,
) -> io::Result<()> {
    let mut fields = Fields::new();
    let made = fields
        .append("content-type", media_type)
        .and_then(|()| fields.append("cache-control", "no-store"))
        .and_then(|()| fields.append("access-control-allow-origin", "*"));
    debug_assert!(made.is_ok(), "values made here are well-formed");
    client.head(200, fields, BodyLength::Known(body.len() as u64));
    client.body(&body.into()).await?;
    client.finish().await
}

fn status(core: &Core) -> String {
    refresh_gauges(core);
    let node = &core.node;
    let view = node.view.load();
    let counters: Vec<&Counters> = node.counters.iter().map(AsRef::as_ref).collect();
    let counters: serde_json::Value = serde_json::from_str(&to_json(&counters)).unwrap_or_default();
    json!({
        "node": view.me.id,
        "role": role_name(view.me.role),
        "cache_group": view.me.cache_group,
        "generation": view.generation,
        "uptime_s": tidegate_ring::now().saturating_duration_since(node.started).as_secs(),
        "pid": std::process::id(),
        "draining": node.draining.load(Ordering::Relaxed),
        "objects": node.table.len(),
        "huge_pages": node.arena.huge_pages(),
        "ktls": match view.me.machine.ktls {
            Ktls::Off => "off",
            Ktls::Auto => node.kernel_sealing.get().map_or("not asked yet", String::as_str),
        },
        "certificates": **node.certificates.load(),
        "revoked": **node.revoked.load(),
        "stores": node.stores.devices().iter().map(|store| json!({
            "path": store.path.display().to_string(),
            "uuid": store.identity().map(|identity| format!("{:032x}", identity.uuid)),
            "bytes": store.identity().map(|identity| identity.bytes),
            "state": store.state(),
            "unwritten_extents": store.queue.unwritten(),
        })).collect::<Vec<_>>(),
        "counters": counters,
    })
    .to_string()
}

fn metrics(core: &Core) -> String {
    refresh_gauges(core);
    let view = core.node.view.load();
    let counters: Vec<&Counters> = core.node.counters.iter().map(AsRef::as_ref).collect();
    let labels = [("node", &*view.me.id), ("role", role_name(view.me.role))];
    render_prometheus(&counters, &labels) + &device_metrics(core, &labels) + &cpu_metric(&labels)
}

/// Ticks of a second in /proc, on every machine that Linux runs on here (proc(5): USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time of this process, under the name that all exporters of Prometheus have for it; nothing where /proc is not.
fn cpu_metric(labels: &[(&str, &str)]) -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let Some(ticks) = cpu_ticks(&stat) else { return String::new() };
    format!(
        "# HELP process_cpu_seconds_total User and system CPU time of the process.\n\
         # TYPE process_cpu_seconds_total counter\n\
         process_cpu_seconds_total{{{}}} {}\n",
        render_labels(labels),
        ticks as f64 / TICKS_PER_SECOND
    )
}

/// User and system time; the name may hold anything, so numbers are counted from its last bracket.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, numbers) = stat.rsplit_once(')')?;
    let mut numbers = numbers.split_whitespace().skip(11).map_while(|n| n.parse::<u64>().ok());
    numbers.next()?.checked_add(numbers.next()?)
}

/// A device's number, from its face.
type OfDevice = fn(&StoreFace) -> u64;

/// What is said of each device: name, kind, help, number.
const DEVICE_METRICS: [(&str, &str, &str, OfDevice); 9] = [
    ("state", "gauge", "0 ok, 1 slow, 2 read only, 3 out, 4 being read, 5 refused.", |store| {
        match store.state() {
            "ok" => 0,
            "slow" => 1,
            "readonly" => 2,
            "out" => 3,
            "opening" => 4,
            _ => 5,
        }
    }),
    ("bytes", "gauge", "Bytes of its store segments.", |store| {
        store.identity().map_or(0, |identity| identity.bytes)
    }),
    ("written_bytes_total", "counter", "Bytes written to it.", |store| {
        store.stats.written_bytes.load(Ordering::Relaxed)
    }),
    ("discarded_bytes_total", "counter", "Bytes given back to it (`store_discard`).", |store| {
        store.stats.discarded_bytes.load(Ordering::Relaxed)
    }),
    ("read_errors_total", "counter", "Reads of it that failed.", |store| {
        store.reader().map_or(0, |reader| reader.errors().0)
    }),
    ("write_errors_total", "counter", "Writes to it that failed.", |store| {
        store.reader().map_or(0, |reader| reader.errors().1)
    }),
    ("late_reads_total", "counter", "Reads and probes of it that were late.", |store| {
        store.reader().map_or(0, |reader| reader.slowness().0)
    }),
    ("probe_microseconds", "gauge", "How long the last probe of it took.", |store| {
        store.reader().map_or(0, |reader| reader.slowness().1)
    }),
    ("bad_extents_total", "counter", "Extents of it that failed their checks.", |store| {
        store.reader().map_or(0, Reader::bad_extents)
    }),
];

fn device_metrics(core: &Core, labels: &[(&str, &str)]) -> String {
    let devices = core.node.stores.devices();
    let mut text = String::new();
    for (name, kind, help, of) in DEVICE_METRICS.iter().filter(|_| !devices.is_empty()) {
        let samples = devices.iter().map(|device| {
            let path = device.path.to_string_lossy();
            (render_labels(&[labels, &[("device", &*path)]].concat()), of(device))
        });
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP tidegate_device_{name} {help}");
        let _ = writeln!(text, "# TYPE tidegate_device_{name} {kind}");
        for (labels, number) in samples {
            let _ = writeln!(text, "tidegate_device_{name}{{{labels}}} {number}");
        }
    }
    text
}

/// Brings the numbers up to date that others keep. They are kept on core 0, whatever core answers.
fn refresh_gauges(core: &Core) {
    let node = &core.node;
    let first = &node.counters[0];
    let (bytes, evictions) = node.ram.usage();
    first.ram_tier_bytes.set(bytes);
    let memory = &node.memory;
    first.memory_limit_bytes.set(memory.plan.limit);
    first.memory_fixed_bytes.set(memory.plan.limit - memory.plan.flexible);
    first.memory_flexible_used_bytes.set(memory.flexible_used());
    first.memory_pressure.set(memory.pressure() as u64);
    first.objects_bytes.set(node.table.bytes());
    first.ram_tier_evictions_total.set(evictions);
    let stores = node.stores.devices();
    let sum = |of: fn(&StoreFace) -> u64| stores.iter().map(|store| of(store)).sum();
    first.store_bad_extents_total.set(sum(|s| s.reader().map_or(0, Reader::bad_extents)));
    first.store_write_errors_total.set(sum(|s| s.reader().map_or(0, |r| r.errors().1)));
    first.store_written_bytes_total.set(sum(|s| s.stats.written_bytes.load(Ordering::Relaxed)));
    first
        .store_lifetime_written_bytes
        .set(sum(|s| s.stats.lifetime_written_bytes.load(Ordering::Relaxed)));
    first.store_evicted_bytes_total.set(sum(|s| s.stats.evicted_bytes.load(Ordering::Relaxed)));
    first.store_over_budget_total.set(sum(|s| s.stats.over_budget.load(Ordering::Relaxed)));
    first.purge_journal_errors_total.set(sum(|s| s.stats.purge_errors.load(Ordering::Relaxed)));
    // Of the drive that ends first.
    let days = stores.iter().map(|s| s.stats.life_left_days.load(Ordering::Relaxed));
    if let Some(days) = days.filter(|days| *days > 0).min() {
        first.store_life_left_days.set(days - 1);
    }
    first.next_hop_ejections_total.set(node.hops.ejections());
    let (waited, turned_away) = node.hops.queued();
    first.origin_queue_waits_total.set(waited);
    first.origin_queue_refused_total.set(turned_away);
    first.origin_queue_waiting.set(node.hops.waiting() as u64);
    first.next_hops_out.set(node.hops.out() as u64);
    first.purge_rules.set(node.purges.len() as u64);
    first.certificate_end_seconds.set(earliest_end(&node.certificates.load()));
    first.snapshot_generation.set(node.view.load().generation);
    first.plain_buffer_fallback_total.set(node.arena.exhausted());
    let ring = tidegate_ring::stats();
    core.counters.fds_exhausted_total.set(ring.accepts_refused);
}
