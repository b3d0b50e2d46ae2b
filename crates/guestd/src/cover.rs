//! Files in memory over files of the image that cannot be written: on a read-only or full disk, or
//! immutable. The image's own are under them, as they were.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

/// Directory of the files in memory; each has the name of the file that it covers.
const DIR: &str = "/run/wrenn";

/// Maximum of links that are followed, as in the kernel (`MAXSYMLINKS`).
const LINKS: usize = 40;

/// Makes the file at `path`, which must be there, have this content. Idempotent.
///
/// # Errors
/// When there is no file, or it cannot be mounted over.
pub fn cover_file(path: &Path, content: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    let cover = Path::new(DIR).join(name);
    fs::create_dir_all(DIR)?;
    fs::write(&cover, content)?;
    fs::set_permissions(&cover, Permissions::from_mode(0o644))?;
    // One that was mounted before shows it at once.
    if fs::read_to_string(path).is_ok_and(|shown| shown == content) {
        return Ok(());
    }
    bind(Some(&cover), path, MsFlags::empty())
}

/// Refuses writes to a covered file, so that no change of it is lost unnoticed.
///
/// # Errors
/// When it is not covered.
pub fn make_read_only(path: &Path) -> io::Result<()> {
    bind(None, path, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)
}

fn bind(source: Option<&Path>, path: &Path, flags: MsFlags) -> io::Result<()> {
    let flags = flags | MsFlags::MS_BIND;
    Ok(mount(source, path, None::<&str>, flags, None::<&str>)?)
}

/// Returns the file that `path` leads to in the image at `root`, which need not exist.
///
/// # Errors
/// `ELOOP` for a circle of links.
pub fn follow_links(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(target) = fs::read_link(&path) else {
            return Ok(path);
        };
        path = match target.strip_prefix("/") {
            Ok(absolute) => root.join(absolute),
            Err(_) => path.parent().unwrap_or(root).join(&target),
        };
    }
    Err(io::Error::from_raw_os_error(nix::libc::ELOOP))
}

/// Creates the directory that `path` is or leads to, with those above it. One that is there stays.
///
/// # Errors
/// When it cannot be made, or is no directory.
pub fn create_dir_at(root: &Path, path: &Path) -> io::Result<()> {
    fs::create_dir_all(follow_links(root, path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn dangling_link_gets_its_directory() {
        let root = tempfile::tempdir().expect("a folder");
        for (name, target, made) in [
            ("proc", "var/proc", "var/proc"),
            ("run", "/var/run", "var/run"),
            ("tmp", "other", "var/tmp"),
        ] {
            symlink(target, root.path().join(name)).expect("a link");
            if name == "tmp" {
                symlink("var/tmp", root.path().join("other")).expect("a link");
            }
            for _ in 0..2 {
                create_dir_at(root.path(), &root.path().join(name)).expect("can be made");
            }
            assert!(root.path().join(made).is_dir(), "{name}");
            assert!(root.path().join(name).is_symlink(), "{name}");
        }
        symlink("circle", root.path().join("circle")).expect("a link");
        fs::write(root.path().join("file"), "").expect("a file");
        for name in ["circle", "file"] {
            assert!(create_dir_at(root.path(), &root.path().join(name)).is_err());
        }
    }
}
