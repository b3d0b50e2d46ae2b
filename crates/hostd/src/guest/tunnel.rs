//! TCP connections to programs in the guest: straight to the guest's address, which reaches
//! listeners on all addresses, and otherwise through the guest agent, which reaches listeners on
//! the guest's loopback.

use http::StatusCode;
use http::header::{CONNECTION, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;

use super::{CONNECT_TIMEOUT, Error, Guest, empty};

/// Connection to a port of the guest: straight, or through the guest agent.
pub type Connection = Either<TcpStream, TokioIo<Upgraded>>;

impl Guest {
    /// Connects to a port of the guest.
    ///
    /// # Errors
    /// [`Error::Closed`]: nothing listens there that this guest's agent can reach.
    /// [`Error::Unreachable`]: the guest does not answer at all.
    pub async fn connect_port(&self, port: u16) -> Result<Connection, Error> {
        if let Ok(Ok(stream)) = timeout(
            CONNECT_TIMEOUT,
            TcpStream::connect((self.address.ip(), port)),
        )
        .await
        {
            listener::set_keepalive(&stream);
            // Without the option the connection is only a little slower.
            let _ = stream.set_nodelay(true);
            return Ok(Either::Left(stream));
        }
        // On that port of the guest's loopback only the guest agent itself listens.
        if port == guest_rpc::PORT {
            return Err(Error::Closed(port));
        }
        let through = timeout(CONNECT_TIMEOUT, self.connect_through_agent(port)).await;
        through.map_err(|_| Error::Unreachable("it takes too long to connect".to_owned()))?
    }

    async fn connect_through_agent(&self, port: u16) -> Result<Connection, Error> {
        let unreachable = |error: &dyn std::error::Error| Error::Unreachable(super::chain(error));
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| unreachable(&error))?;
        listener::set_keepalive(&stream);
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        tokio::spawn(connection.with_upgrades());
        let request = http::Request::get(format!("/tunnel/{port}"))
            .header(http::header::HOST, self.address.to_string())
            .header(guest_rpc::ACCESS_TOKEN_HEADER, &self.token)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, guest_rpc::http::TUNNEL_PROTOCOL)
            .body(empty())
            .map_err(|error| Error::Nonsense(error.to_string()))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(&error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::Closed(port));
        }
        let upgraded = hyper::upgrade::on(answer)
            .await
            .map_err(|error| unreachable(&error))?;
        Ok(Either::Right(TokioIo::new(upgraded)))
    }
}
