//! Calls about sandboxes as a whole, and reports of hosts about them.

use std::sync::Arc;

use host_rpc as rpc;
use host_rpc::__buffa::oneof::watch_sandboxes_response::Event;
use host_rpc::__buffa::view::WatchSandboxesResponseView;
use model::{
    CheckpointName, ErrorCode, Generation, InvalidValue, NetworkSpec, SandboxId, SandboxSpec,
    SandboxState,
};
use store::{Disk, Report};

use super::Host;
use super::calls::{
    ASK_TIMEOUT, ENSURE_TIMEOUT, Messages, NETWORK_TIMEOUT, REMOVE_TIMEOUT, RESUME_TIMEOUT,
    SAVE_TIMEOUT, next_part, streaming, unary,
};
use crate::error::{Error, Result};

/// Host's report of a sandbox, checked.
#[derive(Debug, Clone)]
pub enum SandboxReport {
    Present {
        report: Box<Report>,
        /// SHA-256 of the token of the guest agent; `None` from hosts of a version before.
        access_token_sha256: Option<[u8; 32]>,
    },
    /// The host has nothing of it any more.
    Removed { id: SandboxId, host_id: String },
}

/// Part of a watch.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    Report(SandboxReport),
    /// All reports that existed when the watch began have come.
    Synced,
    Heartbeat,
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
        Ok(streaming!(self, watch_sandboxes(request)))
    }

    /// Lists the reports of all sandboxes that the host has, without malformed ones.
    pub async fn list_sandboxes(&self) -> Result<Vec<SandboxReport>> {
        let request = rpc::ListSandboxesRequest::default();
        let listed = unary!(self, list_sandboxes_with_options(request), ASK_TIMEOUT)?;
        let reports = listed.sandboxes.into_iter();
        Ok(reports
            .filter_map(|report| self.valid_report(report))
            .collect())
    }

    /// Makes the sandbox exist and run.
    ///
    /// # Errors
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
        let answer = unary!(self, ensure_sandbox_with_options(request), ENSURE_TIMEOUT)?;
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
        unary!(self, remove_sandbox_with_options(request), REMOVE_TIMEOUT).map(drop)
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
        let answer = unary!(self, pause_sandbox_with_options(request), SAVE_TIMEOUT)?;
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
        let answer = unary!(self, resume_sandbox_with_options(request), RESUME_TIMEOUT)?;
        self.report_from(answer.sandbox.into_option()).await
    }

    /// Replaces all network rules of a sandbox.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn update_network(
        &self,
        id: &SandboxId,
        rules: &NetworkSpec,
    ) -> Result<SandboxReport> {
        let request = rpc::UpdateNetworkRequest {
            sandbox_id: id.to_string(),
            network: rpc::network::to_message(rules).into(),
            ..Default::default()
        };
        let answer = unary!(self, update_network_with_options(request), NETWORK_TIMEOUT)?;
        self.report_from(answer.sandbox.into_option()).await
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
        let answer = unary!(self, fork_sandbox_with_options(request), limit)?;
        let made = answer.children.iter().map(|report| &report.sandbox_id);
        if !made.eq(children.iter().map(SandboxId::as_str)) {
            return Err(Error::new(
                ErrorCode::AgentError,
                "the host agent made other children than those it was asked for",
            ));
        }
        let mut reports = Vec::with_capacity(children.len());
        for report in answer.children {
            reports.push(self.report_from(Some(report)).await?);
        }
        Ok(reports)
    }

    /// Puts a sandbox back to one of its checkpoints.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn rollback_sandbox(
        &self,
        id: &SandboxId,
        checkpoint: &CheckpointName,
    ) -> Result<SandboxReport> {
        let request = rpc::RollbackSandboxRequest {
            sandbox_id: id.to_string(),
            name: checkpoint.to_string(),
            ..Default::default()
        };
        let limit = SAVE_TIMEOUT + RESUME_TIMEOUT;
        let answer = unary!(self, rollback_sandbox_with_options(request), limit)?;
        self.report_from(answer.sandbox.into_option()).await
    }

    /// Checks the report in an answer.
    async fn report_from(&self, report: Option<rpc::SandboxReport>) -> Result<SandboxReport> {
        // The only host can be asked before it has said who it is.
        let host_id = match self.id() {
            Some(id) => id,
            None => self.connect().await?.id,
        };
        from_message(&host_id, report.unwrap_or_default()).map_err(|cause| {
            Error::new(
                ErrorCode::AgentError,
                "the host agent's answer makes no sense",
            )
            .because(cause)
        })
    }

    fn valid_report(&self, report: rpc::SandboxReport) -> Option<SandboxReport> {
        let host_id = self.id().unwrap_or_default();
        match from_message(&host_id, report) {
            Ok(report) => Some(report),
            Err(error) => {
                tracing::warn!(host_id, %error, "ignoring a report that makes no sense");
                None
            }
        }
    }
}

/// Checks a report of the host `host_id`.
fn from_message(
    host_id: &str,
    report: rpc::SandboxReport,
) -> std::result::Result<SandboxReport, InvalidValue> {
    let id: SandboxId = report.sandbox_id.parse()?;
    let state = match report.state.as_known() {
        Some(rpc::SandboxState::SANDBOX_STATE_REMOVED) => {
            let host_id = host_id.to_owned();
            return Ok(SandboxReport::Removed { id, host_id });
        }
        Some(rpc::SandboxState::SANDBOX_STATE_PENDING) => SandboxState::Pending,
        Some(rpc::SandboxState::SANDBOX_STATE_RUNNING) => SandboxState::Running,
        Some(rpc::SandboxState::SANDBOX_STATE_PAUSED) => SandboxState::Paused,
        Some(rpc::SandboxState::SANDBOX_STATE_STOPPED) => SandboxState::Stopped,
        Some(rpc::SandboxState::SANDBOX_STATE_ERROR) => SandboxState::Error,
        Some(rpc::SandboxState::SANDBOX_STATE_UNSPECIFIED) | None => {
            return Err(InvalidValue::new(
                "state",
                "is none that this version knows",
            ));
        }
    };
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let time = |time: i64| Some(time).filter(|&time| time > 0);
    let disk = report.disk.into_option();
    // A host of an earlier version sends no rules.
    let spec = report.spec.into_option();
    let network = spec.and_then(|spec| spec.network.into_option());
    let network = network
        .map(|rules| rpc::network::from_message(Some(&rules)))
        .transpose()?;
    let access_token_sha256 = report.access_token_sha256.as_slice().try_into().ok();
    let report = Report {
        id,
        host_id: host_id.to_owned(),
        generation: Generation(report.generation),
        state,
        reason: text(report.reason),
        guest_ip: text(report.guest_ip),
        host_ip: text(report.host_ip),
        started_at: time(report.started_at_ms),
        last_active_at: time(report.last_active_at_ms),
        disk: disk.map(|disk| Disk {
            backend: disk.backend,
            size_mb: disk.size_mb,
            used_bytes: i64::try_from(disk.used_bytes).unwrap_or(i64::MAX),
        }),
        network,
    };
    Ok(SandboxReport::Present {
        report: Box::new(report),
        access_token_sha256,
    })
}
