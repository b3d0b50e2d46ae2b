//! SFTP server on standard input and output, `envd sftp-server`: version 3 of the protocol with
//! OpenSSH's extensions, so that `sftp`, `scp`, `sshfs` and editors work with images that have no
//! SSH server.
//!
//! The client's side of an SSH connection starts it as a command of the user (see the crate `ssh`),
//! through `/proc/self/exe`: between fork and exec that is this program, whichever root file system
//! the guest has. It is an ordinary process with the permissions of that user and no others, so the
//! kernel decides what is allowed. Requests are carried out one after the other, in their order.
//!
//! States: it serves until its input ends, and keeps open files and directories by number until
//! then. On disk is what the client has written so far, in place, as with OpenSSH's server; if the
//! process dies, that stays as it is.
//!
//! Why no crate: `russh-sftp` 3.0 has paths as `String`, so that a name that is not UTF-8 cannot be
//! opened or removed; it knows the protocol, and what would be left of this module is all of it but
//! `packet.rs`.

mod attributes;
mod extensions;
mod packet;
mod requests;

use std::io::{self, Read, Write};

use packet::{Answer, MAX_PACKET, answer, request};
use requests::Server;

/// Version of the protocol, the one that OpenSSH speaks.
const VERSION: u32 = 3;

/// Serves a client until its input ends.
///
/// # Errors
/// Input or output that breaks, and a packet that is longer than any may be.
pub fn serve_sftp(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut server = Server::default();
    let mut packet = Vec::new();
    while read_packet(&mut input, &mut packet)? {
        let answer = answer_packet(&mut server, &packet);
        output.write_all(&answer)?;
        output.flush()?;
    }
    Ok(())
}

/// Reads a packet without its length; false at the end of the input.
fn read_packet(input: &mut impl Read, packet: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length == 0 || length > MAX_PACKET {
        let text = format!("a packet of {length} bytes: 1 to {MAX_PACKET} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    packet.resize(length, 0);
    input.read_exact(packet)?;
    Ok(true)
}

/// Carries out a request and returns the answer, for the wire.
fn answer_packet(server: &mut Server, packet: &[u8]) -> Vec<u8> {
    let mut fields = packet::Fields::new(packet);
    let kind = fields.u8().unwrap_or_default();
    if kind == request::INIT {
        return version().into_bytes();
    }
    let Ok(id) = fields.u32() else {
        return Answer::status(0, &packet::Refusal::malformed()).into_bytes();
    };
    let answered = server.handle_request(kind, id, &mut fields);
    let answer = answered.unwrap_or_else(|refusal| Answer::status(id, &refusal));
    answer.into_bytes()
}

/// Returns the answer to the client's greeting: our version, and what we know beyond it.
fn version() -> Answer {
    // The version stands where other answers have the id.
    let mut version = Answer::new(answer::VERSION, VERSION);
    for (name, revision) in extensions::NAMES {
        version.put_bytes(name.as_bytes());
        version.put_bytes(revision.as_bytes());
    }
    version
}

#[cfg(test)]
mod tests;
