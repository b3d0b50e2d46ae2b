//! Packets over a pipe (RFC 4253): identification lines, framing, encryption, key exchange.
//!
//! A [`Transport`] is one task's: it reads and writes payloads of messages. The client may ask for
//! new keys at any time; that exchange happens inside [`Transport::filter`], and no other message
//! is written until it is over.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::cipher::{Opener, Sealer};
use crate::error::{Error, Result};
use crate::host_key::HostKey;
use crate::kex::{self, Names};
use crate::wire::{Fields, Message, message};

/// Our identification.
const IDENTIFICATION: &str = concat!("SSH-2.0-wrenn_", env!("CARGO_PKG_VERSION"));

/// Longest line before and of the client's identification.
const MAX_LINE: usize = 255;

/// Longest packet that is read. Messages with data have 32 KiB; OpenSSH's limit is the same.
const MAX_PACKET: u32 = 256 * 1024;

/// Bytes that are read at once.
const READ_SIZE: usize = 64 * 1024;

/// Transport; see the module.
pub struct Transport<R, W> {
    reader: PacketReader<R>,
    writer: PacketWriter<W>,
    key: HostKey,
    /// The client's identification, which each exchange proves.
    client_identification: Vec<u8>,
    /// Hash of the first exchange; empty before it.
    session: Vec<u8>,
    strict: bool,
}

struct PacketReader<R> {
    input: R,
    buffer: BytesMut,
    opener: Opener,
    sequence: u32,
}

struct PacketWriter<W> {
    output: W,
    buffer: Vec<u8>,
    sealer: Sealer,
    sequence: u32,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Transport<R, W> {
    /// Greets the client and makes the first keys.
    pub async fn accept(input: R, output: W, key: HostKey) -> Result<Self> {
        let mut reader = PacketReader {
            input,
            buffer: BytesMut::new(),
            opener: Opener::Plain,
            sequence: 0,
        };
        let mut writer = PacketWriter {
            output,
            buffer: Vec::new(),
            sealer: Sealer::Plain,
            sequence: 0,
        };
        let line = format!("{IDENTIFICATION}\r\n");
        writer.buffer.extend_from_slice(line.as_bytes());
        writer.flush().await?;
        let client_identification = reader.read_identification().await?;
        let mut transport = Self {
            reader,
            writer,
            key,
            client_identification,
            session: Vec::new(),
            strict: false,
        };
        let first = transport.reader.read_packet().await?;
        if first.first() != Some(&message::KEXINIT) {
            return Err(Error::protocol("no offer of algorithms at first"));
        }
        transport.exchange_keys(&first).await?;
        Ok(transport)
    }

    /// Reads the next message, which [`Transport::filter`] is to see. Nothing is lost if it is
    /// dropped while it waits for one.
    pub async fn receive(&mut self) -> Result<Bytes> {
        self.reader.read_packet().await
    }

    /// Carries out a message of the transport itself; returns any other one.
    pub async fn filter(&mut self, packet: Bytes) -> Result<Option<Bytes>> {
        match packet.first() {
            Some(&message::KEXINIT) => self.exchange_keys(&packet).await?,
            Some(&(message::IGNORE | message::DEBUG | message::UNIMPLEMENTED)) => {}
            _ => return Ok(Some(packet)),
        }
        Ok(None)
    }

    /// Reads the next message that is none of the transport's own.
    pub async fn read(&mut self) -> Result<Bytes> {
        loop {
            let packet = self.receive().await?;
            if let Some(packet) = self.filter(packet).await? {
                return Ok(packet);
            }
        }
    }

    /// Puts a message behind those that are to be written.
    pub fn put(&mut self, message: Message) -> Result<()> {
        self.writer.put(&message.into_vec())
    }

    /// Writes what was put.
    pub async fn flush(&mut self) -> Result<()> {
        self.writer.flush().await
    }

    /// Returns the number of bytes that were put and not written.
    pub fn pending(&self) -> usize {
        self.writer.buffer.len()
    }

    /// Returns the sequence number of the message that was read last.
    pub fn last_sequence(&self) -> u32 {
        self.reader.sequence.wrapping_sub(1)
    }

    /// Exchanges keys, upon the client's offer.
    async fn exchange_keys(&mut self, offer: &Bytes) -> Result<()> {
        let is_first = self.session.is_empty();
        let ours = kex::offer()?;
        self.writer.put(&ours)?;
        self.writer.flush().await?;
        let agreed = kex::agree(offer, is_first)?;
        self.strict |= agreed.strict;
        if agreed.skips_guess {
            self.reader.read_packet().await?;
        }
        let mut init = Fields::new(self.read_exchange().await?);
        if init.u8()? != message::KEX_ECDH_INIT {
            return Err(Error::protocol("no key of its own for the exchange"));
        }
        let names = Names {
            client: &self.client_identification,
            server: IDENTIFICATION.as_bytes(),
            client_offer: offer,
            server_offer: &ours,
        };
        let made = kex::exchange(&names, &self.key, &init.bytes()?, &self.session, &agreed)?;
        self.writer.put(&made.reply)?;
        self.writer.put(&[message::NEWKEYS])?;
        self.writer.flush().await?;
        self.writer.sealer = made.sealer;
        if self.read_exchange().await?.first() != Some(&message::NEWKEYS) {
            return Err(Error::protocol("something else than its new keys"));
        }
        self.reader.opener = made.opener;
        if self.strict {
            self.writer.sequence = 0;
            self.reader.sequence = 0;
        }
        self.session = made.session;
        Ok(())
    }

    /// Reads a message of an exchange of keys.
    async fn read_exchange(&mut self) -> Result<Bytes> {
        loop {
            let packet = self.reader.read_packet().await?;
            let is_first = self.session.is_empty();
            match packet.first() {
                Some(&(message::IGNORE | message::DEBUG)) if !(self.strict && is_first) => {}
                Some(&message::DISCONNECT) => return Err(gone()),
                _ => return Ok(packet),
            }
        }
    }
}

fn gone() -> Error {
    Error::Io(std::io::ErrorKind::UnexpectedEof.into())
}

impl<R: AsyncRead + Unpin> PacketReader<R> {
    async fn fill(&mut self) -> Result<()> {
        self.buffer.reserve(READ_SIZE);
        match self.input.read_buf(&mut self.buffer).await? {
            0 => Err(gone()),
            _ => Ok(()),
        }
    }

