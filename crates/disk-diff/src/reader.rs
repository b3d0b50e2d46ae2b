//! Starts the process that compares, for the agent.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use linux::jail::{Limits, PROGRAM_CALLS};
use linux::program_file::ProgramFile;
use linux::worker::{Worker, WorkerSpec};

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

/// Starts a reader as `user`, which no other program but other readers has. `program` calls
/// [`serve_if_asked`](crate::serve_if_asked). Blocking, for a moment.
///
/// # Errors
/// When the jail cannot be made or the program not be started.
pub fn spawn_reader(
    program: &ProgramFile,
    user: u32,
    task: &Task,
    files: &[File],
) -> io::Result<Worker> {
    let limits = Limits {
        tasks: TASKS,
        // It writes nothing.
        file_bytes: 0,
        address_bytes: Some(MAX_MEMORY),
        ..Limits::default()
    };
    let spec = WorkerSpec {
        program,
        argument: ARGUMENT,
        user,
        limits,
        calls: &[PROGRAM_CALLS, syscalls::CALLS],
    };
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    Worker::spawn(&spec, task, &files)
}
