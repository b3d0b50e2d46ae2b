//! Lines of one file that match.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkFinish, SinkMatch};
use guest_rpc::file as rpc;
use rustix::fs::{Mode, OFlags};

use super::query::Query;
use super::{Findings, Stop};

/// Most memory for one line: a file with a longer one counts as unreadable.
const LINE_MEMORY: usize = 8 << 20;

/// Bytes of a line that are sent.
const MAX_LINE: usize = 1024;

/// Creates the searcher of all files of one search.
pub fn searcher() -> Searcher {
    SearcherBuilder::new()
        // As ripgrep: text has no NUL.
        .binary_detection(BinaryDetection::quit(0))
        .line_number(true)
        .heap_limit(Some(LINE_MEMORY))
        // A file that is cut while it is mapped would end the agent.
        .memory_map(grep_searcher::MmapChoice::never())
        .build()
}

/// Searches a plain file, which is described by `found`.
///
/// # Errors
/// The reason for which the whole search ends.
pub fn search_file(
    path: &Path,
    found: &rpc::Match,
    query: &Query,
    searcher: &mut Searcher,
    findings: &mut Findings,
) -> Result<(), Stop> {
    let Some(content) = &query.content else {
        return findings.push(found.clone());
    };
    // A pipe that took its place must not hold the thread.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
    let file = file
        .ok()
        .filter(|file| file.metadata().is_ok_and(|own| own.is_file()));
    let Some(file) = file else {
        findings.done.unreadable += 1;
        return Ok(());
    };
    findings.done.searched += 1;
    let shared = Shared {
        findings: RefCell::new(findings),
        stop: Cell::new(None),
    };
    let mut lines = Lines {
        found,
        shared: &shared,
        is_binary: false,
    };
    let reader = Watched {
        file,
        shared: &shared,
    };
    let searched = searcher.search_reader(content, reader, &mut lines);
    let is_binary = lines.is_binary;
    if let Some(stop) = shared.stop.get() {
        return Err(stop);
    }
    let mut findings = shared.findings.borrow_mut();
    findings.done.binary += u64::from(is_binary);
    findings.done.unreadable += u64::from(searched.is_err());
    Ok(())
}

/// State that reader and sink of one file use, one after the other.
struct Shared<'a> {
    findings: RefCell<&'a mut Findings>,
    /// Reason for which the whole search ends.
    stop: Cell<Option<Stop>>,
}

impl Shared<'_> {
    /// Returns true if the search goes on.
    fn note(&self, result: Result<(), Stop>) -> bool {
        if let Err(stop) = result {
            self.stop.set(Some(stop));
        }
        self.stop.get().is_none()
    }
}

/// A file whose reading ends with the search, however long it is.
struct Watched<'a> {
    file: File,
    shared: &'a Shared<'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let checked = self.shared.findings.borrow_mut().check();
        if !self.shared.note(checked) {
            return Err(io::Error::other("the search is over"));
        }
        self.file.read(buffer)
    }
}

struct Lines<'a> {
    found: &'a rpc::Match,
    shared: &'a Shared<'a>,
    is_binary: bool,
}

impl Sink for Lines<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, line: &SinkMatch<'_>) -> io::Result<bool> {
        let bytes = line.bytes();
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let found = rpc::Match {
            line_number: line.line_number(),
            line: bytes[..bytes.len().min(MAX_LINE)].to_vec(),
            line_cut: bytes.len() > MAX_LINE,
            ..self.found.clone()
        };
        let pushed = self.shared.findings.borrow_mut().push(found);
        Ok(self.shared.note(pushed))
    }

    fn finish(&mut self, _: &Searcher, finish: &SinkFinish) -> io::Result<()> {
        self.is_binary = finish.binary_byte_offset().is_some();
        Ok(())
    }
}
