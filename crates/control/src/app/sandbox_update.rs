//! Changes what may change of a sandbox while it lives: name, labels, end, and settings about
//! idleness.
//!
//! The store owns all of it, so that a change is answered while the host is away. The host goes by
//! its own copy of the settings about idleness: it is told at once, and once more by
//! `tasks::reconcile` if what it reports is not what the row says. So whichever of two changes at
//! once reaches the host last, it ends with that of the row.

use std::time::Duration;

use model::{
    EndPolicy, ErrorCode, IdleChange, Resource, SandboxAttributes, SandboxId, SandboxName,
};
use stdx::time::now_ms;
use store::Sandbox;

use super::App;
use super::sandbox_named::check_end;
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Time for the host to learn of a change before the user is answered all the same.
const HOST_TIMEOUT: Duration = Duration::from_secs(2);

/// A change of a sandbox. What is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct UpdateRequest {
    pub idle: IdleChange,
    /// Labels to set, and to remove where the value is `None`.
    pub labels: Vec<(String, Option<String>)>,
    /// `Some(None)` takes the name away.
    pub name: Option<Option<SandboxName>>,
    /// `Some(None)`: it does not end by itself.
    pub ends_at: Option<Option<i64>>,
}

impl App {
    /// Changes a sandbox that lives, also one that is paused, or whose host is away.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` for one that has stopped; `Conflict` if the name is another's.
    pub async fn update_sandbox(
        &self,
        principal: &Principal,
        id: &SandboxId,
        request: &UpdateRequest,
    ) -> Result<Sandbox> {
        principal.require_write(Resource::Sandboxes)?;
        check_end(request.ends_at.flatten())?;
        loop {
            let before = self.find_sandbox(principal, id).await?;
            if before.state.is_terminal() {
                let text = format!(
                    "sandbox {id} is {} and does not change any more",
                    before.state
                );
                return Err(Error::new(ErrorCode::InvalidState, text));
            }
            let mut spec = before.spec.clone();
            spec.change_idle_settings(request.idle);
            // Sizes that are over a limit of today stay as they are.
            if request.idle.timeout_sec.is_some() {
                spec.check(&self.limits)?;
            }
            let attributes = changed_attributes(&before, request)?;
            let updated = self
                .store
                .sandbox_update(&before, &spec, &attributes, now_ms())
                .await;
            let updated = updated.map_err(|error| match error {
                store::Error::Conflict { .. } => Error::new(
                    ErrorCode::Conflict,
                    "another living sandbox has this name; take another name, or rename that one first",
                ),
                other => other.into(),
            })?;
            // Otherwise somebody else changed it meanwhile, or it has stopped.
            if let Some(updated) = updated {
                if before.spec.idle_settings() != spec.idle_settings() {
                    self.push_idle_settings(&updated).await;
                }
                return Ok(updated);
            }
        }
    }

    /// Tells the host, if that can be done now; `tasks::reconcile` does it otherwise.
    async fn push_idle_settings(&self, sandbox: &Sandbox) {
        let told = tokio::time::timeout(HOST_TIMEOUT, self.tell_idle_settings(sandbox)).await;
        match told {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(sandbox = %sandbox.id, error = error.chain(), "its host will learn of the change later");
            }
            Err(_) => self.reconcile.notify_waiters(),
        }
    }

    /// Tells the host of a sandbox the settings about idleness that the row has.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached; the store's.
    pub(crate) async fn tell_idle_settings(&self, sandbox: &Sandbox) -> Result<()> {
        let host = self.find_host(&sandbox.id, sandbox.host_id.as_deref())?;
        let idle = sandbox.spec.idle_settings();
        let report = host.update_sandbox(&sandbox.id, idle).await?;
        self.try_apply_response(report).await.map(drop)
    }
}

fn changed_attributes(before: &Sandbox, request: &UpdateRequest) -> Result<SandboxAttributes> {
    let mut changed = before.attributes.clone();
    changed.labels = changed.labels.merge(request.labels.iter().cloned())?;
    if let Some(name) = &request.name {
        changed.name.clone_from(name);
    }
    // An end that is named holds whatever it does.
    if let Some(ends_at) = request.ends_at {
        changed.ends_at = ends_at;
        changed.end_policy = EndPolicy::Stop;
        changed.run_ms = None;
    }
    Ok(changed)
}
