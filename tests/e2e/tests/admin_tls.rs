//! The admin port of a node with `admin_tls` is for operators who prove themselves: whoever does not gets no answer, and
//! commands get theirs. Method: certificates that `tidegate tls` makes, as an operator would.

use std::io;
use std::path::Path;
use std::process::{Command, Output};
use tidegate_contract::FleetTls;
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
