//! QEMU's migration stream without the guest's memory.
//!
//! QEMU leaves out only memory that it shares with others (`x-ignore-shared`). The memory of a restored guest is a
//! private mapping, so all of it is in the stream, and we take it out as it comes. What is left is what QEMU would have
//! written itself, and is loaded over memory that is there already.
//!
//! ```text
//!  magic, version, configuration
//!  START of ram:  list of the blocks; then PART of ram …, END of ram: pages of all blocks, record by record
//!  devices, end                                            (not looked into)
//! ```
//! Sections and records: `migration/savevm.c` and `migration/ram.c` of QEMU 7.2 to 10. A record begins with a number of
//! which the lower twelve bits say what it is. Numbers have the highest byte first. Whatever is not known is refused:
//! then there is no snapshot, rather than one that QEMU cannot load.

use std::io::{self, BufRead, Read, Write};

/// `QEVM`, version 3.
const HEADER: u64 = 0x5145_564D_0000_0003;

/// Kinds of sections (`QEMU_VM_*`).
const EOF: u8 = 0;
const START: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;
const FULL: u8 = 4;
const SUBSECTION: u8 = 5;
const CONFIGURATION: u8 = 7;
const COMMAND: u8 = 8;
const FOOTER: u8 = 0x7E;

/// Kinds of records (`RAM_SAVE_FLAG_*`), and the rest of a record's first number.
const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const PAGE: u64 = 0x08;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;
const KIND: u64 = 0xFFF;

const PAGE_BYTES: u64 = 4096;
/// Bytes that a page of zeroes is written as.
const ZERO_BYTES: u64 = 1;
/// The only section that comes in parts here.
const RAM: &[u8] = b"ram";

/// More than devices take: 100 KiB, and some MiB of firmware. QEMU could go on for ever.
const LIMIT: u64 = 64 << 20;

/// Copies the stream from `input` to `output`, to its end, but for the pages of the memory block `block`. The stream has
/// `x-ignore-shared`.
///
/// # Errors
/// `InvalidData` when it is no stream that we know, otherwise what reading or writing said.
pub(super) fn strip(input: impl BufRead, output: impl Write, block: &str) -> io::Result<()> {
    let mut stream = Stream { input, output, written: 0, block: Vec::new(), left_out: block.as_bytes() };
    stream.header()?;
    stream.sections()?;
    stream.rest()
}

struct Stream<'a, R, W> {
    input: R,
    output: W,
    written: u64,
    /// Whose pages the records are that do not say it.
    block: Vec<u8>,
    left_out: &'a [u8],
}

