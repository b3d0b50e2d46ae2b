//! Starts the process that unpacks, for the agent.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use linux::descriptors;
use linux::jail::{Enforcement, Jail, Limits as JailLimits, PROGRAM_CALLS, Syscalls};
use linux::process::{Process, Spawn};

use crate::serve::{ARGUMENT, GO, Task};
use crate::syscalls;

/// Memory of an unpacker, bytes: a million files with names of 50 bytes take 500 MiB, the window of
/// a decoder 128 MiB, the bitmap of a terabyte 32 MiB.
pub const MAX_MEMORY: u64 = 2 << 30;
/// Largest message: a configuration of 4 MiB, of which every byte may be escaped.
pub const MAX_MESSAGE: usize = 32 << 20;
/// Processes of the user of unpackers, of which all together are counted.
const TASKS: u64 = 64;
/// An unpacker is killed before any VM where memory is short.
const OOM_SCORE_ADJ: i32 = 1000;
/// Bytes of its standard error that are read.
const MAX_WORDS: u64 = 4096;

/// An unpacker that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Unpacker {
    pub process: Process,
    /// Its messages: four bytes of length, then JSON ([`crate::Message`]).
    pub messages: UnixStream,
    /// Its standard error.
    words: PipeReader,
}

/// Files of one import.
#[derive(Debug)]
pub struct Files<'a> {
    pub archive: &'a File,
    /// Empty, for an archive that is compressed as a whole.
    pub spool: &'a File,
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        // It has ended unless the import was given up.
        let _ = self.process.kill();
    }
}

impl Unpacker {
    /// Starts an unpacker as `user`, which no other program has. `program` calls
    /// [`serve_if_asked`](crate::serve_if_asked). Blocking, for a moment.
    ///
    /// # Errors
    /// When the jail cannot be made or the program not be started.
    pub fn spawn(
        program: &Path,
        user: u32,
        task: &Task,
        files: &Files<'_>,
        file_bytes: u64,
    ) -> io::Result<Self> {
        let limits = JailLimits {
            tasks: TASKS,
            file_bytes,
            address_bytes: Some(MAX_MEMORY),
            ..JailLimits::default()
        };
        let mut jail = Jail::new(user, user, limits)?;
        jail.program(program)?;
        jail.allow_syscalls(Syscalls::Only(
            &[PROGRAM_CALLS, syscalls::CALLS],
            Enforcement::Enforce,
        ));
        let (ours, theirs) = UnixStream::pair()?;
        let (words, output) = io::pipe()?;
        let spawn = Spawn {
            program: program.to_owned(),
            args: vec![ARGUMENT.into()],
            input: Some(theirs.into()),
            output: Some(output.into()),
            jail: Some(jail),
            oom_score_adj: Some(OOM_SCORE_ADJ),
            ..Spawn::default()
        };
        let files = [files.archive.as_fd(), files.spool.as_fd()];
        // Sent before it starts, so that nothing has to be undone if that fails.
        descriptors::send(&ours, &serde_json::to_vec(task)?, &files)?;
        Ok(Self {
            process: spawn.spawn()?,
            messages: ours,
            words,
        })
    }

    /// Lets it fill the image, which is formatted now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn start_filling(&self, image: &File) -> io::Result<()> {
        descriptors::send(&self.messages, &[GO], &[image.as_fd()])
    }

    /// Returns what it said on its standard error. It must have ended.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        let mut bytes = Vec::new();
        let reader = self.words.try_clone().ok()?;
        reader.take(MAX_WORDS).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        Some(text).filter(|text| !text.is_empty())
    }
}
