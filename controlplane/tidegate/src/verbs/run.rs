//! `tidegate run`: control plane roles in one process, on one snapshot file.
//!
//! Must stay true: the process starts only on a snapshot of a trusted key, and runs on the last good one from
//! then on; SIGINT and SIGTERM end it at once (its work is stateless: there is nothing to save).

use crate::failure::Failure;
use crate::source_dir;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;
use tidegate_contract::{Role, Snapshot};
use tidegate_monitor::StartError;
use tidegate_monitor::follow::{SnapshotFile, follow};
use tidegate_router::{DecisionLog, LogTarget};
use tidegate_steer::Geo;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args)]
pub struct Run {
    /// Roles to run.
    #[arg(long, value_delimiter = ',', required = true)]
    role: Vec<RunRole>,
    /// Ids of the servers of the snapshot that this process is, one for each role.
    #[arg(long, value_delimiter = ',', required = true)]
    node: Vec<String>,
    /// The snapshot file; followed while running.
    #[arg(long)]
    snapshot: PathBuf,
    /// The trust file.
    #[arg(long)]
    trust: PathBuf,
    /// MMDB file with cities, for clients that no coverage zone places.
    #[arg(long)]
    mmdb: Option<PathBuf>,
    /// Where the router writes its decisions: a file, `-` for stdout, `none`.
    #[arg(long, default_value = "-")]
    decision_log: PathBuf,
    /// DNS answers over UDP per second and client network; 0: no limit.
    #[arg(long, default_value_t = DNS_ANSWERS_PER_SECOND_DEFAULT)]
    dns_rate: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RunRole {
    Router,
    Monitor,
}

type Adopter = Box<dyn Fn(Arc<Snapshot>) + Send + Sync>;

/// The roles that run, kept for as long as the process lives.
#[derive(Default)]
struct Running {
    routers: Vec<tidegate_router::Router>,
    monitors: Vec<tidegate_monitor::Monitor>,
    adopters: Vec<Adopter>,
}

impl Run {
    pub fn run(self) -> Result<(), Failure> {
        let trust = source_dir::trust_file(&self.trust)?;
        let (file, snapshot) = SnapshotFile::open(&self.snapshot, trust)
            .map_err(|error| Failure::Input(error.to_string()))?;
        let geo = match &self.mmdb {
            None => None,
            Some(path) => {
                let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
                Some(Arc::new(
                    Geo::from_mmdb(bytes).map_err(|error| Failure::content(path, error))?,
                ))
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Host(format!("no threads to be had: {error}")))?;
        let outcome = runtime.block_on(self.serve(file, snapshot, geo));
        // Blocking work (a snapshot being verified) must not delay the end.
        runtime.shutdown_background();
        outcome
    }

    async fn serve(
        &self,
        file: SnapshotFile,
        snapshot: Arc<Snapshot>,
        geo: Option<Arc<Geo>>,
    ) -> Result<(), Failure> {
        // Before the first socket: a signal that comes during the start must not be lost.
        let failed = |error| Failure::Host(format!("signals cannot be handled: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut running = Running::default();
        for node in &self.node {
            self.start(node, &snapshot, &geo, &mut running).await?;
        }
        self.roles_covered(&running)?;
        let adopters = std::mem::take(&mut running.adopters);
        let generation = snapshot.generation;
        drop(snapshot);
        eprintln!("tidegate: ready: {} on generation {generation}", self.node.join(", "));
        let following =
            follow(file, move |next| adopters.iter().for_each(|adopt| adopt(next.clone())));
        tokio::select! {
            () = following => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("tidegate: ended");
        Ok(())
    }

    async fn start(
        &self,
        node: &str,
        snapshot: &Arc<Snapshot>,
        geo: &Option<Arc<Geo>>,
        running: &mut Running,
    ) -> Result<(), Failure> {
        let Some(server) = snapshot.servers.iter().find(|server| server.id == node) else {
            let what =
                format!("the snapshot has no server `{node}`; give the id of a router or monitor");
            return Err(Failure::Input(what));
        };
        tidegate_monitor::operators::check(server)
            .map_err(|why| Failure::Input(format!("server {node}: {why}")))?;
        let in_the_way = |error: StartError| Failure::Host(error.to_string());
        match server.role {
            Role::Router if self.role.contains(&RunRole::Router) => {
                let target = match self.decision_log.to_str() {
                    Some("-") => LogTarget::Stdout,
                    Some("none") => LogTarget::None,
                    _ => LogTarget::File(self.decision_log.clone()),
                };
                let log = DecisionLog::open(&target)
                    .map_err(|error| Failure::file(&self.decision_log, &error))?;
                let sockets = tidegate_router::Sockets::bind(server).await.map_err(in_the_way)?;
                let options = tidegate_router::RouterOptions {
                    node: node.to_owned(),
                    geo: geo.clone(),
                    log,
                    dns_answers_per_second: self.dns_rate,
                };
                if server.https_port.is_some() {
                    eprintln!(
                        "tidegate: router {node}: https_port is not served yet; \
                         redirects are given on HTTP only"
                    );
                }
                let router = tidegate_router::start(options, snapshot.clone(), sockets);
                running.adopters.push(Box::new(router.adopter()));
                running.routers.push(router);
            }
            Role::Monitor if self.role.contains(&RunRole::Monitor) => {
                let sockets = tidegate_monitor::Sockets::bind(server).await.map_err(in_the_way)?;
                let options = tidegate_monitor::MonitorOptions { node: node.to_owned() };
                let monitor = tidegate_monitor::start(options, snapshot.clone(), sockets);
                running.adopters.push(Box::new(monitor.adopter()));
                running.monitors.push(monitor);
            }
            role => {
                let role = format!("{role:?}").to_lowercase();
                let what = format!("server `{node}` has role {role}, which --role does not name");
                return Err(Failure::Input(what));
            }
        }
        Ok(())
    }

    fn roles_covered(&self, running: &Running) -> Result<(), Failure> {
        for (role, none, word) in [
            (RunRole::Router, running.routers.is_empty(), "router"),
            (RunRole::Monitor, running.monitors.is_empty(), "monitor"),
        ] {
            if self.role.contains(&role) && none {
                return Err(Failure::Input(format!("--role names {word}, but no --node is one")));
            }
        }
        Ok(())
    }
}

/// A large resolver asks a few hundred times a second when nothing is cached; a reflected flood asks far
/// more.
const DNS_ANSWERS_PER_SECOND_DEFAULT: u32 = 1000;
