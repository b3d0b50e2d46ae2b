//! Parsers of untrusted bytes, each as a function of bytes: for the fuzz targets in `fuzz/`, and
//! for the tests below, which run everything that is in their corpora.

use axum::body::Body;
use axum::extract::Request;

use crate::ports::PortTarget;
use crate::ports::signed_url::UrlSigner;
use crate::proxy::address::PortAddress;

/// Reads the sandbox and port that a request names. The first line is the target, the others are
/// headers.
pub fn port_address(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut request = Request::builder().uri(lines.next().unwrap_or_default());
    for line in lines {
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        request = request.header(name, value.get(1..).unwrap_or_default());
    }
    if let Ok(request) = request.body(Body::empty()) {
        let _ = PortAddress::from_request(&request, "localhost");
    }
}

/// Verifies the signature of a URL of a port.
///
/// # Panics
/// When it is accepted.
pub fn port_link(bytes: &[u8]) {
    let Ok(id) = "sb-0123456789abcdefghij".parse() else {
        return;
    };
    let link = String::from_utf8_lossy(bytes);
    let checked = UrlSigner::new([7; 32]).verify(&link, &PortTarget { id, port: 80 }, 0);
    assert!(
        checked.is_err(),
        "a signature that was never made is accepted: {link}"
    );
}

/// Reads the form of an upload, whose parts are separated by `--x`.
pub fn upload_form(bytes: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    runtime.block_on(crate::api::fuzz_form(bytes));
}

#[cfg(test)]
mod tests {
    use testkit::corpus::replay_corpus;

    #[test]
    fn corpus_port_address() {
        replay_corpus("port_address", super::port_address);
    }

    #[test]
    fn corpus_port_link() {
        replay_corpus("port_link", super::port_link);
    }

    #[test]
    fn corpus_upload_form() {
        replay_corpus("upload_form", super::upload_form);
    }
}
