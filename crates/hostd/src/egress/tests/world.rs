//! The namespaces of one test, with a name server, servers, and a guest's sockets.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use linux::link::Links;
use linux::{netns, sysctl};
use model::NetworkSpec;
use model::network::Bandwidth;
use socket2::{Domain, Protocol, Socket, Type};

use crate::dns::Upstream;
use crate::egress::{Egress, Ground};
use crate::network::{
    GATEWAY_IP, GATEWAY_IP6, GUEST_IP6, GUEST_MAC, GUEST_PREFIX, GUEST_PREFIX6, Six, Slot, Slots, TAP_MAC,
};
use crate::sandbox::log::Log;

const PORTS: [u16; 5] = [22, 80, 443, 853, 15_001];
/// For what is to come at once, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct World {
    slot: Slot,
    six: Six,
    slots: Slots,
    guest: String,
    internet: String,
    upstream: Arc<Upstream>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    log: Arc<Log>,
    rules: NetworkSpec,
    egress: Option<Egress>,
    _dir: tempfile::TempDir,
}

pub(super) fn host(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl World {
    pub(super) async fn start(names: &[(&str, &str)], servers: &[&str], rules: &NetworkSpec, six: Six) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::new(dir.path());
        let slot = slots.claim("sb-test").unwrap();
        let number = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (guest, internet) = (format!("wtest-guest-{number}"), format!("wtest-inet-{number}"));
        let servers: Vec<IpAddr> = servers.iter().map(|server| host(server)).collect();
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let upstream = name_server(names, Arc::clone(&asked));
        let names_of = (guest.clone(), internet.clone());
        tokio::task::spawn_blocking(move || connect(slot, &names_of.0, &names_of.1, servers)).await.unwrap().unwrap();
        let log = Arc::new(Log::open(dir.path()));
        let upstream = Upstream::new(&[upstream]).unwrap();
        let mut world = Self {
            slot,
            six,
            slots,
            guest,
            internet,
            upstream,
            asked,
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
        let ground = Ground { slot: self.slot, limits: Bandwidth::default(), six: self.six, is_open: false };
        let (upstream, log) = (Arc::clone(&self.upstream), Arc::clone(&self.log));
        self.egress = Some(Egress::start(ground, self.rules.clone(), upstream, log).await.unwrap());
    }

    pub(super) async fn change(&self, rules: &NetworkSpec) {
        self.egress.as_ref().unwrap().change(rules.clone()).await.unwrap();
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
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
    }

    pub(super) async fn told(&self, line: &str) {
        testkit::eventually(line, PATIENCE, async || {
            self.log.since(0).0.iter().any(|entry| entry.line == line).then_some(())
        })
        .await;
    }

    async fn in_guest<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let guest = self.guest.clone();
        tokio::task::spawn_blocking(move || netns::enter(&guest, work)).await.unwrap()
    }

    pub(super) async fn open(&self, address: &str, port: u16) -> Result<Talk, ErrorKind> {
        let to = SocketAddr::from((host(address), port));
        let stream = self.in_guest(move || TcpStream::connect_timeout(&to, PATIENCE)).await;
        let stream = stream.map_err(|error| error.kind())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Ok(Talk(stream))
    }

    /// What the server there answers.
    pub(super) async fn talk(&self, address: &str, port: u16, say: &[u8]) -> Result<String, ErrorKind> {
        let (mut talk, say) = (self.open(address, port).await?, say.to_owned());
        tokio::task::spawn_blocking(move || talk.talk(&say)).await.unwrap().map_err(|error| error.kind())
    }

    /// The guest tells the server of a connection that its packets do not arrive.
    pub(super) async fn complain(&self, (own, server): (SocketAddrV4, SocketAddrV4)) {
        let sent = self.in_guest(move || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
            socket.send_to(&unreachable(server, own), &SocketAddr::from((*server.ip(), 0)).into())
        });
        sent.await.unwrap();
    }

    pub(super) async fn http(&self, address: &str, name: &str) -> String {
        let (mut talk, name) = (self.open(address, 80).await.unwrap(), name.to_owned());
        tokio::task::spawn_blocking(move || talk.request(&name)).await.unwrap()
    }

    pub(super) async fn ask(&self, name: &str) -> Vec<IpAddr> {
        self.ask_at(&GATEWAY_IP.to_string(), name).await
    }

    pub(super) async fn ask_at(&self, server: &str, name: &str) -> Vec<IpAddr> {
        self.ask_for(RecordType::A, server, name).await
    }

    /// Addresses of IPv6.
    pub(super) async fn ask6(&self, name: &str) -> Vec<IpAddr> {
        self.ask_for(RecordType::AAAA, &GATEWAY_IP.to_string(), name).await
    }

    pub(super) async fn ask_for(&self, kind: RecordType, server: &str, name: &str) -> Vec<IpAddr> {
        let (to, question) = (SocketAddr::from((host(server), 53)), question(name, kind));
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
        let (to, question) = (SocketAddr::from((host(server), 53)), question(name, RecordType::A));
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

    /// What comes of a packet: nobody answers, so an error or a time-out.
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

/// An error that claims to be about what `from` has sent to `to`, over IPv4 (RFC 792): a host cannot be reached.
fn unreachable(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
    error.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    error.extend(from.ip().octets().into_iter().chain(to.ip().octets()));
    error.extend(from.port().to_be_bytes().into_iter().chain(to.port().to_be_bytes()).chain([0; 4]));
    let sum: u32 = error.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("few bytes");
    error[2..4].copy_from_slice(&sum.to_be_bytes());
    error
}

/// A connection of the guest.
pub(super) struct Talk(TcpStream);

impl Talk {
    /// Of one over IPv4.
    pub(super) fn ends(&self) -> (SocketAddrV4, SocketAddrV4) {
        match (self.0.local_addr().unwrap(), self.0.peer_addr().unwrap()) {
            (SocketAddr::V4(own), SocketAddr::V4(server)) => (own, server),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn talk(&mut self, say: &[u8]) -> io::Result<String> {
        self.0.write_all(say)?;
        let mut buffer = [0; 4096];
        match self.0.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
        }
    }

    /// The status of an answer.
    pub(super) fn request(&mut self, name: &str) -> String {
        let answer = self.talk(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes()).unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

/// Where a socket is bound that is to go there.
fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// As `network::make` does it, but that the guest's end of the TAP is a link, too, and the internet is at the other end of
/// the pair.
fn connect(slot: Slot, guest: &str, internet: &str, servers: Vec<IpAddr>) -> io::Result<()> {
    let sandbox = slot.netns();
    for name in [&sandbox, guest, internet] {
        netns::create(name)?;
    }
    let to = sandbox.clone();
    netns::enter(guest, move || {
        let links = Links::here()?;
        links.add_veth_with("eth0", "tap0", &to, [GUEST_MAC, TAP_MAC])?;
        links.add_address("eth0", vmm::GUEST_IP, GUEST_PREFIX)?;
        links.up("eth0")?;
        links.add_address("eth0", GUEST_IP6, GUEST_PREFIX6)?;
        links.add_neighbour("eth0", GATEWAY_IP6, TAP_MAC)
    })?;
    let to = internet.to_owned();
    netns::enter(&sandbox, move || {
        let links = Links::here()?;
        links.up("lo")?;
        links.add_veth_with(&slot.peer(), "inet0", &to, [PEER_MAC, INTERNET_MAC])?;
        links.add_address(&slot.peer(), slot.peer_ip(), 31)?;
        links.up(&slot.peer())?;
        links.add_address("tap0", GATEWAY_IP, GUEST_PREFIX)?;
        links.up("tap0")?;
        links.add_address("tap0", GATEWAY_IP6, GUEST_PREFIX6)?;
        links.add_neighbour("tap0", GUEST_IP6, GUEST_MAC)?;
        links.add_neighbour(&slot.peer(), INTERNET_IP6, INTERNET_MAC)?;
        links.add_route6(&slot.peer(), Ipv6Addr::UNSPECIFIED, 0, INTERNET_IP6)?;
        sysctl::set("net/ipv4/ip_forward", "1")?;
        sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
        crate::network::rules_of(slot, Six::On).commit()
    })?;
    netns::enter(guest, move || {
        let links = Links::here()?;
        links.add_route6("eth0", Ipv6Addr::UNSPECIFIED, 0, GATEWAY_IP6)?;
        links.add_route(Ipv4Addr::UNSPECIFIED, 0, GATEWAY_IP)
    })?;
    netns::enter(internet, move || furnish_internet(slot, &servers))?;
    netns::enter(&sandbox, move || Links::here()?.add_route(Ipv4Addr::UNSPECIFIED, 0, slot.veth_ip()))
}

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const INTERNET_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const INTERNET_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

fn furnish_internet(slot: Slot, servers: &[IpAddr]) -> io::Result<()> {
    let links = Links::here()?;
    links.up("lo")?;
    links.add_address("inet0", slot.veth_ip(), 31)?;
    links.up("inet0")?;
    links.add_route(slot.host_ip(), 32, slot.peer_ip())?;
    links.add_neighbour("inet0", PEER_IP6, PEER_MAC)?;
    links.add_route6("inet0", slot.host_ip6(), 128, PEER_IP6)?;
    servers.iter().try_for_each(|server| links.add_address("lo", *server, 128))?;
    servers.iter().flat_map(|server| PORTS.map(|port| SocketAddr::new(*server, port))).try_for_each(serve)
}

/// Answers what it is told with its address before it, or HTTP at port 80. Goes with the test's process.
fn serve(at: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(at)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, at));
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, at: SocketAddr) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let answer = match at.port() {
            80 => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => format!("{at} {said}"),
        };
        stream.write_all(answer.as_bytes())?;
    }
}

