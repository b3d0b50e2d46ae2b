//! `wrenn fs`.

use client::types::FileKind;

use crate::server::Server;
use crate::wrenn::wrenn;

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

async fn server() -> Server {
    let server = Server::start().await;
    server.add(A);
    {
        let mut world = server.world();
        world.archives.insert("/srv".to_owned(), Vec::new());
        for name in ["/srv/a", "/srv/b", "/srv/c\u{1b}", "/srv/d", "/srv/e"] {
            world
                .files
                .insert(name.to_owned(), name.as_bytes().to_vec());
        }
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_turns_all_pages() {
    let server = server().await;
    let listed = wrenn(&server, &["fs", "ls", A, "/srv"]).await.with(0);
    assert_eq!(listed.text(), "a\nb\nc\\u{1b}\nd\ne");
    let long = wrenn(&server, &["fs", "ls", "-l", A, "/srv"]).await.with(0);
    assert!(long.text().starts_with("-rw-r----- user"), "{long:?}");
    let json = wrenn(&server, &["--json", "fs", "ls", A, "/srv"])
        .await
        .with(0);
    assert_eq!(json.json().as_array().unwrap().len(), 5);
    let empty = wrenn(&server, &["--json", "fs", "ls", A, "/srv/a/"]).await;
    assert_eq!(empty.with(0).json(), serde_json::json!([]));
    let missing = wrenn(&server, &["fs", "ls", A, "/no"]).await.with(1);
    assert!(missing.stderr.contains("does not exist"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mv_moves_into_directories() {
    let server = server().await;
    server
        .world()
        .archives
        .insert("/tmp".to_owned(), Vec::new());
    wrenn(&server, &["fs", "mv", A, "/srv/a", "/srv/b", "/tmp"])
        .await
        .with(0);
    assert!(server.world().files.contains_key("/tmp/b"));
    wrenn(&server, &["fs", "mv", A, "/tmp/b", "/tmp/c"])
        .await
        .with(0);
    let kept = ["fs", "mv", "-n", A, "/srv/d", "/tmp/c"];
    assert!(
        wrenn(&server, &kept)
            .await
            .with(1)
            .stderr
            .contains("already exists")
    );
    wrenn(&server, &["fs", "mv", A, "/srv/d", "/tmp/c"])
        .await
        .with(0);
    assert_eq!(server.world().files["/tmp/c"], b"/srv/d");
    let many = ["fs", "mv", A, "/srv/e", "/tmp/a", "/tmp/c"];
    assert!(
        wrenn(&server, &many)
            .await
            .with(2)
            .stderr
            .contains("no directory")
    );
    wrenn(&server, &["fs", "mv", A, "/srv/e", "/tmp/new/"])
        .await
        .with(2);
    wrenn(&server, &["fs", "mv", A, "/srv/e"]).await.with(2);
    assert!(server.world().files.contains_key("/srv/e"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mode_and_owner_go_through() {
    let server = server().await;
    for (flags, expected) in [
        (vec!["chmod", A, "-x", "/srv/a"], "chmod /srv/a -x false"),
        (
            vec!["chmod", "-R", A, "0755", "/srv"],
            "chmod /srv 0755 true",
        ),
        (
            vec!["chown", A, "user:staff", "/srv/a"],
            "chown /srv/a user:staff false",
        ),
        (vec!["chown", "-R", A, ":7", "/srv"], "chown /srv :7 true"),
        (
            vec!["chown", A, "root", "/srv/a"],
            "chown /srv/a root: false",
        ),
    ] {
        wrenn(&server, &[&["fs"][..], &flags].concat())
            .await
            .with(0);
        assert_eq!(server.world().changes.last().unwrap(), expected);
    }
    let json = ["--json", "fs", "chmod", A, "0600", "/srv/a", "/srv/b"];
    assert_eq!(
        wrenn(&server, &json)
            .await
            .with(0)
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rm_spares_directories_without_flag() {
    let server = server().await;
    let refused = wrenn(&server, &["fs", "rm", A, "/srv"]).await.with(2);
    assert!(refused.stderr.contains("-r"), "{refused:?}");
    wrenn(&server, &["fs", "rm", A, "/no"]).await.with(1);
    wrenn(&server, &["fs", "rm", "-f", A, "/no", "/srv/a"])
        .await
        .with(0);
    wrenn(
        &server,
        &["fs", "rm", "-f", "sb-bbbbbbbbbbbbbbbbbbbb", "/no"],
    )
    .await
    .with(1);
    assert!(!server.world().files.contains_key("/srv/a"));
    wrenn(&server, &["fs", "mkdir", A, "/made"]).await.with(0);
    wrenn(&server, &["fs", "mkdir", A, "/made"]).await.with(1);
    wrenn(&server, &["fs", "mkdir", "-p", A, "/made"])
        .await
        .with(0);
    wrenn(&server, &["fs", "mkdir", "-p", A, "/srv/b"])
        .await
        .with(1);
    let stat = wrenn(&server, &["--json", "fs", "stat", A, "/made"])
        .await
        .with(0);
    let kind: FileKind = serde_json::from_value(stat.json()["kind"].clone()).unwrap();
    assert_eq!(kind, FileKind::Directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn search_exits_as_grep_does() {
    let server = server().await;
    let found = wrenn(&server, &["fs", "find", A, "/srv", "--name", "*"])
        .await
        .with(0);
    assert_eq!(
        found.text(),
        "/srv/a\n/srv/b\n/srv/c\\u{1b}\n/srv/d\n/srv/e"
    );
    let found = wrenn(&server, &["fs", "grep", A, "/srv/b", "/srv"])
        .await
        .with(0);
    assert_eq!(found.text(), "/srv/b:1:/srv/b");
    wrenn(&server, &["fs", "grep", A, "nowhere", "/srv"])
        .await
        .with(1);
    let cut = wrenn(&server, &["fs", "find", "--limit", "2", A, "/srv"])
        .await
        .with(0);
    assert!(cut.stderr.contains("There may be more"), "{cut:?}");
    let broken = wrenn(&server, &["fs", "find", A, "/broken"]).await.with(1);
    assert!(broken.stderr.contains("broke off"), "{broken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_survives_broken_connection() {
    let server = server().await;
    let watch = wrenn(&server, &["fs", "watch", "-r", A, "/srv"])
        .await
        .with(0);
    let expected = [
        "create  /srv/new\\u{1b}",
        "lost    the connection broke",
        "rename  /srv/a -> /srv/b",
    ];
    assert_eq!(watch.text().lines().collect::<Vec<_>>(), expected);
    assert!(watch.stderr.contains("removed"), "{watch:?}");
    let json = wrenn(&server, &["--json", "fs", "watch", A, "/srv"])
        .await
        .with(0);
    assert!(json.text().contains(r#""type":"rename""#), "{json:?}");
    wrenn(&server, &["fs", "watch", A, "/no"]).await.with(1);
}
