//! The agent's directory and the token in it, which the control plane on the same machine reads.
//!
//! The agent works in the directory as root, so the owner of the directory can become root.
//! Therefore root owns it if the agent makes it ([`create_agent_dir`]), as with `sudo wrenn up`. Only an
//! agent that leaves its token for a separate control plane ([`load_or_make`]) gives both to the
//! user behind sudo: the token already gives control over the agent, so the directory gives nothing
//! more, and that user can start the control plane without sudo.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

const FILE: &str = "agent-token";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hint comes after the cause, so the cause is part of the text and no source.
    #[error("cannot make {dir}: {cause}; make it as root, or set WRENN_DIR to another directory")]
    MakeDir { dir: PathBuf, cause: io::Error },
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: io::Error },
}

/// Creates the agent's directory, owned by root, if there is none. Others can reach a file of their
/// own in it (`credentials`), and list nothing.
///
/// # Errors
/// [`Error::MakeDir`].
pub fn create_agent_dir(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir);
    made.map_err(|cause| Error::MakeDir {
        dir: dir.to_owned(),
        cause,
    })
}

/// Loads the token from the directory. Creates both at the first start, for the user behind sudo
/// (the file with mode 0600).
///
/// # Errors
/// When a file cannot be read or created.
pub fn load_or_make(dir: &Path) -> Result<String, Error> {
    load_or_make_for(dir, caller())
}

fn load_or_make_for(dir: &Path, owner: Option<Owner>) -> Result<String, Error> {
    let path = dir.join(FILE);
    let failed = |source| Error::Io {
        path: path.clone(),
        source,
    };
    if !dir.is_dir() {
        create_agent_dir(dir)?;
        give(dir, owner).map_err(failed)?;
    }
    match fs::read_to_string(&path) {
        Ok(token) if token.trim().len() >= 16 => return Ok(token.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let token = random_token();
    linux::file::write_atomic(&path, format!("{token}\n").as_bytes(), 0o600).map_err(failed)?;
    give(&path, owner).map_err(failed)?;
    Ok(token)
}

/// Returns 256 random bits as hexadecimal digits.
#[must_use]
pub fn random_token() -> String {
    stdx::random::hex::<32>()
}

/// User, and group where it is known.
type Owner = (u32, Option<u32>);

/// Returns the user behind sudo, if any (sudo(8), "SUDO_UID").
fn caller() -> Option<Owner> {
    let id = |name| std::env::var(name).ok().and_then(|id| id.parse().ok());
    Some((id("SUDO_UID")?, id("SUDO_GID")))
}

fn give(path: &Path, owner: Option<Owner>) -> io::Result<()> {
    match owner {
        Some((uid, gid)) => chown(path, Some(uid), gid),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn directory_is_given_with_token_alone() {
        let parent = tempfile::tempdir().unwrap();
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        let own = owner(parent.path());
        let of_up = parent.path().join("up");
        create_agent_dir(&of_up).unwrap();
        assert_eq!(owner(&of_up), own);
        assert_eq!(fs::metadata(&of_up).unwrap().mode() & 0o777, 0o711);
        let shared = parent.path().join("shared");
        // Only root can give files to another user; others can only "give" them to themselves.
        let other = if own == 0 { 4242 } else { own };
        load_or_make_for(&shared, Some((other, None))).unwrap();
        assert_eq!(owner(&shared), other);
        assert_eq!(owner(&shared.join(FILE)), other);
        // An existing directory keeps its owner.
        load_or_make_for(&of_up, Some((other, None))).unwrap();
        assert_eq!(owner(&of_up), own);
    }

    #[test]
    fn unmakeable_directory_is_explained_in_order() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, b"").unwrap();
        let dir = file.join("dir");
        let error = stdx::error::chain(&create_agent_dir(&dir).unwrap_err());
        let (cause, hint) = error.split_once("; ").unwrap();
        assert!(
            cause.starts_with(&format!("cannot make {}: ", dir.display())),
            "{error}"
        );
        assert!(cause.contains("ot a directory"), "{error}");
        assert!(
            hint.ends_with("set WRENN_DIR to another directory"),
            "{error}"
        );
    }

    #[test]
    fn the_token_is_made_once_and_for_one_reader() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("wrenn");
        let token = load_or_make(&dir).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(load_or_make(&dir).unwrap(), token);
        assert_eq!(fs::metadata(dir.join(FILE)).unwrap().mode() & 0o777, 0o600);
    }
}
