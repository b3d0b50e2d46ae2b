//! Files of ours: the host key and the known hosts. See the module above.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ssh::HostKey;
use tempfile::NamedTempFile;

use crate::settings::env_var;

/// Name of the host key in our file of known hosts, for every sandbox.
pub const HOST_ALIAS: &str = "wrenn-sandbox";

const KEY_FILE: &str = "host_key";
pub const KNOWN_HOSTS: &str = "known_hosts";
pub const CONFIG: &str = "config";

/// Returns the directory of our files: `$WRENN_DIR/ssh` where that is set, else `~/.ssh/wrenn`.
pub fn ssh_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = env_var("WRENN_DIR") {
        return Ok(std::path::absolute(dir)?.join("ssh"));
    }
    Ok(user_dir()?.join("wrenn"))
}

/// Returns `~/.ssh`.
pub fn user_dir() -> anyhow::Result<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let home = home.context("there is no home directory: set HOME, or WRENN_DIR")?;
    Ok(home.join(".ssh"))
}

/// Returns the host key, made where there is none, and sees to it that it is a known host.
pub fn prepare_host_key(dir: &Path) -> anyhow::Result<HostKey> {
    create_private_dir(dir)?;
    let path = dir.join(KEY_FILE);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(&path)?,
        read => read.with_context(|| format!("reading {}", path.display()))?,
    };
    let key = HostKey::from_pkcs8(&bytes).with_context(|| {
        let path = path.display();
        format!("{path} is no host key; remove it, and the next connection makes another")
    })?;
    let line = format!("{HOST_ALIAS} {}\n", key.public_line());
    let known = dir.join(KNOWN_HOSTS);
    if fs::read(&known).ok().as_deref() != Some(line.as_bytes()) {
        replace_file(&known, line.as_bytes(), None)?;
    }
    Ok(key)
}

/// Makes the key, unless another process does so at the same moment: the first one counts.
fn make_key(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = HostKey::generate()?;
    let mut file = new_file_beside(path)?;
    file.write_all(&bytes)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(bytes),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(fs::read(path)?),
        Err(error) => Err(error.error).with_context(|| format!("writing {}", path.display())),
    }
}

/// Creates a directory that only the user may enter, with its parents.
pub fn create_private_dir(dir: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("making the directory {}", dir.display()))
}

/// Replaces a file as a whole. It keeps the owner and mode of `like`, where that is there; else it
/// is the user's alone.
pub fn replace_file(
    path: &Path,
    content: &[u8],
    like: Option<&fs::Metadata>,
) -> anyhow::Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut file = new_file_beside(path)?;
    file.write_all(content).with_context(writing)?;
    if let Some(like) = like {
        let mode = fs::Permissions::from_mode(like.mode() & 0o7777);
        file.as_file().set_permissions(mode).with_context(writing)?;
        // Only root can give it to another, and only root needs to.
        let _ = std::os::unix::fs::fchown(file.as_file(), Some(like.uid()), Some(like.gid()));
    }
    file.as_file().sync_all().with_context(writing)?;
    file.persist(path)
        .map_err(|error| error.error)
        .with_context(writing)?;
    Ok(())
}

/// Creates a file in the same directory, mode 0600, which is removed unless it gets a name.
fn new_file_beside(path: &Path) -> anyhow::Result<NamedTempFile> {
    let dir = path.parent().unwrap_or(Path::new("."));
    NamedTempFile::new_in(dir).with_context(|| format!("making a file in {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_key_is_made_once_and_known() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/ssh");
        let line = prepare_host_key(&dir).unwrap().public_line();
        assert_eq!(prepare_host_key(&dir).unwrap().public_line(), line);
        let known = fs::read_to_string(dir.join(KNOWN_HOSTS)).unwrap();
        assert_eq!(known, format!("{HOST_ALIAS} {line}\n"));
        let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode(KEY_FILE), mode("")), (0o600, 0o700));
        fs::write(dir.join(KNOWN_HOSTS), "old").unwrap();
        prepare_host_key(&dir).unwrap();
        let again = fs::read_to_string(dir.join(KNOWN_HOSTS)).unwrap();
        assert_eq!(again, known);
        fs::write(dir.join(KEY_FILE), "x").unwrap();
        let text = format!("{:#}", prepare_host_key(&dir).unwrap_err());
        assert!(text.contains("remove it"), "{text}");
    }

    #[test]
    fn replaced_file_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let like = fs::metadata(&path).unwrap();
        replace_file(&path, b"new", Some(&like)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing else is left");
    }
}
