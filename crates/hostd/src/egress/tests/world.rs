//! The namespaces of one test, and a guest's sockets.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;
use linux::link::Links;
use linux::{netns, sysctl};
use model::NetworkSpec;
use model::network::Bandwidth;
use socket2::{Domain, Protocol, Socket, Type};

use super::peers::{Names, Talk, addresses, name_server, question, serve, unreachable};
use crate::egress::dns::Upstream;
use crate::egress::{Egress, NetnsContext, SandboxEgress, pin_writer};
use crate::network::{
    GATEWAY_IP, GATEWAY_IP6, GUEST_IP6, GUEST_MAC, GUEST_PREFIX, GUEST_PREFIX6, Ipv6Mode,
    POLICY_TABLE, Slot, Slots, TAP_MAC,
};
use crate::sandbox::log::Log;

const PORTS: [u16; 5] = [22, 80, 443, 853, 15_001];
/// A server that speaks before it has heard anything, and what it says.
pub(super) const SPEAKS: &str = "45.90.28.4";
pub(super) const GREETING: &str = "220 welcome\r\n";
/// The most at one time.
pub(super) const CONNECTIONS: u32 = 200;
/// For what is to come at once, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct World {
    slot: Slot,
    ipv6: Ipv6Mode,
    slots: Slots,
    guest: String,
    internet: String,
    upstream: Arc<Upstream>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    names: Names,
    log: Arc<Log>,
    rules: NetworkSpec,
    egress: Option<Egress>,
    _dir: tempfile::TempDir,
}

