//! Specification of a sandbox as a user asks for it, and the limits on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attributes::EndPolicy;
use crate::auto_checkpoint::AutoCheckpoint;
use crate::error::InvalidValue;
use crate::exec_limits::{check_env_names, within};
use crate::id::TemplateName;
use crate::network::NetworkSpec;
use crate::supervised::SupervisedCommand;

/// A sandbox as asked for. [`SandboxSpec::check`] holds.
///
/// A new field is added here, to its builder, to the request and the answer in `api-types`, to the
/// message and its conversions in `host-rpc`, and where it is used. The store keeps the spec as one
/// column of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub template: TemplateName,
    pub vcpus: u32,
    /// MiB of guest memory.
    pub memory_mb: u32,
    /// Seconds without activity until [`SandboxSpec::on_timeout`] is done.
    pub timeout_sec: u32,
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// Calls on programs and files of the paused sandbox, and connections to its ports, resume it.
    #[serde(default = "auto_resume")]
    pub auto_resume: bool,
    /// MiB of the root disk; as large as the template's file system where it is missing.
    #[serde(default)]
    pub disk_mb: Option<u32>,
    /// Environment of every process in the sandbox.
    #[serde(default)]
    pub envs: BTreeMap<String, String>,
    /// True if the sandbox's ports are open without credentials. Only the control plane uses it:
    /// hosts are not told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public_ports: bool,
    /// Rules about where it may connect to. They can be changed while the sandbox exists.
    #[serde(default)]
    pub network: NetworkSpec,
    /// Policy for automatic checkpoints. Its host has the last word, and the store a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_checkpoint: Option<AutoCheckpoint>,
    /// Command that runs from its start on, and after each boot of its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<SupervisedCommand>,
}

/// Action when a sandbox has been idle for its timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// Pauses it: nothing is lost.
    #[default]
    Pause,
    /// Ends it, and removes its disk and memory.
    Kill,
}

impl OnTimeout {
    pub const ALL: [Self; 2] = [Self::Pause, Self::Kill];

    /// Returns the action as it stands in bodies and flags.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Kill => "kill",
        }
    }
}

impl std::str::FromStr for OnTimeout {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let mut all = Self::ALL.into_iter();
        all.find(|action| action.as_str() == text)
            .ok_or_else(|| InvalidValue::new("on_timeout", "must be pause or kill"))
    }
}

/// Settings about use and idleness, of which its host carries out what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleSettings {
    pub timeout_sec: u32,
    pub on_timeout: OnTimeout,
    pub auto_resume: bool,
}

/// Change of [`IdleSettings`]; `None` leaves a setting as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdleChange {
    pub timeout_sec: Option<u32>,
    pub on_timeout: Option<OnTimeout>,
    pub auto_resume: Option<bool>,
}

const fn auto_resume() -> bool {
    SandboxSpec::DEFAULT_AUTO_RESUME
}

/// Limits on a sandbox's sizes and times. The upper ones can be configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max_vcpus: u32,
    pub max_memory_mb: u32,
    pub max_timeout_sec: u32,
    pub max_disk_mb: u32,
}

impl Limits {
    /// Smallest memory with which the stock kernel boots our initramfs.
    pub const MIN_MEMORY_MB: u32 = 128;
    /// The smallest file system that is of any use; templates are larger.
    pub const MIN_DISK_MB: u32 = 16;
    /// Environment variables of one sandbox. They are part of its record, which is kept in the
    /// database and on the host.
    pub const MAX_ENVS: usize = 256;
    /// Bytes of their names and values together: leaves each exec most of what execve(2) takes.
    pub const MAX_ENVS_BYTES: usize = 64 * 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_vcpus: 32,
            max_memory_mb: 64 * 1024,
            max_timeout_sec: 30 * 24 * 3600,
            max_disk_mb: 1024 * 1024,
        }
    }
}

impl SandboxSpec {
    /// Defaults of the original Wrenn: `minimal`, 1 vCPU, 512 MiB, 300 s.
    pub const DEFAULT_VCPUS: u32 = 1;
    pub const DEFAULT_MEMORY_MB: u32 = 512;
    pub const DEFAULT_TIMEOUT_SEC: u32 = 300;
    /// A paused sandbox behaves like one that answers a little later.
    pub const DEFAULT_AUTO_RESUME: bool = true;

    /// Begins a spec with the default of each field.
    #[must_use]
    pub fn builder() -> SandboxSpecBuilder {
        SandboxSpecBuilder(Self {
            template: TemplateName::default(),
            vcpus: Self::DEFAULT_VCPUS,
            memory_mb: Self::DEFAULT_MEMORY_MB,
            timeout_sec: Self::DEFAULT_TIMEOUT_SEC,
            on_timeout: OnTimeout::default(),
            auto_resume: Self::DEFAULT_AUTO_RESUME,
            disk_mb: None,
            envs: BTreeMap::new(),
            public_ports: false,
            network: NetworkSpec::default(),
            auto_checkpoint: None,
            start_command: None,
        })
    }

