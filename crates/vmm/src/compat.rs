//! Checks that a snapshot is compatible with the VM to be restored, and that its files are whole.
//! Errors name both sides, for people.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// File name of the manifest, the same for every driver.
pub(crate) const MANIFEST: &str = "snapshot.json";

/// Reason why a snapshot cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Host or VM differ from those that the snapshot was made with.
    #[error("its {what} is {there}, but here it is {here}")]
    Mismatch {
        what: &'static str,
        there: String,
        here: String,
    },
    #[error("cannot tell which processor this host has")]
    Processor(#[source] io::Error),
    #[error("cannot read {name}")]
    File { name: String, source: io::Error },
    #[error("{name} has {actual} bytes instead of {wanted}")]
    Length {
        name: String,
        actual: u64,
        wanted: u64,
    },
    #[error("the checksum of {name} is {actual} instead of {wanted}")]
    Checksum {
        name: String,
        actual: String,
        wanted: String,
    },
    /// A memory file is missing or damaged.
    #[error("cannot use its memory")]
    Memory(#[source] io::Error),
    /// The VMM, or the process that serves its memory, refused the snapshot: its last words.
    #[error("{0}")]
    Refused(String),
}

/// Returns length and SHA-256 of a small file.
pub(crate) fn length_and_sha256(path: &Path) -> io::Result<(u64, String)> {
    let content = fs::read(path)?;
    Ok((content.len() as u64, hex::encode(Sha256::digest(&content))))
}

/// Reads the manifest of the snapshot in `dir`, if it is of that version.
pub(crate) fn read_manifest<T: DeserializeOwned>(
    dir: &Path,
    version: u32,
) -> Result<T, SnapshotError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let unreadable = in_snapshot_file(MANIFEST);
    let content = fs::read(dir.join(MANIFEST)).map_err(&unreadable)?;
    let found: Versioned =
        serde_json::from_slice(&content).map_err(|error| unreadable(error.into()))?;
    require_equal("layout", found.version, version)?;
    serde_json::from_slice(&content).map_err(|error| unreadable(error.into()))
}

pub(crate) fn require_equal<T: PartialEq + Display>(
    what: &'static str,
    there: T,
    here: T,
) -> Result<(), SnapshotError> {
    if there == here {
        Ok(())
    } else {
        Err(mismatch(what, there, here))
    }
}

pub(crate) fn mismatch(
    what: &'static str,
    there: impl Display,
    here: impl Display,
) -> SnapshotError {
    SnapshotError::Mismatch {
        what,
        there: there.to_string(),
        here: here.to_string(),
    }
}

/// Fails unless the files in `dir` have these lengths, bytes.
pub(crate) fn check_lengths(dir: &Path, files: &[(&str, u64)]) -> Result<(), SnapshotError> {
    for &(name, wanted) in files {
        let meta = fs::metadata(dir.join(name)).map_err(in_snapshot_file(name))?;
        let actual = meta.len();
        if actual != wanted {
            return Err(SnapshotError::Length {
                name: name.to_owned(),
                actual,
                wanted,
            });
        }
    }
    Ok(())
}

pub(crate) fn check_sha256(dir: &Path, name: &str, wanted: &str) -> Result<(), SnapshotError> {
    let (_, actual) = length_and_sha256(&dir.join(name)).map_err(in_snapshot_file(name))?;
    if actual == wanted {
        return Ok(());
    }
    Err(SnapshotError::Checksum {
        name: name.to_owned(),
        actual,
        wanted: wanted.to_owned(),
    })
}

fn in_snapshot_file(name: &str) -> impl Fn(io::Error) -> SnapshotError + use<'_> {
    move |source| SnapshotError::File {
        name: name.to_owned(),
        source,
    }
}
