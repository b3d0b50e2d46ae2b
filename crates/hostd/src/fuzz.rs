//! Parsers of bytes that come from guests, each as a function of bytes: for the fuzz targets in
//! `fuzz/`, and for the tests below, which run everything in their corpora.

use buffa::Message;
use guest_rpc::command::{AttachResponse, ListResponse as ListCommandsResponse};
use guest_rpc::file::{ListPageResponse, SearchResponse, WatchResponse};
use guest_rpc::filesystem::ListDirResponse;
use guest_rpc::process::StartResponse;

/// Parses a question to the resolver of a sandbox.
pub fn dns_question(bytes: &[u8]) {
    crate::egress::dns::fuzz(bytes);
}

/// Parses the first message of a TLS connection.
pub fn client_hello(bytes: &[u8]) {
    crate::egress::fuzz_client_hello(bytes);
}

/// Parses the requests of a connection to port 80.
pub fn egress_http(bytes: &[u8]) {
    crate::egress::fuzz_http(bytes);
}

/// Parses answers of a guest agent: the bodies of plain HTTP, and messages of its services.
pub fn guest_answer(bytes: &[u8]) {
    let _ = serde_json::from_slice::<guest_rpc::http::ErrorBody>(bytes);
    let _ = serde_json::from_slice::<guest_rpc::http::FreezeAnswer>(bytes);
    crate::guest::fuzz_upload_state(bytes);
    if let Ok(message) = StartResponse::decode_from_slice(bytes) {
        crate::guest::fuzz_event(message);
    }
    if let Ok(message) = AttachResponse::decode_from_slice(bytes) {
        crate::service::fuzz_attach(message);
    }
    let _ = ListCommandsResponse::decode_from_slice(bytes);
    let _ = ListDirResponse::decode_from_slice(bytes);
    if let Ok(page) = ListPageResponse::decode_from_slice(bytes) {
        crate::service::fuzz_page(page);
    }
    if let Ok(change) = WatchResponse::decode_from_slice(bytes) {
        crate::service::fuzz_change(change);
    }
    if let Ok(found) = SearchResponse::decode_from_slice(bytes) {
        crate::service::fuzz_match(found);
    }
}

#[cfg(test)]
mod tests {
    use testkit::corpus::replay_corpus;

    #[test]
    fn corpus_dns_question() {
        replay_corpus("dns_question", super::dns_question);
    }

    #[test]
    fn corpus_client_hello() {
        replay_corpus("client_hello", super::client_hello);
    }

    #[test]
    fn corpus_egress_http() {
        replay_corpus("egress_http", super::egress_http);
    }

    #[test]
    fn corpus_guest_answer() {
        replay_corpus("guest_answer", super::guest_answer);
    }
}
