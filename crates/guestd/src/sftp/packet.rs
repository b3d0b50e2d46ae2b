//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02): their fields, read as bytes of a
//! client that may send anything, and written.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Largest packet that is read, as OpenSSH's server has it.
pub const MAX_PACKET: usize = 256 * 1024;

/// Types of requests.
pub mod request {
    pub const INIT: u8 = 1;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const SETSTAT: u8 = 9;
    pub const FSETSTAT: u8 = 10;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const READLINK: u8 = 19;
    pub const SYMLINK: u8 = 20;
    pub const EXTENDED: u8 = 200;
}

/// Types of answers.
pub mod answer {
    pub const VERSION: u8 = 2;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// Code of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

/// Status other than success: code, and text for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub text: String,
}

impl Refusal {
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }

    /// Returns the refusal of a packet whose fields cannot be read.
    pub fn malformed() -> Self {
        Self::new(Code::BadMessage, "the request is cut short or malformed")
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Code::NoSuchFile,
            io::ErrorKind::PermissionDenied => Code::PermissionDenied,
            _ => Code::Failure,
        };
        Self::new(code, error.to_string())
    }
}

impl From<nix::errno::Errno> for Refusal {
    fn from(error: nix::errno::Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// Fields of a request that are left to read.
#[derive(Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(Refusal::malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, Refusal> {
        Ok(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Refusal> {
        let bytes = self.take(4)?.try_into();
        bytes
            .map(u32::from_be_bytes)
            .map_err(|_| Refusal::malformed())
    }

    pub fn u64(&mut self) -> Result<u64, Refusal> {
        let high = u64::from(self.u32()?);
        Ok((high << 32) | u64::from(self.u32()?))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Refusal> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Refusal::malformed())?)
    }

    /// Reads a path. An empty one is the working directory, as for OpenSSH's server.
    pub fn path(&mut self) -> Result<PathBuf, Refusal> {
        let bytes = self.bytes()?;
        if bytes.contains(&0) {
            return Err(Refusal::new(Code::Failure, "the path has a NUL byte"));
        }
        let bytes = if bytes.is_empty() { b"." } else { bytes };
        Ok(PathBuf::from(OsStr::from_bytes(bytes)))
    }
}

/// Answer that is being written, with its length in front.
#[derive(Debug)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// Begins an answer to the request `id`.
    pub fn new(kind: u8, id: u32) -> Self {
        let mut answer = Self(vec![0, 0, 0, 0, kind]);
        answer.put_u32(id);
        answer
    }

    /// Returns the status that a request worked.
    pub fn ok(id: u32) -> Self {
        Self::status(id, &Refusal::new(Code::Ok, "Success"))
    }

    pub fn status(id: u32, refusal: &Refusal) -> Self {
        let mut answer = Self::new(answer::STATUS, id);
        answer.put_u32(refusal.code as u32);
        answer.put_bytes(refusal.text.as_bytes());
        answer.put_bytes(b"");
        answer
    }

    pub fn put_u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn put_u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
    }

    /// Returns the bytes for the wire.
    pub fn into_bytes(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}
