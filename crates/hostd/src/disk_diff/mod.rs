//! Comparison of two disks by a process of its own ([`disk_diff`]): its turn, start, messages, end.
//!
//! ```text
//!   turn: of its sandbox and its team the only one, of the host one of two ── refused, or too late ──→ error
//!     │ disks are made ready, unless the caller has hung up
//!   reader: a task passes on its messages, within its time ──→ its process ends ──→ turn ends
//! ```
//! A task owns the process, so that it ends with the comparison whatever happens: the caller hangs
//! up, it passes its deadline, it breaks. Two run at a time, since each may use a processor and
//! gigabytes of memory; more wait, in the order in which they came. The turn ends with the process:
//! a caller that reads nothing more keeps no other one waiting beyond that.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use disk_diff::compare::{Change, Summary};
use disk_diff::reader::{MAX_MESSAGE, spawn_reader};
use disk_diff::{Message, Task};
use futures::StreamExt;
use linux::process::Ended;
use linux::program_file::ProgramFile;
use linux::worker::Worker;
use model::SandboxId;
use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::worker_messages::read_messages;

/// Comparisons at a time.
const MAX_COMPARISONS: usize = 2;
/// Comparisons that wait for their turn. Each has a caller that waits.
const MAX_WAITING: usize = 32;
/// Comparisons of one team, of which one runs at a time: the others of the host are for other teams.
const MAX_OF_TEAM: usize = 8;
/// Longest wait for a turn: more than most comparisons take.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Time over that of the task after which a reader is killed, which ends by itself before.
const GRACE: Duration = Duration::from_secs(10);
/// Longest time for a killed reader to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a reader that has said its last to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that wait for a slow caller.
const QUEUE: usize = 64;

/// Reason why a comparison fails.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error("there is no {0} in either state")]
    NoSuchPath(String),
    #[error("the disks cannot be compared: {0}")]
    Unreadable(String),
    #[error("the program that compares disks cannot be started")]
    Start(#[source] io::Error),
    #[error("the program that compares disks ended early: {0}")]
    EndedEarly(String),
    #[error("the sandbox was resumed while its disk was read; try again, or compare checkpoints")]
    Resumed,
    #[error("another comparison of this sandbox is running; try again when it has ended")]
    AlreadyRuns,
    #[error(
        "{MAX_WAITING} comparisons wait on this host, of which {MAX_COMPARISONS} run at a time; try \
         again later"
    )]
    TooMany,
    #[error(
        "{MAX_OF_TEAM} comparisons of this team run or wait on this host, one at a time; try again \
         later"
    )]
    TooManyOfTeam,
    #[error(
        "other comparisons on this host, of which {MAX_COMPARISONS} run at a time, took more than {} \
         s; try again later", .0.as_secs()
    )]
    NoTurn(Duration),
    #[error("the disks could not be opened within the time of the comparison; give it more")]
    TimeOver,
    #[error("the caller has hung up")]
    HungUp,
}

/// A part of the result.
#[derive(Debug)]
pub(crate) enum DiffPart {
    Change(Box<Change>),
    End(Summary),
}

/// Comparisons of one agent.
#[derive(Debug)]
pub(crate) struct Comparisons {
    permits: Arc<Semaphore>,
    reserved: Arc<Mutex<Reserved>>,
    /// User of the readers.
    user: u32,
}

/// Sandboxes that have a turn, or wait for one.
#[derive(Debug, Default)]
struct Reserved {
    /// With their team.
    sandboxes: BTreeMap<SandboxId, String>,
    /// The one permit of each team that has sandboxes here.
    teams: BTreeMap<String, Arc<Semaphore>>,
}

impl Reserved {
    fn count_of(&self, team: &str) -> usize {
        self.sandboxes.values().filter(|it| *it == team).count()
    }
}

/// Permission for one comparison, until its process has ended.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    _permit_of_team: OwnedSemaphorePermit,
    _sandbox: ReservedSandbox,
}

/// The place of a sandbox in [`Comparisons::reserved`].
#[derive(Debug)]
struct ReservedSandbox {
    reserved: Arc<Mutex<Reserved>>,
    id: SandboxId,
    permit_of_team: Arc<Semaphore>,
}

