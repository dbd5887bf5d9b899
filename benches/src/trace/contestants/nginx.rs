//! nginx as a proxy cache: requests for one object wait for the first (`proxy_cache_lock`, as long as an origin may
//! take), stale playlists while a new one is fetched, conditions when something expired, no second copy of what is
//! written. No `slice`: every object of the trace is smaller than one slice would be.
//!
//! Sources: ngx_http_proxy_module and ngx_http_upstream_module of its documentation, and its guide to content caching.

use super::{Budget, CORES, Running, free, write};
use crate::nginx::{program, version};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

pub fn start(dir: &Path, budget: &Budget, origin: SocketAddr) -> Result<Running, String> {
    fs::create_dir_all(dir.join("tmp")).map_err(|e| format!("{}: {e}", dir.display()))?;
    let address = free()?;
    let path = dir.join("nginx.conf");
    let name = dir.display();
    let disk = budget.disk_mib();
    write(
        &path,
        &format!(
            "daemon off; worker_processes {CORES}; pid {name}/pid; error_log stderr error; user root;\n\
             worker_rlimit_nofile 65536;\n\
             events {{ worker_connections 8192; }}\n\
             http {{\n\
               access_log {name}/access.log combined buffer=64k flush=1s;\n\
               sendfile on; tcp_nopush on; tcp_nodelay on; aio threads; server_tokens off;\n\
               open_file_cache max=20000 inactive=60s; open_file_cache_valid 60s;\n\
               keepalive_requests 1000000000; keepalive_timeout 600s;\n\
               client_body_temp_path {name}/tmp/body; proxy_temp_path {name}/tmp/proxy;\n\
               fastcgi_temp_path {name}/tmp/f; uwsgi_temp_path {name}/tmp/u; scgi_temp_path {name}/tmp/s;\n\
               proxy_cache_path {name}/cache levels=1:2 keys_zone=film:32m max_size={disk}m inactive=1d \
                 use_temp_path=off manager_files=1000 manager_sleep=50ms manager_threshold=1000ms;\n\
               upstream origin {{ server {origin}; keepalive 64; }}\n\
               server {{\n\
                 listen {address} reuseport;\n\
                 location / {{\n\
                   proxy_pass http://origin; proxy_set_header Host origin.example; proxy_http_version 1.1;\n\
                   proxy_set_header Connection \"\"; proxy_buffers 16 64k; proxy_buffer_size 16k;\n\
                   proxy_cache film; proxy_cache_key $uri$is_args$args; proxy_cache_revalidate on;\n\
                   proxy_cache_lock on; proxy_cache_lock_timeout 30s; proxy_cache_lock_age 30s;\n\
                   proxy_cache_background_update on;\n\
                   proxy_cache_use_stale updating error timeout http_500 http_502 http_503 http_504;\n\
                 }}\n\
               }}\n\
             }}\n"
        ),
    )?;
    let mut command = Command::new(program());
    command.args(["-e", "stderr", "-p"]).arg(dir).arg("-c").arg(&path);
    let settings = format!(
        "{CORES} workers, proxy_cache max_size {disk} MiB, proxy_cache_lock 30 s, use_stale updating, background_update, \
         revalidate, aio threads, sendfile; RAM by the page cache, without a limit"
    );
    Running::spawn(command, dir, address, version(), settings)
}
