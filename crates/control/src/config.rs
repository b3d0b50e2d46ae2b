//! Settings of `wrenn-cp`: environment variables, read once. Every mistake is reported, not just
//! the first.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use listener::ListenerLimits;
use model::Limits;
use runtime::config::{ConfigErrors, Variables};
use runtime::environment::variable;
use runtime::metrics::MetricsAddr;

use crate::events::EventSettings;
use crate::hosts::{self, HostAddr, Token};
use crate::ports::PortSettings;
use crate::rate_limit::RateLimitSettings;
use crate::webhooks::WebhookSettings;

/// Default of `WRENN_DIR` (the original Wrenn's place).
pub const DEFAULT_DIR: &str = "/var/lib/wrenn";
/// The original Wrenn's limit: 100 MiB.
pub const DEFAULT_MAX_UPLOAD_BYTES: u64 = 100 * MIB;
/// Longest time at the end in which requests are taken, seconds: load balancers look each few
/// seconds, and supervisors wait some minutes at most.
const MAX_DRAIN_SEC: u64 = 300;

/// Port of the metrics on loopback.
const METRICS_PORT: u16 = 8001;
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
    /// `CP_EVENTS_KEEP_DAYS`, `CP_EVENTS_MAX_ROWS`.
    pub events: EventSettings,
    /// `CP_WEBHOOK_ALLOW`.
    pub webhooks: WebhookSettings,
    /// `CP_METRICS_ADDR`.
    pub metrics: MetricsAddr,
    pub drain: Duration,
    /// `CP_DOCS_PATH`.
    pub guide: PathBuf,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::from_lookup(&variable)
    }

    /// Reads the settings for `dir`, with everything else from the environment.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn for_dir(dir: &Path) -> Result<Self, ConfigErrors> {
        let dir = dir.to_string_lossy().into_owned();
        Self::from_lookup(&|name| match name {
            "WRENN_DIR" => Some(dir.clone()),
            other => variable(other),
        })
    }

    /// Returns the defaults of all settings.
    pub(crate) fn without_variables() -> Result<Self, ConfigErrors> {
        Self::from_lookup(&|_| None)
    }

    fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut variables = Variables::new(lookup);
        let dir = variables.path("WRENN_DIR", Path::new(DEFAULT_DIR));
        let max_upload_mb = variables.parse_within("CP_MAX_UPLOAD_MB", &(1..=MAX_UPLOAD_MB), 100);
        let ports = ports(&mut variables);
        let config = Self {
            database_url: database_url(&mut variables, &dir),
            listen: listen(&mut variables),
            host: HostAddr {
                url: host_url(&mut variables),
                token: token(&mut variables, &dir),
            },
            limits: limits(&mut variables),
            max_upload_bytes: u64::from(max_upload_mb) * MIB,
            listener: listener_limits(&mut variables, &ports),
            ports,
            rate_limits: rate_limits(&mut variables),
            events: events(&mut variables),
            drain: drain(&mut variables),
            webhooks: webhooks(&mut variables),
            metrics: MetricsAddr::from_variable(&mut variables, "CP_METRICS_ADDR", METRICS_PORT),
            guide: variables.path("CP_DOCS_PATH", &find_guide()),
            dir,
        };
        runtime::otlp::check_settings(&mut variables);
        variables.finish(config)
    }
}

fn listen(variables: &mut Variables<'_>) -> SocketAddr {
    let text = variables.text("CP_LISTEN_ADDR");
    let text = text.unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    listen_address(&text).unwrap_or_else(|| {
        variables.add_error(format!(
            "CP_LISTEN_ADDR must be an address and port like 127.0.0.1:8000, not {text:?}"
        ));
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

/// Returns the directory of the guide: `docs` beside the program, as `make docs` puts it, or
/// `share/wrenn/docs` beside the directory of the program, as `make install` does.
#[must_use]
pub(crate) fn find_guide() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let dir = program.parent().unwrap_or(Path::new("/usr/local/bin"));
    let beside = dir.join("docs");
    if beside.is_dir() {
        return beside;
    }
    dir.parent().unwrap_or(dir).join("share/wrenn/docs")
}

/// Returns the default database URL: SQLite in `dir`.
#[must_use]
pub fn sqlite_in(dir: &Path) -> String {
    format!("sqlite://{}", dir.join("wrenn.db").display())
}

fn database_url(variables: &mut Variables<'_>, dir: &Path) -> String {
    let url = variables.text("DATABASE_URL");
    let url = url.unwrap_or_else(|| sqlite_in(dir));
    let schemes = ["sqlite://", "postgres://", "postgresql://"];
    if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
        // Not shown: it may hold a password.
        variables.add_error("DATABASE_URL must begin with sqlite:// or postgres://".to_owned());
    }
    url
}

/// Reads the limits of sandboxes; a setting can only lower what this version allows.
fn limits(variables: &mut Variables<'_>) -> Limits {
    let most = Limits::default();
    let mut at_most = |name, least, most| variables.parse_within(name, &(least..=most), most);
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

fn token(variables: &mut Variables<'_>, dir: &Path) -> Token {
    let Some(token) = variables.text("AGENT_TOKEN") else {
        // What systemd has loaded for this service (systemd.exec(5), `LoadCredential=`).
        let credentials = variables.text("CREDENTIALS_DIRECTORY");
        let credential = credentials.map(|dir| Path::new(&dir).join(TOKEN_FILE));
        return Token::File(
            credential
                .filter(|path| path.exists())
                .unwrap_or_else(|| token_file(dir)),
        );
    };
    if token.len() < 16 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        variables.add_error(
            "AGENT_TOKEN must be 16 or more printable characters without spaces".to_owned(),
        );
    }
    Token::Given(token)
}

/// Returns the URL of the host agent. The original Wrenn allows the address without a scheme.
fn host_url(variables: &mut Variables<'_>) -> String {
    let text = variables.text("CP_HOST_AGENT_ADDR");
    let text = text.unwrap_or_else(|| format!("localhost:{}", hosts::DEFAULT_PORT));
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
        variables.add_error(format!(
            "CP_HOST_AGENT_ADDR must be like http://localhost:50051, not {text:?}"
        ));
    }
    url
}

