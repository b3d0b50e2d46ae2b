//! Carries a connection between a socket of the guest and standard input and output: `envd relay`.
//!
//! - `tcp HOST PORT` and `unix PATH` connect, as the guest sees hosts and paths.
//! - `listen ADDRESS PORT` listens, for `ssh -R`, and prints a line for each connection that comes;
//!   `accept NAME NUMBER` carries one of them, which it takes from the process that listens.
//!
//! The first output tells that it worked: `+` by those that carry, before the bytes of the
//! connection; `+ PORT NAME` and a newline by the one that listens, then `NUMBER ADDRESS PORT` for
//! each connection. Errors go to standard error, with exit code 1.
//!
//! The end of standard input is passed on as the end of that direction. That of the socket's
//! direction is told on standard error, as `end BYTES` with the bytes that were printed before it:
//! standard output of a command has no end of its own. With both the process ends. Nothing is on
//! disk. A process that listens keeps connections that
//! were not taken yet, up to [`MAX_WAITING`]; with it they end, and the port is free.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use parking_lot::Mutex;

/// Most connections that wait to be taken; the oldest one ends for another.
const MAX_WAITING: usize = 64;

/// Tells that what follows are bytes of the connection.
const CONNECTED: &[u8] = b"+";

/// Connection to carry, or port to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relay {
    Tcp { host: String, port: u16 },
    Unix { path: String },
    Listen { address: String, port: u16 },
    Accept { name: String, number: u32 },
}

impl Relay {
    /// Parses the arguments behind `relay`; `None` if they are not of that form.
    pub fn from_words(words: &[&str]) -> Option<Self> {
        Some(match words {
            ["tcp", host, port] => Self::Tcp {
                host: (*host).to_owned(),
                port: port.parse().ok()?,
            },
            ["unix", path] => Self::Unix {
                path: (*path).to_owned(),
            },
            ["listen", address, port] => Self::Listen {
                address: (*address).to_owned(),
                port: port.parse().ok()?,
            },
            ["accept", name, number] => Self::Accept {
                name: (*name).to_owned(),
                number: number.parse().ok()?,
            },
            _ => return None,
        })
    }
}

/// Carries until the connection ends, or listens until it is killed.
///
/// # Errors
/// Sockets that cannot be made, and connections that break.
pub fn run_relay(relay: &Relay) -> io::Result<()> {
    match relay {
        Relay::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port))?;
            // That it is a little slower is no reason to refuse.
            let _ = stream.set_nodelay(true);
            carry_standard_streams(Stream::Tcp(stream))
        }
        Relay::Unix { path } => {
            let path = guest_rpc::bytes::from_text(path);
            let path = std::path::Path::new(std::ffi::OsStr::from_bytes(&path));
            carry_standard_streams(Stream::Unix(UnixStream::connect(path)?))
        }
        Relay::Listen { address, port } => listen(address, *port),
        Relay::Accept { name, number } => {
            let address = SocketAddr::from_abstract_name(name.as_bytes())?;
            let mut stream = UnixStream::connect_addr(&address)?;
            stream.write_all(&number.to_be_bytes())?;
            carry_standard_streams(Stream::Unix(stream))
        }
    }
}

/// A connected socket.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn to_file(&self) -> io::Result<File> {
        let fd = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        };
        Ok(File::from(fd.try_clone_to_owned()?))
    }

    fn shut_down(&self, how: Shutdown) {
        // It has ended already where this fails.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }
}

fn carry_standard_streams(stream: Stream) -> io::Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    output.write_all(CONNECTED)?;
    let mut to_socket = stream.to_file()?;
    let mut from_socket = stream.to_file()?;
    let receiving = std::thread::spawn(move || {
        let carried = copy(&mut from_socket, &mut output)?;
        writeln!(io::stderr(), "end {carried}")
    });
    // A socket that takes nothing any more has nothing to say either, or has said it.
    if copy(&mut input, &mut to_socket).is_ok() {
        stream.shut_down(Shutdown::Write);
    }
    receiving
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that receives has ended")))
}

/// Copies piece by piece, as the pieces come; returns the number of bytes.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut carried = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if count == 0 {
            return Ok(carried);
        }
        to.write_all(&buffer[..count])?;
        carried += u64::try_from(count).unwrap_or_default();
    }
}

/// Connections that were accepted and not taken, by number.
type Waiting = Arc<Mutex<BTreeMap<u32, TcpStream>>>;

fn listen(address: &str, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((address, port))?;
    let port = listener.local_addr()?.port();
    let name = format!("wrenn-relay-{}-{port}", std::process::id());
    let taking = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes())?)?;
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    writeln!(output, "+ {port} {name}")?;
    let waiting = Waiting::default();
    let for_takers = waiting.clone();
    std::thread::spawn(move || hand_over(&taking, &for_takers));
    for number in 0_u32.. {
        let (stream, peer) = listener.accept()?;
        let _ = stream.set_nodelay(true);
        let mut kept = waiting.lock();
        if kept.len() >= MAX_WAITING {
            kept.pop_first();
        }
        kept.insert(number, stream);
        drop(kept);
        writeln!(output, "{number} {} {}", peer.ip(), peer.port())?;
    }
    Ok(())
}

/// Carries connections to the processes that take them, each on a thread.
fn hand_over(taking: &UnixListener, waiting: &Waiting) {
    for taker in taking.incoming().flatten() {
        let waiting = waiting.clone();
        std::thread::spawn(move || drop(carry_to_taker(taker, &waiting)));
    }
}

fn carry_to_taker(mut taker: UnixStream, waiting: &Waiting) -> io::Result<()> {
    let peer = getsockopt(&taker, PeerCredentials)?.uid();
    let ours = nix::unistd::getuid().as_raw();
    if peer != ours && peer != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut number = [0; 4];
    taker.read_exact(&mut number)?;
    let Some(stream) = waiting.lock().remove(&u32::from_be_bytes(number)) else {
        return Ok(());
    };
    let (taker, stream) = (Stream::Unix(taker), Stream::Tcp(stream));
    let (mut from_taker, mut to_taker) = (taker.to_file()?, taker.to_file()?);
    let (mut from_stream, mut to_stream) = (stream.to_file()?, stream.to_file()?);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let copied = copy(&mut from_taker, &mut to_stream);
            stream.shut_down(Shutdown::Write);
            copied
        });
        let copied = copy(&mut from_stream, &mut to_taker);
        taker.shut_down(Shutdown::Write);
        copied.map(drop)
    })
}
