//! Checksums of the files that guests are made from: images, images of snapshots, kernels and what
//! is made of them. [`super::identity`] notices a file whose size or time changed; this notices
//! content that changed behind them: a disk that fails, a backup that was put back wrongly.
//!
//! ```text
//!   not seen → known → known, again after VERIFY_AFTER
//!                └ other content, though size and time are the same → damaged → replaced: known
//! ```
//! A thread of the lowest priority reads each file once, slowly, and again after [`VERIFY_AFTER`].
//! Nothing waits for it: a file that was not read yet is taken as it is. Nothing new is made from a
//! damaged file; the log and `wrenn doctor` report it.
//!
//! On disk is `checksums.json`, replaced as a whole after each file. If we die, at most one file is
//! read again; if it is lost, all of them are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Name of the file, in the directory of the installation.
pub const FILE: &str = "checksums.json";
/// Pause after the start of the agent: a host that was just booted has other things to do.
const START_DELAY: Duration = Duration::from_secs(120);
/// Interval at which the files are examined.
const PERIOD: Duration = Duration::from_secs(600);
/// Age of a checksum after which its file is read again. At [`BYTES_PER_SECOND`] a terabyte of
/// images takes half a day.
const VERIFY_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most bytes that are read in a second: a tenth of what a slow SSD can do.
const BYTES_PER_SECOND: u64 = 32 << 20;
/// Bytes that are read at once, and unit in which zeroes are left out.
const CHUNK: usize = 1 << 20;
const BLOCK: usize = 4096;

/// A file whose content is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedFile {
    pub path: PathBuf,
    /// True if the agent has made it and never changes it, so that any other content is damage.
    pub is_immutable: bool,
}

/// Error of a file whose content changed without a reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the content of {path} is damaged: its checksum changed, though its size and time did not, or \
     it is a file that nothing may change; put a good copy in its place (cp GOOD DIR/.new && mv \
     DIR/.new {path}), and look after the disk"
)]
pub struct Damaged {
    path: String,
}

/// Metadata that changes whenever a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct FileState {
    bytes: u64,
    /// Time of the last change of its content: seconds since the Unix epoch, and nanoseconds.
    modified: (i64, i64),
    inode: u64,
}

impl FileState {
    fn read(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            inode: meta.ino(),
        })
    }

    /// Returns true if the content should be the same.
    fn has_same_content(&self, other: &Self) -> bool {
        (self.bytes, self.modified) == (other.bytes, other.modified)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    state: FileState,
    /// SHA-256 of length and blocks, hexadecimal digits.
    sha256: String,
    /// Seconds since the Unix epoch.
    read_at: u64,
    is_damaged: bool,
}

/// Checksums of all files that were read.
#[derive(Debug, Default)]
pub struct Checksums {
    /// `None` keeps them in memory alone.
    path: Option<PathBuf>,
    entries: Mutex<BTreeMap<PathBuf, Entry>>,
}

