//! Pause, fork, snapshots and checkpoints against a server on loopback.

use client::types::{OnTimeout, SandboxStatus, TemplateKind};

use crate::server::Server;
use crate::wrenn::wrenn;

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

#[tokio::test(flavor = "multi_thread")]
async fn pause_resume_and_fork_print_ids() {
    let server = Server::start().await;
    server.add(A);
    assert_eq!(wrenn(&server, &["pause", "sb-aaa"]).await.with(0).text(), A);
    assert_eq!(server.world().sandboxes[A].status, SandboxStatus::Paused);
    assert_eq!(
        wrenn(&server, &["resume", A, "--json"])
            .await
            .with(0)
            .json()["status"],
        "running"
    );
    let forked = wrenn(&server, &["fork", A, "--count", "3"])
        .await
        .with(0)
        .text();
    assert_eq!(
        (forked.lines().count(), server.world().sandboxes.len()),
        (3, 4)
    );
    assert_eq!(
        wrenn(&server, &["fork", A, "--json"])
            .await
            .with(0)
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let missing = wrenn(&server, &["pause", "sb-00000000000000000009"])
        .await
        .with(1);
    assert!(missing.stderr.contains("there is no sb-"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_made_listed_and_removed() {
    let server = Server::start().await;
    server.add(A);
    assert_eq!(
        wrenn(&server, &["snapshot", A, "ready"])
            .await
            .with(0)
            .text(),
        "ready"
    );
    let refused = wrenn(&server, &["snapshot", A, "ready"]).await.with(1);
    assert!(refused.stderr.contains("already"), "{refused:?}");
    assert_eq!(
        wrenn(&server, &["snapshot", A]).await.with(0).text(),
        "template-0"
    );
    let listed = wrenn(&server, &["snapshots"]).await.with(0).text();
    assert!(
        listed.contains("ready") && listed.contains("256 MiB") && !listed.contains("minimal"),
        "{listed}"
    );
    assert!(
        wrenn(&server, &["templates"])
            .await
            .with(0)
            .text()
            .contains("minimal")
    );
    let shown = wrenn(&server, &["snapshots", "show", "ready"])
        .await
        .with(0)
        .text();
    assert!(shown.contains(A) && shown.contains("4096 MiB"), "{shown}");
    let _ = wrenn(
        &server,
        &["snapshot", A, "ready", "--no-memory", "--overwrite"],
    )
    .await
    .with(0);
    assert_eq!(server.world().snapshots["ready"].kind, TemplateKind::Image);
    let partly = wrenn(&server, &["snapshots", "rm", "nothing", "ready"])
        .await
        .with(1);
    assert_eq!(
        (partly.text().as_str(), partly.stderr.contains("nothing")),
        ("ready", true)
    );
    assert_eq!(
        wrenn(&server, &["snapshots", "ls", "--json"])
            .await
            .with(0)
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_made_listed_gone_back_to_and_removed() {
    let server = Server::start().await;
    server.add(A);
    assert!(
        wrenn(&server, &["checkpoints", A])
            .await
            .with(0)
            .stderr
            .contains("wrenn checkpoint")
    );
    assert_eq!(
        wrenn(&server, &["checkpoint", A, "first"])
            .await
            .with(0)
            .text(),
        "first"
    );
    assert_eq!(
        wrenn(&server, &["checkpoint", A]).await.with(0).text(),
        "checkpoint-0"
    );
    assert!(
        wrenn(&server, &["checkpoints", A])
            .await
            .with(0)
            .text()
            .contains("first")
    );
    assert_eq!(
        wrenn(&server, &["rollback", A, "first"])
            .await
            .with(0)
            .text(),
        A
    );
    assert_eq!(
        wrenn(&server, &["checkpoints", A, "rm", "first"])
            .await
            .with(0)
            .text(),
        "first"
    );
    assert!(
        wrenn(&server, &["rollback", A, "first"])
            .await
            .with(1)
            .stderr
            .contains("there is no first")
    );
    assert_eq!(server.world().checkpoints.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_says_how_to_take_it_back() {
    let server = Server::start().await;
    server.add(A);
    let policy = wrenn(&server, &["auto-checkpoint", A]).await.with(0).text();
    assert_eq!(policy, "never");
    let set = [
        "auto-checkpoint",
        A,
        "command",
        "--keep",
        "3",
        "--max-size",
        "2g",
    ];
    let policy = wrenn(&server, &set).await.with(0).text();
    assert_eq!(
        policy,
        "before each command, the last 3 stay, at most 2.00 GiB"
    );
    let empty = wrenn(&server, &["undo", A, "--list"]).await.with(0).stderr;
    assert!(empty.contains("There is nothing to undo"), "{empty}");
    for name in ["first", "second"] {
        wrenn(&server, &["checkpoint", A, name]).await.with(0);
    }
    let listed = wrenn(&server, &["undo", A, "--list"]).await.with(0).text();
    assert!(
        listed.contains("first") && listed.contains("second"),
        "{listed}"
    );
    assert_eq!(wrenn(&server, &["undo", A]).await.with(0).text(), "second");
    assert_eq!(
        wrenn(&server, &["undo", A, "2"]).await.with(0).text(),
        "first"
    );
    let named = wrenn(&server, &["undo", A, "first"]).await.with(0);
    assert!(
        named.stderr.contains(&format!("wrenn rollback {A} undo-1")),
        "{}",
        named.stderr
    );
    wrenn(&server, &["undo", A, "0"]).await.with(2);
    wrenn(&server, &["undo", A, "9"]).await.with(1);
    wrenn(&server, &["auto-checkpoint", A, "sometimes"])
        .await
        .with(2);
    let policy = wrenn(&server, &["auto-checkpoint", A, "off"])
        .await
        .with(0)
        .text();
    assert_eq!(policy, "never");
    let created = wrenn(&server, &["create", "--auto-checkpoint", "10m"]).await;
    created.with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_shown_where_asked() {
    let server = Server::start().await;
    server.add(A);
    let table = wrenn(&server, &["df", "-v"]).await.with(0).text();
    for part in ["sandboxes", "total", "10.00 MiB", "3.00 MiB", A] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let plain = wrenn(&server, &["ls"]).await.with(0).text();
    assert!(!plain.contains("FREED"), "{plain}");
    let sized = wrenn(&server, &["ls", "--size"]).await.with(0).text();
    assert!(
        sized.contains("FREED") && sized.contains("3.00 MiB"),
        "{sized}"
    );
    let one = wrenn(&server, &["info", "--size", A]).await.with(0).text();
    assert!(
        one.contains("10.00 MiB, of which 3.00 MiB go with it"),
        "{one}"
    );
    let json = wrenn(&server, &["--json", "info", "--size", A])
        .await
        .with(0)
        .json();
    assert_eq!(json["usage"]["total"]["shared_bytes"], 7 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_time_out_does_can_be_chosen() {
    let server = Server::start().await;
    let id = wrenn(
        &server,
        &["create", "--on-timeout", "kill", "--no-auto-resume"],
    )
    .await
    .with(0)
    .text();
    let sandbox = server.world().sandboxes[&id].clone();
    assert_eq!(
        (sandbox.on_timeout, sandbox.auto_resume),
        (OnTimeout::Kill, false)
    );
    let info = wrenn(&server, &["info", &id]).await.with(0).text();
    assert!(info.contains("stopped after 300 seconds"), "{info}");
    let id = wrenn(&server, &["create"]).await.with(0).text();
    assert!(
        wrenn(&server, &["info", &id])
            .await
            .with(0)
            .text()
            .contains("paused after 300 seconds")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_for_the_network_are_given_shown_and_changed() {
    let server = Server::start().await;
    let flags = [
        "create",
        "--no-internet",
        "--allow-out",
        "*.pypi.org,1.1.1.1",
        "--deny-out",
        "9.9.9.9",
    ];
    let id = wrenn(&server, &flags).await.with(0).text();
    let rules = server.world().sandboxes[&id].network.clone();
    assert_eq!(rules.allow_out, ["*.pypi.org", "1.1.1.1"]);
    assert_eq!(
        (rules.deny_out.as_slice(), rules.allow_internet),
        (["9.9.9.9".to_owned()].as_slice(), false)
    );
    let shown = wrenn(&server, &["network", &id]).await.with(0).text();
    assert_eq!(
        shown,
        "allow    *.pypi.org\nallow    1.1.1.1\ndeny     9.9.9.9\ndeny     the rest of the internet"
    );
    let info = wrenn(&server, &["info", &id]).await.with(0).text();
    assert!(
        info.contains("allow *.pypi.org, 1.1.1.1; deny 9.9.9.9; no internet"),
        "{info}"
    );
    wrenn(&server, &["network", &id, "--deny-out", "evil.com"])
        .await
        .with(0);
    let rules = server.world().sandboxes[&id].network.clone();
    assert!(rules.allow_internet && rules.allow_out.is_empty() && rules.deny_out == ["evil.com"]);
    wrenn(
        &server,
        &[
            "network",
            &id,
            "--egress-mbps",
            "10",
            "--ingress-mbps",
            "50",
        ],
    )
    .await
    .with(0);
    let shown = wrenn(&server, &["network", &id]).await.with(0).text();
    assert_eq!(
        shown,
        "allow    the internet\nsend     at most 10 Mbit/s\nreceive  at most 50 Mbit/s"
    );
    let info = wrenn(&server, &["info", &id]).await.with(0).text();
    assert!(
        info.contains("the internet is open; sends at most 10 Mbit/s; receives at most 50 Mbit/s"),
        "{info}"
    );
    wrenn(&server, &["network", &id, "--open", "--egress-mbps", "10"])
        .await
        .with(2);
    assert_eq!(
        wrenn(&server, &["network", &id, "--open"])
            .await
            .with(0)
            .text(),
        "allow    the internet"
    );
    let json = wrenn(&server, &["network", &id, "--json"])
        .await
        .with(0)
        .json();
    assert_eq!(json, serde_json::json!({ "allow_internet": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_prints_as_docker_and_git() {
    let server = Server::start().await;
    server.add(A);
    let run = async |args: &[&str]| wrenn(&server, &[&["diff", A], args].concat()).await;
    assert_eq!(run(&[]).await.with(0).text(), "A /a\\u{1b}\nC /b\nD /d");
    let patch = run(&["one", "two", "-p"]).await.with(0).text();
    assert!(
        patch.contains("diff --git a/b b/b\n--- a/b\n+++ b/b\n@@ -1 +1 @@\n-b\n+c"),
        "{patch}"
    );
    assert!(!patch.contains('\u{1b}'), "{patch:?}");
    let stat = run(&["--stat"]).await.with(0).text();
    assert!(
        stat.contains("/d       | Bin 7 -> 0 bytes\n 3 files changed, 2 insertions(+)"),
        "{stat}"
    );
    let json = wrenn(&server, &["--json", "diff", A]).await.with(0).text();
    assert!(
        json.lines().all(|line| line.starts_with("{\"type\":")),
        "{json}"
    );
    assert!(
        run(&["--limit", "3"])
            .await
            .with(0)
            .stderr
            .contains("There may be more")
    );
    let undo = wrenn(&server, &["undo", A, "name", "--dry-run"]).await;
    assert_eq!(undo.with(0).text(), "D /a\\u{1b}\nC /b\nA /d");
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_exits_as_diff_does() {
    let server = Server::start().await;
    server.add(A);
    let run = async |args: &[&str]| wrenn(&server, &[&["diff", A], args].concat()).await;
    run(&["one"]).await.with(0);
    run(&["one", "--exit-code"]).await.with(1);
    run(&["same", "--exit-code"]).await.with(0);
    let damaged = run(&["damaged", "--exit-code"]).await.with(1);
    assert_eq!(damaged.text(), "? /e");
    assert!(
        damaged
            .stderr
            .contains("There may be more: 1 is unreadable")
    );
    run(&["broken"]).await.with(1);
    run(&["broken", "--exit-code"]).await.with(2);
}
