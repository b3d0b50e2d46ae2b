//! The agent's directory and the token in it, which the control plane on the same machine reads.
//!
//! The agent runs as root, the control plane often does not. Whoever starts the agent with sudo
//! owns what it makes here, so that the same person can start the control plane without it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

const FILE: &str = "agent-token";

/// Makes the agent's directory if there is none (mode 0750).
///
/// # Errors
/// In words for the user.
pub fn make_dir(dir: &Path) -> Result<(), String> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(dir)
        .and_then(|()| give_to_caller(dir));
    made.map_err(|error| {
        format!(
            "cannot make {}: {error}; run as root, or set WRENN_DIR",
            dir.display()
        )
    })
}

/// The token in the directory, made at the first start (mode 0600).
///
/// # Errors
/// In words for the user.
pub fn load_or_make(dir: &Path) -> Result<String, String> {
    make_dir(dir)?;
    let path = dir.join(FILE);
    let failed = |error| format!("cannot use {}: {error}", path.display());
    match fs::read_to_string(&path) {
        Ok(token) if token.trim().len() >= 16 => return Ok(token.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let token = random();
    linux::file::write_atomic(&path, format!("{token}\n").as_bytes(), 0o600).map_err(failed)?;
    give_to_caller(&path).map_err(failed)?;
    Ok(token)
}

/// 256 bits as hexadecimal digits.
#[must_use]
pub fn random() -> String {
    stdx::random::hex::<32>()
}

/// The user behind sudo, if any (sudo(8), "SUDO_UID").
fn give_to_caller(path: &Path) -> std::io::Result<()> {
    let id = |name| std::env::var(name).ok().and_then(|id| id.parse().ok());
    match (id("SUDO_UID"), id("SUDO_GID")) {
        (Some(uid), gid) => chown(path, Some(uid), gid),
        (None, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

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
