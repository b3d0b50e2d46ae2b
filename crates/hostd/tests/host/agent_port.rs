//! Bounds of the port that the control plane calls.

use std::time::Duration;

use host_rpc as rpc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::agent::Agent;

/// The least that the setting takes.
const PLACES: usize = 16;
/// For a connection to be closed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns true once the agent has closed the connection, false if it still is open after `wait`.
async fn is_closed(stream: &mut TcpStream, wait: Duration) -> bool {
    tokio::time::timeout(wait, stream.read(&mut [0; 64]))
        .await
        .is_ok()
}

#[tokio::test]
async fn agent_port_evicts_silent_connections() {
    let agent = Agent::start(&[("AGENT_MAX_CONNECTIONS", &PLACES.to_string())]).await;
    let client = agent.client();
    let list = async || {
        client
            .sandboxes()
            .list_sandboxes(rpc::ListSandboxesRequest::default())
            .await
    };
    list().await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..4 * PLACES {
        silent.push(
            TcpStream::connect(("127.0.0.1", agent.port()))
                .await
                .unwrap(),
        );
        // One that has shown the token keeps its place.
        list().await.unwrap();
    }
    for stream in &mut silent[..2 * PLACES] {
        assert!(is_closed(stream, PATIENCE).await);
    }
    // So has a new one, though all places are taken.
    agent
        .client()
        .sandboxes()
        .list_sandboxes(rpc::ListSandboxesRequest::default())
        .await
        .unwrap();
    agent.finish().await;
}
