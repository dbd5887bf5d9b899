//! A thread that keeps the addresses of named origins up to date, by the system's resolver.
//!
//! Must stay true: no core waits for a resolver; the start waits for a first answer only shortly.

use std::collections::HashSet;
use std::net::ToSocketAddrs;
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidegate_fill::Hops;
use tidegate_telemetry::Counters;

/// How often it is looked whether a name is due.
const LOOK_SPAN: Duration = Duration::from_millis(250);
/// For the first answers before the node serves.
const FIRST_SPAN: Duration = Duration::from_secs(2);

/// Starts the thread; it ends with `hops`.
///
/// # Errors
/// No thread could be started.
pub fn start(id: &str, hops: &Arc<Hops>, counters: Arc<Counters>) -> std::io::Result<()> {
    let (first_round, is_over) = channel();
    let (id, hops): (String, Weak<Hops>) = (id.to_owned(), Arc::downgrade(hops));
    std::thread::Builder::new().name("names".to_owned()).spawn(move || {
        let mut resolve = |host: &str, port: u16| (host, port).to_socket_addrs().map(Vec::from_iter);
        let mut told = HashSet::new();
        while let Some(hops) = hops.upgrade() {
            let round = hops.resolve_due(&mut resolve);
            drop(hops);
            counters.origin_names_failed_total.add(round.failed.len() as u64);
            told.retain(|host| !round.answered.contains(host));
            for (host, why) in round.failed {
                // Once, until it works again.
                if told.insert(host.clone()) {
                    eprintln!(
                        "tidegated {id}: origin name {host}: {why}; what was known of it stays\n    \
                         mend: look at the name, and at /etc/resolv.conf"
                    );
                }
            }
            for (host, addresses) in round.changed {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                eprintln!("tidegated {id}: origin name {host}: {}", addresses.join(", "));
            }
            let _started = first_round.send(());
            std::thread::sleep(LOOK_SPAN);
        }
    })?;
    // A resolver that takes longer goes on behind the start.
    let _in_time = is_over.recv_timeout(FIRST_SPAN);
    Ok(())
}
