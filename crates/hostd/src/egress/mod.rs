//! Egress of a running sandbox, on the host: its rules in the kernel ([`crate::network::policy`]),
//! its resolver ([`crate::egress::dns`]), its proxy ([`proxy`]), and log lines about what was
//! denied.
//!
//! ```text
//!   network made ──→ start: sockets in the namespace, rules ──→ VM ──→ change of rules … ──→ VM gone ──→ stop
//! ```
//!
//! Nothing of it is on disk: the rules are in the sandbox's record. If the agent dies, the kernel's
//! rules stay as they are, and what goes through resolver and proxy ends; the next agent starts
//! both again for each sandbox that it adopts. Until then the kernel refuses such connections,
//! since no process listens.

use parking_lot::Mutex;

mod budget;
mod denial;
pub(crate) mod dns;
mod events;
mod http;
mod pin_writer;
mod pins;
mod proxy;
mod server_first;
mod sockets;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use linux::netns;
use linux::nflog::Destination;
use linux::nft::Transaction;
use model::NetworkSpec;
use model::network::{Access, Bandwidth};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use stdx::task::run_blocking;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::network::connections::limit_namespace;
use crate::network::{self, Ipv6Mode, Networks, SandboxNetworks, Slot, policy};
use crate::sandbox::log::Log;
use budget::Budget;
use dns::Upstream;
use events::Events;
use pin_writer::{PinError, PinWriter};
use pins::ResolvedAddresses;
use sockets::{Servers, Sockets, from_std, tell_refused};

pub(crate) use pins::ADDRESSES;

/// Bounds of each sandbox, for `wrenn doctor`.
pub(crate) mod limits {
    pub(crate) use super::pins::NAMES;
    pub(crate) use super::proxy::CONNECTIONS as PROXY_CONNECTIONS;
    pub(crate) use super::{NEW_NAMES, NEW_NAMES_AT_ONCE, QUESTIONS, QUESTIONS_AT_ONCE};
}

/// Time for a server of the internet to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for a guest to send its first bytes, its TLS ClientHello, or the head of a request.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle time before TCP keepalives of the proxy's connections, which end when a side is gone.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Questions a second, and how many may come at once after a quiet time: over UDP, over TCP, and of
/// the proxy.
pub(crate) const QUESTIONS: f64 = 100.0;
pub(crate) const QUESTIONS_AT_ONCE: f64 = 500.0;
/// New names a second, where rules have names, and how many may come at once: each is a change of
/// the kernel's sets.
pub(crate) const NEW_NAMES: f64 = 10.0;
pub(crate) const NEW_NAMES_AT_ONCE: f64 = 300.0;

/// Reads the first message of a TLS connection.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_client_hello(mut bytes: &[u8]) {
    let _ = futures::executor::block_on(tls::read_hello(&mut bytes));
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use http::fuzz as fuzz_http;

