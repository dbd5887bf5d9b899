//! A bucket in other people's S3: moto (a model of AWS from PyPI, with its identities and its check of signatures), read by
//! path style and by virtual-hosted style. Class of proof: an implementation that is not ours, not AWS itself. Where Python has
//! no moto the test is passed over, and the reason printed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tidegate_contract::{OriginS3, Role, Snapshot};
use tidegate_e2e::{Fleet, FleetOptions, content};

/// Uploads what lies below a folder, then wants a good signature for everything. Says its port and a key; lives as long as its
/// standard input.
const MOTO: &str = r#"
import boto3, json, logging, os, sys
import moto.settings
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
folder, host = sys.argv[1:]
server = ThreadedMotoServer(ip_address=host, port=0, verbose=False)
server.start()
port = server.get_host_and_port()[1]

def client(service):
    return boto3.client(
        service, endpoint_url=f"http://{host}:{port}", region_name="eu-central-1",
        aws_access_key_id="none", aws_secret_access_key="none")

iam = client("iam")
iam.create_user(UserName="parent")
key = iam.create_access_key(UserName="parent")["AccessKey"]
reads = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
policy = json.dumps({"Version": "2012-10-17", "Statement": [reads]})
iam.put_user_policy(UserName="parent", PolicyName="reads", PolicyDocument=policy)
s3 = client("s3")
s3.create_bucket(Bucket="films", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
for name in sorted(os.listdir(folder)):
    with open(os.path.join(folder, name), "rb") as file:
        s3.put_object(Bucket="films", Key="vod 2026/" + name, Body=file.read(),
                      CacheControl="max-age=3600", ContentType="video/iso.segment")
moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
print(port, key["AccessKeyId"], key["SecretAccessKey"], flush=True)
sys.stdin.read()
"#;

struct Moto {
    process: Child,
    address: SocketAddr,
    id: String,
    secret: String,
}

impl Moto {
    /// `None`: there is no Python with the moto of our lock file (others read `+` in a path otherwise).
    fn start(folder: &Path) -> Option<Moto> {
        let Ok(python) = std::env::var("TIDEGATE_PYTHON") else {
            println!("skipped: moto: TIDEGATE_PYTHON names none; mend: cargo xtask test brings it");
            return None;
        };
        let known = Command::new(&python).args(["-c", "import moto, boto3, flask_cors"]).output();
        let is_known = known.is_ok_and(|output| output.status.success());
        assert!(is_known, "{python} has no moto; mend: cargo xtask setup test");
        let mut process = Command::new(&python)
            .args(["-c", MOTO, &folder.display().to_string(), "127.0.0.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let [port, id, secret] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("moto did not start: {line}")
        };
        let address = (Ipv4Addr::LOCALHOST, port.parse().unwrap()).into();
        Some(Moto { process, address, id: id.to_owned(), secret: secret.to_owned() })
    }

    fn give_key(&self, folder: &Path, secret: &str) {
        let text = format!("aws_access_key_id = {}\naws_secret_access_key = {secret}\n", self.id);
        fs::write(folder.join("credentials.new"), format!("[default]\n{text}")).unwrap();
        fs::rename(folder.join("credentials.new"), folder.join("credentials")).unwrap();
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A secret that nobody has, until the test knows better.
fn no_secret(folder: &Path) {
    let text = "[default]\naws_access_key_id = NOBODY\naws_secret_access_key = none\n";
    fs::write(folder.join("credentials"), text).unwrap();
}

fn films(snapshot: &mut Snapshot, bucket: Option<&str>, host: &str) {
    let store = snapshot.servers.iter().find_map(|s| s.machine.stores.first());
    let folder = Path::new(&store.unwrap().path).parent().unwrap().to_owned();
    for server in snapshot.servers.iter_mut().filter(|s| s.role == Role::Origin) {
        server.origin_s3 = Some(OriginS3 {
            region: "eu-central-1".to_owned(),
            bucket: bucket.map(str::to_owned),
            prefix: Some("vod 2026".to_owned()),
            credentials_file: folder.join("credentials").display().to_string(),
        });
    }
    for service in &mut snapshot.delivery_services {
        service.origin_host = host.to_owned();
    }
}

fn by_path(snapshot: &mut Snapshot) {
    films(snapshot, Some("films"), "s3.eu-central-1.amazonaws.com");
}

fn by_host(snapshot: &mut Snapshot) {
    films(snapshot, None, "films.s3.eu-central-1.amazonaws.com");
}

/// How a client writes a name, and the name.
const NAMES: [(&str, &str); 5] = [
    ("/a.m4s", "a.m4s"),
    ("/with%20space%2Bplus.m4s", "with space+plus.m4s"),
    ("/a+b(c)'d.m4s", "a+b(c)'d.m4s"),
    ("/%C3%A9t%C3%A9.m4s", "\u{e9}t\u{e9}.m4s"),
    ("/tilde~star*.m4s", "tilde~star*.m4s"),
];
const BYTES: usize = 1_200_000;

#[test]
fn a_bucket_of_moto_is_read_by_path_and_by_host() {
    // Goal: signatures that another implementation takes, for both styles, whole objects and parts. Method:
    // first a key that nobody has: refused, and nothing of that is stored; then the right one, and bodies are compared.
    let folder = std::env::temp_dir().join(format!("tidegate-moto-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (_, name) in NAMES {
        fs::write(folder.join(name), content(name, BYTES)).unwrap();
    }
    let moto = Moto::start(&folder);
    fs::remove_dir_all(&folder).unwrap();
    let Some(moto) = moto else { return };
    for (name, adjust) in [("moto-path", by_path as fn(&mut Snapshot)), ("moto-host", by_host)] {
        let fleet = Fleet::start(
            name,
            &FleetOptions {
                edges: 1,
                parents: 1,
                origin: Some(moto.address),
                adjust,
                prepare: no_secret,
                ..FleetOptions::default()
            },
        );
        assert_eq!(fleet.get("edge-1", "/a.m4s", "").unwrap().status, 403, "{name}");
        moto.give_key(&fleet.dir, &moto.secret);
        fleet.until("the key is taken up", |fleet| {
            fleet.get("edge-1", "/a.m4s", "").unwrap().status == 200
        });
        for (path, key) in NAMES {
            let part = fleet.get("edge-1", path, "Range: bytes=600000-600009\r\n").unwrap();
            let body = content(key, BYTES);
            assert_eq!((part.status, &part.body[..]), (206, &body[600_000..=600_009]), "{path}");
            let whole = fleet.get("edge-1", path, "").unwrap();
            assert_eq!(whole.status, 200, "{path}: {}", String::from_utf8_lossy(&whole.body));
            assert!(whole.body == body, "{name}: {path}");
        }
        assert_eq!(fleet.get("edge-1", "/none.m4s", "").unwrap().status, 404, "{name}");
        // A key that is right with a secret that is not.
        moto.give_key(&fleet.dir, "wrong");
        fleet.until("the wrong secret is taken up", |fleet| {
            fleet.get("edge-1", "/none-else.m4s", "").unwrap().status == 403
        });
    }
}
