//! Creates a sandbox: template, row, host, report.
//!
//! The cached inventories of the hosts decide on sizes and host. The row comes before a host is
//! asked, so that all that a host makes is known. From the moment a host is asked it owns the
//! state. If we die in between, the row is `pending`: either the host then reports the sandbox, or
//! `tasks::reconcile` removes the row after a while. If a step fails while the user waits, row and
//! remains go: the id was never told.

use std::collections::BTreeSet;
use std::slice;
use std::sync::Arc;

use model::{
    ErrorCode, Resource, ResourceRequest, SandboxAttributes, SandboxId, SandboxSpec, SandboxState,
    TemplateName,
};
use stdx::time::now_ms;
use store::{Idempotency, Inserted, NewSandbox, Sandbox};

use super::App;
use super::resources::resolve_resources;
use super::templates::{is_visible, missing_unless};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{self, Host, HostInfo, Inventory, Reservation, Template};
use crate::scheduler::{HostView, Unschedulable, rank_hosts};

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

/// Spec with the sizes of its template, and the hosts to try, best first.
struct Placement {
    spec: SandboxSpec,
    hosts: Vec<Arc<Host>>,
    /// Place on the first host.
    reservation: Reservation,
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
            let created = self.create_new(principal, request).await;
            return created.map(Created::New);
        };
        // A sandbox that is met may end before it has begun: then the name is free again.
        loop {
            if let Some(row) = self.find_named(principal, &name).await?
                && let Some(sandbox) = self.adopt_existing(principal, row, &request).await?
            {
                return Ok(Created::Existing(sandbox));
            }
            match self.create_new(principal, request.clone()).await {
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
        let placement = self.place_sandbox(principal, spec, &resources).await?;
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
        let inserted = self.store_of(&new.id).sandbox_insert(&new).await?;
        self.continue_create(principal, inserted, Some(placement))
            .await
    }

    /// Returns the living sandbox that was met by its name, once it has begun. `None` if it did not.
    ///
    /// # Errors
    /// `Conflict` if it is another one than was asked for.
    async fn adopt_existing(
        &self,
        principal: &Principal,
        row: Sandbox,
        request: &CreateRequest,
    ) -> Result<Option<Sandbox>> {
        let differences = differences(&row, request);
        if !differences.is_empty() {
            let text = format!(
                "sandbox {} has this name, with other {}; leave those out, take another name, or delete it",
                row.id,
                differences.join(", ")
            );
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        let begun = self.wait_until_begun(principal, &row.id).await?;
        Ok(begun.filter(|sandbox| !sandbox.state.is_terminal()))
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
        let _actor = self.actors.note(&sandbox.id, principal);
        match self.start_on_host(principal, &sandbox, placement).await {
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

    /// Resolves sizes, chooses hosts from what is known of them, and reserves a place on the best.
    ///
    /// # Errors
    /// `NotFound` if no host has the template; `HostUnavailable` if none answers.
    async fn place_sandbox(
        &self,
        principal: &Principal,
        spec: SandboxSpec,
        resources: &ResourceRequest,
    ) -> Result<Placement> {
        let name = spec.template.clone();
        let inventories = self.inventories_for(&name).await;
        let owner = self.store.snapshot_owner(&name).await?;
        let find_visible = |inventory: &Arc<Inventory>| {
            let template = find_template(inventory, &name)?;
            is_visible(template, principal, owner.as_ref()).then(|| template.clone())
        };
        let views: Vec<Option<InventoryView>> = inventories
            .iter()
            .map(|inventory| {
                let inventory = inventory.as_ref().ok()?;
                Some(InventoryView {
                    info: &inventory.info,
                    template: find_visible(inventory),
                })
            })
            .collect();
        match self.reserve_host(&views) {
            Ok((order, reservation)) => {
                self.resolve_placement(spec, resources, &views, order, reservation)
            }
            Err(reason) => Err(self
                .unschedulable(reason, principal, &name, &inventories)
                .await),
        }
    }

    /// Ranks the hosts, and reserves a place on the best in the same step, so that creates at once
    /// see each other.
    fn reserve_host(
        &self,
        views: &[Option<InventoryView<'_>>],
    ) -> std::result::Result<(Vec<usize>, Reservation), Unschedulable> {
        let hosts = self.hosts.all();
        let _lock = self.placement_lock.lock();
        let view = |(host, view): (&Arc<Host>, &Option<InventoryView<'_>>)| {
            let view = view.as_ref()?;
            Some(HostView {
                has_template: view.template.is_some(),
                sandboxes: view.info.sandboxes.saturating_add(host.assigned_since()),
                memory_bytes: view.info.memory_bytes,
            })
        };
        let views: Vec<Option<HostView>> = hosts.iter().zip(views).map(view).collect();
        let order = rank_hosts(&views)?;
        let reservation = hosts[order[0]].reserve();
        Ok((order, reservation))
    }

    /// Resolves sizes by the template of the best host. Others are tried as far as their templates
    /// give the same: snapshots of one name on two hosts need not be the same.
    fn resolve_placement(
        &self,
        spec: SandboxSpec,
        resources: &ResourceRequest,
        views: &[Option<InventoryView<'_>>],
        order: Vec<usize>,
        reservation: Reservation,
    ) -> Result<Placement> {
        let resolve = |index: usize| {
            let template = views[index].as_ref().and_then(|it| it.template.as_ref());
            resolve_resources(spec.clone(), resources, template)
        };
        let best = resolve(order[0])?;
        best.check(&self.limits)?;
        let same = order
            .into_iter()
            .filter(|&index| resolve(index).is_ok_and(|spec| spec == best));
        let hosts = same.map(|index| Arc::clone(&self.hosts.all()[index]));
        Ok(Placement {
            hosts: hosts.collect(),
            spec: best,
            reservation,
        })
    }

    /// Returns the inventory of each host: the cached ones if one of them has the template, otherwise
    /// all hosts are asked.
    async fn inventories_for(&self, template: &TemplateName) -> Vec<Result<Arc<Inventory>>> {
        let cached = self.read_inventories(false).await;
        let mut answering = cached.iter().flatten();
        if answering.any(|inventory| find_template(inventory, template).is_some()) {
            return cached;
        }
        self.read_inventories(true).await
    }

    /// Reads the inventories of all hosts at once: with `refresh` from the hosts, otherwise from the
    /// cache as far as there is one, and not from hosts that are known to be down. A host that does
    /// not answer delays the others for no longer than a probe.
    async fn read_inventories(&self, refresh: bool) -> Vec<Result<Arc<Inventory>>> {
        let hosts = self.hosts.all();
        let reads = hosts.iter().map(async |host| {
            let read = async {
                if refresh {
                    return host.refresh_inventory().await;
                }
                host.require_up()?;
                host.inventory().await
            };
            if hosts.len() > 1 {
                Box::pin(host.probe(read)).await
            } else {
                read.await
            }
        });
        futures::future::join_all(reads).await
    }

    /// Returns the error for a sandbox that no host can take. It lists the templates that the caller
    /// may see.
    async fn unschedulable(
        &self,
        reason: Unschedulable,
        principal: &Principal,
        template: &TemplateName,
        inventories: &[Result<Arc<Inventory>>],
    ) -> Error {
        let unreachable = inventories.iter().find_map(|it| it.as_ref().err()).cloned();
        if reason == Unschedulable::NoHost {
            return unreachable.unwrap_or_else(|| {
                Error::new(
                    ErrorCode::HostUnavailable,
                    "no host is configured; set CP_HOST_AGENT_ADDR",
                )
            });
        }
        let owners = match self.store.snapshot_owners().await {
            Ok(owners) => owners,
            Err(error) => return error.into(),
        };
        let all = inventories.iter().flatten().flat_map(|it| &it.templates);
        let visible = all.filter(|it| is_visible(it, principal, owners.get(it.name.as_str())));
        let names: BTreeSet<&str> = visible.map(|it| it.name.as_str()).collect();
        missing_unless(unreachable, no_template(template, &names))
    }
}

/// A host that answers, and the template of a create if the caller may see it there.
struct InventoryView<'a> {
    info: &'a HostInfo,
    template: Option<Template>,
}

fn find_template<'a>(inventory: &'a Inventory, name: &TemplateName) -> Option<&'a Template> {
    let mut templates = inventory.templates.iter();
    templates.find(|template| template.name == *name)
}

fn no_template(wanted: &TemplateName, known: &BTreeSet<&str>) -> Error {
    let known = if known.is_empty() {
        "none is installed".to_owned()
    } else {
        let names: Vec<&str> = known.iter().copied().collect();
        format!("there is {}", names.join(", "))
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

/// Lists what the request names and the sandbox has otherwise, of what never changes.
fn differences(row: &Sandbox, request: &CreateRequest) -> Vec<&'static str> {
    let CreateRequest {
        spec, resources, ..
    } = request;
    let has = ResourceRequest::from(&row.spec);
    let differs = |asked: Option<u32>, has: Option<u32>| asked.is_some() && asked != has;
    // A disk whose size was left out has that of its template, which the host reports.
    let disk = has.disk_mb.or(row.disk.as_ref().map(|disk| disk.size_mb));
    let all = [
        ("template", row.spec.template != spec.template),
        ("vcpus", differs(resources.vcpus, has.vcpus)),
        ("memory_mb", differs(resources.memory_mb, has.memory_mb)),
        ("disk_mb", differs(resources.disk_mb, disk)),
        ("envs", row.spec.envs != spec.envs),
    ];
    let different = all.into_iter().filter(|(_, differs)| *differs);
    different.map(|(field, _)| field).collect()
}

/// Refuses an end that has come already.
pub(super) fn check_end(ends_at: Option<i64>) -> Result<()> {
    match ends_at {
        Some(at) if at <= now_ms() => Err(Error::invalid(
            "ends_at must be a time to come; is the clock of the client right?",
        )),
        _ => Ok(()),
    }
}

fn name_taken(row: &Sandbox) -> Error {
    let text = format!(
        "sandbox {} has this name and is {}; take another name, delete it, or ask for it with `if_exists: return`",
        row.id, row.state
    );
    Error::new(ErrorCode::Conflict, text)
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
