//! The files that a search looks at.
//!
//! Directories are read one after the other, each once and without holding its entries; what is
//! kept are the paths of those that are still to be read. Symbolic links are not followed, and
//! file systems of the kernel (`/proc` and its like), whose files have no end, are passed over
//! unless the search begins in one.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use guest_rpc::bytes;
use guest_rpc::file as rpc;
use guest_rpc::filesystem::FileType;

use super::content::{search_file, searcher};
use super::query::Query;
use super::{Findings, Stop};

/// Most directories that are still to be read: as paths some ten MiB.
const MAX_PENDING: usize = 100_000;

/// File systems of the kernel (`statfs(2)`).
const KERNEL: [u64; 11] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x1cd1,      // devpts
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0x6265_6570, // configfs
];

/// A directory that is to be read.
struct Pending {
    path: PathBuf,
    level: usize,
    device: u64,
}

/// Searches below `top`, or `top` itself where it is a file. Call it as the user.
///
/// # Errors
/// The reason for which the search ends early.
pub fn walk(top: &Path, query: &Query, findings: &mut Findings) -> Result<(), Stop> {
    let mut searcher = searcher();
    let Ok(own) = fs::metadata(top) else {
        findings.done.unreadable += 1;
        return Ok(());
    };
    if !own.is_dir() {
        let name = top.file_name().map_or(Path::new(""), Path::new);
        if own.is_file() && query.matches_name(name) {
            let found = describe(top, FileType::FILE_TYPE_FILE);
            search_file(top, &found, query, &mut searcher, findings)?;
        }
        return Ok(());
    }
    let mut pending = vec![Pending {
        path: top.to_path_buf(),
        level: 1,
        device: own.dev(),
    }];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir.path) else {
            findings.done.unreadable += 1;
            continue;
        };
        for entry in entries {
            findings.check()?;
            let Ok(entry) = entry else {
                findings.done.unreadable += 1;
                break;
            };
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let path = entry.path();
            let below = path.strip_prefix(top).unwrap_or(&path);
            if query.matches_name(below) {
                if kind.is_file() {
                    let found = describe(&path, FileType::FILE_TYPE_FILE);
                    search_file(&path, &found, query, &mut searcher, findings)?;
                } else if query.content.is_none() {
                    findings.push(describe(&path, file_type(kind)))?;
                }
            }
            if kind.is_dir() && dir.level < query.depth {
                follow(path, &dir, &mut pending, findings);
            }
        }
    }
    Ok(())
}

/// Notes a directory to be read.
fn follow(path: PathBuf, above: &Pending, pending: &mut Vec<Pending>, findings: &mut Findings) {
    let Ok(own) = fs::symlink_metadata(&path) else {
        return;
    };
    if own.dev() != above.device && is_of_kernel(&path) {
        return;
    }
    if pending.len() == MAX_PENDING {
        findings.note_incomplete("the directory has too many directories: search below them");
        return;
    }
    pending.push(Pending {
        path,
        level: above.level + 1,
        device: own.dev(),
    });
}

fn is_of_kernel(path: &Path) -> bool {
    // The field is signed on some machines; the numbers are 32 bits wide.
    rustix::fs::statfs(path).is_ok_and(|fs| KERNEL.contains(&((fs.f_type as u64) & 0xffff_ffff)))
}

fn file_type(kind: fs::FileType) -> FileType {
    if kind.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else if kind.is_symlink() {
        FileType::FILE_TYPE_SYMLINK
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

fn describe(path: &Path, kind: FileType) -> rpc::Match {
    rpc::Match {
        path: bytes::to_text(path.as_os_str().as_bytes()),
        r#type: kind.into(),
        is_symlink: kind == FileType::FILE_TYPE_SYMLINK,
        ..Default::default()
    }
}
