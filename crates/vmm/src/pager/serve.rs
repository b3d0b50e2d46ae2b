//! Process that serves the memory of one VM: this program again, in a jail of its own, with nothing
//! but the descriptors that it is given.
//!
//! ```text
//!  task over standard input → ready → the VMM connects and hands over its faults ─→ serving ─→ the VMM is gone: 0
//!      │ the agent is gone: 0              │                                          │ ↺ events, then a piece of
//!      └───────────────────────────────────┘                                          │   the working set
//!                                                                    anything wrong: 1, with a line on standard error
//! ```
//! One thread, which reads all events before it fills a page: a page that the guest has discarded
//! must not get its old content again. Nothing is on disk. If this process dies, the guest blocks
//! for ever at the next page that is missing, so the watcher of the VM ends the VM ([`super`]).
//! Messages of the VMM are hostile, and can harm only its own guest.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use linux::descriptors;
use linux::pages::PAGE;
use linux::poll::{Ready, poll};
use linux::uffd::{Event, Faults, FillOutcome};

use super::map::{PageMap, Source};
use super::regions::{self, Region};
use super::working::{self, Recording};
use super::{READY, RECORDED, Task, Working};
use crate::diff;

/// Maximum size of a task and of a message of the VMM, bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// Size of the aligned window around a fault that is filled with it: for content, which may cost
/// memory for nothing, and for zeroes, which cost none.
const CONTENT_WINDOW: u64 = 32 * 1024;
const ZEROES_WINDOW: u64 = 2 << 20;

/// Maximum number of bytes that are copied at once, and prefetched between two reads of events.
const PIECE: usize = 256 * 1024;

/// Time from the start for which pages are recorded.
const RECORDING_TIME: Duration = Duration::from_secs(5);

/// Time after which a fill is tried again that the kernel refused because of a pending event.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// Timeout for a VMM that has connected to send its regions.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the pager. Blocking, for as long as the VM lives.
pub(super) fn run() -> io::Result<()> {
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (message, descriptors) = descriptors::receive(&control, MAX_MESSAGE)?;
    if message.is_empty() {
        return Ok(());
    }
    let task: Task = serde_json::from_slice(&message)?;
    let mut descriptors = descriptors.into_iter();
    let listener: UnixListener = take_descriptor(&mut descriptors)?;
    let working = match task.working {
        Working::None => None,
        Working::Record | Working::Replay => Some(take_descriptor::<File>(&mut descriptors)?),
    };
    let files: Vec<File> = descriptors.map(File::from).collect();
    let map = map_layers(&files, &task)?;
    (&control).write_all(READY)?;
    let Some((vmm, faults, regions)) = accept(&control, &listener, &task)? else {
        return Ok(());
    };
    drop(listener);
    let mut prefetch = VecDeque::new();
    let mut recording = None;
    match (task.working, working) {
        (Working::Replay, Some(file)) => prefetch = read_working_set(file, &task)?,
        (Working::Record, Some(file)) => {
            recording = Some(Record {
                pages: Recording::default(),
                until: Instant::now() + RECORDING_TIME,
                file,
            });
        }
        _ => {}
    }
    let requested = VecDeque::new();
    let buffer = vec![0; PIECE];
    Server {
        task,
        control,
        vmm,
        faults,
        regions,
        files,
        map,
        requested,
        prefetch,
        recording,
        buffer,
    }
    .serve()
}

/// Takes the next of the descriptors that were received.
fn take_descriptor<T: From<OwnedFd>>(
    descriptors: &mut impl Iterator<Item = OwnedFd>,
) -> io::Result<T> {
    descriptors
        .next()
        .map(T::from)
        .ok_or_else(|| invalid("a descriptor is missing"))
}

