//! Users and groups of the guest, read from `/etc/passwd` and `/etc/group` at every look-up.
//!
//! A user is named as container engines have it: `USER` or `USER:GROUP`, each by name or by number.
//! An image may lack both files: root is known without them, and so is every number, with group 0
//! and the home `/` where nothing else is said. With a group there are no supplementary ones.
//!
//! Own parser: a static glibc has no NSS. Nothing is cached, so a user that was made a moment ago
//! is found. The files belong to the guest: broken lines are passed over, size is bounded.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Maximum number of bytes of a user database that are read; entries beyond are not seen.
const DATABASE_LIMIT: u64 = 4 << 20;

/// Maximum number of supplementary groups given to one process (`NGROUPS_MAX` of Linux is 65536; no
/// image needs more than this).
const GROUPS_LIMIT: usize = 1024;

/// A user, as a process needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Every group of the user, the primary one first.
    pub groups: Vec<u32>,
    pub home: PathBuf,
    /// `/bin/sh` where the database names none.
    pub shell: PathBuf,
    /// True if the user's file calls override the permissions of files; see [`crate::as_user`].
    pub overrides_files: bool,
}

/// Error: no such user in the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} '{name}' does not exist in the sandbox: name one that is in its {file}, or give a number"
)]
pub struct UnknownUser {
    kind: &'static str,
    file: &'static str,
    pub name: String,
}

impl UnknownUser {
    fn user(name: &str) -> Self {
        Self {
            kind: "user",
            file: "/etc/passwd",
            name: name.chars().take(64).collect(),
        }
    }

    fn group(name: &str) -> Self {
        Self {
            kind: "group",
            file: "/etc/group",
            name: name.chars().take(64).collect(),
        }
    }
}

/// Finds a user by `USER` or `USER:GROUP`; see the module. A name comes before a number of the same
/// digits.
///
/// # Errors
/// [`UnknownUser`] where a name is not in `/etc/passwd` or `/etc/group`, or a number is none that
/// Linux has.
pub fn lookup_user(name: &str) -> Result<User, UnknownUser> {
    Database::read(Path::new("/etc")).lookup(name)
}

/// Returns the name of a user id; the number as text where it is unknown.
pub fn user_name(uid: u32) -> String {
    Database::read(Path::new("/etc")).user_name(uid)
}

/// Returns the name of a group id; the number as text where it is unknown.
pub fn group_name(gid: u32) -> String {
    Database::read(Path::new("/etc")).group_name(gid)
}

/// Both files at one moment. For look-ups in bulk (directory listings) read it once.
#[derive(Debug, Default)]
pub struct Database {
    passwd: String,
    group: String,
}

impl Database {
    /// Reads `passwd` and `group` below `etc`; a missing file counts as empty.
    pub fn read(etc: &Path) -> Self {
        Self {
            passwd: read_bounded(&etc.join("passwd"), DATABASE_LIMIT),
            group: read_bounded(&etc.join("group"), DATABASE_LIMIT),
        }
    }

    /// Does the same as [`lookup_user`], in this database.
    ///
    /// # Errors
    /// [`UnknownUser`].
    pub fn lookup(&self, name: &str) -> Result<User, UnknownUser> {
        let (name, group) = name.split_once(':').unwrap_or((name, ""));
        let mut user = self.user_of(name).ok_or_else(|| UnknownUser::user(name))?;
        if !group.is_empty() {
            user.gid = self
                .group_id(group)
                .ok_or_else(|| UnknownUser::group(group))?;
            user.groups = vec![user.gid];
        }
        Ok(user)
    }

    fn user_of(&self, name: &str) -> Option<User> {
        let number = number(name);
        let entry = self
            .entries()
            .find(|e| e.name == name)
            .or_else(|| self.entries().find(|e| Some(e.uid) == number));
        if let Some(entry) = entry {
            return Some(self.user(&entry));
        }
        let (name, uid) = if name == ROOT || number == Some(0) {
            (ROOT, 0)
        } else {
            (name, number?)
        };
        Some(User {
            name: name.to_owned(),
            uid,
            gid: 0,
            groups: vec![0],
            home: "/".into(),
            shell: "/bin/sh".into(),
            overrides_files: false,
        })
    }

    /// Returns the id of a group by name or number; `None` where there is none of that name.
    pub fn group_id(&self, name: &str) -> Option<u32> {
        let known = self
            .groups()
            .find(|group| group.0 == name)
            .map(|group| group.1);
        known
            .or_else(|| number(name))
            .or_else(|| (name == ROOT).then_some(0))
    }

    /// Does the same as [`user_name`], in this database.
    pub fn user_name(&self, uid: u32) -> String {
        self.entries()
            .find(|e| e.uid == uid)
            .map_or_else(|| uid.to_string(), |e| e.name.to_owned())
    }

