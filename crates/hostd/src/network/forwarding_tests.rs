//! What the host forwards for sandboxes, in namespaces that the test makes.
//!
//! ```text
//!   guest eth0 ── tap0 sandbox wrp-N ── wrv-N host up0 ── inet0 internet: 45.90.28.1
//! ```

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use linux::link::Links;
use linux::{conntrack, netns, nft, sysctl};
use socket2::SockRef;

use super::host_rules::restore_rules;
use super::ipv6::{Ipv6Mode, Why};
use super::plan::{GATEWAY_IP, GUEST_MAC, GUEST_PREFIX, Plan, Slot, TAP_MAC};
use super::{Slots, connections, make, mtu, rules};

const SERVER: Ipv4Addr = Ipv4Addr::new(45, 90, 28, 1);
const UPLINK: [Ipv4Addr; 2] = [Ipv4Addr::new(45, 90, 29, 2), Ipv4Addr::new(45, 90, 29, 1)];
const OFF: Ipv6Mode = Ipv6Mode::Off(Why::NotWanted);
const LIMIT: u32 = connections::LEAST;
const PATIENCE: Duration = Duration::from_secs(20);

struct Path {
    slot: Slot,
    slots: Slots,
    guest: String,
    host: String,
    internet: String,
    _dir: tempfile::TempDir,
}

impl Path {
    fn make() -> Self {
        Self::with_plan(Plan::ORIGINAL)
    }

    fn with_plan(plan: Plan) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::new(dir.path()).with_plan(plan);
        let slot = slots.claim("sb-test").unwrap();
        let number = format!(
            "{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let name = |of: &str| format!("wtest-fwd-{of}-{number}");
        let path = Self {
            slot,
            slots,
            guest: name("g"),
            host: name("h"),
            internet: name("i"),
            _dir: dir,
        };
        path.connect().unwrap();
        path
    }

    fn connect(&self) -> io::Result<()> {
        let slot = self.slot;
        let sandbox = self.slot.netns();
        for name in [&sandbox, &self.guest, &self.host, &self.internet] {
            netns::create(name)?;
        }
        let to = self.internet.clone();
        netns::enter(&self.host, move || {
            make::create_veth(slot, OFF, mtu::ETHERNET)?;
            let links = Links::in_this_netns()?;
            links.add_veth(
                "up0",
                "inet0",
                &to,
                [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]],
            )?;
            links.add_address("up0", UPLINK[0], 24)?;
            links.set_up("up0")?;
            sysctl::set("net/ipv4/ip_forward", "1")?;
            rules::host_table(OFF, &[], &BTreeSet::from([Plan::ORIGINAL, slot.plan()])).commit()?;
            connections::limit_host(LIMIT)
        })?;
        netns::enter(&self.internet, || {
            let links = Links::in_this_netns()?;
            links.add_address("inet0", UPLINK[1], 24)?;
            links.set_up("inet0")?;
            links.set_up("lo")?;
            links.add_address("lo", SERVER, 32)
        })?;
        let to = sandbox.clone();
        netns::enter(&self.guest, move || {
            Links::in_this_netns()?.add_veth("eth0", "tap0", &to, [GUEST_MAC, TAP_MAC])
        })?;
        netns::enter(&sandbox, move || {
            let links = Links::in_this_netns()?;
            links.add_address(&slot.peer(), slot.peer_ip(), 31)?;
            links.set_up(&slot.peer())?;
            links.add_address("tap0", GATEWAY_IP, GUEST_PREFIX)?;
            links.set_up("tap0")?;
            sysctl::set("net/ipv4/ip_forward", "1")?;
            links.add_route(Ipv4Addr::UNSPECIFIED, 0, slot.veth_ip())?;
            rules::namespace_tables(slot, OFF).commit()?;
            connections::limit_namespace(LIMIT)
        })?;
        netns::enter(&self.guest, move || {
            let links = Links::in_this_netns()?;
            links.add_address("eth0", vmm::GUEST_IP, GUEST_PREFIX)?;
            links.set_up("eth0")?;
            links.add_route(Ipv4Addr::UNSPECIFIED, 0, GATEWAY_IP)
        })?;
        netns::enter(&self.host, || {
            Links::in_this_netns()?.add_route(Ipv4Addr::UNSPECIFIED, 0, UPLINK[1])
        })
    }

    fn in_guest<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> T {
        netns::enter(&self.guest, work).unwrap()
    }

    /// Accepts connections at that port as long as the test runs, and tells what size of segments
    /// each has.
    fn serve(&self, port: u16) -> std::sync::mpsc::Receiver<u32> {
        let (tell, told) = std::sync::mpsc::channel();
        netns::enter(&self.internet, move || {
            let listener = TcpListener::bind((SERVER, port))?;
            std::thread::spawn(move || {
                let mut all = Vec::new();
                for stream in listener.incoming().flatten() {
                    let _ = tell.send(SockRef::from(&stream).tcp_mss().unwrap_or_default());
                    all.push(stream);
                }
            });
            Ok(())
        })
        .unwrap();
        told
    }

    /// Connections that sandbox and host track.
    fn tracked(&self) -> [u32; 2] {
        [self.slot.netns(), self.host.clone()].map(|name| {
            let count =
                netns::enter(&name, || sysctl::get("net/netfilter/nf_conntrack_count")).unwrap();
            count.parse().unwrap()
        })
    }

    fn finish(self) {
        for name in [self.slot.netns(), self.guest, self.host, self.internet] {
            netns::remove(&name).unwrap();
        }
        self.slots.release(self.slot).unwrap();
    }
}

