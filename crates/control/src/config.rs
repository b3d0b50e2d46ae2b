//! Settings of `wrenn-cp`: environment variables, read once. Every mistake is reported, not just
//! the first.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use listener::ListenerLimits;
use model::Limits;
use runtime::config::ConfigErrors;
use runtime::environment::variable;

use crate::hosts::{self, HostAddr, Token};
use crate::ports::PortSettings;
use crate::rate_limit::RateLimitSettings;

/// Default of `WRENN_DIR` (the original Wrenn's place).
pub const DEFAULT_DIR: &str = "/var/lib/wrenn";
/// The original Wrenn's limit: 100 MiB.
pub const DEFAULT_MAX_UPLOAD_BYTES: u64 = 100 * MIB;
/// Name in the directory; the host agent makes the file.
const TOKEN_FILE: &str = "agent-token";
const MIB: u64 = 1024 * 1024;
const MAX_UPLOAD_MB: u32 = 1024 * 1024;
/// A name with port and sandbox before it has at most 253 characters.
const MAX_DOMAIN: usize = 200;
/// Each connection holds descriptors and up to some hundred KiB; this many are 2 GiB of both.
const MAX_CONNECTIONS: usize = 1024 * 1024;

/// Configuration of the control plane, from the environment.
#[derive(Debug, Clone)]
pub struct Config {
    /// `WRENN_DIR`.
    pub dir: PathBuf,
    /// `DATABASE_URL`; SQLite in the directory where it is missing.
    pub database_url: String,
    /// `CP_LISTEN_ADDR`.
    pub listen: SocketAddr,
    /// `CP_HOST_AGENT_ADDR`, with `AGENT_TOKEN`, the credential `agent-token`, or the token file of
    /// the directory.
    pub host: HostAddr,
    /// `CP_MAX_VCPUS`, `CP_MAX_MEMORY_MB`, `CP_MAX_TIMEOUT_SEC`, `CP_MAX_DISK_MB`.
    pub limits: Limits,
    /// `CP_MAX_UPLOAD_MB`, in bytes.
    pub max_upload_bytes: u64,
    /// `CP_DOMAIN`, `CP_PUBLIC_URL`.
    pub ports: PortSettings,
    /// `CP_MAX_CONNECTIONS`, `CP_MAX_CONNECTIONS_PER_ADDRESS`.
    pub listener: ListenerLimits,
    /// `CP_MAX_REQUESTS_PER_SEC`, `CP_MAX_CREATES_PER_MIN`.
    pub rate_limits: RateLimitSettings,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::from_lookup(variable)
    }

    /// Reads the settings for `dir`, with everything else from the environment.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn for_dir(dir: &Path) -> Result<Self, ConfigErrors> {
        let dir = dir.to_string_lossy().into_owned();
        Self::from_lookup(|name| match name {
            "WRENN_DIR" => Some(dir.clone()),
            other => variable(other),
        })
    }

    /// Returns the defaults of all settings.
    pub(crate) fn without_variables() -> Result<Self, ConfigErrors> {
        Self::from_lookup(|_| None)
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut mistakes = Vec::new();
        let dir = lookup("WRENN_DIR").map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from);
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        let listen = lookup("CP_LISTEN_ADDR").unwrap_or_else(|| "127.0.0.1:8000".to_owned());
        let listen = listen_address(&listen).unwrap_or_else(|| {
            mistakes.push(format!(
                "CP_LISTEN_ADDR must be an address and port like 127.0.0.1:8000, not {listen:?}"
            ));
            SocketAddr::from(([127, 0, 0, 1], 0))
        });
        let database_url = database_url(&lookup, &dir, &mut mistakes);
        let host = HostAddr {
            url: host_url(&lookup, &mut mistakes),
            token: token(&lookup, &dir, &mut mistakes),
        };
        let limits = limits(&lookup, &mut mistakes);
        let max_upload = bounded(
            &lookup,
            "CP_MAX_UPLOAD_MB",
            1,
            MAX_UPLOAD_MB,
            100,
            &mut mistakes,
        );
        let max_upload_bytes = u64::from(max_upload) * MIB;
        let rate_limits = rate_limits(&lookup, &mut mistakes);
        let ports = ports(&lookup, &mut mistakes);
        let listener = listener_limits(&lookup, &ports, &mut mistakes);
        let config = Self {
            dir,
            database_url,
            listen,
            host,
            limits,
            max_upload_bytes,
            ports,
            listener,
            rate_limits,
        };
        if mistakes.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(mistakes))
        }
    }
}

/// Returns the default database URL: SQLite in `dir`.
#[must_use]
pub fn sqlite_in(dir: &Path) -> String {
    format!("sqlite://{}", dir.join("wrenn.db").display())
}