/// A name server on loopback that knows these names and counts who is asked for.
fn name_server(names: &[(&str, &str)], asked: Arc<Mutex<HashMap<String, usize>>>) -> SocketAddr {
    let known: Vec<(String, IpAddr)> =
        names.iter().map(|(name, address)| ((*name).to_owned(), host(address))).collect();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
            let query = question.queries[0].clone();
            let name = query.name().to_ascii().to_lowercase().trim_end_matches('.').to_owned();
            *asked.lock().unwrap().entry(name.clone()).or_default() += 1;
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.metadata.recursion_available = true;
            let addresses: Vec<IpAddr> = known.iter().filter(|one| one.0 == name).map(|one| one.1).collect();
            if addresses.is_empty() {
                answer.metadata.response_code = hickory_resolver::proto::op::ResponseCode::NXDomain;
            }
            for data in addresses.into_iter().filter_map(|address| record_of(query.query_type(), address)) {
                answer.add_answer(Record::from_rdata(query.name().clone(), 1, data));
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        }
    });
    at
}

fn record_of(kind: RecordType, address: IpAddr) -> Option<RData> {
    match (kind, address) {
        (RecordType::A, IpAddr::V4(address)) => Some(RData::A(A(address))),
        (RecordType::AAAA, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(address))),
        _ => None,
    }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    message.to_vec().unwrap()
}

fn addresses(answer: &[u8]) -> Vec<IpAddr> {
    let answer = Message::from_vec(answer).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.message_type), (7, MessageType::Response));
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    };
    answer.answers.iter().filter_map(address).collect()
}