#[test]
fn udp_flood_is_bounded_and_ends() {
    let path = Path::make();
    let _told = path.serve(443);
    path.in_guest(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for port in 1..=20_000 {
            let _ = socket.send_to(b"x", (SERVER, port));
        }
        Ok(())
    });
    let [sandbox, host] = path.tracked();
    assert!(
        (LIMIT..=LIMIT + 8).contains(&sandbox),
        "{sandbox} connections of the sandbox"
    );
    assert!(host <= LIMIT + 8, "{host} connections of the host");
    // When they have ended there is room again, at once: TCP tries again after a second.
    let guest: IpAddr = vmm::GUEST_IP.into();
    netns::enter(&path.slot.netns(), move || {
        conntrack::remove_connections(guest)
    })
    .unwrap();
    path.in_guest(|| TcpStream::connect_timeout(&SocketAddr::from((SERVER, 443)), PATIENCE));
    path.finish();
}

/// The last packet of each connection ends it for the sandbox's namespace, and gets no further.
#[test]
fn connections_hidden_from_namespace_count() {
    let path = Path::make();
    let _told = path.serve(443);
    let slot = path.slot.netns();
    let guest = IpAddr::from(vmm::GUEST_IP);
    let refused = path.in_guest(move || {
        for made in 0..4 * LIMIT {
            let to = SocketAddr::from((SERVER, 443));
            let Ok(stream) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else {
                return Ok(made);
            };
            stream.set_ttl(1)?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            drop(stream);
            // What has ended is forgotten after ten seconds.
            netns::enter(&slot, move || conntrack::remove_connections(guest))?;
        }
        Ok(u32::MAX)
    });
    let host = connections::limit_on_host(LIMIT);
    assert!(
        (LIMIT..=host + 8).contains(&refused),
        "the host has taken {refused}"
    );
    assert!(path.tracked()[1] <= host + 8, "{:?}", path.tracked());
    path.finish();
}

/// Where the way out carries less than a guest's link, and errors that would say so are lost.
#[test]
fn segments_fit_the_way_out() {
    let path = Path::make();
    let told = path.serve(443);
    let connect =
        || path.in_guest(|| TcpStream::connect_timeout(&SocketAddr::from((SERVER, 443)), PATIENCE));
    drop(connect());
    let headers = 40 + 12;
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 1500 - headers);
    netns::enter(&path.host, || Links::in_this_netns()?.set_mtu("up0", 1300)).unwrap();
    let stream = connect();
    assert_eq!(
        told.recv_timeout(PATIENCE).unwrap(),
        1300 - headers,
        "what the server sends"
    );
    assert_eq!(
        SockRef::from(&stream).tcp_mss().unwrap(),
        1300 - headers,
        "what the guest sends"
    );
    path.finish();
}

/// A network that is there follows the way out; a guest that runs on hears of it from its own
/// namespace, at its first packet that is too large.
#[test]
fn mtu_follows_the_way_out() {
    let path = Path::make();
    let slot = path.slot;
    let slots = path.slots.clone();
    let mtus = netns::enter(&path.host, move || {
        Links::in_this_netns()?.set_mtu("up0", 1400)?;
        let mtu = mtu::LinkMtu::default();
        mtu.refresh();
        mtu::set_all(&slots, mtu.get())?;
        Ok((mtu.get(), Links::in_this_netns()?.mtu(&slot.veth())?))
    });
    assert_eq!(mtus.unwrap(), (1400, 1400));
    let inside = netns::enter(&slot.netns(), move || {
        let links = Links::in_this_netns()?;
        Ok([links.mtu(&slot.peer())?, links.mtu("tap0")?])
    });
    assert_eq!(inside.unwrap(), [1400, 1400]);
    // A TAP takes from its guest what is larger than its MTU; the veth in its place does not.
    netns::enter(&slot.netns(), || {
        Links::in_this_netns()?.set_mtu("tap0", 1500)
    })
    .unwrap();
    let learnt = path.in_guest(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((SERVER, 443))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let learnt = linux::route::mtu_to(SERVER.into())?;
            if learnt < 1500 || Instant::now() > deadline {
                return Ok(learnt);
            }
            let _ = socket.send(&[0; 1450]);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(learnt, 1400);
    path.finish();
}

#[test]
fn sandboxes_of_other_networks_are_translated() {
    let path = Path::with_plan(Plan::from_halves("10.182.0.0/20".parse().unwrap()).unwrap());
    let told = path.serve(443);
    path.in_guest(|| TcpStream::connect_timeout(&SocketAddr::from((SERVER, 443)), PATIENCE));
    told.recv_timeout(PATIENCE).unwrap();
    // The claim has the networks of its addresses.
    let claimed = path.slots.list_claims().unwrap();
    assert!(
        claimed.iter().any(|(slot, _)| *slot == path.slot),
        "{claimed:?}"
    );
    path.finish();
}

/// What a reload of Debian's nftables service does.
#[test]
fn flushed_rules_hold_again() {
    let path = Path::make();
    let restored = netns::enter(&path.host, || {
        assert!(!restore_rules(OFF, LIMIT, &[])?);
        testkit::nft::apply("flush ruleset")?;
        assert!(restore_rules(OFF, LIMIT, &[])?);
        assert!(
            nft::chain_exists(rules::HOST, "prerouting")?
                && nft::chain_exists(connections::LIMITS, "prerouting")?
        );
        restore_rules(OFF, LIMIT, &[])
    });
    assert!(!restored.unwrap(), "once is enough");
    path.finish();
}
