//! Arguments of a build, and the platform that it is for.

use std::collections::BTreeMap;

use crate::error::{DockerfileError, Result};

/// Arguments that every `RUN` sees when they are given, and that change no layer.
const PROXY_ARGS: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// Platform of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// As Go and OCI images name it: `amd64`, `arm64`.
    pub architecture: String,
}

impl Default for Platform {
    fn default() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            architecture: architecture.to_owned(),
        }
    }
}

impl Platform {
    /// Returns the value of a variable about platforms.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let name = name
            .strip_prefix("TARGET")
            .or_else(|| name.strip_prefix("BUILD"))?;
        match name {
            "PLATFORM" => Some(format!("linux/{}", self.architecture)),
            "OS" => Some("linux".to_owned()),
            "ARCH" => Some(self.architecture.clone()),
            "VARIANT" => Some(String::new()),
            _ => None,
        }
    }

    /// Checks that a stage is for this platform.
    pub(crate) fn check(&self, platform: &str, line: usize) -> Result<()> {
        let own = format!("linux/{}", self.architecture);
        let is_own = platform == own
            || platform
                .strip_prefix(&own)
                .is_some_and(|v| v.starts_with('/'));
        if is_own || platform == self.architecture {
            return Ok(());
        }
        let text = format!("--platform={platform} cannot be built here; the host's is {own}");
        Err(DockerfileError::new(line, text))
    }
}

/// Arguments and platform that the caller of a build gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildArgs {
    pub values: BTreeMap<String, String>,
    pub platform: Platform,
}

impl BuildArgs {
    /// Returns true for arguments that need no `ARG` and change no layer.
    pub(crate) fn is_proxy(name: &str) -> bool {
        PROXY_ARGS.contains(&name.to_ascii_uppercase().as_str())
    }

    pub(crate) fn proxies(&self) -> impl Iterator<Item = (String, String)> {
        let given = self.values.iter().filter(|(name, _)| Self::is_proxy(name));
        given.map(|(name, value)| (name.clone(), value.clone()))
    }
}
