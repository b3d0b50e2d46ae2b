//! SSH connections to sandboxes: the server's side of the protocol, on a pipe to an SSH client of
//! the same user (`ssh` starts `wrenn ssh-proxy` as its `ProxyCommand`).
//!
//! Commands, terminals, SFTP and forwarded connections of the client become calls of the SDK, so a
//! sandbox needs no SSH server, no open port and no key: what the API key may, the connection may.
//! The session is encrypted between two processes of one user on one machine; beyond them it is the
//! API's connection.
//!
//! | asked for | becomes |
//! |---|---|
//! | shell, command | exec stream of the user's shell, with a terminal or without |
//! | subsystem `sftp` | exec stream of the guest agent's own SFTP server |
//! | `-L`, `-D` to the sandbox itself | tunnel to the port |
//! | `-L`, `-D` to other hosts, Unix sockets; `-R` | exec stream of the guest agent's relay |
//!
//! States: identification, exchange of keys, the user's name, then channels until the client ends
//! the connection or the pipe breaks ([`channel`]). A paused sandbox is resumed by the first
//! command, as by any other call. If the connection to the server breaks, each program ends with a
//! text that says so, and exit code 255; if this process dies, the server kills the programs.
//! Nothing is on disk here: the host key is the caller's.
//!
//! Why no library: `russh` 0.65 grants a client more room when data arrives, not when it is
//! consumed, and stops serving the whole connection while one channel's queue is full. So
//! `ssh SANDBOX cat < large-file` would either wait for ever (the program's output is not taken
//! while its input waits) or need memory without a bound. What is here is little, since one
//! algorithm of each kind is enough for a client on the same machine; all cryptography is ring's.
//! The bytes that are parsed come from the user's own client, never from a guest.

mod auth;
mod channel;
mod cipher;
mod connection;
mod error;
mod forward;
mod host_key;
mod kex;
mod program;
mod request;
mod transport;
mod wire;

use client::Client;
use tokio::io::{AsyncRead, AsyncWrite};

pub use auth::DEFAULT_USER;
pub use connection::Report;
pub use error::{Error, Result};
pub use host_key::HostKey;

use connection::Connection;
use program::Sandbox;
use transport::Transport;

/// Server for one connection.
#[derive(Debug)]
pub struct Server {
    pub client: Client,
    /// Whole id of the sandbox.
    pub sandbox: String,
    pub key: HostKey,
    /// Called with notes for the user that the protocol has no place for.
    pub report: Report,
}

impl Server {
    /// Serves a client until it ends the connection.
    ///
    /// # Errors
    /// A pipe that breaks, and a client that breaks the protocol.
    pub async fn serve_client<R, W>(self, input: R, output: W) -> Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let served = async {
            let mut transport = Transport::accept(input, output, self.key).await?;
            let user = auth::accept_user(&mut transport).await?;
            let sandbox = Sandbox {
                client: self.client,
                id: self.sandbox,
            };
            Connection::serve(transport, sandbox, user, self.report).await
        };
        match served.await {
            // As ssh ends after its last channel.
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            served => served,
        }
    }
}