impl Checksums {
    /// Reads the checksums in `dir`. If they cannot be read, it begins without any.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let entries = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "checksums are made again");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self {
            path: Some(path),
            entries: Mutex::new(entries),
        }
    }

    /// Refuses a file that is known to be damaged. Reads no content.
    ///
    /// # Errors
    /// [`Damaged`], until the file is replaced.
    pub fn refuse_damaged(&self, path: &Path) -> Result<(), Damaged> {
        let entry = self.entries.lock().get(path).cloned();
        match entry {
            Some(entry) if entry.is_damaged => {
                let is_same = FileState::read(path).is_ok_and(|state| state == entry.state);
                if is_same {
                    return Err(Damaged {
                        path: path.display().to_string(),
                    });
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Returns the number of files that were read, and what is wrong with those that are damaged.
    #[must_use]
    pub fn summary(&self) -> (usize, Vec<Damaged>) {
        let paths: Vec<PathBuf> = self.entries.lock().keys().cloned().collect();
        let damaged = paths
            .iter()
            .filter_map(|path| self.refuse_damaged(path).err());
        (paths.len(), damaged.collect())
    }

    /// Examines all `files`, and forgets those that are gone.
    fn examine_all(&self, files: &[WatchedFile], pace: &mut Pace) {
        for file in files {
            if pace.is_over() {
                return;
            }
            let examined = self.examine(file, SystemTime::now(), pace);
            match examined {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(path = %file.path.display(), %error, "it cannot be read");
                }
                _ => {}
            }
        }
        let known: BTreeSet<&PathBuf> = files.iter().map(|file| &file.path).collect();
        // A directory that could not be listed once must not make a damaged file a good one.
        let is_gone = |path: &Path| {
            path.symlink_metadata()
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        self.entries
            .lock()
            .retain(|path, _| known.contains(path) || !is_gone(path));
    }

    /// Reads a file that is new, was changed, or was not read for [`VERIFY_AFTER`].
    fn examine(&self, file: &WatchedFile, now: SystemTime, pace: &mut Pace) -> io::Result<()> {
        let path = &file.path;
        let state = FileState::read(path)?;
        let known = self.entries.lock().get(path).cloned();
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let is_due = |entry: &Entry| entry.read_at.abs_diff(now) >= VERIFY_AFTER.as_secs();
        if known
            .as_ref()
            .is_some_and(|entry| entry.state == state && !is_due(entry))
        {
            return Ok(());
        }
        let Some(sha256) = content_sum(path, pace)? else {
            return Ok(());
        };
        if FileState::read(path)? != state {
            // It is being written; it is examined again in the next round.
            return Ok(());
        }
        let entry = Self::compare(file, known, state, sha256, now);
        self.entries.lock().insert(path.clone(), entry);
        self.save()
    }

    /// Returns the new entry of a file; logs damage, and images that were overwritten in place.
    fn compare(
        file: &WatchedFile,
        known: Option<Entry>,
        state: FileState,
        sha256: String,
        now: u64,
    ) -> Entry {
        let path = file.path.display();
        let expected = known
            .as_ref()
            .filter(|entry| file.is_immutable || entry.state.has_same_content(&state));
        if let Some(entry) = expected.filter(|entry| entry.sha256 != sha256) {
            tracing::error!(%path, "its content is damaged: nothing new is made from it");
            return Entry {
                state,
                sha256: entry.sha256.clone(),
                read_at: now,
                is_damaged: true,
            };
        }
        if let Some(entry) = known
            && entry.state.inode == state.inode
            && entry.sha256 != sha256
        {
            tracing::warn!(
                %path,
                "it was overwritten in place: sandboxes over its former content are damaged; \
                 replace images with mv"
            );
        }
        Entry {
            state,
            sha256,
            read_at: now,
            is_damaged: false,
        }
    }

    fn save(&self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let text = serde_json::to_vec_pretty(&*self.entries.lock()).map_err(io::Error::other)?;
        linux::file::write_atomic(path, &text, 0o644)
    }
}

/// Examines the files that `files` lists in the background, every [`PERIOD`]. Returns after
/// `shutdown`.
pub(crate) async fn verify_periodically(
    checksums: Arc<Checksums>,
    files: impl Fn() -> Vec<WatchedFile> + Send + Sync + 'static,
    shutdown: CancellationToken,
) {
    let files = Arc::new(files);
    let mut pause = START_DELAY;
    while shutdown
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        pause = PERIOD;
        let (done, finished) = tokio::sync::oneshot::channel();
        let checksums = Arc::clone(&checksums);
        let files = Arc::clone(&files);
        let mut pace = Pace::new(shutdown.clone());
        // A thread of its own, since the low priority stays with it.
        let started = std::thread::Builder::new()
            .name("checksums".to_owned())
            .spawn(move || {
                let _ = linux::priority::lower_thread();
                checksums.examine_all(&files(), &mut pace);
                let _ = done.send(());
            });
        if let Err(error) = started {
            tracing::warn!(%error, "no checksums are made");
            continue;
        }
        // An error says that the thread has ended all the same. One that hangs in a read keeps no
        // agent from ending.
        let _ = shutdown.run_until_cancelled(finished).await;
    }
}

/// Rate limit of reads, to [`BYTES_PER_SECOND`].
#[derive(Debug)]
struct Pace {
    over: CancellationToken,
    began: Instant,
    bytes: u64,
}

impl Pace {
    fn new(over: CancellationToken) -> Self {
        Self {
            over,
            began: Instant::now(),
            bytes: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Counts bytes, and sleeps while they are above the limit.
    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let due = Duration::from_millis(self.bytes * 1000 / BYTES_PER_SECOND);
        std::thread::sleep(due.saturating_sub(self.began.elapsed()));
    }
}

/// Returns SHA-256 of a file's length and of each block that is not all zeroes, after its place, so
/// that holes and zeroes are the same. `None` if it was cancelled.
fn content_sum(path: &Path, pace: &mut Pace) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let mut hasher = Sha256::new();
    hasher.update(file.metadata()?.len().to_le_bytes());
    let mut buffer = vec![0; CHUNK];
    for range in linux::sparse::data_ranges(&file)? {
        let mut at = range.start;
        while at < range.end {
            if pace.is_over() {
                return Ok(None);
            }
            let part = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
            file.read_exact_at(&mut buffer[..part], at)?;
            for (place, block) in (at..).step_by(BLOCK).zip(buffer[..part].chunks(BLOCK)) {
                if block.iter().any(|byte| *byte != 0) {
                    hasher.update(place.to_le_bytes());
                    hasher.update(block);
                }
            }
            pace.count(part);
            at += part as u64;
        }
    }
    let digest = hasher.finalize();
    Ok(Some(
        digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Installation {
        dir: tempfile::TempDir,
        checksums: Checksums,
        pace: Pace,
    }

    impl Installation {
        fn with_image(content: &[u8]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let checksums = Checksums::open(dir.path());
            let pace = Pace::new(CancellationToken::new());
            let mut installation = Self {
                dir,
                checksums,
                pace,
            };
            fs::write(installation.image(), content).unwrap();
            installation.examine_after(Duration::ZERO);
            installation
        }

        fn image(&self) -> PathBuf {
            self.dir.path().join("image.ext4")
        }

        fn examine_after(&mut self, time: Duration) {
            let file = WatchedFile {
                path: self.image(),
                is_immutable: false,
            };
            let now = SystemTime::now() + time;
            self.checksums.examine(&file, now, &mut self.pace).unwrap();
        }

        fn is_good(&self) -> bool {
            self.checksums.refuse_damaged(&self.image()).is_ok()
        }

        /// Writes to `path`, with the time that the image has.
        fn write_silently(&self, path: &Path, content: &[u8]) {
            let time = fs::metadata(self.image()).unwrap().modified().unwrap();
            fs::write(path, content).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(time).unwrap();
        }
    }

    #[test]
    fn silent_change_is_damage_until_replaced() {
        let mut host = Installation::with_image(b"former");
        host.write_silently(&host.image(), b"latter");
        host.examine_after(Duration::ZERO);
        assert!(host.is_good(), "it was read already");
        host.examine_after(VERIFY_AFTER);
        let error = host
            .checksums
            .refuse_damaged(&host.image())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("image.ext4") && error.contains("damaged"),
            "{error}"
        );
        // Another run knows it, too.
        let reopened = Checksums::open(host.dir.path());
        assert_eq!((reopened.summary().0, reopened.summary().1.len()), (1, 1));
        host.examine_after(2 * VERIFY_AFTER);
        assert!(!host.is_good(), "it is not good for being damaged twice");
        fs::write(host.dir.path().join(".new"), b"newer").unwrap();
        fs::rename(host.dir.path().join(".new"), host.image()).unwrap();
        assert!(host.is_good());
        host.examine_after(Duration::ZERO);
        assert!(host.is_good() && host.checksums.summary().1.is_empty());
    }

    #[test]
    fn copy_with_old_time_must_be_equal() {
        let mut host = Installation::with_image(b"former");
        let copy = host.dir.path().join(".new");
        for (content, is_good) in [(b"latter", false), (b"former", true)] {
            host.write_silently(&copy, content);
            fs::rename(&copy, host.image()).unwrap();
            host.examine_after(Duration::ZERO);
            assert_eq!(host.is_good(), is_good);
        }
    }

    #[test]
    fn known_files_are_read_once() {
        let mut host = Installation::with_image(b"former");
        let read = host.pace.bytes;
        host.checksums = Checksums::open(host.dir.path());
        host.examine_after(VERIFY_AFTER / 2);
        assert_eq!((read, host.pace.bytes), (6, 6));
        // Overwritten in place it is another image, which may be used.
        fs::write(host.image(), b"other content").unwrap();
        host.examine_after(Duration::ZERO);
        assert_eq!(host.pace.bytes, 6 + 13);
        assert!(host.is_good());
    }

    #[test]
    fn immutable_file_must_stay_as_made() {
        let mut host = Installation::with_image(b"former");
        let file = WatchedFile {
            path: host.image(),
            is_immutable: true,
        };
        fs::write(host.image(), b"other content").unwrap();
        host.checksums.examine_all(&[file], &mut host.pace);
        assert!(!host.is_good());
        host.checksums.examine_all(&[], &mut host.pace);
        assert!(!host.is_good(), "it is there and was not listed once");
        fs::remove_file(host.image()).unwrap();
        host.checksums.examine_all(&[], &mut host.pace);
        assert_eq!(host.checksums.summary(), (0, Vec::new()), "it is gone");
    }

    #[test]
    fn holes_and_zeroes_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let sum = |name: &str, fill: &dyn Fn(&File)| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len(3 << 20).unwrap();
            file.write_all_at(b"x", 1 << 20).unwrap();
            fill(&file);
            content_sum(&path, &mut Pace::new(CancellationToken::new())).unwrap()
        };
        let sparse = sum("sparse", &|_| {});
        let full = sum("full", &|file| file.write_all_at(&[0; 1 << 20], 0).unwrap());
        let moved = sum("moved", &|file| file.write_all_at(b"x", 2 << 20).unwrap());
        assert_eq!(sparse, full);
        assert_ne!(sparse, moved);
    }

    #[test]
    fn broken_record_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Checksums::open(dir.path()).summary().0, 0);
    }
}
