//! The units that are delivered, under a real systemd: it is process 1 of namespaces of its own, on a root that is this
//! machine's with a layer in memory above it, so that nothing of this machine is touched. The test is copied into it and runs there
//! as one more unit (`Inside`), by which the others are started, asked, hung, replaced and stopped.
//!
//! Needs root, user-visible overlay mounts and systemd; skipped with the reason where one is not to be had.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_contract::{PublicKey, Role, Server, SigningKey, Snapshot, sign};
use tidegate_e2e::fleet::{HOST, binary, plan};
use tidegate_e2e::{Connection, FleetOptions, content, get};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(120);
const DONE: &str = "all of the machine's part passed";
/// Where this test runs in it.
const INSIDE: &str = "TIDEGATE_INSIDE";

#[test]
fn the_units_do_under_systemd_what_they_say() {
    if std::env::var_os(INSIDE).is_some() {
        return Inside::new().run();
    }
    if let Err(why) = possible() {
        return println!("not tried: {why}");
    }
    let dir = std::env::temp_dir().join(format!("tidegate-systemd-{}", std::process::id()));
    let _old = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("add")).unwrap();
    lay_out(&dir.join("add"));
    let console = dir.join("console");
    fs::write(&console, "").unwrap();
    fs::write(dir.join("cgroup"), CGROUP).unwrap();
    fs::write(dir.join("boot"), BOOT).unwrap();
    let group = format!("tidegate-{}", std::process::id());
    let mut machine = Command::new("unshare")
        .args(["--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--kill-child"])
        .args(["bash", "cgroup", &group])
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(fs::File::create(dir.join("said")).unwrap())
        .stderr(fs::File::options().append(true).create(true).open(dir.join("said")).unwrap())
        .spawn()
        .unwrap();
    let until = Instant::now() + 3 * PATIENCE;
    let mut is_over = false;
    while !is_over && Instant::now() < until {
        is_over = machine.try_wait().unwrap().is_some();
        std::thread::sleep(Duration::from_millis(20));
        is_over |= fs::read_to_string(&console).unwrap_or_default().contains("MACHINE ENDS");
    }
    let _ended_already = machine.kill();
    machine.wait().unwrap();
    let tidied = Command::new("unshare")
        .args(["--mount", "bash", "-c", TIDY, "tidy", &group])
        .current_dir(&dir)
        .status();
    assert!(tidied.unwrap().success(), "its groups of processes are still there");
    let read =
        |file: &str| String::from_utf8_lossy(&fs::read(dir.join(file)).unwrap()).into_owned();
    let told = read("console");
    assert!(told.contains(DONE), "{}\n{told}", read("said"));
    told.lines()
        .filter(|line| line.contains("max locked memory"))
        .for_each(|line| println!("{line}"));
    fs::remove_dir_all(dir).unwrap();
}

/// Whether such a machine can be made here.
fn possible() -> Result<(), String> {
    if !Path::new("/usr/lib/systemd/systemd").exists() {
        return Err("there is no systemd here".to_owned());
    }
    let tried = Command::new("unshare")
        .args(["--pid", "--fork", "--mount", "--cgroup", "--net", "bash", "-c"])
        .arg(
            "d=$(mktemp -d) && mount -t tmpfs t $d && mkdir $d/u $d/w $d/r $d/c && mount -t overlay o \
             -o lowerdir=/,upperdir=$d/u,workdir=$d/w $d/r && mount -t cgroup2 c $d/c && \
             umount -R $d && rmdir $d",
        )
        .output()
        .map_err(|e| format!("unshare: {e}"))?;
    match tried.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
    }
}

