//! Connections that are forwarded: from the client to ports, hosts and Unix sockets as the sandbox
//! sees them (`ssh -L`, `-D`), and from a port of the sandbox to the client (`-R`).
//!
//! Ports of the sandbox itself are reached through the server's tunnel. All else is carried by a
//! tool of the guest agent (`relay`), on the streams of a command: its first byte tells that the
//! connection is there.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use client::{ExecEvent, ExecInput, ExecOutput, PortConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use crate::channel::{ChannelEnd, ChannelSender, Gone, Input, Output};
use crate::program::{Sandbox, earlier_version, failure_text};
use crate::request::agent_tool;

/// Bytes between the tunnel and the channel.
const BUFFER: usize = 64 * 1024;

/// Longest text of a relay's failure that is kept.
const MAX_TEXT: usize = 1000;

/// Time for a relay to listen: a paused sandbox is resumed first.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(60);

/// Destination of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A port of the sandbox itself.
    Port(u16),
    /// Words of a relay.
    Relay(Vec<String>),
}

impl Target {
    /// Returns the destination of a host and port, as the sandbox sees them.
    pub fn from_host(host: &str, port: u32) -> Result<Self, String> {
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        let port = port.ok_or("a port is a number from 1 to 65535")?;
        let is_sandbox = matches!(
            host,
            "localhost" | "127.0.0.1" | "::1" | "0.0.0.0" | "::" | ""
        );
        Ok(match is_sandbox {
            true => Self::Port(port),
            false => Self::Relay(vec!["tcp".to_owned(), host.to_owned(), port.to_string()]),
        })
    }

    pub fn from_path(path: &str) -> Self {
        Self::Relay(vec!["unix".to_owned(), path.to_owned()])
    }
}

/// Connects, tells the channel of it, and carries the connection to its end.
pub async fn carry_connection(
    sandbox: Sandbox,
    user: Option<String>,
    target: Target,
    end: ChannelEnd,
) {
    let sender = end.sender.clone();
    // A client that is gone needs no answer.
    let _ = match target {
        Target::Port(port) => match sandbox.client.connect_port(&sandbox.id, port).await {
            Ok(connection) => carry_port(connection, end).await,
            Err(error) => sender.send(Output::Opened(Err(error.to_string()))).await,
        },
        Target::Relay(words) => match start_relay(&sandbox, user, &words).await {
            Ok(relay) => carry_relay(relay, end, true).await,
            Err(text) => sender.send(Output::Opened(Err(text))).await,
        },
    };
}

async fn carry_port(connection: PortConnection, end: ChannelEnd) -> Result<(), Gone> {
    let ChannelEnd { mut input, sender } = end;
    sender.send(Output::Opened(Ok(()))).await?;
    let (near, far) = tokio::io::duplex(BUFFER);
    let (reader, mut writer) = tokio::io::split(near);
    let carrying = async {
        // How it ended is known to who speaks there.
        let _ = connection.carry(far).await;
    };
    let to_port = async {
        while let Some(message) = input.recv().await {
            let Input::Data(data) = message else {
                let _ = writer.shutdown().await;
                break;
            };
            if writer.write_all(&data).await.is_err() {
                break;
            }
            sender.send_consumed(&data).await?;
        }
        // The port may still have something to say.
        std::future::pending::<Result<(), Gone>>().await
    };
    let from_port = async { tokio::join!(carrying, from_port(reader, &sender)).1 };
    tokio::select! {
        ended = from_port => ended?,
        ended = to_port => ended?,
    }
    sender.send(Output::Close).await
}

async fn from_port(
    mut reader: tokio::io::ReadHalf<DuplexStream>,
    sender: &ChannelSender,
) -> Result<(), Gone> {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    while matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
        sender.send_data(buffer.split().freeze(), false).await?;
        buffer.reserve(BUFFER);
    }
    sender.send(Output::Eof).await
}

/// A relay that runs: its streams, and what it has written behind its first byte.
pub struct Relay {
    input: ExecInput,
    output: ExecOutput,
    first: Bytes,
}

