//! Files, but for uploads by form.

use std::time::Duration;

use api_types::{FileKind, ListFilesRequest, PathRequest};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::Method;

use crate::support::{eventually, one, refused};

fn path(path: &str) -> PathRequest {
    PathRequest {
        path: path.to_owned(),
        user: None,
    }
}

#[tokio::test]
async fn files_can_be_read_listed_and_removed() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    host.world()
        .sandboxes
        .get_mut(&id)
        .unwrap()
        .content
        .files
        .insert("/home/user/ä b".to_owned(), data.clone());

    let info = client.stat(&id, &path("ä b")).await.unwrap();
    assert_eq!(
        (info.kind, info.size, info.mode),
        (FileKind::File, 3_000_000, 0o644)
    );
    assert_eq!(info.modified_at, "2026-01-01T00:00:00.000Z");
    let read = client.read_file(&id, &path("ä b")).await.unwrap();
    let read: Vec<u8> = read
        .try_fold(Vec::new(), async |all, part| {
            Ok([all, part.to_vec()].concat())
        })
        .await
        .unwrap();
    assert!(read == data);
    let streamed = plane.post(
        &format!("/v1/sandboxes/{id}/files/stream/read"),
        r#"{"path": "ä b"}"#,
    );
    let streamed = streamed.send().await.unwrap();
    assert_eq!(
        streamed.headers()["content-type"],
        "application/octet-stream"
    );
    assert!(streamed.bytes().await.unwrap() == data);
    let list = ListFilesRequest {
        path: "/home/user".into(),
        depth: Some(2),
        user: None,
        limit: None,
        cursor: None,
    };
    assert_eq!(client.list_files(&id, &list).await.unwrap().len(), 1);
    client.make_dir(&id, &path("/srv/new")).await.unwrap();
    assert_eq!(
        client.stat(&id, &path("/srv/new")).await.unwrap().kind,
        FileKind::Directory
    );
    client.remove_file(&id, &path("ä b")).await.unwrap();
    assert!(
        client
            .read_file(&id, &path("ä b"))
            .await
            .err()
            .unwrap()
            .is_not_found()
    );
}

#[tokio::test]
async fn long_lists_come_whole_and_paged() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let names: Vec<String> = (0..2500).map(|n| format!("/srv/{n:05}")).collect();
    for name in &names {
        let mut world = host.world();
        let files = &mut world.sandboxes.get_mut(&id).unwrap().content.files;
        files.insert(name.clone(), Vec::new());
    }
    host.world()
        .sandboxes
        .get_mut(&id)
        .unwrap()
        .content
        .archives
        .insert("/srv".to_owned(), Vec::new());
    let client = plane.client();
    let mut request = ListFilesRequest {
        path: "/srv".into(),
        depth: None,
        user: None,
        limit: None,
        cursor: None,
    };
    let whole = client.list_files(&id, &request).await.unwrap();
    assert!(whole.iter().map(|entry| &entry.path).eq(&names));
    request.limit = Some(999);
    let mut paged = Vec::new();
    loop {
        let page = client.list_files_page(&id, &request).await.unwrap();
        assert!(page.items.len() <= 999);
        paged.extend(page.items.into_iter().map(|entry| entry.path));
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, names);
    for wrong in [
        r#""limit": 0"#,
        r#""limit": 1001"#,
        r#""cursor": "!""#,
        r#""cursor": """#,
    ] {
        let body = format!(r#"{{"path": "/srv", {wrong}}}"#);
        let call = plane.post(&format!("/v1/sandboxes/{id}/files/list"), body);
        refused(call, 400, "invalid_request").await;
    }
}