/// What is laid over this machine's files.
fn lay_out(add: &Path) {
    let put = |from: &Path, to: &str| {
        let to = add.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    for program in ["tidegated", "tidegate"] {
        put(&binary(program), &format!("usr/bin/{program}"));
    }
    put(&std::env::current_exe().unwrap(), "usr/bin/inside");
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
    for entry in fs::read_dir(units).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        put(&entry.path(), &format!("etc/systemd/system/{name}"));
    }
    let write = |to: &str, text: &str| {
        let to = add.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, text).unwrap();
    };
    write("etc/systemd/system/inside.service", INSIDE_UNIT);
    // A core can be hung, and that is found soon.
    write("etc/systemd/system/tidegated@.service.d/fault.conf", FAULT);
    write("etc/systemd/system/tidegate@.service.d/alone.conf", ALONE);
}

/// Makes a group of processes that is the machine's root of groups.
const CGROUP: &str = r"
set -e
mkdir groups
mount -t cgroup2 c groups
own=groups$(sed -n 's/^0:://p' /proc/self/cgroup)/$1
mkdir $own
echo 0 > $own/cgroup.procs
umount groups
exec unshare --cgroup bash boot
";

/// And takes it away, when all of them have ended.
const TIDY: &str = r"
mount -t cgroup2 c groups
own=groups$(sed -n 's/^0:://p' /proc/self/cgroup)/$1
for i in $(seq 1000); do
    find $own -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d $own ] || exit 0
    sleep 0.01
done
exit 1
";

/// Makes the machine's root and goes over to it. What is written there is gone with it; the kernel's switches are read only.
const BOOT: &str = r"
set -e
mkdir mnt
mount -t tmpfs t mnt
mkdir mnt/up mnt/work mnt/root
cp -a add/. mnt/up/
here=$PWD
mount -t overlay o -o lowerdir=/,upperdir=$here/mnt/up,workdir=$here/mnt/work mnt/root
cd mnt/root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t tmpfs run run
mount -t tmpfs tmp tmp
mount -t tmpfs dev dev -o mode=755
for n in null zero full random urandom tty; do touch dev/$n; mount --bind /dev/$n dev/$n; done
mkdir dev/shm dev/pts
mount -t tmpfs shm dev/shm
mount -t devpts pts dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
touch dev/console
mount --bind $here/console dev/console
mount -t sysfs sys sys -o ro
mount -t cgroup2 cgroup sys/fs/cgroup
# On file systems of their own: the layer above has no direct I/O for files that lie below it.
mkdir -p var/lib/tidegate srv/films
mount -t tmpfs state var/lib/tidegate
pivot_root . mnt
umount -l /mnt
rm -f /etc/machine-id
: > /etc/machine-id
echo 'tidegate:x:64321:64321::/:/usr/sbin/nologin' >> /etc/passwd
echo 'tidegate:x:64321:' >> /etc/group
mkdir -p /etc/tidegate
export container=other
exec /usr/lib/systemd/systemd --system --unit=inside.service --log-target=console --log-level=notice \
    --show-status=0 </dev/null >/dev/console 2>&1
";

const INSIDE_UNIT: &str = "[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
Environment=TIDEGATE_INSIDE=1
ExecStart=/usr/bin/inside --nocapture
ExecStopPost=/bin/sh -c 'echo MACHINE ENDS'
StandardOutput=append:/dev/console
StandardError=append:/dev/console
TimeoutStartSec=infinity
";

const FAULT: &str = "[Unit]
DefaultDependencies=no
[Service]
ExecStart=
ExecStart=/usr/bin/tidegated --node %i --snapshot /etc/tidegate/snapshot --trust /etc/tidegate/trust.pub \
    --log /var/log/tidegate/%i.log --drain-seconds 30 --test-fault /var/lib/tidegate/fault-%i
WatchdogSec=2s
StandardError=append:/run/said-%i
";

/// No other units than these.
const ALONE: &str = "[Unit]
DefaultDependencies=no
";

/// The part that runs in the machine.
struct Inside {
    snapshot: Snapshot,
    key: SigningKey,
}

