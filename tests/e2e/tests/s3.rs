//! Origins that are S3 buckets. Method: a bucket of the test's own that recomputes each request's signature from the bytes
//! that came (AWS Signature Version 4, written here a second time) and refuses what does not fit, as S3 does. Class of
//! proof: a model of the store by its documents, not the store itself.

use aws_lc_rs::{digest, hmac};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tidegate_contract::{OriginS3, Role, Snapshot};
use tidegate_e2e::{Asked, Fleet, FleetOptions, HandOrigin, content, range_of, reply};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const KEY_ID: &str = "AKIDEXAMPLE";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Whether the request is signed with this secret, over what the signature says that it covers.
fn is_signed(asked: &Asked, secret: &str) -> bool {
    let authorization = asked.field("authorization");
    let part = |name: &str| {
        authorization
            .split([',', ' '])
            .find_map(|part| part.strip_prefix(name))
            .unwrap_or_default()
            .to_owned()
    };
    let (credential, names, signature) =
        (part("Credential="), part("SignedHeaders="), part("Signature="));
    let Some((id, scope)) = credential.split_once('/') else { return false };
    let [date, region, "s3", "aws4_request"] = scope.split('/').collect::<Vec<_>>()[..] else {
        return false;
    };
    let covered = ["host", "x-amz-content-sha256", "x-amz-date"];
    let fields: Vec<&str> = names.split(';').collect();
    if id != KEY_ID || !covered.iter().all(|name| fields.contains(name)) || !fields.is_sorted() {
        return false;
    }
    let method = asked.line.split(' ').next().unwrap_or_default();
    let lines: String =
        fields.iter().map(|name| format!("{name}:{}\n", asked.field(name))).collect();
    let (path, query) = asked.target().split_once('?').unwrap_or((asked.target(), ""));
    let body = asked.field("x-amz-content-sha256");
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{body}");
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hash}", asked.field("x-amz-date"));
    let mut key = mac(format!("AWS4{secret}").as_bytes(), date);
    for word in [region, "s3", "aws4_request"] {
        key = mac(&key, word);
    }
    asked.field("x-amz-date").starts_with(date) && hex(&mac(&key, &text)) == signature
}

/// A bucket `films` with every object below `vod/` but those that begin with `none`.
fn bucket(secret: Arc<Mutex<String>>) -> HandOrigin {
    HandOrigin::start(LOCAL, move |asked, stream| {
        if !is_signed(asked, &secret.lock().unwrap()) {
            return reply(stream, 403, "", b"<Error><Code>SignatureDoesNotMatch</Code></Error>");
        }
        let Some(key) =
            asked.target().strip_prefix("/films/vod 2026/".replace(' ', "%20").as_str())
        else {
            return reply(stream, 404, "", b"<Error><Code>NoSuchBucket</Code></Error>");
        };
        if key.starts_with("none") {
            return reply(stream, 404, "", b"<Error><Code>NoSuchKey</Code></Error>");
        }
        let bytes = content(key, 700_000);
        let fields = "ETag: \"s3\"\r\nLast-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\n";
        match range_of(asked, bytes.len()) {
            Some((first, last)) => {
                let fields = format!("{fields}Content-Range: bytes {first}-{last}/700000\r\n");
                reply(stream, 206, &fields, &bytes[first..=last]);
            }
            None => reply(stream, 200, fields, &bytes),
        }
    })
}

fn with_bucket(snapshot: &mut Snapshot) {
    let store = snapshot.servers.iter().find_map(|s| s.machine.stores.first());
    let folder = Path::new(&store.unwrap().path).parent().unwrap().to_owned();
    for server in snapshot.servers.iter_mut().filter(|s| s.role == Role::Origin) {
        server.origin_s3 = Some(OriginS3 {
            region: "eu-central-1".to_owned(),
            bucket: Some("films".to_owned()),
            prefix: Some("/vod 2026/".to_owned()),
            credentials_file: folder.join("credentials").display().to_string(),
        });
    }
}

fn write_credentials(folder: &Path, secret: &str, token: &str) {
    let text = format!(
        "[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {secret}\n{token}"
    );
    fs::write(folder.join("credentials.new"), text).unwrap();
    fs::rename(folder.join("credentials.new"), folder.join("credentials")).unwrap();
}

