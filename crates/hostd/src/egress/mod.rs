//! What stands between a running sandbox and the internet on the host: its rules in the kernel
//! ([`crate::network::policy`]), its resolver ([`crate::dns`]), its proxy ([`proxy`]), and notes of what was denied.
//!
//! ```text
//!   network made ──→ start: sockets in the namespace, rules ──→ VM ──→ change of rules … ──→ VM gone ──→ stop
//! ```
//!
//! Nothing of it is on disk: the rules are in the sandbox's record. If we die, the kernel's rules stay as they are, and what
//! goes through resolver and proxy ends; the next agent starts both again for each sandbox that it adopts. Until then
//! such connections are refused, for nobody listens.

mod events;
mod http;
mod pins;
mod proxy;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use linux::nflog::Nflog;
use linux::{netns, nft};
use model::NetworkSpec;
use model::network::{Access, Bandwidth};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dns::{self, Upstream};
use crate::network::policy::{self, DNS_PORT, LOG_GROUP, PROXY_PORT};
use crate::network::{self, GATEWAY_IP, GATEWAY_IP6, Six, Slot};
use crate::sandbox::actor::blocking;
use crate::sandbox::log::Log;
use events::Events;
use pins::Pins;

pub(crate) use pins::ADDRESSES;

/// For a server of the internet to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// So that connections through the proxy end when a side is gone.
const KEEPALIVE: Duration = Duration::from_secs(60);
const BACKLOG: i32 = 256;

/// Resolver, proxy and rules of one sandbox, while it has a network.
#[derive(Debug)]
pub(crate) struct Egress {
    gate: Arc<Gate>,
}

/// What decides, shared by all that goes out.
#[derive(Debug)]
pub(crate) struct Gate {
    ground: Ground,
    /// Whether its guest reaches anything over IPv6.
    pub(crate) has_ipv6: bool,
    pub(crate) upstream: Arc<Upstream>,
    rules: watch::Sender<Arc<NetworkSpec>>,
    pins: Mutex<Pins>,
    pub(crate) events: Events,
    /// Held while the kernel's rules are written, so that they are written in one order.
    kernel: tokio::sync::Mutex<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The network in which it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground {
    pub(crate) slot: Slot,
    /// What holds for every sandbox of this host.
    pub(crate) limits: Bandwidth,
    /// Whether networks of this host have IPv6; that of an agent of before may be otherwise.
    pub(crate) six: Six,
    /// The kernel has the rules of a sandbox without any of its own.
    pub(crate) is_open: bool,
}

struct Sockets {
    /// On the gateway's address, and on its other one where there is IPv6.
    servers: Vec<Servers>,
    /// A kernel that cannot log refuses all the same.
    log: Option<Nflog>,
}

/// What listens on one address.
struct Servers {
    udp: UdpSocket,
    tcp: TcpListener,
    proxy: TcpListener,
}

impl Egress {
    /// Makes the rules hold in the slot's namespace and serves it. No guest may run before.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) async fn start(
        ground: Ground,
        spec: NetworkSpec,
        upstream: Arc<Upstream>,
        log: Arc<Log>,
    ) -> Result<Self, String> {
        let bandwidth = spec.bandwidth;
        // That it is made with these rules already saves the start of a program.
        let is_ruled = ground.is_open && spec.clone().at(Bandwidth::default()) == NetworkSpec::default();
        let rules = (!is_ruled).then(|| policy::rules(&spec, &[]));
        let opened = ground.within(move || {
            rules.map_or(Ok(()), |rules| nft::apply(&rules))?;
            ground.limit(bandwidth)?;
            open(ground.six)
        });
        let sockets = opened.await.map_err(|error| format!("the sandbox's network rules cannot be set: {error}"))?;
        let gate = Arc::new(Gate {
            ground,
            has_ipv6: sockets.servers.len() > 1,
            upstream,
            rules: watch::Sender::new(Arc::new(spec)),
            pins: Mutex::default(),
            events: Events::new(log),
            kernel: tokio::sync::Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let egress = Self { gate };
        egress.serve(sockets).map_err(|error| format!("the sandbox's resolver and proxy cannot serve: {error}"))?;
        Ok(egress)
    }

    fn serve(&self, sockets: Sockets) -> io::Result<()> {
        let gate = &self.gate;
        for Servers { udp, tcp, proxy } in sockets.servers {
            gate.spawn(dns::serve::udp(Arc::clone(gate), tokio::net::UdpSocket::from_std(udp)?));
            gate.spawn(dns::serve::tcp(Arc::clone(gate), from_std(tcp)?));
            gate.spawn(proxy::serve(Arc::clone(gate), from_std(proxy)?));
        }
        if let Some(log) = sockets.log {
            gate.spawn(tell_refused(Arc::clone(gate), log.watched()?));
        }
        Ok(())
    }

    /// Puts other rules in the place of those that hold. Connections that they deny end.
    ///
    /// # Errors
    /// What the kernel refused; the former rules hold then.
    pub(crate) async fn change(&self, spec: NetworkSpec) -> Result<(), String> {
        let gate = &self.gate;
        let _writing = gate.kernel.lock().await;
        let pinned = gate.pins().keep(|name, address| spec.reaches(name, address), Instant::now());
        let (before, after) = (gate.rules().bandwidth, spec.bandwidth);
        gate.limit(after).await?;
        if let Err(error) = gate.apply(policy::rules(&spec, &pinned)).await {
            return gate.limit(before).await.and(Err(error));
        }
        gate.rules.send_replace(Arc::new(spec));
        Ok(())
    }

    /// Answers when nothing of it is open.
    pub(crate) async fn stop(&self) {
        self.gate.stop.cancel();
        self.gate.tasks.close();
        self.gate.tasks.wait().await;
    }
}

impl Ground {
    /// Runs it in the sandbox's namespace.
    async fn within<T: Send + 'static>(
        self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        blocking(move || netns::enter(&self.slot.netns(), work)).await
    }

    /// In the sandbox's namespace.
    fn limit(self, own: Bandwidth) -> io::Result<()> {
        network::limit(self.slot, self.limits.and(own))
    }
}

impl Gate {
    /// Runs it until all of this stops.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(work).await });
    }

