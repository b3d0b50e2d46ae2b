//! Whether what an agent answered may be, by what the model knows.

use std::sync::atomic::Ordering;

use hostd::sandbox::SandboxError;
use model::SandboxId;

use crate::model::Known;
use crate::operations::{Client, PATIENCE};

impl Client {
    /// Whether something went wrong that can make anything fail.
    pub fn is_unlucky(&self) -> bool {
        self.kind.deaths || self.world.had_faults.load(Ordering::Relaxed)
    }

    /// Whether a refusal may be.
    pub fn judge(&self, what: &str, id: &SandboxId, error: &SandboxError) {
        if self.world.is_dead() {
            return;
        }
        self.world.tell(format!("{what} {id}: {error}"));
        let Some(known) = self.model().sandboxes.get(id).cloned() else {
            return;
        };
        let promised = known.certain && !known.removing && !known.removed;
        let is_fine = match error {
            SandboxError::Unknown(_) => !promised,
            SandboxError::NotRunning { .. } => {
                !promised || known.may_end || self.world.is_excused(id.as_str())
            }
            SandboxError::Paused
            | SandboxError::NameTaken { .. }
            | SandboxError::TemplateInUse { .. } => true,
            _ => !promised || self.is_unlucky() || known.may_end,
        };
        if !is_fine {
            self.world
                .violation(format!("{what} {id}: {error}; {known:?}"));
        }
    }

    /// The last look at a sandbox: all that was promised of it holds.
    pub async fn verify(&self, id: &SandboxId) {
        let Some(known) = self.model().sandboxes.get(id).cloned() else {
            return;
        };
        self.world.tell(format!("verify {id}"));
        let look = async {
            if let Err(error) = self.manager.resume_sandbox(id).await {
                return self.verify_refusal(id, &known, &error);
            }
            if known.stopped {
                self.world
                    .violation(format!("{id} was stopped and came back"));
            }
            self.check_timeout(id).await;
            self.read(id).await;
            self.write(id).await;
            self.heard("last pause", id, self.manager.pause_sandbox(id).await);
            self.heard("last resume", id, self.manager.resume_sandbox(id).await);
            self.read(id).await;
            self.checkpoint(id).await;
        };
        if tokio::time::timeout(PATIENCE, look).await.is_err() {
            self.world.violation(format!("stuck: {id} at its end"));
        }
    }

    fn verify_refusal(&self, id: &SandboxId, known: &Known, error: &SandboxError) {
        let promised = known.certain && !known.removing && !known.removed;
        let may_be = match error {
            SandboxError::NotRunning { .. } => {
                !promised || known.may_end || self.world.is_excused(id.as_str())
            }
            SandboxError::Unknown(_) => !promised,
            _ => false,
        };
        if !may_be {
            self.world
                .violation(format!("{id} does not come back: {error}; {known:?}"));
        }
    }
}
