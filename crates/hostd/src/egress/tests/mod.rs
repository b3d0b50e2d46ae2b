//! Rules, resolver and proxy against a guest who tries to get around them, and an internet of its
//! own. Everything is in three namespaces that the test makes: guest, sandbox, internet. The
//! resolver asks a name server on loopback.
//!
//! ```text
//!   guest eth0 ── tap0 sandbox wrp-N ── inet0 internet: 45.90.28.1 … 45.90.28.9
//! ```

mod ipv6;
mod limits;
mod names;
mod peers;
mod world;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use world::{World, host};

use super::tls::tests::client_hello;
use crate::network::{Ipv6Mode, Why};

const GOOD: &str = "45.90.28.1";
const EVIL: &str = "45.90.28.2";
const PLAIN: &str = "45.90.28.3";
/// A server that speaks first.
const SPEAKS: &str = world::SPEAKS;

const NAMES: [(&str, &str); 8] = [
    ("good.test", GOOD),
    ("www.good.test", GOOD),
    ("evil.test", EVIL),
    ("plain.test", PLAIN),
    ("inside.test", "10.1.2.3"),
    ("metadata.test", "169.254.169.254"),
    ("local.test", "127.0.0.1"),
    ("speaks.test", SPEAKS),
];

async fn world(allow: &[&str], deny: &[&str], allow_internet: bool) -> World {
    World::start(
        &NAMES,
        &[GOOD, EVIL, PLAIN, SPEAKS],
        &rules(allow, deny, allow_internet),
        Ipv6Mode::Off(Why::NotWanted),
    )
    .await
}

