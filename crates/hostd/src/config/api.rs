//! Access to the agent: address, bounds of its listener, token.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use listener::ListenerLimits;
use runtime::config::Variables;
use runtime::metrics::MetricsAddr;

const LISTEN_ADDR: &str = "AGENT_LISTEN_ADDR";
pub(crate) const MAX_CONNECTIONS: &str = "AGENT_MAX_CONNECTIONS";
const TOKEN: &str = "AGENT_TOKEN";
const METRICS_ADDR: &str = "AGENT_METRICS_ADDR";
/// Port of the metrics on loopback: the one after the port for the control plane.
const METRICS_PORT: u16 = host_rpc::DEFAULT_PORT + 1;
/// Directory of the credentials that systemd has loaded (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
const TOKEN_CREDENTIAL: &str = "agent-token";

/// Default of `AGENT_MAX_CONNECTIONS`. Each connection to a port of a sandbox is one to the agent:
/// 2048 for each of a few dozen busy sandboxes.
const DEFAULT_CONNECTIONS: usize = 64 * 1024;
const CONNECTIONS: RangeInclusive<usize> = 16..=1024 * 1024;
/// Shortest token, in characters.
const MIN_TOKEN: usize = 16;

/// Address and access.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// `AGENT_LISTEN_ADDR`.
    pub listen: SocketAddr,
    /// `AGENT_MAX_CONNECTIONS`.
    pub listener: ListenerLimits,
    /// `AGENT_TOKEN`, or systemd's credential `agent-token`; without both the token is in the file
    /// `agent-token` of `WRENN_DIR`.
    pub token: Option<String>,
    /// `AGENT_METRICS_ADDR`.
    pub metrics: MetricsAddr,
}

impl ApiConfig {
    pub(super) fn from_variables(variables: &mut Variables<'_>) -> Self {
        Self {
            listen: read_listen(variables),
            listener: ListenerLimits {
                connections: variables.parse_within(
                    MAX_CONNECTIONS,
                    &CONNECTIONS,
                    DEFAULT_CONNECTIONS,
                ),
                ..ListenerLimits::default()
            },
            token: read_token(variables),
            metrics: MetricsAddr::from_variable(variables, METRICS_ADDR, METRICS_PORT),
        }
    }
}

fn read_listen(variables: &mut Variables<'_>) -> SocketAddr {
    let loopback = [127, 0, 0, 1];
    let Some(text) = variables.text(LISTEN_ADDR) else {
        return SocketAddr::from((loopback, host_rpc::DEFAULT_PORT));
    };
    listen_address(&text).unwrap_or_else(|| {
        variables.add_error(format!(
            "{LISTEN_ADDR} must be an address and port like 127.0.0.1:50051, not {text:?}"
        ));
        SocketAddr::from((loopback, 0))
    })
}

fn read_token(variables: &mut Variables<'_>) -> Option<String> {
    let token = variables.text(TOKEN).or_else(|| {
        let dir = variables.text(CREDENTIALS_DIRECTORY)?;
        read_credential(Path::new(&dir))
    })?;
    if token.len() < MIN_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        variables.add_error(format!(
            "{TOKEN} must be {MIN_TOKEN} or more printable characters without spaces"
        ));
    }
    Some(token)
}

/// Returns the content of systemd's credential, unless it is missing or empty.
fn read_credential(dir: &Path) -> Option<String> {
    let content = std::fs::read_to_string(dir.join(TOKEN_CREDENTIAL)).ok()?;
    Some(content.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Parses an address and port; a port alone, as `:50051`, means every interface (the original
/// Wrenn's spelling).
fn listen_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix(':') {
        Some(port) => Some(SocketAddr::from(([0, 0, 0, 0], port.parse().ok()?))),
        None => text.replace("localhost", "127.0.0.1").parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn token_comes_from_environment_or_credential() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("agent-token"), "0123456789abcdef\n").unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        let with = |token: Option<&'static str>| {
            let config = Config::from_lookup(&|name| match name {
                "CREDENTIALS_DIRECTORY" => Some(path.clone()),
                "AGENT_TOKEN" => token.map(str::to_owned),
                _ => None,
            });
            config.map(|config| config.api.token)
        };
        assert_eq!(with(None).unwrap().as_deref(), Some("0123456789abcdef"));
        assert_eq!(
            with(Some("fedcba9876543210")).unwrap().as_deref(),
            Some("fedcba9876543210")
        );
        std::fs::write(dir.path().join("agent-token"), "short").unwrap();
        assert!(with(None).unwrap_err().to_string().contains("AGENT_TOKEN"));
    }

    #[test]
    fn port_alone_means_every_interface() {
        assert_eq!(
            listen_address(":50051"),
            Some(SocketAddr::from(([0, 0, 0, 0], 50051)))
        );
        assert_eq!(
            listen_address("localhost:1"),
            Some(SocketAddr::from(([127, 0, 0, 1], 1)))
        );
        assert_eq!(listen_address(":x"), None);
    }
}