fn database_url(
    lookup: impl Fn(&str) -> Option<String>,
    dir: &Path,
    mistakes: &mut Vec<String>,
) -> String {
    let url = lookup("DATABASE_URL").unwrap_or_else(|| sqlite_in(dir));
    let schemes = ["sqlite://", "postgres://", "postgresql://"];
    if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
        // Not shown: it may hold a password.
        mistakes.push("DATABASE_URL must begin with sqlite:// or postgres://".to_owned());
    }
    url
}

/// Reads the limits of sandboxes; a setting can only lower what this version allows.
fn limits(lookup: impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> Limits {
    let most = Limits::default();
    let mut at_most = |name, least, most| bounded(&lookup, name, least, most, most, &mut *mistakes);
    Limits {
        max_vcpus: at_most("CP_MAX_VCPUS", 1, most.max_vcpus),
        max_memory_mb: at_most(
            "CP_MAX_MEMORY_MB",
            Limits::MIN_MEMORY_MB,
            most.max_memory_mb,
        ),
        max_disk_mb: at_most("CP_MAX_DISK_MB", Limits::MIN_DISK_MB, most.max_disk_mb),
        max_timeout_sec: at_most("CP_MAX_TIMEOUT_SEC", 1, most.max_timeout_sec),
    }
}

/// Returns the file in which the host agent of the same machine leaves its token.
#[must_use]
pub fn token_file(dir: &Path) -> PathBuf {
    dir.join(TOKEN_FILE)
}

fn token(lookup: impl Fn(&str) -> Option<String>, dir: &Path, mistakes: &mut Vec<String>) -> Token {
    let Some(token) = lookup("AGENT_TOKEN") else {
        // What systemd has loaded for this service (systemd.exec(5), `LoadCredential=`).
        let credential =
            lookup("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(TOKEN_FILE));
        return Token::File(
            credential
                .filter(|path| path.exists())
                .unwrap_or_else(|| token_file(dir)),
        );
    };
    if token.len() < 16 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        mistakes
            .push("AGENT_TOKEN must be 16 or more printable characters without spaces".to_owned());
    }
    Token::Given(token)
}

/// Returns the URL of the host agent. The original Wrenn allows the address without a scheme.
fn host_url(lookup: impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> String {
    let text = lookup("CP_HOST_AGENT_ADDR")
        .unwrap_or_else(|| format!("localhost:{}", hosts::DEFAULT_PORT));
    let url = if text.contains("://") {
        text.clone()
    } else {
        format!("http://{text}")
    };
    let url = url.trim_end_matches('/').to_owned();
    let right = url.parse::<http::Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http")
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.path() == "/"
    });
    if !right {
        mistakes.push(format!(
            "CP_HOST_AGENT_ADDR must be like http://localhost:50051, not {text:?}"
        ));
    }
    url
}

fn ports(lookup: impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> PortSettings {
    let mut settings = PortSettings::default();
    if let Some(domain) = lookup("CP_DOMAIN") {
        let is_label = |label: &str| {
            let right = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len()) && label.bytes().all(right) && !label.starts_with('-')
        };
        if domain.split('.').all(is_label) && domain.len() <= MAX_DOMAIN {
            settings = PortSettings {
                domain: domain.to_ascii_lowercase(),
                is_domain_set: true,
                ..settings
            };
        } else {
            mistakes
                .push(format!("CP_DOMAIN must be a name like sandboxes.example.com, without a port, not {domain:?}"));
        }
    }
    if let Some(url) = lookup("CP_PUBLIC_URL") {
        let url = url.trim_end_matches('/').to_owned();
        let right = url.parse::<http::Uri>().is_ok_and(|uri| {
            let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
            is_http
                && uri
                    .authority()
                    .is_some_and(|name| !name.as_str().contains('@'))
                && uri.path() == "/"
                && uri.query().is_none()
        });
        if !right {
            mistakes.push(format!(
                "CP_PUBLIC_URL must be like https://wrenn.example.com, without a path, not {url:?}"
            ));
        }
        settings.public_url = Some(url);
    }
    settings
}

fn listener_limits(
    lookup: impl Fn(&str) -> Option<String>,
    ports: &PortSettings,
    mistakes: &mut Vec<String>,
) -> ListenerLimits {
    let most = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    let default = u32::try_from(ListenerLimits::DEFAULT_CONNECTIONS).unwrap_or(most);
    let connections = bounded(&lookup, "CP_MAX_CONNECTIONS", 16, most, default, mistakes);
    // All users of an installation behind a proxy come from the proxy's address.
    let share = if ports.public_url.is_some() {
        0
    } else {
        connections / 8
    };
    let share = bounded(
        &lookup,
        "CP_MAX_CONNECTIONS_PER_ADDRESS",
        0,
        most,
        share,
        mistakes,
    );
    ListenerLimits {
        connections: connections as usize,
        per_address: Some(share as usize).filter(|share| *share > 0),
        ..ListenerLimits::default()
    }
}

