//! Serves the page faults of another process (userfaultfd(2)).
//!
//! ```text
//!  process that owns the memory                       server
//!   touches a page that is not there, and waits ───→   Event::Missing
//!   continues                                    ←───   fills the page and wakes the thread
//!   discards pages (madvise), and waits         ───→   Event::Removed: the pages read as zeroes now
//!   continues                                    ←───   once the event is read
//! ```
//! The owner of the memory opens the userfaultfd and sends it to the server, which can fill that
//! memory through it, but neither read it nor reach any other. No page can be filled while an
//! [`Event::Removed`] is unread ([`FillOutcome::EventsPending`]). If the server dies, the process
//! blocks for ever at the next page that is not there, so the server must be watched.
//!
//! [`Region`] is the side of the owner, in our own process: for [`probe`] and for tests.

#![allow(unsafe_code)]

use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{NonNull, with_exposed_provenance_mut};

use nix::errno::Errno;
use nix::libc::c_void;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use userfaultfd::{EventBuffer, FeatureFlags, Uffd, UffdBuilder};

use crate::pages::PAGE;

/// Device through which users without privileges may have a userfaultfd that also serves the
/// kernel's own accesses, such as those of KVM (Linux 6.1).
pub const DEVICE: &str = "/dev/userfaultfd";

/// Maximum number of events that are read at once.
const EVENTS: usize = 64;

/// Event in the process that owns the memory. Numbers are addresses in that process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A thread waits for the page at this address.
    Missing(u64),
    /// The process discarded the pages of this range.
    Removed(Range<u64>),
}

/// Result of filling pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillOutcome {
    /// Number of bytes that were filled, from the first on; may be fewer than were asked for.
    Filled(u64),
    /// Nothing was filled: the first page is there already.
    AlreadyPresent,
    /// Nothing can be filled until the pending events are read.
    EventsPending,
    /// Nothing can be filled any more: the process has ended, or has unmapped the memory.
    Gone,
}

/// Page faults of one process.
#[derive(Debug)]
pub struct Faults(Uffd);

impl AsFd for Faults {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Faults {
    /// Takes a descriptor that the process has sent: it may be hostile and send any. A descriptor
    /// that is no userfaultfd fails when it is used.
    #[must_use]
    pub fn new(descriptor: OwnedFd) -> Self {
        // SAFETY: the descriptor is ours, and whatever it is, the calls below fail on what they
        // were not made for.
        Self(unsafe { Uffd::from_raw_fd(descriptor.into_raw_fd()) })
    }

    /// Returns the events since the last call. If there are none, waits for one, or returns none if
    /// the descriptor is non-blocking.
    ///
    /// # Errors
    /// The error of reading; `InvalidData` for events that were not requested.
    pub fn read(&self) -> io::Result<Vec<Event>> {
        let mut buffer = EventBuffer::new(EVENTS);
        let events = self.0.read_events(&mut buffer).map_err(io::Error::other)?;
        events
            .map(|event| convert_event(event.map_err(io::Error::other)?))
            .collect()
    }

