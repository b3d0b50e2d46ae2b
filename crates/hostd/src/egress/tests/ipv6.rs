//! The same over IPv6, in a world that has both.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;

use super::world::{World, host};
use super::{EVIL, GOOD, PLAIN, rules};
use crate::egress::tls::tests::client_hello;
use crate::network::{GATEWAY_IP6, Ipv6Mode, Why};

const GOOD6: &str = "2a07:a8c0::1";
const EVIL6: &str = "2a07:a8c0::2";
const PLAIN6: &str = "2a07:a8c0::3";

const NAMES: [(&str, &str); 9] = [
    ("good.test", GOOD),
    ("good.test", GOOD6),
    ("www.good.test", GOOD6),
    ("evil.test", EVIL6),
    ("plain.test", PLAIN6),
    ("inside.test", "fd00:ec2::254"),
    ("inside.test", "64:ff9b::10.1.2.3"),
    ("inside.test", "2002:a01:203::1"),
    ("inside.test", "fe80::1"),
];

async fn world(allow: &[&str], deny: &[&str], allow_internet: bool) -> World {
    let servers = [GOOD, EVIL, PLAIN, GOOD6, EVIL6, PLAIN6];
    World::start(
        &NAMES,
        &servers,
        &rules(allow, deny, allow_internet),
        Ipv6Mode::On,
    )
    .await
}

