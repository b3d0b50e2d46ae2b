//! The internet of an attacker: a server that can be slow to take connections, and a name server
//! that knows every name.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use linux::netns;

use crate::internet::{INTERNET, World, serve, serve_http};

/// A name of the server, and a domain in which every name has an address of its own.
pub const GOOD: &str = "good.test";
pub const EVIL: &str = "evil.test";
const HTTP: u16 = 80;
pub struct Internet {
    netns: String,
    pub name_server: String,
    questions: Arc<AtomicU64>,
}

pub fn with_internet() -> (World, Internet) {
    let world = World::make("hostile");
    world.on_internet(|| {
        serve(&[INTERNET])?;
        serve_http((INTERNET, HTTP))
    });
    let questions = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&questions);
    let name_server = world.on_host(move || serve_names(count));
    let internet = Internet {
        netns: world.internet.clone(),
        name_server,
        questions,
    };
    (world, internet)
}

impl Internet {
    /// Returns the number of questions that were asked of the name server.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }

    /// Nothing that begins a connection of HTTP arrives, until [`Internet::let_go`].
    pub fn hold_back(&self) {
        let rules = format!(
            "table ip held {{ chain c {{ type filter hook input priority -10; tcp dport {HTTP} tcp flags syn drop; }}; }}"
        );
        netns::enter(&self.netns, move || testkit::nft::apply(&rules)).unwrap();
    }

    pub fn let_go(&self) {
        netns::enter(&self.netns, || testkit::nft::apply("delete table ip held")).unwrap();
    }
}

/// Serves on loopback, where the agent asks; returns where.
fn serve_names(count: Arc<AtomicU64>) -> io::Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let at = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(question) = Message::from_vec(&buffer[..length]) else {
                continue;
            };
            let number = count.fetch_add(1, Ordering::Relaxed);
            let query = question.queries[0].clone();
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            let is_good = query.name().to_ascii().to_lowercase().starts_with(GOOD);
            let address = if is_good {
                INTERNET
            } else {
                // Public, and nobody's here.
                Ipv4Addr::from_bits(0x5000_0000 + u32::try_from(number).unwrap())
            };
            if query.query_type() == RecordType::A {
                let name = query.name().clone();
                answer.add_answer(Record::from_rdata(name, 60, RData::A(A(address))));
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        }
    });
    Ok(at.to_string())
}