impl Inside {
    fn new() -> Inside {
        let dir = PathBuf::from("/var/lib/tidegate");
        done("ip", &["link", "set", "lo", "up"]);
        let options = FleetOptions { parents: 1, edges: 1, cores: 1, ..FleetOptions::default() };
        let mut snapshot = plan([127, 9, 9], &dir, &options);
        for server in &mut snapshot.servers {
            if server.role == Role::Edge {
                server.http_port = Some(80); // for which a capability is needed
            }
            if server.role == Role::Origin {
                server.machine.origin_root = Some("/srv/films".to_owned());
            }
        }
        let mut router = snapshot.servers[2].clone();
        (router.id, router.role) = ("router-1".to_owned(), Role::Router);
        (router.cache_group, router.machine.stores) = (None, Vec::new());
        router.addresses = vec![[127, 9, 9, 99].into()];
        (router.dns_port, router.heartbeat_port) = (Some(53), Some(7946));
        snapshot.servers.push(router);
        let inside = Inside { snapshot, key: SigningKey::generate().unwrap() };
        let keys = PublicKey::list_to_text(&[inside.key.public()]);
        fs::write("/etc/tidegate/trust.pub", keys).unwrap();
        inside.publish();
        fs::write("/srv/films/a.m4s", content("a.m4s", 700_000)).unwrap();
        // As an operator would: readable by the units' user, and by nobody else.
        done("chown", &["-R", "tidegate:tidegate", "/etc/tidegate", "/srv/films"]);
        inside
    }

    fn publish(&self) {
        let (fresh, place) = ("/etc/tidegate/snapshot.new", "/etc/tidegate/snapshot");
        fs::write(fresh, sign(&self.snapshot, &self.key)).unwrap();
        fs::set_permissions(fresh, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(fresh, place).unwrap();
    }

    fn server(&self, id: &str) -> &Server {
        self.snapshot.servers.iter().find(|server| server.id == id).unwrap()
    }

    fn http(&self, id: &str) -> SocketAddr {
        let server = self.server(id);
        SocketAddr::new(server.addresses[0], server.http_port.unwrap())
    }

    fn film(&self) -> String {
        let answer = get(self.http("edge-1"), HOST, "/a.m4s", "").unwrap();
        assert!(answer.status == 200 && answer.body == content("a.m4s", 700_000));
        answer.cache_status("edge-1").unwrap()
    }

    fn run(mut self) {
        let units = ["origin-1", "parent-1", "edge-1"].map(|id| format!("tidegated@{id}"));
        // `Type=notify`: they serve when this is over.
        for unit in &units {
            done("systemctl", &["start", unit]);
        }
        assert!(!self.film().contains("hit"));
        assert!(self.film().contains("hit"));
        self.is_shut();
        self.reloads();
        self.is_replaced();
        self.is_hung();
        self.control_plane();
        for unit in &units {
            done("systemctl", &["stop", unit]);
            assert_eq!(show(unit, "Result"), "success", "{unit}");
            assert_eq!(show(unit, "ActiveState"), "inactive", "{unit}");
        }
        println!("{DONE}");
    }

    /// It runs as its own user with one capability, and cannot write where it has nothing to write.
    fn is_shut(&self) {
        let pid = show("tidegated@edge-1", "MainPID");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!(field("Uid:"), "64321");
        for set in ["CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 1 << 10, "{set}");
        }
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".to_owned(), "2".to_owned()));
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.split(' ').nth(5).unwrap().starts_with("ro"), "{root}");
        // Its buffers are registered, for which it may lock memory: so the manager was told, and so it is where process 1 may raise
        // limits itself. Where it may not, the process has the manager's own.
        assert_eq!(show("tidegated@edge-1", "LimitMEMLOCK"), "infinity");
        let locked = |pid: &str| {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max locked memory"));
            let [soft, hard] = [3, 4].map(|n| line.unwrap().split_whitespace().nth(n).unwrap());
            (soft.to_owned(), hard.to_owned())
        };
        let unlimited = || ("unlimited".to_owned(), "unlimited".to_owned());
        let said = fs::read_to_string("/run/said-edge-1").unwrap();
        println!("max locked memory: {:?}, process 1: {:?}", locked(&pid), locked("1"));
        match may_raise_limits() {
            true => assert_eq!(locked(&pid), unlimited(), "LimitMEMLOCK is not obeyed"),
            false => assert_eq!(locked(&pid).1, locked("1").1, "as much as process 1 may give"),
        }
        if locked(&pid) == unlimited() {
            assert!(!said.contains("not registered"), "{said}");
        }
    }

