//! What happened in and to one sandbox: its console and the agent's own events, bounded, in order.
//!
//! Kept in memory and appended to `log.jsonl` in the sandbox's directory, so that it is still there after a
//! restart of the agent and after the sandbox has ended. Both are bounded: when the file has grown to twice the
//! bound it is replaced by what memory holds. Not fsynced: after a power cut the last lines may be missing.
//!
//! Console text comes from the guest: it is cut into lines of bounded length, and control characters are replaced.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Bytes of lines that are kept.
const MAX_BYTES: usize = 256 * 1024;
/// Bytes of one line; longer ones are cut into several.
const MAX_LINE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Console,
    Agent,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub source: Source,
    /// Milliseconds since the Unix epoch.
    pub time_ms: i64,
    pub line: String,
}

/// The log of one sandbox.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    kept: Mutex<Kept>,
    /// How many entries there have ever been.
    count: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Number of the first entry that is still kept.
    first: u64,
    file_bytes: usize,
    /// Console output after the last line feed.
    rest: Vec<u8>,
}

impl Log {
    /// The log in the sandbox's directory, with what an earlier run wrote.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("log.jsonl");
        let mut kept = Kept::default();
        let text = fs::read_to_string(&path).unwrap_or_default();
        kept.file_bytes = text.len();
        for entry in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            kept.keep(entry);
        }
        let count = kept.next();
        Self { path, kept: Mutex::new(kept), count: watch::Sender::new(count) }
    }

    /// Notes what the agent did.
    pub fn agent(&self, line: &str) {
        self.add(vec![Entry { source: Source::Agent, time_ms: super::now_ms(), line: printable(line.as_bytes()) }]);
    }

    /// Takes what the guest wrote to its console since the last call. An unfinished line waits for its end.
    pub fn console(&self, output: &[u8]) {
        if output.is_empty() {
            return;
        }
        let lines = self.lock().take_lines(output);
        let time_ms = super::now_ms();
        self.add(lines.into_iter().map(|line| Entry { source: Source::Console, time_ms, line }).collect());
    }

    /// Notes an unfinished line of the console: there will be no more of it.
    pub fn console_ended(&self) {
        self.console(b"\n");
    }

    /// The entries from number `from` on that are still kept, and the number after the last one.
    #[must_use]
    pub fn since(&self, from: u64) -> (Vec<Entry>, u64) {
        let kept = self.lock();
        let skip = usize::try_from(from.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        (kept.entries.iter().skip(skip).cloned().collect(), kept.next())
    }

    /// Changes whenever there are new entries.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    fn add(&self, entries: Vec<Entry>) {
        let mut kept = self.lock();
        let mut text = String::new();
        for entry in entries {
            if entry.source == Source::Console && entry.line.is_empty() {
                continue;
            }
            text += &serde_json::to_string(&entry).unwrap_or_default();
            text.push('\n');
            kept.keep(entry);
        }
        kept.file_bytes += text.len();
        // A log that cannot be written is no reason to harm the sandbox.
        let _ = if kept.file_bytes > 2 * MAX_BYTES { kept.rewrite(&self.path) } else { append(&self.path, &text) };
        self.count.send_replace(kept.next());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    // Only where the sandbox's directory still is: a log must not bring it back.
    File::options().create(true).append(true).open(path)?.write_all(text.as_bytes())
}

impl Kept {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn keep(&mut self, entry: Entry) {
        self.bytes += entry.line.len();
        self.entries.push_back(entry);
        while self.bytes > MAX_BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.line.len();
            self.first += 1;
        }
    }

    fn rewrite(&mut self, path: &Path) -> std::io::Result<()> {
        let lines = self.entries.iter().filter_map(|entry| serde_json::to_string(entry).ok());
        let text: String = lines.flat_map(|line| [line, "\n".to_owned()]).collect();
        self.file_bytes = text.len();
        fs::write(path, text)
    }

    fn take_lines(&mut self, output: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(output);
        let mut lines = Vec::new();
        loop {
            let end = self.rest.iter().position(|byte| *byte == b'\n');
            let cut = match end {
                Some(end) if end <= MAX_LINE => end,
                _ if self.rest.len() > MAX_LINE => MAX_LINE,
                _ => return lines,
            };
            lines.push(printable(&self.rest[..cut]));
            self.rest.drain(..cut + usize::from(end == Some(cut)));
        }
    }
}

/// Text without control characters, at most [`MAX_LINE`] characters. Colour sequences lose their escape character.
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
        log.since(0).0.into_iter().map(|entry| entry.line).collect()
    }

    #[test]
    fn console_output_becomes_lines_however_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path());
        log.console(b"one\r\ntw");
        log.console(b"o\nthr\x1b[31mee");
        assert_eq!(lines(&log), ["one", "two"]);
        log.console_ended();
        assert_eq!(lines(&log), ["one", "two", "thr\u{fffd}[31mee"]);
        assert_eq!(lines(&Log::open(dir.path())).len(), 3);
    }

    #[test]
    fn a_flood_is_bounded_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path());
        log.agent("first");
        for _ in 0..200 {
            log.console(&[b'x'; 10_000]);
        }
        log.agent("last");
        let kept = lines(&log);
        assert!(kept.iter().map(String::len).sum::<usize>() <= MAX_BYTES);
        assert_eq!(kept.last().map(String::as_str), Some("last"));
        assert!(fs::metadata(dir.path().join("log.jsonl")).unwrap().len() < 3 * MAX_BYTES as u64);
    }

    #[test]
    fn readers_go_on_where_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path());
        log.agent("one");
        let (_, next) = log.since(0);
        log.agent("two");
        let (entries, next) = log.since(next);
        assert_eq!(entries.iter().map(|entry| entry.line.as_str()).collect::<Vec<_>>(), ["two"]);
        assert!(log.since(next).0.is_empty());
    }
}
