//! What sandboxes and hosts use. Hosts measure and remember it; nothing of it is stored here.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use model::{Resource, SandboxId, SandboxState, TeamId};
use store::{Cursor, Sandbox, SandboxFilter};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{Host, SandboxUsage, UsageQuery, UsageSeries};

/// Most sandboxes whose present usage is asked for at once: as many as a page of a list has.
pub const MAX_IDS: usize = 1000;

/// Usage of a host over time.
#[derive(Debug)]
pub struct HostUsage {
    pub id: String,
    pub sandboxes: u32,
    pub series: UsageSeries,
}

impl App {
    /// Returns what a sandbox used over time. Does not wake it.
    ///
    /// # Errors
    /// `NotFound`; `HostUnavailable`.
    pub async fn list_usage(
        &self,
        principal: &Principal,
        id: &SandboxId,
        query: UsageQuery,
    ) -> Result<UsageSeries> {
        principal.require_read(Resource::Sandboxes)?;
        let sandbox = self.find_sandbox(principal, id).await?;
        let host = self.find_host(id, sandbox.host_id.as_deref())?;
        host.list_usage(Some(id), query).await
    }

    /// Returns what sandboxes use now, in the order of `ids`. Those of hosts that do not answer are
    /// left out.
    ///
    /// # Errors
    /// `NotFound` if one of `ids` is no sandbox of the team.
    pub async fn get_usage(
        &self,
        principal: &Principal,
        ids: &[SandboxId],
    ) -> Result<Vec<(SandboxState, SandboxUsage)>> {
        principal.require_read(Resource::Sandboxes)?;
        let found = self.store.sandboxes_get(&principal.team_id, ids).await?;
        let found = found.into_iter().filter(|sandbox| !sandbox.deleting);
        let mut found: BTreeMap<SandboxId, Sandbox> =
            found.map(|sandbox| (sandbox.id.clone(), sandbox)).collect();
        if let Some(missing) = ids.iter().find(|id| !found.contains_key(id)) {
            return Err(Error::no_sandbox(missing));
        }
        let sandboxes = ids.iter().filter_map(|id| found.remove(id)).collect();
        Ok(self.ask_usage(sandboxes).await)
    }

    /// Returns what the team's running and paused sandboxes use now, newest first: one page, of at
    /// most `limit` before those of hosts that do not answer are left out, and the cursor of the next.
    ///
    /// # Errors
    /// The store's.
    pub async fn list_present_usage(
        &self,
        principal: &Principal,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<(Vec<(SandboxState, SandboxUsage)>, Option<Cursor>)> {
        let alive = SandboxFilter {
            states: vec![SandboxState::Running, SandboxState::Paused],
            ..SandboxFilter::default()
        };
        let page = self.list_sandboxes(principal, &alive, after, limit).await?;
        Ok((self.ask_usage(page.sandboxes).await, page.next))
    }

    async fn ask_usage(&self, sandboxes: Vec<Sandbox>) -> Vec<(SandboxState, SandboxUsage)> {
        let mut by_host: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for sandbox in &sandboxes {
            let host_id = sandbox.host_id.as_deref().unwrap_or_default();
            by_host
                .entry(host_id)
                .or_default()
                .push(sandbox.id.to_string());
        }
        let asked = by_host.into_iter().map(|(host_id, ids)| {
            let host = self.hosts.find(host_id);
            async move {
                host.as_ref()?
                    .probe(host.as_ref()?.get_usage(ids))
                    .await
                    .ok()
            }
        });
        let answers = join_all(asked).await.into_iter().flatten().flatten();
        let mut usage: BTreeMap<String, SandboxUsage> =
            answers.map(|usage| (usage.id.clone(), usage)).collect();
        let states = sandboxes.iter();
        states
            .filter_map(|sandbox| Some((sandbox.state, usage.remove(sandbox.id.as_str())?)))
            .collect()
    }

    /// Returns what each host used over time. Hosts that do not answer are left out. Hosts belong
    /// to the team `default`: other teams have none.
    ///
    /// # Errors
    /// `Forbidden`.
    pub async fn list_host_usage(
        &self,
        principal: &Principal,
        query: UsageQuery,
    ) -> Result<Vec<HostUsage>> {
        principal.require_read(Resource::Usage)?;
        if principal.team_id != TeamId::default() {
            return Ok(Vec::new());
        }
        let asked = self.hosts.all().iter().map(|host| host_usage(host, query));
        let answers = join_all(asked).await;
        Ok(answers.into_iter().filter_map(Result::ok).collect())
    }
}

async fn host_usage(host: &Arc<Host>, query: UsageQuery) -> Result<HostUsage> {
    let info = host.probe(host.connect()).await?;
    let series = host.probe(host.list_usage(None, query)).await?;
    Ok(HostUsage {
        id: info.id,
        sandboxes: info.sandboxes,
        series,
    })
}
