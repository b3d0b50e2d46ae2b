//! A tar stream from a sandbox into a local directory. The archive is the guest's and hostile: nothing is written
//! outside the directory, no device, pipe or set-id bit is made, owners are ours.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tar::{Archive, EntryType};

use crate::output;

/// Unpacks everything below `target`, which exists.
pub fn unpack(tar: impl Read, target: &Path) -> io::Result<()> {
    let mut archive = Archive::new(tar);
    // Set-user-id and its like are not kept, owners neither.
    archive.set_preserve_permissions(false);
    archive.set_preserve_ownerships(false);
    archive.set_unpack_xattrs(false);
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        let wanted = matches!(
            kind,
            EntryType::Regular
                | EntryType::Continuous
                | EntryType::GNUSparse
                | EntryType::Directory
                | EntryType::Symlink
                | EntryType::Link
        );
        // `unpack_in` refuses `..` and everything that a link leads out of the target.
        if !wanted || !entry.unpack_in(target)? {
            let name = name.to_string_lossy();
            output::note(&format!("left out, because it is no file below the directory: {}", output::printable(&name)));
        } else if kind == EntryType::Directory {
            keep_usable(&target.join(&name))?;
        }
    }
    Ok(())
}

/// What comes next has to be written into it, and the user has to be able to remove it.
fn keep_usable(dir: &Path) -> io::Result<()> {
    let facts = fs::symlink_metadata(dir)?;
    let mode = facts.permissions().mode();
    if facts.is_dir() && mode & 0o700 != 0o700 {
        fs::set_permissions(dir, Permissions::from_mode(mode & 0o777 | 0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &str, u32)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content, mode) in entries {
            let mut header = tar::Header::new_gnu();
            // Set raw: the builder itself refuses hostile names.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            let link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if link {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            let data = if link { "" } else { content };
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_tree_comes_out_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let tar = archive(&[
            ("./", EntryType::Directory, "", 0o755),
            ("sub", EntryType::Directory, "", 0o555),
            ("sub/run.sh", EntryType::Regular, "#!/bin/sh\n", 0o4755),
            ("link", EntryType::Symlink, "sub/run.sh", 0o777),
        ]);
        unpack(tar.as_slice(), dir.path()).unwrap();
        let run = dir.path().join("sub/run.sh");
        assert_eq!(fs::metadata(&run).unwrap().permissions().mode() & 0o7777, 0o755, "no set-user-id bit");
        assert_eq!(fs::metadata(dir.path().join("sub")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_link(dir.path().join("link")).unwrap(), Path::new("sub/run.sh"));
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let outer = tempfile::tempdir().unwrap();
        let target = outer.path().join("target");
        fs::create_dir(&target).unwrap();
        fs::write(outer.path().join("mine"), "mine").unwrap();
        let outside = outer.path().to_str().unwrap().to_owned();
        for entries in [
            vec![("../evil", EntryType::Regular, "x", 0o644)],
            vec![("out", EntryType::Symlink, "..", 0o777), ("out/evil", EntryType::Regular, "x", 0o644)],
            vec![("abs", EntryType::Symlink, &outside, 0o777), ("abs/evil", EntryType::Regular, "x", 0o644)],
            vec![("file", EntryType::Symlink, "../mine", 0o777), ("file", EntryType::Regular, "x", 0o644)],
            vec![("hard", EntryType::Link, "../mine", 0o644)],
            vec![("pipe", EntryType::Fifo, "", 0o644)],
            vec![("tty", EntryType::Char, "", 0o644)],
        ] {
            // Some are left out, some end the copy; both are fine.
            let _ = unpack(archive(&entries).as_slice(), &target);
            assert!(!outer.path().join("evil").exists(), "{entries:?}");
            assert_eq!(fs::read_to_string(outer.path().join("mine")).unwrap(), "mine", "{entries:?}");
            assert!(!target.join("hard").exists() && !target.join("pipe").exists() && !target.join("tty").exists());
        }
        unpack(archive(&[("/etc/passwd", EntryType::Regular, "x", 0o644)]).as_slice(), &target).unwrap();
        assert!(target.join("etc/passwd").exists(), "absolute names are taken as relative ones");
    }
}
