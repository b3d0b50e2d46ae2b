//! `wrenn exec -d`, `ps`, `attach` and `kill`.

use std::process::Stdio;

use client::types::ProcessSignal;
use rustix::process::{Pid, Signal, kill_process};

use crate::server::Server;
use crate::wrenn::{command, eventually, finish, wrenn};

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

#[tokio::test(flavor = "multi_thread")]
async fn detached_command_is_listed_and_killed() {
    let server = Server::start().await;
    server.add(A);
    let detach = [
        "exec",
        "-d",
        "--keep-alive",
        "--name",
        "web",
        A,
        "--",
        "sleep",
        "9",
    ];
    let started = wrenn(&server, &detach).await.with(0);
    assert_eq!(started.text(), "web");
    assert!(server.world().commands[0].keep_alive);
    let listed = wrenn(&server, &["ps", A]).await.with(0).text();
    assert!(
        listed.contains("web") && listed.contains("sleep 9"),
        "{listed}"
    );
    let again = wrenn(&server, &detach).await.with(125);
    assert!(again.stderr.contains("wrenn kill"), "{}", again.stderr);
    wrenn(&server, &["kill", "-s", "INT", A, "web"])
        .await
        .with(0);
    assert_eq!(server.world().signals, [ProcessSignal::Interrupt]);
    let listed = wrenn(&server, &["ps", A]).await.with(0).text();
    assert!(listed.contains("exited (130)"), "{listed}");
    let lost = wrenn(&server, &["attach", A, "no-such"]).await.with(125);
    assert!(lost.stderr.contains("wrenn ps"), "{}", lost.stderr);
    wrenn(&server, &["kill", "-s", "SEGV", A, "web"])
        .await
        .with(2);
    for flags in [["--name", "x"], ["-d", "--grace=1"]] {
        wrenn(&server, &[&["exec"][..], &flags, &[A, "--", "ls"]].concat())
            .await
            .with(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_resumes_after_broken_connection() {
    let server = Server::start().await;
    server.add(A);
    wrenn(
        &server,
        &["exec", "-d", "--name", "n", A, "--", "count", "200"],
    )
    .await
    .with(0);
    let ended = wrenn(&server, &["attach", A, "n"]).await.with(3);
    let all: String = (0..200).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), all);
    assert_eq!(server.world().attaches, [0, all.len() / 2]);
    let rest = wrenn(&server, &["attach", "--offset", "4", A, "n"])
        .await
        .with(3);
    assert_eq!(rest.stdout, all.as_bytes()[4..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_passes_input_on() {
    let server = Server::start().await;
    server.add(A);
    wrenn(
        &server,
        &["exec", "-d", "-i", "--name", "c", A, "--", "cat"],
    )
    .await
    .with(0);
    let attach = command(&server, &["attach", "-i", A, "c"]);
    let ended = finish(attach, b"in\xff".to_vec()).await.with(0);
    assert_eq!(ended.stdout, b"in\xff");
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_detaches_on_sigterm() {
    let server = Server::start().await;
    server.add(A);
    wrenn(&server, &["exec", "-d", "--name", "s", A, "--", "sleep"])
        .await
        .with(0);
    for (signal, code, passed) in [
        (Signal::TERM, 143, vec![]),
        (Signal::INT, 130, vec![ProcessSignal::Interrupt]),
    ] {
        let attaches = server.world().attaches.len();
        let mut attach = command(&server, &["attach", A, "s"]);
        let child = attach.stdout(Stdio::null()).spawn().unwrap();
        eventually("it is attached", || {
            server.world().attaches.len() > attaches
        });
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
        assert_eq!(ended.await.unwrap().status.code(), Some(code));
        assert_eq!(server.world().signals, passed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_command_is_shown_with_restarts() {
    let server = Server::start().await;
    let create = [
        "create",
        "--restart",
        "on-failure:5",
        "-w",
        "/srv",
        "--",
        "server",
        "-v",
    ];
    let id = wrenn(&server, &create).await.with(0).text();
    let command = server.world().sandboxes[&id].start_command.clone();
    let command = command.expect("a start command");
    assert_eq!(
        (command.cmd.as_str(), &command.args[..]),
        ("server", &["-v".to_owned()][..])
    );
    assert_eq!(command.cwd.as_deref(), Some("/srv"));
    let shown = wrenn(&server, &["inspect", &id]).await.with(0).text();
    assert!(
        shown.contains("server -v (restart: on-failure:5)"),
        "{shown}"
    );
    let listed = wrenn(&server, &["ps", &id]).await.with(0).text();
    for text in [
        "start",
        "restarting",
        "1 (last exit 3, next in 0 s)",
        "server -v",
    ] {
        assert!(listed.contains(text), "{text}: {listed}");
    }
    for wrong in [
        &["create", "--restart", "always"][..],
        &["create", "--restart", "always:3", "--", "server"],
        &["create", "server"],
    ] {
        wrenn(&server, wrong).await.with(2);
    }
}
