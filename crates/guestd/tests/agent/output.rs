//! Output of a process arrives whole, apart and in order.

use std::time::Duration;

use connectrpc::client::CallOptions;
use guest_rpc::process::__buffa::oneof::process_event::Event;
use guest_rpc::process::ConnectRequest;

use crate::support::{Agent, PATIENCE, Running, by_pid, listed, run, shell, start};

#[tokio::test]
async fn stdout_and_stderr_come_apart() {
    let agent = Agent::open().await;
    let outcome = run(&agent.client(), "echo out; echo err >&2; exit 3").await;
    assert_eq!(
        (outcome.stdout.as_slice(), outcome.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(outcome.code(), 3);
}

#[tokio::test]
async fn every_byte_survives() {
    let agent = Agent::open().await;
    let script = r#"i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done"#;
    let outcome = run(&agent.client(), script).await;
    assert_eq!(outcome.stdout, (0..=255).collect::<Vec<u8>>());
}

#[tokio::test]
async fn large_output_arrives_before_end() {
    let agent = Agent::open().await;
    let outcome = run(&agent.client(), "head -c 8000000 /dev/zero; echo done >&2").await;
    assert_eq!((outcome.stdout.len(), outcome.code()), (8_000_000, 0));
    assert_eq!(outcome.stderr, b"done\n");
}

#[tokio::test]
async fn slow_reader_loses_no_output() {
    let agent = Agent::open().await;
    let client = agent.client();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let flag = folder.path().join("written");
    let script = format!("head -c 64000000 /dev/zero; touch {}", flag.display());
    let running = start(&client, shell(&script)).await;
    // Nobody reads yet: 64 MB fit into no buffer on the way, so the process cannot get past its
    // write.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!flag.exists(), "the process did not wait for its reader");
    let outcome = running.finish().await;
    assert_eq!(outcome.stdout.len(), 64_000_000);
    assert!(flag.exists());
}

#[tokio::test]
async fn late_listener_gets_rest_and_end() {
    let agent = Agent::open().await;
    let client = agent.client();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gate = folder.path().join("gate");
    let script = format!(
        "echo early; while [ ! -e {} ]; do sleep 0.01; done; echo late; exit 4",
        gate.display()
    );
    let mut first = start(&client, shell(&script)).await;
    first.until(|o| o.text() == "early\n").await;
    let request = ConnectRequest {
        process: by_pid(first.pid).into(),
        ..Default::default()
    };
    let mut second = client.connect(request.clone()).await.expect("joins");
    let mut events = Vec::new();
    let started = second
        .message()
        .await
        .expect("an event")
        .expect("a start")
        .to_owned_message();
    assert!(matches!(started.event.event, Some(Event::Start(ref s)) if s.pid == first.pid));
    std::fs::write(&gate, "").expect("opens the gate");
    while let Some(message) = tokio::time::timeout(PATIENCE, second.message())
        .await
        .expect("in time")
        .expect("no error")
    {
        events.push(format!("{:?}", message.to_owned_message().event.event));
    }
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(
        events[0].contains("Stdout") && events[1].contains("exit status 4"),
        "{events:?}"
    );
    assert_eq!(first.finish().await.text(), "early\nlate\n");
    let mut after = client.connect(request).await.expect("its end is kept");
    assert!(after.message().await.expect("an event").is_some());
    let end = after
        .message()
        .await
        .expect("an event")
        .expect("an end")
        .to_owned_message();
    assert!(matches!(end.event.event, Some(Event::End(ref e)) if e.exit_code == 4));
}

#[tokio::test]
async fn process_survives_client_hanging_up() {
    let agent = Agent::open().await;
    let client = agent.client();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gate = folder.path().join("gate");
    let done = folder.path().join("done");
    let script = format!(
        "while [ ! -e {} ]; do echo noise; sleep 0.01; done; head -c 1000000 /dev/zero; touch {}",
        gate.display(),
        done.display()
    );
    let running = start(&client, shell(&script)).await;
    let pid = running.pid;
    drop(running);
    assert_eq!(listed(&client).await, [pid]);
    std::fs::write(&gate, "").expect("opens the gate");
    crate::support::eventually("the process runs to its end", async || done.exists()).await;
    crate::support::eventually("it leaves the list", async || {
        listed(&client).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn orphan_does_not_delay_end() {
    let agent = Agent::open().await;
    let client = agent.client();
    let outcome = run(&client, "sleep 30 & echo $!").await;
    assert_eq!(outcome.code(), 0);
    let left: i32 = outcome.text().trim().parse().expect("a pid");
    assert!(crate::support::alive(left.cast_unsigned()));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(left),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("can be killed");
}

#[tokio::test]
async fn silence_is_filled_with_keepalives() {
    let agent = Agent::open().await;
    let client = agent.client();
    let options = CallOptions::default().with_header("keepalive-ping-interval", "1");
    let running = Running::start(&client, shell("sleep 1.3"), options)
        .await
        .expect("starts");
    let outcome = running.finish().await;
    assert_eq!((outcome.keepalives, outcome.code()), (1, 0));
}
