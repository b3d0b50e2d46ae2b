//! Ends of background commands as hosts report them, recorded as events.
//!
//! | the end | the start |
//! |---|---|
//! | comes after it: recorded at once | in the table of open commands, with its event |
//! | comes before it is recorded: kept here | looks for the end, and records it |
//!
//! A report that this control plane does not get, since it dies, is sent to the next one. Only ends of
//! commands whose start is an event are recorded, each once, whichever control plane sees it first.

use std::collections::VecDeque;

use model::{SandboxId, TeamId};
use parking_lot::Mutex;

use super::App;
use super::commands::end_data;
use crate::error::Result;
use crate::hosts::CommandInfo;

/// Most ends that are kept: a start is recorded milliseconds after the host's answer.
const MAX_EARLY: usize = 1024;

/// The last ends that hosts have reported of commands whose start was not recorded then.
#[derive(Debug, Default)]
pub struct EarlyEnds(Mutex<VecDeque<(SandboxId, CommandInfo)>>);

impl EarlyEnds {
    fn insert(&self, id: &SandboxId, command: &CommandInfo) {
        let mut ends = self.0.lock();
        ends.retain(|(sandbox, end)| sandbox != id || end.id != command.id);
        if ends.len() == MAX_EARLY {
            ends.pop_front();
        }
        ends.push_back((id.clone(), command.clone()));
    }

    /// Returns the end of a command if it was reported, once.
    pub(super) fn remove(&self, id: &SandboxId, command: &str) -> Option<CommandInfo> {
        let mut ends = self.0.lock();
        let is_end = |(sandbox, end): &(SandboxId, CommandInfo)| sandbox == id && end.id == command;
        let found = ends.iter().position(is_end)?;
        ends.remove(found).map(|(_, end)| end)
    }
}

impl App {
    /// Records the ends of a sandbox's commands that are not recorded yet.
    ///
    /// # Errors
    /// The store's; the host reports them again when its watch begins.
    pub async fn apply_command_ends(
        &self,
        id: &SandboxId,
        commands: Vec<CommandInfo>,
    ) -> Result<()> {
        let ended = commands.into_iter().filter(|it| it.ended_at.is_some());
        let ended: Vec<CommandInfo> = ended.collect();
        // Before the table is read: a start that is recorded after that finds them here.
        for command in &ended {
            self.early_ends.insert(id, command);
        }
        let open = self.store.open_commands(id).await?;
        let mut team = None;
        for command in ended.iter().filter(|command| open.contains(&command.id)) {
            if team.is_none() {
                let row = self.store.sandbox_get_any_team(id).await?;
                team = row.map(|sandbox| sandbox.team_id);
            }
            // It is deleted, and its commands with it.
            let Some(team) = &team else {
                return Ok(());
            };
            self.store_command_end(team, id, command).await?;
        }
        Ok(())
    }

    /// Records the end of a command, and forgets the host's report of it.
    pub(super) async fn store_command_end(
        &self,
        team: &TeamId,
        id: &SandboxId,
        command: &CommandInfo,
    ) -> std::result::Result<(), store::Error> {
        let data = end_data(command);
        let now = stdx::time::now_ms();
        self.store
            .command_ended(team, id, &command.id, data, now)
            .await?;
        self.early_ends.remove(id, &command.id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(id: usize) -> CommandInfo {
        CommandInfo {
            id: id.to_string(),
            ended_at: Some(1),
            ..CommandInfo::default()
        }
    }

    #[test]
    fn early_ends_are_bounded() {
        let ends = EarlyEnds::default();
        let [one, other] = [SandboxId::random(), SandboxId::random()];
        for number in 0..=MAX_EARLY {
            ends.insert(&one, &command(number));
        }
        assert_eq!(ends.remove(&one, "0"), None, "the oldest has gone");
        assert_eq!(ends.remove(&other, "1"), None);
        assert_eq!(ends.remove(&one, "1"), Some(command(1)));
        assert_eq!(ends.remove(&one, "1"), None, "it is told once");
    }
}
