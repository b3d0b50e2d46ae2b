//! Rules for where a real guest may connect to. Agent and test live in a network namespace of their
//! own, whose internet is another one: 45.90.28.1 and .2, with a name server on loopback. Nothing
//! of it leaves the machine.

use std::net::{Ipv4Addr, UdpSocket};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use host_rpc as rpc;
use linux::link::Links;
use linux::netns;
use model::SandboxId;
use testkit::eventually;

use crate::agent::{Agent, PATIENCE, spec};
use crate::internet::serve_http;

const GOOD: Ipv4Addr = Ipv4Addr::new(45, 90, 28, 1);
const EVIL: Ipv4Addr = Ipv4Addr::new(45, 90, 28, 2);

/// Says how a TLS connection to an address with a name ends: with what the server says, which is no
/// TLS, or before.
const TLS: &str = "import socket, ssl, sys
try:
    with socket.create_connection((sys.argv[1], 443), 10) as s:
        ssl._create_unverified_context().wrap_socket(s, server_hostname=sys.argv[2])
except ssl.SSLError as e: print('reached' if 'WRONG_VERSION' in str(e) else e)
except OSError as e: print(type(e).__name__)";

/// Says how a connection ends and whether that took less than a second.
const CONNECT: &str = "import socket, sys, time
begin = time.monotonic()
try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 10); print('reached')
except OSError as e: print(type(e).__name__, time.monotonic() - begin < 1)";

/// Runs `work` in the host's namespace, on threads that are all in there.
fn in_a_world<F: Future<Output = ()>>(work: impl FnOnce(String) -> F + Send + 'static) {
    let (host, internet) = (
        format!("wtest-nhost-{}", std::process::id()),
        format!("wtest-ninet-{}", std::process::id()),
    );
    netns::create(&host).unwrap();
    netns::create(&internet).unwrap();
    let there = internet.clone();
    let done = netns::enter(&host, move || {
        let links = Links::in_this_netns()?;
        links.set_up("lo")?;
        links.add_veth(
            "inet0",
            "host0",
            &there,
            [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]],
        )?;
        links.add_address("inet0", Ipv4Addr::new(45, 90, 29, 1), 24)?;
        links.set_up("inet0")?;
        netns::enter(&there, furnish)?;
        links.add_route(Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(45, 90, 29, 2))?;
        let dns = name_server()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(work(dns));
        Ok(())
    });
    netns::remove(&internet).unwrap();
    netns::remove(&host).unwrap();
    done.unwrap();
}

fn furnish() -> std::io::Result<()> {
    let links = Links::in_this_netns()?;
    links.set_up("lo")?;
    links.add_address("host0", Ipv4Addr::new(45, 90, 29, 2), 24)?;
    links.set_up("host0")?;
    for (address, port) in [GOOD, EVIL]
        .into_iter()
        .flat_map(|address| [22, 80, 443].map(|port| (address, port)))
    {
        if port == 22 {
            links.add_address("lo", address, 32)?;
        }
        serve_http((address, port))?;
    }
    Ok(())
}

/// Knows two names.
fn name_server() -> std::io::Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let at = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(question) = Message::from_vec(&buffer[..length]) else {
                continue;
            };
            let query = question.queries[0].clone();
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            let known = match query.name().to_ascii().to_lowercase().as_str() {
                "good.test." => Some(GOOD),
                "evil.test." => Some(EVIL),
                _ => None,
            };
            match known {
                Some(address) if query.query_type() == RecordType::A => {
                    answer.add_answer(Record::from_rdata(
                        query.name().clone(),
                        60,
                        RData::A(A(address)),
                    ));
                }
                Some(_) => {}
                None => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        }
    });
    Ok(at.to_string())
}

fn rules(allow_out: &[&str]) -> rpc::NetworkRules {
    let allow_out = allow_out.iter().map(|entry| (*entry).to_owned()).collect();
    rpc::NetworkRules {
        allow_out,
        deny_internet: true,
        ..Default::default()
    }
}

async fn change(agent: &Agent, id: &SandboxId, allow_out: &[&str]) -> rpc::SandboxReport {
    agent.set_network(id, rules(allow_out)).await.unwrap()
}

async fn told(agent: &Agent, id: &SandboxId, line: &str) {
    eventually(line, PATIENCE, async || {
        let request = rpc::ReadLogsRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let mut stream = agent.client().logs().read_logs(request).await.unwrap();
        while let Some(message) = stream.message::<rpc::ReadLogsResponse>().await.unwrap() {
            if message.to_owned_message().line == line {
                return Some(());
            }
        }
        None
    })
    .await;
}

