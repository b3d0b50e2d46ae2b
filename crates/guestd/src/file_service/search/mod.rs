//! `Search`: files below a directory by name and content, with the libraries of ripgrep.
//!
//! One blocking thread walks and reads as the user; matches go through a short queue, so a slow
//! client stops the search and nothing piles up, and one that hangs up ends it. Everything has a
//! bound: matches, time, the length of a line, the size of a pattern, the directories that are still
//! to be read. A search that meets one ends with what it found and says which.

use std::path::PathBuf;
use std::time::Duration;

use connectrpc::ConnectError;
use futures::Stream;
use guest_rpc::file as rpc;
use guest_rpc::file::search_response::{Done, Matches, SearchKeepAlive, SearchStarted};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::as_user::as_user;
use crate::filesystem::error::FileError;
use crate::user::User;

mod content;
mod query;
mod walk;

pub use query::Query;

/// Most messages that wait for the client.
const QUEUE: usize = 4;

/// Most matches of one message.
const MAX_MATCHES: usize = 256;

/// Bytes of paths and lines after which a message is sent: one of the host may have four times as
/// many.
const MAX_TEXT: usize = 256 << 10;

/// Time after which a match that was found is sent, also if few others were.
const MAX_DELAY: Duration = Duration::from_millis(200);

/// Time without a match after which the client is told that the search goes on.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Reason for which a search ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The client is gone.
    HungUp,
    Matches,
    Time,
}

/// Matches that wait to be sent, and the summary so far.
struct Findings {
    sender: mpsc::Sender<rpc::SearchResponse>,
    matches: Vec<rpc::Match>,
    text: usize,
    /// Matches that may still be sent.
    left: u32,
    deadline: Instant,
    last_sent: Instant,
    done: Done,
}

/// Searches, and streams what is found.
pub fn search(
    top: PathBuf,
    query: Query,
    user: User,
) -> impl Stream<Item = Result<rpc::SearchResponse, ConnectError>> + Send {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let now = Instant::now();
    let mut findings = Findings {
        sender,
        matches: Vec::new(),
        text: 0,
        left: query.max_matches,
        deadline: now + query.timeout,
        last_sent: now,
        done: Done::default(),
    };
    tokio::task::spawn_blocking(move || {
        let searched = as_user(&user, || findings.run(&top, &query));
        let failed = searched.err().map(|e| FileError::identity(&e).message);
        findings.finish(failed);
    });
    ReceiverStream::new(receiver).map(Ok)
}

impl Findings {
    fn run(&mut self, top: &std::path::Path, query: &Query) {
        let sent = self.send(SearchStarted::default());
        let stopped = sent.and_then(|()| walk::walk(top, query, self));
        let reason = match stopped {
            Ok(()) | Err(Stop::HungUp) => return,
            Err(Stop::Matches) => format!("more than {} matches", query.max_matches),
            Err(Stop::Time) => format!("it took more than {} s", query.timeout.as_secs_f32()),
        };
        self.done.incomplete = Some(reason);
    }

    fn finish(mut self, failed: Option<String>) {
        if failed.is_some() {
            self.done.incomplete = failed;
        }
        let done = std::mem::take(&mut self.done);
        // A client that is gone does not hear it.
        let _ = self.flush().and_then(|()| self.send(done));
    }

    /// Notes that something was passed over, for a reason that the client reads.
    fn note_incomplete(&mut self, reason: &str) {
        self.done
            .incomplete
            .get_or_insert_with(|| reason.to_owned());
    }

    fn push(&mut self, found: rpc::Match) -> Result<(), Stop> {
        if self.left == 0 {
            return Err(Stop::Matches);
        }
        self.left -= 1;
        self.text += found.path.len() + found.line.len();
        self.matches.push(found);
        let is_full = self.matches.len() == MAX_MATCHES || self.text >= MAX_TEXT;
        if is_full { self.flush() } else { Ok(()) }
    }

    /// Looks whether the search may go on. Called for each file, and for each piece that is read.
    fn check(&mut self) -> Result<(), Stop> {
        let now = Instant::now();
        if now >= self.deadline {
            return Err(Stop::Time);
        }
        if self.sender.is_closed() {
            return Err(Stop::HungUp);
        }
        let waited = now - self.last_sent;
        if waited >= MAX_DELAY && !self.matches.is_empty() {
            return self.flush();
        }
        if waited >= KEEP_ALIVE {
            return self.send(SearchKeepAlive::default());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.matches.is_empty() {
            return Ok(());
        }
        self.text = 0;
        let matches = std::mem::take(&mut self.matches);
        self.send(Matches {
            matches,
            ..Default::default()
        })
    }

    fn send(
        &mut self,
        event: impl Into<rpc::__buffa::oneof::search_response::Event>,
    ) -> Result<(), Stop> {
        let message = rpc::SearchResponse {
            event: Some(event.into()),
            ..Default::default()
        };
        let sent = self.sender.blocking_send(message);
        self.last_sent = Instant::now();
        sent.map_err(|_| Stop::HungUp)
    }
}
