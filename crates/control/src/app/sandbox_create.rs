//! Creates a sandbox: template, row, host, report.
//!
//! The cached inventories of the hosts decide on sizes and host. The row comes before a host is
//! asked, so that all that a host makes is known. From the moment a host is asked it owns the
//! state. If we die in between, the row is `pending`: either the host then reports the sandbox, or
//! `tasks::reconcile` removes the row after a while. If a step fails while the user waits, row and
//! remains go: the id was never told.

use std::slice;

use model::{
    ErrorCode, Resource, ResourceRequest, SandboxAttributes, SandboxId, SandboxSpec, SandboxState,
    StopReason,
};
use runtime::trace::{set_attribute, try_step};
use stdx::time::now_ms;
use store::{Idempotency, Inserted, NewSandbox, Sandbox};

use super::App;
use super::placement::Placement;
use super::sandbox_named::{check_end, name_taken};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts;

/// Attribute of the span of a create.
const SANDBOX: &str = "wrenn.sandbox_id";

/// A sandbox to create.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Spec with the defaults for sizes that are not requested.
    pub spec: SandboxSpec,
    pub resources: ResourceRequest,
    pub attributes: SandboxAttributes,
    /// True if a living sandbox of that name is as good as a new one.
    pub returns_existing: bool,
    pub idempotency: Option<Idempotency>,
}

/// Outcome of a create.
#[derive(Debug)]
pub enum Created {
    New(Sandbox),
    /// The living sandbox of that name, which has what was asked for.
    Existing(Sandbox),
}

impl App {
    /// Creates a sandbox, and returns when it runs.
    ///
    /// # Errors
    /// The reason of the refusal; nothing of the sandbox is left then.
    pub async fn create_sandbox(
        &self,
        principal: &Principal,
        request: CreateRequest,
    ) -> Result<Created> {
        principal.require_write(Resource::Sandboxes)?;
        if request.spec.has_network_rules() {
            principal.require_write(Resource::Network)?;
        }
        check_end(request.attributes.ends_at)?;
        let name = request.attributes.name.clone();
        let Some(name) = name.filter(|_| request.returns_existing) else {
            let created = Box::pin(self.create_new(principal, request)).await;
            return created.map(Created::New);
        };
        // A sandbox that is met may end before it has begun: then the name is free again.
        loop {
            if let Some(row) = self.find_named(principal, &name).await?
                && let Some(sandbox) = self
                    .adopt_existing(principal, row, &request.spec, &request.resources)
                    .await?
            {
                return Ok(Created::Existing(sandbox));
            }
            match Box::pin(self.create_new(principal, request.clone())).await {
                // Another request was first, here or at another control plane.
                Err(error) if error.code == ErrorCode::Conflict => {
                    if self.find_named(principal, &name).await?.is_none() {
                        return Err(error);
                    }
                }
                created => return created.map(Created::New),
            }
        }
    }

    /// Creates a sandbox; a name that is taken is an error.
    async fn create_new(&self, principal: &Principal, request: CreateRequest) -> Result<Sandbox> {
        let CreateRequest {
            spec,
            resources,
            attributes,
            idempotency,
            returns_existing: _,
        } = request;
        let key_id = &principal.key_id;
        let locks = &self.idempotency_locks;
        let _lock = locks.acquire(key_id, idempotency.as_ref()).await;
        // An earlier request is answered from its row, whatever became of the template since.
        if let Some(idempotency) = &idempotency
            && let Some(met) = self.store.sandbox_find(key_id, idempotency).await?
        {
            return self.continue_create(principal, met, None).await;
        }
        self.rate_limits.count_creates(key_id, 1)?;
        let placing = self.place_sandbox(principal, spec, &resources);
        let placement = try_step("place", placing).await?;
        let new = NewSandbox {
            id: SandboxId::random(),
            team_id: principal.team_id.clone(),
            spec: placement.spec.clone(),
            attributes,
            key_id: key_id.clone(),
            idempotency,
            now: now_ms(),
        };
        let _in_flight = self.in_flight_creates.insert(&new.id);
        let _actor = self.actors.note(&new.id, principal);
        set_attribute(SANDBOX, new.id.as_str());
        let store = self.store_of(&new.id);
        let inserted = try_step("insert row", store.sandbox_insert(&new)).await?;
        self.continue_create(principal, inserted, Some(placement))
            .await
    }

