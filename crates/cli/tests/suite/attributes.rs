//! Names, labels, ends and use of sandboxes against a server on loopback.

use client::types::OnTimeout;

use crate::server::Server;
use crate::wrenn::wrenn;

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

#[tokio::test(flavor = "multi_thread")]
async fn names_and_labels_are_set_and_changed() {
    let server = Server::start().await;
    let create = [
        "create",
        "--name",
        "web",
        "--label",
        "env=test",
        "-l",
        "team=a",
        "--ends-at",
        "2030-01-01T00:00:00Z",
    ];
    let id = wrenn(&server, &create).await.with(0).text();
    {
        let world = server.world();
        let made = &world.sandboxes[&id];
        assert_eq!(made.name.as_deref(), Some("web"));
        assert_eq!(made.labels["team"], "a");
        assert_eq!(made.ends_at.as_deref(), Some("2030-01-01T00:00:00Z"));
    }
    let taken = wrenn(&server, &["create", "--name", "web"]).await.with(1);
    assert!(taken.stderr.contains("already"), "{taken:?}");
    let met = wrenn(&server, &["create", "--name", "web", "--or-existing"]).await;
    assert_eq!(met.with(0).text(), id);
    let update = [
        "update",
        &id,
        "--label",
        "env=prod",
        "--unlabel",
        "team",
        "--timeout",
        "1h",
        "--no-end",
        "--on-timeout",
        "kill",
        "--auto-resume",
        "false",
    ];
    assert_eq!(wrenn(&server, &update).await.with(0).text(), id);
    wrenn(&server, &["rename", &id, "web-old"]).await.with(0);
    let world = server.world();
    let changed = &world.sandboxes[&id];
    assert_eq!(changed.name.as_deref(), Some("web-old"));
    assert_eq!(changed.labels.len(), 1);
    assert_eq!(changed.labels["env"], "prod");
    assert_eq!(
        (changed.timeout_sec, changed.on_timeout),
        (3600, OnTimeout::Kill)
    );
    assert!(!changed.auto_resume && changed.ends_at.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_filters_and_counts() {
    let server = Server::start().await;
    server.add(A);
    let filters = ["-l", "env=test", "-f", "template=minimal", "-f", "name=web"];
    for args in [&["ls"][..], &["ls", "--count"]] {
        wrenn(&server, &[args, &filters[..]].concat()).await.with(0);
    }
    let all = wrenn(&server, &["ls", "--count", "--all"]).await.with(0);
    assert_eq!(all.text(), "1");
    let json = wrenn(&server, &["--json", "ls", "--count", "-f", "status=paused"]).await;
    assert_eq!(json.with(0).json()["count"], 1);
    let queries = server.world().queries.clone();
    for query in &queries[..2] {
        for part in ["label=env%3Dtest", "template=minimal", "name_prefix=web"] {
            assert!(query.contains(part), "{query}");
        }
    }
    assert!(
        queries[1].contains("status=running&status=paused"),
        "{queries:?}"
    );
    assert_eq!(queries[2], "");
    assert_eq!(queries[3], "status=paused");
    let both = wrenn(&server, &["ls", "--count", "-q"]).await.with(2);
    assert!(both.stderr.contains("--quiet"), "{both:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_asks_again_until_status() {
    let server = Server::start().await;
    server.add(A);
    let waited = wrenn(&server, &["wait", A, "--for", "running"]).await;
    assert_eq!(waited.with(0).text(), "running");
    let queries = server.world().queries.clone();
    assert_eq!(queries, ["status=running&timeout_sec=50"; 2]);
    let nothing = wrenn(&server, &["wait", A, "--timeout", "0"]).await;
    assert_eq!(nothing.code, Some(124), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_and_keep_alive_count_as_use() {
    let server = Server::start().await;
    server.add(A);
    let pinged = wrenn(&server, &["ping", A]).await.with(0).text();
    assert!(pinged.starts_with(&format!("{A} answered in ")), "{pinged}");
    let json = wrenn(&server, &["--json", "ping", A]).await.with(0);
    assert_eq!(json.json()["id"], A);
    assert_eq!(wrenn(&server, &["keep-alive", A]).await.with(0).text(), A);
    // Its timeout is short, so it takes several.
    server.world().sandboxes.get_mut(A).unwrap().timeout_sec = 1;
    wrenn(&server, &["keep-alive", A, "--for", "1"])
        .await
        .with(0);
    let uses = server.world().uses.clone();
    assert_eq!(uses[..3], ["ping", "ping", "keep-alive"]);
    assert!(
        uses.len() >= 6 && uses[3..].iter().all(|call| *call == "keep-alive"),
        "{uses:?}"
    );
    let missing = wrenn(&server, &["ping", "sb-00000000000000000009"])
        .await
        .with(1);
    assert!(missing.stderr.contains("wrenn ls --all"), "{missing:?}");
}