    async fn read_identification(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                let line = line.strip_suffix(b"\r").unwrap_or(&line);
                if line.starts_with(b"SSH-2.0-") {
                    return Ok(line.to_vec());
                }
                return Err(Error::protocol("no identification of SSH 2.0"));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Error::protocol("an identification without an end"));
            }
            self.fill().await?;
        }
    }

    /// Reads the payload of the next packet. Nothing is lost if it is dropped while it waits.
    async fn read_packet(&mut self) -> Result<Bytes> {
        loop {
            if let Some(payload) = self.next_packet()? {
                return Ok(payload);
            }
            self.fill().await?;
        }
    }

    /// Takes the next packet out of the buffer, if it is there as a whole.
    fn next_packet(&mut self) -> Result<Option<Bytes>> {
        let Some(head) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = self.opener.length(self.sequence, *head);
        if length > MAX_PACKET {
            return Err(Error::protocol(format!("a packet of {length} bytes")));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let whole = 4 + length + self.opener.tag_length();
        if self.buffer.len() < whole {
            return Ok(None);
        }
        let mut packet = self.buffer.split_to(whole);
        let payload = self.opener.open(self.sequence, &mut packet)?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(Some(packet.freeze().slice(payload)))
    }
}

impl<W: AsyncWrite + Unpin> PacketWriter<W> {
    fn put(&mut self, payload: &[u8]) -> Result<()> {
        self.sealer.seal(self.sequence, payload, &mut self.buffer)?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.output.write_all(&self.buffer).await?;
        self.buffer.clear();
        self.output.flush().await?;
        Ok(())
    }
}
