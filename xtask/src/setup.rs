//! What a verb needs on this machine: says what is missing and installs just that.
//!
//! Must stay true: nothing is installed that is there already, nothing is asked, no service is started;
//! without the right to install, the command to run is printed instead.

use crate::run::{command, finish, on_path, output};
use std::path::{Path, PathBuf};

/// A thing that is needed, how one sees that it is there, and the Debian package that brings it.
struct Need {
    package: &'static str,
    present: fn() -> bool,
    why: &'static str,
    verbs: &'static [&'static str],
}

const ALL: &[&str] = &["demo", "test", "bench", "bench-trace", "bench-http3"];
const NEEDS: [Need; 22] = [
    Need {
        package: "gcc",
        present: || on_path("cc"),
        why: "links Rust programs",
        verbs: &["demo", "test", "bench", "bench-trace", "bench-http3", "fuzz", "emulate"],
    },
    Need {
        package: "libc6-dev",
        present: || Path::new("/usr/include/stdio.h").is_file(),
        why: "headers for the cryptography library",
        verbs: ALL,
    },
    Need {
        package: "ffmpeg",
        present: || on_path("ffmpeg") && on_path("ffprobe"),
        why: "makes the film",
        verbs: ALL,
    },
    Need {
        package: "fonts-dejavu-core",
        present: || Path::new("/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf").is_file(),
        why: "draws the film's clock",
        verbs: ALL,
    },
    Need {
        package: "nodejs",
        present: || on_path("node"),
        why: "runs the browser tests",
        verbs: &["test"],
    },
    Need {
        package: "npm",
        present: || on_path("npm"),
        why: "brings hls.js",
        verbs: &["demo", "test"],
    },
    Need {
        package: "chromium",
        present: || on_path("chromium"),
        why: "plays the film in tests",
        verbs: &["test"],
    },
    Need {
        package: "ngtcp2-client",
        present: || on_path("gtlsclient"),
        why: "speaks HTTP/3 with an edge in tests",
        verbs: &["test"],
    },
    Need {
        package: "python3-venv",
        present: || output(&mut command("python3", &["-c", "import venv, ensurepip"])).is_ok(),
        why: "holds aioquic, which speaks HTTP/3 with an edge in tests, and moto, an S3 bucket for parents",
        verbs: &["test"],
    },
    Need { package: "g++", present: || on_path("c++"), why: "builds libFuzzer", verbs: &["fuzz"] },
    Need {
        package: "nginx-light",
        present: || on_path("nginx"),
        why: "is measured beside us",
        verbs: &["bench", "bench-trace"],
    },
    Need {
        package: "trafficserver",
        present: || on_path("traffic_server"),
        why: "is measured beside us",
        verbs: &["bench-trace"],
    },
    Need {
        package: "varnish",
        present: || on_path("varnishd"),
        why: "is measured beside us",
        verbs: &["bench-trace"],
    },
    Need {
        package: "wrk",
        present: || on_path("wrk"),
        why: "makes the load of the benchmark",
        verbs: &["bench"],
    },
    Need {
        package: "caddy",
        present: || on_path("caddy"),
        why: "is measured beside us over HTTP/3",
        verbs: &["bench-http3"],
    },
    Need {
        package: "cmake",
        present: || on_path("cmake"),
        why: "builds BoringSSL for tokio-quiche, which is measured beside us",
        verbs: &["bench-http3"],
    },
    Need {
        package: "libclang-dev",
        present: || Path::new("/usr/share/doc/libclang-dev").exists(),
        why: "reads BoringSSL's headers for tokio-quiche",
        verbs: &["bench-http3"],
    },
    Need {
        package: "qemu-system-x86",
        present: || on_path("qemu-system-x86_64"),
        why: "emulates a machine",
        verbs: &["emulate"],
    },
    Need {
        package: "busybox-static",
        present: || Path::new("/bin/busybox").is_file(),
        why: "is the shell of that machine",
        verbs: &["emulate"],
    },
    Need {
        package: "cpio",
        present: || on_path("cpio"),
        why: "packs its file system",
        verbs: &["emulate"],
    },
    Need {
        package: "xz-utils",
        present: || on_path("xz"),
        why: "unpacks its kernel's modules",
        verbs: &["emulate"],
    },
    Need {
        package: "nghttp2-client",
        present: || on_path("h2load"),
        why: "is what the load harness is held against",
        verbs: &["bench"],
    },
];

/// Packages that bring services, and which.
const SERVICES: &[(&str, &[&str])] = &[
    ("nginx-light", &["nginx"]),
    ("caddy", &["caddy"]),
    ("trafficserver", &["trafficserver"]),
    ("varnish", &["varnish", "varnishncsa"]),
];

/// npm folders and the verbs that need them.
const NPM: [(&str, &[&str]); 2] = [("demo/pages", &["demo", "test"]), ("tests/browser", &["test"])];

/// What pip brings for tests, and the only place where it brings it to.
const PYTHON_LOCK: &str = "tests/e2e/python.txt";

/// The Python of the tests, once [`run`] has made it.
pub fn python() -> PathBuf {
    crate::target().join("python/bin/python")
}

