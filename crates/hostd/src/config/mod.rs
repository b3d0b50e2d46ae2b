//! Settings of the host agent: environment variables, read once, one file for each concern. Every
//! mistake is reported, not just the first.

pub(crate) mod api;
pub(crate) mod disks;
mod engine;
pub(crate) mod limits;
pub(crate) mod network;
mod paths;
mod registries;

use std::path::{Path, PathBuf};

use registry::RegistryPolicy;
use runtime::config::{ConfigErrors, Variables};
use runtime::environment::variable;

pub use api::ApiConfig;
pub use disks::DiskConfig;
pub use engine::EngineConfig;
pub use limits::Limits;
pub use network::NetworkConfig;
pub use paths::PathConfig;

const DIR: &str = "WRENN_DIR";

/// Default of `WRENN_DIR`, as in the original Wrenn.
pub const DEFAULT_DIR: &str = "/var/lib/wrenn";

/// Configuration of one host agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// `WRENN_DIR`: the parent of all paths that have no setting of their own.
    pub dir: PathBuf,
    pub paths: PathConfig,
    pub api: ApiConfig,
    pub engine: EngineConfig,
    pub disks: DiskConfig,
    pub network: NetworkConfig,
    pub limits: Limits,
    /// `AGENT_REGISTRIES`, `AGENT_REGISTRY_NETWORKS`.
    pub registries: RegistryPolicy,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::from_lookup(&variable)
    }

    /// Reads the settings for `dir`: everything but `WRENN_DIR` from the environment.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn for_dir(dir: &Path) -> Result<Self, ConfigErrors> {
        let dir = dir.to_string_lossy();
        Self::from_lookup(&|name| match name {
            DIR => Some(dir.clone().into_owned()),
            other => variable(other),
        })
    }

    /// Returns the defaults of all settings.
    pub(crate) fn without_variables() -> Result<Self, ConfigErrors> {
        Self::from_lookup(&|_| None)
    }

    fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut variables = Variables::new(lookup);
        let dir = variables.path(DIR, Path::new(DEFAULT_DIR));
        let config = Self {
            paths: PathConfig::from_variables(&variables, &dir),
            api: ApiConfig::from_variables(&mut variables),
            engine: EngineConfig::from_variables(&mut variables),
            disks: DiskConfig::from_variables(&mut variables),
            network: NetworkConfig::from_variables(&mut variables),
            limits: Limits::from_variables(&mut variables),
            registries: registries::read_policy(&mut variables, &dir),
            dir,
        };
        runtime::otlp::check_settings(&mut variables);
        variables.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_paths_of_original() {
        let config = Config::from_lookup(&|_| None).unwrap();
        assert_eq!(
            config.paths.kernel,
            Path::new("/var/lib/wrenn/kernels/vmlinux")
        );
        assert_eq!(config.paths.images, Path::new("/var/lib/wrenn/images"));
        assert_eq!(config.api.listen.to_string(), "127.0.0.1:50051");
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        const NAMES: [&str; 20] = [
            "AGENT_ACCEL",
            "AGENT_DISK",
            "AGENT_DISK_IOPS",
            "AGENT_DISK_MBPS",
            "AGENT_DNS",
            "AGENT_EGRESS_MBPS",
            "AGENT_INGRESS_MBPS",
            "AGENT_IPV6",
            "AGENT_LISTEN_ADDR",
            "AGENT_MAX_CONNECTIONS",
            "AGENT_MAX_SANDBOXES",
            "AGENT_NETWORK_CIDR",
            "AGENT_NETWORK_POOL",
            "AGENT_REGISTRY_NETWORKS",
            "AGENT_SANDBOX_CONNECTIONS",
            "AGENT_SYSCALL_FILTER",
            "AGENT_TOKEN",
            "AGENT_UID_BASE",
            "AGENT_VMM",
            "AGENT_WARM",
        ];
        let wrong = Config::from_lookup(&|name| NAMES.contains(&name).then(|| "wrong!".to_owned()));
        let text = wrong.unwrap_err().to_string();
        for name in NAMES {
            assert!(text.contains(name), "{text}");
        }
    }
}