async fn http(agent: &Agent, id: &SandboxId, url: &str) -> String {
    agent
        .sh(
            id,
            &format!("curl -s -m 20 -o /dev/null -w '%{{http_code}}' {url}"),
        )
        .await
        .unwrap()
        .stdout
}

async fn tls(agent: &Agent, id: &SandboxId, address: Ipv4Addr, name: &str) -> String {
    agent
        .out(id, &format!("python3 -c \"{TLS}\" {address} {name}"))
        .await
}

async fn connect(agent: &Agent, id: &SandboxId, address: &str, port: u16) -> String {
    agent
        .out(id, &format!("python3 -c \"{CONNECT}\" {address} {port}"))
        .await
}

/// Only what `good.test` is, however it is tried.
async fn only_good(agent: &Agent, id: &SandboxId) {
    assert_eq!(
        agent
            .out(id, "getent ahostsv4 good.test | head -n 1 | cut -d' ' -f1")
            .await,
        GOOD.to_string()
    );
    assert_eq!(
        agent.sh(id, "getent hosts evil.test").await.unwrap().code,
        2
    );
    assert_eq!(http(agent, id, "http://good.test/").await, "200");
    assert_eq!(
        http(
            agent,
            id,
            &format!("--resolve good.test:80:{EVIL} http://good.test/")
        )
        .await,
        "403"
    );
    assert_eq!(
        http(agent, id, "-H 'Host: evil.test' http://good.test/").await,
        "403"
    );
    assert_eq!(tls(agent, id, GOOD, "good.test").await, "reached");
    assert_eq!(
        tls(agent, id, GOOD, "evil.test").await,
        "ConnectionResetError"
    );
    assert_eq!(
        tls(agent, id, EVIL, "good.test").await,
        "ConnectionResetError"
    );
    assert_eq!(connect(agent, id, &GOOD.to_string(), 22).await, "reached");
    assert_eq!(
        connect(agent, id, &EVIL.to_string(), 22).await,
        "ConnectionRefusedError True"
    );
    assert_eq!(
        connect(agent, id, "169.254.169.254", 80).await,
        "ConnectionRefusedError True"
    );
}

#[test]
fn a_guest_reaches_what_its_rules_allow_and_nothing_else() {
    in_a_world(|dns| async move {
        let mut agent = Agent::start(&[("AGENT_DNS", &dns)]).await;
        let id = SandboxId::random();
        let wanted = rpc::SandboxSpec {
            network: rules(&["good.test"]).into(),
            auto_resume: true,
            ..spec()
        };
        agent.ensure(&id, wanted).await.unwrap();
        only_good(&agent, &id).await;
        told(&agent, &id, "denied: DNS question for evil.test").await;
        told(
            &agent,
            &id,
            &format!("denied: TLS to good.test at {EVIL}:443"),
        )
        .await;
        told(&agent, &id, &format!("denied: TCP to {EVIL}:22")).await;

        // The rules are there for whoever comes after this agent, after a pause, and for children.
        agent.kill_nine().await;
        agent.launch().await;
        only_good(&agent, &id).await;
        agent.pause(&id).await.unwrap();
        let shown = change(&agent, &id, &[&EVIL.to_string()]).await;
        assert_eq!(shown.spec.network.allow_out, [EVIL.to_string()]);
        let child = SandboxId::random();
        let report = agent
            .fork(&id, std::slice::from_ref(&child))
            .await
            .unwrap()
            .remove(0);
        assert_eq!(report.spec.network.allow_out, [EVIL.to_string()]);
        for id in [&child, &id] {
            assert_eq!(http(&agent, id, "http://good.test/").await, "000");
            assert_eq!(
                connect(&agent, id, &GOOD.to_string(), 22).await,
                "ConnectionRefusedError True"
            );
            assert_eq!(connect(&agent, id, &EVIL.to_string(), 22).await, "reached");
        }
        change(&agent, &id, &["good.test"]).await;
        only_good(&agent, &id).await;

        // Rules are the sandbox's and not the instant's: going back to one opens nothing.
        agent.checkpoint(&id, "before").await.unwrap();
        change(&agent, &id, &[&EVIL.to_string()]).await;
        let report = agent.roll_back(&id, "before").await.unwrap();
        assert_eq!(report.spec.network.allow_out, [EVIL.to_string()]);
        assert_eq!(http(&agent, &id, "http://good.test/").await, "000");
        assert_eq!(connect(&agent, &id, &EVIL.to_string(), 22).await, "reached");
        agent.finish().await;
    });
}
