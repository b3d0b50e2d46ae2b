//! Paths of requests: made absolute, and free of `.`, `..` and doubled slashes by their text alone,
//! because answers name entries by the path that was asked for.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::libc;

use super::error::FileError;
use crate::settings::Settings;
use crate::user::User;

/// Longest path that the kernel takes, bytes, its final NUL included (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// Start of the names of files that an upload or an archive writes before they replace another.
/// Watches pass them over.
pub const STAGED_PREFIX: &str = ".wrenn-upload-";

/// Mode of directories that are made on the way.
const DIRECTORY_MODE: u32 = 0o755;

/// Returns the absolute path that `path` means to `user`: `~`, relative and empty paths as in
/// [`Settings::resolve`].
///
/// # Errors
/// Invalid where no file can have that path.
pub fn resolve_path(settings: &Settings, user: &User, path: &str) -> Result<PathBuf, FileError> {
    if path.contains('\0') {
        return Err(FileError::invalid(
            "path holds a NUL byte, which no file name can",
        ));
    }
    let clean = clean(&settings.resolve(path, user));
    if clean.as_os_str().len() >= PATH_MAX {
        return Err(FileError::invalid(format!(
            "path is longer than {} bytes",
            PATH_MAX - 1
        )));
    }
    Ok(clean)
}

/// Does the same as [`resolve_path`], but an empty path is an error: it must not move or remove the
/// home directory because a field was left out.
///
/// # Errors
/// Invalid.
pub fn resolve_named(
    settings: &Settings,
    user: &User,
    path: &str,
    field: &str,
) -> Result<PathBuf, FileError> {
    if path.is_empty() {
        return Err(FileError::invalid(format!("{field} is empty: give a path")));
    }
    resolve_path(settings, user, path)
}

fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Returns the last component as text; `/` for the root.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || "/".into(),
        |name| guest_rpc::bytes::to_text(name.as_bytes()),
    )
}

/// Makes `path` and its missing parents; existing ones are left alone. Call it as the user.
///
/// # Errors
/// Invalid where a component is no directory; the kernel's.
pub fn ensure_dir(path: &Path) -> Result<(), FileError> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.is_dir()).collect();
    for dir in missing.into_iter().rev() {
        match rustix::fs::mkdir(dir, DIRECTORY_MODE.into()).map_err(io::Error::from) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) && dir.is_dir() => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTDIR)) => {
                return Err(FileError::invalid(format!(
                    "'{}' is not a directory",
                    dir.display()
                )));
            }
            Err(e) => return Err(FileError::io("make the directory", dir, &e)),
        }
    }
    Ok(())
}

/// Returns true if `name` can be one component below a directory.
pub fn is_plain_name(name: &std::ffi::OsStr) -> bool {
    !matches!(name.as_bytes(), b"" | b"." | b"..") && !name.as_bytes().contains(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            name: "u".into(),
            uid: 1,
            gid: 1,
            groups: vec![1],
            home: "/home/u".into(),
            shell: "/bin/sh".into(),
            overrides_files: false,
        }
    }

    fn resolved(path: &str) -> Result<String, FileError> {
        resolve_path(&Settings::new(false), &user(), path).map(|p| p.display().to_string())
    }

    #[test]
    fn cleans_by_text() {
        assert_eq!(resolved("/a//b/./c/../d/").as_deref(), Ok("/a/b/d"));
        assert_eq!(resolved("/../..").as_deref(), Ok("/"));
        assert_eq!(resolved("~/x/../y").as_deref(), Ok("/home/u/y"));
        assert_eq!(resolved("../v").as_deref(), Ok("/home/v"));
        assert_eq!(resolved("").as_deref(), Ok("/home/u"));
        let latin = Settings::new(false).resolve("caf\u{10fffd}xE9", &user());
        assert_eq!(latin.as_os_str().as_bytes(), b"/home/u/caf\xe9");
    }

    #[test]
    fn refuses_what_no_file_can_have() {
        assert!(resolved("a\0b").is_err());
        assert!(resolved(&"a/".repeat(3000)).is_err());
    }

    #[test]
    fn plain_names() {
        assert!(is_plain_name("a".as_ref()) && is_plain_name("...".as_ref()));
        assert!(
            !is_plain_name("..".as_ref())
                && !is_plain_name("a/b".as_ref())
                && !is_plain_name("".as_ref())
        );
    }
}
