//! `wrenn image` against a server on loopback.

use crate::server::Server;
use crate::wrenn::{command, finish, wrenn};

#[tokio::test(flavor = "multi_thread")]
async fn images_are_imported_listed_removed() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("Busybox.tar.gz");
    std::fs::write(&file, "an archive").unwrap();
    let file = file.to_str().unwrap();
    let imported = wrenn(&server, &["image", "import", file]).await.with(0);
    assert_eq!(imported.text(), "busybox");
    let piped = command(
        &server,
        &["image", "import", "-", "--name", "piped", "--json"],
    );
    let piped = finish(piped, vec![b'x'; 300_000]).await.with(0).json();
    assert_eq!(
        (piped["name"].as_str(), piped["size_bytes"].as_u64()),
        (Some("piped"), Some(300_000))
    );
    let listed = wrenn(&server, &["image", "ls"]).await.with(0).text();
    for name in ["busybox", "piped", "minimal"] {
        assert!(listed.contains(name), "{listed}");
    }
    let shown = wrenn(&server, &["image", "inspect", "busybox"])
        .await
        .with(0);
    assert_eq!(shown.json()[0]["format"], "tar");
    let removed = wrenn(&server, &["image", "rm", "busybox", "missing"])
        .await
        .with(1);
    assert_eq!(removed.text(), "busybox");
    assert!(removed.stderr.contains("wrenn image ls"), "{removed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_are_sent_as_archives() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let refused = wrenn(&server, &["image", "import", path, "--name", "app"])
        .await
        .with(2);
    assert!(refused.stderr.contains("is no OCI layout"), "{refused:?}");
    std::fs::write(dir.path().join("oci-layout"), "{}").unwrap();
    std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
    std::fs::write(dir.path().join("blobs/sha256/0"), vec![b'x'; 100_000]).unwrap();
    let imported = wrenn(&server, &["image", "import", path, "--name", "app"])
        .await
        .with(0);
    assert_eq!(imported.text(), "app");
    assert!(server.world().snapshots["app"].size_bytes > 100_000);
    let bad = dir.path().join("bad.tar");
    std::fs::write(&bad, "bad").unwrap();
    let refused = wrenn(&server, &["image", "import", bad.to_str().unwrap()])
        .await
        .with(1);
    assert!(refused.stderr.contains("it is no image"), "{refused:?}");
    let missing = wrenn(&server, &["image", "import", "missing.tar"])
        .await
        .with(1);
    assert!(
        missing.stderr.contains("missing.tar cannot be read"),
        "{missing:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_with_credentials() {
    let server = Server::start().await;
    let pulled = wrenn(&server, &["image", "pull", "alpine:3.20"])
        .await
        .with(0);
    assert_eq!(pulled.text(), "alpine-3.20");
    let whole = "docker.io/library/alpine:3.20".len() as u64;
    assert_eq!(server.world().snapshots["alpine-3.20"].size_bytes, whole);
    // As `docker login` writes it; "ann:secret".
    let config = tempfile::tempdir().unwrap();
    let auths = r#"{"auths": {"registry.example:5000": {"auth": "YW5uOnNlY3JldA=="}}}"#;
    std::fs::write(config.path().join("config.json"), auths).unwrap();
    let reference = "registry.example:5000/team/app";
    let with_config = |args: &[&str]| {
        let mut command = command(&server, args);
        command.env("DOCKER_CONFIG", config.path());
        command
    };
    let json = finish(with_config(&["image", "pull", reference, "--json"]), vec![]).await;
    let whole = format!("{reference}:latest").len();
    let json = json.with(0).json();
    assert_eq!(
        (json["name"].as_str(), json["size_bytes"].as_u64()),
        (Some("app"), Some(whole as u64 + 6))
    );
    let args = [
        "image",
        "pull",
        reference,
        "--name",
        "typed",
        "--username",
        "bob",
        "--password-stdin",
    ];
    finish(with_config(&args), b"longer secret\n".to_vec())
        .await
        .with(0);
    assert_eq!(
        server.world().snapshots["typed"].size_bytes,
        whole as u64 + 13
    );
    let args = ["image", "pull", reference, "--name", "open", "--anonymous"];
    finish(with_config(&args), vec![]).await.with(0);
    assert_eq!(server.world().snapshots["open"].size_bytes, whole as u64);
    let other = wrenn(&server, &["image", "pull", "other-app", "--name", "app"])
        .await
        .with(1);
    assert!(other.stderr.contains("app"), "{other:?}");
    wrenn(
        &server,
        &["image", "pull", "other-app", "--name", "app", "--replace"],
    )
    .await
    .with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_pulls_tell_why() {
    let server = Server::start().await;
    for (reference, expected) in [
        ("missing", "no such image"),
        ("broken", "ended a layer early"),
    ] {
        let failed = wrenn(&server, &["image", "pull", reference]).await.with(1);
        assert!(failed.stderr.contains(expected), "{failed:?}");
    }
    let wrong = wrenn(&server, &["image", "pull", "UPPER"]).await.with(2);
    assert!(wrong.stderr.contains("alpine:3.20"), "{wrong:?}");
}
