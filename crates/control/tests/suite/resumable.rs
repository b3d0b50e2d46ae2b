//! Uploads by tus that go on after a break.

use bytes::Bytes;
use client::UploadTarget;
use futures::stream;
use reqwest::{Method, RequestBuilder};

use crate::support::{Plane, eventually, one, refused};

fn tus(plane: &Plane, method: Method, path: &str) -> RequestBuilder {
    plane.request(method, path).header("tus-resumable", "1.0.0")
}

#[tokio::test]
async fn upload_goes_on_over_planes() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let data: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let target = UploadTarget {
        path: "/srv/caf\u{10fffd}xE9".to_owned(),
        mode: Some(0o600),
        length: 2_000_000,
        ..Default::default()
    };
    let upload = client.begin_upload(&id, &target).await.unwrap();
    let first = Bytes::copy_from_slice(&data[..700_000]);
    let broken = stream::iter([Ok(first), Err(std::io::Error::other("cut"))]);
    client.send_part(&id, &upload, 0, broken).await.unwrap_err();
    // What came is kept, and a client learns how much that is.
    let offset = eventually("some of the part is there", || async {
        let offset = client.upload_offset(&id, &upload).await.unwrap();
        (offset > 0).then_some(offset)
    })
    .await;
    let settled = eventually("the part has ended", || async {
        let at = usize::try_from(client.upload_offset(&id, &upload).await.unwrap()).unwrap();
        let rest = Bytes::copy_from_slice(&data[at..]);
        let rest = stream::iter([Ok(rest)]);
        client.send_part(&id, &upload, at as u64, rest).await.ok()
    })
    .await;
    assert!(offset <= 700_000);
    assert_eq!(settled, 2_000_000);
    {
        let world = host.world();
        assert!(world.uploads[0].data == data && world.uploads[0].is_complete);
        assert_eq!(world.uploads[0].path, "/srv/caf\u{10fffd}xE9");
    }
    let wrong = stream::iter([Ok(Bytes::from_static(b"x"))]);
    let error = client.send_part(&id, &upload, 5, wrong).await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    client.delete_upload(&id, &upload).await.unwrap();
    let gone = client.upload_offset(&id, &upload).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone:?}");
}

#[tokio::test]
async fn uploads_speak_tus() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let uploads = format!("/v1/sandboxes/{id}/files/uploads");
    let begin = || tus(&plane, Method::POST, &uploads).header("upload-length", "5");
    // `/tmp/a`, beside a name of the client's own.
    let metadata = "filename YQ==,path L3RtcC9h,mode MDc1NQ==";
    let begun = begin()
        .header("upload-metadata", metadata)
        .send()
        .await
        .unwrap();
    assert_eq!(begun.status(), 201);
    assert_eq!(begun.headers()["tus-resumable"], "1.0.0");
    assert_eq!(begun.headers()["upload-offset"], "0");
    let place = begun.headers()["location"].to_str().unwrap().to_owned();
    let head = tus(&plane, Method::HEAD, &place).send().await.unwrap();
    assert_eq!(
        (
            head.status().as_u16(),
            &head.headers()["upload-length"].to_str().unwrap()
        ),
        (200, &"5")
    );
    assert_eq!(head.headers()["cache-control"], "no-store");
    let part = |offset: &str, kind: &str| {
        tus(&plane, Method::PATCH, &place)
            .header("upload-offset", offset)
            .header("content-type", kind)
            .body("12345")
    };
    let tus_part = "application/offset+octet-stream";
    refused(part("0", "text/plain"), 415, "unsupported_media_type").await;
    refused(part("-1", tus_part), 400, "invalid_request").await;
    refused(part("4", tus_part), 409, "conflict").await;
    let sent = part("0", tus_part).send().await.unwrap();
    assert_eq!(
        (
            sent.status().as_u16(),
            &sent.headers()["upload-offset"].to_str().unwrap()
        ),
        (204, &"5")
    );
    refused(
        plane.request(Method::POST, &uploads),
        400,
        "invalid_request",
    )
    .await;
    for metadata in [
        "",
        "path",
        "path !",
        "path L3RtcC9h,mode OTk5",
        "path L3RtcC9h,sha256 YQ==",
    ] {
        let call = begin().header("upload-metadata", metadata);
        refused(call, 400, "invalid_request").await;
    }
    let unknown = format!("{uploads}/nonsense");
    refused(tus(&plane, Method::DELETE, &unknown), 404, "not_found").await;
}
