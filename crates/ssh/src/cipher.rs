//! Ciphers of packets: AES-GCM (RFC 5647, with OpenSSH's names) and OpenSSH's ChaCha20-Poly1305, by
//! ring. A cipher is for one direction and one set of keys.

use ring::aead::chacha20_poly1305_openssh as chacha;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::error::{Error, Result};

/// Bytes behind a packet that prove it.
pub const TAG: usize = 16;

/// Algorithm of a direction, in the order in which OpenSSH names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherKind {
    ChaCha20Poly1305,
    Aes128Gcm,
    Aes256Gcm,
}

impl CipherKind {
    pub const NAMES: &str =
        "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com";

    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "chacha20-poly1305@openssh.com" => Self::ChaCha20Poly1305,
            "aes128-gcm@openssh.com" => Self::Aes128Gcm,
            "aes256-gcm@openssh.com" => Self::Aes256Gcm,
            _ => return None,
        })
    }

    /// Returns the length of its key in bytes.
    pub fn key_length(self) -> usize {
        match self {
            Self::ChaCha20Poly1305 => 64,
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
        }
    }

    /// Returns the length of its initial value in bytes.
    pub fn iv_length(self) -> usize {
        match self {
            Self::ChaCha20Poly1305 => 0,
            Self::Aes128Gcm | Self::Aes256Gcm => 12,
        }
    }

    /// Returns the number whose multiple the length of a packet is, without the length itself.
    pub fn block(self) -> usize {
        match self {
            Self::ChaCha20Poly1305 => 8,
            Self::Aes128Gcm | Self::Aes256Gcm => 16,
        }
    }
}

/// Encrypts packets.
#[expect(
    clippy::large_enum_variant,
    reason = "a connection has one, and uses it for each packet"
)]
pub enum Sealer {
    /// Before the first keys.
    Plain,
    Gcm(LessSafeKey, Counter, CipherKind),
    ChaCha(chacha::SealingKey),
}

/// Decrypts packets.
#[expect(
    clippy::large_enum_variant,
    reason = "a connection has one, and uses it for each packet"
)]
pub enum Opener {
    /// Before the first keys.
    Plain,
    Gcm(LessSafeKey, Counter),
    ChaCha(chacha::OpeningKey),
}

/// Nonce of AES-GCM: a fixed part, and a number that grows with each packet.
pub struct Counter {
    fixed: [u8; 4],
    invocation: u64,
}

impl Counter {
    fn new(iv: &[u8]) -> Result<Self> {
        let (fixed, invocation) = iv.split_at_checked(4).ok_or_else(wrong_key)?;
        Ok(Self {
            fixed: fixed.try_into().map_err(|_| wrong_key())?,
            invocation: u64::from_be_bytes(invocation.try_into().map_err(|_| wrong_key())?),
        })
    }

    fn advance(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.fixed);
        nonce[4..].copy_from_slice(&self.invocation.to_be_bytes());
        self.invocation = self.invocation.wrapping_add(1);
        Nonce::assume_unique_for_key(nonce)
    }
}

fn gcm_key(kind: CipherKind, key: &[u8]) -> Result<LessSafeKey> {
    let algorithm = match kind {
        CipherKind::Aes128Gcm => &AES_128_GCM,
        CipherKind::Aes256Gcm | CipherKind::ChaCha20Poly1305 => &AES_256_GCM,
    };
    let key = UnboundKey::new(algorithm, key).map_err(|_| wrong_key())?;
    Ok(LessSafeKey::new(key))
}

fn wrong_key() -> Error {
    Error::protocol("keys of a wrong length")
}

fn damaged() -> Error {
    Error::protocol("a packet that is damaged")
}

impl Sealer {
    pub fn new(kind: CipherKind, key: &[u8], iv: &[u8]) -> Result<Self> {
        Ok(match kind {
            CipherKind::ChaCha20Poly1305 => {
                let key: &[u8; 64] = key.try_into().map_err(|_| wrong_key())?;
                Self::ChaCha(chacha::SealingKey::new(key))
            }
            _ => Self::Gcm(gcm_key(kind, key)?, Counter::new(iv)?, kind),
        })
    }

    /// Appends a packet with `payload` to `output`: length, padding and proof around it.
    pub fn seal(&mut self, sequence: u32, payload: &[u8], output: &mut Vec<u8>) -> Result<()> {
        let block = match self {
            Self::Plain | Self::ChaCha(_) => 8,
            Self::Gcm(_, _, kind) => kind.block(),
        };
        // Without encryption of its own the length counts for the block.
        let counted = match self {
            Self::Plain => 5 + payload.len(),
            _ => 1 + payload.len(),
        };
        let padding = match block - counted % block {
            short if short < 4 => short + block,
            enough => enough,
        };
        let length = 1 + payload.len() + padding;
        let start = output.len();
        output.extend_from_slice(&u32::try_from(length).map_err(|_| damaged())?.to_be_bytes());
        output.push(u8::try_from(padding).map_err(|_| damaged())?);
        output.extend_from_slice(payload);
        // Encrypted, zeros are as good a padding as random bytes.
        output.resize(start + 4 + length, 0);
        match self {
            Self::Plain => {}
            Self::Gcm(key, counter, _) => {
                let (head, body) = output[start..].split_at_mut(4);
                let tag = key
                    .seal_in_place_separate_tag(counter.advance(), Aad::from(&*head), body)
                    .map_err(|_| damaged())?;
                output.extend_from_slice(tag.as_ref());
            }
            Self::ChaCha(key) => {
                let mut tag = [0; TAG];
                key.seal_in_place(sequence, &mut output[start..], &mut tag);
                output.extend_from_slice(&tag);
            }
        }
        Ok(())
    }
}

