//! Names whose addresses are no matter of course.

use std::time::{Duration, Instant};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_for_loopback_resolve() {
    let world = world(&["*.good.test", "local.test"], &[], false).await;
    assert_eq!(world.ask("local.test").await, [host("127.0.0.1")]);
    world.change(&rules(&[], &[], true)).await;
    assert_eq!(world.ask("local.test").await, [host("127.0.0.1")]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_or_current_address_stays() {
    let world = world(&["*.test"], &[], false).await;
    for name in ["good.test", "plain.test", "evil.test"] {
        world.ask(name).await;
    }
    let _in_use = world.open(PLAIN, 22).await.unwrap();
    world.rename("plain.test", "45.90.28.77").await;
    world.rename("evil.test", "45.90.28.78").await;
    let now = Instant::now();
    world.renew(now + Duration::from_secs(240)).await;
    let later = now + Duration::from_secs(320);
    assert!(world.has("good.test", GOOD, later), "still the name's");
    assert!(world.has("plain.test", PLAIN, later), "in use");
    assert!(!world.has("evil.test", EVIL, later), "neither");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_speaking_first_needs_no_name() {
    let world = world(&["speaks.test", "good.test"], &[], false).await;
    let mut early = world.open(SPEAKS, 443).await.unwrap();
    early.say(b"SSH-2.0-client\r\n").unwrap();
    assert!(
        early.hear().is_err(),
        "no name was said to have the address"
    );
    world
        .wait_for_log_line(&format!(
            "denied: TCP to {SPEAKS}:443 that is neither TLS nor HTTP, at an address that no allowed name has"
        ))
        .await;
    world.ask("speaks.test").await;
    world.ask("good.test").await;
    for port in [80, 443] {
        let mut waits = world.open(SPEAKS, port).await.unwrap();
        assert_eq!(waits.hear().unwrap(), world::GREETING);
        assert_eq!(waits.talk(b"x").unwrap(), format!("{SPEAKS}:{port} x"));
        let mut speaks = world.open(SPEAKS, port).await.unwrap();
        let heard = speaks.talk(b"SSH-2.0-client\r\n").unwrap();
        assert!(heard.starts_with(world::GREETING), "{heard}");
    }
    let mut ends = world.open(SPEAKS, 443).await.unwrap();
    assert_eq!(ends.hear().unwrap(), world::GREETING);
    world.change(&rules(&["good.test"], &[], false)).await;
    assert!(ends.talk(b"x").is_err(), "the rules deny it by now");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_no_way_around_names() {
    let world = world(&["good.test"], &[], false).await;
    world.ask("good.test").await;
    let mut waits = world.open(GOOD, 443).await.unwrap();
    // Longer than the proxy waits before it tries whether the server speaks.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(waits.talk(&client_hello("evil.test")).is_err());
    let mut late = world.open(GOOD, 443).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(late.talk(&client_hello("good.test")).is_ok());
    // What web servers would take for a request, but no parser of ours.
    for say in [
        &b"\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"[..],
        b"get / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    ] {
        let mut odd = world.open(GOOD, 443).await.unwrap();
        assert!(odd.talk(say).is_err());
    }
    let why = "neither TLS nor HTTP, and its server does not speak first: its name cannot be told";
    world
        .wait_for_log_line(&format!("denied: TCP to {GOOD}:443 that is {why}"))
        .await;
    world.finish().await;
}
