//! Places a sandbox that is to be created: decides on sizes and host by the cached inventories of the
//! hosts, and reserves a place on the best.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::{ErrorCode, ResourceRequest, SandboxSpec, TemplateName};

use super::App;
use super::resources::resolve_resources;
use super::templates::{is_visible, missing_unless};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{Host, HostInfo, Inventory, Reservation, Template};
use crate::scheduler::{HostView, Unschedulable, rank_hosts};

const OLD_AGENTS: &str = "the agents of all hosts that have the template are of an earlier version, which has no \
                          start commands: upgrade a host agent, or leave start_command out";

const DRAINING: &str = "all hosts that have the template are being drained and take no new sandboxes; the operator \
                        ends that with wrenn-agent undrain";

/// Spec with the sizes of its template, and the hosts to try, best first.
pub(super) struct Placement {
    pub(super) spec: SandboxSpec,
    pub(super) hosts: Vec<Arc<Host>>,
    /// Place on the first host.
    pub(super) reservation: Reservation,
}

impl App {
    /// Resolves sizes, chooses hosts from what is known of them, and reserves a place on the best.
    ///
    /// # Errors
    /// `NotFound` if no host has the template; `HostUnavailable` if none answers, all agents are of a
    /// version that ignores a part of the spec, or all hosts are draining.
    pub(super) async fn place_sandbox(
        &self,
        principal: &Principal,
        spec: SandboxSpec,
        resources: &ResourceRequest,
    ) -> Result<Placement> {
        let name = spec.template.clone();
        let inventories = self.inventories_for(&name).await;
        // Base images belong to no team: a create of one saves this round trip.
        let found = inventories.iter().flatten();
        let mut found = found.filter_map(|inventory| find_template(inventory, &name));
        let owner = if found.any(Template::is_snapshot) {
            self.store.snapshot_owner(&name).await?
        } else {
            None
        };
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
        match self.reserve_host(&spec, &views) {
            Ok((order, reservation)) => {
                self.resolve_placement(spec, resources, &views, order, reservation)
            }
            Err(reason) => Err(self
                .unschedulable(reason, principal, &name, &inventories)
                .await),
        }
    }

    /// Returns true if a host has a template of that name that `principal` may use, as far as is
    /// known of the hosts.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn has_template(
        &self,
        principal: &Principal,
        name: &TemplateName,
    ) -> Result<bool> {
        let cached = self.read_inventories(false).await;
        let found = cached.iter().flatten();
        let found: Vec<_> = found
            .filter_map(|inventory| find_template(inventory, name))
            .collect();
        if found.is_empty() {
            return Ok(false);
        }
        let owner = self.store.snapshot_owner(name).await?;
        Ok(found
            .into_iter()
            .any(|template| is_visible(template, principal, owner.as_ref())))
    }

    /// Ranks the hosts, and reserves a place on the best in the same step, so that creates at once
    /// see each other.
    fn reserve_host(
        &self,
        spec: &SandboxSpec,
        views: &[Option<InventoryView<'_>>],
    ) -> std::result::Result<(Vec<usize>, Reservation), Unschedulable> {
        let hosts = self.hosts.all();
        let _lock = self.placement_lock.lock();
        let view = |(host, view): (&Arc<Host>, &Option<InventoryView<'_>>)| {
            let view = view.as_ref()?;
            Some(HostView {
                has_template: view.template.is_some(),
                is_draining: view.info.is_draining,
                is_able: spec.start_command.is_none() || view.info.has_start_commands,
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

    /// Returns the inventory of each host: the cached ones if one of them has the template and takes
    /// new sandboxes, otherwise all hosts are asked.
    async fn inventories_for(&self, template: &TemplateName) -> Vec<Result<Arc<Inventory>>> {
        let cached = self.read_inventories(false).await;
        let mut answering = cached.iter().flatten();
        // A drain may have ended since.
        let can_take =
            |it: &Arc<Inventory>| !it.info.is_draining && find_template(it, template).is_some();
        if answering.any(can_take) {
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
        let text = match reason {
            Unschedulable::OldAgents => Some(OLD_AGENTS),
            Unschedulable::Draining => Some(DRAINING),
            Unschedulable::NoHost | Unschedulable::NoTemplate => None,
        };
        if let Some(text) = text {
            return Error::new(ErrorCode::HostUnavailable, text);
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