fn rate_limits(
    lookup: impl Fn(&str) -> Option<String>,
    mistakes: &mut Vec<String>,
) -> RateLimitSettings {
    let mut rate =
        |name, default| bounded(&lookup, name, 0, RateLimitSettings::MAX, default, mistakes);
    RateLimitSettings {
        requests_per_sec: rate(
            "CP_MAX_REQUESTS_PER_SEC",
            RateLimitSettings::DEFAULT_REQUESTS_PER_SEC,
        ),
        creates_per_min: rate(
            "CP_MAX_CREATES_PER_MIN",
            RateLimitSettings::DEFAULT_CREATES_PER_MIN,
        ),
    }
}

fn bounded(
    lookup: impl Fn(&str) -> Option<String>,
    name: &str,
    least: u32,
    most: u32,
    default: u32,
    mistakes: &mut Vec<String>,
) -> u32 {
    let Some(text) = lookup(name) else {
        return default;
    };
    let number = text
        .parse()
        .ok()
        .filter(|number| (least..=most).contains(number));
    number.unwrap_or_else(|| {
        mistakes.push(format!(
            "{name} must be a number from {least} to {most}, not {text:?}"
        ));
        default
    })
}

/// Parses an address and port; a port alone, as `:8000`, means every interface (the original
/// Wrenn's spelling).
#[must_use]
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix(':') {
        Some(port) => Some(SocketAddr::from(([0, 0, 0, 0], port.parse().ok()?))),
        None => text.replace("localhost", "127.0.0.1").parse().ok(),
    }
}

/// Returns the URL at which clients on this machine reach a server that listens at `listen`.
#[must_use]
pub fn local_url(listen: SocketAddr) -> String {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(std::net::IpAddr::from([127, 0, 0, 1]));
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_originals() {
        let config = Config::from_lookup(|_| None).unwrap();
        assert_eq!(config.database_url, "sqlite:///var/lib/wrenn/wrenn.db");
        assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
        assert_eq!(config.host.url, "http://localhost:50051");
        assert!(
            matches!(&config.host.token, Token::File(path) if path == Path::new("/var/lib/wrenn/agent-token"))
        );
        assert_eq!(config.max_upload_bytes, 100 * 1024 * 1024);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        const NAMES: [&str; 13] = [
            "CP_LISTEN_ADDR",
            "DATABASE_URL",
            "CP_HOST_AGENT_ADDR",
            "AGENT_TOKEN",
            "CP_MAX_VCPUS",
            "CP_MAX_MEMORY_MB",
            "CP_MAX_UPLOAD_MB",
            "CP_DOMAIN",
            "CP_PUBLIC_URL",
            "CP_MAX_CONNECTIONS",
            "CP_MAX_CONNECTIONS_PER_ADDRESS",
            "CP_MAX_REQUESTS_PER_SEC",
            "CP_MAX_CREATES_PER_MIN",
        ];
        let wrong =
            Config::from_lookup(|name| NAMES.contains(&name).then(|| "secret wrong!".to_owned()));
        let text = wrong.unwrap_err().to_string();
        for name in NAMES {
            assert!(text.contains(name), "{text}");
        }
        assert!(
            !text
                .lines()
                .any(|line| line.contains("DATABASE_URL") && line.contains("secret")),
            "{text}"
        );
    }

    #[test]
    fn token_file_is_the_credential_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        let token = || {
            let config =
                Config::from_lookup(|name| (name == "CREDENTIALS_DIRECTORY").then(|| path.clone()))
                    .unwrap();
            let Token::File(path) = config.host.token else {
                panic!("no token was given")
            };
            path
        };
        assert_eq!(token(), Path::new("/var/lib/wrenn/agent-token"));
        std::fs::write(dir.path().join(TOKEN_FILE), "0123456789abcdef").unwrap();
        assert_eq!(token(), dir.path().join(TOKEN_FILE));
    }

    #[test]
    fn addresses_may_be_short() {
        assert_eq!(
            listen_address(":8000"),
            Some(SocketAddr::from(([0, 0, 0, 0], 8000)))
        );
        assert_eq!(
            local_url(listen_address(":8000").unwrap()),
            "http://127.0.0.1:8000"
        );
        let lookup = |name: &str| (name == "CP_HOST_AGENT_ADDR").then(|| "10.0.0.1:5/".to_owned());
        assert_eq!(
            Config::from_lookup(lookup).unwrap().host.url,
            "http://10.0.0.1:5"
        );
    }
}