fn ports(variables: &mut Variables<'_>) -> PortSettings {
    let mut settings = PortSettings::default();
    if let Some(domain) = variables.text("CP_DOMAIN") {
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
            variables
                .add_error(format!("CP_DOMAIN must be a name like sandboxes.example.com, without a port, not {domain:?}"));
        }
    }
    if let Some(url) = variables.text("CP_PUBLIC_URL") {
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
            variables.add_error(format!(
                "CP_PUBLIC_URL must be like https://wrenn.example.com, without a path, not {url:?}"
            ));
        }
        settings.public_url = Some(url);
    }
    settings
}

fn listener_limits(variables: &mut Variables<'_>, ports: &PortSettings) -> ListenerLimits {
    let default = ListenerLimits::DEFAULT_CONNECTIONS;
    let connections =
        variables.parse_within("CP_MAX_CONNECTIONS", &(16..=MAX_CONNECTIONS), default);
    // All users of an installation behind a proxy come from the proxy's address.
    let share = if ports.public_url.is_some() {
        0
    } else {
        connections / 8
    };
    let range = 0..=MAX_CONNECTIONS;
    let share = variables.parse_within("CP_MAX_CONNECTIONS_PER_ADDRESS", &range, share);
    ListenerLimits {
        connections,
        per_address: Some(share).filter(|share| *share > 0),
        ..ListenerLimits::default()
    }
}

fn rate_limits(variables: &mut Variables<'_>) -> RateLimitSettings {
    let range = 0..=RateLimitSettings::MAX;
    let mut rate = |name, default| variables.parse_within(name, &range, default);
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

fn drain(variables: &mut Variables<'_>) -> Duration {
    Duration::from_secs(variables.parse_within("CP_DRAIN_SEC", &(0..=MAX_DRAIN_SEC), 0))
}

fn events(variables: &mut Variables<'_>) -> EventSettings {
    let days = 1..=EventSettings::MAX_KEEP_DAYS;
    let rows = 1..=EventSettings::MAX_ROWS;
    EventSettings {
        keep_days: variables.parse_within(
            "CP_EVENTS_KEEP_DAYS",
            &days,
            EventSettings::DEFAULT_KEEP_DAYS,
        ),
        max_rows: variables.parse_within(
            "CP_EVENTS_MAX_ROWS",
            &rows,
            EventSettings::DEFAULT_MAX_ROWS,
        ),
    }
}

fn webhooks(variables: &mut Variables<'_>) -> WebhookSettings {
    let networks = variables.text("CP_WEBHOOK_ALLOW").unwrap_or_default();
    let mut settings = WebhookSettings::default();
    for network in networks
        .split(',')
        .map(str::trim)
        .filter(|it| !it.is_empty())
    {
        match network.parse() {
            Ok(network) => settings.allowed.push(network),
            Err(_) => variables.add_error(format!(
                "CP_WEBHOOK_ALLOW must be networks with commas between them like 127.0.0.0/8,fd00::/8, not {network:?}"
            )),
        }
    }
    settings
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
        let config = Config::from_lookup(&|_| None).unwrap();
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
        const NAMES: [&str; 16] = [
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
            "CP_EVENTS_KEEP_DAYS",
            "CP_EVENTS_MAX_ROWS",
            "CP_WEBHOOK_ALLOW",
        ];
        let wrong =
            Config::from_lookup(&|name| NAMES.contains(&name).then(|| "secret wrong!".to_owned()));
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
            let config = Config::from_lookup(&|name| {
                (name == "CREDENTIALS_DIRECTORY").then(|| path.clone())
            })
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
            Config::from_lookup(&lookup).unwrap().host.url,
            "http://10.0.0.1:5"
        );
    }
}