#[tokio::test]
async fn moves_and_changes_reach_guest() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    for name in ["/srv/a", "/srv/b"] {
        let mut world = host.world();
        let files = &mut world.sandboxes.get_mut(&id).unwrap().content.files;
        files.insert(name.to_owned(), name.as_bytes().to_vec());
    }
    let post =
        |verb: &str, body: &str| plane.post(&format!("/v1/sandboxes/{id}/files/{verb}"), body);
    let kept = r#"{"source": "/srv/a", "destination": "/srv/b", "overwrite": false}"#;
    refused(post("move", kept), 409, "conflict").await;
    let request = api_types::MoveFileRequest {
        source: "/srv/a".into(),
        destination: "/srv/b".into(),
        overwrite: true,
        user: None,
    };
    assert_eq!(
        client.move_file(&id, &request).await.unwrap().path,
        "/srv/b"
    );
    assert!(
        client
            .move_file(&id, &request)
            .await
            .unwrap_err()
            .is_not_found()
    );
    let chmod = api_types::ChmodRequest {
        path: "/srv/b".into(),
        mode: "0755".into(),
        recursive: false,
        user: None,
    };
    assert_eq!(client.change_mode(&id, &chmod).await.unwrap().mode, 0o755);
    let chown = api_types::ChownRequest {
        path: "/srv/b".into(),
        owner: Some("root".into()),
        group: None,
        recursive: true,
        user: Some("root".into()),
    };
    assert_eq!(
        client.change_owner(&id, &chown).await.unwrap().owner,
        "root"
    );
    for (verb, body) in [
        ("move", r#"{"source": "/srv/b"}"#),
        ("move", r#"{"source": "/srv/b", "destination": ""}"#),
        ("chmod", r#"{"path": "/srv/b", "mode": ""}"#),
        ("chmod", r#"{"path": "/srv/b", "mode": "rwx"}"#),
        ("chown", r#"{"path": "/srv/b"}"#),
        ("chown", r#"{"path": "/srv/b", "owner": "a:b"}"#),
        ("chown", r#"{"path": "/srv/b", "group": ""}"#),
    ] {
        refused(post(verb, body), 400, "invalid_request").await;
    }
    // Seven bytes of text for each byte.
    let odd = "\u{10fffd}xE9".repeat(4096);
    refused(
        post("stat", &format!(r#"{{"path": "{odd}"}}"#)),
        404,
        "not_found",
    )
    .await;
    let odd = "\u{10fffd}xE9".repeat(4097);
    refused(
        post("stat", &format!(r#"{{"path": "{odd}"}}"#)),
        400,
        "invalid_request",
    )
    .await;
}

#[tokio::test]
async fn archives_go_both_ways() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let tar: Vec<u8> = (0..1_000_000u32).map(|n| (n % 253) as u8).collect();
    let parts: Vec<_> = tar
        .chunks(100_000)
        .map(|part| Ok(Bytes::copy_from_slice(part)))
        .collect();
    plane
        .client()
        .write_archive(&id, &path("/srv/x y"), stream::iter(parts))
        .await
        .unwrap();
    assert!(host.world().sandboxes[&id].content.archives["/srv/x y"] == tar);
    let back = plane
        .client()
        .read_archive(&id, &path("/srv/x y"))
        .await
        .unwrap();
    let back: Vec<u8> = back
        .try_fold(Vec::new(), async |all, part| {
            Ok([all, part.to_vec()].concat())
        })
        .await
        .unwrap();
    assert!(back == tar);

    let place = format!("/v1/sandboxes/{id}/files/archive");
    let put = |query: &str| plane.request(Method::PUT, &format!("{place}{query}"));
    refused(put("?path=/srv").body("x"), 415, "unsupported_media_type").await;
    refused(
        put("")
            .header("content-type", "application/x-tar")
            .body("x"),
        400,
        "invalid_request",
    )
    .await;
    refused(
        put("?path=")
            .header("content-type", "application/x-tar")
            .body("x"),
        400,
        "invalid_request",
    )
    .await;
    refused(
        put("?path=/full")
            .header("content-type", "application/x-tar")
            .body("x"),
        507,
        "insufficient_storage",
    )
    .await;
    refused(
        plane.request(Method::GET, &format!("{place}?path=/none")),
        404,
        "not_found",
    )
    .await;
}

#[tokio::test]
async fn refusals_of_the_guest_keep_their_meaning() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let post =
        |verb: &str, body: &str| plane.post(&format!("/v1/sandboxes/{id}/files/{verb}"), body);
    for verb in ["read", "stream/read", "stat", "list", "remove"] {
        let message = refused(post(verb, r#"{"path": "/no/such"}"#), 404, "not_found").await;
        assert!(message.contains("/no/such"), "{message}");
        refused(post(verb, r#"{"path": ""}"#), 400, "invalid_request").await;
        refused(
            post(verb, r#"{"path": "a\u0000b"}"#),
            400,
            "invalid_request",
        )
        .await;
        refused(
            post(verb, &format!(r#"{{"path": "{}"}}"#, "a".repeat(4097))),
            400,
            "invalid_request",
        )
        .await;
        refused(post(verb, r#"{"path": "/secret/x"}"#), 403, "forbidden").await;
        refused(
            post(verb, r#"{"path": "x", "user": "a/b"}"#),
            400,
            "invalid_request",
        )
        .await;
        refused(
            post(verb, r#"{"path": "x", "mode": 1}"#),
            400,
            "invalid_request",
        )
        .await;
    }
    assert!(
        refused(
            post("read", r#"{"path": "/home/user"}"#),
            400,
            "invalid_request"
        )
        .await
        .contains("directory")
    );
    refused(
        post("mkdir", r#"{"path": "/full/x"}"#),
        507,
        "insufficient_storage",
    )
    .await;
    assert!(
        refused(
            post("list", r#"{"path": "/", "depth": 33}"#),
            400,
            "invalid_request"
        )
        .await
        .contains("32")
    );
    refused(
        post("list", r#"{"path": "/", "depth": 0}"#),
        400,
        "invalid_request",
    )
    .await;
}

#[tokio::test]
async fn a_download_waits_for_its_reader_and_ends_with_it() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let mut zeros = plane
        .client()
        .read_file(&id, &path("/dev/zero"))
        .await
        .unwrap();
    assert!(zeros.next().await.unwrap().is_ok());
    let standing = || async {
        let before = host.world().given_out;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = host.world().given_out;
        (before == after).then_some(after)
    };
    let given = eventually("the host standing still", standing).await;
    assert!(given < 64 * 1024 * 1024, "{given} bytes are on their way");
    drop(zeros);
    assert!(
        eventually("the host standing still for good", standing).await <= given + 64 * 1024 * 1024
    );
}

#[tokio::test]
async fn a_download_that_breaks_is_not_taken_for_whole() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let mut zeros = plane
        .client()
        .read_file(&id, &path("/dev/zero"))
        .await
        .unwrap();
    assert!(zeros.next().await.unwrap().is_ok());
    host.stop();
    let broke = async {
        loop {
            match zeros.next().await {
                Some(Ok(_)) => {}
                other => return matches!(other, Some(Err(_))),
            }
        }
    };
    assert!(
        tokio::time::timeout(crate::support::PATIENCE, broke)
            .await
            .unwrap(),
        "the end is an error"
    );
}