#[test]
fn a_bucket_is_read_with_signed_requests_and_credentials_change_live() {
    // Goal: SigV4 on every kind of request, odd names, and a change of credentials without a restart. Method: the bucket
    // answers only what is signed right; bodies are compared; what was refused is not stored.
    let secret = Arc::new(Mutex::new("first/secret+1".to_owned()));
    let origin = bucket(secret.clone());
    let mut fleet = Fleet::start(
        "bucket",
        &FleetOptions {
            edges: 1,
            parents: 1,
            origin: Some(origin.address),
            adjust: with_bucket,
            prepare: |folder| write_credentials(folder, "first/secret+1", ""),
            ..FleetOptions::default()
        },
    );
    // The key as S3 has it, and how clients write it.
    for (path, key) in [
        ("/a.m4s", "a.m4s"),
        ("/deep/er/b.m4s", "deep/er/b.m4s"),
        ("/with%20space%2Bplus", "with%20space%2Bplus"),
        ("/a+b(c)'d", "a%2Bb%28c%29%27d"),
        ("/%C3%A9t%C3%A9", "%C3%A9t%C3%A9"),
        ("/q.m4s?x=1&y=2", "q.m4s"),
    ] {
        let response = fleet.get("edge-1", path, "Cookie: a=b\r\n").unwrap();
        assert_eq!(response.status, 200, "{path}: {}", String::from_utf8_lossy(&response.body));
        assert!(response.body == content(key, 700_000), "{path}");
    }
    let part = fleet.get("edge-1", "/r.m4s", "Range: bytes=600000-600009\r\n").unwrap();
    assert_eq!((part.status, &part.body[..]), (206, &content("r.m4s", 700_000)[600_000..=600_009]));
    assert_eq!(fleet.get("edge-1", "/none.m4s", "").unwrap().status, 404);
    // A client's own credentials are not sent on.
    let own = fleet.get("edge-1", "/own.m4s", "Authorization: Basic YW5u\r\n").unwrap();
    assert_eq!(own.status, 200);
    let asked = origin.all();
    assert!(asked.iter().all(|asked| asked.field("cookie").is_empty()));
    assert!(
        asked.iter().all(|asked| asked.field("authorization").starts_with("AWS4-HMAC-SHA256 "))
    );
    // The store's owner changes the secret: refused until the file says so, and nothing of a refusal stays.
    *secret.lock().unwrap() = "second".to_owned();
    let refused = fleet.get("edge-1", "/new.m4s", "").unwrap();
    assert_eq!(refused.status, 403);
    write_credentials(&fleet.dir, "second", "aws_session_token = tok/en==\n");
    fleet.until("the new credentials are taken up", |fleet| {
        fleet.get("edge-1", "/new.m4s", "").unwrap().status == 200
    });
    assert_eq!(origin.all().last().unwrap().field("x-amz-security-token"), "tok/en==");
    // A broken file is told of, and the old credentials go on.
    fs::write(fleet.dir.join("credentials"), "nonsense\n").unwrap();
    fleet.until("it is told", |fleet| fleet.said("parent-1").contains("the old credentials go on"));
    assert_eq!(fleet.get("edge-1", "/newer.m4s", "").unwrap().status, 200);
    for log in ["parent-1.err", "parent-1.log", "edge-1.log"] {
        let text = fs::read_to_string(fleet.dir.join(log)).unwrap_or_default();
        assert!(!text.contains("first/secret") && !text.contains("tok/en"), "{log} tells a secret");
    }
    // Only read: a method that would change the bucket is not signed.
    let mut client = tidegate_e2e::Connection::open(fleet.member("edge-1").http()).unwrap();
    let post = "POST /a.m4s HTTP/1.1\r\nHost: film.example\r\nContent-Length: 1\r\n\r\nx";
    client.send(post.as_bytes()).unwrap();
    assert_eq!(client.response(false).unwrap().status, 502);
    assert!(origin.all().iter().all(|asked| !asked.line.starts_with("POST")));
    let said = fleet.refused_start("parent-1");
    assert!(said.contains("line 1 is none of") && said.contains("credentials"), "{said}");
}
