//! First key of an installation, and the file in which people and the `wrenn` command find it.
//!
//! The file is written first and the hash second. After a crash in between, there is a file with a
//! key that is not in the store, and no key in the store: the next start then takes the key from
//! the file. In the other order, the store would have a key that is lost. Once the store has any
//! key, no start adds one: a key that was revoked stays revoked.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, fchown};
use std::path::{Path, PathBuf};

use model::ApiKey;
use stdx::io::OptionalExt;
use store::Store;

use super::new_key;

const FILE: &str = "credentials";

/// Outcome of a start for the first key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstKey {
    /// First start; the file has the key.
    Made(PathBuf),
    /// The file has a key from before.
    Kept(PathBuf),
    /// Store with keys, but without a file here: `wrenn-cp key create` makes another one.
    Elsewhere,
}

#[derive(Debug, thiserror::Error)]
pub enum FirstKeyError {
    #[error("cannot use {}, which is to hold the first API key ({source}); give this user the directory, set WRENN_DIR \
             to another one, or make a key with `wrenn-cp key create`", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot remember the first API key")]
    Store(#[from] store::Error),
}

/// Ensures that there is a key. `url` is the address of the API, for the file; a file with another
/// address is corrected.
///
/// # Errors
/// The file cannot be written, or the store fails. The next start tries again.
pub async fn ensure_first_key(
    store: &Store,
    dir: &Path,
    url: &str,
) -> Result<FirstKey, FirstKeyError> {
    let path = dir.join(FILE);
    let failed = |source| FirstKeyError::File {
        path: path.clone(),
        source,
    };
    let is_first = store.key_count().await? == 0;
    let found = read(&path).map_err(failed)?;
    let key = match found.key {
        Some(key) => key,
        None if is_first => ApiKey::random(),
        None => return Ok(FirstKey::Elsewhere),
    };
    if found.url.as_deref() != Some(url) || found.text.is_none() {
        write(dir, &path, &key, url).map_err(failed)?;
    }
    if !is_first {
        return Ok(FirstKey::Kept(path));
    }
    match store.key_insert(&new_key(&key, "first key")).await {
        // Another process was at it at the same time, with the same file.
        Ok(()) | Err(store::Error::Conflict { .. }) => Ok(FirstKey::Made(path)),
        Err(error) => Err(error.into()),
    }
}

#[derive(Default)]
struct Found {
    text: Option<String>,
    url: Option<String>,
    key: Option<ApiKey>,
}

fn read(path: &Path) -> io::Result<Found> {
    let Some(text) = fs::read_to_string(path).optional()? else {
        return Ok(Found::default());
    };
    let line = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(str::trim)
    };
    let url = line("WRENN_API_URL").map(str::to_owned);
    let key = line("WRENN_API_KEY").and_then(|key| key.parse().ok());
    Ok(Found {
        url,
        key,
        text: Some(text),
    })
}

/// Writes the file as a whole or not at all, even in a crash: temporary name, fsync, rename, fsync
/// of the directory.
fn write(dir: &Path, path: &Path, key: &ApiKey, url: &str) -> io::Result<()> {
    if !dir.is_dir() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)?;
        give_to_caller(&fs::File::open(dir)?)?;
    }
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::with_prefix_in(".credentials.", dir)?;
    let text = format!(
        "# Made at the first start. Who reads this can use all sandboxes.\n\
                        WRENN_API_URL={url}\nWRENN_API_KEY={}\n",
        key.expose()
    );
    file.write_all(text.as_bytes())?;
    give_to_caller(file.as_file())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(dir)?.sync_all()
}

/// Gives the file to the user that runs us with sudo (sudo(8), "SUDO_UID"), so that it can be read
/// without root.
fn give_to_caller(file: &fs::File) -> io::Result<()> {
    let id = |name| std::env::var(name).ok().and_then(|id| id.parse().ok());
    match (id("SUDO_UID"), id("SUDO_GID")) {
        (Some(uid), gid) => fchown(file, Some(uid), gid),
        (None, _) => Ok(()),
    }
}
