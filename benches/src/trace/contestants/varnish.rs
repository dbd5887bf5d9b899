//! Varnish: playlists in its malloc storage, media segments in its file storage, each as large as the budget says; it
//! collapses by itself, streams while it fetches, keeps expired playlists to ask for them by condition, and gives stale
//! ones (its default grace) while it does.

use super::{Budget, Running, free, version, write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

const PROGRAM: &str = "varnishd";

pub fn start(dir: &Path, budget: &Budget, origin: SocketAddr) -> Result<Running, String> {
    let version = version(PROGRAM, "-V")?;
    let address = free()?;
    let vcl = dir.join("trace.vcl");
    write(
        &vcl,
        &format!(
            "vcl 4.1;\n\
             backend origin {{ .host = \"{}\"; .port = \"{}\"; .max_connections = 1000; }}\n\
             sub vcl_backend_response {{\n\
               set beresp.keep = 1h;\n\
               if (bereq.url ~ \"[.]m3u8$\") {{ set beresp.storage = storage.ram; }}\n\
               else {{ set beresp.storage = storage.disk; }}\n\
             }}\n",
            origin.ip(),
            origin.port()
        ),
    )?;
    let (ram, disk) = (budget.ram_mib(), budget.disk_mib());
    let mut command = Command::new(PROGRAM);
    command
        .arg("-F")
        .args(["-j", "none", "-T", "none", "-a", &address.to_string()])
        .arg("-n")
        .arg(dir.join("work"))
        .arg("-f")
        .arg(&vcl)
        .args(["-s", &format!("ram=malloc,{ram}m")])
        .arg("-s")
        .arg(format!("disk=file,{},{disk}m", dir.join("store").display()))
        // Many small objects may have to go for a large one; connections stay open between requests.
        .args(["-p", "nuke_limit=1000", "-p", "timeout_idle=600", "-p", "thread_pool_min=200"]);
    let settings = format!(
        "malloc {ram} MiB for playlists, file {disk} MiB for media segments, keep 1 h, grace 10 s (default), \
         nuke_limit 1000, thread_pool_min 200; no access log (shared memory only)"
    );
    Running::spawn(command, dir, address, version, settings)
}
