//! nginx as a peer: the configuration that its own documents recommend for this job, one worker.
//!
//! Three manners: `static` reads the origin's directory by sendfile with an open-file cache and no access log, its
//! fastest; `direct` reads it past the page cache by threads, as its documents advise for large media; `cache` is a proxy
//! cache in front of the origin with a buffered access log, the job that an edge has.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tidegate_e2e::fleet::HOST;

/// What nginx does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Static,
    Direct,
    Cache,
}

/// Where things are.
pub struct Setting<'a> {
    pub manner: Manner,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub origin: SocketAddr,
    pub origin_dir: &'a Path,
    pub certificate: &'a str,
    pub key: &'a str,
    pub core: usize,
}

/// A running nginx.
pub struct Nginx {
    child: Child,
}

impl Nginx {
    /// Starts it below `dir`.
    ///
    /// # Errors
    /// It is not installed, or refuses its configuration.
    pub fn start(dir: &Path, setting: &Setting<'_>) -> Result<Nginx, String> {
        fs::create_dir_all(dir.join("tmp")).map_err(|e| format!("{}: {e}", dir.display()))?;
        let path = dir.join("nginx.conf");
        fs::write(&path, configuration(dir, setting))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        let child = Command::new("taskset")
            .args(["-c", &setting.core.to_string()])
            .arg(program())
            .args(["-e", "stderr", "-p"])
            .arg(dir)
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("nginx cannot be started: {e}"))?;
        Ok(Nginx { child })
    }

    /// Its process id (taskset has become nginx).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // TERM, so that the master ends its worker.
        let _gone = Command::new("kill").arg(self.child.id().to_string()).status();
        let _gone = self.child.wait();
    }
}

/// Where it lies.
pub fn program() -> PathBuf {
    // Debian keeps it where ordinary users do not look.
    let debian = Path::new("/usr/sbin/nginx");
    if debian.is_file() { debian.into() } else { "nginx".into() }
}

/// Its version, as it tells it.
pub fn version() -> String {
    let output = Command::new(program()).arg("-v").output();
    output.map_or_else(
        |e| format!("unknown: {e}"),
        |output| String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    )
}

fn configuration(dir: &Path, setting: &Setting<'_>) -> String {
    let dir = dir.display();
    let (log, location) = match setting.manner {
        Manner::Static => (
            "access_log off;".to_owned(),
            format!("root {};", setting.origin_dir.display()),
        ),
        Manner::Direct => (
            "access_log off;".to_owned(),
            format!(
                "root {}; directio 512k; aio threads; output_buffers 1 512k;",
                setting.origin_dir.display()
            ),
        ),
        Manner::Cache => (
            format!("access_log {dir}/access.log combined buffer=64k flush=1s;"),
            "proxy_pass http://origin; proxy_set_header Host origin.example; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; proxy_cache hits; proxy_cache_valid 200 1h; \
             add_header X-Cache $upstream_cache_status;"
                .to_owned(),
        ),
    };
    format!(
        "daemon off; worker_processes 1; pid {dir}/pid; error_log stderr error; user root;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
           default_type application/octet-stream; types {{ video/iso.segment m4s; }}\n\
           {log}\n\
           sendfile on; tcp_nopush on; tcp_nodelay on; server_tokens off;\n\
           open_file_cache max=10000 inactive=60s; open_file_cache_valid 60s;\n\
           keepalive_requests 1000000000; keepalive_timeout 75s;\n\
           client_body_temp_path {dir}/tmp/body; proxy_temp_path {dir}/tmp/proxy;\n\
           fastcgi_temp_path {dir}/tmp/f; uwsgi_temp_path {dir}/tmp/u; scgi_temp_path {dir}/tmp/s;\n\
           proxy_cache_path {dir}/cache levels=1:2 keys_zone=hits:10m max_size=1g inactive=1d use_temp_path=off;\n\
           upstream origin {{ server {origin}; keepalive 8; }}\n\
           server {{\n\
             listen {http} reuseport; listen {https} ssl http2 reuseport; server_name {HOST};\n\
             ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;\n\
             ssl_session_cache shared:s:1m; ssl_prefer_server_ciphers on;\n\
             ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384;\n\
             location / {{ {location} }}\n\
           }}\n\
         }}\n",
        origin = setting.origin,
        http = setting.http,
        https = setting.https,
        certificate = setting.certificate,
        key = setting.key,
    )
}
