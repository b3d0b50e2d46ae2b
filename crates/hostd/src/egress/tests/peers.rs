//! What answers a guest of a test, and how the guest speaks.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::world::{GREETING, SPEAKS, host};

/// Names and addresses that the name server knows.
pub(super) type Names = Arc<Mutex<Vec<(String, IpAddr)>>>;

/// An error that claims to be about what `from` has sent to `to`, over IPv4 (RFC 792): a host
/// cannot be reached.
pub(super) fn unreachable(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
    error.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    error.extend(from.ip().octets().into_iter().chain(to.ip().octets()));
    error.extend(
        from.port()
            .to_be_bytes()
            .into_iter()
            .chain(to.port().to_be_bytes())
            .chain([0; 4]),
    );
    let sum: u32 = error
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("few bytes");
    error[2..4].copy_from_slice(&sum.to_be_bytes());
    error
}

/// A connection of the guest.
pub(super) struct Talk(pub(super) TcpStream);

impl Talk {
    /// Of one over IPv4.
    pub(super) fn ends(&self) -> (SocketAddrV4, SocketAddrV4) {
        match (self.0.local_addr().unwrap(), self.0.peer_addr().unwrap()) {
            (SocketAddr::V4(own), SocketAddr::V4(server)) => (own, server),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn talk(&mut self, say: &[u8]) -> io::Result<String> {
        self.say(say)?;
        self.hear()
    }

    pub(super) fn say(&mut self, say: &[u8]) -> io::Result<()> {
        self.0.write_all(say)
    }

    pub(super) fn hear(&mut self) -> io::Result<String> {
        let mut buffer = [0; 4096];
        match self.0.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
        }
    }

    /// The status of an answer.
    pub(super) fn request(&mut self, name: &str) -> String {
        let answer = self
            .talk(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes())
            .unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

/// Answers what it is told with its address before it, or HTTP at port 80. Goes with the test's
/// process.
pub(super) fn serve(at: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(at)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, at));
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, at: SocketAddr) -> io::Result<()> {
    let speaks_first = at.ip() == host(SPEAKS);
    if speaks_first {
        stream.write_all(GREETING.as_bytes())?;
    }
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let answer = match at.port() {
            80 if !speaks_first => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => format!("{at} {said}"),
        };
        stream.write_all(answer.as_bytes())?;
    }
}

/// A name server on loopback that knows these names and counts who is asked for.
pub(super) fn name_server(known: Names, asked: Arc<Mutex<HashMap<String, usize>>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(question) = Message::from_vec(&buffer[..length]) else {
                continue;
            };
            let query = question.queries[0].clone();
            let name = query
                .name()
                .to_ascii()
                .to_lowercase()
                .trim_end_matches('.')
                .to_owned();
            *asked.lock().unwrap().entry(name.clone()).or_default() += 1;
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.metadata.recursion_available = true;
            let addresses = addresses_of(&known.lock().unwrap(), &name);
            if addresses.is_empty() {
                answer.metadata.response_code = hickory_resolver::proto::op::ResponseCode::NXDomain;
            }
            for data in addresses
                .into_iter()
                .filter_map(|address| record_of(query.query_type(), address))
            {
                answer.add_answer(Record::from_rdata(query.name().clone(), 1, data));
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        }
    });
    at
}

/// Each name `aN.many.test` has an address of its own.
fn addresses_of(known: &[(String, IpAddr)], name: &str) -> Vec<IpAddr> {
    let number = name
        .strip_suffix(".many.test")
        .and_then(|name| name.strip_prefix('a')?.parse::<u16>().ok());
    if let Some(number) = number {
        let [high, low] = number.to_be_bytes();
        return vec![Ipv4Addr::new(45, 91, high, low).into()];
    }
    known
        .iter()
        .filter(|one| one.0 == name)
        .map(|one| one.1)
        .collect()
}

fn record_of(kind: RecordType, address: IpAddr) -> Option<RData> {
    match (kind, address) {
        (RecordType::A, IpAddr::V4(address)) => Some(RData::A(A(address))),
        (RecordType::AAAA, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(address))),
        _ => None,
    }
}

pub(super) fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(
        Name::from_ascii(format!("{name}.")).unwrap(),
        kind,
    ));
    message.to_vec().unwrap()
}

pub(super) fn addresses(answer: &[u8]) -> Vec<IpAddr> {
    let answer = Message::from_vec(answer).unwrap();
    assert_eq!(
        (answer.metadata.id, answer.metadata.message_type),
        (7, MessageType::Response)
    );
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    };
    answer.answers.iter().filter_map(address).collect()
}