fn at(address: &str, port: u16) -> String {
    format!("[{address}]:{port}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn internet_is_open_without_rules() {
    let world = world(&[], &[], true).await;
    assert_eq!(world.ask6("good.test").await, [host(GOOD6)]);
    assert_eq!(world.ask("good.test").await, [host(GOOD)]);
    assert_eq!(
        world.talk(GOOD6, 443, b"x").await.unwrap(),
        format!("{} x", at(GOOD6, 443))
    );
    assert_eq!(
        world.talk(PLAIN6, 22, b"x").await.unwrap(),
        format!("{} x", at(PLAIN6, 22))
    );
    for never in [
        "fd00:ec2::254",
        "64:ff9b::a01:203",
        "2002:a01:203::1",
        "2001:db8::1",
        "fd77:7265:6e6e:1::2",
    ] {
        let begin = Instant::now();
        assert_eq!(
            world.talk(never, 80, b"x").await.unwrap_err(),
            ErrorKind::ConnectionRefused,
            "{never}"
        );
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{never} was refused after {:?}",
            begin.elapsed()
        );
        world
            .wait_for_log_line(&format!("denied: TCP to {}", at(never, 80)))
            .await;
    }
    assert!(world.ask6("inside.test").await.is_empty());
    world
        .wait_for_log_line(
            "denied: inside.test at fd00:ec2::254, an address that no sandbox reaches",
        )
        .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabled_ipv6_is_not_announced() {
    let servers = [GOOD, GOOD6];
    let open = rules(&[], &[], true);
    let world = World::start(&NAMES, &servers, &open, Ipv6Mode::Off(Why::NoRoute)).await;
    assert!(world.ask6("good.test").await.is_empty());
    assert_eq!(world.asked("good.test"), 0);
    assert_eq!(world.ask("good.test").await, [host(GOOD)]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_about_addresses_hold_and_change() {
    // The usual text for the whole internet closes all of it.
    let world = world(&[GOOD6], &["0.0.0.0/0"], true).await;
    assert_eq!(
        world.talk(GOOD6, 443, b"x").await.unwrap(),
        format!("{} x", at(GOOD6, 443))
    );
    assert_eq!(
        world.talk(EVIL6, 443, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(
        world.udp(EVIL6, 443).await.unwrap_err(),
        ErrorKind::PermissionDenied
    );
    let mut stays = world.open(GOOD6, 22).await.unwrap();
    let mut ends = world.open(GOOD6, 80).await.unwrap();
    world
        .change(&rules(&[EVIL6], &["2a07:a8c0::/32", "0.0.0.0/0"], true))
        .await;
    assert!(ends.talk(b"x").is_err());
    world.change(&rules(&[GOOD6], &["::/0"], true)).await;
    assert_eq!(stays.talk(b"x").unwrap(), format!("{} x", at(GOOD6, 22)));
    assert_eq!(
        world.talk(EVIL6, 443, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(
        world.talk(EVIL, 443, b"x").await.unwrap(),
        format!("{EVIL}:443 x"),
        "IPv4 is not in ::/0"
    );
    // Nor IPv6 in what opens all of IPv4.
    world.change(&rules(&["0.0.0.0/0"], &[], false)).await;
    assert_eq!(
        world.talk(GOOD6, 443, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(
        world.talk(GOOD, 443, b"x").await.unwrap(),
        format!("{GOOD}:443 x")
    );
    world.change(&rules(&[], &[GOOD6], true)).await;
    assert_eq!(
        world.talk(EVIL6, 443, b"x").await.unwrap(),
        format!("{} x", at(EVIL6, 443))
    );
    assert_eq!(
        world.talk(GOOD6, 443, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_allowed_at_own_addresses() {
    let world = world(&["*.good.test"], &[], false).await;
    // The guest has not resolved the name to this address.
    assert_eq!(
        world.talk(GOOD6, 22, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(world.ask6("www.good.test").await, [host(GOOD6)]);
    let hello = client_hello("www.good.test");
    assert!(
        world
            .talk(GOOD6, 443, &hello)
            .await
            .unwrap()
            .starts_with(&at(GOOD6, 443))
    );
    assert_eq!(world.http(GOOD6, "www.good.test").await, "200");
    assert_eq!(
        world.talk(GOOD6, 22, b"x").await.unwrap(),
        format!("{} x", at(GOOD6, 22))
    );
    // An allowed name at another address, of either kind.
    for elsewhere in [EVIL6, EVIL, GOOD] {
        assert!(
            world.talk(elsewhere, 443, &hello).await.is_err(),
            "{elsewhere}"
        );
        assert_eq!(world.http(elsewhere, "www.good.test").await, "403");
    }
    world
        .wait_for_log_line(&format!(
            "denied: TLS to www.good.test at {}",
            at(EVIL6, 443)
        ))
        .await;
    world
        .wait_for_log_line(&format!(
            "denied: HTTP to www.good.test at {}",
            at(EVIL6, 80)
        ))
        .await;
    // Another name at an allowed address, and the address as a name.
    assert!(
        world
            .talk(GOOD6, 443, &client_hello("evil.test"))
            .await
            .is_err()
    );
    assert_eq!(world.http(GOOD6, &format!("[{GOOD6}]")).await, "403");
    assert_eq!(
        world.talk(EVIL6, 22, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    world
        .wait_for_log_line(&format!("denied: TCP to {}", at(EVIL6, 22)))
        .await;
    assert!(world.ask6("good.test").await.is_empty());
    assert_eq!(world.asked("good.test"), 0);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_and_foreign_resolvers_are_refused() {
    let world = world(&["good.test"], &[], true).await;
    world.ask6("good.test").await;
    // We answer, whatever server the guest asks over whatever protocol.
    for server in ["2001:4860:4860::8888", &GATEWAY_IP6.to_string()] {
        assert_eq!(
            world.ask_for(RecordType::AAAA, server, "evil.test").await,
            [host(EVIL6)],
            "{server}"
        );
        assert_eq!(
            world.ask_over_tcp(server, "good.test").await,
            [host(GOOD)],
            "{server}"
        );
    }
    for port in [443, 853] {
        assert_eq!(
            world.udp(GOOD6, port).await.unwrap_err(),
            ErrorKind::PermissionDenied,
            "UDP {port}"
        );
        world
            .wait_for_log_line(&format!("denied: UDP to {}", at(GOOD6, port)))
            .await;
    }
    assert_eq!(
        world.talk(GOOD6, 853, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(
        world.talk(PLAIN6, 22, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert!(
        world
            .talk(PLAIN6, 443, &client_hello("plain.test"))
            .await
            .is_ok(),
        "a name that is really there"
    );
    // The proxy itself cannot be used directly.
    assert!(
        world
            .talk(&GATEWAY_IP6.to_string(), 15_001, &client_hello("good.test"))
            .await
            .is_err()
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_agent_ends_denied_names() {
    let mut world = world(&["good.test", "plain.test"], &[], false).await;
    world.ask6("good.test").await;
    let mut plain = world.open(GOOD6, 22).await.unwrap();
    assert_eq!(plain.talk(b"x").unwrap(), format!("{} x", at(GOOD6, 22)));
    world.restart().await;
    assert_eq!(plain.talk(b"y").unwrap(), format!("{} y", at(GOOD6, 22)));
    // What the guest was told before is looked up again for it.
    let mut ends = world.open(GOOD6, 443).await.unwrap();
    ends.talk(&client_hello("good.test")).unwrap();
    assert_eq!(world.http(GOOD6, "good.test").await, "200");
    let mut stays = world.open(PLAIN6, 443).await.unwrap();
    stays.talk(&client_hello("plain.test")).unwrap();
    world.change(&rules(&["plain.test"], &[], false)).await;
    assert!(ends.talk(b"x").is_err());
    assert_eq!(stays.talk(b"x").unwrap(), format!("{} x", at(PLAIN6, 443)));
    assert_eq!(
        world.talk(GOOD6, 22, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    world.finish().await;
}
