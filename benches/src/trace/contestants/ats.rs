//! Apache Traffic Server as a reverse proxy: read while write and a retried cache read on a taken write lock, which is
//! how its documents (cache basics, "Reducing Origin Server Requests") say that requests for one object are collapsed.

use super::{Budget, CORES, Running, free, version, write};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

const PROGRAM: &str = "traffic_server";

pub fn start(dir: &Path, budget: &Budget, origin: SocketAddr) -> Result<Running, String> {
    let version = version(PROGRAM, "--version")?;
    let address = free()?;
    for folder in ["etc", "cache", "log", "run", "share"] {
        fs::create_dir_all(dir.join(folder)).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let name = dir.display();
    let etc = dir.join("etc");
    let (ram, disk) = (budget.ram_mib(), budget.disk_mib());
    write(
        &dir.join("runroot.yaml"),
        &format!(
            "prefix: {name}\nexec_prefix: {name}\nbindir: /usr/bin\nsbindir: /usr/bin\nsysconfdir: {name}/etc\n\
             datadir: {name}/share\nincludedir: /usr/include\nlibdir: /usr/lib/trafficserver\n\
             libexecdir: /usr/lib/trafficserver/modules\nlocalstatedir: {name}/run\nruntimedir: {name}/run\n\
             logdir: {name}/log\ncachedir: {name}/cache\n"
        ),
    )?;
    let options = [
        format!("http.server_ports STRING {}:ip-in={}", address.port(), address.ip()),
        "admin.user_id STRING #-1".to_owned(),
        "exec_thread.autoconfig INT 0".to_owned(),
        format!("exec_thread.limit INT {CORES}"),
        format!("cache.ram_cache.size INT {ram}M"),
        "cache.ram_cache.algorithm INT 1".to_owned(),
        "cache.ram_cache.use_seen_filter INT 1".to_owned(),
        "cache.ram_cache_cutoff INT 4M".to_owned(),
        // Objects of the trace are of some 150 KB: its default assumes 8000 bytes.
        "cache.min_average_object_size INT 32000".to_owned(),
        "cache.enable_read_while_writer INT 1".to_owned(),
        "http.background_fill_active_timeout INT 0".to_owned(),
        "http.background_fill_completed_threshold FLOAT 0.0".to_owned(),
        "http.cache.open_write_fail_action INT 5".to_owned(),
        // Together longer than an origin takes to its first byte.
        "http.cache.max_open_read_retries INT 500".to_owned(),
        "http.cache.open_read_retry_time INT 10".to_owned(),
        "http.cache.required_headers INT 2".to_owned(),
        "http.keep_alive_no_activity_timeout_in INT 600".to_owned(),
        "http.keep_alive_enabled_out INT 1".to_owned(),
        "url_remap.remap_required INT 1".to_owned(),
        "http.insert_response_via_str INT 0".to_owned(),
        "log.logging_enabled INT 3".to_owned(),
    ];
    let records: String =
        options.iter().map(|option| format!("CONFIG proxy.config.{option}\n")).collect();
    write(&etc.join("records.config"), &records)?;
    write(&etc.join("storage.config"), &format!("{name}/cache {disk}M\n"))?;
    write(&etc.join("remap.config"), &format!("map / http://{origin}/\n"))?;
    for empty in
        ["plugin.config", "parent.config", "cache.config", "hosting.config", "volume.config"]
    {
        write(&etc.join(empty), "")?;
    }
    write(
        &etc.join("ip_allow.yaml"),
        "ip_allow:\n  - apply: in\n    ip_addrs: 0/0\n    action: allow\n    methods: ALL\n",
    )?;
    write(
        &etc.join("logging.yaml"),
        "logging:\n  formats:\n    - name: common\n      format: '%<chi> - %<caun> [%<cqtn>] \"%<cqtx>\" %<pssc> %<pscl>'\n  \
         logs:\n    - filename: access\n      format: common\n",
    )?;
    let mut command = Command::new(PROGRAM);
    command.arg(format!("--run-root={}", dir.join("runroot.yaml").display()));
    let settings = format!(
        "{CORES} threads, ram_cache.size {ram} MiB (LRU, seen filter), storage file {disk} MiB, \
         enable_read_while_writer 1, background fill without limits, open_write_fail_action 5, \
         500 read retries of 10 ms, min_average_object_size 32000"
    );
    Running::spawn(command, dir, address, version, settings)
}