    /// Fills pages from the address `to` on with `content`, which is whole pages, and wakes the
    /// threads that wait for them.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn fill_from(&self, to: u64, content: &[u8]) -> io::Result<FillOutcome> {
        let from = content.as_ptr().cast::<c_void>();
        // SAFETY: the source is ours and that long. The target is memory that its process has given
        // to be filled; no Rust reference leads there, also where that process is this one (see
        // `Region`).
        let copied = unsafe { self.0.copy(from, address(to), content.len(), true) };
        match copied {
            Ok(bytes) => Ok(FillOutcome::Filled(bytes as u64)),
            // The count is a negative error number where nothing was copied.
            Err(userfaultfd::Error::PartiallyCopied(bytes))
                if (1..=content.len()).contains(&bytes) =>
            {
                Ok(FillOutcome::Filled(bytes as u64))
            }
            Err(userfaultfd::Error::PartiallyCopied(_)) => Ok(FillOutcome::EventsPending),
            Err(userfaultfd::Error::CopyFailed(errno)) => outcome_from_errno(errno as i32),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Fills pages with zeroes, which takes no memory, and wakes the threads that wait for them.
    /// Returns [`FillOutcome::EventsPending`] also if the kernel stopped half-way.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn fill_zeroes(&self, to: u64, bytes: u64) -> io::Result<FillOutcome> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: as in `fill_from`.
        match unsafe { self.0.zeropage(address(to), length, true) } {
            Ok(bytes) => Ok(FillOutcome::Filled(bytes as u64)),
            Err(userfaultfd::Error::ZeropageFailed(errno)) => outcome_from_errno(errno as i32),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Wakes the threads that wait for pages that are there.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn wake_threads(&self, at: u64, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        self.0.wake(address(at), length).map_err(io::Error::other)
    }
}

/// Converts to a pointer, which is never followed here.
fn address(number: u64) -> *mut c_void {
    with_exposed_provenance_mut(usize::try_from(number).unwrap_or(usize::MAX))
}

fn outcome_from_errno(errno: i32) -> io::Result<FillOutcome> {
    match Errno::from_raw(errno) {
        Errno::EEXIST => Ok(FillOutcome::AlreadyPresent),
        Errno::EAGAIN => Ok(FillOutcome::EventsPending),
        Errno::ESRCH | Errno::ENOENT => Ok(FillOutcome::Gone),
        errno => Err(errno.into()),
    }
}

fn convert_event(event: userfaultfd::Event) -> io::Result<Event> {
    match event {
        userfaultfd::Event::Pagefault { addr, .. } => Ok(Event::Missing(addr as u64 & !(PAGE - 1))),
        userfaultfd::Event::Remove { start, end } => Ok(Event::Removed(start as u64..end as u64)),
        other => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it did not ask for {other:?}"),
        )),
    }
}

/// Memory of this process whose pages another thread or process fills. No reference leads into it:
/// it is read and written by copies.
#[derive(Debug)]
pub struct Region {
    start: NonNull<c_void>,
    bytes: usize,
    uffd: Uffd,
}

// SAFETY: it is never seen but through copies of bytes, which may come from any thread.
unsafe impl Send for Region {}
// SAFETY: as above; a read during a write of another thread returns any mixture of bytes, as in the
// guest of a VM.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `bytes` of memory whose page faults [`Region::faults`] reports.
    ///
    /// # Errors
    /// The kernel's error: it has no userfaultfd, or not for us.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let length = NonZero::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let mut builder = UffdBuilder::new();
        builder
            .close_on_exec(true)
            .non_blocking(true)
            .user_mode_only(false)
            .require_features(FeatureFlags::EVENT_REMOVE);
        let uffd = builder.create().map_err(io::Error::other)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, which no other code knows.
        let start = unsafe {
            mmap_anonymous(
                None,
                length,
                access,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        let region = Self { start, bytes, uffd };
        region
            .uffd
            .register(region.start.as_ptr(), bytes)
            .map_err(io::Error::other)?;
        Ok(region)
    }

    /// Returns the address at which it begins.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    fn part(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(
            offset
                .checked_add(length)
                .is_some_and(|end| end <= self.bytes),
            "outside of the region"
        );
        self.start.as_ptr().cast::<u8>().wrapping_add(offset)
    }

    /// Reads pages that are there, and waits for those that are not.
    ///
    /// # Panics
    /// Outside of the region.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        // SAFETY: within the mapping, which lives as long as we; the target is another piece of
        // memory.
        unsafe {
            std::ptr::copy_nonoverlapping(self.part(offset, to.len()), to.as_mut_ptr(), to.len())
        }
    }

    /// Writes, and waits for pages that are not there.
    ///
    /// # Panics
    /// Outside of the region.
    pub fn write(&self, offset: usize, from: &[u8]) {
        // SAFETY: as in `read`.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.part(offset, from.len()), from.len())
        }
    }

    /// Discards pages; returns once the server has read the event.
    ///
    /// # Errors
    /// The kernel's error.
    ///
    /// # Panics
    /// Outside of the region.
    pub fn discard(&self, offset: usize, length: usize) -> io::Result<()> {
        let start =
            NonNull::new(self.part(offset, length).cast()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the content may go: there is no reference to it.
        Ok(unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) }?)
    }

    /// Returns true if the page at `offset` is there, without touching it (`/proc/PID/pagemap`).
    ///
    /// # Errors
    /// The error of reading.
    pub fn is_present(&self, offset: usize) -> io::Result<bool> {
        let mut entry = [0; 8];
        let at = (self.address() + offset as u64) / PAGE * 8;
        std::fs::File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at)?;
        Ok(u64::from_ne_bytes(entry) >> 62 != 0)
    }

    /// Returns the descriptor for a server.
    #[must_use]
    pub fn faults(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: there is no reference into it.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

/// Checks that this process can serve page faults on this kernel, by serving one.
///
/// # Errors
/// The error of the step that failed.
pub fn probe() -> io::Result<()> {
    let region = Region::new(4096)?;
    let faults = Faults::new(region.faults().try_clone_to_owned()?);
    let outcome = faults.fill_from(region.address(), &[7; 4096])?;
    let mut byte = [0];
    if outcome == FillOutcome::Filled(PAGE) {
        region.read(9, &mut byte);
    }
    if byte == [7] {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "a page could not be filled: {outcome:?}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::time::Timespec;

    use super::*;

    fn region(pages: usize) -> (Region, Faults) {
        let region = Region::new(pages * 4096).unwrap();
        let faults = Faults::new(region.faults().try_clone_to_owned().unwrap());
        (region, faults)
    }

    fn wait_for_event(faults: &Faults) {
        let mut fds = [PollFd::new(faults, PollFlags::IN)];
        let patience = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(
            poll(&mut fds, Some(&patience)).unwrap(),
            1,
            "no event comes"
        );
    }

    /// The next events, for which a thread has been started.
    fn wait(faults: &Faults) -> Vec<Event> {
        wait_for_event(faults);
        faults.read().unwrap()
    }

    #[test]
    fn discarded_pages_read_as_zeroes() {
        let (region, faults) = region(8);
        let at = region.address();
        assert_eq!(
            faults.fill_from(at + PAGE, &[1; 2 * 4096]).unwrap(),
            FillOutcome::Filled(2 * PAGE)
        );
        assert_eq!(
            faults.fill_from(at + PAGE, &[2; 4096]).unwrap(),
            FillOutcome::AlreadyPresent
        );
        assert_eq!(
            faults.fill_from(at, &[2; 4 * 4096]).unwrap(),
            FillOutcome::Filled(PAGE),
            "up to what is there"
        );
        assert_eq!(
            faults.fill_zeroes(at + 4 * PAGE, PAGE).unwrap(),
            FillOutcome::Filled(PAGE)
        );
        assert_eq!(
            faults.fill_zeroes(at + 4 * PAGE, PAGE).unwrap(),
            FillOutcome::AlreadyPresent
        );
        let mut bytes = [9; 2 * 4096];
        region.read(0, &mut bytes);
        assert!(bytes[..4096] == [2; 4096] && bytes[4096..] == [1; 4096]);
        thread::scope(|scope| {
            let giving = scope.spawn(|| region.discard(4096, 4096).unwrap());
            wait_for_event(&faults);
            assert_eq!(
                faults.fill_from(at + 5 * PAGE, &[3; 4096]).unwrap(),
                FillOutcome::EventsPending,
                "until it is read"
            );
            assert_eq!(wait(&faults), [Event::Removed(at + PAGE..at + 2 * PAGE)]);
            giving.join().unwrap();
            assert!(!region.is_present(4096).unwrap() && region.is_present(0).unwrap());
            let reading = scope.spawn(|| {
                let mut byte = [1];
                region.read(4096 + 5, &mut byte);
                byte
            });
            assert_eq!(wait(&faults), [Event::Missing(at + PAGE)]);
            assert_eq!(
                faults.fill_zeroes(at + PAGE, PAGE).unwrap(),
                FillOutcome::Filled(PAGE)
            );
            assert_eq!(reading.join().unwrap(), [0]);
        });
    }

    #[test]
    fn kernel_serves_faults_to_owner_only() {
        probe().unwrap();
        let (_region, faults) = region(1);
        assert_eq!(
            faults.fill_from(1 << 40, &[0; 4096]).unwrap(),
            FillOutcome::Gone
        );
        let none = Faults::new(std::fs::File::open("/dev/null").unwrap().into());
        assert!(
            none.read().is_err()
                && none.fill_from(0, &[0; 4096]).is_err()
                && none.wake_threads(0, PAGE).is_err()
        );
    }
}
