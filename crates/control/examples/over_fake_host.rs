//! Serves a control plane over a fake host agent, for tools that test the API from outside:
//! `cargo run -p control --example over_fake_host -- 127.0.0.1:8123`. Prints the key, serves until
//! it is killed.

use anyhow::Context;
use control::{ControlPlane, HostAddr, Settings, Token, auth};
use store::Store;
use testkit::host::{FakeHost, TOKEN};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listen = std::env::args()
        .nth(1)
        .context("give an address to listen on")?;
    let dir = tempfile::tempdir()?;
    let store = Store::open(&control::config::sqlite_in(dir.path())).await?;
    store.migrate().await?;
    let (_, key) = auth::create_key(&store, "of the tool").await?;
    println!("{}", key.expose());
    let host = FakeHost::start();
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let hosts = vec![HostAddr {
        url: host.url(),
        token: Token::Given(TOKEN.to_owned()),
    }];
    let plane = ControlPlane::start(Settings::new(store, hosts)).await?;
    plane.serve(listener, CancellationToken::new()).await?;
    Ok(())
}