/// Error in the start of a sandbox's egress, or in a change of its rules.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error("the sandbox's network rules cannot be set")]
    Rules(#[source] io::Error),
    #[error("the sandbox's resolver and proxy cannot serve")]
    Serve(#[source] io::Error),
}

/// Starts the egress of sandboxes.
#[async_trait]
pub trait EgressProvider: std::fmt::Debug + Send + Sync {
    /// Applies the rules in the slot's network, and starts its resolver and proxy. No guest may run
    /// before. `has_default_rules` is true if the kernel has those already.
    ///
    /// # Errors
    /// When rules or sockets are refused: no guest may run then.
    async fn start(
        &self,
        slot: Slot,
        has_default_rules: bool,
        rules: NetworkSpec,
        log: Arc<Log>,
    ) -> Result<Arc<dyn SandboxEgress>, EgressError>;
}

/// Egress of one sandbox, while it has a network.
#[async_trait]
pub trait SandboxEgress: std::fmt::Debug + Send + Sync {
    /// Replaces the rules. Connections that the new ones deny end.
    ///
    /// # Errors
    /// When they are refused; the former rules hold then.
    async fn change(&self, rules: NetworkSpec) -> Result<(), EgressError>;

    /// Ends all that it does, and waits until its sockets are closed.
    async fn stop(&self);
}

/// Egress through rules of the kernel, and a resolver and proxy in this process.
#[derive(Debug)]
pub(crate) struct HostEgress {
    limits: Bandwidth,
    connections: u32,
    ipv6: Ipv6Mode,
    upstream: Arc<Upstream>,
}

impl HostEgress {
    pub(crate) fn new(networks: &Networks, upstream: Arc<Upstream>) -> Self {
        Self {
            limits: networks.bandwidth_limits(),
            connections: networks.connection_limit(),
            ipv6: networks.ipv6_mode(),
            upstream,
        }
    }
}

#[async_trait]
impl EgressProvider for HostEgress {
    async fn start(
        &self,
        slot: Slot,
        has_default_rules: bool,
        rules: NetworkSpec,
        log: Arc<Log>,
    ) -> Result<Arc<dyn SandboxEgress>, EgressError> {
        let context = NetnsContext {
            slot,
            limits: self.limits,
            connections: self.connections,
            ipv6: self.ipv6,
            is_open: has_default_rules,
        };
        let egress = Egress::start(context, rules, Arc::clone(&self.upstream), log).await?;
        Ok(Arc::new(egress))
    }
}

/// Resolver, proxy and rules of one sandbox, while it has a network.
#[derive(Debug)]
pub(crate) struct Egress {
    policy: Arc<EgressPolicy>,
}

/// State of a sandbox's egress, which its resolver, proxy and tasks share.
#[derive(Debug)]
pub(crate) struct EgressPolicy {
    context: NetnsContext,
    /// True if the resolver and the proxy also listen on IPv6; else names have no IPv6 addresses.
    pub(crate) has_ipv6: bool,
    pub(crate) upstream: Arc<Upstream>,
    rules: watch::Sender<Arc<NetworkSpec>>,
    pins: Mutex<ResolvedAddresses>,
    pin_writer: PinWriter,
    /// Budget of questions to the name servers: over UDP, over TCP, and of the proxy.
    questions: Budget,
    /// Budget of names that are new to the kernel's sets.
    new_names: Budget,
    pub(crate) events: Events,
    /// Lock of writes to the kernel's rules, so that they are written in one order.
    kernel: tokio::sync::Mutex<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// First check of the rules by [`EgressPolicy::while_allowed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleCheck {
    /// At once: the connection was allowed by rules that may have changed since.
    AtOnce,
    /// Only when the rules change: each request of the connection is checked by itself.
    OnChange,
}

/// Network of a sandbox, with what holds for all sandboxes of this host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetnsContext {
    pub(crate) slot: Slot,
    /// Bandwidth that every sandbox of this host has at most.
    pub(crate) limits: Bandwidth,
    /// Most connections of the sandbox at one time.
    pub(crate) connections: u32,
    /// IPv6 of networks that this agent makes; one of an earlier agent may differ.
    pub(crate) ipv6: Ipv6Mode,
    /// True if the kernel has the default rules already: see [`Networks::preallocate`].
    ///
    /// [`Networks::preallocate`]: crate::network::Networks::preallocate
    pub(crate) is_open: bool,
}

