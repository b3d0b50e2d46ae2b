//! Snapshots: templates that are made of sandboxes. They are on the host of their sandbox; the store
//! has only which team a name belongs to.
//!
//! The name is claimed before the host is asked, and the claim is released after the host has
//! removed the snapshot, or has refused to make it. If we die in between, the claim stays: the name
//! belongs to its team, and a create of the team uses it. Where a host may still be making or
//! removing the snapshot (no answer in time, a broken connection), the claim stays, too, and so does
//! the lock until its lease ends. A host that did not answer a deletion may have the snapshot: the
//! claim stays.
//!
//! The right to use a name is checked before the name is locked, so that no team holds up the names
//! of others, and again under the lock.

use std::sync::Arc;

use model::{ErrorCode, EventKind, Resource, SandboxId, TeamId, TemplateName};
use serde_json::json;
use stdx::time::now_ms;
use store::SnapshotClaim;

use super::App;
use super::snapshot_lock::SnapshotLock;
use super::templates::FoundTemplates;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{self, Host, Template};

/// A snapshot to create.
#[derive(Debug)]
pub struct NewSnapshot {
    pub sandbox: SandboxId,
    pub name: TemplateName,
    pub memory: bool,
    pub overwrite: bool,
}

/// Returns a name of a prefix and eight hex digits.
///
/// # Errors
/// Never with a prefix that a name may begin with.
pub fn random_name<T: std::str::FromStr<Err = model::InvalidValue>>(prefix: &str) -> Result<T> {
    Ok(format!("{prefix}-{:08x}", rand::random::<u32>()).parse()?)
}

impl App {
    /// Creates a snapshot, and returns when it is safe on the host's disk. The sandbox goes on as it
    /// was.
    ///
    /// # Errors
    /// `Conflict` if the name is taken or in use by another request; the host's. No snapshot is left
    /// then.
    pub async fn create_snapshot(
        &self,
        principal: &Principal,
        new: NewSnapshot,
    ) -> Result<Template> {
        principal.require_write(Resource::Snapshots)?;
        let (_, host) = self.find_alive(principal, &new.sandbox).await?;
        self.check_claimable(principal, &new.name).await?;
        let lock = SnapshotLock::acquire(&self.store, &new.name).await?;
        let created = match self.claim_new(principal, &host, &new.name).await {
            Ok(claim) => {
                let created = host
                    .create_snapshot(&new.sandbox, &new.name, new.memory, new.overwrite)
                    .await;
                self.finish_claimed(principal, &new.name, claim, lock, created)
                    .await
            }
            Err(error) => {
                lock.release().await;
                Err(error)
            }
        };
        if let Ok(template) = &created {
            tracing::info!(sandbox = %new.sandbox, template = %new.name, "snapshot made");
            let data = json!({ "size_bytes": template.size_bytes, "memory": new.memory });
            let (kind, name) = (EventKind::TemplateCreated, new.name.as_str());
            self.record_event(principal, kind, name, Some(&new.sandbox), data)
                .await;
        }
        created
    }

    /// Claims the name if no other host has it.
    pub(super) async fn claim_new(
        &self,
        principal: &Principal,
        host: &Arc<Host>,
        name: &TemplateName,
    ) -> Result<SnapshotClaim> {
        self.check_other_hosts(host, name).await?;
        self.claim_snapshot_name(principal, name).await
    }

    /// Ends what the host was asked for under a claimed name. A claim that was made for nothing is
    /// released, unless the host may still be making the template.
    pub(super) async fn finish_claimed(
        &self,
        principal: &Principal,
        name: &TemplateName,
        claim: SnapshotClaim,
        lock: SnapshotLock,
        created: Result<Template>,
    ) -> Result<Template> {
        if let Err(error) = created {
            if claim == SnapshotClaim::New && hosts::is_refusal(&error) {
                lock.release_claim(&principal.team_id).await;
            }
            lock.release_after(&error).await;
            return Err(error);
        }
        // A deletion that took the lock may have released the claim.
        let claimed = if lock.is_held().await {
            Ok(())
        } else {
            let claimed = self.claim_owned(principal, name).await.map(drop);
            claimed.map_err(|error| error.after_change("the template is made"))
        };
        lock.release().await;
        claimed.and(created)
    }

