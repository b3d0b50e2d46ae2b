//! Log of one sandbox: its console and the agent's own events, bounded, in order.
//!
//! Kept in memory, and written behind that to `log.jsonl` in the sandbox's directory, so that it is
//! still there after a restart of the agent and after the sandbox has ended. Not fsynced: after a
//! power cut the last lines may be missing.
//!
//! | bound | of |
//! |---|---|
//! | [`MAX_WEIGHT`], [`MAX_ENTRIES`] | kept entries, each with its overhead; the oldest are dropped first |
//! | [`MAX_LINE`] | one line; longer ones are cut into several |
//! | [`MAX_FILE`] | the file; then it is replaced by the kept entries, which are less than half of that |
//!
//! So a guest that floods its console with short lines costs no more than one that writes long
//! ones: lines that do not stay in memory are not written to the file either, and the log has the
//! number of lines that were left out. A log's file is written by one thread at a time, which is
//! never one of the runtime's; new lines during that are written next.
//!
//! Console text comes from the guest: it is cut into lines of bounded length, and control
//! characters are replaced.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::LogSource;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Most weight of kept entries, in bytes.
pub(crate) const MAX_WEIGHT: usize = 256 * 1024;
/// Most kept entries.
const MAX_ENTRIES: usize = 4096;
/// Bytes that an entry costs besides its line: in memory, and about as many in the file.
const OVERHEAD: usize = 64;
/// Most bytes of one line; longer ones are cut into several.
const MAX_LINE: usize = 1024;
/// Most bytes of the file. An entry in it takes at most twice its weight.
pub(crate) const MAX_FILE: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub source: LogSource,
    /// Milliseconds since the Unix epoch.
    pub time_ms: i64,
    pub line: String,
}

/// The log of one sandbox.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    /// Number of entries that there have ever been.
    count: watch::Sender<u64>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    kept: Mutex<Kept>,
    /// True while no thread writes the file.
    is_written: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    weight: usize,
    /// Number of the first entry that is still kept.
    first: u64,
    /// Number of the first entry that is not in the file yet.
    unwritten: u64,
    file_bytes: u64,
    /// True while a thread writes the file.
    is_writing: bool,
    /// True if the sandbox's directory is about to be removed: nothing is written any more.
    is_closed: bool,
    /// Console output after the last line feed.
    rest: Vec<u8>,
}

impl Log {
    /// Opens the log in the sandbox's directory, with the entries of an earlier run. Blocking.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("log.jsonl");
        let mut kept = Kept::default();
        let text = fs::read(&path).unwrap_or_default();
        kept.file_bytes = text.len() as u64;
        for entry in text
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
        {
            kept.keep(entry);
        }
        kept.unwritten = kept.next();
        let count = watch::Sender::new(kept.next());
        let shared = Shared {
            path,
            kept: Mutex::new(kept),
            is_written: watch::Sender::new(true),
        };
        Self {
            shared: Arc::new(shared),
            count,
        }
    }

    /// Adds an event of the agent.
    pub fn add_event(&self, line: &str) {
        self.add(|_| vec![Entry::new(LogSource::Agent, printable(line.as_bytes()))]);
    }

    /// Adds the guest's console output since the last call. An unfinished line is kept until it is
    /// complete.
    pub fn add_console_output(&self, output: &[u8]) {
        if output.is_empty() {
            return;
        }
        self.add(|kept| {
            let lines = kept.take_lines(output);
            // The oldest of them would not stay.
            let surplus = lines.len().saturating_sub(MAX_ENTRIES / 2);
            let note = format!(
                "the console wrote {} lines at once; the first {surplus} of them are not kept",
                lines.len()
            );
            let note = (surplus > 0).then(|| Entry::new(LogSource::Agent, note));
            let lines = lines
                .into_iter()
                .skip(surplus)
                .filter(|line| !line.is_empty());
            note.into_iter()
                .chain(lines.map(|line| Entry::new(LogSource::Console, line)))
                .collect()
        });
    }

    /// Adds an unfinished line of the console, since the console has ended.
    pub fn console_ended(&self) {
        self.add_console_output(b"\n");
    }

    /// Returns the entries from number `from` on that are still kept, and the number after the last
    /// one.
    #[must_use]
    pub fn entries_since(&self, from: u64) -> (Vec<Entry>, u64) {
        let kept = self.shared.lock();
        (kept.since(from).cloned().collect(), kept.next())
    }

    /// Returns a receiver that changes whenever there are new entries.
    #[must_use]
    pub fn watch_entries(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// Stops writing the file, and waits until a write in progress is done. Call it before the
    /// sandbox's directory is removed.
    pub async fn close(&self) {
        self.shared.lock().is_closed = true;
        // The sender lives as long as this.
        let _ = self
            .shared
            .is_written
            .subscribe()
            .wait_for(|is_written| *is_written)
            .await;
    }

    fn add(&self, entries: impl FnOnce(&mut Kept) -> Vec<Entry>) {
        let is_first = {
            let mut kept = self.shared.lock();
            let entries = entries(&mut kept);
            if entries.is_empty() {
                return;
            }
            entries.into_iter().for_each(|entry| kept.keep(entry));
            self.count.send_replace(kept.next());
            let is_first = !kept.is_writing && !kept.is_closed;
            kept.is_writing |= is_first;
            is_first
        };
        if is_first {
            self.shared.is_written.send_replace(false);
            self.write();
        }
    }

    /// Writes the file on a thread for blocking work; on this one if there is no runtime.
    fn write(&self) {
        let shared = Arc::clone(&self.shared);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || shared.write_all())),
            Err(_) => shared.write_all(),
        }
    }
}