    pub(crate) fn rules(&self) -> Arc<NetworkSpec> {
        self.rules.borrow().clone()
    }

    fn pins(&self) -> std::sync::MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn apply(&self, ruleset: String) -> Result<(), String> {
        self.ground.within(move || nft::apply(&ruleset)).await
    }

    async fn limit(&self, own: Bandwidth) -> Result<(), String> {
        let ground = self.ground;
        ground.within(move || ground.limit(own)).await
    }

    /// Notes that the name has these addresses; the kernel lets those through that the rules do not deny.
    ///
    /// # Errors
    /// What the kernel refused; nobody may be told the addresses then.
    pub(crate) async fn pin(&self, name: &str, addresses: &[IpAddr], ttl: Duration) -> Result<(), String> {
        let _writing = self.kernel.lock().await;
        let rules = self.rules();
        if !rules.has_names() {
            return Ok(());
        }
        let reached: Vec<IpAddr> = addresses.iter().copied().filter(|address| rules.reaches(name, *address)).collect();
        let new = self.pins().add(name, &reached, ttl, Instant::now());
        if new.is_empty() {
            return Ok(());
        }
        let told = self.apply(policy::pin(&new)).await;
        if told.is_err() {
            self.pins().not_told(&new);
        }
        told
    }

    /// Whether a connection that names `name` may go to `address`: the rules allow it, and the address is the name's. What
    /// it was said to have may be forgotten (the agent has restarted, the sandbox was paused); then it is looked up anew.
    pub(crate) async fn lets_through(&self, name: &str, address: IpAddr) -> bool {
        let rules = self.rules();
        if !rules.reaches(name, address) {
            return false;
        }
        if rules.address(address) == Access::Allowed || self.pins().has(name, address, Instant::now()) {
            return true;
        }
        match self.upstream.addresses(name, address.is_ipv4()).await {
            Some((addresses, ttl)) if addresses.contains(&address) => self.pin(name, &[address], ttl).await.is_ok(),
            _ => false,
        }
    }

    /// Runs `work` as long as the rules let the connection be that `names` gives.
    pub(crate) async fn while_allowed<T>(
        &self,
        names: impl Fn() -> Option<(String, IpAddr)>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut rules = self.rules.subscribe();
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                changed = rules.changed() => {
                    let rules = rules.borrow_and_update().clone();
                    let allowed = names().is_none_or(|(name, address)| rules.reaches(&name, address));
                    if changed.is_err() || !allowed {
                        return None;
                    }
                }
            }
        }
    }

    /// Connects from within the sandbox's namespace, so that all that holds for its packets holds for these.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let socket = self.ground.within(move || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
            Ok(TcpStream::from(socket))
        });
        let socket = tokio::net::TcpSocket::from_std_stream(socket.await.map_err(io::Error::other)?);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// In the namespace of the calling thread.
fn open(six: Six) -> io::Result<Sockets> {
    let mut servers = vec![serve_on(GATEWAY_IP.into())?];
    if six.is_on() {
        match serve_on(GATEWAY_IP6.into()) {
            Ok(more) => servers.push(more),
            // The network was made by an agent for which it was off.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(error),
        }
    }
    let log = Nflog::open(LOG_GROUP);
    if let Err(error) = &log {
        tracing::warn!(%error, "what is denied by address is not told in the sandbox's log");
    }
    Ok(Sockets { servers, log: log.ok() })
}

fn serve_on(address: IpAddr) -> io::Result<Servers> {
    let udp = UdpSocket::bind((address, DNS_PORT))?;
    udp.set_nonblocking(true)?;
    let listen = |port| listen(SocketAddr::new(address, port));
    Ok(Servers { udp, tcp: listen(DNS_PORT)?, proxy: listen(PROXY_PORT)? })
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // The next agent serves where this one's connections are still ending.
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn from_std(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(listener)
}

/// Ends a connection so that the other side knows at once.
pub(crate) fn reset(stream: &tokio::net::TcpStream) {
    // A socket that refuses is closed all the same.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Notes what the kernel refused.
async fn tell_refused(gate: Arc<Gate>, log: AsyncFd<Nflog>) {
    while let Ok(mut ready) = log.readable().await {
        // An error other than that there is nothing means that the kernel had to drop some.
        if let Ok(Ok(refused)) = ready.try_io(|log| log.get_ref().read()) {
            refused.iter().for_each(|destination| gate.events.denied(&destination.to_string()));
        }
    }
}