    /// Does the same as [`group_name`], in this database.
    pub fn group_name(&self, gid: u32) -> String {
        self.groups()
            .find(|g| g.1 == gid)
            .map_or_else(|| gid.to_string(), |g| g.0.to_owned())
    }

    fn user(&self, entry: &Entry<'_>) -> User {
        let mut groups = vec![entry.gid];
        for (_, gid, members) in self.groups() {
            if members.split(',').any(|m| m == entry.name)
                && !groups.contains(&gid)
                && groups.len() < GROUPS_LIMIT
            {
                groups.push(gid);
            }
        }
        let or =
            |text: &str, default: &str| PathBuf::from(if text.is_empty() { default } else { text });
        User {
            name: entry.name.to_owned(),
            uid: entry.uid,
            gid: entry.gid,
            groups,
            home: or(entry.home, "/"),
            shell: or(entry.shell, "/bin/sh"),
            overrides_files: false,
        }
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|n| !n.is_empty())?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or("");
            Some(Entry {
                name,
                uid,
                gid,
                home,
                shell: fields.next().unwrap_or(""),
            })
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|n| !n.is_empty())?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or("")))
        })
    }
}

/// Name of user 0 and group 0 where no file says so.
const ROOT: &str = "root";

/// Parses a user or group id. The highest number is refused: system calls take it for "leave it as
/// it is".
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

/// Reads a text file of the guest, at most `limit` bytes of it. A file that is missing or cannot be
/// read counts as empty.
pub fn read_bounded(path: &Path, limit: u64) -> String {
    let mut bytes = Vec::new();
    // A pipe in its place must not hold the thread.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    if let Ok(file) = opened
        && file.take(limit).read_to_end(&mut bytes).is_err()
    {
        bytes.clear();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        Database {
            passwd: "root:x:0:0:root:/root:/bin/bash\nbroken\n::1:1:::\nuser:x:1000:1000::/home/user:\n7:x:8:8::/:\n"
                .into(),
            group: "root:x:0:\nsudo:x:27:user,other\nuser:x:1000:user\ndocker:x:999:other,user\nbad:x:no:user\n".into(),
        }
    }

    #[test]
    fn finds_by_name_with_every_group() {
        let user = database().lookup("user").expect("user is there");
        assert_eq!(
            (user.uid, user.gid, user.groups),
            (1000, 1000, vec![1000, 27, 999])
        );
        assert_eq!(
            (user.home, user.shell),
            ("/home/user".into(), "/bin/sh".into())
        );
    }

    #[test]
    fn lookup_prefers_name_over_number() {
        assert_eq!(database().lookup("0").expect("root").name, "root");
        assert_eq!(database().lookup("7").expect("named 7").uid, 8);
    }

    #[test]
    fn image_without_passwd_knows_root() {
        let none = Database::default();
        for name in ["root", "0", "00"] {
            let root = none.lookup(name).expect("root is always there");
            assert_eq!(
                (root.name.as_str(), root.uid, root.gid, root.groups),
                ("root", 0, 0, vec![0])
            );
            assert_eq!((root.home, root.shell), ("/".into(), "/bin/sh".into()));
        }
        let user = none.lookup("4294967294").expect("a number");
        assert_eq!(
            (user.uid, user.gid, user.groups, user.home),
            (4_294_967_294, 0, vec![0], "/".into())
        );
        for bad in [
            "user",
            "4294967295",
            "4294967296",
            "+5",
            "-1",
            " 5",
            ":5",
            ":",
        ] {
            assert!(none.lookup(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn named_group_is_the_only_group() {
        let ids = |name: &str| {
            database()
                .lookup(name)
                .map(|user| (user.uid, user.gid, user.groups))
        };
        assert_eq!(ids("user:sudo"), Ok((1000, 27, vec![27])));
        assert_eq!(ids("1000:70000"), Ok((1000, 70_000, vec![70_000])));
        assert_eq!(ids("12345:12345"), Ok((12_345, 12_345, vec![12_345])));
        assert_eq!(ids("user:"), Ok((1000, 1000, vec![1000, 27, 999])));
        assert_eq!(ids("user:root"), Ok((1000, 0, vec![0])));
        let error = ids("user:no-such-group")
            .expect_err("is unknown")
            .to_string();
        assert!(
            error.contains("group 'no-such-group'") && error.contains("/etc/group"),
            "{error}"
        );
    }

    #[test]
    fn unknown_names_fail_ids_stay() {
        assert!(database().lookup("nobody-here").is_err());
        assert!(database().lookup("").is_err());
        assert_eq!(database().user_name(1000), "user");
        assert_eq!(database().user_name(4242), "4242");
        assert_eq!(database().group_name(27), "sudo");
        assert_eq!(database().group_name(4242), "4242");
    }
}
