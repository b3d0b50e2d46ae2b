//! Questions that change what a sandbox is to be: undo, stop, settings.

use std::collections::{BTreeMap, BTreeSet};

use hostd::sandbox::manager::undo::UndoTarget;
use hostd::sandbox::state::End;
use model::{IdleSettings, SandboxId};

use crate::operations::Client;

impl Client {
    /// Undoes to a checkpoint, which saves the present state first.
    pub async fn undo(&self, id: &SandboxId) {
        self.go_back("undo", id, BTreeMap::pop_last, async |name| {
            let target = UndoTarget::Checkpoint(name);
            self.manager.undo_sandbox(id, target).await.map(drop)
        })
        .await;
    }

    /// Ends it for good.
    pub async fn stop(&self, id: &SandboxId) {
        self.world.tell(format!("stop {id}"));
        self.note(id, |known, _| known.may_end = true);
        let end = End {
            failed: false,
            refused: false,
            cause: None,
            reason: "it was told to".to_owned(),
        };
        match self.manager.stop_sandbox(id, end).await {
            Ok(handle) => {
                let state = handle.record.borrow().phase.state();
                if !self.world.is_dead() && !state.is_terminal() {
                    self.world
                        .violation(format!("{id} was stopped and is {state}"));
                }
                self.note(id, |known, _| known.stopped = true);
                self.world.tell(format!("  stopped {id}"));
            }
            Err(error) => self.judge("stop", id, &error),
        }
    }

    /// Changes settings about idleness, as a `PATCH` does.
    pub async fn set_timeout(&self, id: &SandboxId) {
        let timeout_sec = match self.world.one_in(3) {
            true => 1 + u32::try_from(self.world.below(3)).unwrap(),
            false => 3600 + u32::try_from(self.world.fresh()).unwrap(),
        };
        let Ok(handle) = self.manager.find_sandbox(id).await else {
            return;
        };
        let settings = IdleSettings {
            timeout_sec,
            auto_resume: !self.world.one_in(4),
            ..handle.record.borrow().spec.idle_settings()
        };
        let values = Some(BTreeSet::from([timeout_sec.into()]));
        let Some(set) = self.note(id, |known, now| known.timeout.begin(values, now, true)) else {
            return;
        };
        let answer = self.manager.update_sandbox(id, settings).await;
        self.world
            .tell(format!("timeout {timeout_sec} of {id}: {}", answer.is_ok()));
        self.note(id, |known, now| known.timeout.end(set, answer.is_ok(), now));
        if let Err(error) = answer {
            self.judge("settings", id, &error);
        }
    }

    /// The record has settings that may be.
    pub async fn check_timeout(&self, id: &SandboxId) {
        let Some(from) = self.note(id, |_, now| now) else {
            return;
        };
        let Ok(handle) = self.manager.find_sandbox(id).await else {
            return;
        };
        let timeout: u64 = handle.record.borrow().spec.timeout_sec.into();
        self.note(id, |known, now| {
            let may_be = known.timeout.seen(from, now);
            if may_be
                .as_ref()
                .is_some_and(|values| !values.contains(&timeout))
            {
                self.world.violation(format!(
                    "{id} has a timeout of {timeout} s and may have {may_be:?}"
                ));
            }
        });
    }
}
