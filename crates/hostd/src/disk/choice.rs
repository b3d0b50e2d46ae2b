//! Which backend new disks get: the one that was asked for, or the first of the list that works
//! here, found by doing it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use linux::dm::{self, Number, Target};
use linux::file;
use linux::loopdev::{self, Access};
use serde::{Deserialize, Serialize};
use stdx::error::chain;

use super::{Error, io_error, names};

/// `AGENT_DISK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    #[default]
    Auto,
    Only(Backend),
}

/// Mechanism that makes disks: the kernel's snapshots, clones, overlays or copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    #[serde(rename = "dm")]
    DeviceMapper,
    #[serde(rename = "reflink")]
    Reflink,
    #[serde(rename = "qcow2")]
    Qcow2,
    #[serde(rename = "copy")]
    Copy,
}

/// A backend that works here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub backend: Backend,
    /// Reason for people: `AGENT_DISK`, or why the better backends do not work.
    pub why: String,
}

/// Reason why a backend does not work here.
#[derive(Debug, thiserror::Error)]
pub enum BackendUnusable {
    #[error(transparent)]
    DeviceMapper(dm::Error),
    #[error("images are on another file system than {0}")]
    OtherFileSystem(PathBuf),
    #[error("no blocks can be shared in {0}")]
    NoSharedBlocks(PathBuf),
    #[error("the VMM does not read qcow2")]
    NotReadByVmm,
}

impl Backend {
    /// All backends, best first.
    pub const ALL: [Self; 4] = [Self::DeviceMapper, Self::Reflink, Self::Qcow2, Self::Copy];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DeviceMapper => "dm",
            Self::Reflink => "reflink",
            Self::Qcow2 => "qcow2",
            Self::Copy => "copy",
        }
    }
}

impl FromStr for Choice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => Backend::ALL
                .into_iter()
                .find(|backend| backend.name() == text)
                .map(Self::Only)
                .ok_or(()),
        }
    }
}

/// Chooses the backend of disks in `dir` over images like `image`. `qcow2` is true if the VMM reads
/// that format.
///
/// # Errors
/// When nothing can be written to `dir`; [`Error::Unavailable`], with the reason, if the backend
/// that was asked for does not work here.
pub fn choose_backend(
    choice: Choice,
    dir: &Path,
    image: Option<&Path>,
    qcow2: bool,
) -> Result<Chosen, Error> {
    let mut found = Vec::new();
    for backend in Backend::ALL
        .into_iter()
        .filter(|backend| [Choice::Auto, Choice::Only(*backend)].contains(&choice))
    {
        match try_backend(backend, dir, image, qcow2)? {
            Ok(()) if choice == Choice::Auto => {
                return Ok(Chosen {
                    backend,
                    why: why(backend, &found),
                });
            }
            Ok(()) => {
                return Ok(Chosen {
                    backend,
                    why: format!("{} was asked for", backend.name()),
                });
            }
            Err(error) if choice == Choice::Auto => found.push(chain(&error)),
            Err(source) => {
                return Err(Error::Unavailable {
                    backend: backend.name(),
                    source,
                });
            }
        }
    }
    // Not reached: a copy always works.
    Ok(Chosen {
        backend: Backend::Copy,
        why: why(Backend::Copy, &found),
    })
}

fn why(backend: Backend, found: &[String]) -> String {
    let words = match backend {
        Backend::DeviceMapper => "the kernel's device mapper makes snapshots",
        Backend::Reflink => "the file system shares blocks between files",
        Backend::Qcow2 => "QEMU reads overlays",
        Backend::Copy => "images are copied",
    };
    if found.is_empty() {
        words.to_owned()
    } else {
        format!("{words}, since {}", found.join("; "))
    }
}

/// Tries a backend; the inner error is the reason for which it does not work here.
fn try_backend(
    backend: Backend,
    dir: &Path,
    image: Option<&Path>,
    qcow2: bool,
) -> Result<Result<(), BackendUnusable>, Error> {
    match backend {
        Backend::DeviceMapper => Ok(try_snapshot(dir).map_err(BackendUnusable::DeviceMapper)),
        Backend::Reflink => {
            let able = file::can_reflink(dir).map_err(io_error("write to", dir))?;
            // Blocks can only be shared within one file system.
            let together =
                image.is_none_or(|image| same_file_system(image, dir).unwrap_or_default());
            Ok(match (able, together) {
                (true, true) => Ok(()),
                (true, false) => Err(BackendUnusable::OtherFileSystem(dir.to_owned())),
                (false, _) => Err(BackendUnusable::NoSharedBlocks(dir.to_owned())),
            })
        }
        Backend::Qcow2 => Ok(qcow2.then_some(()).ok_or(BackendUnusable::NotReadByVmm)),
        Backend::Copy => Ok(Ok(())),
    }
}

fn same_file_system(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(fs::metadata(a)?.dev() == fs::metadata(b)?.dev())
}

/// Makes a tiny snapshot and takes it away again.
fn try_snapshot(dir: &Path) -> Result<(), dm::Error> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Without this there is nothing to try, and no files need to be made.
    File::open(dm::CONTROL).map_err(dm::Error::Unusable)?;
    let name = format!(
        "{}probe-{}-{}",
        names::PREFIX,
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let files = [
        dir.join(format!(".{name}.base.unfinished")),
        dir.join(format!(".{name}.cow.unfinished")),
    ];
    let tried = snapshot_over(&name, &files, &names::agent_mark(dir));
    for path in &files {
        // Missing if `snapshot_over` failed before it, whose error is returned.
        let _ = fs::remove_file(path);
    }
    tried
}

fn snapshot_over(name: &str, [base, cow]: &[PathBuf; 2], mark: &str) -> Result<(), dm::Error> {
    const BYTES: u64 = 1 << 20;
    let attach = |path: &Path, access| {
        let file = File::create(path)?;
        file.set_len(BYTES)?;
        loopdev::attach(path, access, mark)
    };
    let base = attach(base, Access::ReadOnly).map_err(dm::Error::Unusable)?;
    let cow = attach(cow, Access::ReadWrite).map_err(dm::Error::Unusable)?;
    let target = Target::Snapshot {
        sectors: BYTES / dm::SECTOR,
        origin: Number::of_loop(base.number()),
        cow: Number::of_loop(cow.number()),
    };
    dm::create(name, &names::device_uuid(mark, name), &[target], false)?;
    dm::remove(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_words() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse(), Ok(Choice::Only(backend)));
        }
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("zfs".parse::<Choice>(), Err(()));
    }

    #[test]
    fn backend_choice_tells_its_reason() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let auto = choose_backend(Choice::Auto, dir.path(), None, true).unwrap();
        assert_ne!(auto.backend, Backend::Copy, "{}", auto.why);
        let copy = choose_backend(Choice::Only(Backend::Copy), dir.path(), None, false).unwrap();
        assert_eq!(
            (copy.backend, copy.why.as_str()),
            (Backend::Copy, "copy was asked for")
        );
        let refused = choose_backend(Choice::Only(Backend::Qcow2), dir.path(), None, false);
        let refused = chain(&refused.unwrap_err());
        assert!(
            refused.contains("AGENT_DISK") && refused.contains("the VMM does not read qcow2"),
            "{refused}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