impl Drop for ReservedSandbox {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock();
        if let Some(team) = reserved.sandboxes.remove(&self.id)
            && reserved.count_of(&team) == 0
        {
            reserved.teams.remove(&team);
        }
    }
}

/// A comparison that has begun: parts come until the end or an error.
#[derive(Debug)]
pub(crate) struct Comparison {
    parts: mpsc::Receiver<Result<DiffPart, DiffError>>,
}

impl Comparison {
    /// Waits for the next part; `None` after the end. Returns the last one when its turn has ended,
    /// so that the caller may begin another comparison at once.
    pub(crate) async fn next(&mut self) -> Option<Result<DiffPart, DiffError>> {
        let part = self.parts.recv().await?;
        if matches!(part, Ok(DiffPart::End(_))) {
            while self.parts.recv().await.is_some() {}
        }
        Some(part)
    }
}

impl Comparisons {
    pub(crate) fn new(user: u32) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_COMPARISONS)),
            reserved: Arc::default(),
            user,
        }
    }

    /// Waits for the turn of a sandbox, until `hung_up` is cancelled. Before the disks are made
    /// ready, so that they are read as they are then.
    ///
    /// # Errors
    /// [`DiffError::AlreadyRuns`], [`DiffError::TooMany`], [`DiffError::TooManyOfTeam`],
    /// [`DiffError::NoTurn`], [`DiffError::HungUp`].
    pub(crate) async fn acquire_turn(
        &self,
        id: &SandboxId,
        team: &str,
        hung_up: &CancellationToken,
    ) -> Result<Turn, DiffError> {
        let sandbox = self.reserve_sandbox(id, team)?;
        // The team's first: who waits for it takes nothing from other teams.
        let permits = async {
            let of_team = Arc::clone(&sandbox.permit_of_team).acquire_owned().await?;
            let permit = Arc::clone(&self.permits).acquire_owned().await?;
            Ok::<_, AcquireError>((of_team, permit))
        };
        let permits = tokio::select! {
            // So that no turn is taken for a caller that is gone.
            biased;
            () = hung_up.cancelled() => return Err(DiffError::HungUp),
            permits = permits => permits,
            () = tokio::time::sleep(MAX_WAIT) => return Err(DiffError::NoTurn(MAX_WAIT)),
        };
        // They are never closed.
        let (permit_of_team, permit) = permits.map_err(|_| DiffError::HungUp)?;
        Ok(Turn {
            _permit: permit,
            _permit_of_team: permit_of_team,
            _sandbox: sandbox,
        })
    }

    fn reserve_sandbox(&self, id: &SandboxId, team: &str) -> Result<ReservedSandbox, DiffError> {
        let mut reserved = self.reserved.lock();
        if reserved.sandboxes.contains_key(id) {
            return Err(DiffError::AlreadyRuns);
        }
        if reserved.count_of(team) >= MAX_OF_TEAM {
            return Err(DiffError::TooManyOfTeam);
        }
        if reserved.sandboxes.len() >= MAX_COMPARISONS + MAX_WAITING {
            return Err(DiffError::TooMany);
        }
        reserved.sandboxes.insert(id.clone(), team.to_owned());
        let permit = reserved.teams.entry(team.to_owned());
        let permit = permit.or_insert_with(|| Arc::new(Semaphore::new(1)));
        Ok(ReservedSandbox {
            reserved: Arc::clone(&self.reserved),
            id: id.clone(),
            permit_of_team: Arc::clone(permit),
        })
    }

    /// Starts a comparison of the disks that consist of `files`, and waits until both are read, or
    /// `hung_up` is cancelled.
    ///
    /// # Errors
    /// [`DiffError`], unless it fails later.
    pub(crate) async fn start(
        &self,
        turn: Turn,
        task: Task,
        files: Vec<File>,
        hung_up: &CancellationToken,
    ) -> Result<Comparison, DiffError> {
        let user = self.user;
        let deadline = Instant::now() + task.max_time + GRACE;
        let path = String::from_utf8_lossy(&task.path.0).into_owned();
        let start = move || spawn_reader(&ProgramFile::open_running()?, user, &task, &files);
        let reader = stdx::task::spawn_blocking(start).await;
        let reader = reader.map_err(io::Error::other).and_then(|reader| reader);
        let reader = reader.map_err(DiffError::Start)?;
        follow_reader(reader, turn, path, deadline, hung_up).await
    }
}