fn invalid(problem: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Maps the base, without its holes, and the diffs over it.
fn map_layers(files: &[File], task: &Task) -> io::Result<PageMap> {
    let (base, diffs) = files
        .split_first()
        .filter(|(_, diffs)| diffs.len() == task.diffs.len())
        .ok_or_else(|| invalid("a layer is missing"))?;
    let mut map = PageMap::default();
    let pages = linux::sparse::data_ranges(base)?
        .into_iter()
        .map(|data| data.start / PAGE * PAGE..data.end.next_multiple_of(PAGE));
    let pages = pages.fold(Vec::<Range<u64>>::new(), |mut ranges, data| {
        match ranges.last_mut() {
            Some(last) if data.start <= last.end => last.end = last.end.max(data.end),
            _ => ranges.push(data),
        }
        ranges
    });
    map.add_layer(
        0,
        pages.into_iter().map(|range| (range.clone(), range.start)),
    );
    for (number, (file, seal)) in (1..).zip(diffs.iter().zip(&task.diffs)) {
        map.add_layer(number, diff::read_stretches(file, seal.bytes, task.bytes)?);
    }
    Ok(map)
}

/// Waits until the VMM connects, and receives its faults and regions; `None` if the agent is gone
/// before that: then the start has failed.
fn accept(
    control: &UnixStream,
    listener: &UnixListener,
    task: &Task,
) -> io::Result<Option<(UnixStream, Faults, Vec<Region>)>> {
    loop {
        let [gone, connected] = poll([Ready::gone(control), Ready::readable(listener)], None)?;
        if connected {
            break;
        }
        if gone {
            return Ok(None);
        }
    }
    let (vmm, _) = listener.accept()?;
    vmm.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let (message, descriptors) = descriptors::receive(&vmm, MAX_MESSAGE)?;
    let regions = regions::parse_regions(&message, task.bytes).map_err(invalid)?;
    let faults = take_descriptor::<OwnedFd>(&mut descriptors.into_iter()).map(Faults::new)?;
    linux::poll::never_block(&faults)?;
    Ok(Some((vmm, faults, regions)))
}

/// Reads the working set of an earlier guest; empty if it is damaged or is of another memory size.
fn read_working_set(mut file: File, task: &Task) -> io::Result<VecDeque<Range<u64>>> {
    let mut content = Vec::new();
    Read::by_ref(&mut file)
        .take(working::LIMIT + 1)
        .read_to_end(&mut content)?;
    Ok(working::decode(&content, task.bytes)
        .unwrap_or_default()
        .into())
}

struct Record {
    pages: Recording,
    until: Instant,
    file: File,
}

struct Server {
    task: Task,
    control: UnixStream,
    vmm: UnixStream,
    faults: Faults,
    regions: Vec<Region>,
    files: Vec<File>,
    map: PageMap,
    /// Pages that a vCPU or the VMM waits for: offsets in the memory.
    requested: VecDeque<u64>,
    /// Ranges of the working set that are yet to be filled, while no page is waited for.
    prefetch: VecDeque<Range<u64>>,
    recording: Option<Record>,
    buffer: Vec<u8>,
}

impl Server {
    fn serve(mut self) -> io::Result<()> {
        loop {
            let [gone, events] = poll(
                [Ready::gone(&self.vmm), Ready::readable(&self.faults)],
                self.poll_timeout(),
            )?;
            if events {
                self.read_events()?;
            }
            if gone {
                return Ok(());
            }
            if self.fill_requested()? {
                self.prefetch_piece()?;
            }
            self.finish_recording();
        }
    }

    /// Returns how long to wait for events; `None` for no limit.
    fn poll_timeout(&self) -> Option<Duration> {
        match &self.recording {
            _ if !self.requested.is_empty() => Some(RETRY_INTERVAL),
            _ if !self.prefetch.is_empty() => Some(Duration::ZERO),
            Some(recording) => Some(recording.until.saturating_duration_since(Instant::now())),
            None => None,
        }
    }

    /// Reads and applies all pending events.
    fn read_events(&mut self) -> io::Result<()> {
        loop {
            let events = self.faults.read()?;
            if events.is_empty() {
                return Ok(());
            }
            events
                .into_iter()
                .try_for_each(|event| self.apply_event(event))?;
        }
    }

    /// Notes a page that is waited for, or a range that has become zeroes.
    ///
    /// # Errors
    /// `InvalidData` for a fault outside of the memory.
    fn apply_event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Missing(address) => {
                let offset = self
                    .regions
                    .iter()
                    .find_map(|region| region.offset(address));
                self.requested
                    .push_back(offset.ok_or_else(|| invalid("a fault outside of its memory"))?);
            }
            Event::Removed(addresses) => {
                for range in self
                    .regions
                    .iter()
                    .filter_map(|region| region.offsets(&addresses))
                {
                    self.map.make_zeroes(&range);
                }
            }
        }
        Ok(())
    }

    /// Fills the pages that are waited for. Returns false if new events must be read before the rest.
    fn fill_requested(&mut self) -> io::Result<bool> {
        while let Some(&offset) = self.requested.front() {
            let (run, source) = self.range_to_fill(offset);
            // The page itself first, and then what is before it.
            if !self.fill(offset, run.end, &run, source)?
                || !self.fill(run.start, offset, &run, source)?
            {
                return Ok(false);
            }
            self.requested.pop_front();
            if let Some(recording) = &mut self.recording {
                let around = window(offset, CONTENT_WINDOW, self.task.bytes);
                recording
                    .pages
                    .add(&(run.start.max(around.start)..run.end.min(around.end)));
            }
        }
        Ok(true)
    }

    /// Returns the range to fill for a fault at `offset`, and its source.
    fn range_to_fill(&self, offset: u64) -> (Range<u64>, Source) {
        match self
            .map
            .source_around(offset, &window(offset, CONTENT_WINDOW, self.task.bytes))
        {
            (_, Source::Zeroes) => self
                .map
                .source_around(offset, &window(offset, ZEROES_WINDOW, self.task.bytes)),
            content => content,
        }
    }

    /// Fills the next [`PIECE`] of the working set.
    fn prefetch_piece(&mut self) -> io::Result<()> {
        let Some(range) = self.prefetch.pop_front() else {
            return Ok(());
        };
        let piece = range.start..range.end.min(range.start + PIECE as u64);
        let (run, source) = self.map.source_around(piece.start, &piece);
        if run.end < range.end {
            self.prefetch.push_front(run.end..range.end);
        }
        if !self.fill(run.start, run.end, &run, source)? {
            self.prefetch.push_front(run);
        }
        Ok(())
    }

    /// Fills from `at` to `end`, which are within `run`, skipping pages that are filled already.
    /// Returns false if new events must be read first: the map of the memory may be out of date.
    fn fill(
        &mut self,
        mut at: u64,
        end: u64,
        run: &Range<u64>,
        source: Source,
    ) -> io::Result<bool> {
        while at < end {
            let Some((address, room)) = self.regions.iter().find_map(|region| region.address(at))
            else {
                return Err(invalid("a page is in none of its regions"));
            };
            let length = (end - at).min(room);
            let outcome = match source {
                Source::Zeroes => self.fill_zeroes(address, length)?,
                Source::File { file, at: begin } => {
                    let part = usize::try_from(length).unwrap_or(PIECE).min(PIECE);
                    let part = &mut self.buffer[..part];
                    self.files[file].read_exact_at(part, begin + (at - run.start))?;
                    self.faults.fill_from(address, part)?
                }
            };
            match outcome {
                FillOutcome::Filled(bytes) => at += bytes,
                FillOutcome::AlreadyPresent => {
                    // A thread may have begun to wait before it was there.
                    self.faults.wake_threads(address, PAGE)?;
                    at += PAGE;
                }
                FillOutcome::EventsPending => return Ok(false),
                // The process is ending, or has unmapped the page.
                FillOutcome::Gone => return Ok(true),
            }
        }
        Ok(true)
    }

    /// Fills pages with zeroes. If that stops half-way, the library does not tell how far it came: then
    /// a single page is filled.
    fn fill_zeroes(&self, address: u64, length: u64) -> io::Result<FillOutcome> {
        match self.faults.fill_zeroes(address, length)? {
            FillOutcome::EventsPending if length > PAGE => self.faults.fill_zeroes(address, PAGE),
            outcome => Ok(outcome),
        }
    }

    /// Writes the recorded working set when its time has passed. A failure only makes the next
    /// restore slower.
    fn finish_recording(&mut self) {
        let Some(mut done) = self
            .recording
            .take_if(|recording| recording.until <= Instant::now())
        else {
            return;
        };
        let content = working::encode(self.task.bytes, &done.pages.ranges());
        let written = done
            .file
            .write_all(&content)
            .and_then(|()| done.file.sync_all());
        if written.is_ok() {
            // The agent may be gone.
            let _ = (&self.control).write_all(RECORDED);
        }
    }
}

/// Returns the window of `around` bytes, aligned to its size, that `offset` is in, cut at the end of
/// the memory.
fn window(offset: u64, around: u64, bytes: u64) -> Range<u64> {
    let start = offset / around * around;
    start..(start + around).min(bytes)
}
