//! The guide at `/docs/guide`, from a directory as `make docs` builds it.

use std::path::Path;

use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use http::{Method, StatusCode};
use testkit::host::FakeHost;

use crate::raw::address;
use crate::support::{Ground, Plane, refused};

/// A server with the guide of a directory.
async fn plane_with(dir: &Path) -> (FakeHost, Ground, Plane) {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let dir = dir.to_owned();
    let plane = ground
        .start_with(&[&host], |settings| settings.guide = dir)
        .await;
    (host, ground, plane)
}

fn write(dir: &Path, name: &str, content: &[u8]) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[tokio::test]
async fn guide_needs_no_key() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("docs");
    for (name, content) in [
        ("index.html", "<!doctype html><title>the guide</title>"),
        ("css/general.css", "body { color: black }"),
        ("searcher.js", "run()"),
        ("fonts/sans.woff2", "wOF2"),
    ] {
        write(&dir, name, content.as_bytes());
    }
    let (_host, _ground, plane) = plane_with(&dir).await;
    for (path, content_type) in [
        ("/docs/guide/", "text/html; charset=utf-8"),
        ("/docs/guide/index.html", "text/html; charset=utf-8"),
        ("/docs/guide/css/general.css", "text/css; charset=utf-8"),
        ("/docs/guide/searcher.js", "text/javascript; charset=utf-8"),
        ("/docs/guide/fonts/sans.woff2", "font/woff2"),
    ] {
        let answer = plane.bare(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert_eq!(answer.headers()[CONTENT_TYPE], content_type, "{path}");
        let policy = answer.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(policy.contains("script-src 'self'"), "{path}: {policy}");
        let etag = answer.headers()[ETAG].clone();
        let again = plane.bare(Method::GET, path).header(IF_NONE_MATCH, etag);
        let again = again.send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
    }
    // What was built anew is served at once.
    write(&dir, "index.html", b"<!doctype html><title>another</title>");
    let answer = plane
        .bare(Method::GET, "/docs/guide/")
        .send()
        .await
        .unwrap();
    assert!(answer.text().await.unwrap().contains("another"));
    // The page of the API is where it was.
    let api = plane.bare(Method::GET, "/docs/").send().await.unwrap();
    assert!(api.text().await.unwrap().contains("swagger"));
}

#[tokio::test]
async fn other_files_are_out_of_reach() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("docs");
    write(&dir, "index.html", b"<!doctype html>");
    write(&dir, ".hidden", b"secret");
    write(outer.path(), "secret", b"secret");
    std::fs::create_dir(dir.join("css")).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("pipe"), pipe, 0o600.into(), 0).unwrap();
    let (_host, _ground, plane) = plane_with(&dir).await;
    for path in [
        "..%2Fsecret",
        "css%2F..%2F..%2Fsecret",
        "%2Fetc%2Fpasswd",
        "//etc/passwd",
        ".hidden",
        "css",
        "css/",
        "pipe",
        "none.html",
        "index.html/none",
        "a%00b",
    ] {
        let path = format!("/docs/guide/{path}");
        let told = refused(plane.bare(Method::GET, &path), 404, "not_found").await;
        assert!(told.contains("make docs"), "{path}: {told}");
    }
}

#[tokio::test]
async fn missing_guide_says_how_to_build() {
    let dir = tempfile::tempdir().unwrap();
    let (_host, _ground, plane) = plane_with(&dir.path().join("none")).await;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let url = format!("http://{}/docs/guide", address(&plane));
    let answer = client.get(url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.headers()[LOCATION], "guide/");
    let told = refused(plane.bare(Method::GET, "/docs/guide/"), 404, "not_found").await;
    assert!(told.contains("make docs"), "{told}");
    assert!(told.contains("CP_DOCS_PATH"), "{told}");
}
