//! Copy-on-write overlays (qcow2): creates them, and converts those that a VMM has written to plain
//! images, by a program in a jail.
//!
//! The parser of that format is a program of the distribution (`qemu-img`) with a history of holes,
//! and its input is as hostile as the guest. So it is a user of its own that sees the overlay, its
//! base and the image that it fills, and nothing else: no network, no files beside them. Its
//! resources are bounded: the image cannot become longer than the disk, nor can the work take
//! longer than its size warrants. Headers and tables that ours never have are refused before
//! ([`format`]), so that a small overlay does not become a large image; if a VMM still writes after
//! that check, the other bounds hold.
//!
//! | file | owner | after a crash |
//! |---|---|---|
//! | overlay | the VMM; others may read it, in a private directory | as it was |
//! | image | the converter until it has ended, then the caller | unfinished, under a name that says so |

mod format;

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use serde_json::json;

use crate::jail::{Access, Jail, Limits};
use crate::process::{Ended, Process, Spawn};
use crate::programs;

const PROGRAM: &str = "qemu-img";

/// Address space of the converter, bytes. It uses some 100 MiB, and reserves stacks and arenas for
/// some 70 threads.
const ADDRESS_BYTES: u64 = 4 << 30;

/// Maximum number of threads of all converters together, since they are one user.
const TASKS: u64 = 2048;

/// Time limit of a conversion: for its start on a busy host, and for the disk at 16 MiB/s, a slow
/// disk's rate.
const BASE_TIME: Duration = Duration::from_secs(60);
const BYTES_PER_SECOND: u64 = 16 << 20;

/// Longest time for a killed converter to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of bytes of its standard error that are read.
const MAX_STDERR: u64 = 4096;

pub use format::{CLUSTER, create, read_clusters};

/// Conversion of an overlay to a plain image.
#[derive(Debug, Clone, Copy)]
pub struct Conversion<'a> {
    pub overlay: &'a Path,
    /// Base of the overlay. The name of a base in the overlay itself is not used.
    pub base: &'a Path,
    /// Size of the disk, as it was created, bytes.
    pub size_bytes: u64,
    /// User and group of the program, which no other program has.
    pub user: u32,
}

