//! Addresses of clients, also of those behind a proxy of the operator's.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};

use crate::app::App;

/// Returns the address of the client. That of one behind a proxy of the operator's is what the proxy
/// says: the last entry, since clients can write those before it.
pub fn client_address(app: &App, request: &Request) -> Option<IpAddr> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
    if app.ports.settings.public_url.is_none() {
        return peer;
    }
    let forwarded = request
        .headers()
        .get_all("x-forwarded-for")
        .iter()
        .next_back();
    let forwarded = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next());
    let client = forwarded.and_then(|client| client.trim().parse().ok());
    client.or(peer)
}
