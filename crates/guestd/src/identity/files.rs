//! `/etc/hosts`, `/etc/machine-id` and the working directory. A file that cannot be written is
//! covered by one in memory.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::cover::cover_file;
use crate::user::read_bounded;

/// Maximum number of bytes of `/etc/hosts` that are read: lists of blocked names have a few MiB.
const HOSTS_LIMIT: u64 = 8 << 20;

/// Mode according to machine-id(5).
const MACHINE_ID_MODE: u32 = 0o444;

/// Makes the host name resolve: without a line in `/etc/hosts`, sudo asks the network for it.
pub fn name_host(root: &Path, name: &str) {
    let path = root.join("etc/hosts");
    let hosts = read_bounded(&path, HOSTS_LIMIT);
    let Some(line) = missing_line(&hosts, name) else {
        return;
    };
    let written = append(&path, &line).or_else(|_| cover_file(&path, &format!("{hosts}{line}")));
    if let Err(e) = written {
        tracing::info!("/etc/hosts does not name this host: {e}");
    }
}

/// Returns the line that names the host; `None` if there is one.
fn missing_line(hosts: &str, name: &str) -> Option<String> {
    if hosts.split_whitespace().any(|word| word == name) {
        return None;
    }
    let known = hosts.split_whitespace().any(|word| word == "localhost");
    let localhost = if known {
        ""
    } else {
        "127.0.0.1 localhost\n::1 localhost\n"
    };
    let start = if hosts.is_empty() || hosts.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    Some(format!("{start}{localhost}127.0.1.1 {name}\n"))
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    // A pipe in its place must not hold the thread.
    options.custom_flags(nix::libc::O_NONBLOCK);
    let mut file = options.create(true).append(true).open(path)?;
    file.write_all(line.as_bytes())
}

/// Returns true if it has the form of machine-id(5).
pub fn valid_machine_id(id: &str) -> bool {
    id.len() == 32
        && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && id.bytes().any(|b| b != b'0')
}

/// Writes the machine id, and D-Bus's own copy of it where there is one: mostly that is a link to
/// the first.
pub fn write_machine_id(root: &Path, id: &str) {
    let of_bus = root.join("var/lib/dbus/machine-id");
    let is_copy = fs::symlink_metadata(&of_bus).is_ok_and(|found| found.is_file());
    for path in [Some(root.join("etc/machine-id")), is_copy.then_some(of_bus)]
        .into_iter()
        .flatten()
    {
        let content = format!("{id}\n");
        let written = replace(&path, &content).or_else(|e| match path.is_file() {
            true => cover_file(&path, &content),
            false => Err(e),
        });
        if let Err(e) = written {
            tracing::info!("{} stays as it is: {e}", path.display());
        }
    }
}

/// Creates the directory that programs start in where the image has none, as container engines do:
/// of root, with those above it. Paths that begin in a user's home are the user's own.
pub fn create_workdir(root: &Path, path: &str) {
    let Some(relative) = path.strip_prefix('/') else {
        return;
    };
    let path = root.join(relative);
    let created = DirBuilder::new().recursive(true).mode(0o755).create(&path);
    if let Err(e) = created {
        tracing::info!(
            "the working directory {} cannot be created: {e}",
            path.display()
        );
    }
}

/// Replaces a file as a whole or not at all, so that no reader sees half an id. A link is replaced,
/// not followed.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    if is_file && fs::read_to_string(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let new = path.with_extension("wrenn-new");
    stdx::fs::remove_file_if_exists(&new)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MACHINE_ID_MODE)
        .open(&new)?;
    let written = file
        .set_permissions(Permissions::from_mode(MACHINE_ID_MODE))
        .and_then(|()| file.write_all(content.as_bytes()))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // The error that is answered says more.
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in ["etc", "var/lib/dbus"] {
            fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        root
    }

    #[test]
    fn the_host_is_named_once() {
        let root = root();
        let path = root.path().join("etc/hosts");
        fs::write(&path, "127.0.0.1 localhost").expect("a file");
        for _ in 0..2 {
            name_host(root.path(), "box");
        }
        assert_eq!(
            fs::read_to_string(&path).expect("is there"),
            "127.0.0.1 localhost\n127.0.1.1 box\n"
        );
    }

    #[test]
    fn machine_id_is_created_and_replaced() {
        let root = root();
        let path = root.path().join("etc/machine-id");
        for id in [ID, &ID.replace('0', "1")] {
            write_machine_id(root.path(), id);
            assert_eq!(
                fs::read_to_string(&path).expect("is there"),
                format!("{id}\n")
            );
            assert_eq!(
                fs::metadata(&path).expect("is there").permissions().mode() & 0o7777,
                0o444
            );
        }
        assert_eq!(
            fs::read_dir(root.path().join("etc"))
                .expect("a folder")
                .count(),
            1,
            "nothing else is left"
        );
        assert!(
            !root.path().join("var/lib/dbus/machine-id").exists(),
            "none is made for D-Bus"
        );
    }

    #[test]
    fn links_are_not_written_through() {
        let root = root();
        let outside = root.path().join("outside");
        let id = root.path().join("etc/machine-id");
        fs::write(&outside, "kept").expect("a file");
        symlink(&outside, &id).expect("a link");
        symlink(&id, root.path().join("var/lib/dbus/machine-id")).expect("a link");
        write_machine_id(root.path(), ID);
        assert_eq!(fs::read_to_string(&outside).expect("is there"), "kept");
        assert_eq!(
            fs::read_to_string(&id).expect("is there"),
            format!("{ID}\n")
        );
        assert!(root.path().join("var/lib/dbus/machine-id").is_symlink());
    }

    #[test]
    fn dbus_machine_id_is_kept_equal() {
        let root = root();
        let copy = root.path().join("var/lib/dbus/machine-id");
        fs::write(&copy, "old\n").expect("a file");
        write_machine_id(root.path(), ID);
        assert_eq!(
            fs::read_to_string(&copy).expect("is there"),
            format!("{ID}\n")
        );
    }

    #[test]
    fn missing_workdir_is_created() {
        let root = root();
        create_workdir(root.path(), "/srv/app");
        let mode = |path: &str| {
            let found = fs::metadata(root.path().join(path)).expect("is there");
            found.permissions().mode() & 0o7777
        };
        assert_eq!((mode("srv"), mode("srv/app")), (0o755, 0o755));
        let private = Permissions::from_mode(0o700);
        fs::set_permissions(root.path().join("srv/app"), private).expect("chmod");
        fs::write(root.path().join("file"), "kept").expect("a file");
        for path in ["/srv/app", "/", "/file", "/file/below", "~/x", "x", ""] {
            create_workdir(root.path(), path);
        }
        assert_eq!(mode("srv/app"), 0o700, "one that is there stays as it is");
        assert!(root.path().join("file").is_file());
        let names = fs::read_dir(root.path()).expect("a folder").count();
        assert_eq!(names, 4, "nothing else is made");
    }

    #[test]
    fn only_hexadecimal_digits_are_machine_id() {
        assert!(valid_machine_id(ID));
        for bad in [
            "",
            &ID[1..],
            &ID.to_uppercase(),
            &"0".repeat(32),
            "0123456789abcdef0123456789abcde\n",
        ] {
            assert!(!valid_machine_id(bad), "{bad}");
        }
    }
}
