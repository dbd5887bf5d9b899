//! The admin port of a node with `admin_tls` is for operators who prove themselves: whoever does not gets no answer, and
//! commands get theirs. Method: certificates that `tidegate tls` makes, as an operator would.

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output};
use tidegate_contract::{FleetTls, Machine, Role, Server};
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::tls::{client, name};
use tidegate_e2e::{Connection, Fleet, FleetOptions, Response, get};

fn tidegate(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(binary("tidegate")).current_dir(dir).args(arguments).output().unwrap()
}

fn done(dir: &Path, arguments: &[&str]) -> String {
    let output = tidegate(dir, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn operators_prove_themselves_and_nobody_else_is_answered() {
    let options = FleetOptions { parents: 1, edges: 1, fleet_tls: true, ..FleetOptions::default() };
    let mut fleet = Fleet::start("admin-tls", &options);
    let body = fleet.put("t.m4s", 1000);
    let dir = fleet.dir.clone();
    done(&dir, &["tls", "make-ca", "--out", "admin"]);
    let zone = fleet.snapshot.zone.clone();
    for id in ["edge-1", "parent-1", "operator"] {
        let made_out = format!("{id}.{zone}");
        done(&dir, &["tls", "make-cert", "--ca", "admin", "--out", id, "--name", &made_out]);
    }
    std::fs::copy(dir.join("admin/ca.pem"), dir.join("operator/ca.pem")).unwrap();
    let path = |file: &str| dir.join(file).display().to_string();
    for server in fleet.snapshot.servers.iter_mut().filter(|s| s.id != "origin-1") {
        server.machine.admin_tls = Some(FleetTls {
            chain: path(&format!("{}/cert.pem", server.id)),
            key: path(&format!("{}/key.pem", server.id)),
            authorities: path("admin/ca.pem"),
            revoked: None,
        });
    }
    fleet.snapshot.generation += 1;
    fleet.publish();
    let ids = ["edge-1", "parent-1"];
    let addresses = ids.map(|id| fleet.member(id).admin());
    fleet.until("plain HTTP is answered no more", |_| {
        addresses.iter().all(|address| get(*address, "x", "/health", "").is_err())
    });

    let ask = |index: usize, shown: Option<(&Path, &Path)>| -> io::Result<Response> {
        let config = client(&[&dir.join("admin/ca.pem")], shown);
        let asked = name(&format!("{}.{zone}", ids[index]));
        Connection::open_tls_as(addresses[index], config, asked)?.get("x", "/health", "")
    };
    let operator = (dir.join("operator/cert.pem"), dir.join("operator/key.pem"));
    let server = (dir.join("fleet-edge-1.crt"), dir.join("fleet-edge-1.key"));
    for index in 0..2 {
        let answer = ask(index, Some((&operator.0, &operator.1))).unwrap();
        assert_eq!((answer.status, answer.body), (200, b"ok\n".to_vec()));
        assert!(ask(index, None).is_err(), "who shows nothing");
        assert!(ask(index, Some((&server.0, &server.1))).is_err(), "a server is no operator");
    }
    // Nor is an operator a server, or content served to him there.
    let config = client(&[&dir.join("fleet.pem")], Some((&operator.0, &operator.1)));
    let parent = fleet.member("parent-1").https();
    let asked = Connection::open_tls_as(parent, config, name(&format!("parent-1.{zone}")))
        .and_then(|mut connection| connection.get(HOST, "/t.m4s", ""));
    assert!(asked.is_err());
    assert_eq!(get(fleet.member("edge-1").http(), HOST, "/t.m4s", "").unwrap().body, body);

    // Commands: with the operator's folder, and without.
    let files = ["--snapshot", "snapshot", "--trust", "trust.pub"];
    let url = format!("http://{HOST}/t.m4s");
    let purge = [&["purge", "--url", &url][..], &files].concat();
    let explain = [&["explain", &url, "--client", "192.0.2.1"][..], &files].concat();
    let output = tidegate(&dir, &purge);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("edge-1") && said.contains("give --identity"), "{said}");
    let said = done(&dir, &[&purge[..], &["--identity", "operator"]].concat());
    assert_eq!(said.matches(" purged (").count(), 2, "{said}");
    let said = done(&dir, &[&explain[..], &["--identity", "operator"]].concat());
    assert!(said.contains("edge edge-1 says"), "{said}");
    // Another node's certificate is none for this one.
    for file in ["cert.pem", "key.pem"] {
        std::fs::copy(dir.join("parent-1").join(file), dir.join("edge-1").join(file)).unwrap();
    }
    fleet.until("it is shown", |_| {
        !tidegate(&dir, &[&purge[..], &["--identity", "operator"]].concat()).status.success()
    });
}

struct Controls(Child);

impl Drop for Controls {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// A router or a monitor beside the fleet, which the fleet does not start.
fn control(fleet: &Fleet, id: &str, role: Role, host: u8) -> Server {
    let mut server = fleet.member("edge-1").server.clone();
    let IpAddr::V4(edge) = server.addresses[0] else { panic!("fleets are IPv4") };
    let [a, b, c, _] = edge.octets();
    let ip = IpAddr::V4(Ipv4Addr::new(a, b, c, host));
    let tcp = || TcpListener::bind((ip, 0)).and_then(|l| l.local_addr()).unwrap().port();
    let udp = || UdpSocket::bind((ip, 0)).and_then(|s| s.local_addr()).unwrap().port();
    server.machine = Machine::plain(0, server.machine.ram_bytes);
    (server.id, server.role, server.addresses) = (id.to_owned(), role, vec![ip]);
    (server.cache_group, server.https_port) = (None, None);
    (server.http_port, server.admin_port) = (Some(tcp()), tcp());
    server.heartbeat_port = Some(udp());
    server.dns_port = (role == Role::Router).then(udp);
    server
}

#[test]
fn routers_and_monitors_are_for_operators_too() {
    // Goal: as the other test, of the control plane; besides, one who does not finish his handshake holds up nobody, and files that
    // cannot be used leave the old ones in use. Method: both roles in one process, on certificates by `tidegate tls`.
    let options = FleetOptions { parents: 1, edges: 1, ..FleetOptions::default() };
    let mut fleet = Fleet::start("admin-tls-control", &options);
    let dir = fleet.dir.clone();
    let zone = fleet.snapshot.zone.clone();
    done(&dir, &["tls", "make-ca", "--out", "admin"]);
    done(&dir, &["tls", "make-ca", "--out", "other"]);
    for (ca, id) in [
        ("admin", "router-1"),
        ("admin", "monitor-1"),
        ("admin", "operator"),
        ("other", "stranger"),
    ] {
        let made_out = format!("{id}.{zone}");
        done(&dir, &["tls", "make-cert", "--ca", ca, "--out", id, "--name", &made_out]);
    }
    std::fs::copy(dir.join("admin/ca.pem"), dir.join("operator/ca.pem")).unwrap();
    let path = |file: &str| dir.join(file).display().to_string();
    let mut servers = [
        control(&fleet, "router-1", Role::Router, 201),
        control(&fleet, "monitor-1", Role::Monitor, 202),
    ];
    for server in &mut servers {
        server.machine.admin_tls = Some(FleetTls {
            chain: path(&format!("{}/cert.pem", server.id)),
            key: path(&format!("{}/key.pem", server.id)),
            authorities: path("admin/ca.pem"),
            revoked: None,
        });
    }
    fleet.snapshot.servers.extend(servers.clone());
    fleet.snapshot.generation += 1;
    fleet.publish();
    let start = || {
        Command::new(binary("tidegate"))
            .args(["run", "--role", "router,monitor", "--node", "router-1,monitor-1"])
            .args(["--snapshot", "snapshot", "--trust", "trust.pub", "--decision-log", "none"])
            .current_dir(&dir)
            .stderr(
                File::options().create(true).append(true).open(dir.join("control.err")).unwrap(),
            )
            .spawn()
            .unwrap()
    };
    // What cannot be shown is found before anything is served.
    let key = dir.join("router-1/key.pem");
    let kept = std::fs::read(&key).unwrap();
    std::fs::write(&key, "").unwrap();
    assert!(!start().wait().unwrap().success());
    let said = || std::fs::read_to_string(dir.join("control.err")).unwrap();
    assert!(
        said().contains("server router-1: admin_tls: ") && said().contains("key.pem"),
        "{}",
        said()
    );
    std::fs::write(&key, &kept).unwrap();
    let _controls = Controls(start());

    let at = |server: &Server| SocketAddr::new(server.addresses[0], server.admin_port);
    let shown = |id: &str| (dir.join(id).join("cert.pem"), dir.join(id).join("key.pem"));
    let ask = |server: &Server, shown: Option<(&Path, &Path)>| -> io::Result<Response> {
        let config = client(&[&dir.join("admin/ca.pem")], shown);
        Connection::open_tls_as(at(server), config, name(&format!("{}.{zone}", server.id)))?
            .get("x", "/health", "")
    };
    let operator = shown("operator");
    let asks = |server: &Server| ask(server, Some((&operator.0, &operator.1)));
    fleet.until("they serve", |_| servers.iter().all(|server| asks(server).is_ok()));
    let stranger = shown("stranger");
    for server in &servers {
        // One who says nothing, one who says half of it.
        let _silent = TcpStream::connect(at(server)).unwrap();
        let mut half = TcpStream::connect(at(server)).unwrap();
        half.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
        let answer = asks(server).unwrap();
        assert_eq!((answer.status, answer.body), (200, b"ok\n".to_vec()));
        assert!(ask(server, None).is_err(), "who shows nothing");
        assert!(ask(server, Some((&stranger.0, &stranger.1))).is_err(), "who is of others");
        assert!(get(at(server), "x", "/health", "").is_err(), "plain");
    }
    let url = format!("http://{HOST}/t.m4s");
    let files = ["--snapshot", "snapshot", "--trust", "trust.pub"];
    let explain = [&["explain", &url, "--client", "192.0.2.1"][..], &files].concat();
    let said_by = |more: &[&str]| {
        let output = tidegate(&dir, &[&explain[..], more].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(said_by(&[]).contains("no router reachable"));
    assert!(said_by(&["--identity", "operator"]).contains("router router-1, generation 2"));

    // Files: bad ones leave the old ones in use, other ones are shown.
    std::fs::write(&key, "").unwrap();
    fleet.until("it is said", |_| {
        asks(&servers[0]).is_ok() && said().contains("the old files go on")
    });
    std::fs::write(&key, &kept).unwrap();
    for file in ["cert.pem", "key.pem"] {
        std::fs::copy(dir.join("operator").join(file), dir.join("router-1").join(file)).unwrap();
    }
    fleet.until("another name is shown", |_| asks(&servers[0]).is_err());
    assert!(asks(&servers[1]).is_ok());
    // And the snapshot: plain again.
    for server in &mut fleet.snapshot.servers {
        server.machine.admin_tls = None;
    }
    fleet.snapshot.generation += 1;
    fleet.publish();
    fleet.until("plain HTTP is answered", |_| {
        servers.iter().all(|server| get(at(server), "x", "/health", "").is_ok())
    });
}

#[test]
fn a_revoked_operator_is_told_nothing_more() {
    // Goal: who is on the list is turned away by nodes, routers and monitors, also on a connection that stands; the others go on, and
    // a list that cannot be used changes nothing.
    let options = FleetOptions { parents: 1, edges: 1, ..FleetOptions::default() };
    let mut fleet = Fleet::start("admin-revoked", &options);
    let dir = fleet.dir.clone();
    let zone = fleet.snapshot.zone.clone();
    let mut servers = vec![
        fleet.member("edge-1").server.clone(),
        control(&fleet, "router-1", Role::Router, 201),
        control(&fleet, "monitor-1", Role::Monitor, 202),
    ];
    done(&dir, &["tls", "make-ca", "--out", "admin"]);
    for id in ["edge-1", "router-1", "monitor-1", "operator", "colleague"] {
        let made_out = format!("{id}.{zone}");
        done(&dir, &["tls", "make-cert", "--ca", "admin", "--out", id, "--name", &made_out]);
    }
    let revoke = |more: &[&str]| {
        done(&dir, &[&["tls", "revoke", "--ca", "admin", "--crl", "crl.pem"], more].concat())
    };
    revoke(&[]);
    let path = |file: &str| dir.join(file).display().to_string();
    for server in &mut servers {
        server.machine.admin_tls = Some(FleetTls {
            chain: path(&format!("{}/cert.pem", server.id)),
            key: path(&format!("{}/key.pem", server.id)),
            authorities: path("admin/ca.pem"),
            revoked: Some(path("crl.pem")),
        });
    }
    fleet.snapshot.servers.retain(|server| server.id != "edge-1");
    fleet.snapshot.servers.extend(servers.clone());
    fleet.snapshot.generation += 1;
    fleet.publish();
    let errors = File::create(dir.join("control.err")).unwrap();
    let _controls = Controls(
        Command::new(binary("tidegate"))
            .args(["run", "--role", "router,monitor", "--node", "router-1,monitor-1"])
            .args(["--snapshot", "snapshot", "--trust", "trust.pub", "--decision-log", "none"])
            .current_dir(&dir)
            .stderr(errors)
            .spawn()
            .unwrap(),
    );
    let open = |server: &Server, who: &str| {
        let (chain, key) = (dir.join(who).join("cert.pem"), dir.join(who).join("key.pem"));
        let config = client(&[&dir.join("admin/ca.pem")], Some((&chain, &key)));
        let address = SocketAddr::new(server.addresses[0], server.admin_port);
        Connection::open_tls_as(address, config, name(&format!("{}.{zone}", server.id)))
    };
    let asks = |server: &Server, who: &str| {
        open(server, who).and_then(|mut c| c.get("x", "/health", "")).is_ok_and(|r| r.status == 200)
    };
    let all = |who: &str| servers.iter().all(|server| asks(server, who));
    let any = |who: &str| servers.iter().any(|server| asks(server, who));
    fleet.until("they serve operators", |_| all("operator") && all("colleague"));
    let stand = |who: &str| -> Vec<Connection> {
        servers.iter().map(|server| open(server, who).unwrap()).collect()
    };
    let (mut kept, mut others) = (stand("operator"), stand("colleague"));
    let health = |connection: &mut Connection| connection.get("x", "/health", "").map(|r| r.status);
    assert!(kept.iter_mut().chain(&mut others).all(|c| health(c).is_ok_and(|s| s == 200)));

    let said = revoke(&["--cert", "operator/cert.pem"]);
    assert!(said.contains("revoked ") && said.contains("which revokes 1"), "{said}");
    fleet.until("the operator is turned away", |_| !any("operator"));
    assert!(kept.iter_mut().all(|connection| health(connection).is_err()), "standing ones too");
    assert!(all("colleague") && others.iter_mut().all(|c| health(c).is_ok_and(|s| s == 200)));

    std::fs::write(dir.join("crl.pem"), "no list").unwrap();
    let control_said = || std::fs::read_to_string(dir.join("control.err")).unwrap();
    fleet.until("it is refused", |fleet| {
        let control = control_said();
        fleet.said("edge-1").contains("certificates refused, the old ones go on: revoked ")
            && control.contains("router: revoked ")
            && control.contains("monitor: revoked ")
            && control.contains("the old files go on")
    });
    assert!(!any("operator") && all("colleague"));
    std::fs::remove_file(dir.join("crl.pem")).unwrap();
    revoke(&[]);
    fleet.until("he is let in again", |_| all("operator") && all("colleague"));
}
