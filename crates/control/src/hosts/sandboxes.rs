//! Calls about sandboxes as a whole, and the watch on them.

use std::sync::Arc;

use host_rpc as rpc;
use host_rpc::__buffa::oneof::watch_sandboxes_response::Event;
use host_rpc::__buffa::view::WatchSandboxesResponseView;
use model::{ErrorCode, IdleSettings, SandboxId, SandboxSpec, StopReason};
use store::Report;

use super::calls::{
    ASK_TIMEOUT, COMMAND_TIMEOUT, ENSURE_TIMEOUT, Messages, REMOVE_TIMEOUT, RESUME_TIMEOUT,
    SAVE_TIMEOUT, listed, next_part, query, streaming, unary,
};
use super::reports::SandboxReport;
use super::{CommandInfo, Host};
use crate::error::{Error, Result};

/// Part of a watch.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    Report(SandboxReport),
    /// Background commands of a sandbox have ended. Some may be known, and some be of no client.
    CommandsEnded(SandboxId, Vec<CommandInfo>),
    /// All reports that existed when the watch began have come.
    Synced,
    Heartbeat,
}

/// Sandbox as its host has it on record.
#[derive(Debug, Clone)]
pub struct HostRecord {
    pub report: Report,
    /// `None` if this version cannot read it.
    pub spec: Option<SandboxSpec>,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

pub type WatchStream = Messages<WatchSandboxesResponseView<'static>>;

next_part!(WatchSandboxesResponseView, WatchSandboxesResponse, event: Event);

impl WatchStream {
    /// Returns the next event; `None` at the end. Reports that make no sense are logged and left
    /// out: nothing would be better with another try.
    ///
    /// # Errors
    /// The host's, or that the connection broke.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>> {
        while let Some(event) = self.next_part().await? {
            match event {
                Event::Synced(_) => return Ok(Some(WatchEvent::Synced)),
                Event::Heartbeat(_) => return Ok(Some(WatchEvent::Heartbeat)),
                Event::Report(report) => {
                    if let Some(report) = self.host.valid_report(*report) {
                        return Ok(Some(WatchEvent::Report(report)));
                    }
                }
                Event::CommandsEnded(ended) => {
                    if let Ok(id) = ended.sandbox_id.parse() {
                        let commands = ended.commands.into_iter().map(CommandInfo::from);
                        return Ok(Some(WatchEvent::CommandsEnded(id, commands.collect())));
                    }
                }
            }
        }
        Ok(None)
    }
}