pub(super) fn host(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl World {
    pub(super) async fn start(
        names: &[(&str, &str)],
        servers: &[&str],
        rules: &NetworkSpec,
        ipv6: Ipv6Mode,
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::new(dir.path());
        let slot = slots.claim("sb-test").unwrap();
        let number = format!(
            "{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let guest = format!("wtest-guest-{number}");
        let internet = format!("wtest-inet-{number}");
        let servers: Vec<IpAddr> = servers.iter().map(|server| host(server)).collect();
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let names: Names = Arc::new(Mutex::new(
            names
                .iter()
                .map(|(name, at)| ((*name).to_owned(), host(at)))
                .collect(),
        ));
        let upstream = name_server(Arc::clone(&names), Arc::clone(&asked));
        let names_of = (guest.clone(), internet.clone());
        tokio::task::spawn_blocking(move || connect(slot, &names_of.0, &names_of.1, servers))
            .await
            .unwrap()
            .unwrap();
        let log = Arc::new(Log::open(dir.path()));
        let upstream = Upstream::new(&[upstream]).unwrap();
        let mut world = Self {
            slot,
            ipv6,
            slots,
            guest,
            internet,
            upstream,
            asked,
            names,
            log,
            rules: rules.clone(),
            egress: None,
            _dir: dir,
        };
        world.restart().await;
        world
    }

    /// As the next agent does it.
    pub(super) async fn restart(&mut self) {
        if let Some(egress) = self.egress.take() {
            egress.stop().await;
        }
        let limits = Bandwidth::default();
        let context = NetnsContext {
            slot: self.slot,
            limits,
            connections: CONNECTIONS,
            ipv6: self.ipv6,
            is_open: false,
        };
        let upstream = Arc::clone(&self.upstream);
        let log = Arc::clone(&self.log);
        self.egress = Some(
            Egress::start(context, self.rules.clone(), upstream, log)
                .await
                .unwrap(),
        );
    }

    pub(super) async fn change(&self, rules: &NetworkSpec) {
        self.egress
            .as_ref()
            .unwrap()
            .change(rules.clone())
            .await
            .unwrap();
    }

    pub(super) async fn finish(self) {
        self.egress.as_ref().unwrap().stop().await;
        for name in [self.slot.netns(), self.guest, self.internet] {
            netns::remove(&name).unwrap();
        }
        self.slots.release(self.slot).unwrap();
    }

    /// How often the name server was asked for it.
    pub(super) fn asked(&self, name: &str) -> usize {
        self.asked
            .lock()
            .unwrap()
            .get(name)
            .copied()
            .unwrap_or_default()
    }

    pub(super) async fn wait_for_log_line(&self, line: &str) {
        testkit::eventually(line, PATIENCE, async || {
            self.log
                .entries_since(0)
                .0
                .iter()
                .any(|entry| entry.line == line)
                .then_some(())
        })
        .await;
    }

    async fn in_guest<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let guest = self.guest.clone();
        tokio::task::spawn_blocking(move || netns::enter(&guest, work))
            .await
            .unwrap()
    }

    pub(super) async fn open(&self, address: &str, port: u16) -> Result<Talk, ErrorKind> {
        let to = SocketAddr::from((host(address), port));
        let stream = self
            .in_guest(move || TcpStream::connect_timeout(&to, PATIENCE))
            .await;
        let stream = stream.map_err(|error| error.kind())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Ok(Talk(stream))
    }

    /// What the server there answers.
    pub(super) async fn talk(
        &self,
        address: &str,
        port: u16,
        say: &[u8],
    ) -> Result<String, ErrorKind> {
        let mut talk = self.open(address, port).await?;
        let say = say.to_owned();
        tokio::task::spawn_blocking(move || talk.talk(&say))
            .await
            .unwrap()
            .map_err(|error| error.kind())
    }

    /// The guest tells the server of a connection that its packets do not arrive.
    pub(super) async fn complain(&self, (own, server): (SocketAddrV4, SocketAddrV4)) {
        let sent = self.in_guest(move || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
            socket.send_to(
                &unreachable(server, own),
                &SocketAddr::from((*server.ip(), 0)).into(),
            )
        });
        sent.await.unwrap();
    }

    pub(super) async fn http(&self, address: &str, name: &str) -> String {
        let mut talk = self.open(address, 80).await.unwrap();
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || talk.request(&name))
            .await
            .unwrap()
    }

    pub(super) async fn ask(&self, name: &str) -> Vec<IpAddr> {
        self.ask_at(&GATEWAY_IP.to_string(), name).await
    }

    pub(super) async fn ask_at(&self, server: &str, name: &str) -> Vec<IpAddr> {
        self.ask_for(RecordType::A, server, name).await
    }

    /// Addresses of IPv6.
    pub(super) async fn ask6(&self, name: &str) -> Vec<IpAddr> {
        self.ask_for(RecordType::AAAA, &GATEWAY_IP.to_string(), name)
            .await
    }

    pub(super) async fn ask_for(&self, kind: RecordType, server: &str, name: &str) -> Vec<IpAddr> {
        let to = SocketAddr::from((host(server), 53));
        let question = question(name, kind);
        let answer = self.in_guest(move || {
            let socket = UdpSocket::bind((any(to), 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            socket.send(&question)?;
            let mut buffer = [0; 1500];
            let length = socket.recv(&mut buffer)?;
            Ok(buffer[..length].to_vec())
        });
        addresses(&answer.await.unwrap())
    }

    pub(super) async fn ask_over_tcp(&self, server: &str, name: &str) -> Vec<IpAddr> {
        let to = SocketAddr::from((host(server), 53));
        let question = question(name, RecordType::A);
        let answer = self.in_guest(move || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes())?;
            stream.write_all(&question)?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        });
        addresses(&answer.await.unwrap())
    }

    /// Asks once on each of so many connections over TCP, and returns how many were answered.
    pub(super) async fn ask_on_new_connections(&self, name: &str, count: u32) -> u32 {
        let to = SocketAddr::from((GATEWAY_IP, 53));
        let question = question(name, RecordType::A);
        let length = u16::try_from(question.len()).unwrap().to_be_bytes();
        let answered = self.in_guest(move || {
            let ask = || {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(&[&length, question.as_slice()].concat())?;
                stream.read_exact(&mut [0; 2])
            };
            Ok((0..count).filter(|_| ask().is_ok()).count())
        });
        u32::try_from(answered.await.unwrap()).unwrap()
    }

    /// Asks for all names at once.
    pub(super) async fn ask_for_all(
        &self,
        names: impl Iterator<Item = String>,
    ) -> Vec<Vec<IpAddr>> {
        let questions: Vec<Vec<u8>> = names.map(|name| question(&name, RecordType::A)).collect();
        let to = SocketAddr::from((GATEWAY_IP, 53));
        let answers = self.in_guest(move || {
            let mut answers = Vec::new();
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            // As many as the resolver serves at one time.
            for questions in questions.chunks(50) {
                for question in questions {
                    socket.send(question)?;
                }
                for _ in questions {
                    let mut buffer = [0; 1500];
                    let length = socket.recv(&mut buffer)?;
                    answers.push(addresses(&buffer[..length]));
                }
            }
            Ok(answers)
        });
        answers.await.unwrap()
    }

    /// Returns true if the kernel lets the address through for a name.
    pub(super) fn is_pinned(&self, address: &str) -> bool {
        let element = format!("get element inet {POLICY_TABLE} pinned {{ {address} }}");
        netns::enter(&self.slot.netns(), move || testkit::nft::apply(&element)).is_ok()
    }

    /// Lets the name have another address, and waits until that is what is answered.
    pub(super) async fn rename(&self, name: &str, address: &str) {
        for known in self
            .names
            .lock()
            .unwrap()
            .iter_mut()
            .filter(|known| known.0 == name)
        {
            known.1 = host(address);
        }
        testkit::eventually(name, PATIENCE, async || {
            let (found, _) = self.upstream.lookup_addresses(name, true).await?;
            found.contains(&host(address)).then_some(())
        })
        .await;
    }

    pub(super) async fn renew(&self, now: Instant) {
        pin_writer::renew_expiring(&self.egress.as_ref().unwrap().policy, now).await;
    }

    pub(super) fn has(&self, name: &str, address: &str, now: Instant) -> bool {
        self.egress
            .as_ref()
            .unwrap()
            .policy
            .pins()
            .has_address(name, host(address), now)
    }

    /// Nothing that goes to the address arrives, until [`World::let_go`].
    pub(super) async fn hold_back(&self, address: &str) {
        let rules = format!(
            "table ip held {{ chain c {{ type filter hook input priority -10; ip daddr {address} tcp flags syn drop; }}; }}"
        );
        netns::enter(&self.internet, move || testkit::nft::apply(&rules)).unwrap();
    }

    pub(super) async fn let_go(&self) {
        netns::enter(&self.internet, || {
            testkit::nft::apply("delete table ip held")
        })
        .unwrap();
    }

    /// Waits until the proxy has begun to connect to the address.
    pub(super) async fn connecting(&self, address: &str) {
        let IpAddr::V4(address) = host(address) else {
            panic!("{address}")
        };
        // proc_net_tcp(5): the address as the machine has its numbers, port 443, and the state
        // `SYN_SENT`.
        let wanted = format!("{:08X}:01BB 02", u32::from_ne_bytes(address.octets()));
        testkit::eventually("the proxy connects", PATIENCE, async || {
            let table = netns::enter(&self.slot.netns(), || {
                std::fs::read_to_string("/proc/thread-self/net/tcp")
            });
            table.unwrap().contains(&wanted).then_some(())
        })
        .await;
    }

    /// Begins connections that no server answers.
    pub(super) async fn flood(&self, address: &str, connections: u32) {
        let address = host(address);
        let sent = self.in_guest(move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            for port in (20_000..).take(connections as usize) {
                let _ = socket.send_to(b"x", (address, port));
            }
            Ok(())
        });
        sent.await.unwrap();
    }

    /// Returns the result of a packet that no server answers: an error or a timeout.
    pub(super) async fn udp(&self, address: &str, port: u16) -> Result<(), ErrorKind> {
        let to = SocketAddr::from((host(address), port));
        let sent = self.in_guest(move || {
            let socket = UdpSocket::bind((any(to), 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            socket.send(b"x")?;
            socket.recv(&mut [0; 16]).map(drop)
        });
        sent.await.map_err(|error| error.kind())
    }
}

/// Where a socket is bound that is to go there.
fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

/// As `network::make` does it, but that the guest's end of the TAP is a link, too, and the internet
/// is at the other end of the pair.
fn connect(slot: Slot, guest: &str, internet: &str, servers: Vec<IpAddr>) -> io::Result<()> {
    let sandbox = slot.netns();
    for name in [&sandbox, guest, internet] {
        netns::create(name)?;
    }
    let to = sandbox.clone();
    netns::enter(guest, move || {
        let links = Links::in_this_netns()?;
        links.add_veth("eth0", "tap0", &to, [GUEST_MAC, TAP_MAC])?;
        links.add_address("eth0", vmm::GUEST_IP, GUEST_PREFIX)?;
        links.set_up("eth0")?;
        links.add_address("eth0", GUEST_IP6, GUEST_PREFIX6)?;
        links.add_neighbour("eth0", GATEWAY_IP6, TAP_MAC)
    })?;
    let to = internet.to_owned();
    netns::enter(&sandbox, move || {
        let links = Links::in_this_netns()?;
        links.set_up("lo")?;
        links.add_veth(&slot.peer(), "inet0", &to, [PEER_MAC, INTERNET_MAC])?;
        links.add_address(&slot.peer(), slot.peer_ip(), 31)?;
        links.set_up(&slot.peer())?;
        links.add_address("tap0", GATEWAY_IP, GUEST_PREFIX)?;
        links.set_up("tap0")?;
        links.add_address("tap0", GATEWAY_IP6, GUEST_PREFIX6)?;
        links.add_neighbour("tap0", GUEST_IP6, GUEST_MAC)?;
        links.add_neighbour(&slot.peer(), INTERNET_IP6, INTERNET_MAC)?;
        links.add_route6(&slot.peer(), Ipv6Addr::UNSPECIFIED, 0, INTERNET_IP6)?;
        sysctl::set("net/ipv4/ip_forward", "1")?;
        sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
        crate::network::rules_of(slot, Ipv6Mode::On).commit()
    })?;
    netns::enter(guest, move || {
        let links = Links::in_this_netns()?;
        links.add_route6("eth0", Ipv6Addr::UNSPECIFIED, 0, GATEWAY_IP6)?;
        links.add_route(Ipv4Addr::UNSPECIFIED, 0, GATEWAY_IP)
    })?;
    netns::enter(internet, move || furnish_internet(slot, &servers))?;
    netns::enter(&sandbox, move || {
        Links::in_this_netns()?.add_route(Ipv4Addr::UNSPECIFIED, 0, slot.veth_ip())
    })
}

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const INTERNET_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const INTERNET_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

fn furnish_internet(slot: Slot, servers: &[IpAddr]) -> io::Result<()> {
    let links = Links::in_this_netns()?;
    links.set_up("lo")?;
    links.add_address("inet0", slot.veth_ip(), 31)?;
    links.set_up("inet0")?;
    links.add_route(slot.host_ip(), 32, slot.peer_ip())?;
    links.add_neighbour("inet0", PEER_IP6, PEER_MAC)?;
    links.add_route6("inet0", slot.host_ip6(), 128, PEER_IP6)?;
    servers
        .iter()
        .try_for_each(|server| links.add_address("lo", *server, 128))?;
    servers
        .iter()
        .flat_map(|server| PORTS.map(|port| SocketAddr::new(*server, port)))
        .try_for_each(serve)
}