impl Egress {
    /// Applies the rules in the slot's namespace, and starts its resolver and proxy. No guest may
    /// run before.
    ///
    /// # Errors
    /// When the kernel refuses the rules or a socket.
    pub(crate) async fn start(
        context: NetnsContext,
        spec: NetworkSpec,
        upstream: Arc<Upstream>,
        log: Arc<Log>,
    ) -> Result<Self, EgressError> {
        let bandwidth = spec.bandwidth;
        // A preallocated network has the default rules already.
        let is_ruled = context.is_open
            && spec.clone().with_bandwidth(Bandwidth::default()) == NetworkSpec::default();
        let rules = (!is_ruled).then(|| policy::table_for(&spec, &[]));
        let opened = context.within(move || {
            rules.map_or(Ok(()), Transaction::commit)?;
            // A network of an earlier agent may have another limit, or none.
            limit_namespace(context.connections)?;
            context.limit(bandwidth)?;
            sockets::open(context.ipv6)
        });
        let sockets = opened.await.map_err(EgressError::Rules)?;
        let policy = Arc::new(EgressPolicy {
            context,
            has_ipv6: sockets.servers.len() > 1,
            upstream,
            rules: watch::Sender::new(Arc::new(spec)),
            pins: Mutex::default(),
            pin_writer: PinWriter::default(),
            questions: Budget::new(QUESTIONS, QUESTIONS_AT_ONCE),
            new_names: Budget::new(NEW_NAMES, NEW_NAMES_AT_ONCE),
            events: Events::new(log),
            kernel: tokio::sync::Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let egress = Self { policy };
        egress.serve(sockets).map_err(EgressError::Serve)?;
        Ok(egress)
    }

    fn serve(&self, sockets: Sockets) -> io::Result<()> {
        let policy = &self.policy;
        policy.spawn(pin_writer::write_all(Arc::clone(policy)));
        policy.spawn(pin_writer::renew_all(Arc::clone(policy)));
        for Servers { udp, tcp, proxy } in sockets.servers {
            policy.spawn(dns::serve::udp(
                Arc::clone(policy),
                tokio::net::UdpSocket::from_std(udp)?,
            ));
            policy.spawn(dns::serve::tcp(Arc::clone(policy), from_std(tcp)?));
            policy.spawn(proxy::serve(Arc::clone(policy), from_std(proxy)?));
        }
        if let Some(log) = sockets.log {
            policy.spawn(tell_refused(
                Arc::clone(policy),
                log.into_async()?,
                |destination| destination.to_string(),
            ));
        }
        if let Some(log) = sockets.limit_log {
            let limit = policy.context.connections;
            let over = move |_: &Destination| {
                format!("more than {limit} connections at one time (AGENT_SANDBOX_CONNECTIONS)")
            };
            policy.spawn(tell_refused(Arc::clone(policy), log.into_async()?, over));
        }
        Ok(())
    }
}

#[async_trait]
impl SandboxEgress for Egress {
    async fn change(&self, spec: NetworkSpec) -> Result<(), EgressError> {
        let policy = &self.policy;
        let _writing = policy.kernel.lock().await;
        let pinned = policy.pins().retain_addresses(
            |name, address| spec.name_reaches(name, address),
            Instant::now(),
        );
        let before = policy.rules().bandwidth;
        let after = spec.bandwidth;
        policy.limit(after).await.map_err(EgressError::Rules)?;
        if let Err(error) = policy.apply(policy::table_for(&spec, &pinned)).await {
            let restored = policy.limit(before).await;
            return Err(EgressError::Rules(restored.err().unwrap_or(error)));
        }
        policy.rules.send_replace(Arc::new(spec));
        Ok(())
    }

    async fn stop(&self) {
        self.policy.stop.cancel();
        self.policy.tasks.close();
        self.policy.tasks.wait().await;
    }
}

impl NetnsContext {
    /// Runs blocking work in the sandbox's namespace.
    async fn within<T: Send + 'static>(
        self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        run_blocking(move || netns::enter(&self.slot.netns(), work)).await
    }

    /// Sets the sandbox's bandwidth. Must be called in its namespace.
    fn limit(self, own: Bandwidth) -> io::Result<()> {
        network::limit_bandwidth(self.slot, self.limits.limited_by(own))
    }
}

impl EgressPolicy {
    /// Spawns work that ends at [`Egress::stop`].
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks
            .spawn(async move { stop.run_until_cancelled(work).await });
    }

    pub(crate) fn rules(&self) -> Arc<NetworkSpec> {
        self.rules.borrow().clone()
    }

