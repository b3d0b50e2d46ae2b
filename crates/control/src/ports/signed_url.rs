//! Signed URLs, which open one port of one sandbox until they expire.
//!
//! The signature is the expiry time and an HMAC over sandbox, port and that time, with a secret that
//! all control planes of the installation share. It is not stored, so it cannot be revoked: it ends
//! with its time, or with its sandbox, whose id is never used again.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use model::SandboxId;
use sha2::Sha256;

use super::PortTarget;

/// Name of the secret in the store.
pub const SECRET: &str = "port links";
/// Query parameter that holds a signature.
pub const LINK_PARAMETER: &str = "wrenn-link";
/// Domain separation: nothing else that is signed with the secret is a signature of a URL.
const PURPOSE: &[u8] = b"wrenn port link 1\0";
/// Time of what does not expire.
const NEVER: u64 = u64::MAX;
const TIME: usize = 8;
const MAC: usize = 32;
/// Characters of a signature.
const LENGTH: usize = (TIME + MAC) * 4 / 3 + 1;

/// Signer of URLs, which also verifies their signatures.
pub struct UrlSigner(Hmac<Sha256>);

impl std::fmt::Debug for UrlSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UrlSigner(…)")
    }
}

/// Reason why a signature is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedUrlError {
    /// Genuine, but its time is over.
    Expired,
    /// Made for another port, or not by this installation.
    Forged,
}

impl UrlSigner {
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        // As HMAC itself does with a key that is shorter than a block (RFC 2104).
        let mut block = [0; 64];
        block[..secret.len()].copy_from_slice(&secret);
        Self(Hmac::new(&block.into()))
    }

    /// Returns a signature for `target` that expires at `expires`, in seconds since the Unix epoch.
    #[must_use]
    pub fn sign(&self, target: &PortTarget, expires: u64) -> String {
        let mac = self.mac(target, expires).finalize().into_bytes();
        URL_SAFE_NO_PAD.encode([&expires.to_be_bytes()[..], &mac[..]].concat())
    }

    /// Returns a signature for every port of a sandbox but that of the guest agent, for as long as the
    /// sandbox is there.
    #[must_use]
    pub fn sign_all_ports(&self, id: &SandboxId) -> String {
        self.sign(&all_ports(id), NEVER)
    }

    /// Verifies a signature for every port of a sandbox.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_all_ports(&self, signature: &str, id: &SandboxId) -> Result<(), SignedUrlError> {
        self.verify(signature, &all_ports(id), 0).map(drop)
    }

    /// Verifies a signature at `now`, in seconds since the Unix epoch. Returns the seconds until it
    /// expires.
    ///
    /// # Errors
    /// Compares in constant time, so a forged signature tells nothing of the right one.
    pub fn verify(
        &self,
        signature: &str,
        target: &PortTarget,
        now: u64,
    ) -> Result<u64, SignedUrlError> {
        let bytes = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| SignedUrlError::Forged)?;
        let (time, mac) = bytes
            .split_first_chunk::<TIME>()
            .ok_or(SignedUrlError::Forged)?;
        let expires = u64::from_be_bytes(*time);
        self.mac(target, expires)
            .verify_slice(mac)
            .map_err(|_| SignedUrlError::Forged)?;
        expires
            .checked_sub(now)
            .filter(|left| *left > 0)
            .ok_or(SignedUrlError::Expired)
    }

    fn mac(&self, target: &PortTarget, expires: u64) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(PURPOSE);
        // All have a fixed length, so different fields never give the same text.
        mac.update(target.id.as_str().as_bytes());
        mac.update(&target.port.to_be_bytes());
        mac.update(&expires.to_be_bytes());
        mac
    }
}

/// Returns what a signature for every port names: no port is 0.
fn all_ports(id: &SandboxId) -> PortTarget {
    PortTarget {
        id: id.clone(),
        port: 0,
    }
}

/// Returns true if text has the form of a signature.
#[must_use]
pub fn is_signature(text: &str) -> bool {
    text.len() == LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use model::SandboxId;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn signature_opens_own_port_until_expiry(
            port in 1..=u16::MAX, other in 1..=u16::MAX, expires in 1..=u64::MAX, now: u64, flip in 0..LENGTH,
        ) {
            let ours = UrlSigner::new([7; 32]);
            let others = UrlSigner::new([8; 32]);
            let target = PortTarget { id: SandboxId::random(), port };
            let link = ours.sign(&target, expires);
            prop_assert!(is_signature(&link));
            let right = if now < expires { Ok(expires - now) } else { Err(SignedUrlError::Expired) };
            prop_assert_eq!(ours.verify(&link, &target, now), right);
            prop_assert_eq!(others.verify(&link, &target, now), Err(SignedUrlError::Forged));
            let elsewhere = PortTarget { id: SandboxId::random(), port };
            prop_assert_eq!(ours.verify(&link, &elsewhere, now), Err(SignedUrlError::Forged));
            if other != port {
                let elsewhere = PortTarget { id: target.id.clone(), port: other };
                prop_assert_eq!(ours.verify(&link, &elsewhere, now), Err(SignedUrlError::Forged));
            }
            let mut bytes = link.into_bytes();
            bytes[flip] = if bytes[flip] == b'A' { b'B' } else { b'A' };
            prop_assert_eq!(ours.verify(std::str::from_utf8(&bytes).unwrap(), &target, 0), Err(SignedUrlError::Forged));
        }

        #[test]
        fn random_text_is_no_signature(text in "\\PC{0,80}") {
            let target = PortTarget { id: SandboxId::random(), port: 80 };
            prop_assert_eq!(UrlSigner::new([7; 32]).verify(&text, &target, 0), Err(SignedUrlError::Forged));
        }
    }
}