    /// Checks that a template's name is free on all other hosts.
    ///
    /// # Errors
    /// `Conflict` if a host other than `host` has a template of that name.
    async fn check_other_hosts(&self, host: &Arc<Host>, name: &TemplateName) -> Result<()> {
        let all = self.hosts.all().iter();
        if any_has_template(all.filter(|other| !Arc::ptr_eq(other, host)), name).await? {
            let text = format!("another host has a template {name}; choose another name");
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        Ok(())
    }

    /// Checks that the caller may claim the name of a snapshot.
    ///
    /// # Errors
    /// As [`App::claim_snapshot_name`].
    pub(super) async fn check_claimable(
        &self,
        principal: &Principal,
        name: &TemplateName,
    ) -> Result<()> {
        let owner = self.store.snapshot_owner(name).await?;
        if may_use_name(principal, owner.as_ref()) {
            return Ok(());
        }
        let hosts = self.hosts.all().iter();
        if owner.is_some() || any_has_template(hosts, name).await? {
            return Err(name_taken(name));
        }
        Ok(())
    }

    /// Claims the name of a snapshot for the caller's team.
    ///
    /// # Errors
    /// `Conflict` if the name belongs to another team, or to a snapshot of no team and the caller is
    /// no operator; if a host that may have such a snapshot does not answer.
    async fn claim_snapshot_name(
        &self,
        principal: &Principal,
        name: &TemplateName,
    ) -> Result<SnapshotClaim> {
        self.check_claimable(principal, name).await?;
        self.claim_owned(principal, name).await
    }

    /// Claims the name of a snapshot that is the caller's if it is no other team's.
    async fn claim_owned(
        &self,
        principal: &Principal,
        name: &TemplateName,
    ) -> Result<SnapshotClaim> {
        let team = &principal.team_id;
        match self.store.snapshot_claim(team, name, now_ms()).await? {
            SnapshotClaim::Taken => Err(name_taken(name)),
            claim @ (SnapshotClaim::New | SnapshotClaim::Kept) => Ok(claim),
        }
    }

    /// Returns a snapshot.
    ///
    /// # Errors
    /// `NotFound`, also for base images; `HostUnavailable` if only a host that does not answer may
    /// have it.
    pub async fn get_snapshot(
        &self,
        principal: &Principal,
        name: &TemplateName,
    ) -> Result<Template> {
        principal.require_read(Resource::Snapshots)?;
        let mut found = self.find_templates(principal).await?;
        let templates = std::mem::take(&mut found.templates).into_iter();
        let mut snapshots = templates
            .map(|(_, template)| template)
            .filter(|template| template.name == *name && template.is_snapshot())
            .filter(|template| !template.is_import());
        snapshots
            .next()
            .ok_or_else(|| found.missing(no_snapshot(name)))
    }

    /// Returns the snapshots of the team, by name.
    ///
    /// # Errors
    /// If no host answers.
    pub async fn list_snapshots(&self, principal: &Principal) -> Result<Vec<Template>> {
        principal.require_read(Resource::Snapshots)?;
        self.sorted_templates(principal).await
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// `NotFound`, also for base images; `Conflict` with the ids of the sandboxes that use it, or if
    /// another request is busy with the name; `HostUnavailable` if only a host that does not answer
    /// may have it.
    pub async fn delete_snapshot(&self, principal: &Principal, name: &TemplateName) -> Result<()> {
        principal.require_write(Resource::Snapshots)?;
        let owner = self.store.snapshot_owner(name).await?;
        if !may_use_name(principal, owner.as_ref()) {
            self.find_holders(principal, name).await?;
        }
        let lock = SnapshotLock::acquire(&self.store, name).await?;
        let deleted = match self.find_holders(principal, name).await {
            Ok(holders) => self.delete_locked(principal, name, holders, lock).await,
            Err(error) => {
                lock.release().await;
                Err(error)
            }
        };
        if deleted.is_ok() {
            tracing::info!(template = %name, "snapshot removed");
            let kind = EventKind::TemplateDeleted;
            self.record_event(principal, kind, name.as_str(), None, json!({}))
                .await;
        }
        deleted
    }

    async fn delete_locked(
        &self,
        principal: &Principal,
        name: &TemplateName,
        holders: FoundTemplates,
        lock: SnapshotLock,
    ) -> Result<()> {
        for (host, _) in holders.templates {
            if let Err(error) = host.remove_snapshot(name).await {
                lock.release_after(&error).await;
                return Err(error);
            }
        }
        if let Some(error) = holders.unreachable {
            tracing::warn!(template = %name, error = error.chain(), "a host that did not answer may have the snapshot; its name stays claimed");
        } else {
            lock.release_claim(&principal.team_id).await;
        }
        lock.release().await;
        Ok(())
    }

    /// Returns the hosts that have a snapshot which the caller may see, at least one.
    ///
    /// # Errors
    /// As [`App::delete_snapshot`].
    async fn find_holders(
        &self,
        principal: &Principal,
        name: &TemplateName,
    ) -> Result<FoundTemplates> {
        let mut found = self.find_templates(principal).await?;
        found
            .templates
            .retain(|(_, template)| template.name == *name);
        let templates = &mut found.templates;
        let is_snapshot = |template: &Template| template.is_snapshot() && !template.is_import();
        let has_image = templates.iter().any(|(_, found)| !is_snapshot(found));
        let has_import = templates.iter().any(|(_, found)| found.is_import());
        templates.retain(|(_, template)| is_snapshot(template));
        if has_import && templates.is_empty() {
            let text =
                format!("{name} is an image and no snapshot; `wrenn image rm {name}` removes it");
            return Err(Error::new(ErrorCode::NotFound, text));
        }
        if has_image && templates.is_empty() {
            let text = format!(
                "{name} is a base image and no snapshot; those are files in the image directory of the host"
            );
            return Err(Error::new(ErrorCode::NotFound, text));
        }
        if templates.is_empty() {
            return Err(found.missing(no_snapshot(name)));
        }
        Ok(found)
    }
}

/// Returns true if a snapshot of that owner may be the caller's to use.
fn may_use_name(principal: &Principal, owner: Option<&TeamId>) -> bool {
    owner.map_or(principal.is_operator(), |owner| *owner == principal.team_id)
}

/// Returns true if one of the hosts has a template of that name.
///
/// # Errors
/// If a host that is asked does not answer.
async fn any_has_template(
    hosts: impl Iterator<Item = &Arc<Host>>,
    name: &TemplateName,
) -> Result<bool> {
    for host in hosts {
        let templates = host.list_templates().await?;
        if templates.iter().any(|template| template.name == *name) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn name_taken(name: &TemplateName) -> Error {
    let text = format!("there is a template {name} already; choose another name");
    Error::new(ErrorCode::Conflict, text)
}

fn no_snapshot(name: &TemplateName) -> Error {
    let text = format!("there is no snapshot {name}; `wrenn snapshots` lists them");
    Error::new(ErrorCode::NotFound, text)
}