/// Starts a relay and waits until it is connected.
pub async fn start_relay(
    sandbox: &Sandbox,
    user: Option<String>,
    words: &[String],
) -> Result<Relay, String> {
    let mut all = vec!["relay"];
    all.extend(words.iter().map(String::as_str));
    let mut start = agent_tool(user, &all);
    start.cwd = Some("/".to_owned());
    let started = sandbox.client.exec_stream(&sandbox.id, start).await;
    let (input, mut output) = started.map_err(|error| failure_text(&error))?;
    let mut text = Vec::new();
    loop {
        match output.next().await.map_err(|error| failure_text(&error))? {
            Some(ExecEvent::Stdout(mut first)) if !first.is_empty() => {
                // The byte that tells of the connection.
                let _ = first.split_to(1);
                return Ok(Relay {
                    input,
                    output,
                    first,
                });
            }
            Some(ExecEvent::Stderr(data)) => {
                let room = MAX_TEXT.saturating_sub(text.len());
                text.extend_from_slice(&data[..data.len().min(room)]);
            }
            Some(ExecEvent::Exited { exit_code: 2 }) => {
                return Err(earlier_version("a relay for connections"));
            }
            Some(ExecEvent::Exited { .. }) | None => {
                return Err(String::from_utf8_lossy(&text).trim_end().to_owned());
            }
            Some(_) => {}
        }
    }
}

/// Carries a relay's connection to its end. `is_new`: the client has asked for it and is told that
/// it is there.
pub async fn carry_relay(relay: Relay, end: ChannelEnd, is_new: bool) -> Result<(), Gone> {
    let Relay {
        input,
        mut output,
        first,
    } = relay;
    let ChannelEnd {
        input: messages,
        sender,
    } = end;
    if is_new {
        sender.send(Output::Opened(Ok(()))).await?;
    }
    let behind_first = u64::try_from(first.len()).unwrap_or_default();
    sender.send_data(first, false).await?;
    let from_relay = async {
        let mut direction = Direction {
            carried: behind_first,
            ..Direction::default()
        };
        while let Ok(Some(event)) = output.next().await {
            match event {
                ExecEvent::Stdout(data) => {
                    direction.carried += u64::try_from(data.len()).unwrap_or_default();
                    sender.send_data(data, false).await?;
                }
                ExecEvent::Stderr(text) => direction.text.extend_from_slice(&text),
                _ => {}
            }
            if direction.ends_now() {
                sender.send(Output::Eof).await?;
            }
        }
        Ok(direction.is_told)
    };
    let is_told = tokio::select! {
        ended = from_relay => ended?,
        gone = pass_to_relay(input, messages, &sender) => return Err(gone),
    };
    if !is_told {
        sender.send(Output::Eof).await?;
    }
    sender.send(Output::Close).await
}

/// Passes input on to a relay. Returns only where the connection is gone: the relay may have
/// something to say for longer than it is spoken to.
async fn pass_to_relay(
    mut input: ExecInput,
    mut messages: mpsc::UnboundedReceiver<Input>,
    sender: &ChannelSender,
) -> Gone {
    while let Some(message) = messages.recv().await {
        let passed = match message {
            Input::Data(data) => {
                let passed = input.write(&data).await;
                if let Err(gone) = sender.send_consumed(&data).await {
                    return gone;
                }
                passed
            }
            _ => input.close().await,
        };
        if passed.is_err() {
            break;
        }
    }
    std::future::pending().await
}

/// Bytes from a relay, and the end of them, which it tells on its standard error.
#[derive(Debug, Default)]
struct Direction {
    carried: u64,
    text: BytesMut,
    /// True once the client was told.
    is_told: bool,
}

impl Direction {
    /// Returns true once, when all bytes before the end are there.
    fn ends_now(&mut self) -> bool {
        if self.is_told || !self.text.ends_with(b"\n") {
            return false;
        }
        let text = String::from_utf8_lossy(&self.text);
        let end = text.trim_end().strip_prefix("end ");
        let end = end.and_then(|bytes| bytes.parse::<u64>().ok());
        self.is_told = end.is_some_and(|end| self.carried >= end);
        self.is_told
    }
}

/// A connection that came to a port of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Address and port as the client asked for them.
    pub address: String,
    pub port: u16,
    /// Name of the relay that has it, and its number there.
    pub relay: String,
    pub number: u32,
    /// Where it came from.
    pub origin: (String, u16),
}

/// A relay that listens.
pub struct Listening {
    pub port: u16,
    relay: String,
    output: ExecOutput,
    /// Keeps the connection to the server open, on which the relay lives.
    _input: ExecInput,
    text: BytesMut,
}

