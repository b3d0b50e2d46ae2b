//! The unpacker of one import ([`oci`]), from its start to its end.
//!
//! ```text
//!   start ──→ plan ──→ configuration is checked ──→ room is promised ──→ mke2fs ──→ fill ──→ done
//!     └── no room, deadline, broken: it is killed, also when this is dropped as the agent ends ──┘
//! ```
//! An unpacker whose agent was killed sees that its socket was hung up, and ends.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use linux::process::Ended;
use linux::program_file::ProgramFile;
use model::ImageConfig;
use oci::process::{Files, MAX_MESSAGE, Unpacker};
use oci::{Message, Need, Plan, PlannedResult, Task};
use tokio::time::Instant;

use super::space::Space;
use super::{ImportError, UnpackedImage};
use crate::images::imported::{ImportRecord, Staging};
use crate::worker_messages::{WorkerMessages, read_messages};

/// Files of an image. A million of them take half a gigabyte of the unpacker's memory.
pub(crate) const MAX_ENTRIES: u64 = 1_000_000;
/// Size of a small image's file system, as of those that `make images` makes. What is free of it
/// takes no room on the host.
const USUAL_BYTES: u64 = 4 << 30;
/// Bytes that are free in the file system of a large image.
const FREE_BYTES: u64 = 2 << 30;
/// Most bytes of a journal (mke2fs(8)).
const JOURNAL_BYTES: u64 = 1 << 30;
/// Bytes of a file system for each inode, as mke2fs has it by default.
const BYTES_PER_INODE: u64 = 16 << 10;
/// Bytes of a block of ext4, and so a byte of one for each eight inodes of a group.
const BLOCK: u64 = 4096;
/// Time over that of the task after which an unpacker is killed, which ends by itself before.
const GRACE: Duration = Duration::from_secs(10);
/// Time for an unpacker that has said its last to end, and for one that was killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const KILL_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings of the unpacker of an import.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) user: u32,
    /// Bytes of the image, unpacked.
    pub(super) max_bytes: u64,
    pub(super) time: Duration,
    /// Label of the file system.
    pub(super) label: String,
}

/// An unpacker that runs, with the files that it works on.
#[derive(Debug)]
struct Running {
    unpacker: Unpacker,
    image: File,
    path: PathBuf,
    label: String,
    deadline: Instant,
}

/// Unpacks the archive in `staging`.
pub(super) async fn unpack_archive(
    staging: Staging,
    settings: Settings,
    space: &Space,
) -> Result<UnpackedImage, ImportError> {
    let spool_space = space.clone();
    let time = settings.time;
    let start = move || {
        let spool_bytes = spool_space.available()?.min(settings.max_bytes);
        let running = Running::start(&staging, settings, spool_bytes)?;
        Ok::<_, ImportError>((staging, running))
    };
    let (staging, mut running) = stdx::task::run_blocking(start).await?;
    let deadline = running.deadline;
    let followed = tokio::select! {
        // The unpacker may say why before it is found out.
        biased;
        followed = running.follow(space) => followed,
        () = tokio::time::sleep_until(deadline) => Err(too_slow(time)),
        error = space.wait_until_full() => Err(error),
    };
    let end = move || running.end(followed);
    let (plan, config) = stdx::task::run_blocking(end).await?;
    let image = match plan.result {
        PlannedResult::Fill(_) => staging.path("image.ext4"),
        PlannedResult::AsItIs { spooled: true } => staging.path("spool"),
        PlannedResult::AsItIs { spooled: false } => staging.path("archive"),
    };
    let format = serde_json::to_value(plan.format).map_err(io::Error::from)?;
    let record = ImportRecord {
        digest: plan.digest,
        format: format.as_str().unwrap_or_default().to_owned(),
        imported_at_ms: stdx::time::now_ms(),
    };
    Ok(UnpackedImage {
        staging,
        image,
        record,
        config,
    })
}

impl Running {
    /// Starts the unpacker. Blocking.
    fn start(staging: &Staging, settings: Settings, spool_bytes: u64) -> io::Result<Self> {
        let archive = File::open(staging.path("archive"))?;
        let spool = create(&staging.path("spool"))?;
        let path = staging.path("image.ext4");
        let image = create(&path)?;
        let task = Task {
            limits: oci::Limits {
                unpacked_bytes: settings.max_bytes,
                spool_bytes,
                entries: MAX_ENTRIES,
                time: settings.time,
            },
            architecture: architecture().to_owned(),
        };
        let files = Files {
            archive: &archive,
            spool: &spool,
        };
        let (file_bytes, _) = file_system_size(largest_need(settings.max_bytes));
        let program = ProgramFile::open_running()?;
        let deadline = Instant::now() + settings.time + GRACE;
        Ok(Self {
            unpacker: Unpacker::spawn(&program, settings.user, &task, &files, file_bytes)?,
            image,
            path,
            label: settings.label,
            deadline,
        })
    }

