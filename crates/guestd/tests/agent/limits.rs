//! Effects of user processes on the agent itself.

use std::time::Duration;

use guestd::listener::INSIDE_LIMIT;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::support::{Agent, eventually};

#[tokio::test]
async fn connections_from_inside_are_bounded() {
    let agent = Agent::open().await;
    let address = agent.url.strip_prefix("http://").expect("a URL");
    let mut held = Vec::new();
    for _ in 0..INSIDE_LIMIT {
        held.push(TcpStream::connect(address).await.expect("connects"));
    }
    let mut surplus = TcpStream::connect(address).await.expect("connects");
    let closed = tokio::time::timeout(Duration::from_secs(5), surplus.read(&mut [0; 1])).await;
    assert!(
        matches!(closed.expect("in time"), Ok(0) | Err(_)),
        "it was not closed"
    );
    let mut kept = held.pop().expect("one");
    let waiting = tokio::time::timeout(Duration::from_millis(200), kept.read(&mut [0; 1])).await;
    assert!(waiting.is_err(), "those before it stay");
    drop((held, kept));
    let health = format!("{}/health", agent.url);
    let client = reqwest::Client::new();
    eventually("there is room again", async || {
        client
            .get(&health)
            .send()
            .await
            .is_ok_and(|a| a.status() == 204)
    })
    .await;
}
