//! Guests over IPv6: the internet and nothing else, whatever root sends, and only where the host
//! has it.

use std::fs;
use std::io;
use std::net::Ipv6Addr;

use hostd::network::{GATEWAY_IP6, GUEST_IP6, LIMITS, POLICY_TABLE, Slot, TABLE};
use linux::{link, netns, nft, sysctl};
use model::SandboxId;

use crate::agent::Agent;
use crate::internet::{HOST6, INTERNET6, PORT, PRIVATE6, ROUTER6, World, is_reached, serve};
use crate::isolation::{as_root, slot_of};

const ATTACK: &str = include_str!("attack6.py");
const AGENT_OF_GUESTS: u16 = guest_rpc::PORT;

/// Says how a connection ends, and whether that took less than a second.
const CONNECT: &str = "import socket, sys, time
begin = time.monotonic()
try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 10); print('reached')
except OSError as e: print(e.strerror, time.monotonic() - begin < 1)";

#[derive(Debug, serde::Deserialize)]
struct Answers {
    discovery: Vec<String>,
    reached: Vec<String>,
}

async fn attack(
    agent: &Agent,
    id: &SandboxId,
    targets: &[(Ipv6Addr, u16)],
    sources: &[Ipv6Addr],
) -> Answers {
    let targets: Vec<_> = targets.iter().chain([&(INTERNET6, PORT)]).collect();
    let told = serde_json::json!({
        "guest": GUEST_IP6, "gateway": GATEWAY_IP6, "internet": INTERNET6, "port": PORT, "targets": targets,
        "sources": sources,
    });
    let done = as_root(agent, id, "python3", &["-c", ATTACK, &told.to_string()]).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    serde_json::from_str(&done.stdout).unwrap()
}

/// Everything that is not the internet. What is the neighbour's is first.
fn forbidden(mine: Slot, neighbour: Slot, agent: u16, links: &[Ipv6Addr]) -> Vec<(Ipv6Addr, u16)> {
    let multicast =
        ["ff02::1", "ff02::2", "ff02::16", "ff05::2", "ff0e::1"].map(|text| text.parse().unwrap());
    let ends = ["fe80::1", "fe80::2"].map(|text| text.parse().unwrap());
    let hosts = [neighbour.host_ip6(), mine.host_ip6(), HOST6, GATEWAY_IP6]
        .into_iter()
        .chain(ends);
    let hosts = hosts
        .chain(links.iter().copied())
        .flat_map(|ip| [(ip, PORT), (ip, agent), (ip, AGENT_OF_GUESTS)]);
    hosts
        .chain(
            PRIVATE6
                .into_iter()
                .chain([ROUTER6])
                .chain(multicast)
                .map(|ip| (ip, PORT)),
        )
        .collect()
}

/// What the calling thread's namespace knows of addresses, ways and neighbours.
fn known() -> io::Result<String> {
    let neighbours = std::process::Command::new("ip")
        .args(["-6", "neigh"])
        .output()?
        .stdout;
    // The seventh to ninth parts of a route are counters.
    let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
    let routes = routes.lines().map(|line| {
        line.split_ascii_whitespace()
            .take(6)
            .collect::<Vec<_>>()
            .join(" ")
    });
    let mut lines: Vec<String> = routes.collect();
    lines.extend(
        fs::read_to_string("/proc/thread-self/net/if_inet6")?
            .lines()
            .map(str::to_owned),
    );
    lines.extend(
        String::from_utf8_lossy(&neighbours)
            .lines()
            .filter(|line| line.contains("PERM"))
            .map(str::to_owned),
    );
    lines.sort();
    Ok(lines.join("\n"))
}

/// Link-local addresses of the calling thread's namespace.
fn link_local() -> io::Result<Vec<Ipv6Addr>> {
    let addresses = link::list_addresses6()?.into_iter();
    Ok(addresses
        .map(|(address, ..)| address)
        .filter(Ipv6Addr::is_unicast_link_local)
        .collect())
}

