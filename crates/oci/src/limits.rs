//! Bounds of what an image may ask of the host. Each is told in the error.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, limit};

/// Bytes of one name (`EXT4_NAME_LEN`).
pub const MAX_NAME: usize = 255;
/// Bytes of a path, as `PATH_MAX`.
pub const MAX_PATH: usize = 4096;
/// Directories above each other. Real images have some 30.
pub const MAX_DEPTH: usize = 256;
/// Bytes of the target of a symbolic link: ext4 has it in one block with a zero behind it.
pub const MAX_TARGET: usize = 4095;
/// Symbolic links that are followed in one path, as the kernel does.
pub const MAX_FOLLOWED: usize = 40;
/// Layers of an image. Docker makes 127 at most.
pub const MAX_LAYERS: usize = 512;
/// Bytes of a manifest, index or configuration; registries take 4 MiB.
pub const MAX_JSON: u64 = 4 << 20;
/// Bytes of the extended headers before one entry of an archive, which are held in memory.
pub const MAX_PAX: u64 = 1 << 20;
/// Stretches of data of one sparse file.
pub const MAX_EXTENTS: usize = 256 * 1024;
/// Bytes of unpacked data for each byte of compressed data, from [`RATIO_FROM`] on. Real layers have
/// 2 to 20; gzip can make 1000. Stretches of zeroes do not count: they become holes, and an ext4
/// file is mostly free room.
pub const MAX_RATIO: u64 = 200;
/// Bytes that may be unpacked whatever the ratio is.
pub const RATIO_FROM: u64 = 256 << 20;
/// Memory that a decoder may use for its window.
pub const MAX_WINDOW: u64 = 128 << 20;
/// Files in an archive of an image that are no part of a layer: blobs, manifests.
pub const MAX_BLOBS: usize = 16 * 1024;
/// Bytes of all indices, manifests and configurations that are read to find an image.
pub const MAX_DOCUMENTS: u64 = 256 << 20;
/// Bytes of extended attributes of a file: they have one block in ext4.
pub const MAX_ATTRIBUTES: u64 = 4096;
/// Memory of the files of all layers, bytes: half of what an unpacker has.
pub const MAX_TREE: u64 = 1 << 30;
/// Names that may be looked up for each entry that an image may have: real ones have paths of 5 to
/// 10 names.
pub const STEPS_PER_ENTRY: u64 = 64;
/// Names of images that an error shows.
pub const MAX_SHOWN: usize = 10;
/// Bytes of a file: the largest one that ext4 has with blocks of 4 KiB.
pub const MAX_FILE: u64 = (u32::MAX as u64) << 12;

/// Steps between two looks at the clock.
const STEPS_PER_LOOK: u64 = 1024;

/// Bounds that are settings, or that depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of all layers, unpacked.
    pub unpacked_bytes: u64,
    /// Bytes of an archive that is compressed as a whole, for which the host has room.
    pub spool_bytes: u64,
    /// Entries of all layers.
    pub entries: u64,
    pub time: Duration,
}

/// Part of [`Limits`] that is not used yet.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    deadline: Instant,
    bytes: u64,
    entries: u64,
    steps: u64,
    tree_bytes: u64,
    caller: Option<Arc<UnixStream>>,
}

impl Budget {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            deadline: Instant::now() + limits.time,
            bytes: 0,
            entries: 0,
            steps: 0,
            tree_bytes: 0,
            caller: None,
        }
    }

    /// Returns a budget for another pass over the same bytes, until the same deadline.
    #[must_use]
    pub fn for_other_pass(&self) -> Self {
        Self {
            deadline: self.deadline,
            caller: self.caller.clone(),
            ..Self::new(self.limits)
        }
    }

    /// Lets the work end when the caller at the other end hangs up.
    #[must_use]
    pub fn with_caller(self, caller: UnixStream) -> Self {
        Self {
            caller: Some(Arc::new(caller)),
            ..self
        }
    }

    /// Counts bytes that were unpacked.
    ///
    /// # Errors
    /// When they are too many, or it takes too long.
    pub fn count_bytes(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        let most = self.limits.unpacked_bytes;
        if self.bytes > most {
            return Err(Error::too_large(most));
        }
        self.check_time()
    }

    /// Checks that so many bytes more may be unpacked.
    ///
    /// # Errors
    /// As [`Budget::count_bytes`].
    pub fn check_bytes(&self, bytes: u64) -> Result<()> {
        let most = self.limits.unpacked_bytes;
        if self.bytes.saturating_add(bytes) > most {
            return Err(Error::too_large(most));
        }
        Ok(())
    }

    /// Checks the size of an archive that is unpacked as a whole, before its files are counted.
    ///
    /// # Errors
    /// As [`Budget::count_bytes`].
    pub fn check_unpacked(&self, bytes: u64) -> Result<()> {
        let most = self.limits.unpacked_bytes;
        if bytes > most {
            return Err(Error::too_large(most));
        }
        if bytes > self.limits.spool_bytes {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC).into());
        }
        self.check_time()
    }

    /// Counts an entry of a layer.
    ///
    /// # Errors
    /// As [`Budget::count_bytes`].
    pub fn count_entry(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let most = self.limits.entries;
            return Err(limit(format!(
                "the image has more than {most} files in its layers"
            )));
        }
        self.check_time()
    }

    /// Counts a name that is looked up.
    ///
    /// # Errors
    /// When there are too many, or it takes too long.
    pub fn count_step(&mut self) -> Result<()> {
        self.steps += 1;
        let most = self.limits.entries.saturating_mul(STEPS_PER_ENTRY);
        if self.steps > most {
            return Err(limit(format!(
                "the paths of the image take more than {most} steps to follow"
            )));
        }
        if self.steps.is_multiple_of(STEPS_PER_LOOK) {
            self.check_time()?;
        }
        Ok(())
    }

    /// Counts memory of the file tree.
    ///
    /// # Errors
    /// When it is too much.
    pub fn count_tree(&mut self, bytes: u64) -> Result<()> {
        self.tree_bytes = self.tree_bytes.saturating_add(bytes);
        if self.tree_bytes > MAX_TREE {
            return Err(limit(format!(
                "names, attributes and stretches of the files of the image take more than {} MiB",
                MAX_TREE >> 20
            )));
        }
        Ok(())
    }

    /// Checks the clock, and that the caller still waits. It is called between pieces of work that
    /// take milliseconds.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn check_time(&self) -> Result<()> {
        if self.caller.as_deref().is_some_and(has_hung_up) {
            return Err(io::Error::from_raw_os_error(libc::ECANCELED).into());
        }
        if Instant::now() > self.deadline {
            let seconds = self.limits.time.as_secs();
            return Err(limit(format!(
                "unpacking the image takes more than {seconds} s"
            )));
        }
        Ok(())
    }
}

fn has_hung_up(socket: &UnixStream) -> bool {
    // A hang-up is told without being asked for (poll(2)).
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
