//! The Autobahn test suite against its own server, asked directly and through the port proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use api_types::CreateSandbox;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::PORT;
use crate::support::{eventually, one};

/// All sections but 12 and 13, of whose 216 cases of 1000 compressed messages a few have to do: the
/// proxy reads no message.
const CASES: [&str; 16] = [
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.1.1", "12.2.1", "12.4.1",
    "12.5.1", "13.1.1", "13.3.1", "13.7.1",
];

/// `wstest -m testeeserver`, which would refuse a `Host` with another port than its own.
const SERVER: &str = "
from autobahntestsuite.testee import TesteeServerFactory
from twisted.internet import reactor
factory = TesteeServerFactory('ws://127.0.0.1:PORT')
factory.externalPort = None
reactor.listenTCP(PORT, factory, interface='127.0.0.1')
reactor.run()
";

/// Sections 1 to 10 have this many cases.
const AT_LEAST: usize = 300;

/// The suite, installed in a root of its own by `scripts/autobahn.sh`.
#[derive(Clone)]
struct Suite(PathBuf);

/// The end of each case: its rating, that of the closing handshake, and the close code.
type Report = BTreeMap<String, [Value; 3]>;

impl Suite {
    fn installed() -> Self {
        let root = std::env::var_os("AUTOBAHN");
        Self(
            root.expect("AUTOBAHN: where scripts/autobahn.sh put it")
                .into(),
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.0).arg(program).stdout(Stdio::null());
        command
    }

    async fn serve(&self) -> (Server, SocketAddr) {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let script = SERVER.replace("PORT", &address.port().to_string());
        let mut python = self.command("python2.7");
        let server = Server(python.args(["-c", &script]).spawn().unwrap());
        eventually("the server of the suite", async || {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        (server, address)
    }

    /// Runs all cases against a server. Returns their ends and how long they took.
    async fn fuzz(&self, name: &str, url: String) -> (Report, Duration) {
        let folder = tempfile::tempdir_in(self.0.join("tmp")).unwrap();
        let inside = Path::new("/").join(folder.path().strip_prefix(&self.0).unwrap());
        let spec = json!({
            "outdir": inside.join("report"),
            "servers": [{ "agent": name, "url": url }],
            "cases": CASES,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        });
        std::fs::write(folder.path().join("spec.json"), spec.to_string()).unwrap();
        let mut client = self.command("wstest");
        client.args(["-m", "fuzzingclient", "-s"]);
        client.arg(inside.join("spec.json"));
        let ended = tokio::task::spawn_blocking(move || client.status())
            .await
            .unwrap();
        assert!(ended.unwrap().success(), "{name}: wstest failed");
        let index = std::fs::read(folder.path().join("report/index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let cases = index[name].as_object().expect("cases of the server");
        let end = |case: &Value| {
            ["behavior", "behaviorClose", "remoteCloseCode"].map(|field| case[field].clone())
        };
        let took = cases
            .values()
            .filter_map(|case| case["duration"].as_u64())
            .sum();
        let report = cases
            .iter()
            .map(|(id, case)| (id.clone(), end(case)))
            .collect();
        (report, Duration::from_millis(took))
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn autobahn_reports_equal_through_proxy() {
    let suite = Suite::installed();
    let (host, _ground, plane) = one().await;
    let (_server, direct) = suite.serve().await;
    host.world().ports.insert(PORT, direct);
    let open = CreateSandbox {
        public_ports: Some(true),
        ..Default::default()
    };
    let id = plane.client().create(&open).await.unwrap().id;
    let ours = plane.url.replace("http:", "ws:");
    let ours = format!("{ours}/v1/sandboxes/{id}/ports/{PORT}/");
    let (there, there_took) = suite.fuzz("direct", format!("ws://{direct}/")).await;
    let (here, here_took) = suite.fuzz("proxy", ours).await;
    println!(
        "autobahn: {} cases; directly {there_took:?}, through the proxy {here_took:?}",
        there.len(),
    );
    assert!(there.len() > AT_LEAST, "{} cases", there.len());
    let differing: Vec<_> = there
        .iter()
        .filter(|(case, end)| here.get(*case) != Some(end))
        .map(|(case, end)| (case, end, here.get(case)))
        .collect();
    assert!(
        differing.is_empty() && here.len() == there.len(),
        "{differing:#?}"
    );
}
