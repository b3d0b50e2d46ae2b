//! Logs what was denied, in the sandbox's log. A guest decides how often that happens, so it is
//! bounded: the same line once a minute, and [`MOST`] lines a minute in all. The number of those
//! that were left out is logged before the next line.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::sandbox::log::Log;

const MINUTE: Duration = Duration::from_secs(60);
/// Most lines a minute.
const MOST: usize = 60;

#[derive(Debug)]
pub(crate) struct Events {
    log: Arc<Log>,
    reported: Mutex<Reported>,
}

#[derive(Debug, Default)]
struct Reported {
    lines: HashMap<String, Instant>,
    unreported: u64,
}

impl Events {
    pub(crate) fn new(log: Arc<Log>) -> Self {
        Self {
            log,
            reported: Mutex::default(),
        }
    }

    /// Logs that the sandbox's rules or limits denied `what`, within the bounds of lines.
    pub(crate) fn log_denied(&self, what: &str) {
        let reported = self.reported.lock().lines_for(what, Instant::now());
        reported.iter().for_each(|line| self.log.add_event(line));
    }
}

impl Reported {
    fn lines_for(&mut self, what: &str, now: Instant) -> Vec<String> {
        self.lines.retain(|_, at| now.duration_since(*at) < MINUTE);
        if self.lines.contains_key(what) {
            return Vec::new();
        }
        if self.lines.len() >= MOST {
            self.unreported += 1;
            return Vec::new();
        }
        self.lines.insert(what.to_owned(), now);
        let more = std::mem::take(&mut self.unreported);
        let more = (more > 0).then(|| format!("denied: {more} more that are not listed"));
        more.into_iter()
            .chain([format!("denied: {what}")])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_denials_fill_no_log() {
        let mut reported = Reported::default();
        let start = Instant::now();
        assert_eq!(reported.lines_for("a", start), ["denied: a"]);
        assert!(reported.lines_for("a", start).is_empty());
        let lines: usize = (0..1000)
            .map(|n| reported.lines_for(&n.to_string(), start).len())
            .sum();
        assert_eq!((lines, reported.lines.len()), (MOST - 1, MOST));
        let later = reported.lines_for("a", start + MINUTE);
        assert_eq!(later, ["denied: 941 more that are not listed", "denied: a"]);
    }
}