impl Conversion<'_> {
    /// Writes the content of overlay and base together to the new raw image `image`, zeroes as
    /// holes. Blocking.
    ///
    /// # Errors
    /// `InvalidData` when the overlay has features that ours never have, `TimedOut` when the work
    /// takes too long, `NotFound` when there is no `qemu-img`; otherwise the text is the error of
    /// `qemu-img`. Then an unfinished image may be left.
    pub fn write(&self, image: &Path) -> io::Result<()> {
        format::check(&File::open(self.overlay)?, self.size_bytes)?;
        let program = programs::find(PROGRAM).ok_or_else(|| programs::missing(PROGRAM))?;
        let target = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(image)?;
        target.set_len(self.size_bytes)?;
        let before = target.metadata()?;
        fchown(&target, Some(self.user), Some(self.user))?;
        let done = self.run(&program, image);
        fchown(&target, Some(before.uid()), Some(before.gid()))?;
        done?;
        match target.metadata()?.len() {
            length if length == self.size_bytes => Ok(()),
            length => Err(invalid(format!(
                "{PROGRAM} made {length} bytes of a disk of {}",
                self.size_bytes
            ))),
        }
    }

    fn run(&self, program: &Path, image: &Path) -> io::Result<()> {
        let overlay = File::open(self.overlay)?;
        let mode = overlay.metadata()?.mode();
        overlay.set_permissions(Permissions::from_mode(mode | 0o004))?;
        let limits = Limits {
            tasks: TASKS,
            file_bytes: self.size_bytes,
            address_bytes: Some(ADDRESS_BYTES),
            ..Limits::default()
        };
        let mut jail = Jail::new(self.user, self.user, limits)?;
        jail.program(program)?;
        jail.show_path(self.base, Access::Read)?;
        jail.show_path(self.overlay, Access::Read)?;
        jail.show_path(image, Access::Write)?;
        let file = |path: &Path| json!({"driver": "file", "filename": path.to_string_lossy()});
        let backing = json!({"driver": "raw", "file": file(self.base)});
        let source = format!(
            "json:{}",
            json!({"driver": "qcow2", "file": file(self.overlay), "backing": backing})
        );
        let args = [
            "convert",
            "-q",
            "-n",
            "--target-is-zero",
            "-O",
            "raw",
            "-S4k",
            &source,
        ];
        let args = args.iter().map(Into::into).chain([image.into()]).collect();
        let (stderr, output) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let program = program.to_owned();
        let spawn = Spawn {
            program,
            args,
            output: Some(output),
            jail: Some(jail),
            ..Spawn::default()
        };
        self.wait(&spawn.spawn()?, stderr.as_fd())
    }

    fn wait(&self, process: &Process, stderr: impl AsFd) -> io::Result<()> {
        let limit = BASE_TIME + Duration::from_secs(self.size_bytes / BYTES_PER_SECOND);
        let ended = match process.wait(limit)? {
            Some(ended) => ended,
            None => {
                process.kill()?;
                process.wait(KILL_TIMEOUT)?;
                let problem = format!(
                    "{PROGRAM} is not done after {} s, which is too long",
                    limit.as_secs()
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
            }
        };
        if ended == Ended::Code(0) {
            return Ok(());
        }
        let mut text = String::new();
        // Its other end is closed: all processes that had it have ended.
        let _ = File::from(stderr.as_fd().try_clone_to_owned()?)
            .take(MAX_STDERR)
            .read_to_string(&mut text);
        let line = text.lines().next().filter(|line| !line.is_empty());
        let line = line.map_or_else(|| format!("it ended with {ended}"), str::to_owned);
        Err(io::Error::other(format!("{PROGRAM} failed: {line}")))
    }
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;

    const MIB: u64 = 1 << 20;
    /// No process but of these tests has it.
    const USER: u32 = 2_059_000_001;

    /// A base of sevens and an overlay of twice its size.
    fn overlay() -> (tempfile::TempDir, [std::path::PathBuf; 3]) {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["base", "overlay", "image"].map(|name| dir.path().join(name));
        fs::write(&paths[0], vec![7; 1 << 20]).unwrap();
        fs::set_permissions(&paths[0], Permissions::from_mode(0o644)).unwrap();
        create(&paths[0], &paths[1], 2 * MIB).unwrap();
        fs::set_permissions(&paths[1], Permissions::from_mode(0o600)).unwrap();
        (dir, paths)
    }

    #[test]
    fn overlay_becomes_sparse_image_of_ours() {
        let (_dir, [base, overlay, image]) = overlay();
        let conversion = Conversion {
            overlay: &overlay,
            base: &base,
            size_bytes: 2 * MIB,
            user: USER,
        };
        conversion.write(&image).unwrap();
        let content = fs::read(&image).unwrap();
        assert!(content.len() == 2 << 20 && content[..1 << 20].iter().all(|byte| *byte == 7));
        assert!(content[1 << 20..].iter().all(|byte| *byte == 0));
        let found = fs::metadata(&image).unwrap();
        assert_eq!(
            (found.uid(), found.mode() & 0o777),
            (fs::metadata(&base).unwrap().uid(), 0o600)
        );
        assert!(found.blocks() * 512 < 2 * MIB, "zeroes are holes");
        assert_eq!(
            conversion.write(&image).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }

    #[test]
    fn foreign_overlay_headers_are_refused() {
        let (_dir, [base, overlay, image]) = overlay();
        let conversion = Conversion {
            overlay: &overlay,
            base: &base,
            size_bytes: 2 * MIB,
            user: USER,
        };
        let whole = fs::read(&overlay).unwrap();
        // Where, what, and a word of the refusal.
        let changes: [(u64, &[u8], &str); 8] = [
            (0, b"LUKS", "no overlay"),
            (7, &[2], "no overlay"),
            (20, &[0, 0, 0, 9], "clusters"),
            (24, &[0x7f, 0xff], "disk of"),
            (35, &[2], "encryption"),
            (63, &[1], "snapshots"),
            (79, &[4], "features"),
            (95, &[1], "bitmaps"),
        ];
        for (at, bytes, word) in changes {
            fs::write(&overlay, &whole).unwrap();
            File::options()
                .write(true)
                .open(&overlay)
                .unwrap()
                .write_all_at(bytes, at)
                .unwrap();
            let error = conversion.write(&image).unwrap_err();
            assert!(
                error.kind() == io::ErrorKind::InvalidData && error.to_string().contains(word),
                "{at}: {error}"
            );
            assert!(!image.exists());
        }
    }

    /// What gets past the look at header and tables is the program's to read, in its jail.
    #[test]
    fn damaged_refcounts_end_conversion_only() {
        let (_dir, [base, overlay, image]) = overlay();
        let conversion = Conversion {
            overlay: &overlay,
            base: &base,
            size_bytes: 2 * MIB,
            user: USER,
        };
        // The table of reference counts is at no border of a cluster.
        File::options()
            .write(true)
            .open(&overlay)
            .unwrap()
            .write_all_at(&[0x01], 55)
            .unwrap();
        let error = conversion.write(&image).unwrap_err();
        assert!(error.to_string().contains("qemu-img failed"), "{error}");
        assert_eq!(fs::metadata(&image).unwrap().len(), 2 * MIB);
    }

    /// Sixteen clusters of the disk, all in the first one of data.
    #[test]
    fn clusters_named_twice_are_refused() {
        let (_dir, [base, overlay, image]) = overlay();
        let conversion = Conversion {
            overlay: &overlay,
            base: &base,
            size_bytes: 2 * MIB,
            user: USER,
        };
        let table = 4 * format::CLUSTER;
        let data = 5 * format::CLUSTER;
        let file = File::options().write(true).open(&overlay).unwrap();
        file.set_len(6 * format::CLUSTER).unwrap();
        let entry = |at: u64, value: u64| file.write_all_at(&value.to_be_bytes(), at).unwrap();
        entry(3 * format::CLUSTER, table | 1 << 63);
        let fill = |value: u64| (0..16).for_each(|n| entry(table + 8 * n, value));
        for (value, word) in [
            (data | 1 << 63, "twice"),
            (1 << 62 | data, "compressed"),
            (data + 512, "no border"),
            (1 << 40, "beyond its end"),
            (1 << 57, "reserved"),
        ] {
            fill(value);
            let error = conversion.write(&image).unwrap_err();
            assert!(
                error.kind() == io::ErrorKind::InvalidData && error.to_string().contains(word),
                "{value:x}: {error}"
            );
            assert!(!image.exists());
        }
        fill(0);
        entry(table, data | 1 << 63);
        conversion.write(&image).unwrap();
        assert_eq!(fs::read(&image).unwrap()[0], 0, "of the overlay");
    }
}
