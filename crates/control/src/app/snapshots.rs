//! Snapshots: templates that are made of sandboxes. They are on the host of their sandbox; the store
//! has only which team a name belongs to.
//!
//! The name is claimed before the host is asked, and the claim is released after the host has
//! removed the snapshot, or has refused to make it. If we die in between, the claim stays: the name
//! belongs to its team, and a create of the team uses it. Where a host may still be making the
//! snapshot (no answer in time, a broken connection), the claim stays, too.

use std::sync::Arc;

use model::{ErrorCode, Resource, SandboxId, TemplateName};
use stdx::time::now_ms;
use store::SnapshotClaim;

use super::App;
use super::snapshot_lock::SnapshotLock;
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
        let lock = SnapshotLock::acquire(&self.store, &new.name).await?;
        let created = self.create_locked(principal, &host, &new, &lock).await;
        lock.release().await;
        if created.is_ok() {
            tracing::info!(sandbox = %new.sandbox, template = %new.name, "snapshot made");
        }
        created
    }

    /// Claims the name, then asks the host. A claim that was made for nothing is released, unless
    /// the host may still be making the snapshot.
    async fn create_locked(
        &self,
        principal: &Principal,
        host: &Arc<Host>,
        new: &NewSnapshot,
        lock: &SnapshotLock,
    ) -> Result<Template> {
        self.check_other_hosts(host, &new.name).await?;
        let claim = self.claim_snapshot_name(principal, &new.name).await?;
        let created = host
            .create_snapshot(&new.sandbox, &new.name, new.memory, new.overwrite)
            .await;
        match &created {
            // A deletion that took the lock may have released the claim.
            Ok(_) if lock.is_lost() => {
                self.claim_snapshot_name(principal, &new.name).await?;
            }
            Err(error) if claim == SnapshotClaim::New && hosts::is_refusal(error) => {
                lock.release_claim(&principal.team_id).await;
            }
            Ok(_) | Err(_) => {}
        }
        created
    }

    /// Checks that a template's name is free on all other hosts.
    ///
    /// # Errors
    /// `Conflict` if a host other than `host` has a template of that name.
    async fn check_other_hosts(&self, host: &Arc<Host>, name: &TemplateName) -> Result<()> {
        for other in self.hosts.all() {
            if Arc::ptr_eq(other, host) {
                continue;
            }
            let templates = other.list_templates().await?;
            if templates.iter().any(|template| template.name == *name) {
                let text = format!("another host has a template {name}; choose another name");
                return Err(Error::new(ErrorCode::Conflict, text));
            }
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
        let team = &principal.team_id;
        let owner = self.store.snapshot_owner(name).await?;
        if owner.is_none() && !principal.is_operator() {
            for host in self.hosts.all() {
                let templates = host.list_templates().await?;
                if templates.iter().any(|template| template.name == *name) {
                    return Err(name_taken(name));
                }
            }
        }
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
            .filter(|template| template.name == *name && template.is_snapshot());
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
        let lock = SnapshotLock::acquire(&self.store, name).await?;
        let deleted = self.delete_locked(principal, name, &lock).await;
        lock.release().await;
        if deleted.is_ok() {
            tracing::info!(template = %name, "snapshot removed");
        }
        deleted
    }

    async fn delete_locked(
        &self,
        principal: &Principal,
        name: &TemplateName,
        lock: &SnapshotLock,
    ) -> Result<()> {
        let mut found = self.find_templates(principal).await?;
        let mut holders = std::mem::take(&mut found.templates);
        holders.retain(|(_, template)| template.name == *name);
        let has_base = holders.iter().any(|(_, template)| !template.is_snapshot());
        holders.retain(|(_, template)| template.is_snapshot());
        if has_base && holders.is_empty() {
            let text = format!(
                "{name} is a base image and no snapshot; those are files in the image directory of the host"
            );
            return Err(Error::new(ErrorCode::NotFound, text));
        }
        if holders.is_empty() {
            return Err(found.missing(no_snapshot(name)));
        }
        for (host, _) in holders {
            host.remove_snapshot(name).await?;
        }
        lock.release_claim(&principal.team_id).await;
        Ok(())
    }
}

fn name_taken(name: &TemplateName) -> Error {
    let text = format!("there is a template {name} already; choose another name");
    Error::new(ErrorCode::Conflict, text)
}

fn no_snapshot(name: &TemplateName) -> Error {
    let text = format!("there is no snapshot {name}; `wrenn snapshots` lists them");
    Error::new(ErrorCode::NotFound, text)
}
