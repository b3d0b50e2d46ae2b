//! Owner and group as chown(1) changes them, also recursively.

use std::path::Path;

use rustix::fs::{AtFlags, Gid, Uid};

use super::walk::walk;
use crate::filesystem::error::FileError;
use crate::filesystem::operations::not_found_error;
use crate::user::Database;

/// Owner and group that files get; `None` leaves theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerChange {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl OwnerChange {
    /// Finds owner and group by name or number.
    ///
    /// # Errors
    /// Invalid where neither is named, or one of them is not in the guest.
    pub fn resolve(owner: Option<&str>, group: Option<&str>) -> Result<Self, FileError> {
        if owner.is_none() && group.is_none() {
            return Err(FileError::invalid("name an owner, a group, or both"));
        }
        let names = Database::read(Path::new("/etc"));
        let uid = owner.map(|owner| {
            // A colon would name a group as well, which has a field of its own.
            let plain = if owner.contains(':') { "" } else { owner };
            names.lookup(plain).map(|user| user.uid)
        });
        let uid = uid
            .transpose()
            .map_err(|e| FileError::invalid(e.to_string()))?;
        let gid = group.map(|group| {
            names.group_id(group).ok_or_else(|| {
                let group: String = group.chars().take(64).collect();
                FileError::invalid(format!(
                    "group '{group}' does not exist in the sandbox: name one that is in its /etc/group, or give a number"
                ))
            })
        });
        Ok(Self {
            uid,
            gid: gid.transpose()?,
        })
    }
}

/// Changes the owner of a path, reached through symbolic links; with `recursive` also of all that is
/// below it, where links change themselves. Call it as the user.
///
/// # Errors
/// Not found; denied: what was visited before stays changed.
pub fn change_owner(path: &Path, change: OwnerChange, recursive: bool) -> Result<(), FileError> {
    let walked = walk(path, recursive, |visited| {
        rustix::fs::chownat(
            &visited.file,
            c"",
            change.uid.map(Uid::from_raw),
            change.gid.map(Gid::from_raw),
            AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        )
    });
    walked.map_err(|e| {
        let e = e.into();
        not_found_error(path, &e).unwrap_or_else(|| FileError::io("change the owner of", path, &e))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn names_and_numbers_are_resolved() {
        let root = OwnerChange::resolve(Some("root"), Some("0"));
        assert_eq!(
            root,
            Ok(OwnerChange {
                uid: Some(0),
                gid: Some(0)
            })
        );
        let number = OwnerChange::resolve(Some("12345"), None).map(|change| change.uid);
        assert_eq!(number, Ok(Some(12345)));
        for (owner, group) in [
            (None, None),
            (Some("no-such"), None),
            (None, Some("no-such")),
            (Some("root:root"), None),
            (Some(""), None),
            (Some("4294967295"), None),
        ] {
            assert!(
                OwnerChange::resolve(owner, group).is_err(),
                "{owner:?} {group:?}"
            );
        }
    }

    #[test]
    fn recursive_change_stays_below() {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir_all(at("top/a/b")).expect("made");
        std::fs::write(at("outside"), "").expect("made");
        std::fs::write(at("top/a/file"), "").expect("made");
        symlink(at("outside"), at("top/a/b/link")).expect("a link");
        let change = OwnerChange {
            uid: Some(77),
            gid: Some(78),
        };
        change_owner(&at("top"), change, true).expect("changed");
        let owner = |name: &str| {
            let found = std::fs::symlink_metadata(at(name)).expect("is there");
            (found.uid(), found.gid())
        };
        for name in ["top", "top/a", "top/a/b", "top/a/file", "top/a/b/link"] {
            assert_eq!(owner(name), (77, 78), "{name}");
        }
        assert_eq!(owner("outside"), (0, 0));
    }
}
