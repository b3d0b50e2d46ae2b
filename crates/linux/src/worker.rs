//! Processes that read what strangers wrote: this program again, in a jail, for one task.
//!
//! [`Worker::spawn`] starts one; in it [`serve_if_asked`] takes over before `main` does anything. It
//! gets its task with the files that the task is about, and answers with messages: four bytes of
//! length, then JSON.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::descriptors;
use crate::jail::{Call, Enforcement, Jail, Limits, Syscalls};
use crate::process::{Ended, Process, Spawn};
use crate::program_file::ProgramFile;

/// A worker is killed before any VM where memory is short.
const OOM_SCORE_ADJ: i32 = 1000;
/// Bytes of its standard error that are read.
const MAX_WORDS: u64 = 4096;

/// Kind of a worker.
#[derive(Debug, Clone, Copy)]
pub struct WorkerSpec<'a> {
    /// Program that calls [`serve_if_asked`] with `argument`.
    pub program: &'a ProgramFile,
    pub argument: &'a str,
    /// User that no other program has but workers of this kind.
    pub user: u32,
    pub limits: Limits,
    /// System calls that it may make.
    pub calls: &'static [&'static [Call]],
}

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    pub process: Process,
    pub messages: UnixStream,
    /// Its standard error.
    pub words: PipeReader,
}

impl Worker {
    /// Starts a worker. Blocking, for a moment.
    ///
    /// # Errors
    /// When the jail cannot be made or the program not be started.
    pub fn spawn(
        spec: &WorkerSpec<'_>,
        task: &impl Serialize,
        files: &[BorrowedFd<'_>],
    ) -> io::Result<Self> {
        let mut jail = Jail::new(spec.user, spec.user, spec.limits)?;
        jail.program_file(spec.program)?;
        jail.allow_syscalls(Syscalls::Only(spec.calls, Enforcement::Enforce));
        let (ours, theirs) = UnixStream::pair()?;
        let (words, output) = io::pipe()?;
        let spawn = Spawn {
            args: vec![spec.argument.into()],
            input: Some(theirs.into()),
            output: Some(output.into()),
            jail: Some(jail),
            oom_score_adj: Some(OOM_SCORE_ADJ),
            ..Spawn::from_file(spec.program)
        };
        // Sent before it starts, so that nothing has to be undone if that fails.
        descriptors::send(&ours, &serde_json::to_vec(task)?, files)?;
        Ok(Self {
            process: spawn.spawn()?,
            messages: ours,
            words,
        })
    }

    /// Hangs up, waits for the worker to end by itself for `grace`, and kills it then. `None` if it
    /// has not ended `kill_timeout` later. Blocking.
    ///
    /// # Errors
    /// When it cannot be waited for or killed.
    pub fn end(&self, grace: Duration, kill_timeout: Duration) -> io::Result<Option<Ended>> {
        let _ = self.messages.shutdown(std::net::Shutdown::Both);
        if let Some(ended) = self.process.wait(grace)? {
            return Ok(Some(ended));
        }
        self.process.kill()?;
        self.process.wait(kill_timeout)
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

/// Becomes a worker if the first argument is `argument`, and then returns only when `serve` has
/// ended. `problem` begins the text about its failure. To be called first in `main`, while there is
/// no other thread.
pub fn serve_if_asked(
    argument: &str,
    problem: &str,
    serve: fn() -> io::Result<()>,
) -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != argument {
        return None;
    }
    Some(match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{problem}: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Receives the task of this worker, at most `max` bytes of it, with its files. Returns the socket
/// for messages; `None` if the agent has hung up.
///
/// # Errors
/// When the socket breaks, or the task cannot be read.
pub fn receive_task<T: DeserializeOwned>(
    max: usize,
) -> io::Result<Option<(UnixStream, T, Vec<File>)>> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (task, files): (_, Vec<OwnedFd>) = descriptors::receive(&socket, max)?;
    if task.is_empty() {
        return Ok(None);
    }
    let task = serde_json::from_slice(&task)?;
    let files = files.into_iter().map(File::from).collect();
    Ok(Some((socket, task, files)))
}

/// Writes a message after its length in four bytes.
///
/// # Errors
/// When it cannot be written.
pub fn send_message(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(&bytes)
}
