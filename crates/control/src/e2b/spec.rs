//! The spec of a sandbox, from and to what E2B says: the one place of this face that names its fields.

use std::collections::BTreeMap;

use model::{Limits, NetworkSpec, OnTimeout, SandboxSpec, SupervisedCommand, TemplateName};

use super::error::Result;

/// Options of a request of E2B that become the spec of a sandbox.
#[derive(Debug)]
pub struct SpecOptions {
    pub template: TemplateName,
    pub start_command: Option<SupervisedCommand>,
    pub environment: BTreeMap<String, String>,
    /// True if traffic resumes it.
    pub wakes: bool,
    /// True if its ports need no token.
    pub is_public: bool,
    pub rules: NetworkSpec,
}

impl SpecOptions {
    /// Returns the spec. E2B knows no idle timeout, so it is the longest.
    ///
    /// # Errors
    /// 400 names the field that is out of bounds.
    pub fn into_spec(self, limits: &Limits) -> Result<SandboxSpec> {
        let spec = SandboxSpec::builder()
            .template(self.template)
            .envs(self.environment)
            .timeout_sec(limits.max_timeout_sec)
            .on_timeout(OnTimeout::Pause)
            .auto_resume(self.wakes)
            .public_ports(self.is_public)
            .network(self.rules);
        let spec = match self.start_command {
            Some(command) => spec.start_command(command).build(),
            None => spec.build(),
        };
        spec.check(limits)?;
        Ok(spec)
    }
}

/// Sizes of a sandbox.
#[derive(Debug, Clone, Copy)]
pub struct SpecSizes {
    pub cpus: u32,
    /// MiB.
    pub memory: u32,
    /// MiB; `None` where the template decides.
    pub disk: Option<u32>,
}

/// Returns the sizes that a spec has.
pub const fn sizes(spec: &SandboxSpec) -> SpecSizes {
    SpecSizes {
        cpus: spec.vcpus,
        memory: spec.memory_mb,
        disk: spec.disk_mb,
    }
}

/// Returns true if ports of the sandbox need no token.
pub const fn is_public(spec: &SandboxSpec) -> bool {
    spec.public_ports
}

/// Returns true if traffic resumes the sandbox.
pub const fn wakes(spec: &SandboxSpec) -> bool {
    spec.auto_resume
}

/// Returns the rules about where the sandbox may connect to.
pub const fn network_rules(spec: &SandboxSpec) -> &NetworkSpec {
    &spec.network
}

/// Returns the milliseconds after which the sandbox is idle.
pub fn idle_ms(spec: &SandboxSpec) -> i64 {
    i64::from(spec.timeout_sec) * 1000
}
