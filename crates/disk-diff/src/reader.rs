//! Starts the process that compares, for the agent.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use linux::descriptors;
use linux::jail::{Enforcement, Jail, Limits, PROGRAM_CALLS, Syscalls};
use linux::process::{Process, Spawn};

use crate::serve::{ARGUMENT, Task};
use crate::syscalls;

/// Memory of a reader, bytes: two disks of 100 GiB of which every chunk was written take 800 MiB,
/// the fullest directories 500 MiB, a unified diff 100 MiB.
pub const MAX_MEMORY: u64 = 2 << 30;
/// Largest message of a reader, bytes: a unified diff with escapes, twice a path and twice the
/// target of a link.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Processes of the user of readers, of which all together are counted.
const TASKS: u64 = 2048;
/// A reader is killed before any VM where memory is short.
const OOM_SCORE_ADJ: i32 = 1000;
/// Bytes of its standard error that are read.
const MAX_WORDS: u64 = 4096;

/// A reader that runs.
#[derive(Debug)]
pub struct Reader {
    pub process: Process,
    /// Its messages: four bytes of length, then JSON.
    pub messages: UnixStream,
    /// Its standard error.
    pub words: PipeReader,
}

impl Reader {
    /// Starts a reader as `user`, which no other program but other readers has. `program` calls
    /// [`serve_if_asked`](crate::serve_if_asked). Blocking, for a moment.
    ///
    /// # Errors
    /// When the jail cannot be made or the program not be started.
    pub fn spawn(program: &Path, user: u32, task: &Task, files: &[File]) -> io::Result<Self> {
        let limits = Limits {
            tasks: TASKS,
            // It writes nothing.
            file_bytes: 0,
            address_bytes: Some(MAX_MEMORY),
            ..Limits::default()
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
        let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        // Sent before it starts, so that nothing has to be undone if that fails.
        descriptors::send(&ours, &serde_json::to_vec(task)?, &files)?;
        let process = spawn.spawn()?;
        Ok(Self {
            process,
            messages: ours,
            words,
        })
    }

    /// Returns what a reader said on its standard error. It must have ended.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        let mut bytes = Vec::new();
        let reader = self.words.try_clone().ok()?;
        reader.take(MAX_WORDS).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        Some(text).filter(|text| !text.is_empty())
    }
}
