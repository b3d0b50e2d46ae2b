//! Process that serves the memory of one VM: this program once more, in a jail of its own, with
//! nothing but the descriptors that it is given.
//!
//! ```text
//!  task over standard input → ready → the VMM connects and hands over its faults ─→ serving ─→ the VMM is gone: 0
//!      │ the agent is gone: 0              │                                          │ ↺ events, then a piece of
//!      └───────────────────────────────────┘                                          │   the working set
//!                                                                    anything wrong: 1, with a line on standard error
//! ```
//! One thread: all events are known before anything is filled, so that no page that was given back
//! gets its old content again. Nothing is on disk. If this process dies, the guest waits for ever
//! at the next page that is missing: the watcher of the VM ends it ([`super`]). Messages of the VMM
//! are hostile, and can harm only its own guest.

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

/// Maximum task and maximum message of a VMM, bytes.
const MESSAGE: usize = 64 * 1024;

/// Size of the aligned window around a fault that is filled with it: for content, which may cost
/// memory for nothing, and for zeroes, which cost none.
const AROUND: u64 = 32 * 1024;
const ZEROES_AROUND: u64 = 2 << 20;

/// Bytes that are copied at once, and prefetched between two reads of events.
const PIECE: usize = 256 * 1024;

/// Time from the start for which pages are recorded.
const RECORD: Duration = Duration::from_secs(5);

/// Wait for the event of a removal that blocks a fill.
const SOON: Duration = Duration::from_millis(1);

/// Timeout for the regions of a VMM that has connected.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Runs the pager. Blocking, for as long as the VM lives.
pub(super) fn run() -> io::Result<()> {
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (message, descriptors) = descriptors::receive(&control, MESSAGE)?;
    if message.is_empty() {
        return Ok(());
    }
    let task: Task = serde_json::from_slice(&message)?;
    let mut descriptors = descriptors.into_iter();
    let listener: UnixListener = next(&mut descriptors)?;
    let working = match task.working {
        Working::None => None,
        Working::Record | Working::Replay => Some(next::<File>(&mut descriptors)?),
    };
    let files: Vec<File> = descriptors.map(File::from).collect();
    let map = layers(&files, &task)?;
    (&control).write_all(READY)?;
    let Some((vmm, faults, regions)) = accept(&control, &listener, &task)? else {
        return Ok(());
    };
    drop(listener);
    let mut ahead = VecDeque::new();
    let mut recording = None;
    match (task.working, working) {
        (Working::Replay, Some(file)) => ahead = wanted(file, &task)?,
        (Working::Record, Some(file)) => {
            recording = Some(Record {
                pages: Recording::default(),
                until: Instant::now() + RECORD,
                file,
            });
        }
        _ => {}
    }
    let asked = VecDeque::new();
    let buffer = vec![0; PIECE];
    Server {
        task,
        control,
        vmm,
        faults,
        regions,
        files,
        map,
        asked,
        ahead,
        recording,
        buffer,
    }
    .serve()
}

fn next<T: From<OwnedFd>>(descriptors: &mut impl Iterator<Item = OwnedFd>) -> io::Result<T> {
    descriptors
        .next()
        .map(T::from)
        .ok_or_else(|| invalid("a descriptor is missing"))
}

fn invalid(problem: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Maps the base, without its holes, and the diffs over it.
fn layers(files: &[File], task: &Task) -> io::Result<PageMap> {
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

/// Waits for the VMM; `None` when the agent is gone before the VMM connects: then the start has
/// failed.
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
    vmm.set_read_timeout(Some(HANDSHAKE))?;
    let (message, descriptors) = descriptors::receive(&vmm, MESSAGE)?;
    let regions = regions::parse_regions(&message, task.bytes).map_err(invalid)?;
    let faults = next::<OwnedFd>(&mut descriptors.into_iter()).map(Faults::new)?;
    linux::poll::never_block(&faults)?;
    Ok(Some((vmm, faults, regions)))
}

/// Returns the working set of an earlier guest; empty if it is damaged or does not fit.
fn wanted(mut file: File, task: &Task) -> io::Result<VecDeque<Range<u64>>> {
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
    asked: VecDeque<u64>,
    /// Ranges of the working set that are fetched when no page is waited for.
    ahead: VecDeque<Range<u64>>,
    recording: Option<Record>,
    buffer: Vec<u8>,
}

impl Server {
    fn serve(mut self) -> io::Result<()> {
        loop {
            let [gone, events] = poll(
                [Ready::gone(&self.vmm), Ready::readable(&self.faults)],
                self.patience(),
            )?;
            if events {
                self.hear()?;
            }
            if gone {
                return Ok(());
            }
            if self.answer()? {
                self.fetch_ahead()?;
            }
            self.finish_recording();
        }
    }

    /// Returns how long there is nothing to do; `None` for ever.
    fn patience(&self) -> Option<Duration> {
        match &self.recording {
            _ if !self.asked.is_empty() => Some(SOON),
            _ if !self.ahead.is_empty() => Some(Duration::ZERO),
            Some(recording) => Some(recording.until.saturating_duration_since(Instant::now())),
            None => None,
        }
    }

    /// Handles all pending events.
    fn hear(&mut self) -> io::Result<()> {
        loop {
            let events = self.faults.read()?;
            if events.is_empty() {
                return Ok(());
            }
            events.into_iter().try_for_each(|event| self.note(event))?;
        }
    }

    fn note(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Missing(address) => {
                let offset = self
                    .regions
                    .iter()
                    .find_map(|region| region.offset(address));
                self.asked
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

    /// Fills the pages that are waited for. False: not all of them, since new events came.
    fn answer(&mut self) -> io::Result<bool> {
        while let Some(&offset) = self.asked.front() {
            let (run, source) = self.run(offset);
            // The page itself first, and then what is before it.
            if !self.fill(offset, run.end, &run, source)?
                || !self.fill(run.start, offset, &run, source)?
            {
                return Ok(false);
            }
            self.asked.pop_front();
            if let Some(recording) = &mut self.recording {
                let around = window(offset, AROUND, self.task.bytes);
                recording
                    .pages
                    .add(&(run.start.max(around.start)..run.end.min(around.end)));
            }
        }
        Ok(true)
    }

    /// Returns the range to fill for a fault at `offset`, and its source.
    fn run(&self, offset: u64) -> (Range<u64>, Source) {
        match self
            .map
            .source_around(offset, &window(offset, AROUND, self.task.bytes))
        {
            (_, Source::Zeroes) => self
                .map
                .source_around(offset, &window(offset, ZEROES_AROUND, self.task.bytes)),
            content => content,
        }
    }

    fn fetch_ahead(&mut self) -> io::Result<()> {
        let Some(range) = self.ahead.pop_front() else {
            return Ok(());
        };
        let piece = range.start..range.end.min(range.start + PIECE as u64);
        let (run, source) = self.map.source_around(piece.start, &piece);
        if run.end < range.end {
            self.ahead.push_front(run.end..range.end);
        }
        if !self.fill(run.start, run.end, &run, source)? {
            self.ahead.push_front(run);
        }
        Ok(())
    }

    /// Fills from `at` to `end`, which are within `run`, skipping pages that are filled already.
    /// False: new events came, so the map of the memory may be out of date.
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
                Source::Zeroes => self.zero(address, length)?,
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

    /// Fills as many pages with zeroes as possible; a single page where many are not.
    fn zero(&self, address: u64, length: u64) -> io::Result<FillOutcome> {
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

fn window(offset: u64, around: u64, bytes: u64) -> Range<u64> {
    let start = offset / around * around;
    start..(start + around).min(bytes)
}
