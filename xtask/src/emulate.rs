//! `cargo xtask emulate`: tests that need a kernel with its `tls` protocol, under Debian's kernels in an emulated machine.
//!
//! QEMU without hardware help, so that it runs anywhere: some ten times slower, good for what is right and for nothing
//! that is fast. The kernels come as packages that are unpacked and not installed; all the machine has is an initial file system
//! with the programs, the tests, and the libraries that they are linked with. Must stay true: a test that would be skipped
//! there fails, and so does a machine that does not say how its tests ended.

use crate::run::{cargo, command, finish, output, run_and_keep};
use crate::test::QUICK;
use crate::{demo, setup, target};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The oldest kernel that io_uring is used of, and the newest that the distribution has; the second where there is one.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];
/// Of `tests/e2e`, with which of its tests (the others take long there, or try nothing of this).
const TESTS: [(&str, &[&str]); 3] =
    [("ktls", &[]), ("tls_policy", &[]), ("h2", &["--skip", "slow"])];
/// For all of it, in each machine.
const SECONDS_MAX: &str = "900";

/// Runs them under the distribution's kernels, and under those of these packages (files): `--only` leaves the former out.
///
/// # Errors
/// What is missing, or which kernel had failures.
pub fn run(arguments: &[String]) -> Result<(), String> {
    setup::run("emulate")?;
    demo::build()?;
    let tests = tests()?;
    let mut kernels = Vec::new();
    if !arguments.iter().any(|word| word == "--only") {
        kernels.push(download(KERNELS[0])?);
        match download(KERNELS[1]) {
            Ok(kernel) => kernels.push(kernel),
            Err(why) => println!("{} is left out: {why}", KERNELS[1]),
        }
    }
    for file in arguments.iter().filter(|word| *word != "--only") {
        let file = Path::new(file).canonicalize().map_err(|e| format!("{file}: {e}"))?;
        kernels.push(unpack(&file)?);
    }
    let mut failed = Vec::new();
    for kernel in kernels {
        let name = kernel.image.file_name().unwrap_or_default().to_string_lossy();
        println!("\n== {name}");
        let disk = initial(&kernel, &tests)?;
        let (_, said) = run_and_keep(&mut machine(&kernel, &disk))?;
        let ended = said.lines().filter(|line| line.starts_with("test result: ok.")).count();
        if ended < tests.len() {
            failed.push(name.into_owned());
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("not everything passed under {}", failed.join(", "))),
    }
}

struct Kernel {
    /// Where its package was unpacked.
    dir: PathBuf,
    image: PathBuf,
    /// The folder of its modules, as in the package.
    modules: PathBuf,
}

fn folder() -> PathBuf {
    target().join("emulate")
}

/// Brings the package that this one depends on, by apt, and unpacks it.
fn download(package: &str) -> Result<Kernel, String> {
    let said = output(&mut command("apt-cache", &["depends", package]))?;
    let depends = |line: &str| Some(line.trim().strip_prefix("Depends: ")?.to_owned());
    let mut real = said.lines().filter_map(depends);
    let real = real
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| format!("{package} names no kernel"))?;
    let begin = format!("{real}_");
    let dir = folder();
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let there = || find(&dir, &|file| file.starts_with(&begin) && file.ends_with(".deb"));
    if there().is_none() {
        finish(command("apt-get", &["-q", "download", &real]).current_dir(&dir))?;
    }
    unpack(&there().ok_or_else(|| format!("{real} was not downloaded"))?)
}

/// Unpacks a kernel's package; it is not installed.
fn unpack(package: &Path) -> Result<Kernel, String> {
    let dir = folder().join(package.file_stem().unwrap_or_default());
    if !dir.join("boot").is_dir() {
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        finish(&mut command("dpkg-deb", &["-x", &text(package), &text(&dir)]))?;
    }
    let image = find(&dir.join("boot"), &|file| file.starts_with("vmlinuz"))
        .ok_or_else(|| format!("{} has no kernel in it", package.display()))?;
    let modules = find(&dir, &|file| file == "modules.order")
        .and_then(|file| file.parent().map(PathBuf::from))
        .ok_or_else(|| format!("{} has no modules in it", package.display()))?;
    Ok(Kernel { dir, image, modules })
}

fn find(dir: &Path, is_it: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut inside = Vec::new();
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            inside.push(path);
        } else if is_it(&entry.file_name().to_string_lossy()) {
            return Some(path);
        }
    }
    inside.iter().find_map(|dir| find(dir, is_it))
}