    fn reloads(&mut self) {
        self.snapshot.generation = 2;
        self.publish();
        done("systemctl", &["reload", "tidegated@edge-1"]);
        until("the manager is told of it", || {
            show("tidegated@edge-1", "StatusText") == "serving, generation 2"
        });
    }

    /// Another process takes the place, and the manager knows whom it looks after from then on.
    fn is_replaced(&self) {
        let unit = "tidegated@edge-1";
        let before = show(unit, "MainPID");
        let mut client = Connection::open(self.http("edge-1")).unwrap();
        assert_eq!(client.get(HOST, "/a.m4s", "").unwrap().status, 200);
        done("systemctl", &["kill", "--kill-whom=main", "--signal=USR2", unit]);
        until("it is another one", || {
            !["0".to_owned(), before.clone()].contains(&show(unit, "MainPID"))
        });
        assert_eq!(show(unit, "ActiveState"), "active");
        assert_eq!(client.get(HOST, "/a.m4s", "").unwrap().status, 200, "it goes on there");
        until("the old one has ended", || !Path::new(&format!("/proc/{before}")).exists());
        assert!(self.film().contains("hit"), "warm");
        assert_eq!(show(unit, "NRestarts"), "0");
        // The watchdog is fed by the new one, again and again.
        for _ in 0..3 {
            let fed = || show(unit, "WatchdogTimestampMonotonic");
            let before = fed();
            until("the watchdog is fed", || fed() != before);
        }
        assert_eq!(
            (show(unit, "ActiveState"), show(unit, "NRestarts")),
            ("active".into(), "0".into())
        );
    }

    /// A core that is stuck has the process killed and started anew, warm.
    fn is_hung(&self) {
        let unit = "tidegated@edge-1";
        fs::write("/var/lib/tidegate/fault-edge-1", "hang").unwrap();
        done("chown", &["tidegate", "/var/lib/tidegate/fault-edge-1"]);
        // It is hung when it answers nothing more; from then on the next one may not be.
        until("it is killed", || {
            show(unit, "Result") == "watchdog" || show(unit, "NRestarts") == "1"
        });
        fs::remove_file("/var/lib/tidegate/fault-edge-1").unwrap();
        until("the next one serves", || {
            show(unit, "ActiveState") == "active"
                && get(self.http("edge-1"), HOST, "/a.m4s", "").is_ok()
        });
        assert!(self.film().contains("hit"), "warm");
    }

    fn control_plane(&self) {
        let unit = "tidegate@router:router-1";
        done("systemctl", &["start", unit]);
        let router = self.server("router-1");
        let admin = SocketAddr::new(router.addresses[0], router.admin_port);
        until("it serves", || {
            get(admin, "x", "/health", "").is_ok_and(|answer| answer.status == 200)
        });
        done("systemctl", &["stop", unit]);
        assert_eq!(show(unit, "Result"), "success");
    }
}

/// Whether this machine's process 1 has CAP_SYS_RESOURCE.
fn may_raise_limits() -> bool {
    let status = fs::read_to_string("/proc/1/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap() & 1 << 24 != 0
}

fn done(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    if output.status.success() {
        return;
    }
    let unit = arguments.last().unwrap();
    let status =
        Command::new("systemctl").args(["status", "--no-pager", "-l", unit]).output().unwrap();
    panic!(
        "{program} {arguments:?}: {}\n{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&status.stdout)
    );
}

fn show(unit: &str, property: &str) -> String {
    let output =
        Command::new("systemctl").args(["show", "--value", "-p", property, unit]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn until(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