async fn answers(at: Ipv6Addr) -> bool {
    tokio::task::spawn_blocking(move || is_reached(at, PORT))
        .await
        .unwrap()
}

#[test]
fn a_guest_reaches_the_internet_over_ipv6_and_nothing_else() {
    let world = World::make("ipv6").with_ipv6();
    let internet = world.on_internet(|| {
        serve(
            &PRIVATE6
                .into_iter()
                .chain([INTERNET6, ROUTER6])
                .collect::<Vec<_>>(),
        )
    });
    let host = world.on_host(|| serve(&[Ipv6Addr::UNSPECIFIED]));
    world.run(async move || {
        let agent = Agent::start(&[]).await;
        let (attacker, neighbour) = tokio::join!(agent.create(), agent.create());
        let (mine, theirs) = (
            slot_of(&agent, &attacker).await,
            slot_of(&agent, &neighbour).await,
        );
        let serves = format!("setsid python3 -m http.server --bind :: {PORT} >/dev/null 2>&1 &");
        agent.out(&neighbour, &serves).await;
        for address in PRIVATE6.into_iter().chain([INTERNET6, HOST6, ROUTER6]) {
            assert!(answers(address).await, "{address} answers the host itself");
        }
        let ours = link_local().unwrap();
        assert_eq!(
            ours.len(),
            1,
            "links of sandboxes have no addresses of their own: {ours:?}"
        );
        assert!(
            netns::enter(&mine.netns(), link_local).unwrap().is_empty(),
            "nor has their namespace"
        );
        let targets = forbidden(mine, theirs, agent.port(), &ours);
        let sources = [
            theirs.host_ip6(),
            mine.host_ip6(),
            HOST6,
            "2a07:a8c1::7".parse().unwrap(),
        ];
        let before = (
            known().unwrap(),
            netns::enter(&mine.netns(), known).unwrap(),
        );

        let found = attack(&agent, &attacker, &targets, &sources).await;
        let reached_others: Vec<_> = found
            .reached
            .iter()
            .filter(|one| !one.ends_with(" refused"))
            .collect();
        let may = [
            "ping {} 0 answered",
            "tcp {} 5432 open",
            "udp {} 5432 answered",
        ];
        assert_eq!(
            reached_others,
            may.map(|one| one.replace("{}", &INTERNET6.to_string()))
                .each_ref()
        );
        assert!(found.discovery.is_empty(), "{found:?}");
        assert_eq!(
            (
                known().unwrap(),
                netns::enter(&mine.netns(), known).unwrap()
            ),
            before,
            "nobody learnt anything"
        );
        let mut heard = internet.texts();
        heard.sort_unstable();
        assert_eq!(heard, [format!("asked {INTERNET6}").as_str(), "fair"]);
        assert!(
            internet.senders().iter().all(|sender| sender.ip() == HOST6),
            "{:?}",
            internet.senders()
        );
        assert_eq!(host.texts(), Vec::<String>::new(), "packets to the host");

        // Without the table that looks at frames some of it would have come out, so the attempts
        // are real ones.
        netns::enter(&mine.netns(), || nft::remove((nft::Family::Netdev, TABLE))).unwrap();
        attack(&agent, &attacker, &[], &[HOST6]).await;
        assert!(
            internet.texts().iter().any(|text| text == "mac"),
            "{:?}",
            internet.texts()
        );
        assert_eq!(
            agent.out(&attacker, "echo and so does the guest").await,
            "and so does the guest"
        );
        // Nor does the host count on the rules of a namespace: without any of them a guest has its
        // own address at most.
        netns::enter(&mine.netns(), || {
            nft::remove((nft::Family::Ip6, TABLE))?;
            nft::remove((nft::Family::Inet, POLICY_TABLE))?;
            // It keeps connections tracked there, and one under the same address is known by then.
            nft::remove(LIMITS)
        })
        .unwrap();
        let heard = internet.texts().len();
        attack(&agent, &attacker, &targets, &sources).await;
        let own = format!("from {}", mine.host_ip6());
        let mut more = internet.texts().split_off(heard);
        more.sort_unstable();
        assert_eq!(more, [own.clone(), format!("{own} to {INTERNET6}")]);
        assert_eq!(host.texts(), Vec::<String>::new(), "packets to the host");
        assert_eq!(known().unwrap(), before.0, "the host learnt nothing");
        agent.finish().await;
    });
}