impl Opener {
    pub fn new(kind: CipherKind, key: &[u8], iv: &[u8]) -> Result<Self> {
        Ok(match kind {
            CipherKind::ChaCha20Poly1305 => {
                let key: &[u8; 64] = key.try_into().map_err(|_| wrong_key())?;
                Self::ChaCha(chacha::OpeningKey::new(key))
            }
            _ => Self::Gcm(gcm_key(kind, key)?, Counter::new(iv)?),
        })
    }

    /// Returns the length of a packet behind its first four bytes and before its proof.
    pub fn length(&self, sequence: u32, head: [u8; 4]) -> u32 {
        u32::from_be_bytes(match self {
            Self::Plain | Self::Gcm(..) => head,
            Self::ChaCha(key) => key.decrypt_packet_length(sequence, head),
        })
    }

    /// Returns the length of the proof.
    pub fn tag_length(&self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Gcm(..) | Self::ChaCha(_) => TAG,
        }
    }

    /// Decrypts a whole packet in place and returns the range of its payload.
    pub fn open(&mut self, sequence: u32, packet: &mut [u8]) -> Result<std::ops::Range<usize>> {
        let end = packet.len().checked_sub(self.tag_length());
        let end = end.filter(|end| *end > 5).ok_or_else(damaged)?;
        match self {
            Self::Plain => {}
            Self::Gcm(key, counter) => {
                let (head, body) = packet.split_at_mut(4);
                key.open_in_place(counter.advance(), Aad::from(&*head), body)
                    .map_err(|_| damaged())?;
            }
            Self::ChaCha(key) => {
                let (body, tag) = packet.split_at_mut(end);
                let tag: &[u8; TAG] = (&*tag).try_into().map_err(|_| damaged())?;
                key.open_in_place(sequence, body, tag)
                    .map_err(|_| damaged())?;
            }
        }
        let padding = usize::from(packet[4]);
        let last = end.checked_sub(padding).ok_or_else(damaged)?;
        if last <= 5 {
            return Err(damaged());
        }
        Ok(5..last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [CipherKind; 3] = [
        CipherKind::ChaCha20Poly1305,
        CipherKind::Aes128Gcm,
        CipherKind::Aes256Gcm,
    ];

    fn pair(kind: CipherKind) -> (Sealer, Opener) {
        let key = vec![7; kind.key_length()];
        let iv = vec![9; kind.iv_length()];
        (
            Sealer::new(kind, &key, &iv).unwrap(),
            Opener::new(kind, &key, &iv).unwrap(),
        )
    }

    fn opened(opener: &mut Opener, sequence: u32, mut packet: Vec<u8>) -> Result<Vec<u8>> {
        let head = packet[..4].try_into().unwrap();
        let length = usize::try_from(opener.length(sequence, head)).unwrap();
        assert_eq!(4 + length + opener.tag_length(), packet.len());
        let payload = opener.open(sequence, &mut packet)?;
        Ok(packet[payload].to_vec())
    }

    #[test]
    fn packets_come_back_whole() {
        for kind in KINDS {
            let (mut sealer, mut opener) = pair(kind);
            for (sequence, length) in (0_u32..).zip([1, 10, 11, 12, 32 * 1024]) {
                let payload = vec![3; length];
                let mut packet = Vec::new();
                sealer.seal(sequence, &payload, &mut packet).unwrap();
                assert_eq!((packet.len() - 4 - TAG) % kind.block(), 0);
                assert_eq!(opened(&mut opener, sequence, packet).unwrap(), payload);
            }
        }
        let mut packet = Vec::new();
        Sealer::Plain.seal(0, b"abc", &mut packet).unwrap();
        assert_eq!(packet.len() % 8, 0);
        assert_eq!(opened(&mut Opener::Plain, 0, packet).unwrap(), b"abc");
    }

    #[test]
    fn damaged_packets_are_refused() {
        for kind in KINDS {
            for place in [4, 9, 30] {
                let (mut sealer, mut opener) = pair(kind);
                let mut packet = Vec::new();
                sealer.seal(0, &[3; 20], &mut packet).unwrap();
                packet[place] ^= 1;
                assert!(opener.open(0, &mut packet).is_err(), "{kind:?} {place}");
            }
        }
        for (padding, is_refused) in [(0, false), (7, false), (8, true), (255, true)] {
            let mut packet = vec![0, 0, 0, 9, padding, 1, 2, 3, 4, 5, 6, 7, 8];
            assert_eq!(Opener::Plain.open(0, &mut packet).is_err(), is_refused);
        }
    }
}
