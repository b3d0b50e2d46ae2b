//! What is said of a sandbox beside its spec, and changes while it exists.

use std::str::FromStr;

use serde::Serialize;

use crate::error::InvalidValue;
use crate::id::SandboxName;
use crate::label::Labels;

/// Name, labels and end of a sandbox. Only the control plane knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SandboxAttributes {
    /// Unique among the sandboxes of its team that are neither stopped nor failed.
    pub name: Option<SandboxName>,
    pub labels: Labels,
    /// Time at which it is stopped whatever it does, in milliseconds since the Unix epoch.
    pub ends_at: Option<i64>,
    /// Meaning of `ends_at`.
    // Left out where it is the default: earlier versions hashed attributes without it.
    #[serde(skip_serializing_if = "EndPolicy::is_stop")]
    pub end_policy: EndPolicy,
    /// Milliseconds from each start or resume to the end that it sets. Without it, an end with the
    /// policies that are about running sandboxes is of one run, and goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<i64>,
}

/// Meaning of the end of a sandbox. With the policies that are about running sandboxes, the report
/// that it runs sets its end, and the report that it is paused takes it away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndPolicy {
    /// It is stopped then, running or paused.
    #[default]
    Stop,
    /// It is stopped then if it runs.
    StopRunning,
    /// It is paused then if it runs.
    PauseRunning,
}

impl EndPolicy {
    pub const ALL: [Self; 3] = [Self::Stop, Self::StopRunning, Self::PauseRunning];

    /// Returns the policy as it stands in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::StopRunning => "stop_running",
            Self::PauseRunning => "pause_running",
        }
    }

    /// Returns true for the policy that ends paused sandboxes, too.
    #[must_use]
    pub const fn is_stop(&self) -> bool {
        matches!(self, Self::Stop)
    }
}

impl FromStr for EndPolicy {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let mut all = Self::ALL.into_iter();
        all.find(|policy| policy.as_str() == text).ok_or_else(|| {
            InvalidValue::new("end_policy", "must be stop, stop_running or pause_running")
        })
    }
}