    /// Returns the name of its template as text.
    #[must_use]
    pub fn template_name(&self) -> &str {
        self.template.as_str()
    }

    /// Returns the size of its virtual machine.
    #[must_use]
    pub const fn machine_size(&self) -> MachineSize {
        MachineSize {
            vcpus: self.vcpus,
            memory_mb: self.memory_mb,
        }
    }

    /// Returns its policy for automatic checkpoints.
    #[must_use]
    pub const fn checkpoint_policy(&self) -> Option<AutoCheckpoint> {
        self.auto_checkpoint
    }

    /// Replaces its policy for automatic checkpoints.
    pub const fn set_checkpoint_policy(&mut self, policy: Option<AutoCheckpoint>) {
        self.auto_checkpoint = policy;
    }

    /// Returns its settings about use and idleness.
    #[must_use]
    pub const fn idle_settings(&self) -> IdleSettings {
        IdleSettings {
            timeout_sec: self.timeout_sec,
            on_timeout: self.on_timeout,
            auto_resume: self.auto_resume,
        }
    }

    /// Returns what an end of a run does that its settings about idleness say nothing else of: the same
    /// as idleness.
    #[must_use]
    pub const fn idle_end_policy(&self) -> EndPolicy {
        match self.on_timeout {
            OnTimeout::Pause => EndPolicy::PauseRunning,
            OnTimeout::Kill => EndPolicy::StopRunning,
        }
    }

    /// Replaces its settings about use and idleness.
    pub const fn set_idle_settings(&mut self, settings: IdleSettings) {
        self.timeout_sec = settings.timeout_sec;
        self.on_timeout = settings.on_timeout;
        self.auto_resume = settings.auto_resume;
    }

    /// Changes its settings about use and idleness.
    pub fn change_idle_settings(&mut self, change: IdleChange) {
        let present = self.idle_settings();
        self.set_idle_settings(IdleSettings {
            timeout_sec: change.timeout_sec.unwrap_or(present.timeout_sec),
            on_timeout: change.on_timeout.unwrap_or(present.on_timeout),
            auto_resume: change.auto_resume.unwrap_or(present.auto_resume),
        });
    }

    /// Returns true if a root disk of `disk_mb` MiB is what it asks for.
    #[must_use]
    pub fn allows_disk(&self, disk_mb: u32) -> bool {
        self.disk_mb.is_none_or(|asked| asked == disk_mb)
    }

    /// Replaces its network rules, and returns the former ones.
    pub fn replace_network(&mut self, rules: NetworkSpec) -> NetworkSpec {
        std::mem::replace(&mut self.network, rules)
    }

    /// Returns true if it has network rules of its own.
    #[must_use]
    pub fn has_network_rules(&self) -> bool {
        self.network != NetworkSpec::default()
    }

    /// Lists what `asked` and the sizes that it names have otherwise, of what never changes.
    /// `disk_mb` is the size of its disk, where the spec leaves that to the template.
    #[must_use]
    pub fn fixed_differences(
        &self,
        asked: &Self,
        named: &ResourceRequest,
        disk_mb: Option<u32>,
    ) -> Vec<&'static str> {
        let differs = |asked: Option<u32>, has: Option<u32>| asked.is_some() && asked != has;
        let all = [
            ("template", self.template != asked.template),
            ("vcpus", differs(named.vcpus, Some(self.vcpus))),
            ("memory_mb", differs(named.memory_mb, Some(self.memory_mb))),
            ("disk_mb", differs(named.disk_mb, self.disk_mb.or(disk_mb))),
            ("envs", self.envs != asked.envs),
            (
                "start_command",
                asked.start_command.is_some() && self.start_command != asked.start_command,
            ),
        ];
        let different = all.into_iter().filter(|(_, differs)| *differs);
        different.map(|(field, _)| field).collect()
    }

    /// Checks the spec against `limits`. The error names the field and the bound.
    pub fn check(&self, limits: &Limits) -> Result<(), InvalidValue> {
        within("vcpus", self.vcpus, 1, limits.max_vcpus)?;
        within(
            "memory_mb",
            self.memory_mb,
            Limits::MIN_MEMORY_MB,
            limits.max_memory_mb,
        )?;
        within("timeout_sec", self.timeout_sec, 1, limits.max_timeout_sec)?;
        if let Some(disk_mb) = self.disk_mb {
            within("disk_mb", disk_mb, Limits::MIN_DISK_MB, limits.max_disk_mb)?;
        }
        self.network.check()?;
        if let Some(policy) = &self.auto_checkpoint {
            policy.check()?;
        }
        if let Some(command) = &self.start_command {
            command.check()?;
        }
        check_envs(&self.envs)
    }
}

/// Processors and memory of a virtual machine. A guest whose memory was saved goes on with the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSize {
    pub vcpus: u32,
    /// MiB.
    pub memory_mb: u32,
}

