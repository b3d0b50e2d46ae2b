//! Uploads by form.

use api_types::PathRequest;
use bytes::Bytes;
use client::FileTarget;
use futures::{TryStreamExt, stream};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method, RequestBuilder};

use crate::support::{Plane, one, refused};

const MIB: usize = 1024 * 1024;

fn upload(plane: &Plane, id: &str, verb: &str, form: Form) -> RequestBuilder {
    plane
        .request(Method::POST, &format!("/v1/sandboxes/{id}/files/{verb}"))
        .multipart(form)
}

fn form(path: &str, data: Vec<u8>) -> Form {
    Form::new()
        .text("path", path.to_owned())
        .part("file", Part::bytes(data).file_name("file"))
}

#[tokio::test]
async fn files_arrive_whole_with_their_mode() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let data: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let parts: Vec<_> = data
        .chunks(70_000)
        .map(|part| Ok(Bytes::copy_from_slice(part)))
        .collect();
    let target = FileTarget {
        path: "ä b".into(),
        user: Some("root".into()),
        mode: Some(0o755),
    };
    plane
        .client()
        .write_file(&id, &target, stream::iter(parts), Some(data.len() as u64))
        .await
        .unwrap();
    {
        let world = host.world();
        let sandbox = &world.sandboxes[&id];
        assert!(sandbox.content.files["/home/user/ä b"] == data);
        assert_eq!(sandbox.content.modes["/home/user/ä b"], 0o755);
    }
    for verb in ["write", "stream/write"] {
        for data in [Vec::new(), b"\r\n--x\r\n".to_vec()] {
            assert_eq!(
                upload(&plane, &id, verb, form("/tmp/x", data.clone()))
                    .send()
                    .await
                    .unwrap()
                    .status(),
                204
            );
            assert_eq!(host.world().sandboxes[&id].content.files["/tmp/x"], data);
        }
    }
}

