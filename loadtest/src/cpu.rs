//! CPU time of this program and of a server: on the same host as the kernel counts it, on another as the server tells it.
//!
//! Must stay true: a process that is gone, and a page that does not come in time, keep what was last seen; a page that
//! never told a CPU time stops the run before it begins.

use crate::answer::Look;
use crate::channel::{Channel, Place, Protocol, Request};
use crate::client::{READ_BYTES, Watch};
use crate::options::{Options, OptionsError};
use crate::run::place_of;
use crate::tls::client_config;
use crate::url::Url;
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use std::cell::RefCell;
use std::fs;
use std::time::Duration;
use tokio::time::timeout;

/// Processes of one server.
#[derive(Debug)]
pub struct Server {
    processes: Vec<(u32, u64)>,
    ticks_per_second: u64,
    page: Option<Page>,
}

/// Processes that one run may look at.
pub const PROCESSES_MAX: usize = 256;

impl Server {
    /// # Errors
    /// The first number that is no process that this user may look at, or what is wrong with the page of metrics.
    pub async fn new(options: &Options) -> Result<Server, OptionsError> {
        let mut server = Server::of(&options.server_pids).map_err(OptionsError::ServerPid)?;
        if let Some(url) = &options.server_metrics {
            let failed = |what: String| OptionsError::ServerMetrics(format!("{url}: {what}"));
            let mut page = Page::new(url, options).await.map_err(failed)?;
            page.last_ns = page.look().await.map_err(failed)?;
            server.page = Some(page);
        }
        Ok(server)
    }

    fn of(pids: &[u32]) -> Result<Server, String> {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
        let ticks_per_second = ticks.and_then(|n| u64::try_from(n).ok()).unwrap_or(100).max(1);
        let mut server = Server { processes: Vec::new(), ticks_per_second, page: None };
        for pid in pids {
            let used = cpu_ticks(*pid)
                .ok_or_else(|| format!("--server-pid {pid}: there is no such process here"))?;
            server.processes.push((*pid, used));
        }
        Ok(server)
    }

    /// CPU time of all of them so far; `None` when there are none.
    pub async fn cpu_ns(&mut self) -> Option<u64> {
        let told = match &mut self.page {
            Some(page) => {
                if let Ok(now) = page.look().await {
                    page.last_ns = now.max(page.last_ns);
                }
                page.last_ns
            }
            None if self.processes.is_empty() => return None,
            None => 0,
        };
        let mut sum = 0;
        for (pid, used) in &mut self.processes {
            if let Some(now) = cpu_ticks(*pid) {
                *used = now.max(*used);
            }
            sum += *used;
        }
        Some(told + sum.saturating_mul(1_000_000_000 / self.ticks_per_second))
    }
}

/// What servers call it, in seconds: the name that all exporters of Prometheus have for it.
const METRIC: &str = "process_cpu_seconds_total";
/// Longest time for a page: the load's own accounts wait for it.
const PAGE_SPAN_MAX: Duration = Duration::from_millis(500);
/// Bytes of a page.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// A page of metrics, asked for over a connection of its own.
#[derive(Debug)]
struct Page {
    channel: Channel,
    request: Request,
    scratch: RefCell<Vec<u8>>,
    last_ns: u64,
}

impl Page {
    async fn new(text: &str, options: &Options) -> Result<Page, String> {
        let url = Url::parse(text).map_err(|e| e.to_string())?;
        let tls = client_config(&options.trust, Protocol::Http1);
        let tls = match url.scheme {
            tidegate_http::Scheme::Https => Some(tls.map_err(|e| e.to_string())?),
            tidegate_http::Scheme::Http => None,
        };
        // `--connect` is about the load.
        let direct = Options { connect: None, ..options.clone() };
        let endpoint = place_of(&url, &direct, tls.as_ref()).await.map_err(|e| e.to_string())?;
        let place = Place::new(endpoint, Protocol::Http1)?;
        let authority = url.authority.to_string();
        let fields = tidegate_http::Fields::new();
        Ok(Page {
            channel: Channel::new(place.into(), &std::sync::Arc::default()),
            request: Request::get(Protocol::Http1, &url, &authority, &fields)?,
            scratch: RefCell::new(vec![0; READ_BYTES]),
            last_ns: 0,
        })
    }

