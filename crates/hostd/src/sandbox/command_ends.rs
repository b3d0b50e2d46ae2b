//! Ends of background commands, which are reported to all watchers without a client that reads.
//!
//! The guest has the commands, and is asked for them while one may run:
//!
//! | one may run | from | until |
//! |---|---|---|
//! | its start went through this agent | the guest's answer | the guest lists none that runs |
//! | an earlier agent has left the sandbox | the start of this agent | the same |
//!
//! Nothing of it is on disk. An agent that starts asks each guest that runs, and a paused one when it
//! runs again; the guest keeps commands for a time after their end. A watcher is first sent all ends
//! that are known, and takes no notice of those that it has recorded.

use std::time::Duration;

use host_rpc as rpc;
use model::SandboxId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Shortest and longest time between two questions. In between it is a quarter of the time since the
/// last start, so that an end is never reported much later than the command took.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);
/// Most characters of a name in a report; names of ours are shorter.
const MAX_NAME: usize = 256;

/// Background commands of a sandbox, as far as their ends are concerned.
#[derive(Debug)]
pub struct CommandEnds {
    state: Mutex<State>,
    pub(super) started: Notify,
}

#[derive(Debug)]
struct State {
    /// False if all commands are known to have ended.
    may_run: bool,
    /// Time of the last start.
    since: Instant,
    /// Commands that have ended, and that the guest still lists.
    ended: Vec<rpc::Command>,
}

impl Default for CommandEnds {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                may_run: false,
                since: Instant::now(),
                ended: Vec::new(),
            }),
            started: Notify::new(),
        }
    }
}

impl CommandEnds {
    /// Notes that a command may run from now on.
    pub fn note_start(&self) {
        let mut state = self.state.lock();
        state.may_run = true;
        state.since = Instant::now();
        drop(state);
        self.started.notify_one();
    }

    /// Returns the commands that are known to have ended.
    #[must_use]
    pub fn list_ended(&self) -> Vec<rpc::Command> {
        self.state.lock().ended.clone()
    }

    /// Returns the time to the next question; `None` if there is nothing to ask for.
    pub(super) fn interval(&self) -> Option<Duration> {
        let state = self.state.lock();
        let quarter = state.since.elapsed() / 4;
        state.may_run.then(|| quarter.clamp(SHORTEST, LONGEST))
    }

    /// Takes the guest's list, from a question that was asked at `asked_at`. Returns the commands
    /// whose end is new.
    pub(super) fn apply_list(
        &self,
        listed: Vec<rpc::Command>,
        asked_at: Instant,
    ) -> Vec<rpc::Command> {
        let mut state = self.state.lock();
        let (ended, running): (Vec<_>, Vec<_>) = listed
            .into_iter()
            // The start command is told as what the sandbox does, not as what a client has begun.
            .filter(|command| command.supervision.as_option().is_none())
            .partition(|command| command.ended_ms.is_some());
        // A start since then is not in the list.
        state.may_run = !running.is_empty() || state.since > asked_at;
        let ended: Vec<_> = ended.into_iter().map(end_of).collect();
        let is_known = |command: &rpc::Command| state.ended.iter().any(|it| it.id == command.id);
        let new = ended.iter().filter(|it| !is_known(it)).cloned().collect();
        state.ended = ended;
        new
    }
}

/// Returns what a report says of a command that has ended.
fn end_of(command: rpc::Command) -> rpc::Command {
    let name = command
        .name
        .map(|name| name.chars().take(MAX_NAME).collect());
    rpc::Command {
        id: command.id.chars().take(MAX_NAME).collect(),
        name,
        started_ms: command.started_ms,
        ended_ms: command.ended_ms,
        exit_code: command.exit_code,
        signal: command.signal,
        timed_out: command.timed_out,
        ..Default::default()
    }
}

/// Builds the report of commands that have ended.
#[must_use]
pub fn report_of(id: &SandboxId, commands: Vec<rpc::Command>) -> rpc::CommandsEnded {
    rpc::CommandsEnded {
        sandbox_id: id.to_string(),
        commands,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(id: &str, ended_ms: Option<i64>) -> rpc::Command {
        rpc::Command {
            id: id.to_owned(),
            args: vec!["secret".to_owned()],
            ended_ms,
            ..Default::default()
        }
    }

    fn ids(commands: &[rpc::Command]) -> Vec<&str> {
        commands.iter().map(|command| &*command.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn end_is_new_once() {
        let ends = CommandEnds::default();
        assert_eq!(ends.interval(), None, "there is no command");
        ends.note_start();
        assert_eq!(ends.interval(), Some(SHORTEST));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(ends.interval(), Some(Duration::from_secs(5)));
        let list = || vec![command("a", Some(1)), command("b", None)];
        let new = ends.apply_list(list(), Instant::now());
        assert_eq!(ids(&new), ["a"]);
        assert!(new[0].args.is_empty(), "arguments may be secrets");
        assert!(ends.apply_list(list(), Instant::now()).is_empty());
        assert_eq!(ids(&ends.list_ended()), ["a"]);
        assert!(ends.interval().is_some(), "one of them runs");
        let ended = vec![command("b", Some(2))];
        assert_eq!(ids(&ends.apply_list(ended, Instant::now())), ["b"]);
        assert_eq!(ids(&ends.list_ended()), ["b"], "the guest forgot the other");
        assert_eq!(ends.interval(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn start_during_question_is_asked_for() {
        let ends = CommandEnds::default();
        ends.note_start();
        let asked_at = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        ends.note_start();
        assert!(ends.apply_list(Vec::new(), asked_at).is_empty());
        assert_eq!(ends.interval(), Some(SHORTEST));
    }

    #[tokio::test(start_paused = true)]
    async fn start_command_is_left_out() {
        let ends = CommandEnds::default();
        ends.note_start();
        let supervised = rpc::Command {
            supervision: rpc::Supervision::default().into(),
            ..command("start", None)
        };
        assert!(ends.apply_list(vec![supervised], Instant::now()).is_empty());
        assert_eq!(ends.interval(), None);
    }
}
