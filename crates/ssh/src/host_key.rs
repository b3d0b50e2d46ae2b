//! The host key: Ed25519 by ring, made on this machine and kept by whoever starts the server.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::error::{Error, Result};
use crate::wire::Message;

/// Name of the algorithm.
pub const ALGORITHM: &str = "ssh-ed25519";

/// Host key.
pub struct HostKey(Ed25519KeyPair);

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey")
    }
}

impl HostKey {
    /// Makes a key and returns it as PKCS #8, to be kept.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn generate() -> Result<Vec<u8>> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let made = made.map_err(|_| Error::Key("the system gives no random numbers"))?;
        Ok(made.as_ref().to_vec())
    }

    /// Reads a key that [`HostKey::generate`] made.
    ///
    /// # Errors
    /// Bytes that are no such key.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self> {
        let key = Ed25519KeyPair::from_pkcs8(bytes);
        key.map(Self).map_err(|_| Error::Key("it is damaged"))
    }

    /// Returns the public key as it stands in files of known hosts, as in `ssh-ed25519 AAAA…`.
    #[must_use]
    pub fn public_line(&self) -> String {
        format!("{ALGORITHM} {}", STANDARD.encode(self.public_blob()))
    }

    pub(crate) fn public_blob(&self) -> Vec<u8> {
        let public = self.0.public_key();
        let message = Message::default().text(ALGORITHM).bytes(public.as_ref());
        message.into_vec()
    }

    pub(crate) fn sign(&self, data: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(data);
        let message = Message::default().text(ALGORITHM);
        message.bytes(signature.as_ref()).into_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_comes_back_from_its_bytes() {
        let bytes = HostKey::generate().unwrap();
        let line = HostKey::from_pkcs8(&bytes).unwrap().public_line();
        assert!(
            line.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"),
            "{line}"
        );
        assert_eq!(HostKey::from_pkcs8(&bytes).unwrap().public_line(), line);
        assert!(HostKey::from_pkcs8(&bytes[..40]).is_err());
    }
}