impl Shared {
    /// Writes new entries to the file until there are none.
    fn write_all(&self) {
        loop {
            // Not in a condition: the lock would be held over the write.
            let unwritten = self.lock().take_unwritten();
            let Some((text, replaces)) = unwritten else {
                break;
            };
            // A log that cannot be written must not harm the sandbox: the error is ignored.
            let written = if replaces {
                replace(&self.path, &text)
            } else {
                append(&self.path, &text)
            };
            let mut kept = self.lock();
            match written {
                Ok(()) if replaces => kept.file_bytes = text.len() as u64,
                _ => kept.file_bytes += text.len() as u64,
            }
        }
        self.is_written.send_replace(true);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }
}

/// Appends lines, after a line feed: an earlier line may have been cut short by a full disk.
fn append(path: &Path, text: &str) -> io::Result<()> {
    // Does not create the sandbox's directory: it may have been removed.
    File::options()
        .create(true)
        .append(true)
        .open(path)?
        .write_all(format!("\n{text}").as_bytes())
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = linux::file::temporary_name(path);
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .inspect_err(|_| drop(fs::remove_file(&new)))
}

impl Entry {
    fn new(source: LogSource, line: String) -> Self {
        Self {
            source,
            time_ms: stdx::time::now_ms(),
            line,
        }
    }

    fn weight(&self) -> usize {
        self.line.len() + OVERHEAD
    }
}

impl Kept {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn since(&self, from: u64) -> impl Iterator<Item = &Entry> {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip)
    }

    fn keep(&mut self, entry: Entry) {
        self.weight += entry.weight();
        self.entries.push_back(entry);
        while self.weight > MAX_WEIGHT || self.entries.len() > MAX_ENTRIES {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.weight -= oldest.weight();
            self.first += 1;
        }
    }

    /// Returns the lines that are not in the file yet; with true, all kept lines, to replace a file
    /// that is full. `None` if there is nothing to write: then the calling thread must end.
    fn take_unwritten(&mut self) -> Option<(String, bool)> {
        if self.is_closed || self.unwritten >= self.next() {
            self.is_writing = false;
            return None;
        }
        let mut text = lines(self.since(self.unwritten));
        let replaces = self.file_bytes + text.len() as u64 > MAX_FILE;
        if replaces {
            text = lines(self.entries.iter());
        }
        self.unwritten = self.next();
        Some((text, replaces))
    }

    /// Returns the complete lines, and keeps the rest for the next call.
    fn take_lines(&mut self, output: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(output);
        let mut lines = Vec::new();
        let mut begin = 0;
        for (at, byte) in self.rest.iter().enumerate() {
            if *byte == b'\n' {
                lines.push(printable(&self.rest[begin..at]));
                begin = at + 1;
            } else if at - begin == MAX_LINE {
                lines.push(printable(&self.rest[begin..at]));
                begin = at;
            }
        }
        self.rest.drain(..begin);
        lines
    }
}

fn lines<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    let lines = entries.filter_map(|entry| serde_json::to_string(entry).ok());
    lines.flat_map(|line| [line, "\n".to_owned()]).collect()
}

