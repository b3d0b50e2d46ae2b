//! Links that open one port of one sandbox until a time. A link is that time and an HMAC over all
//! three, made with a secret that all control planes of the installation share. What is not kept
//! cannot be revoked: a link ends with its time, or with its sandbox, whose id never comes again.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::address::Target;

/// Name of the secret in the store.
pub const SECRET: &str = "port links";
/// So that no other text that is ever signed with the secret is a link.
const PURPOSE: &[u8] = b"wrenn port link 1\0";
const TIME: usize = 8;
const MAC: usize = 32;
/// Characters of a link.
const LENGTH: usize = (TIME + MAC) * 4 / 3 + 1;

/// Makes and checks links.
pub struct Signer(Hmac<Sha256>);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(…)")
    }
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It was made for this port, and its time is over.
    Expired,
    /// It is for another port, from another installation, or made up.
    Forged,
}

impl Signer {
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        // As HMAC itself does with a key that is shorter than a block (RFC 2104).
        let mut block = [0; 64];
        block[..secret.len()].copy_from_slice(&secret);
        Self(Hmac::new(&block.into()))
    }

    /// A link for `target` until `expires`, in seconds since the Unix epoch.
    #[must_use]
    pub fn sign(&self, target: &Target, expires: u64) -> String {
        let mac = self.mac(target, expires).finalize().into_bytes();
        URL_SAFE_NO_PAD.encode([&expires.to_be_bytes()[..], &mac[..]].concat())
    }

    /// Checks a link at `now`, in seconds since the Unix epoch. Seconds that it is still good for.
    ///
    /// # Errors
    /// Takes the same time for every forged one.
    pub fn check(&self, link: &str, target: &Target, now: u64) -> Result<u64, Wrong> {
        let bytes = URL_SAFE_NO_PAD.decode(link).map_err(|_| Wrong::Forged)?;
        let (time, mac) = bytes.split_first_chunk::<TIME>().ok_or(Wrong::Forged)?;
        let expires = u64::from_be_bytes(*time);
        self.mac(target, expires)
            .verify_slice(mac)
            .map_err(|_| Wrong::Forged)?;
        expires
            .checked_sub(now)
            .filter(|left| *left > 0)
            .ok_or(Wrong::Expired)
    }

    fn mac(&self, target: &Target, expires: u64) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(PURPOSE);
        // All of fixed length, so that no two of them give one text.
        mac.update(target.id.as_str().as_bytes());
        mac.update(&target.port.to_be_bytes());
        mac.update(&expires.to_be_bytes());
        mac
    }
}

/// Whether text has the form of a link.
#[must_use]
pub fn is_link(text: &str) -> bool {
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
        fn a_link_opens_its_own_port_until_its_time(
            port in 1..=u16::MAX, other in 1..=u16::MAX, expires in 1..=u64::MAX, now: u64, flip in 0..LENGTH,
        ) {
            let (ours, others) = (Signer::new([7; 32]), Signer::new([8; 32]));
            let target = Target { id: SandboxId::random(), port };
            let link = ours.sign(&target, expires);
            prop_assert!(is_link(&link));
            let right = if now < expires { Ok(expires - now) } else { Err(Wrong::Expired) };
            prop_assert_eq!(ours.check(&link, &target, now), right);
            prop_assert_eq!(others.check(&link, &target, now), Err(Wrong::Forged));
            let elsewhere = Target { id: SandboxId::random(), port };
            prop_assert_eq!(ours.check(&link, &elsewhere, now), Err(Wrong::Forged));
            if other != port {
                let elsewhere = Target { id: target.id.clone(), port: other };
                prop_assert_eq!(ours.check(&link, &elsewhere, now), Err(Wrong::Forged));
            }
            let mut bytes = link.into_bytes();
            bytes[flip] = if bytes[flip] == b'A' { b'B' } else { b'A' };
            prop_assert_eq!(ours.check(std::str::from_utf8(&bytes).unwrap(), &target, 0), Err(Wrong::Forged));
        }

        #[test]
        fn no_text_is_a_link_by_chance(text in "\\PC{0,80}") {
            let target = Target { id: SandboxId::random(), port: 80 };
            prop_assert_eq!(Signer::new([7; 32]).check(&text, &target, 0), Err(Wrong::Forged));
        }
    }
}
