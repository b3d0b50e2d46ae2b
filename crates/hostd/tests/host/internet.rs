//! A host and an internet of the test's own: two namespaces with a cable between them. The agent
//! and all of its host's side live in the first one, so that neither routes nor rules of this
//! machine are touched; the second one answers for every address that there is, public or not.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use linux::link::Links;
use linux::{netns, sysctl};

/// An address of the internet, and the host's own there. Public ones: others are refused for being
/// so.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);
pub const HOST: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 2);
/// Hardware addresses of the ends of the way out.
const UPLINK_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];
const ROUTER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 1);
/// Where everything listens on all addresses: servers of the host, and of the internet.
pub const PORT: u16 = 5432;

/// Addresses that the second namespace has, and that no guest may reach.
pub const PRIVATE: [Ipv4Addr; 10] = [
    Ipv4Addr::new(10, 0, 0, 5),
    Ipv4Addr::new(100, 64, 0, 5),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(172, 16, 0, 5),
    Ipv4Addr::new(172, 31, 255, 5),
    Ipv4Addr::new(192, 0, 2, 5),
    Ipv4Addr::new(192, 168, 1, 5),
    Ipv4Addr::new(198, 18, 0, 5),
    Ipv4Addr::new(198, 51, 100, 5),
    Ipv4Addr::new(203, 0, 113, 5),
];

/// The same over IPv6.
pub const INTERNET6: Ipv6Addr = Ipv6Addr::new(0x2a07, 0xa8c0, 0, 0, 0, 0, 0, 0x14);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2a07, 0xa8c1, 0, 0, 0, 0, 0, 2);
/// Beside the host, with a public address of the same network.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2a07, 0xa8c1, 0, 0, 0, 0, 0, 1);
/// NAT64, 6to4, Teredo, documentation, private, metadata, and what nobody was given.
pub const PRIVATE6: [Ipv6Addr; 10] = [
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0x0a00, 5),
    Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0x0a00, 5),
    Ipv6Addr::new(0x2002, 0x0a00, 5, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0, 0x0a00, 5, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 5),
    Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 5),
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5),
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 5),
    Ipv6Addr::new(0x4000, 0, 0, 0, 0, 0, 0, 5),
];

/// Names of the two, for as long as the test runs.
pub struct World {
    pub host: String,
    pub internet: String,
}

/// What servers were sent over UDP, with whom it came from.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<(SocketAddr, String)>>>);

impl Heard {
    pub fn texts(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, text)| text.clone())
            .collect()
    }

    pub fn senders(&self) -> Vec<SocketAddr> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(sender, _)| *sender)
            .collect()
    }
}

impl World {
    pub fn make(name: &str) -> Self {
        let pid = std::process::id();
        let world = Self {
            host: format!("wtest-h-{name}-{pid}"),
            internet: format!("wtest-i-{name}-{pid}"),
        };
        for name in [&world.host, &world.internet] {
            netns::create(name).unwrap();
        }
        let internet = world.internet.clone();
        world.on_host(move || {
            let links = Links::in_this_netns()?;
            links.set_up("lo")?;
            links.add_veth("uplink", "cable", &internet, UPLINK_MACS)?;
            links.add_address("uplink", HOST, 24)?;
            links.set_up("uplink")
        });
        world.on_internet(|| {
            let links = Links::in_this_netns()?;
            links.set_up("lo")?;
            links.add_address("cable", ROUTER, 24)?;
            links.set_up("cable")?;
            PRIVATE
                .into_iter()
                .chain([INTERNET])
                .try_for_each(|address| links.add_address("lo", address, 32))
        });
        world.on_host(|| Links::in_this_netns()?.add_route(Ipv4Addr::UNSPECIFIED, 0, ROUTER));
        world
    }

    /// Both have IPv6, too, and the host a way out.
    pub fn with_ipv6(self) -> Self {
        self.on_internet(|| {
            let links = Links::in_this_netns()?;
            links.add_address("cable", ROUTER6, 64)?;
            PRIVATE6
                .into_iter()
                .chain([INTERNET6])
                .try_for_each(|address| links.add_address("lo", address, 128))
        });
        self.on_host(|| {
            let links = Links::in_this_netns()?;
            links.add_address("uplink", HOST6, 64)?;
            links.add_route6("uplink", Ipv6Addr::UNSPECIFIED, 0, ROUTER6)?;
            // Else an agent would note below /run, for the machine itself, that it was off.
            sysctl::set("net/ipv6/conf/all/forwarding", "1")
        });
        self
    }

    pub fn on_host<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> T {
        netns::enter(&self.host, work).unwrap()
    }

    pub fn on_internet<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> T {
        netns::enter(&self.internet, work).unwrap()
    }

    /// Runs a test on the host: it and every program that it starts see only this world.
    pub fn run<T: Send + 'static>(&self, test: impl AsyncFnOnce() -> T + Send + 'static) -> T {
        self.on_host(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            Ok(runtime.block_on(test()))
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in [&self.host, &self.internet] {
            let _ = netns::remove(name);
        }
    }
}

/// Servers in the calling thread's namespace, which answer whoever asks for as long as the process
/// lives: over TCP on all addresses, over UDP on these.
pub fn serve<A: Into<IpAddr> + Copy>(addresses: &[A]) -> io::Result<Heard> {
    let heard = Heard::default();
    let tcp = TcpListener::bind(("::", PORT))?;
    std::thread::spawn(move || while tcp.accept().is_ok() {});
    for address in addresses {
        let (udp, note) = (UdpSocket::bind(((*address).into(), PORT))?, heard.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, sender)) = udp.recv_from(&mut buffer) {
                note.0.lock().unwrap().push((
                    sender,
                    String::from_utf8_lossy(&buffer[..length]).into_owned(),
                ));
                let _ = udp.send_to(b"answered", sender);
            }
        });
    }
    Ok(heard)
}

/// Whether a server answers from where the calling thread is.
pub fn is_reached(address: impl Into<IpAddr>, port: u16) -> bool {
    let patience = Duration::from_secs(5);
    std::net::TcpStream::connect_timeout(&(address.into(), port).into(), patience).is_ok()
}

/// Answers every HTTP request at an address with 200, until the process of the test ends.
pub fn serve_http(address: impl ToSocketAddrs) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                while stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}
