//! Ports of sandboxes: links for browsers, and raw connections for every other protocol.

use std::fmt;

use api_types::{PortLink, PortLinkRequest};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use reqwest::Method;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::connection::Client;
use crate::error::{Error, Result};
use crate::exec_stream::{Socket, broken};

/// Bytes of one frame.
const FRAME: usize = 64 * 1024;

/// A TCP connection to a port of a sandbox.
pub struct PortConnection(Socket);

impl fmt::Debug for PortConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PortConnection")
    }
}

impl Client {
    /// Creates a link to a port, for clients without a key.
    pub async fn port_link(&self, id: &str, request: &PortLinkRequest) -> Result<PortLink> {
        let url = self.route(&["v1", "sandboxes", id, "port-links"]);
        self.send_json(self.request(Method::POST, url).json(request))
            .await
    }

    /// Connects to a port of a sandbox, with any protocol. A paused sandbox is resumed, if it lets
    /// itself.
    pub async fn connect_port(&self, id: &str, port: u16) -> Result<PortConnection> {
        let mut url = self.route(&["v1", "sandboxes", id, "tunnel"]);
        url.query_pairs_mut().append_pair("port", &port.to_string());
        self.web_socket(url).await.map(PortConnection)
    }
}

impl PortConnection {
    /// Carries bytes both ways until both sides have ended their direction, or one of them breaks.
    /// The end of one direction is passed on.
    pub async fn carry(self, local: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
        let (mut sink, mut frames) = self.0.split();
        let (reader, writer) = tokio::io::split(local);
        tokio::try_join!(
            to_sandbox(reader, &mut sink),
            from_sandbox(&mut frames, writer)
        )?;
        // Whether the other side still hears it does not matter.
        let _ = sink.close().await;
        Ok(())
    }
}

async fn to_sandbox(
    mut local: impl AsyncRead + Unpin,
    sink: &mut SplitSink<Socket, Message>,
) -> Result<()> {
    let mut buffer = vec![0; FRAME];
    loop {
        let length = local.read(&mut buffer).await.map_err(here)?;
        sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..length])))
            .await
            .map_err(broken)?;
        if length == 0 {
            return Ok(());
        }
    }
}

async fn from_sandbox(
    frames: &mut SplitStream<Socket>,
    mut local: impl AsyncWrite + Unpin,
) -> Result<()> {
    loop {
        match frames.next().await {
            Some(Ok(Message::Binary(bytes))) if bytes.is_empty() => {
                return local.shutdown().await.map_err(here);
            }
            Some(Ok(Message::Binary(bytes))) => local.write_all(&bytes).await.map_err(here)?,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Err(Error::Truncated),
            Some(Ok(_)) => return Err(Error::Protocol("a frame that is not binary".to_owned())),
            Some(Err(error)) => return Err(broken(error)),
        }
    }
}

fn here(error: std::io::Error) -> Error {
    Error::Broken(Box::new(error))
}
