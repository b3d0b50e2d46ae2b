//! What is agreed about all sandboxes of a host: how fast they are, and that nothing of them stays.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use host_rpc as rpc;
use linux::sysctl;
use model::SandboxId;

use crate::agent::Agent;
use crate::internet::{INTERNET, World};

const PORT: u16 = 8080;
const EGRESS: f64 = 4.0;
const INGRESS: f64 = 8.0;

/// Prints how fast the guest sent and got, in Mbit/s.
const MEASURE: &str = "
import socket, sys, time
def speed(first, send, get):
    link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    begin = time.monotonic()
    link.sendall(first + b'x' * send)
    link.shutdown(socket.SHUT_WR)
    got = 0
    while data := link.recv(65536):
        got += len(data)
    assert got >= get, got
    return (send + get) * 8 / 1e6 / (time.monotonic() - begin)
print(speed(b'u', 1500000, 1), speed(b'd', 0, 3000000))
";

/// Takes what is sent, and answers with little or much.
fn serve() -> std::io::Result<()> {
    let listener = TcpListener::bind((INTERNET, PORT))?;
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut taken = Vec::new();
            let answer = stream
                .read_to_end(&mut taken)
                .map(|_| if taken[0] == b'd' { 3_000_000 } else { 1 });
            let _ = answer.and_then(|length| stream.write_all(&vec![0; length]));
        }
    });
    Ok(())
}

#[test]
fn a_sandbox_is_as_fast_as_it_may_be_and_no_faster() {
    let world = World::make("limit");
    world.on_internet(serve);
    world.run(async || {
        let limits = [
            ("AGENT_EGRESS_MBPS", EGRESS.to_string()),
            ("AGENT_INGRESS_MBPS", INGRESS.to_string()),
        ];
        let agent = Agent::start(
            &limits
                .each_ref()
                .map(|(name, value)| (*name, value.as_str())),
        )
        .await;
        let id = agent.create().await;
        is_as_fast(&agent, &id, [EGRESS, INGRESS]).await;
        // A limit of its own, while it runs; the host's stays where there is none, or a higher one.
        let own = rpc::NetworkRules {
            egress_mbps: 2,
            ingress_mbps: 1000,
            ..Default::default()
        };
        agent.set_network(&id, own).await.unwrap();
        is_as_fast(&agent, &id, [2.0, INGRESS]).await;
        agent
            .set_network(&id, rpc::NetworkRules::default())
            .await
            .unwrap();
        is_as_fast(&agent, &id, [EGRESS, INGRESS]).await;
        agent.finish().await;
    });
}

/// How fast the guest sends and gets, in Mbit/s.
async fn is_as_fast(agent: &Agent, id: &SandboxId, limits: [f64; 2]) {
    let said = agent
        .out(id, &format!("python3 -c \"{MEASURE}\" {INTERNET} {PORT}"))
        .await;
    let speeds: Vec<f64> = said
        .split(' ')
        .map(|speed| speed.parse().unwrap())
        .collect();
    for (speed, limit) in speeds.iter().zip(limits) {
        // What may be sent at once after a silence comes on top.
        assert!(
            (limit * 0.5..limit * 1.25).contains(speed),
            "{speed} Mbit/s where {limit} are allowed: {said}"
        );
    }
}

const OTHERS: &str = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; \
    ip saddr 192.0.2.1 accept; }; }; table inet own { set s { type ipv4_addr; elements = { 192.0.2.7 }; }; }";

fn listed() -> std::io::Result<String> {
    let output = Command::new("nft")
        .args(["-a", "list", "ruleset"])
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The agent with a `/run/wrenn` of its own, as if no other one were on the machine.
pub fn alone(run: &Path, argument: &str) -> Command {
    let program = env!("CARGO_BIN_EXE_wrenn-agent");
    let script = format!(
        "mount --bind {} /run/wrenn && exec {program} {argument}",
        run.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    command
}

#[test]
fn rules_of_others_are_left_alone_and_ours_go() {
    let world = World::make("rules");
    world.run(async || {
        sysctl::set("net/ipv4/ip_forward", "0").unwrap();
        testkit::nft::apply(OTHERS).unwrap();
        let before = listed().unwrap();
        std::fs::create_dir_all("/run/wrenn").unwrap();
        let run = tempfile::tempdir().unwrap();
        let mut agent = Agent::start_as(&[], alone(run.path(), "").into()).await;
        let both = listed().unwrap();
        assert!(
            both.contains("table inet wrenn") && both.contains(before.trim()),
            "{both}"
        );
        assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "1");

        let refused = alone(run.path(), "--remove-host-rules").output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("stop it first"),
            "{said}"
        );
        agent.stop().await;
        let claim = run.path().join("slots/7");
        std::fs::create_dir_all(claim.parent().unwrap()).unwrap();
        std::fs::write(&claim, "a sandbox's").unwrap();
        let refused = alone(run.path(), "--remove-host-rules").output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("delete them"),
            "{said}"
        );
        std::fs::remove_file(&claim).unwrap();
        for _ in 0..2 {
            assert!(
                alone(run.path(), "--remove-host-rules")
                    .status()
                    .unwrap()
                    .success()
            );
            assert_eq!(listed().unwrap(), before);
            assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "0");
        }
    });
}
