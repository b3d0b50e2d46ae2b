//! Space that sandboxes and saved states take. Only their hosts know it.

use std::collections::BTreeSet;

use futures::future::join_all;
use model::{ErrorCode, Resource, SandboxId, TemplateName};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{DiskUsage, DiskUsageScope, SandboxSpace};

impl App {
    /// Returns the space of the team's sandboxes, and of its snapshots as far as the key may read
    /// them; for operators that of whole hosts.
    ///
    /// # Errors
    /// `HostUnavailable` if a host does not answer: a sum without it would be wrong.
    pub async fn get_disk_usage(&self, principal: &Principal) -> Result<DiskUsage> {
        principal.require_read(Resource::Sandboxes)?;
        let rows = self.store.sandbox_list_all().await?.into_iter();
        let ours = rows.filter(|row| row.team_id == principal.team_id);
        let sandboxes: Vec<SandboxId> = ours.map(|row| row.id).collect();
        let known: BTreeSet<String> = sandboxes.iter().map(ToString::to_string).collect();
        let scope = DiskUsageScope {
            snapshots: self.visible_snapshots(principal).await?,
            whole_host: principal.is_operator(),
            sandboxes,
        };
        let answers = self
            .hosts
            .all()
            .iter()
            .map(|host| host.get_disk_usage(&scope));
        let answers: Result<Vec<DiskUsage>> = join_all(answers).await.into_iter().collect();
        let mut usage: DiskUsage = answers?.into_iter().sum();
        usage.by_sandbox.retain(|space| known.contains(&space.id));
        usage.by_sandbox.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(usage)
    }

    async fn visible_snapshots(&self, principal: &Principal) -> Result<Vec<TemplateName>> {
        if principal.require_read(Resource::Snapshots).is_err() {
            return Ok(Vec::new());
        }
        let found = self.find_templates(principal).await?.templates;
        let templates = found.into_iter().map(|(_, template)| template);
        let snapshots = templates.filter(|template| template.is_snapshot());
        Ok(snapshots.map(|template| template.name).collect())
    }

    /// Returns the space of one sandbox, in any state.
    ///
    /// # Errors
    /// `NotFound`, also while its host has nothing of it; the host's.
    pub async fn get_sandbox_disk_usage(
        &self,
        principal: &Principal,
        id: &SandboxId,
    ) -> Result<SandboxSpace> {
        principal.require_read(Resource::Sandboxes)?;
        let sandbox = self.find_sandbox(principal, id).await?;
        let host = self.find_host(id, sandbox.host_id.as_deref())?;
        let scope = DiskUsageScope {
            sandboxes: vec![id.clone()],
            ..DiskUsageScope::default()
        };
        let usage = host.get_disk_usage(&scope).await?;
        let space = usage.by_sandbox.into_iter().next();
        space.ok_or_else(|| {
            let text = format!("the host of sandbox {id} has nothing of it");
            Error::new(ErrorCode::NotFound, text)
        })
    }
}