    fn pins(&self) -> parking_lot::MutexGuard<'_, ResolvedAddresses> {
        self.pins.lock()
    }

    async fn apply(&self, rules: Transaction) -> io::Result<()> {
        self.context.within(move || rules.commit()).await
    }

    async fn limit(&self, own: Bandwidth) -> io::Result<()> {
        let context = self.context;
        context.within(move || context.limit(own)).await
    }

    /// Returns true if one more question may be asked for the sandbox.
    pub(crate) fn may_ask(&self) -> bool {
        let may = self.questions.try_take();
        if !may {
            self.events.log_denied("DNS questions beyond the limit");
        }
        may
    }

    /// Notes that the name has these addresses, and waits until the kernel lets those through that
    /// the rules allow. Does nothing if no rule has a name.
    ///
    /// # Errors
    /// When the kernel refuses, or when there are too many new names; the guest must not get the
    /// addresses then.
    pub(crate) async fn pin(
        &self,
        name: &str,
        addresses: &[IpAddr],
        ttl: Duration,
    ) -> Result<(), PinError> {
        let rules = self.rules();
        if !rules.has_names() {
            return Ok(());
        }
        let reached: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|address| rules.name_reaches(name, *address))
            .collect();
        let new = {
            let mut pins = self.pins();
            if !pins.knows_name(name) && !self.new_names.try_take() {
                self.events.log_denied("new names beyond the limit");
                return Err(PinError::TooManyNames);
            }
            pins.add(name, &reached, ttl, Instant::now())
        };
        self.pin_writer.write_addresses(name, &new).await
    }

    /// Returns true if a connection that names `name` may go to `address`: the rules allow it, and
    /// the address is the name's. Its addresses may be forgotten (the agent was restarted, the
    /// sandbox was paused); then they are looked up anew.
    pub(crate) async fn is_allowed(&self, name: &str, address: IpAddr) -> bool {
        let rules = self.rules();
        if !rules.name_reaches(name, address) {
            return false;
        }
        if rules.judge_address(address) == Access::Allowed
            || self.pins().has_address(name, address, Instant::now())
        {
            return true;
        }
        if !self.may_ask() {
            return false;
        }
        match self
            .upstream
            .lookup_addresses(name, address.is_ipv4())
            .await
        {
            Some((addresses, ttl)) if addresses.contains(&address) => {
                self.pin(name, &[address], ttl).await.is_ok()
            }
            _ => false,
        }
    }

    /// Returns true if the rules allow the address whatever a connection names, as at ports that
    /// are not the proxy's: by itself, or as one of an allowed name's.
    pub(crate) fn reaches_address(&self, address: IpAddr) -> bool {
        let rules = self.rules();
        let names = self.pins().names_of(address, Instant::now());
        rules.judge_address(address) == Access::Allowed
            || names.iter().any(|name| rules.name_reaches(name, address))
    }

    /// Runs `work` as long as the rules allow it: they are checked whenever they change, and
    /// first as `first_check` says. Returns `None` if they end it.
    pub(crate) async fn while_allowed<T>(
        &self,
        first_check: RuleCheck,
        is_allowed: impl Fn(&NetworkSpec) -> bool,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut rules = self.rules.subscribe();
        if first_check == RuleCheck::AtOnce && !is_allowed(&rules.borrow_and_update().clone()) {
            return None;
        }
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                changed = rules.changed() => {
                    let now = rules.borrow_and_update().clone();
                    if changed.is_err() || !is_allowed(&now) {
                        return None;
                    }
                }
            }
        }
    }

    /// Connects from within the sandbox's namespace, so that its rules and limits hold for the
    /// connection.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let socket = self.context.within(move || {
            let socket = Socket::new(
                Domain::for_address(to),
                Type::STREAM.nonblocking(),
                Some(Protocol::TCP),
            )?;
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
            Ok(TcpStream::from(socket))
        });
        let socket = tokio::net::TcpSocket::from_std_stream(socket.await?);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Makes the close of a connection send a reset (`SO_LINGER` of zero).
pub(crate) fn reset(stream: &tokio::net::TcpStream) {
    // If the option cannot be set, the connection is closed without a reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
