//! The test console at `/test`: one page, its scripts and styles, all carried by the program.
//!
//! **How the page gets a key.** The server never gives a key to a page. The files here hold no
//! secret and are the same for everybody, so it does not matter who asks for them: another user of
//! this machine, a page whose name was rebound to our address, or a page in a sandbox. The key is
//! typed in, or comes in the fragment of the address that `wrenn console` prints for who may read
//! the credentials; browsers send no fragment to any server. The page takes it out of its address
//! at once and keeps it in `sessionStorage`: of this origin and this tab, gone with the tab unless
//! the browser reopens it. An endpoint that gives the key to connections from loopback would give it
//! to every user of the machine; a file that redirects, or a browser started by us, would show it in
//! the list of processes.
//!
//! **What could read it from there.** Scripts of our origin, in the same tab. The other scripts of
//! our origin are those of the API document (`/docs`), to which the console links only in a tab of
//! its own with `noopener`: such a tab gets no copy of `sessionStorage`. On the page itself the
//! policy below lets no other script run, names and errors become text and never markup (Trusted
//! Types: a script that sets `innerHTML` fails), and pages of sandboxes that are served by path are
//! confined to an origin of their own (`proxy::response_sanitizer`). Nobody frames the page or keeps
//! a handle of its window.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use model::ErrorCode;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::error::{Error, Result};

/// Names and contents of the files, as `build.rs` found them.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/console.rs"));
const PAGE: &str = "index.html";
/// The page's address from `/test/`: relative, so that the path prefix of a proxy survives.
const PAGE_FROM_BELOW: &str = "../test";
/// Files of xterm.js, which `scripts/build-console.sh` fetches.
const VENDOR: &str = "vendor/";

/// Policy of the page. Styles are as strict as scripts: xterm.js makes style elements and sets style
/// attributes, which `web/console/xterm_styles.js` turns into what a policy without `unsafe-inline`
/// allows.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Headers of every file.
const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-frame-options", "DENY"),
];

/// A file of the console.
#[derive(Debug)]
struct Asset {
    content: &'static [u8],
    content_type: &'static str,
    etag: String,
}

static ASSETS: LazyLock<HashMap<&'static str, Asset>> = LazyLock::new(|| {
    let assets = FILES.iter().map(|(name, content)| {
        let digest = hex::encode(&Sha256::digest(content)[..16]);
        let asset = Asset {
            content,
            content_type: content_type(name),
            etag: format!("\"{digest}\""),
        };
        (*name, asset)
    });
    assets.collect()
});

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

/// Returns the routes of `/test`.
pub(super) fn pages_router() -> Router<Arc<App>> {
    Router::new()
        .route("/test", get(page))
        .route("/test/", get(async || Redirect::temporary(PAGE_FROM_BELOW)))
        .route("/test/{*file}", get(file))
}

async fn page(headers: HeaderMap) -> Result<Response> {
    serve(PAGE, &headers)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response> {
    serve(&name, &headers)
}

/// Answers with a file, or with 304 where the client has it.
fn serve(name: &str, request: &HeaderMap) -> Result<Response> {
    let Some(asset) = ASSETS.get(name) else {
        return Err(missing(name));
    };
    // Every time the page asks whether there is a newer file: an upgraded server must not be driven
    // by old scripts.
    let common = [
        (ETAG, asset.etag.as_str()),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_TYPE, asset.content_type),
    ];
    if is_current(request, &asset.etag) {
        return Ok((StatusCode::NOT_MODIFIED, HEADERS, common).into_response());
    }
    Ok((HEADERS, common, asset.content).into_response())
}

/// Returns true if the client has the file with this tag (RFC 9110, 13.1.2).
pub(super) fn is_current(request: &HeaderMap, etag: &str) -> bool {
    let tags = request.get_all(IF_NONE_MATCH).iter();
    tags.filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == etag || tag == "*")
}

fn missing(name: &str) -> Error {
    let text = if name.starts_with(VENDOR) {
        "this server was built without xterm.js, so the console has no terminal: run \
         scripts/build-console.sh and build the server again; `make build` does both"
    } else {
        "the console has no such file; /test is its page"
    };
    Error::new(ErrorCode::NotFound, text)
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_SECURITY_POLICY, HeaderValue};

    use super::*;

    #[test]
    fn every_file_has_strict_headers() {
        for (name, _) in FILES {
            let response = serve(name, &HeaderMap::new()).unwrap();
            let policy = response.headers()[CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap();
            assert!(
                policy.starts_with("default-src 'none'; script-src 'self'; "),
                "{name}"
            );
            assert!(policy.contains("frame-ancestors 'none'"), "{name}");
            assert!(!policy.contains("unsafe"), "{name}: {policy}");
            for (header, value) in [
                ("referrer-policy", "no-referrer"),
                ("x-content-type-options", "nosniff"),
                ("cross-origin-opener-policy", "same-origin"),
            ] {
                assert_eq!(response.headers()[header], value, "{name}");
            }
        }
    }

    #[test]
    fn known_tag_answers_without_body() {
        let first = serve(PAGE, &HeaderMap::new()).unwrap();
        let etag = first.headers()[ETAG].to_str().unwrap().to_owned();
        for sent in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}")] {
            let mut request = HeaderMap::new();
            request.insert(IF_NONE_MATCH, HeaderValue::from_str(&sent).unwrap());
            let again = serve(PAGE, &request).unwrap();
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{sent}");
            assert_eq!(again.headers()[ETAG].to_str().unwrap(), etag);
        }
        let mut request = HeaderMap::new();
        request.insert(IF_NONE_MATCH, HeaderValue::from_static("\"x\""));
        assert_eq!(serve(PAGE, &request).unwrap().status(), StatusCode::OK);
    }

    #[test]
    fn page_has_nothing_inline() {
        let page = std::str::from_utf8(ASSETS[PAGE].content).unwrap();
        for inline in [" style=", "<style", " onclick=", "javascript:"] {
            assert!(!page.contains(inline), "{inline}");
        }
        for script in page.split("<script").skip(1) {
            assert!(script.contains(" src=") && script.contains("></script>"));
        }
        assert!(!page.contains("http://") && !page.contains("https://"));
    }

    #[test]
    fn page_names_files_that_exist() {
        let page = std::str::from_utf8(ASSETS[PAGE].content).unwrap();
        let named = page.split("=\"test/").skip(1);
        let names: Vec<_> = named.filter_map(|rest| rest.split('"').next()).collect();
        assert!(names.len() > 1, "{names:?}");
        for name in names.iter().filter(|name| !name.starts_with(VENDOR)) {
            assert!(ASSETS.contains_key(name), "{name}");
        }
    }

    #[test]
    fn missing_library_is_told_how_to_build() {
        let error = serve("vendor/none.mjs", &HeaderMap::new()).unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        assert!(error.message.contains("scripts/build-console.sh"));
    }
}