/// Has a task follow a reader, and waits until it has begun.
async fn follow_reader(
    reader: Worker,
    turn: Turn,
    path: String,
    deadline: Instant,
    hung_up: &CancellationToken,
) -> Result<Comparison, DiffError> {
    let (sender, mut parts) = mpsc::channel(QUEUE);
    let (started, is_started) = oneshot::channel();
    tokio::spawn(follow(reader, turn, path, deadline, started, sender));
    let is_started = tokio::select! {
        // The task ends the reader, since nobody receives its parts.
        () = hung_up.cancelled() => return Err(DiffError::HungUp),
        is_started = is_started => is_started.is_ok(),
    };
    if !is_started {
        // It said why, or there is a panic.
        let failed = parts.recv().await.and_then(Result::err);
        let unknown = || DiffError::EndedEarly("for an unknown reason".to_owned());
        return Err(failed.unwrap_or_else(unknown));
    }
    Ok(Comparison { parts })
}

/// Passes on the messages of a reader until its last one, and ends it.
async fn follow(
    mut reader: Worker,
    turn: Turn,
    path: String,
    deadline: Instant,
    started: oneshot::Sender<()>,
    parts: mpsc::Sender<Result<DiffPart, DiffError>>,
) {
    let passed = tokio::select! {
        passed = pass_on(&mut reader, &path, started, &parts) => passed,
        () = parts.closed() => Ok(Outcome::Broken),
        () = tokio::time::sleep_until(deadline) => {
            Err(DiffError::EndedEarly("it did not keep to its time".to_owned()))
        }
    };
    let is_finished = matches!(passed, Ok(Outcome::Finished));
    let end = move || end_process(&reader, is_finished);
    let ended = stdx::task::spawn_blocking(end).await;
    // Before the last part is sent, which a caller that does not read delays as long as it likes.
    drop(turn);
    let failed = match passed {
        Ok(Outcome::Finished) => return,
        Ok(Outcome::Broken) => DiffError::EndedEarly(match ended {
            Ok(Ok(words)) => words,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        }),
        Err(error) => error,
    };
    let _ = parts.send(Err(failed)).await;
}

enum Outcome {
    Finished,
    /// It hung up before its end.
    Broken,
}

async fn pass_on(
    reader: &mut Worker,
    path: &str,
    started: oneshot::Sender<()>,
    parts: &mpsc::Sender<Result<DiffPart, DiffError>>,
) -> Result<Outcome, DiffError> {
    let broken = |error: io::Error| DiffError::EndedEarly(error.to_string());
    let mut messages = read_messages(reader, MAX_MESSAGE).map_err(broken)?;
    let mut started = Some(started);
    while let Some(message) = messages.next().await {
        let part = match parse(&message.map_err(broken)?)? {
            Message::Started => {
                if let Some(started) = started.take() {
                    // The caller may be gone, which is noticed below.
                    let _ = started.send(());
                }
                continue;
            }
            Message::Change(change) => DiffPart::Change(change),
            Message::End(summary) => DiffPart::End(summary),
            Message::NoSuchPath => return Err(DiffError::NoSuchPath(path.to_owned())),
            Message::TimeOver => return Err(DiffError::TimeOver),
            Message::Failed(reason) => return Err(DiffError::Unreadable(reason)),
        };
        let is_last = matches!(part, DiffPart::End(_));
        if parts.send(Ok(part)).await.is_err() || is_last {
            return Ok(Outcome::Finished);
        }
    }
    Ok(Outcome::Broken)
}

fn parse(message: &BytesMut) -> Result<Message, DiffError> {
    serde_json::from_slice(message).map_err(|error| DiffError::EndedEarly(error.to_string()))
}

/// Ends a reader, and returns how that went.
fn end_process(reader: &Worker, is_finished: bool) -> io::Result<String> {
    let grace = match is_finished {
        true => END_TIMEOUT,
        // It may be about to end with a reason.
        false => Duration::from_millis(100),
    };
    let ended = reader.end(grace, KILL_TIMEOUT)?;
    let how = ended.unwrap_or(Ended::Unknown).to_string();
    Ok(reader.last_words().unwrap_or(how))
}

#[cfg(test)]
mod tests;