impl<R: BufRead, W: Write> Stream<'_, R, W> {
    fn header(&mut self) -> io::Result<()> {
        match self.number::<8>()? {
            HEADER => {}
            other => return Err(unknown("beginning", other)),
        }
        if self.peek()? != CONFIGURATION {
            return Ok(());
        }
        self.byte()?;
        let length = self.number::<4>()?;
        self.pass(length)?;
        while self.peek()? == SUBSECTION {
            self.byte()?;
            let name = self.name()?;
            if name != b"configuration/capabilities" {
                return Err(unknown(&format!("configuration {}", String::from_utf8_lossy(&name)), 0));
            }
            self.pass(4)?;
            for _ in 0..self.number::<4>()? {
                self.name()?;
            }
        }
        Ok(())
    }

    /// Up to the first device.
    fn sections(&mut self) -> io::Result<()> {
        let mut ram = None;
        loop {
            match self.peek()? {
                FULL | EOF => return Ok(()),
                COMMAND => {
                    self.pass(3)?;
                    let length = self.number::<2>()?;
                    self.pass(length)?;
                }
                START => {
                    self.byte()?;
                    ram = Some(self.number::<4>()?);
                    match self.name()? {
                        name if name == RAM => self.pass(8)?,
                        other => return Err(unknown(&format!("section {}", String::from_utf8_lossy(&other)), 0)),
                    }
                    self.records()?;
                }
                PART | END => {
                    self.byte()?;
                    match self.number::<4>()? {
                        id if Some(id) == ram => self.records()?,
                        other => return Err(unknown("section", other)),
                    }
                }
                other => return Err(unknown("kind of section", other.into())),
            }
            if self.peek()? == FOOTER {
                self.pass(5)?;
            }
        }
    }

    /// The records of a section, up to the one that ends it.
    fn records(&mut self) -> io::Result<()> {
        loop {
            let first = self.take::<8>()?;
            match u64::from_be_bytes(first) & KIND {
                EOS => return self.write(&first),
                MEM_SIZE => {
                    self.write(&first)?;
                    self.blocks(u64::from_be_bytes(first) & !KIND)?;
                }
                kind if kind & !CONTINUE == ZERO => self.page(&first, ZERO_BYTES)?,
                kind if kind & !CONTINUE == PAGE => self.page(&first, PAGE_BYTES)?,
                other => return Err(unknown("kind of record", other)),
            }
        }
    }

    /// The list of all blocks, which have so many bytes together.
    fn blocks(&mut self, total: u64) -> io::Result<()> {
        let mut left = total;
        while left > 0 {
            self.name()?;
            let length = self.number::<8>()?;
            // Where it is in the guest's memory.
            self.pass(8)?;
            left =
                left.checked_sub(length).filter(|_| length > 0).ok_or_else(|| unknown("length of a block", length))?;
        }
        Ok(())
    }

    fn page(&mut self, first: &[u8; 8], length: u64) -> io::Result<()> {
        let mut head = first.to_vec();
        if u64::from_be_bytes(*first) & CONTINUE == 0 {
            let name = self.take_name()?;
            head.extend(&name);
            self.block = name[1..].to_vec();
        }
        if self.block == self.left_out {
            return self.skip(length);
        }
        self.write(&head)?;
        self.pass(length)
    }

    fn rest(&mut self) -> io::Result<()> {
        let room = LIMIT.saturating_sub(self.written);
        let copied = io::copy(&mut self.input.by_ref().take(room), &mut self.output)?;
        self.written += copied;
        if self.input.fill_buf()?.is_empty() { self.output.flush() } else { Err(too_long()) }
    }

    fn peek(&mut self) -> io::Result<u8> {
        self.input.fill_buf()?.first().copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A length of one byte and so many bytes.
    fn take_name(&mut self) -> io::Result<Vec<u8>> {
        let [length] = self.take::<1>()?;
        let mut name = vec![0; 1 + usize::from(length)];
        name[0] = length;
        self.input.read_exact(&mut name[1..])?;
        Ok(name)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        match io::copy(&mut self.input.by_ref().take(length), &mut io::sink())? {
            skipped if skipped == length => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        if self.written > LIMIT {
            return Err(too_long());
        }
        self.output.write_all(bytes)
    }

    /// Takes and writes; the same below.
    fn pass(&mut self, length: u64) -> io::Result<()> {
        self.written = self.written.saturating_add(length);
        if self.written > LIMIT {
            return Err(too_long());
        }
        match io::copy(&mut self.input.by_ref().take(length), &mut self.output)? {
            passed if passed == length => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let [byte] = self.take::<1>()?;
        self.write(&[byte])?;
        Ok(byte)
    }

    fn number<const N: usize>(&mut self) -> io::Result<u64> {
        let bytes = self.take::<N>()?;
        self.write(&bytes)?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn name(&mut self) -> io::Result<Vec<u8>> {
        let mut name = self.take_name()?;
        self.write(&name)?;
        name.remove(0);
        Ok(name)
    }
}

fn unknown(what: &str, value: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("QEMU's stream has an unknown {what} ({value:#x})"))
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("QEMU's stream has more than {LIMIT} bytes of devices"))
}

#[cfg(test)]
mod tests;
