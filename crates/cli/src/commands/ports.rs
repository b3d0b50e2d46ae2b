//! `wrenn url` and `wrenn port-forward`.
//!
//! Forwarding keeps nothing: a connection that breaks ends on both sides, and the next one begins
//! afresh. It ends when the sandbox is gone for good, which the next connection finds out.

use std::net::SocketAddr;

use anyhow::Context;
use client::Client;
use client::types::PortLinkRequest;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Session;
use crate::args::{Mapping, PortForwardArgs, UrlArgs};
use crate::interrupt::Interrupt;
use crate::{ids, output};

/// Pause after the system has refused a connection: usually this process has no descriptors left.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

pub async fn print_url(session: &Session, args: &UrlArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let request = PortLinkRequest {
        port: args.port,
        expires_in_sec: args.expires,
    };
    let link = session.client.port_link(&id, &request).await?;
    if session.json {
        return output::print_json(&link);
    }
    output::print_line(if args.path { &link.path_url } else { &link.url })
}

pub async fn port_forward(session: &Session, args: PortForwardArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    // A mistake in the id is told now and not to the first connection.
    let id = session.client.get(&id).await?.id;
    let mut interrupt = Interrupt::listen()?;
    let mut listening = JoinSet::new();
    let mut told = Vec::new();
    for mapping in args.mappings {
        let listener = listen(SocketAddr::new(args.address, mapping.local)).await?;
        told.push((listener.local_addr()?, mapping.remote));
        listening.spawn(accept(
            session.client.clone(),
            id.clone(),
            listener,
            mapping,
        ));
    }
    announce(session.json, &id, &told)?;
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        // The listeners go on for as long as there is a sandbox.
        Some(gone) = listening.join_next() => Err(gone??.into()),
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let what = || {
        format!(
            "cannot listen on {address}; choose another port here, as in 8081:{}",
            address.port()
        )
    };
    TcpListener::bind(address).await.with_context(what)
}

fn announce(as_json: bool, id: &str, told: &[(SocketAddr, u16)]) -> anyhow::Result<()> {
    if as_json {
        let all: Vec<_> = told
            .iter()
            .map(|(local, port)| json!({ "local": local.to_string(), "port": port }))
            .collect();
        return output::print_json(&json!({ "sandbox_id": id, "forwards": all }));
    }
    for (local, port) in told {
        output::print_line(&format!("{local} is forwarded to port {port} of {id}"))?;
    }
    output::print_note("Ctrl-C ends it.");
    Ok(())
}

/// Accepts connections until the sandbox is gone; returns the error that says so.
async fn accept(
    client: Client,
    id: String,
    listener: TcpListener,
    mapping: Mapping,
) -> anyhow::Result<client::Error> {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => match ended? {
                Some(gone) => return Ok(gone),
                None => continue,
            },
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(carry(client.clone(), id.clone(), stream, mapping));
            }
            Err(error) => {
                output::print_note(&format!("a connection was not taken: {error}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Carries one connection to its end. Returns an error only if there is no such sandbox any more.
async fn carry(
    client: Client,
    id: String,
    stream: TcpStream,
    mapping: Mapping,
) -> Option<client::Error> {
    // That it is a little slower is no reason to refuse.
    let _ = stream.set_nodelay(true);
    match client.connect_port(&id, mapping.remote).await {
        // How it ended is known to who speaks there.
        Ok(connection) => drop(connection.carry(stream).await),
        Err(error) if error.is_not_found() => return Some(error),
        Err(error) => output::print_note(&format!(
            "{}: {}",
            mapping.local,
            output::printable(&error.to_string())
        )),
    }
    None
}
