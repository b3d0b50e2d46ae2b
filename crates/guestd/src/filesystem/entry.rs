//! `EntryInfo` of a file (E2B contract 2.5).
//!
//! Size, permissions text, owner and time are the path's own; type and mode are those of a symbolic
//! link's target. The content of a link or attribute was written by the guest and is passed on as
//! text only.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use buffa_types::google::protobuf::Timestamp;
use guest_rpc::bytes;
use guest_rpc::filesystem::{EntryInfo, FileType};
use nix::libc;

use super::path;
use crate::user::Database;

/// Prefix of the extended attributes that are a file's metadata (E2B contract 2.5).
pub const METADATA_PREFIX: &str = "user.e2b.";

/// First and last second of a `Timestamp`: the years 1 to 9999.
const YEARS: (i64, i64) = (-62_135_596_800, 253_402_300_799);

/// Longest list of attribute names and longest value that Linux has, bytes (`XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`).
const ATTRIBUTE_MAX: usize = 65536;

/// Describes the file at `path`. Call it as the user.
///
/// # Errors
/// Errors of `lstat(2)`.
pub fn read_entry(path: &Path, names: &Database) -> io::Result<EntryInfo> {
    let own = fs::symlink_metadata(path)?;
    Ok(describe_file(path, &own, names))
}

/// Does the same as [`read_entry`], where the metadata is there already.
pub fn describe_file(path: &Path, own: &Metadata, names: &Database) -> EntryInfo {
    let target = target(path, own);
    let has_metadata = target.as_ref().is_some_and(|t| t.is_file() || t.is_dir());
    EntryInfo {
        metadata: if has_metadata {
            metadata(path)
        } else {
            Default::default()
        },
        ..describe(path, own, target.as_ref(), names)
    }
}

/// Does the same as [`describe_file`], but for extended attributes.
pub fn describe_plain(path: &Path, own: &Metadata, names: &Database) -> EntryInfo {
    describe(path, own, target(path, own).as_ref(), names)
}

/// Returns the metadata of what a path leads to; `None` for a dangling link.
fn target(path: &Path, own: &Metadata) -> Option<Metadata> {
    if own.is_symlink() {
        fs::metadata(path).ok()
    } else {
        Some(own.clone())
    }
}

fn describe(path: &Path, own: &Metadata, target: Option<&Metadata>, names: &Database) -> EntryInfo {
    let is_symlink = own.is_symlink();
    let r#type = target.map_or(FileType::FILE_TYPE_SYMLINK, file_type);
    EntryInfo {
        name: path::file_name(path),
        r#type: r#type.into(),
        path: bytes::to_text(path.as_os_str().as_bytes()),
        size: own.size().try_into().unwrap_or(i64::MAX),
        mode: target.map_or(0, |t| t.mode() & 0o777),
        permissions: format_mode(own.mode()),
        owner: names.user_name(own.uid()),
        group: names.group_name(own.gid()),
        modified_time: timestamp(own).into(),
        symlink_target: is_symlink.then(|| link_target(path)),
        is_symlink,
        ..Default::default()
    }
}

fn file_type(metadata: &Metadata) -> FileType {
    if metadata.is_file() {
        FileType::FILE_TYPE_FILE
    } else if metadata.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

/// Returns the time of the last change. A time beyond a `Timestamp` becomes the first or last that
/// it can say: one odd file must not spoil a listing.
fn timestamp(metadata: &Metadata) -> Timestamp {
    let seconds = metadata.mtime().clamp(YEARS.0, YEARS.1);
    let nanos = if seconds == metadata.mtime() {
        i32::try_from(metadata.mtime_nsec()).unwrap_or(0)
    } else {
        0
    };
    Timestamp {
        seconds,
        nanos,
        ..Default::default()
    }
}

/// Returns the final target of a link; the link itself if it is dangling, as the reference agent
/// does.
fn link_target(path: &Path) -> String {
    let end = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    bytes::to_text(end.as_os_str().as_bytes())
}

/// Formats a mode as `ls -l` does, but with `L` for a symbolic link, as the reference agent has it.
pub fn format_mode(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'L',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => set.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Returns the metadata of a file; empty where the file system has no attributes or the user may
/// not read them.
fn metadata<M: FromIterator<(String, String)>>(path: &Path) -> M {
    metadata_keys(|list| rustix::fs::listxattr(path, list))
        .into_iter()
        .filter_map(|key| {
            let name = format!("{METADATA_PREFIX}{key}");
            let value = sized(|buffer| rustix::fs::getxattr(path, name.as_str(), buffer))?;
            Some((key, String::from_utf8_lossy(&value).into_owned()))
        })
        .collect()
}

/// Returns the keys of the metadata, without prefix, out of a call of the `listxattr` family.
pub fn metadata_keys(list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> Vec<String> {
    let names = sized(list).unwrap_or_default();
    names
        .split(|byte| *byte == 0)
        .filter_map(|name| {
            Some(
                std::str::from_utf8(name)
                    .ok()?
                    .strip_prefix(METADATA_PREFIX)?
                    .to_owned(),
            )
        })
        .collect()
}

/// Calls with a small buffer, and once more with the largest where that was too small.
fn sized(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> Option<Vec<u8>> {
    for size in [512, ATTRIBUTE_MAX] {
        let mut buffer = vec![0; size];
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Some(buffer);
            }
            Err(rustix::io::Errno::RANGE) => {}
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_like_ls() {
        assert_eq!(format_mode(0o100_644), "-rw-r--r--");
        assert_eq!(format_mode(0o040_755), "drwxr-xr-x");
        assert_eq!(format_mode(0o041_777), "drwxrwxrwt");
        assert_eq!(format_mode(0o104_644), "-rwSr--r--");
        assert_eq!(format_mode(0o120_777), "Lrwxrwxrwx");
    }
}