/// Modules that are loaded when they are asked for, as on any machine.
const MODULES: &str = "kernel/net/tls kernel/crypto kernel/arch/x86/crypto kernel/lib/crypto modules.builtin modules.builtin.modinfo \
                       modules.order";

/// The programs that the tests are, built.
fn tests() -> Result<Vec<(PathBuf, &'static [&'static str])>, String> {
    let mut words = vec!["test", "-q", "--profile", QUICK, "-p", "tidegate-e2e", "--no-run"];
    words.push("--message-format=json-render-diagnostics");
    words.extend(TESTS.iter().flat_map(|(name, _)| ["--test", name]));
    let told = output(cargo(&words).stderr(Stdio::inherit()))?;
    let built: Vec<Value> =
        told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = |name: &str| -> Result<PathBuf, String> {
        let is_it =
            |line: &&Value| line["target"]["name"] == name && line["executable"].is_string();
        let line = built.iter().find(is_it).ok_or_else(|| format!("{name} was not built"))?;
        Ok(PathBuf::from(line["executable"].as_str().unwrap_or_default()))
    };
    TESTS.iter().map(|(name, words)| Ok((program(name)?, *words))).collect()
}

/// The initial file system, packed.
fn initial(kernel: &Kernel, tests: &[(PathBuf, &[&str])]) -> Result<PathBuf, String> {
    let root = kernel.dir.join("root");
    let failed = |e: std::io::Error| format!("{}: {e}", root.display());
    let _old = fs::remove_dir_all(&root);
    fs::create_dir_all(root.join("bin")).map_err(failed)?;
    let put = |from: &Path, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(from, to)
    };
    put(Path::new("/bin/busybox"), "bin/busybox").map_err(failed)?;
    symlink("busybox", root.join("bin/sh")).map_err(failed)?;
    let release = target().join("release");
    let mut programs: Vec<(PathBuf, String)> = ["tidegated", "tidegate", "tidegate-load"]
        .iter()
        .map(|name| (release.join(name), format!("bin/{name}")))
        .collect();
    let mut script = INIT.to_owned();
    let version = kernel.modules.file_name().unwrap_or_default().to_string_lossy();
    let place = text(&root.join("lib/modules").join(&*version));
    let bring = format!(
        "mkdir -p {place} && cp -r --parents $(ls -d {MODULES} 2>/dev/null) {place} && \
         find {place} -name '*.xz' -exec xz -d {{}} +"
    );
    finish(command("sh", &["-c", &bring]).current_dir(&kernel.modules))?;
    for (number, (path, words)) in tests.iter().enumerate() {
        programs.push((path.clone(), format!("tests/{number}")));
        script += &format!("/tests/{number} --test-threads 1 {}\n", words.join(" "));
    }
    script += "cat /proc/net/tls_stat\npoweroff -f\n";
    for (path, name) in &programs {
        put(path, name).map_err(failed)?;
        for library in output(&mut command("ldd", &[&text(path)]))?.split_whitespace() {
            if library.starts_with('/') {
                put(Path::new(library), library).map_err(failed)?;
            }
        }
    }
    let init = root.join("init");
    fs::write(&init, script).map_err(failed)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    let packed = kernel.dir.join("initial.gz");
    let pack = format!("find . | cpio -o -H newc --quiet | gzip -1 > {}", text(&packed));
    finish(command("sh", &["-c", &pack]).current_dir(&root))?;
    Ok(packed)
}

const INIT: &str = "#!/bin/sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ip link set lo up
depmod
echo /bin/modprobe > /proc/sys/kernel/modprobe
ulimit -n 65536
export PATH=/bin TIDEGATE_BIN_DIR=/bin TIDEGATE_KTLS=1 TIDEGATE_KTLS_MUST=1 RUST_BACKTRACE=0
uname -r
";

fn machine(kernel: &Kernel, disk: &Path) -> std::process::Command {
    let (image, disk) = (text(&kernel.image), text(disk));
    let mut words =
        vec![SECONDS_MAX, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"];
    words.extend([
        "-smp",
        "2",
        "-m",
        "3072",
        "-nographic",
        "-no-reboot",
        "-kernel",
        &image,
        "-initrd",
        &disk,
    ]);
    words.extend(["-append", "console=ttyS0 panic=-1 quiet mitigations=off nokaslr tsc=reliable"]);
    let mut machine = command("timeout", &words);
    machine.stdin(Stdio::null());
    machine
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
