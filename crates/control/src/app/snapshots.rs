//! Snapshots: templates that are made of sandboxes. They are on the host of their sandbox; the store
//! has only which team a name belongs to.

use std::sync::Arc;

use model::{ErrorCode, Resource, SandboxId, TeamId, TemplateName};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{Host, Template};
use stdx::time::now_ms;

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
    /// `Conflict` if the name is taken; the host's. No snapshot is left then.
    pub async fn create_snapshot(
        &self,
        principal: &Principal,
        new: NewSnapshot,
    ) -> Result<Template> {
        principal.require_write(Resource::Snapshots)?;
        let (sandbox, host) = self.find_alive(principal, &new.sandbox).await?;
        self.check_other_hosts(&host, &new.name).await?;
        self.claim_snapshot_name(principal, &new.name).await?;
        let template = host
            .create_snapshot(&sandbox.id, &new.name, new.memory, new.overwrite)
            .await?;
        tracing::info!(sandbox = %sandbox.id, template = %template.name, "snapshot made");
        Ok(template)
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
    /// `Conflict` if the name belongs to another team.
    async fn claim_snapshot_name(&self, principal: &Principal, name: &TemplateName) -> Result<()> {
        let team = &principal.team_id;
        let taken = || {
            let text = format!("there is a template {name} already; choose another name");
            Error::new(ErrorCode::Conflict, text)
        };
        // A snapshot of before there were teams has no row, and belongs to the team `default`.
        if *team != TeamId::default() && self.store.snapshot_owner(name).await? != *team {
            for host in self.hosts.all() {
                let templates = host.list_templates().await?;
                if templates.iter().any(|template| template.name == *name) {
                    return Err(taken());
                }
            }
        }
        if self.store.snapshot_claim(team, name, now_ms()).await? == *team {
            Ok(())
        } else {
            Err(taken())
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
    /// `NotFound`, also for base images; `Conflict` with the ids of the sandboxes that use it;
    /// `HostUnavailable` if only a host that does not answer may have it.
    pub async fn delete_snapshot(&self, principal: &Principal, name: &TemplateName) -> Result<()> {
        principal.require_write(Resource::Snapshots)?;
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
        self.store
            .snapshot_release(&principal.team_id, name)
            .await?;
        tracing::info!(template = %name, "snapshot removed");
        Ok(())
    }
}

fn no_snapshot(name: &TemplateName) -> Error {
    let text = format!("there is no snapshot {name}; `wrenn snapshots` lists them");
    Error::new(ErrorCode::NotFound, text)
}
