//! Content addresses: `sha256:` and 64 hexadecimal digits.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use crate::error::{Result, invalid, printable};
use crate::limits::Budget;

/// Bytes that are hashed at once.
const CHUNK: usize = 256 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest(String);

impl Digest {
    /// Parses a digest of an image.
    ///
    /// # Errors
    /// When it is none, or not of SHA-256.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = text.strip_prefix("sha256:");
        let is_lower_hex = |digits: &&str| {
            digits.len() == 64
                && digits
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        match digits.filter(is_lower_hex) {
            Some(digits) => Ok(Self(digits.to_owned())),
            None => Err(invalid(format!(
                "{} is no digest of SHA-256",
                printable(text.as_bytes())
            ))),
        }
    }

    /// Returns the digest of bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// Returns the digest of everything that was hashed.
    #[must_use]
    pub fn from_hasher(hasher: Sha256) -> Self {
        Self(hex::encode(hasher.finalize()))
    }

    /// Reads to the end.
    pub(crate) fn from_reader(source: &mut impl Read, budget: &Budget) -> Result<Self> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            match source.read(&mut buffer)? {
                0 => return Ok(Self::from_hasher(hasher)),
                count => hasher.update(&buffer[..count]),
            }
            budget.check_time()?;
        }
    }

    /// Returns the path of the blob in an OCI layout.
    #[must_use]
    pub fn path(&self) -> String {
        format!("blobs/sha256/{}", self.0)
    }

    /// Compares with the digest of what was found.
    ///
    /// # Errors
    /// When they differ.
    pub fn verify(&self, found: &Self) -> Result<()> {
        if self == found {
            return Ok(());
        }
        Err(invalid(format!(
            "the content of {self} is damaged: it has the digest {found}; fetch the image again"
        )))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}
