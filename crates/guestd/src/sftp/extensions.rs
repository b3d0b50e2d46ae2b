//! OpenSSH's extensions of the protocol (its document PROTOCOL, section 4), by which clients
//! replace files atomically, keep links, and ask for limits and free space.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs, statvfs};

use super::attributes::Attributes;
use super::packet::{Answer, Code, Fields, MAX_PACKET, Refusal, answer};
use super::requests::{MAX_HANDLES, MAX_READ, Server, name, real_path, set_of_path};

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const HARDLINK: &str = "hardlink@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const STATVFS: &str = "statvfs@openssh.com";
const FSTATVFS: &str = "fstatvfs@openssh.com";
const LSETSTAT: &str = "lsetstat@openssh.com";
const LIMITS: &str = "limits@openssh.com";
const EXPAND_PATH: &str = "expand-path@openssh.com";
const HOME_DIRECTORY: &str = "home-directory";

/// Extensions with their revisions, as the greeting names them.
pub const NAMES: [(&str, &str); 9] = [
    (POSIX_RENAME, "1"),
    (HARDLINK, "1"),
    (FSYNC, "1"),
    (STATVFS, "2"),
    (FSTATVFS, "2"),
    (LSETSTAT, "1"),
    (LIMITS, "1"),
    (EXPAND_PATH, "1"),
    (HOME_DIRECTORY, "1"),
];

impl Server {
    /// Carries out a request of an extension.
    pub fn extended(&mut self, id: u32, fields: &mut Fields<'_>) -> Result<Answer, Refusal> {
        let asked = String::from_utf8_lossy(fields.bytes()?).into_owned();
        match asked.as_str() {
            POSIX_RENAME => fs::rename(fields.path()?, fields.path()?)?,
            HARDLINK => fs::hard_link(fields.path()?, fields.path()?)?,
            FSYNC => self.file(fields)?.0.sync_all()?,
            LSETSTAT => {
                let path = fields.path()?;
                set_of_path(&path, &Attributes::read(fields)?, false)?;
            }
            STATVFS => return Ok(file_system(id, &statvfs(&fields.path()?)?)),
            FSTATVFS => return Ok(file_system(id, &fstatvfs(self.file(fields)?.0)?)),
            LIMITS => return Ok(limits(id)),
            EXPAND_PATH => return Ok(name(id, &real_path(&expand(fields.path()?)?)?)),
            HOME_DIRECTORY => {
                let user = fields.bytes()?;
                return Ok(name(id, &home_of(user)?));
            }
            _ => {
                let text = format!("the extension {:?} is not known", asked.escape_default());
                return Err(Refusal::new(Code::Unsupported, text));
            }
        }
        Ok(Answer::ok(id))
    }
}

fn file_system(id: u32, found: &Statvfs) -> Answer {
    let mut flags = 0;
    if found.flags().contains(FsFlags::ST_RDONLY) {
        flags |= 1;
    }
    if found.flags().contains(FsFlags::ST_NOSUID) {
        flags |= 2;
    }
    let mut answer = Answer::new(answer::EXTENDED_REPLY, id);
    for value in [
        found.block_size(),
        found.fragment_size(),
        found.blocks(),
        found.blocks_free(),
        found.blocks_available(),
        found.files(),
        found.files_free(),
        found.files_available(),
        found.filesystem_id(),
        flags,
        found.name_max(),
    ] {
        answer.put_u64(value);
    }
    answer
}

fn limits(id: u32) -> Answer {
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let mut answer = Answer::new(answer::EXTENDED_REPLY, id);
    answer.put_u64(bytes(MAX_PACKET));
    answer.put_u64(u64::from(MAX_READ));
    // A write has its data in a packet with the handle and the offset.
    answer.put_u64(u64::from(MAX_READ));
    answer.put_u64(bytes(MAX_HANDLES));
    answer
}

/// Replaces a tilde at the beginning, as a shell does.
fn expand(path: PathBuf) -> Result<PathBuf, Refusal> {
    let bytes = path.as_os_str().as_bytes();
    let Some(rest) = bytes.strip_prefix(b"~") else {
        return Ok(path);
    };
    let end = rest
        .iter()
        .position(|byte| *byte == b'/')
        .unwrap_or(rest.len());
    let (user, below) = rest.split_at(end);
    let below = below.strip_prefix(b"/").unwrap_or(below);
    Ok(home_of(user)?.join(OsStr::from_bytes(below)))
}

/// Returns the home directory of a user; of the one who runs this where the name is empty.
fn home_of(user: &[u8]) -> Result<PathBuf, Refusal> {
    if user.is_empty() {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        return Ok(home.map_or_else(|| Path::new("/").to_owned(), PathBuf::from));
    }
    let user = String::from_utf8_lossy(user);
    crate::user::lookup_user(&user)
        .map(|user| user.home)
        .map_err(|error| Refusal::new(Code::NoSuchFile, error.to_string()))
}