    async fn look(&self) -> Result<u64, String> {
        let asking = async {
            let (mut stream, _) = self.channel.stream().await.map_err(|e| e.to_string())?;
            let mut body = Body(Vec::new());
            let answer = stream.exchange(&self.request, &self.scratch, &mut body).await;
            let answer = answer.map_err(|e| e.to_string())?;
            if answer.keep_alive {
                self.channel.give_back(stream);
            }
            match answer.status {
                200 => Ok(body.0),
                status => Err(format!("it answers {status}")),
            }
        };
        let body = match timeout(PAGE_SPAN_MAX, asking).await {
            Ok(body) => body?,
            Err(_) => return Err(format!("it does not come in {PAGE_SPAN_MAX:?}")),
        };
        told_ns(&String::from_utf8_lossy(&body)).ok_or_else(|| {
            format!(
                "it has no {METRIC}; name a page that has it, or give --server-pid on the same host"
            )
        })
    }
}

/// The sum over all lines of the metric, whatever their labels.
fn told_ns(page: &str) -> Option<u64> {
    let mut sum = None;
    for line in page.lines() {
        let Some(rest) = line.strip_prefix(METRIC) else { continue };
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}').map_or("", |(_, value)| value),
            None => rest,
        };
        let seconds = value.split_whitespace().next().and_then(|text| text.parse::<f64>().ok());
        if let Some(seconds) = seconds.filter(|s| s.is_finite() && *s >= 0.0) {
            *sum.get_or_insert(0.0) += seconds;
        }
    }
    sum.map(|seconds| (seconds * 1e9) as u64)
}

/// Keeps a page.
struct Body(Vec<u8>);

impl Look for Body {
    fn body(&mut self, bytes: &[u8]) {
        let room = PAGE_BYTES_MAX.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Watch for Body {
    fn received(&mut self, _bytes: usize) {}
}

/// User and system time of a process, in ticks.
fn cpu_ticks(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may hold spaces and brackets: numbers are counted from its last bracket (proc(5)).
fn parse_stat(text: &str) -> Option<u64> {
    let (_, numbers) = text.rsplit_once(')')?;
    let mut numbers = numbers.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    user.checked_add(system)
}

/// CPU time of this program so far.
pub fn own_cpu_ns() -> u64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0 };
    let ns = |time: nix::sys::time::TimeVal| {
        let (seconds, us) = (time.tv_sec(), time.tv_usec());
        u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(us).unwrap_or(0) * 1000
    };
    ns(usage.user_time()) + ns(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let text = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 70 30 1 1 20 0 1 0";
        assert_eq!(parse_stat(text), Some(100));
        assert_eq!(parse_stat("12 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_page_is_summed_over_its_labels() {
        let page = "# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total{node=\"a}\"} 1.5 1700\n\
                    process_cpu_seconds_total 0.25\nprocess_cpu_seconds_total_more 9\n";
        assert_eq!(told_ns(page), Some(1_750_000_000));
        for none in ["", "process_cpu_seconds_total NaN\n", "other 1\n"] {
            assert_eq!(told_ns(none), None, "{none}");
        }
    }

    #[test]
    fn this_process_uses_time() {
        let mut own = Server::of(&[std::process::id()]).unwrap();
        let before = own_cpu_ns();
        let mut sum = 0u64;
        while own_cpu_ns() < before + 30_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(runtime.block_on(own.cpu_ns()).unwrap() > 0);
        assert!(Server::of(&[u32::MAX]).unwrap_err().contains("4294967295"));
        assert_eq!(runtime.block_on(Server::of(&[]).unwrap().cpu_ns()), None);
    }
}
