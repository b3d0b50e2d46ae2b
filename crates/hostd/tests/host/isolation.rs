//! Root of a guest reaches the internet and nothing else, whatever it sends.
//!
//! Every attempt is made against something that would answer: before and after, the test reaches it
//! itself.

use std::net::Ipv4Addr;

use host_rpc as rpc;
use hostd::network::{Slot, TABLE, TAP};
use linux::link::Links;
use linux::{netns, nft, sysctl};
use model::SandboxId;
use testkit::eventually;

use crate::agent::{Agent, Done, PATIENCE};
use crate::internet::{HOST, INTERNET, PORT, PRIVATE, World, is_reached, serve};

const ATTACK: &str = include_str!("attack.py");
const AGENT_OF_GUESTS: u16 = guest_rpc::PORT;

#[derive(Debug, serde::Deserialize)]
struct Answers {
    arp: Vec<String>,
    ipv6: Vec<String>,
    reached: Vec<String>,
}

async fn attack(
    agent: &Agent,
    id: &SandboxId,
    targets: &[(Ipv4Addr, u16)],
    sources: &[Ipv4Addr],
) -> Answers {
    let internet = (INTERNET, PORT);
    let targets: Vec<_> = targets.iter().chain([&internet]).collect();
    let told = serde_json::json!({ "internet": INTERNET, "port": PORT, "targets": targets, "sources": sources });
    let done = as_root(agent, id, "python3", &["-c", ATTACK, &told.to_string()]).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    serde_json::from_str(&done.stdout).unwrap()
}

pub async fn as_root(agent: &Agent, id: &SandboxId, cmd: &str, args: &[&str]) -> Done {
    let args = args.iter().map(ToString::to_string).collect();
    let (sandbox_id, cmd, user) = (id.to_string(), cmd.to_owned(), Some("root".to_owned()));
    agent
        .exec(rpc::ExecRequest {
            sandbox_id,
            cmd,
            args,
            user,
            ..Default::default()
        })
        .await
        .unwrap()
}

pub async fn slot_of(agent: &Agent, id: &SandboxId) -> Slot {
    let ip: Ipv4Addr = agent.report(id).await.unwrap().host_ip.parse().unwrap();
    let [_, _, high, low] = ip.octets();
    Slot::new(u16::from_be_bytes([high, low])).unwrap()
}

/// Everything that is not the internet, and that answers somebody.
fn forbidden(mine: Slot, neighbour: Slot, agent: u16) -> Vec<(Ipv4Addr, u16)> {
    let gateway = Ipv4Addr::new(169, 254, 0, 22);
    let hosts = [
        HOST,
        gateway,
        Ipv4Addr::new(127, 0, 0, 2),
        mine.veth_ip(),
        mine.peer_ip(),
        mine.host_ip(),
    ];
    let theirs = [
        neighbour.host_ip(),
        neighbour.peer_ip(),
        neighbour.veth_ip(),
    ];
    let of_host = hosts
        .into_iter()
        .chain(theirs)
        .flat_map(|ip| [(ip, PORT), (ip, agent), (ip, AGENT_OF_GUESTS)]);
    of_host.chain(PRIVATE.map(|ip| (ip, PORT))).collect()
}

#[test]
fn a_guest_reaches_the_internet_and_nothing_else() {
    let world = World::make("iso");
    let internet =
        world.on_internet(|| serve(&PRIVATE.into_iter().chain([INTERNET]).collect::<Vec<_>>()));
    let host = world.on_host(|| serve(&[Ipv4Addr::UNSPECIFIED]));
    world.run(async move || {
        // A host that checks where packets come from as strictly as it can.
        sysctl::set("net/ipv4/conf/all/rp_filter", "1").unwrap();
        let agent = Agent::start(&[]).await;
        let (attacker, neighbour) = tokio::join!(agent.create(), agent.create());
        let (mine, theirs) = (
            slot_of(&agent, &attacker).await,
            slot_of(&agent, &neighbour).await,
        );
        let serves = format!("setsid python3 -m http.server --bind :: {PORT} >/dev/null 2>&1 &");
        agent.out(&neighbour, &serves).await;
        let answers = async |at: Ipv4Addr| {
            tokio::task::spawn_blocking(move || is_reached(at, PORT))
                .await
                .unwrap()
        };
        let served = async || answers(theirs.host_ip()).await.then_some(());
        eventually("the neighbour's server", PATIENCE, served).await;
        for address in PRIVATE
            .into_iter()
            .chain([INTERNET, HOST, mine.veth_ip(), theirs.host_ip()])
        {
            assert!(answers(address).await, "{address} answers the host itself");
        }
        let targets = forbidden(mine, theirs, agent.port());
        let sources = [
            theirs.host_ip(),
            mine.host_ip(),
            mine.peer_ip(),
            mine.veth_ip(),
            HOST,
            INTERNET,
        ];
        for with in ["ipv6 off", "ipv6 on"] {
            let answers = attack(&agent, &attacker, &targets, &sources).await;
            let reached_others: Vec<_> = answers
                .reached
                .iter()
                .filter(|one| !is_refusal(one))
                .collect();
            let may = [
                "ping {}:0 answered",
                "tcp {}:5432 open",
                "udp {}:5432 answered",
            ];
            assert_eq!(
                reached_others,
                may.map(|one| one.replace("{}", &INTERNET.to_string()))
                    .each_ref(),
                "{with}"
            );
            assert_eq!(answers.arp, ["169.254.0.22"], "{with}");
            assert!(answers.ipv6.is_empty(), "{with}: {answers:?}");
            // Once more with IPv6 in the namespace, as if nobody had turned it off: the rules alone
            // hold.
            netns::enter(&mine.netns(), || {
                sysctl::set("net/ipv6/conf/all/disable_ipv6", "0")?;
                sysctl::set(&format!("net/ipv6/conf/{TAP}/disable_ipv6"), "0")?;
                Links::in_this_netns()?.set_up(TAP)
            })
            .unwrap();
        }
        // What is as it should be, and nothing else, came out once in each attack.
        let mut heard = internet.texts();
        heard.sort_unstable();
        let asked = format!("asked {INTERNET}");
        assert_eq!(heard, [asked.as_str(), &asked, "fair", "fair"]);
        assert!(
            internet.senders().iter().all(|sender| sender.ip() == HOST),
            "{:?}",
            internet.senders()
        );
        assert_eq!(host.texts(), Vec::<String>::new(), "packets to the host");
        // Without the table that looks at frames some of it would have, so the attempts are real
        // ones.
        netns::enter(&mine.netns(), || nft::remove((nft::Family::Netdev, TABLE))).unwrap();
        let without = attack(&agent, &attacker, &[], &[mine.peer_ip()]).await;
        assert!(
            !without.ipv6.is_empty(),
            "the namespace answers over IPv6 without that table"
        );
        assert!(
            internet.texts().iter().any(|text| text == "mac"),
            "{:?}",
            internet.texts()
        );
        assert!(
            answers(theirs.host_ip()).await,
            "the neighbour answers the host still"
        );
        assert_eq!(
            agent.out(&attacker, "echo and so does the guest").await,
            "and so does the guest"
        );
        agent.finish().await;
    });
}

/// Its namespace refuses at once what is out of reach, and somebody listens at every target: who is
/// reached does not refuse. Addresses of 127.0.0.0/8 are the guest's own.
fn is_refusal(answer: &str) -> bool {
    answer.ends_with(" refused") || answer.contains(" 127.")
}