/// Makes this machine ready for a verb.
///
/// # Errors
/// Something is missing and cannot be installed; the message holds the command that would.
pub fn run(verb: &str) -> Result<(), String> {
    if !NEEDS.iter().any(|need| need.verbs.contains(&verb)) {
        return Err(format!("there is no `{verb}` to set up; one of {}, fuzz", ALL.join(", ")));
    }
    let missing: Vec<&Need> =
        NEEDS.iter().filter(|n| n.verbs.contains(&verb) && !(n.present)()).collect();
    if !missing.is_empty() {
        println!("Missing on this machine, and installed now:");
        for need in &missing {
            println!("  {:<18} {}", need.package, need.why);
        }
        install(&missing.iter().map(|n| n.package).collect::<Vec<_>>())?;
        if let Some(need) = missing.iter().find(|n| !(n.present)()) {
            return Err(format!(
                "package {} was installed, yet what it brings is not found",
                need.package
            ));
        }
    }
    for (folder, verbs) in NPM {
        if verbs.contains(&verb) {
            npm(&crate::root().join(folder))?;
        }
    }
    if verb == "test" {
        pip()?;
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<(), String> {
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !on_path("apt-get") {
        return Err(format!(
            "this is no Debian system (no apt-get); install by its own means what these packages bring: {}",
            packages.join(" ")
        ));
    }
    let prefix: &[&str] = if output(&mut command("id", &["-u"]))?.trim() == "0" {
        &[]
    } else if on_path("sudo") && output(&mut command("sudo", &["-n", "true"])).is_ok() {
        &["sudo", "-n"]
    } else {
        return Err(format!(
            "root is needed to install packages; run as root, then try again:\n    {by_hand}"
        ));
    };
    let hold = HoldServices::begin(prefix)?;
    let mut words: Vec<&str> = prefix.to_vec();
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
    let apt = |more: &[&str]| {
        let all: Vec<&str> = words.iter().chain(more).copied().collect();
        finish(&mut command(all[0], &all[1..]))
    };
    let mut wanted = vec!["install", "-y", "--no-install-recommends"];
    wanted.extend(packages);
    let result = apt(&wanted).or_else(|_| {
        // Lists that are absent or old are the usual cause.
        println!("The package lists are refreshed, then it is tried again.");
        apt(&["update"])?;
        apt(&wanted)
    });
    drop(hold);
    for (package, services) in SERVICES {
        if packages.contains(package) && on_path("systemctl") {
            // The benchmarks start their own; the services must not come up at the next boot. Where systemd does
            // not run there is nothing to disable, so a failure is no matter.
            let words = prefix.iter().copied().chain(["systemctl", "disable", "-q"]);
            let all: Vec<&str> = words.chain(services.iter().copied()).collect();
            let _ = output(&mut command(all[0], &all[1..]));
        }
    }
    result.map_err(|e| format!("{e}\nBy hand:\n    {by_hand}"))
}

/// While this lives, packages that bring a service do not start it (Debian's policy-rc.d).
struct HoldServices {
    prefix: &'static [&'static str],
    made: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl HoldServices {
    fn begin(prefix: &[&str]) -> Result<HoldServices, String> {
        let prefix: &'static [&'static str] = if prefix.is_empty() { &[] } else { &["sudo", "-n"] };
        if Path::new(POLICY).exists() {
            return Ok(HoldServices { prefix, made: false });
        }
        let script = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
        let words: Vec<&str> = prefix.iter().copied().chain(["sh", "-c", &script]).collect();
        finish(&mut command(words[0], &words[1..]))?;
        Ok(HoldServices { prefix, made: true })
    }
}

impl Drop for HoldServices {
    fn drop(&mut self) {
        if self.made {
            let words: Vec<&str> =
                self.prefix.iter().copied().chain(["rm", "-f", POLICY]).collect();
            if let Err(e) = finish(&mut command(words[0], &words[1..])) {
                eprintln!("{POLICY} was made for the installation and could not be removed: {e}");
            }
        }
    }
}

/// `npm ci`, unless the folder holds just what its lock file says.
fn npm(folder: &Path) -> Result<(), String> {
    let read =
        |p: PathBuf| std::fs::read_to_string(&p).map_err(|e| format!("{}: {e}", p.display()));
    let lock = read(folder.join("package-lock.json"))?;
    // npm leaves no copy of the lock file it installed from, so we do.
    let stamp = folder.join("node_modules").join(".installed-lock.json");
    if read(stamp.clone()).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    println!("Fetching the npm packages of {}.", folder.display());
    let mut npm = command("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    finish(npm.current_dir(folder))
        .map_err(|e| format!("{e}\nIs the network reachable? npm needs it once."))?;
    std::fs::write(&stamp, lock).map_err(|e| format!("{}: {e}", stamp.display()))
}

/// A Python environment of our own, unless it holds just what the lock file says. The system's stays as it is.
fn pip() -> Result<(), String> {
    let lock = crate::root().join(PYTHON_LOCK);
    let wanted = std::fs::read_to_string(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
    let (home, python) = (crate::target().join("python"), python());
    let stamp = home.join("installed-lock.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("Fetching aioquic and moto for the tests, by pip into {}:", home.display());
    for line in wanted.lines().filter(|line| !line.starts_with('#')) {
        println!("  {line}");
    }
    let place = home.display().to_string();
    finish(&mut command("python3", &["-m", "venv", "--clear", &place]))?;
    let arguments =
        ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", PYTHON_LOCK];
    finish(&mut command(&python, &arguments))
        .map_err(|e| format!("{e}\nIs the network reachable? pip needs it once."))?;
    std::fs::write(&stamp, wanted).map_err(|e| format!("{}: {e}", stamp.display()))
}
