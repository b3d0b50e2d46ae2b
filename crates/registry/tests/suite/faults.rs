//! Servers that break off, damage, redirect, and want tokens.

use std::sync::Arc;

use oci::Digest;
use registry::{Credentials, RegistryError, RegistrySettings};
use serde_json::json;

use crate::pulls::{download, loopback_policy, resolve};
use crate::server::{Answer, Asked, FakeServer};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of one layer, whose bytes are no archive: nothing here unpacks it.
#[derive(Clone)]
struct FakeImage {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl FakeImage {
    fn new() -> Self {
        let layer: Vec<u8> = (0..2_500_000_u32).map(|i| (i >> 3) as u8).collect();
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": { "type": "layers", "diff_ids": [Digest::from_bytes(b"x").to_string()] },
        });
        let config = config.to_string().into_bytes();
        let descriptor = |kind: &str, content: &[u8]| json!({ "mediaType": kind, "size": content.len(), "digest": Digest::from_bytes(content).to_string() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            config,
            layer,
        }
    }

    /// Answers as a registry does.
    fn answer(&self, asked: &Asked) -> Answer {
        let is_of = |content: &[u8]| {
            asked
                .line
                .ends_with(&Digest::from_bytes(content).to_string())
        };
        if asked.line.contains("/manifests/") {
            return Answer::ok(&self.manifest);
        }
        if is_of(&self.config) {
            return Answer::ok(&self.config);
        }
        if !is_of(&self.layer) {
            return Answer::new(
                404,
                br#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no\u001bblob"}]}"#,
            );
        }
        let range = asked
            .headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes="));
        match range.and_then(|range| range.strip_suffix('-')) {
            Some(from) => {
                let from: usize = from.parse().unwrap();
                let all = self.layer.len();
                let range = format!("bytes {from}-{}/{all}", all - 1);
                Answer::new(206, &self.layer[from..]).with("content-range", range)
            }
            None => Answer::ok(&self.layer),
        }
    }
}

async fn pull(server: &FakeServer) -> Result<Vec<u8>, RegistryError> {
    let policy = loopback_policy("other", RegistrySettings::default());
    let image = resolve(&policy, &format!("{}/app:1", server.name), None).await?;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pulled.tar");
    download(&image, &file).await?;
    Ok(std::fs::read(file).unwrap())
}

fn has_layer(archive: &[u8], image: &FakeImage) -> bool {
    let start = archive.len() - 1024 - image.layer.len().next_multiple_of(512);
    archive[start..].starts_with(&image.layer)
}

#[tokio::test]
async fn broken_layer_goes_on_where_it_broke() {
    let image = FakeImage::new();
    let served = image.clone();
    let server = FakeServer::start(move |asked, before| {
        let answer = served.answer(asked);
        match before {
            // The first two answers of the layer break off in the middle; one is an overload.
            2 | 4 => Answer {
                sent: answer.body.len() / 2,
                ..answer
            },
            3 => Answer::new(503, b""),
            _ => answer,
        }
    });
    let server = server.await;
    let archive = pull(&server).await.unwrap();
    assert!(has_layer(&archive, &image));
    let ranges: Vec<_> = server
        .asked()
        .iter()
        .skip(2)
        .map(|asked| asked.headers.get("range").cloned())
        .collect();
    let half = image.layer.len() / 2;
    let rest = half + (image.layer.len() - half) / 2;
    let from = |offset: usize| Some(format!("bytes={offset}-"));
    assert_eq!(ranges, [None, from(half), from(half), from(rest)]);
}

#[tokio::test]
async fn server_without_ranges_begins_anew() {
    let image = FakeImage::new();
    let served = image.clone();
    let server = FakeServer::start(move |asked, before| {
        let mut asked = asked.clone();
        asked.headers.remove("range");
        let answer = served.answer(&asked);
        match before {
            2 => Answer {
                sent: answer.body.len() / 2,
                ..answer
            },
            _ => answer,
        }
    });
    let server = server.await;
    assert!(has_layer(&pull(&server).await.unwrap(), &image));
}

