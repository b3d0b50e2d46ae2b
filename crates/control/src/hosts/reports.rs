//! Reports of hosts about their sandboxes, checked.

use host_rpc as rpc;
use model::{
    AutoCheckpoint, ErrorCode, Generation, IdleSettings, InvalidValue, SandboxId, SandboxState,
};
use store::{Disk, Report};

use super::Host;
use crate::error::{Error, Result};

/// Host's report of a sandbox, checked.
#[derive(Debug, Clone)]
pub enum SandboxReport {
    Present {
        report: Box<Report>,
        /// Settings that the host goes by; `None` where it sent no spec.
        settings: Option<HostSettings>,
        /// Token of the guest agent; `None` from hosts of a version before.
        token: Option<ReportedToken>,
    },
    /// The host has nothing of it any more.
    Removed { id: SandboxId, host_id: String },
}

impl SandboxReport {
    /// Returns the id of the sandbox.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        match self {
            Self::Present { report, .. } => &report.id,
            Self::Removed { id, .. } => id,
        }
    }
}

/// Token of a guest agent, as its host reports it.
#[derive(Clone, PartialEq, Eq)]
pub enum ReportedToken {
    Whole(String),
    /// SHA-256 of it, from hosts of a version before.
    Hash([u8; 32]),
}

impl std::fmt::Debug for ReportedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReportedToken(…)")
    }
}

impl ReportedToken {
    fn from_report(report: &rpc::SandboxReport) -> Option<Self> {
        if !report.access_token.is_empty() {
            return Some(Self::Whole(report.access_token.clone()));
        }
        let hash = report.access_token_sha256.as_slice().try_into().ok();
        hash.map(Self::Hash)
    }
}

/// Settings of a sandbox that its host goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSettings {
    pub idle: IdleSettings,
    /// Policy for automatic checkpoints.
    pub policy: Option<AutoCheckpoint>,
}

impl HostSettings {
    fn from_spec(spec: &rpc::SandboxSpec) -> Self {
        Self {
            idle: rpc::spec::idle_of_spec(spec),
            policy: rpc::spec::policy_of_spec(spec),
        }
    }
}

impl Host {
    /// Checks the report in an answer of the host.
    pub(super) async fn report_from(
        &self,
        report: Option<rpc::SandboxReport>,
    ) -> Result<SandboxReport> {
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

    /// Returns the report if it makes sense, and logs it otherwise.
    pub(super) fn valid_report(&self, report: rpc::SandboxReport) -> Option<SandboxReport> {
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
    let token = ReportedToken::from_report(&report);
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let time = |time: i64| Some(time).filter(|&time| time > 0);
    let disk = report.disk.into_option();
    // A host of an earlier version sends no rules.
    let spec = report.spec.into_option();
    let network = spec
        .as_ref()
        .map(rpc::spec::network_from_message)
        .transpose()?
        .flatten();
    let settings = spec.as_ref().map(HostSettings::from_spec);
    let report = Report {
        id,
        host_id: host_id.to_owned(),
        generation: Generation(report.generation),
        state,
        reason: text(report.reason),
        // One that is not over has no such cause, whatever its host says.
        stop_reason: rpc::stop_reason::from_message(report.stop_reason.as_known())
            .filter(|_| state.is_terminal()),
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
        settings,
        token,
    })
}
