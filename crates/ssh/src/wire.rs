//! Fields of SSH's messages (RFC 4251, section 5), read as bytes that may be anything, and written.

use bytes::Bytes;

use crate::error::{Error, Result};

/// Numbers of messages (RFC 4250, section 4.1.2).
pub mod message {
    pub const DISCONNECT: u8 = 1;
    pub const IGNORE: u8 = 2;
    pub const UNIMPLEMENTED: u8 = 3;
    pub const DEBUG: u8 = 4;
    pub const SERVICE_REQUEST: u8 = 5;
    pub const SERVICE_ACCEPT: u8 = 6;
    pub const KEXINIT: u8 = 20;
    pub const NEWKEYS: u8 = 21;
    pub const KEX_ECDH_INIT: u8 = 30;
    pub const KEX_ECDH_REPLY: u8 = 31;
    pub const USERAUTH_REQUEST: u8 = 50;
    pub const USERAUTH_SUCCESS: u8 = 52;
    pub const GLOBAL_REQUEST: u8 = 80;
    pub const REQUEST_SUCCESS: u8 = 81;
    pub const REQUEST_FAILURE: u8 = 82;
    pub const CHANNEL_OPEN: u8 = 90;
    pub const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub const CHANNEL_DATA: u8 = 94;
    pub const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub const CHANNEL_EOF: u8 = 96;
    pub const CHANNEL_CLOSE: u8 = 97;
    pub const CHANNEL_REQUEST: u8 = 98;
    pub const CHANNEL_SUCCESS: u8 = 99;
    pub const CHANNEL_FAILURE: u8 = 100;
}

/// Fields of a message that are left to read.
#[derive(Debug, Clone)]
pub struct Fields(Bytes);

impl Fields {
    pub fn new(message: Bytes) -> Self {
        Self(message)
    }

    fn take(&mut self, count: usize) -> Result<Bytes> {
        if count > self.0.len() {
            return Err(Error::protocol("a message that is cut short"));
        }
        Ok(self.0.split_to(count))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.u8()? != 0)
    }

    pub fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub fn bytes(&mut self) -> Result<Bytes> {
        let length = self.u32()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Reads text. Bytes that are not UTF-8 are refused: names of the protocol are ASCII, and what
    /// may have others is read with [`Fields::bytes`].
    pub fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?.into())
            .map_err(|_| Error::protocol("text that is not UTF-8"))
    }

    pub fn skip(&mut self, count: usize) -> Result<()> {
        self.take(count).map(drop)
    }
}

/// Message that is being written.
#[derive(Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn new(number: u8) -> Self {
        Self(vec![number])
    }

    #[must_use]
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.u32(length).raw(bytes)
    }

    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Appends a positive number, of big-endian bytes, as `mpint`.
    #[must_use]
    pub fn mpint(self, number: &[u8]) -> Self {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        let is_high = number.first().is_some_and(|first| first & 0x80 != 0);
        let length = u32::try_from(number.len()).unwrap_or(u32::MAX);
        match is_high {
            true => self.u32(length + 1).u8(0).raw(number),
            false => self.bytes(number),
        }
    }

    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_rfc_4251() {
        let mpint = |bytes: &[u8]| Message::default().mpint(bytes).into_vec();
        assert_eq!(mpint(&[]), [0, 0, 0, 0]);
        assert_eq!(mpint(&[0, 0]), [0, 0, 0, 0]);
        assert_eq!(mpint(&[0x80]), [0, 0, 0, 2, 0, 0x80]);
        assert_eq!(mpint(&[0, 0x7f, 1]), [0, 0, 0, 2, 0x7f, 1]);
    }

    #[test]
    fn fields_come_back_cut_ones_do_not() {
        let message = Message::new(9).u32(7).text("ab").u8(1).into_vec();
        for length in 0..message.len() {
            let mut fields = Fields::new(Bytes::copy_from_slice(&message[..length]));
            let read = (|| Ok((fields.u8()?, fields.u32()?, fields.text()?, fields.bool()?)))();
            assert!(matches!(read, Err(Error::Protocol(_))), "{length}");
        }
        let mut fields = Fields::new(message.into());
        assert_eq!(fields.u8().unwrap(), 9);
        assert_eq!(fields.u32().unwrap(), 7);
        assert_eq!(fields.text().unwrap(), "ab");
        assert!(fields.bool().unwrap());
    }
}
