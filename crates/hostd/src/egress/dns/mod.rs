//! Names for guests: each sandbox has a resolver on its gateway's address, to which the kernel
//! redirects every question, whatever server the guest asked ([`crate::network::policy`]).
//!
//! ```text
//!   question ─→ checked ─→ name denied? ─→ "no such name", without asking AGENT_DNS
//!                             └─ else ─→ cache or AGENT_DNS ─→ answer without addresses that no sandbox reaches
//!                                                              └─ noted as the name's ([`crate::egress`])
//! ```
//!
//! Nothing is on disk. Bounded: questions of one sandbox at one time and a second, sizes of
//! questions and answers, and the cache, which all sandboxes of the agent share.

mod answer;
pub(crate) mod serve;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// Time for a server to answer a question, and number of times that it is asked.
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;
/// Number of cached answers, of all sandboxes together.
const CACHE: u64 = 4096;
/// Longest time for which it is cached that a name does not exist: it may be created soon.
const NEGATIVE: Duration = Duration::from_secs(60);

/// Parses a question as a guest sends it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = answer::refuse_question(bytes);
}

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("AGENT_DNS: {0:?} is no address; write addresses with commas between them")]
    NoAddress(String),
    #[error("cannot make a resolver")]
    Resolver(#[source] NetError),
}

/// The name servers that are asked for all sandboxes.
pub struct Upstream(TokioResolver);

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

impl Upstream {
    /// Creates a resolver that asks these servers, over UDP, and over TCP if an answer is too large
    /// for that.
    ///
    /// # Errors
    /// [`UpstreamError::Resolver`].
    pub fn new(servers: &[SocketAddr]) -> Result<Arc<Self>, UpstreamError> {
        let server = |address: &SocketAddr| {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            connections
                .iter_mut()
                .for_each(|connection| connection.port = address.port());
            NameServerConfig::new(address.ip(), true, connections.into())
        };
        let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        options.cache_size = CACHE;
        options.negative_max_ttl = Some(NEGATIVE);
        // Guests must not see the names in the host's /etc/hosts.
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        let resolver = builder.build().map_err(UpstreamError::Resolver)?;
        Ok(Arc::new(Self(resolver)))
    }

    /// Creates a resolver from the setting `AGENT_DNS`: addresses with commas between them.
    ///
    /// # Errors
    /// [`UpstreamError::NoAddress`] names the part that is none.
    pub fn from_setting(text: &str) -> Result<Arc<Self>, UpstreamError> {
        let servers = text.split(',').map(|server| {
            let address = server
                .trim()
                .parse::<IpAddr>()
                .map(|ip| SocketAddr::from((ip, 53)));
            // A port is for tests, whose servers must not have that of the host's.
            address
                .or_else(|_| server.trim().parse())
                .map_err(|_| UpstreamError::NoAddress(server.to_owned()))
        });
        Self::new(&servers.collect::<Result<Vec<_>, _>>()?)
    }

    async fn ask(&self, name: Name, kind: RecordType) -> Result<Vec<Record>, ResponseCode> {
        match self.0.lookup(name, kind).await {
            Ok(found) => Ok(found.answers().to_vec()),
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if none.response_code == ResponseCode::NoError =>
            {
                Ok(Vec::new())
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Err(none.response_code),
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(code),
            Err(error) => {
                tracing::debug!(%error, "a name server does not answer");
                Err(ResponseCode::ServFail)
            }
        }
    }

    /// Returns the IPv4 or the IPv6 addresses that a name has now, and their TTL. `None` if it has
    /// no records, or the servers do not answer.
    pub(crate) async fn lookup_addresses(
        &self,
        name: &str,
        of_ipv4: bool,
    ) -> Option<(HashSet<IpAddr>, Duration)> {
        let mut name = Name::from_ascii(name).ok()?;
        name.set_fqdn(true);
        let kind = if of_ipv4 {
            RecordType::A
        } else {
            RecordType::AAAA
        };
        let records = self.ask(name, kind).await.ok()?;
        let ttl = records.iter().map(|record| record.ttl).min()?;
        let addresses = records.iter().filter_map(address).collect();
        Some((addresses, Duration::from_secs(ttl.into())))
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}
