//! The client's name of the user. Nothing has to be proved: the pipe is the client's own, and the
//! API key of the process that serves it decides about everything.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{Error, Result};
use crate::transport::Transport;
use crate::wire::{Fields, Message, message};

const AUTHENTICATION: &str = "ssh-userauth";
const CONNECTION: &str = "ssh-connection";

/// Name that stands for the default user of the image, which a client that has to give some name
/// gives.
pub const DEFAULT_USER: &str = "image-default";

/// Reads the requests up to the one that names a user, and grants it whatever its method is.
/// Returns `None` for [`DEFAULT_USER`].
pub async fn accept_user<R, W>(transport: &mut Transport<R, W>) -> Result<Option<String>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let mut fields = Fields::new(transport.read().await?);
        match fields.u8()? {
            message::SERVICE_REQUEST => {
                let service = fields.text()?;
                if service != AUTHENTICATION {
                    return Err(Error::protocol(format!("a request of {service:?}")));
                }
                transport.put(Message::new(message::SERVICE_ACCEPT).text(AUTHENTICATION))?;
                transport.flush().await?;
            }
            message::USERAUTH_REQUEST => {
                let user = fields.text()?;
                let service = fields.text()?;
                if service != CONNECTION {
                    return Err(Error::protocol(format!("a request of {service:?}")));
                }
                transport.put(Message::new(message::USERAUTH_SUCCESS))?;
                transport.flush().await?;
                return Ok(Some(user).filter(|user| user != DEFAULT_USER));
            }
            message::DISCONNECT => {
                return Err(Error::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            number => {
                return Err(Error::protocol(format!("message {number} before a user")));
            }
        }
    }
}