    /// Continues a create with the row that the insert made or found.
    async fn continue_create(
        &self,
        principal: &Principal,
        met: Inserted,
        placement: Option<Placement>,
    ) -> Result<Sandbox> {
        let sandbox = match met {
            Inserted::New(sandbox) => sandbox,
            Inserted::Mismatch => return Err(idempotency_mismatch()),
            Inserted::NameTaken(row) => return Err(name_taken(&row)),
            Inserted::Existing(sandbox) if sandbox.deleting => {
                return Err(deleted_in_between(&sandbox.id));
            }
            // It never ran, and the first request for it died with its process.
            Inserted::Existing(sandbox)
                if sandbox.state.is_terminal() && sandbox.started_at.is_none() =>
            {
                let id = sandbox.id.clone();
                let error = self.find_start_error(sandbox).await;
                return self.fail_create(&id, error).await;
            }
            Inserted::Existing(sandbox) if sandbox.state != SandboxState::Pending => {
                return Ok(sandbox);
            }
            // The first request for it may have died with its process; hosts take the same wish
            // twice.
            Inserted::Existing(sandbox) => sandbox,
        };
        let _in_flight = self.in_flight_creates.insert(&sandbox.id);
        let _actor = self.actors.note(&sandbox.id, principal);
        match self.start_on_host(principal, &sandbox, placement).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => self.fail_create(&sandbox.id, error).await,
        }
    }

    /// Returns the error of a create whose answer was lost. Reports do not tell whether the host
    /// refused it, which makes it another error: the host answers the same call with what it has.
    async fn find_start_error(&self, sandbox: Sandbox) -> Error {
        let host = self.find_host(&sandbox.id, sandbox.host_id.as_deref()).ok();
        // It has no record of others, and would make them.
        let host = host.filter(|_| sandbox.stop_reason == Some(StopReason::StartFailed));
        if let Some(host) = host
            && let Err(error) = host.ensure_sandbox(&sandbox.id, &sandbox.spec).await
            && error.code == ErrorCode::InvalidState
        {
            return error;
        }
        did_not_start(sandbox)
    }

    /// Rolls a failed create back. The sandbox may run all the same: the answer was lost, or another
    /// control plane was asked, too.
    async fn fail_create(&self, id: &SandboxId, error: Error) -> Result<Sandbox> {
        tracing::info!(sandbox = %id, error = error.chain(), "not created");
        let ids = slice::from_ref(id);
        let may_run = |failed: Error| failed.after_change("the sandbox may have been made");
        let rolled_back = self.rollback_create(ids, "its create failed").await;
        if rolled_back.map_err(may_run)? {
            return Err(error);
        }
        let row = self.store.sandbox_get_any_team(id).await;
        let row = row.map_err(|failed| may_run(failed.into()))?;
        row.filter(|sandbox| !sandbox.deleting).ok_or(error)
    }

    /// Asks hosts in turn to run a sandbox. `placement` is `None` if they are not chosen yet.
    async fn start_on_host(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
        placement: Option<Placement>,
    ) -> Result<Sandbox> {
        let (hosts, mut first_reservation) = match (sandbox.host_id.as_deref(), placement) {
            // A host has begun it already.
            (Some(owner), _) => (self.hosts.candidates(Some(owner)), None),
            (None, Some(placement)) => (placement.hosts, Some(placement.reservation)),
            (None, None) => {
                let resources = ResourceRequest::from(&sandbox.spec);
                let spec = sandbox.spec.clone();
                let placement = self.place_sandbox(principal, spec, &resources).await?;
                (placement.hosts, Some(placement.reservation))
            }
        };
        let mut refusal = Error::new(
            ErrorCode::HostUnavailable,
            "no host can take a sandbox now; try again later",
        );
        let has_alternative = hosts.len() > 1;
        for host in hosts {
            // A create whose connection breaks cannot be tried on another host: the first may have
            // begun it. So a host that has just gone away is found by a call that changes nothing.
            let reservation = first_reservation.take();
            let mut reservation = reservation.unwrap_or_else(|| host.reserve());
            if has_alternative && let Err(error) = host.probe(host.connect()).await {
                refusal = error;
                continue;
            }
            reservation.mark_sent();
            match host.ensure_sandbox(&sandbox.id, &sandbox.spec).await {
                Ok(report) => {
                    reservation.confirm();
                    let applied = self.try_apply_response(report);
                    let Some(sandbox) = try_step("apply report", applied).await? else {
                        // The deletion may have passed by the host before it had begun.
                        host.remove_sandbox(&sandbox.id).await?;
                        return Err(deleted_in_between(&sandbox.id));
                    };
                    return require_started(sandbox);
                }
                // Another one may have room.
                Err(error)
                    if error.code == ErrorCode::HostUnavailable && hosts::is_refusal(&error) =>
                {
                    refusal = error;
                }
                // The host's text names the templates of all teams.
                Err(error) if error.code == ErrorCode::NotFound => {
                    host.forget_inventory();
                    tracing::debug!(sandbox = %sandbox.id, error = error.chain(), "no template");
                    return Err(template_gone(sandbox.spec.template_name()));
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
    }
}

fn template_gone(template: &str) -> Error {
    let text = format!(
        "there is no template {template} on the sandbox's host; GET /v1/templates lists all there are"
    );
    Error::new(ErrorCode::NotFound, text)
}

fn idempotency_mismatch() -> Error {
    let text =
        "this Idempotency-Key came before with another body; use a new key for a new sandbox";
    Error::new(ErrorCode::IdempotencyMismatch, text)
}

fn deleted_in_between(id: &SandboxId) -> Error {
    let text = format!("sandbox {id} was deleted while it was being made");
    Error::new(ErrorCode::Conflict, text)
}

/// Returns the sandbox if it started.
///
/// # Errors
/// `AgentError` with the reason if a sandbox that was created does not run.
pub(super) fn require_started(sandbox: Sandbox) -> Result<Sandbox> {
    match sandbox.state {
        SandboxState::Running | SandboxState::Paused => Ok(sandbox),
        _ => Err(did_not_start(sandbox)),
    }
}

fn did_not_start(sandbox: Sandbox) -> Error {
    let reason = sandbox
        .reason
        .unwrap_or_else(|| format!("it is {}", sandbox.state));
    let text = format!("the sandbox did not start: {reason}");
    Error::new(ErrorCode::AgentError, text)
}