/// How a connection of the guest to a server of the internet ends.
async fn connect(agent: &Agent, id: &SandboxId) -> String {
    agent
        .out(id, &format!("python3 -c \"{CONNECT}\" {INTERNET6} {PORT}"))
        .await
}

#[test]
fn a_guest_has_ipv6_where_its_host_has_it_and_keeps_nothing_of_it_where_not() {
    let world = World::make("move").with_ipv6();
    world.on_internet(|| serve(&[INTERNET6]));
    world.run(async || {
        let mut agent = Agent::start(&[]).await;
        let id = agent.create().await;
        assert_eq!(connect(&agent, &id).await, "reached");
        let child = SandboxId::random();
        agent.fork(&id, std::slice::from_ref(&child)).await.unwrap();
        assert_eq!(connect(&agent, &child).await, "reached");
        agent.remove(&child).await;

        agent.pause(&id).await.unwrap();
        agent.stop().await;
        agent.set("AGENT_IPV6", "off");
        agent.launch().await;
        agent.resume(&id).await.unwrap();
        assert_eq!(connect(&agent, &id).await, "Network is unreachable True");
        assert_eq!(
            agent
                .out(
                    &id,
                    "grep -c fd77 /proc/net/if_inet6 /proc/net/ipv6_route || true"
                )
                .await,
            NOTHING
        );

        // What runs goes on without, whatever the next agent has.
        agent.stop().await;
        agent.set("AGENT_IPV6", "auto");
        agent.launch().await;
        assert_eq!(connect(&agent, &id).await, "Network is unreachable True");
        agent.pause(&id).await.unwrap();
        agent.resume(&id).await.unwrap();
        assert_eq!(connect(&agent, &id).await, "reached");

        // A sandbox of an agent with IPv6 under one without: its rules drop it.
        agent.stop().await;
        agent.set("AGENT_IPV6", "off");
        agent.launch().await;
        assert_ne!(connect(&agent, &id).await, "reached");
        agent.finish().await;
    });
}

const NOTHING: &str = "/proc/net/if_inet6:0\n/proc/net/ipv6_route:0";

/// Links that listen to routers go on doing so on a host that forwards, and everything is put back.
#[test]
fn a_host_goes_on_listening_to_its_routers() {
    let world = World::make("ra").with_ipv6();
    world.run(async || {
        let get = |name: &str| sysctl::get(&format!("net/ipv6/conf/{name}")).unwrap();
        let settings = [
            "all/forwarding",
            "default/accept_ra",
            "uplink/accept_ra",
            "uplink/forwarding",
        ];
        sysctl::set("net/ipv6/conf/all/forwarding", "0").unwrap();
        let before = settings.map(get);
        assert_eq!(before, ["0", "1", "1", "0"]);
        let run = tempfile::tempdir().unwrap();
        fs::create_dir_all("/run/wrenn").unwrap();
        let mut agent = Agent::start_as(&[], crate::limits::alone(run.path(), "").into()).await;
        assert_eq!(settings.map(get), ["1", "2", "2", "1"]);
        agent.stop().await;
        // Another one finds it done, and does not take it for how it was.
        agent
            .launch_as(crate::limits::alone(run.path(), "").into())
            .await;
        agent.stop().await;
        for _ in 0..2 {
            assert!(
                crate::limits::alone(run.path(), "--remove-host-rules")
                    .status()
                    .unwrap()
                    .success()
            );
            assert_eq!(settings.map(get), before);
        }
    });
}