impl Host {
    /// Watches the sandboxes of the host.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn watch_sandboxes(self: &Arc<Self>) -> Result<WatchStream> {
        let request = rpc::WatchSandboxesRequest::default();
        Ok(streaming!(self, sandboxes.watch_sandboxes(request)))
    }

    /// Lists the reports of all sandboxes that the host has, without malformed ones.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn list_sandboxes(&self) -> Result<Vec<SandboxReport>> {
        let reports = self.list_messages(false).await?.into_iter();
        Ok(reports
            .filter_map(|report| self.valid_report(report))
            .collect())
    }

    /// Lists the records of all sandboxes that the host has, as far as this version can read them.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn list_records(&self) -> Result<Vec<HostRecord>> {
        let mut records = Vec::new();
        for report in self.list_messages(true).await? {
            let spec = report.spec.as_option().map(rpc::spec::from_message);
            let created_at = report.created_at_ms;
            if let Some(SandboxReport::Present { report, .. }) = self.valid_report(report) {
                records.push(HostRecord {
                    report: *report,
                    spec: spec.and_then(std::result::Result::ok),
                    created_at,
                });
            }
        }
        Ok(records)
    }

    async fn list_messages(&self, whole_specs: bool) -> Result<Vec<rpc::SandboxReport>> {
        let request = rpc::ListSandboxesRequest {
            whole_specs,
            ..Default::default()
        };
        listed!(
            self,
            sandboxes.list_sandboxes_with_options(request) -> ListSandboxesResponse.sandboxes,
            ASK_TIMEOUT
        )
    }

    /// Makes the sandbox exist and run.
    ///
    /// # Errors
    /// `InvalidState` if its guest cannot do what the spec asks for, which no host could change;
    /// The host's, or that it cannot be reached.
    pub async fn ensure_sandbox(
        &self,
        id: &SandboxId,
        spec: &SandboxSpec,
    ) -> Result<SandboxReport> {
        let request = rpc::EnsureSandboxRequest {
            sandbox_id: id.to_string(),
            spec: rpc::spec::to_message(spec).into(),
            ..Default::default()
        };
        let answer = unary!(
            self,
            sandboxes.ensure_sandbox_with_options(request),
            ENSURE_TIMEOUT
        )?;
        if answer.refused {
            let report = answer.sandbox.into_option().unwrap_or_default();
            let text = format!("the sandbox did not start: {}", report.reason);
            return Err(Error::new(ErrorCode::InvalidState, text));
        }
        self.report_from(answer.sandbox.into_option()).await
    }

    /// Removes everything of a sandbox; an id that the host does not know is fine with it.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let request = rpc::RemoveSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        unary!(
            self,
            sandboxes.remove_sandbox_with_options(request),
            REMOVE_TIMEOUT
        )
        .map(drop)
    }

    /// Pauses a sandbox.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn pause_sandbox(&self, id: &SandboxId) -> Result<SandboxReport> {
        let request = rpc::PauseSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let answer = unary!(
            self,
            sandboxes.pause_sandbox_with_options(request),
            SAVE_TIMEOUT
        )?;
        self.report_from(answer.sandbox.into_option()).await
    }

    /// Resumes a sandbox.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn resume_sandbox(&self, id: &SandboxId) -> Result<SandboxReport> {
        let request = rpc::ResumeSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let answer = unary!(
            self,
            sandboxes.resume_sandbox_with_options(request),
            RESUME_TIMEOUT
        )?;
        self.report_from(answer.sandbox.into_option()).await
    }

    /// Ends a sandbox. One that has ended stays as it is.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn stop_sandbox(
        &self,
        id: &SandboxId,
        cause: StopReason,
        reason: &str,
    ) -> Result<SandboxReport> {
        let request = rpc::StopSandboxRequest {
            sandbox_id: id.to_string(),
            stop_reason: rpc::stop_reason::to_message(Some(cause)).into(),
            reason: reason.to_owned(),
            ..Default::default()
        };
        let answer = unary!(
            self,
            sandboxes.stop_sandbox_with_options(request),
            COMMAND_TIMEOUT
        )?;
        self.report_from(answer.sandbox.into_option()).await
    }

    /// Replaces the settings about idleness that the host goes by.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn update_sandbox(
        &self,
        id: &SandboxId,
        idle: IdleSettings,
    ) -> Result<SandboxReport> {
        let request = rpc::UpdateSandboxRequest {
            sandbox_id: id.to_string(),
            idle: rpc::spec::idle_to_message(idle).into(),
            ..Default::default()
        };
        let answer = unary!(
            self,
            sandboxes.update_sandbox_with_options(request),
            COMMAND_TIMEOUT
        )?;
        self.report_from(answer.sandbox.into_option()).await
    }

    /// Counts as use of a running sandbox. With `ask_guest` its guest agent has to answer.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn ping_sandbox(&self, id: &SandboxId, ask_guest: bool) -> Result<()> {
        let request = rpc::PingSandboxRequest {
            sandbox_id: id.to_string(),
            ask_guest,
            ..Default::default()
        };
        query!(
            self,
            sandboxes.ping_sandbox_with_options(request),
            ASK_TIMEOUT
        )
        .map(drop)
    }

    /// Returns the token that the guest agent of a sandbox asks for.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn get_access_token(&self, id: &SandboxId) -> Result<String> {
        let request = rpc::GetAccessTokenRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let answer = query!(
            self,
            sandboxes.get_access_token_with_options(request),
            ASK_TIMEOUT
        )?;
        Ok(answer.access_token)
    }

    /// Makes children of a sandbox; reports of all of them, in the order of `children`.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn fork_sandbox(
        &self,
        id: &SandboxId,
        children: &[SandboxId],
    ) -> Result<Vec<SandboxReport>> {
        let request = rpc::ForkSandboxRequest {
            sandbox_id: id.to_string(),
            child_ids: children.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let limit = SAVE_TIMEOUT + RESUME_TIMEOUT;
        let answer = unary!(self, sandboxes.fork_sandbox_with_options(request), limit)?;
        let made = answer.children.iter().map(|report| &report.sandbox_id);
        if !made.eq(children.iter().map(SandboxId::as_str)) {
            return Err(Error::new(
                ErrorCode::AgentError,
                "the host agent made other children than those it was asked for",
            ));
        }
        let mut reports = Vec::with_capacity(children.len());
        for mut report in answer.children {
            report.spec = answer.spec.clone();
            reports.push(self.report_from(Some(report)).await?);
        }
        Ok(reports)
    }
}