/// Sizes that a request names; `None` leaves one to the template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceRequest {
    pub vcpus: Option<u32>,
    /// MiB.
    pub memory_mb: Option<u32>,
    /// MiB.
    pub disk_mb: Option<u32>,
}

impl From<&SandboxSpec> for ResourceRequest {
    fn from(spec: &SandboxSpec) -> Self {
        Self {
            vcpus: Some(spec.vcpus),
            memory_mb: Some(spec.memory_mb),
            disk_mb: spec.disk_mb,
        }
    }
}

/// Builder of a [`SandboxSpec`]. `None` leaves a field at its default.
#[derive(Debug, Clone)]
pub struct SandboxSpecBuilder(SandboxSpec);

/// Declares one setter for each field of a [`SandboxSpecBuilder`].
macro_rules! setters {
    ($($field:ident: $kind:ty,)+) => {
        impl SandboxSpecBuilder {
            $(#[must_use]
            pub fn $field(mut self, $field: impl Into<Option<$kind>>) -> Self {
                if let Some(value) = $field.into() {
                    self.0.$field = value.into();
                }
                self
            })+
        }
    };
}

setters! {
    template: TemplateName,
    vcpus: u32,
    memory_mb: u32,
    timeout_sec: u32,
    on_timeout: OnTimeout,
    auto_resume: bool,
    disk_mb: u32,
    envs: BTreeMap<String, String>,
    public_ports: bool,
    network: NetworkSpec,
    auto_checkpoint: AutoCheckpoint,
    start_command: SupervisedCommand,
}

impl SandboxSpecBuilder {
    /// Returns the spec, unchecked: see [`SandboxSpec::check`].
    #[must_use]
    pub fn build(self) -> SandboxSpec {
        self.0
    }
}

fn check_envs(envs: &BTreeMap<String, String>) -> Result<(), InvalidValue> {
    let bytes: usize = envs
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    if envs.len() > Limits::MAX_ENVS || bytes > Limits::MAX_ENVS_BYTES {
        let problem = format!(
            "must have at most {} variables and {} bytes in all, not {} and {bytes}",
            Limits::MAX_ENVS,
            Limits::MAX_ENVS_BYTES,
            envs.len()
        );
        return Err(InvalidValue::new("envs", problem));
    }
    check_env_names(envs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec_limits::ExecLimits;

    #[test]
    fn defaults_are_valid() {
        let spec = SandboxSpec::builder().build();
        spec.check(&Limits::default()).unwrap();
        assert_eq!(spec.template.as_str(), "minimal");
    }

    #[test]
    fn refusals_name_field_and_bound() {
        let spec = SandboxSpec::builder().memory_mb(0).build();
        let refused = spec.check(&Limits::default()).unwrap_err().to_string();
        assert_eq!(refused, "memory_mb must be from 128 to 65536, not 0");
        let spec = SandboxSpec::builder().disk_mb(1 << 30).build();
        let refused = spec.check(&Limits::default()).unwrap_err().to_string();
        assert_eq!(
            refused,
            "disk_mb must be from 16 to 1048576, not 1073741824"
        );
    }

    #[test]
    fn environment_is_checked() {
        let bad = |name: &str, value: &str| {
            let envs = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let spec = SandboxSpec::builder().envs(envs).build();
            spec.check(&Limits::default()).is_err()
        };
        assert!(
            bad("", "x") && bad("A=B", "x") && bad("A", "a\0b") && bad("A", &"x".repeat(70_000))
        );
        assert!(!bad("A", "b=c"));
    }

    #[test]
    fn commands_are_checked() {
        let check = |cmd: &str, args: &[String], timeout| {
            ExecLimits::check(cmd, args, &BTreeMap::new(), timeout)
        };
        assert!(check("true", &[], 30).is_ok());
        assert!(check("", &[], 30).is_err());
        assert!(check("true", &["a\0".to_owned()], 30).is_err());
        assert!(check("true", &["a".repeat(200_000)], 30).is_err());
        assert!(check("true", &[], 0).is_err());
    }

    #[test]
    fn command_lines_are_as_long_as_on_linux() {
        let check = |args: &[String], envs: &BTreeMap<String, String>| {
            ExecLimits::check("true", args, envs, 30)
        };
        let none = BTreeMap::new();
        assert!(check(&vec!["src/some/file.py".to_owned(); 80_000], &none).is_ok());
        assert!(check(&["a".repeat(131_071)], &none).is_ok());
        assert!(check(&["a".repeat(131_072)], &none).is_err());
        let many = check(&vec!["x".repeat(1000); 2100], &none)
            .unwrap_err()
            .to_string();
        assert!(many.contains("2097152") && many.contains("xargs"), "{many}");
        let variables = |count: usize| {
            (0..count)
                .map(|n| (format!("V{n}"), "x".to_owned()))
                .collect()
        };
        assert!(
            check(&[], &variables(10_000)).is_ok(),
            "more than a sandbox may have of its own"
        );
        assert!(check(&[], &variables(200_000)).is_err());
    }
}
