//! Checks that a snapshot is compatible with the VM to be restored, and that its files are whole.
//! Reasons name both sides, for people.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// File name of the manifest, the same for every driver.
pub(crate) const MANIFEST: &str = "snapshot.json";

/// Returns length and SHA-256 of a small file.
pub(crate) fn length_and_sha256(path: &Path) -> io::Result<(u64, String)> {
    let content = fs::read(path)?;
    Ok((content.len() as u64, hex::encode(Sha256::digest(&content))))
}

/// Reads the manifest of the snapshot in `dir`, if it is of that version.
pub(crate) fn read_manifest<T: DeserializeOwned>(dir: &Path, version: u32) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let content = fs::read(dir.join(MANIFEST)).map_err(|error| format!("{MANIFEST}: {error}"))?;
    let found: Versioned =
        serde_json::from_slice(&content).map_err(|error| format!("{MANIFEST}: {error}"))?;
    require_equal("layout", found.version, version)?;
    serde_json::from_slice(&content).map_err(|error| format!("{MANIFEST}: {error}"))
}

pub(crate) fn require_equal<T: PartialEq + Display>(
    what: &str,
    there: T,
    here: T,
) -> Result<(), String> {
    if there == here {
        Ok(())
    } else {
        Err(mismatch(what, there, here))
    }
}

pub(crate) fn mismatch(what: &str, there: impl Display, here: impl Display) -> String {
    format!("its {what} is {there}, but here it is {here}")
}

/// Fails unless the files in `dir` have these lengths, bytes.
pub(crate) fn check_lengths(dir: &Path, files: &[(&str, u64)]) -> Result<(), String> {
    for (name, length) in files {
        let actual = fs::metadata(dir.join(name))
            .map_err(|error| format!("{name}: {error}"))?
            .len();
        if actual != *length {
            return Err(format!("{name} has {actual} bytes instead of {length}"));
        }
    }
    Ok(())
}

pub(crate) fn check_sha256(dir: &Path, name: &str, wanted: &str) -> Result<(), String> {
    let (_, actual) =
        length_and_sha256(&dir.join(name)).map_err(|error| format!("{name}: {error}"))?;
    if actual == wanted {
        Ok(())
    } else {
        Err(format!(
            "the checksum of {name} is {actual} instead of {wanted}"
        ))
    }
}