/// Returns the text without control characters, at most [`MAX_LINE`] characters. Colour sequences
/// lose their escape character.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean = text.trim_end().chars().map(|c| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    });
    clean.take(MAX_LINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &Log) -> Vec<String> {
        log.entries_since(0)
            .0
            .into_iter()
            .map(|entry| entry.line)
            .collect()
    }

    #[test]
    fn console_output_becomes_lines_however_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path());
        log.add_console_output(b"one\r\ntw");
        log.add_console_output(b"o\nthr\x1b[31mee");
        assert_eq!(lines(&log), ["one", "two"]);
        log.console_ended();
        assert_eq!(lines(&log), ["one", "two", "thr\u{fffd}[31mee"]);
        assert_eq!(lines(&Log::open(dir.path())).len(), 3);
    }

    /// Bytes of the log file, and what is kept of a log that floods of this line went through.
    fn flood(line: &[u8], times: usize) -> (u64, Vec<Entry>) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path());
        log.add_event("first");
        // As much as a console keeps between two looks.
        let output = line.repeat(64 * 1024 / line.len());
        for _ in 0..times {
            log.add_console_output(&output);
            assert!(
                fs::metadata(dir.path().join("log.jsonl")).unwrap().len()
                    <= MAX_FILE + 2 * MAX_WEIGHT as u64
            );
        }
        log.add_event("last");
        let kept = log.entries_since(0).0;
        let again = Log::open(dir.path()).entries_since(0).0;
        assert_eq!(
            again.last(),
            kept.last(),
            "a restart finds the newest lines"
        );
        (
            fs::metadata(dir.path().join("log.jsonl")).unwrap().len(),
            kept,
        )
    }

    #[test]
    fn flood_of_any_lines_is_bounded() {
        for line in [
            b"x\n".as_slice(),
            b"\n",
            &[b'x'; 1000],
            b"\"\\\"\n",
            b"\xff\xff\n",
        ] {
            let (file_bytes, kept) = flood(line, 40);
            let weight: usize = kept.iter().map(Entry::weight).sum();
            assert!(
                kept.len() <= MAX_ENTRIES && weight <= MAX_WEIGHT,
                "{} entries of {line:?}",
                kept.len()
            );
            assert!(file_bytes <= MAX_FILE, "{file_bytes} bytes of {line:?}");
            assert_eq!(kept.last().map(|entry| entry.line.as_str()), Some("last"));
        }
    }

    #[test]
    fn event_after_flood_appends_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path());
        log.add_console_output(&b"x\n".repeat(32 * 1024));
        let before = fs::metadata(dir.path().join("log.jsonl")).unwrap().len();
        log.add_event("one event");
        assert!(fs::metadata(dir.path().join("log.jsonl")).unwrap().len() - before < 200);
    }

    #[test]
    fn lines_passed_over_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path());
        log.add_console_output(&b"x\n".repeat(3000));
        let note = "the console wrote 3000 lines at once; the first 952 of them are not kept";
        assert_eq!(lines(&log).first().map(String::as_str), Some(note));
    }

    #[tokio::test]
    async fn closed_log_writes_nothing_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path());
        log.add_event("before");
        log.close().await;
        let _ = fs::remove_file(dir.path().join("log.jsonl"));
        log.add_event("after");
        log.close().await;
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(lines(&log), ["before", "after"]);
    }

    proptest::proptest! {
        /// However output is cut into pieces, the same lines come of it.
        #[test]
        fn lines_do_not_depend_on_pieces(
            output in proptest::collection::vec(proptest::prop_oneof![4 => proptest::prelude::Just(b'x'), 1 => proptest::prelude::Just(b'\n')], 0..5000),
            cuts in proptest::collection::vec(0_usize..5000, 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(output.len())).chain([output.len()]).collect();
            cuts.sort_unstable();
            let mut pieces = Kept::default();
            let mut found = Vec::new();
            let mut begin = 0;
            for cut in cuts {
                found.extend(pieces.take_lines(&output[begin..cut]));
                begin = cut;
            }
            let mut whole = Kept::default();
            proptest::prop_assert_eq!(found, whole.take_lines(&output));
            proptest::prop_assert_eq!(&pieces.rest, &whole.rest);
            proptest::prop_assert!(pieces.rest.len() <= MAX_LINE);
        }
    }

    #[test]
    fn readers_go_on_where_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path());
        log.add_event("one");
        let (_, next) = log.entries_since(0);
        log.add_event("two");
        let (entries, next) = log.entries_since(next);
        assert_eq!(
            entries
                .iter()
                .map(|entry| entry.line.as_str())
                .collect::<Vec<_>>(),
            ["two"]
        );
        assert!(log.entries_since(next).0.is_empty());
    }
}