/// Begins to listen on a port of the sandbox; on any free one where it is 0.
pub async fn listen_in_sandbox(
    sandbox: &Sandbox,
    user: Option<String>,
    address: &str,
    port: u16,
) -> Result<Listening, String> {
    let bound = match address {
        "" | "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        other => other,
    };
    let words = ["listen", bound, &port.to_string()].map(str::to_owned);
    let starting = start_relay(sandbox, user, &words);
    let relay = tokio::time::timeout(LISTEN_TIMEOUT, starting).await;
    let relay = relay.map_err(|_| "the sandbox does not answer".to_owned())??;
    let mut listening = Listening {
        port: 0,
        relay: String::new(),
        output: relay.output,
        _input: relay.input,
        text: BytesMut::from(&relay.first[..]),
    };
    let line = listening.next_line().await;
    let line = line.ok_or_else(|| "the relay in the sandbox has ended".to_owned())?;
    let (port, name) = parse_listening(&line).ok_or("the relay in the sandbox is not ours")?;
    (listening.port, listening.relay) = (port, name);
    Ok(listening)
}

fn parse_listening(line: &str) -> Option<(u16, String)> {
    let (port, name) = line.trim().split_once(' ')?;
    Some((port.parse().ok()?, name.to_owned()))
}

fn parse_incoming(line: &str) -> Option<(u32, String, u16)> {
    let mut words = line.split(' ');
    let parsed = (
        words.next()?.parse().ok()?,
        words.next()?.to_owned(),
        words.next()?.parse().ok()?,
    );
    words.next().is_none().then_some(parsed)
}

impl Listening {
    async fn next_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line = self.text.split_to(end + 1);
                return String::from_utf8(line[..end].to_vec()).ok();
            }
            if self.text.len() > MAX_TEXT {
                return None;
            }
            match self.output.next().await {
                Ok(Some(ExecEvent::Stdout(data))) => self.text.extend_from_slice(&data),
                Ok(Some(ExecEvent::Exited { .. }) | None) | Err(_) => return None,
                Ok(Some(_)) => {}
            }
        }
    }

    /// Reports connections as they come, until the relay ends.
    pub async fn report_connections(mut self, address: String, to: mpsc::Sender<Incoming>) {
        while let Some(line) = self.next_line().await {
            let Some((number, origin, port)) = parse_incoming(&line) else {
                return;
            };
            let incoming = Incoming {
                address: address.clone(),
                port: self.port,
                relay: self.relay.clone(),
                number,
                origin: (origin, port),
            };
            if to.send(incoming).await.is_err() {
                return;
            }
        }
    }
}

/// Carries a connection that came to a port of the sandbox, once the client has taken it.
pub async fn carry_incoming(
    sandbox: Sandbox,
    user: Option<String>,
    incoming: Incoming,
    end: ChannelEnd,
) {
    let number = incoming.number.to_string();
    let words = ["accept", &incoming.relay, &number].map(str::to_owned);
    let sender = end.sender.clone();
    // A client that is gone needs no answer.
    let _ = match start_relay(&sandbox, user, &words).await {
        Ok(relay) => carry_relay(relay, end, false).await,
        Err(_) => sender.close().await,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_sandbox_need_no_relay() {
        for host in ["localhost", "127.0.0.1", "::1", ""] {
            assert_eq!(Target::from_host(host, 80), Ok(Target::Port(80)), "{host}");
        }
        let relay = Target::Relay(["tcp", "db.internal", "5432"].map(str::to_owned).to_vec());
        assert_eq!(Target::from_host("db.internal", 5432), Ok(relay));
        for port in [0, 65_536] {
            assert!(Target::from_host("localhost", port).is_err());
        }
    }

    #[test]
    fn end_waits_for_bytes_before_it() {
        let mut direction = Direction::default();
        direction.text.extend_from_slice(b"end 1");
        assert!(!direction.ends_now());
        direction.text.extend_from_slice(b"0\n");
        direction.carried = 9;
        assert!(!direction.ends_now());
        direction.carried = 10;
        assert!(direction.ends_now());
        assert!(!direction.ends_now(), "only once");
    }

    #[test]
    fn lines_of_listening_relay_are_read() {
        let named = Some((8080, "wrenn-relay-7-8080".to_owned()));
        assert_eq!(parse_listening(" 8080 wrenn-relay-7-8080"), named);
        assert_eq!(parse_listening(" 8080"), None);
        let incoming = Some((3, "127.0.0.1".to_owned(), 40_000));
        assert_eq!(parse_incoming("3 127.0.0.1 40000"), incoming);
        for wrong in ["", "3", "3 a", "x a 1", "3 a 1 2", "3 a 70000"] {
            assert_eq!(parse_incoming(wrong), None, "{wrong}");
        }
    }
}
