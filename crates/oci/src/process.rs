//! Starts the process that unpacks, for the agent.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use linux::descriptors;
use linux::jail::{Limits as JailLimits, PROGRAM_CALLS};
use linux::program_file::ProgramFile;
use linux::worker::{Worker, WorkerSpec};

use crate::serve::{ARGUMENT, GO, Task};
use crate::syscalls;

/// Memory of an unpacker, bytes: a million files with names of 50 bytes take 500 MiB, the window of
/// a decoder 128 MiB, the bitmap of a terabyte 32 MiB.
pub const MAX_MEMORY: u64 = 2 << 30;
/// Largest message: a configuration of 4 MiB, of which every byte may be escaped.
pub const MAX_MESSAGE: usize = 32 << 20;
/// Processes of the user of unpackers, of which all together are counted.
const TASKS: u64 = 64;

/// An unpacker that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Unpacker {
    pub worker: Worker,
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
        let _ = self.worker.process.kill();
    }
}

impl Unpacker {
    /// Starts an unpacker as `user`, which no other program has. `program` calls
    /// [`serve_if_asked`](crate::serve_if_asked). Blocking, for a moment.
    ///
    /// # Errors
    /// When the jail cannot be made or the program not be started.
    pub fn spawn(
        program: &ProgramFile,
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
        let spec = WorkerSpec {
            program,
            argument: ARGUMENT,
            user,
            limits,
            calls: &[PROGRAM_CALLS, syscalls::CALLS],
        };
        let files = [files.archive.as_fd(), files.spool.as_fd()];
        let worker = Worker::spawn(&spec, task, &files)?;
        Ok(Self { worker })
    }

    /// Lets it fill the image, which is formatted now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn start_filling(&self, image: &File) -> io::Result<()> {
        descriptors::send(&self.worker.messages, &[GO], &[image.as_fd()])
    }
}