fn rules(allow: &[&str], deny: &[&str], allow_internet: bool) -> model::NetworkSpec {
    let list = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    model::NetworkSpec::parse(&list(allow), &list(deny), allow_internet).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn internet_is_open_without_rules() {
    let world = world(&[], &[], true).await;
    assert_eq!(world.ask("good.test").await, [host(GOOD)]);
    assert_eq!(
        world.talk(GOOD, 443, b"x").await.unwrap(),
        format!("{GOOD}:443 x")
    );
    assert_eq!(
        world.talk(PLAIN, 22, b"x").await.unwrap(),
        format!("{PLAIN}:22 x")
    );
    for never in ["10.1.2.3", "169.254.169.254", "192.168.0.1", "100.64.0.1"] {
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
            .wait_for_log_line(&format!("denied: TCP to {never}:80"))
            .await;
    }
    // Names of the internet with addresses of a private network.
    assert!(
        world.ask("inside.test").await.is_empty() && world.ask("metadata.test").await.is_empty()
    );
    world
        .wait_for_log_line("denied: inside.test at 10.1.2.3, an address that no sandbox reaches")
        .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_about_addresses_hold_and_change() {
    let world = world(&[GOOD], &["0.0.0.0/0"], true).await;
    assert_eq!(
        world.talk(GOOD, 443, b"x").await.unwrap(),
        format!("{GOOD}:443 x")
    );
    assert_eq!(
        world.talk(EVIL, 443, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    // No rule allows a name, so no server is asked for any.
    assert!(world.ask("secret.evil.test").await.is_empty());
    assert_eq!(world.asked("secret.evil.test"), 0);
    // A connection that stands ends when the rules deny it, and one that they still allow goes on.
    let mut stays = world.open(GOOD, 22).await.unwrap();
    let mut ends = world.open(GOOD, 80).await.unwrap();
    world
        .change(&rules(&[EVIL], &[GOOD, "0.0.0.0/0"], true))
        .await;
    assert!(ends.talk(b"x").is_err());
    world.change(&rules(&[GOOD], &["0.0.0.0/0"], true)).await;
    assert_eq!(stays.talk(b"x").unwrap(), format!("{GOOD}:22 x"));
    world.change(&rules(&[], &[GOOD], true)).await;
    assert_eq!(
        world.talk(EVIL, 443, b"x").await.unwrap(),
        format!("{EVIL}:443 x")
    );
    assert_eq!(
        world.talk(GOOD, 443, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_allowed_at_own_addresses() {
    let world = world(&["*.good.test"], &[], false).await;
    assert_eq!(world.ask("www.good.test").await, [host(GOOD)]);
    let hello = client_hello("www.good.test");
    assert!(
        world
            .talk(GOOD, 443, &hello)
            .await
            .unwrap()
            .starts_with("45.90.28.1:443 ")
    );
    assert_eq!(world.http(GOOD, "www.good.test").await, "200");
    // Also at other ports, once it was asked for.
    assert_eq!(
        world.talk(GOOD, 22, b"x").await.unwrap(),
        format!("{GOOD}:22 x")
    );
    // An allowed name at another address.
    assert!(world.talk(EVIL, 443, &hello).await.is_err());
    assert_eq!(world.http(EVIL, "www.good.test").await, "403");
    world
        .wait_for_log_line(&format!("denied: TLS to www.good.test at {EVIL}:443"))
        .await;
    world
        .wait_for_log_line(&format!("denied: HTTP to www.good.test at {EVIL}:80"))
        .await;
    // Another name at an allowed address, and none.
    assert!(
        world
            .talk(GOOD, 443, &client_hello("evil.test"))
            .await
            .is_err()
    );
    assert!(
        world
            .talk(GOOD, 443, b"\x16\x03\x01\x00\x01\x00")
            .await
            .is_err()
    );
    assert_eq!(world.http(GOOD, "evil.test").await, "403");
    assert_eq!(
        world.talk(EVIL, 22, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    world
        .wait_for_log_line(&format!("denied: TCP to {EVIL}:22"))
        .await;
    // The apex is not below itself.
    assert!(world.ask("good.test").await.is_empty());
    assert_eq!(world.asked("good.test"), 0);
    world
        .wait_for_log_line("denied: DNS question for good.test")
        .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_of_connection_is_checked() {
    let world = world(&["good.test"], &[], false).await;
    world.ask("good.test").await;
    let mut connection = world.open(GOOD, 80).await.unwrap();
    assert_eq!(connection.request("good.test"), "200");
    assert_eq!(connection.request("evil.test"), "403");
    assert_eq!(connection.request("good.test"), "200");
    // Two names at once, and one request in the body of another.
    let two = connection
        .talk(b"GET / HTTP/1.1\r\nHost: good.test\r\nHost: evil.test\r\n\r\n")
        .unwrap();
    assert!(two.starts_with("HTTP/1.1 403"), "{two}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_and_foreign_resolvers_are_refused() {
    let world = world(&["good.test"], &[], true).await;
    world.ask("good.test").await;
    // Whomever the guest asks, we answer.
    assert_eq!(world.ask_at("8.8.8.8", "evil.test").await, [host(EVIL)]);
    assert_eq!(
        world.ask_over_tcp("9.9.9.9", "good.test").await,
        [host(GOOD)]
    );
    assert_eq!((world.asked("evil.test"), world.asked("good.test")), (1, 1));
    for port in [443, 853] {
        assert_eq!(
            world.udp(GOOD, port).await.unwrap_err(),
            ErrorKind::HostUnreachable,
            "UDP {port}"
        );
        world
            .wait_for_log_line(&format!("denied: UDP to {GOOD}:{port}"))
            .await;
    }
    assert_eq!(
        world.talk(GOOD, 853, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert!(world.ask("dns.google").await.is_empty());
    // An address that no name has.
    assert_eq!(
        world.talk(PLAIN, 22, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert!(
        world
            .talk(PLAIN, 443, &client_hello("plain.test"))
            .await
            .is_ok(),
        "a name that is really there"
    );
    // The proxy itself cannot be used directly.
    assert!(
        world
            .talk("169.254.0.22", 15_001, &client_hello("good.test"))
            .await
            .is_err()
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_names_have_no_open_port() {
    let world = world(&["www.evil.test"], &["*.evil.test", "evil.test"], true).await;
    assert!(world.ask("evil.test").await.is_empty());
    assert!(
        world
            .talk(EVIL, 443, &client_hello("evil.test"))
            .await
            .is_err()
    );
    // Also when the name of another address is put before its address.
    assert!(
        world
            .talk(EVIL, 443, &client_hello("good.test"))
            .await
            .is_err()
    );
    assert_eq!(
        world.talk(EVIL, 22, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    world.ask("good.test").await;
    assert_eq!(
        world.talk(GOOD, 22, b"x").await.unwrap(),
        format!("{GOOD}:22 x")
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_agent_keeps_plain_connections() {
    let mut world = world(&["good.test"], &[], false).await;
    world.ask("good.test").await;
    let mut plain = world.open(GOOD, 22).await.unwrap();
    assert_eq!(plain.talk(b"x").unwrap(), format!("{GOOD}:22 x"));
    let mut through = world.open(GOOD, 443).await.unwrap();
    through.talk(&client_hello("good.test")).unwrap();
    world.restart().await;
    assert_eq!(plain.talk(b"y").unwrap(), format!("{GOOD}:22 y"));
    assert!(through.talk(b"x").is_err());
    // What the guest was told before is looked up again for it.
    assert!(
        world
            .talk(GOOD, 443, &client_hello("good.test"))
            .await
            .is_ok()
    );
    assert_eq!(world.http(GOOD, "good.test").await, "200");
    world.finish().await;
}

/// A change of rules ends what goes through the proxy, and what stands beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_denied_later_ends_its_connections() {
    let world = world(&["good.test", "plain.test"], &[], false).await;
    world.ask("good.test").await;
    world.ask("plain.test").await;
    let mut ends = world.open(GOOD, 443).await.unwrap();
    ends.talk(&client_hello("good.test")).unwrap();
    let mut stays = world.open(PLAIN, 443).await.unwrap();
    stays.talk(&client_hello("plain.test")).unwrap();
    world.change(&rules(&["plain.test"], &[], false)).await;
    assert!(ends.talk(b"x").is_err());
    assert_eq!(stays.talk(b"x").unwrap(), format!("{PLAIN}:443 x"));
    assert_eq!(
        world.talk(GOOD, 22, b"x").await.unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    // Also at ports that do not go through the proxy, without being asked for again.
    assert_eq!(
        world.talk(PLAIN, 22, b"x").await.unwrap(),
        format!("{PLAIN}:22 x")
    );
    world.finish().await;
}

/// Errors about a connection go where it may go, and are no way to keep it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn icmp_error_keeps_no_denied_connection() {
    let world = world(&[], &[], true).await;
    let mut old = world.open(GOOD, 443).await.unwrap();
    assert_eq!(old.talk(b"x").unwrap(), format!("{GOOD}:443 x"));
    let ends = old.ends();
    world.complain(ends).await;
    assert_eq!(old.talk(b"x").unwrap(), format!("{GOOD}:443 x"));
    // Its last acknowledgement is on its way before.
    tokio::time::sleep(Duration::from_millis(300)).await;
    // It would have to come through the proxy now, and its address is one that an allowed name has.
    world.change(&rules(&["good.test"], &[], true)).await;
    world.ask("good.test").await;
    world.complain(ends).await;
    assert!(old.talk(b"x").is_err());
    world.finish().await;
}