#[tokio::test]
async fn damaged_layer_is_fetched_again() {
    let image = FakeImage::new();
    for is_healed in [true, false] {
        let served = image.clone();
        let server = FakeServer::start(move |asked, before| {
            let mut answer = served.answer(asked);
            if before == 2 || before > 2 && !is_healed {
                answer.body[77] ^= 1;
            }
            answer
        });
        let server = server.await;
        match pull(&server).await {
            Ok(archive) => assert!(is_healed && has_layer(&archive, &image)),
            Err(error) => {
                assert!(
                    !is_healed && error.to_string().contains("is damaged"),
                    "{error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn manifest_that_lies_is_refused() {
    let image = FakeImage::new();
    let mut small = image.clone();
    small.manifest = String::from_utf8(image.manifest.clone())
        .unwrap()
        .replace("2500000", "2499999")
        .into_bytes();
    let server = FakeServer::start(move |asked, _| small.answer(asked)).await;
    let error = pull(&server).await.unwrap_err();
    assert!(error.to_string().contains("more of sha256:"), "{error}");
    let pinned = format!("{}/app@{}", server.name, Digest::from_bytes(b"other"));
    let policy = loopback_policy("other", RegistrySettings::default());
    let error = resolve(&policy, &pinned, None).await.unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
}

#[tokio::test]
async fn redirects_take_no_credentials_elsewhere() {
    let image = Arc::new(FakeImage::new());
    let served = Arc::clone(&image);
    let storage = FakeServer::start(move |asked, _| served.answer(asked)).await;
    let target = storage.name.clone();
    let served = Arc::clone(&image);
    let server = FakeServer::start(move |asked, _| {
        if !asked.headers.contains_key("authorization") {
            return Answer::new(401, b"").with("www-authenticate", "Basic realm=\"test\"");
        }
        match asked.line.split_once("/blobs/") {
            Some((_, digest)) => {
                let location = format!("http://{target}/stored/{digest}?signature=x");
                // The storage knows the digest from the end of its path.
                Answer::new(307, b"").with("location", location.replace("?signature=x", ""))
            }
            None => served.answer(asked),
        }
    });
    let server = server.await;
    let policy = loopback_policy("other", RegistrySettings::default());
    let user = Credentials::Password {
        username: "ann".to_owned(),
        password: "secret".to_owned(),
    };
    let reference = format!("{}/app:1", server.name);
    let found = resolve(&policy, &reference, Some(user)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    download(&found, &dir.path().join("pulled.tar"))
        .await
        .unwrap();
    assert!(!storage.asked().is_empty());
    for asked in storage.asked() {
        assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
    }
}

#[tokio::test]
async fn redirects_and_token_servers_meet_policy() {
    let metadata = "http://169.254.169.254/latest/meta-data";
    let redirecting =
        FakeServer::start(move |_, _| Answer::new(302, b"").with("location", metadata)).await;
    let secure = "https://169.254.169.254/token";
    let tokens = FakeServer::start(move |_, _| {
        Answer::new(401, b"").with("www-authenticate", format!("Bearer realm=\"{secure}\""))
    });
    for server in [redirecting, tokens.await] {
        let error = pull(&server).await.unwrap_err();
        assert!(matches!(error, RegistryError::Forbidden(_)), "{error}");
    }
    let file =
        FakeServer::start(|_, _| Answer::new(302, b"").with("location", "file:///etc/passwd"))
            .await;
    pull(&file).await.unwrap_err();
}

#[tokio::test]
async fn tokens_are_fetched_with_credentials() {
    let image = FakeImage::new();
    let server = FakeServer::start(move |asked, _| {
        let authorization = asked.headers.get("authorization").map(String::as_str);
        if asked
            .line
            .starts_with("GET /token?service=test&scope=repository%3Aapp%3Apull")
        {
            return match authorization {
                Some("Basic YW5uOnNlY3JldA==") => Answer::ok(br#"{"access_token":"good"}"#),
                _ => Answer::new(401, b""),
            };
        }
        if authorization == Some("Bearer good") {
            return image.answer(asked);
        }
        let host = &asked.headers["host"];
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\"");
        Answer::new(401, b"").with("www-authenticate", challenge)
    });
    let server = server.await;
    let policy = loopback_policy("other", RegistrySettings::default());
    let reference = format!("{}/app:1", server.name);
    let user = |password: &str| {
        Some(Credentials::Password {
            username: "ann".to_owned(),
            password: password.to_owned(),
        })
    };
    let found = resolve(&policy, &reference, user("secret")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    download(&found, &dir.path().join("pulled.tar"))
        .await
        .unwrap();
    let tokens = server
        .asked()
        .iter()
        .filter(|asked| asked.line.contains("/token"))
        .count();
    assert_eq!(tokens, 1);
    for credentials in [None, user("wrong")] {
        let denied = resolve(&policy, &reference, credentials).await.unwrap_err();
        assert!(matches!(denied, RegistryError::Denied(_)), "{denied}");
        assert!(!denied.to_string().contains("wrong"), "{denied}");
    }
}

#[tokio::test]
async fn mirror_is_asked_first_without_credentials() {
    let image = Arc::new(FakeImage::new());
    let served = Arc::clone(&image);
    let origin = FakeServer::start(move |asked, _| served.answer(asked)).await;
    let served = Arc::clone(&image);
    let mirror = FakeServer::start(move |asked, _| {
        // It has the image, but not its layer.
        let answer = served.answer(asked);
        if answer.body.len() > 100_000 {
            Answer::new(404, b"")
        } else {
            answer
        }
    });
    let mirror = mirror.await;
    let down = "http://127.0.0.1:1".to_owned();
    let settings = RegistrySettings {
        mirrors: vec![down, format!("http://{}/hub", mirror.name)],
        ..RegistrySettings::default()
    };
    let policy = loopback_policy(&origin.name, settings);
    let user = Credentials::IdentityToken("secret".to_owned());
    let reference = format!("{}/app:1", origin.name);
    let found = resolve(&policy, &reference, Some(user)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    download(&found, &dir.path().join("pulled.tar"))
        .await
        .unwrap();
    assert_eq!(mirror.asked()[0].line, "GET /v2/hub/app/manifests/1");
    assert_eq!(origin.asked().len(), 1);
    for asked in mirror.asked() {
        assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
    }
}
