//! Creates a sandbox: template, row, host, report.
//!
//! The cached inventories of the hosts decide on sizes and host. The row comes before a host is
//! asked, so that all that a host makes is known. From the moment a host is asked it owns the
//! state. If we die in between, the row is `pending`: either the host then reports the sandbox, or
//! `tasks::reconcile` removes the row after a while. If a step fails while the user waits, row and
//! remains go: the id was never told.

use std::slice;
use std::sync::Arc;

use model::{
    ErrorCode, NetworkSpec, Resource, ResourceRequest, SandboxId, SandboxSpec, SandboxState,
    TeamId, TemplateName,
};
use stdx::time::now_ms;
use store::{Idempotency, Inserted, NewSandbox, Sandbox};

use super::App;
use super::resources::resolve_resources;
use super::templates::{is_visible, missing_unless};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{self, Host, Inventory};
use crate::scheduler::{HostView, Unschedulable, rank_hosts};

/// A sandbox to create.
#[derive(Debug)]
pub struct CreateRequest {
    /// Spec with the defaults for sizes that are not requested.
    pub spec: SandboxSpec,
    pub resources: ResourceRequest,
    pub idempotency: Option<Idempotency>,
}

/// Spec with the sizes of its template, and the hosts to try, best first.
struct Placement {
    spec: SandboxSpec,
    hosts: Vec<Arc<Host>>,
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
    ) -> Result<Sandbox> {
        principal.require_write(Resource::Sandboxes)?;
        if request.spec.network != NetworkSpec::default() {
            principal.require_write(Resource::Network)?;
        }
        let CreateRequest {
            spec,
            resources,
            idempotency,
        } = request;
        let key_id = &principal.key_id;
        let locks = &self.idempotency_locks;
        let _lock = locks.acquire(key_id, idempotency.as_ref()).await;
        // An earlier request is answered from its row, whatever became of the template since.
        if let Some(idempotency) = &idempotency
            && let Some(met) = self.store.sandbox_find(key_id, idempotency).await?
        {
            return self.continue_create(met, Vec::new()).await;
        }
        self.rate_limits.count_creates(key_id, 1)?;
        let placement = self
            .place_sandbox(&principal.team_id, spec, &resources)
            .await?;
        let new = NewSandbox {
            id: SandboxId::random(),
            team_id: principal.team_id.clone(),
            spec: placement.spec,
            key_id: key_id.clone(),
            idempotency,
            now: now_ms(),
        };
        let _in_flight = self.in_flight_creates.insert(&new.id);
        let inserted = self.store.sandbox_insert(&new).await?;
        self.continue_create(inserted, placement.hosts).await
    }

    /// Continues a create with the row that the insert made or found.
    async fn continue_create(&self, met: Inserted, hosts: Vec<Arc<Host>>) -> Result<Sandbox> {
        let sandbox = match met {
            Inserted::New(sandbox) => sandbox,
            Inserted::Mismatch => return Err(idempotency_mismatch()),
            Inserted::Existing(sandbox) if sandbox.deleting => {
                return Err(deleted_in_between(&sandbox.id));
            }
            // It never ran, and the first request for it died with its process.
            Inserted::Existing(sandbox)
                if sandbox.state.is_terminal() && sandbox.started_at.is_none() =>
            {
                let id = sandbox.id.clone();
                return self.fail_create(&id, did_not_start(sandbox)).await;
            }
            Inserted::Existing(sandbox) if sandbox.state != SandboxState::Pending => {
                return Ok(sandbox);
            }
            // The first request for it may have died with its process; hosts take the same wish
            // twice.
            Inserted::Existing(sandbox) => sandbox,
        };
        let _in_flight = self.in_flight_creates.insert(&sandbox.id);
        match self.start_on_host(&sandbox, hosts).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => self.fail_create(&sandbox.id, error).await,
        }
    }

    /// Rolls a failed create back. The sandbox may run all the same: the answer was lost, or another
    /// control plane was asked, too.
    async fn fail_create(&self, id: &SandboxId, error: Error) -> Result<Sandbox> {
        tracing::info!(sandbox = %id, error = error.chain(), "not created");
        let ids = slice::from_ref(id);
        if self.rollback_create(ids, "its create failed").await? {
            return Err(error);
        }
        let row = self.store.sandbox_get_any_team(id).await?;
        row.filter(|sandbox| !sandbox.deleting).ok_or(error)
    }

    /// Asks hosts in turn to run a sandbox. `hosts` is empty if they are not known yet.
    async fn start_on_host(&self, sandbox: &Sandbox, hosts: Vec<Arc<Host>>) -> Result<Sandbox> {
        let hosts = match self.hosts.candidates(sandbox.host_id.as_deref()) {
            // A host has begun it already.
            owner if sandbox.host_id.is_some() => owner,
            _ if !hosts.is_empty() => hosts,
            _ => {
                let resources = ResourceRequest::from(&sandbox.spec);
                let spec = sandbox.spec.clone();
                self.place_sandbox(&sandbox.team_id, spec, &resources)
                    .await?
                    .hosts
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
            if has_alternative && let Err(error) = host.connect().await {
                refusal = error;
                continue;
            }
            match host.ensure_sandbox(&sandbox.id, &sandbox.spec).await {
                Ok(report) => {
                    host.note_placed();
                    let Some(sandbox) = self.try_apply_response(report).await? else {
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
                    return Err(template_gone(&sandbox.spec.template));
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
    }

    /// Resolves sizes and chooses hosts from what is known of them. Hosts are asked only where the
    /// template is not known.
    async fn place_sandbox(
        &self,
        team: &TeamId,
        spec: SandboxSpec,
        resources: &ResourceRequest,
    ) -> Result<Placement> {
        let known = self.read_inventories(false).await;
        let has_template = known.iter().flatten().any(|inventory| {
            let mut templates = inventory.templates.iter();
            templates.any(|template| template.name == spec.template)
        });
        let inventories = if has_template {
            known
        } else {
            self.read_inventories(true).await
        };
        let owners = self.store.snapshot_owners().await?;
        let mut unreachable = None;
        let mut views = Vec::with_capacity(inventories.len());
        let mut templates = Vec::with_capacity(inventories.len());
        for (host, inventory) in self.hosts.all().iter().zip(inventories) {
            let inventory = inventory.map_err(|error| unreachable = Some(error)).ok();
            let visible = inventory.as_ref().map(|inventory| {
                let all = inventory.templates.iter();
                all.filter(|template| is_visible(template, team, &owners))
                    .cloned()
                    .collect::<Vec<_>>()
            });
            views.push(
                inventory
                    .zip(visible.as_ref())
                    .map(|(inventory, visible)| HostView {
                        templates: visible.iter().map(|it| it.name.to_string()).collect(),
                        sandboxes: inventory.info.sandboxes.saturating_add(host.placed_since()),
                        memory_bytes: inventory.info.memory_bytes,
                    }),
            );
            let mut visible = visible.into_iter().flatten();
            templates.push(visible.find(|template| template.name == spec.template));
        }
        let order = rank_hosts(&spec.template, &views)
            .map_err(|reason| unschedulable(reason, unreachable, &spec.template))?;
        let resolve =
            |index: usize| resolve_resources(spec.clone(), resources, templates[index].as_ref());
        let best = resolve(order[0])?;
        best.check(&self.limits)?;
        // Snapshots of one name on two hosts need not be the same.
        let same = order
            .into_iter()
            .filter(|&index| resolve(index).is_ok_and(|spec| spec == best));
        let all = self.hosts.all();
        let hosts = same.map(|index| Arc::clone(&all[index])).collect();
        Ok(Placement { spec: best, hosts })
    }

    /// Returns the inventory of each host; with `refresh` all are asked, otherwise those that are
    /// not known.
    async fn read_inventories(&self, refresh: bool) -> Vec<Result<Arc<Inventory>>> {
        let hosts = self.hosts.all().iter();
        let reads = hosts.map(async |host| {
            if refresh {
                host.refresh_inventory().await
            } else {
                host.inventory().await
            }
        });
        futures::future::join_all(reads).await
    }
}

fn unschedulable(
    reason: Unschedulable,
    unreachable: Option<Error>,
    template: &TemplateName,
) -> Error {
    match reason {
        Unschedulable::NoHost => unreachable.unwrap_or_else(|| {
            Error::new(
                ErrorCode::HostUnavailable,
                "no host is configured; set CP_HOST_AGENT_ADDR",
            )
        }),
        Unschedulable::NoTemplate(known) => {
            missing_unless(unreachable, no_template(template, &known))
        }
    }
}

fn no_template(wanted: &TemplateName, known: &[String]) -> Error {
    let known = if known.is_empty() {
        "none is installed".to_owned()
    } else {
        format!("there is {}", known.join(", "))
    };
    let text = format!("there is no template {wanted}; {known}");
    Error::new(ErrorCode::NotFound, text)
}

fn template_gone(template: &TemplateName) -> Error {
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