#[tokio::test]
async fn the_limit_is_named_and_the_stream_has_none() {
    let host = testkit::host::FakeHost::start();
    let ground = crate::support::Ground::new().await;
    let plane = ground
        .start_with(&[&host], |settings| settings.max_upload_bytes = MIB as u64)
        .await;
    let id = plane.create().await.id;
    assert_eq!(
        upload(&plane, &id, "write", form("/tmp/x", vec![1; MIB]))
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    // However much more than the limit is on its way, the answer arrives.
    for size in [MIB + 1, 40 * MIB] {
        let message = refused(
            upload(&plane, &id, "write", form("/tmp/y", vec![1; size])),
            413,
            "too_large",
        )
        .await;
        assert!(
            message.contains("1 MiB") && message.contains("stream/write"),
            "{message}"
        );
    }
    assert!(
        !host.world().sandboxes[&id]
            .content
            .files
            .contains_key("/tmp/y"),
        "nothing is left of it"
    );

    // The SDK's uploads and downloads know no limit.
    let data: Vec<u8> = (0..3 * MIB).map(|n| (n % 251) as u8).collect();
    for length in [Some(data.len() as u64), None] {
        let parts: Vec<_> = data
            .chunks(100_000)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect();
        let target = FileTarget {
            path: "/tmp/large".into(),
            ..FileTarget::default()
        };
        plane
            .client()
            .write_file(&id, &target, stream::iter(parts), length)
            .await
            .unwrap();
        let path = PathRequest {
            path: "/tmp/large".into(),
            user: None,
        };
        let back: Vec<Bytes> = plane
            .client()
            .read_file(&id, &path)
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert!(back.concat() == data);
    }

    let chunk = Bytes::from(vec![0; 256 * 1024]);
    let parts = stream::iter((0..400).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let part = Part::stream(Body::wrap_stream(parts)).file_name("file");
    let form = Form::new().text("path", "/dev/null").part("file", part);
    assert_eq!(
        upload(&plane, &id, "stream/write", form)
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    assert_eq!(host.world().taken_in, 100 * MIB as u64);
}

#[tokio::test]
async fn a_file_may_come_before_its_path() {
    let host = testkit::host::FakeHost::start();
    let ground = crate::support::Ground::new().await;
    let plane = ground
        .start_with(&[&host], |settings| settings.max_upload_bytes = MIB as u64)
        .await;
    let id = plane.create().await.id;
    let data: Vec<u8> = (0..MIB).map(|n| (n % 251) as u8).collect();
    let form = |data: Vec<u8>| {
        let file = Part::bytes(data).file_name("file");
        Form::new()
            .part("file", file)
            .text("mode", "600")
            .text("path", "/tmp/late")
    };
    assert_eq!(
        upload(&plane, &id, "write", form(data.clone()))
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    {
        let world = host.world();
        let sandbox = &world.sandboxes[&id];
        assert!(
            sandbox.content.files["/tmp/late"] == data
                && sandbox.content.modes["/tmp/late"] == 0o600
        );
    }
    let over = form(vec![0; MIB + 1]);
    assert!(
        refused(upload(&plane, &id, "write", over), 413, "too_large")
            .await
            .contains("1 MiB")
    );
}

#[tokio::test]
async fn refusals_arrive_whatever_is_still_on_its_way() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let big = |path: &str| form(path, vec![1; 30 * MIB]);
    refused(
        upload(&plane, &id, "stream/write", big("/full/x")),
        507,
        "insufficient_storage",
    )
    .await;
    refused(
        upload(&plane, &id, "stream/write", big("/secret/x")),
        403,
        "forbidden",
    )
    .await;
    refused(
        upload(&plane, "sb-00000000000000000000", "write", big("/tmp/x")),
        404,
        "not_found",
    )
    .await;
    let place = format!("/v1/sandboxes/{id}/files/write");
    refused(
        plane.bare(Method::POST, &place).multipart(big("/tmp/x")),
        401,
        "unauthorized",
    )
    .await;
}

#[tokio::test]
async fn wrong_forms_are_refused_and_write_nothing() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let file = || Part::bytes(b"data".to_vec()).file_name("file");
    for (form, said) in [
        (Form::new().part("file", file()), "path is missing"),
        (
            Form::new()
                .part("file", file())
                .part("file", file())
                .text("path", "/tmp/x"),
            "twice",
        ),
        (Form::new().text("path", "/tmp/x"), "missing"),
        (Form::new().text("path", "").part("file", file()), "path"),
        (
            Form::new()
                .text("path", "/tmp/x")
                .text("path", "/tmp/y")
                .part("file", file()),
            "twice",
        ),
        (
            Form::new()
                .text("path", "/tmp/x")
                .text("owner", "root")
                .part("file", file()),
            "owner",
        ),
        (
            Form::new()
                .text("path", "/tmp/x")
                .text("mode", "rwx")
                .part("file", file()),
            "mode",
        ),
        (
            Form::new()
                .text("path", "/tmp/x")
                .text("user", "a:b")
                .part("file", file()),
            "user",
        ),
        (
            Form::new()
                .text("path", "/tmp/x")
                .part("file", file())
                .part("file", file()),
            "last",
        ),
    ] {
        let message = refused(upload(&plane, &id, "write", form), 400, "invalid_request").await;
        assert!(message.contains(said), "{said}: {message}");
    }
    let late = Form::new().part("file", file()).text("path", "/tmp/x");
    assert!(
        refused(
            upload(&plane, &id, "stream/write", late),
            400,
            "invalid_request"
        )
        .await
        .contains("before")
    );
    let long = Form::new()
        .text("path", "x".repeat(10_000))
        .part("file", file());
    refused(upload(&plane, &id, "write", long), 413, "too_large").await;
    let place = format!("/v1/sandboxes/{id}/files/write");
    let raw = |kind: &str| {
        plane
            .request(Method::POST, &place)
            .header("content-type", kind)
            .body("--x\r\nnonsense")
    };
    refused(raw("text/plain"), 415, "unsupported_media_type").await;
    refused(raw("multipart/form-data"), 400, "invalid_request").await;
    refused(
        raw("multipart/form-data; boundary=x"),
        400,
        "invalid_request",
    )
    .await;
    assert!(host.world().sandboxes[&id].content.files.is_empty());
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let parts = [
        Ok(Bytes::from(vec![0; 300_000])),
        Err(std::io::Error::other("the disk is gone")),
    ];
    let target = FileTarget {
        path: "/tmp/half".into(),
        ..FileTarget::default()
    };
    plane
        .client()
        .write_file(&id, &target, stream::iter(parts), None)
        .await
        .unwrap_err();
    // A form that ends without its last boundary.
    let body = "--x\r\ncontent-disposition: form-data; name=\"path\"\r\n\r\n/tmp/half\r\n--x\r\n\
                content-disposition: form-data; name=\"file\"\r\n\r\nhalf of the da";
    let place = format!("/v1/sandboxes/{id}/files/write");
    let request = plane
        .request(Method::POST, &place)
        .header("content-type", "multipart/form-data; boundary=x");
    refused(request.body(body), 400, "invalid_request").await;
    assert!(host.world().sandboxes[&id].content.files.is_empty());
}