    /// Waits for the plan, makes the file system that it asks for, and waits until that is filled.
    async fn follow(
        &mut self,
        space: &Space,
    ) -> Result<Option<(Plan, Option<ImageConfig>)>, ImportError> {
        let mut messages = read_messages(&self.unpacker.worker, MAX_MESSAGE)?;
        let plan = match next_message(&mut messages).await? {
            Some(Message::Planned(plan)) => *plan,
            Some(Message::Failed(failure)) => return Err(failure.into()),
            Some(Message::Done) => return Err(nonsense("it is done without a plan")),
            None => return Ok(None),
        };
        if !is_digest(&plan.digest) {
            return Err(nonsense("it has no digest"));
        }
        let config = plan.config.clone().map(read_config).transpose()?;
        let PlannedResult::Fill(need) = plan.result else {
            return Ok(Some((plan, config)));
        };
        let (bytes, inodes) = file_system_size(need);
        let promised = space.clone();
        let path = self.path.clone();
        let label = self.label.clone();
        let make = move || {
            let promise = promised.promise(need.blocks.saturating_mul(BLOCK))?;
            linux::programs::create_empty_ext4(&path, &label, bytes, inodes)?;
            Ok::<_, ImportError>(promise)
        };
        let _promise = stdx::task::run_blocking(make).await?;
        // Not before: a broken unpacker must not write to a file that mke2fs, which is root, reads.
        self.unpacker.start_filling(&self.image)?;
        match next_message(&mut messages).await? {
            Some(Message::Done) => Ok(Some((plan, config))),
            Some(Message::Failed(failure)) => Err(failure.into()),
            Some(Message::Planned(_)) => Err(nonsense("it plans twice")),
            None => Ok(None),
        }
    }

    /// Ends the process, whatever it does, and returns what it was followed to. Blocking.
    fn end<T>(self, followed: Result<Option<T>, ImportError>) -> Result<T, ImportError> {
        let worker = &self.unpacker.worker;
        let grace = match followed {
            Ok(_) => END_TIMEOUT,
            Err(_) => Duration::ZERO,
        };
        let ended = worker.end(grace, KILL_TIMEOUT)?;
        if ended.is_none() {
            let error =
                io::Error::new(io::ErrorKind::TimedOut, "it does not end when it is killed");
            return Err(error.into());
        }
        followed?.ok_or_else(|| {
            let how = ended.unwrap_or(Ended::Unknown).to_string();
            let words = worker.last_words().unwrap_or(how);
            nonsense(&format!("it ended early: {words}"))
        })
    }
}

async fn next_message(messages: &mut WorkerMessages) -> Result<Option<Message>, ImportError> {
    let Some(message) = messages.next().await else {
        return Ok(None);
    };
    let message: BytesMut = message?;
    let message = serde_json::from_slice(&message).map_err(io::Error::from)?;
    Ok(Some(message))
}

/// Returns the error for an unpacker that does not keep to its protocol.
fn nonsense(what: &str) -> ImportError {
    ImportError::Host(io::Error::other(format!("the unpacker failed: {what}")))
}

fn too_slow(time: Duration) -> ImportError {
    let seconds = time.as_secs();
    ImportError::Refused(format!("unpacking the image takes more than {seconds} s"))
}

/// Opens a new file that an unpacker may read and write.
fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).open(path)
}

/// Returns true for what a content address is. By it an image is known to be imported.
fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    hex.len() == 64 && hex.bytes().all(is_hex)
}

/// Returns bytes and inodes of a file system in which what is needed leaves room to work in.
fn file_system_size(need: Need) -> (u64, u64) {
    let data = need.blocks.saturating_mul(BLOCK);
    // Bitmaps, descriptors and their copies are below 1 %.
    let used = data + data / 64 + need.inodes * 2 * 256;
    let journal = JOURNAL_BYTES.min(used / 16);
    let bytes = (used + journal + FREE_BYTES).max(USUAL_BYTES);
    let bytes = bytes.next_multiple_of(1 << 20);
    let inodes = (bytes / BYTES_PER_INODE).max(need.inodes * 2);
    // More in a group than its bitmap has bits would make smaller groups.
    (
        bytes.max((inodes * BLOCK).next_multiple_of(1 << 20)),
        inodes,
    )
}

/// Returns what no image needs more of: the files are as small as they can be.
fn largest_need(max_bytes: u64) -> Need {
    Need {
        // Each file has a part of a block that is not used, one of attributes, and two of nodes.
        blocks: max_bytes / BLOCK + 4 * MAX_ENTRIES,
        inodes: MAX_ENTRIES + 12,
    }
}

fn read_config(config: serde_json::Value) -> Result<ImageConfig, ImportError> {
    let refused = |error: String| {
        ImportError::Refused(format!("the configuration of the image is wrong: {error}"))
    };
    let config: ImageConfig =
        serde_json::from_value(config).map_err(|error| refused(error.to_string()))?;
    config.check().map_err(|error| refused(error.to_string()))?;
    Ok(config)
}

/// Returns the architecture of this host in Go's words, which images have.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_system_has_room_to_work_in() {
        for blocks in [0, 1 << 10, 1 << 20, 1 << 28] {
            let need = Need {
                blocks,
                inodes: blocks / 4 + 12,
            };
            let (bytes, inodes) = file_system_size(need);
            let tables = inodes * 256;
            assert!(bytes >= blocks * 4096 + tables / 2 + (1 << 30), "{blocks}");
            assert!(bytes.is_multiple_of(1 << 20) && inodes >= need.inodes * 2);
            // As many as a group has at most: one for each bit of a block.
            assert!(inodes <= bytes / (128 << 20) * 32768 + 32768);
        }
    }

    #[test]
    fn only_content_addresses_are_digests() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(is_digest(&format!("sha256:{hex}")));
        for text in [
            "",
            "sha256:",
            &hex,
            "sha256:00",
            &format!("sha256:{}", hex.to_uppercase()),
        ] {
            assert!(!is_digest(text), "{text}");
        }
    }
}
