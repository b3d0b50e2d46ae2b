//! File descriptors that are handed to another process over a Unix socket (`SCM_RIGHTS`, unix(7)).

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// Maximum number of descriptors in one message. The kernel takes 253 (`SCM_MAX_FD`).
pub const MOST: usize = 64;

/// Sends bytes with descriptors, all at once; more bytes than the socket's buffer holds are not
/// sent.
///
/// # Errors
/// The socket's error; `InvalidInput` for no bytes or too many descriptors, `WriteZero` for too
/// many bytes.
pub fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.is_empty() || descriptors.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives one message: at most `limit` bytes, and descriptors, which are closed on exec. Returns
/// no bytes if the other side is gone.
///
/// # Errors
/// The socket's error; `InvalidData` when not all of the descriptors arrived.
pub fn receive(socket: &UnixStream, limit: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; limit];
    let mut space = nix::cmsg_space!([RawFd; MOST]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just created them for this process, and no other code knows
            // them.
            descriptors.extend(
                raw.into_iter()
                    .map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }),
            );
        }
    }
    let length = message.bytes;
    let cut = message.flags.contains(MsgFlags::MSG_CTRUNC);
    bytes.truncate(length);
    if cut {
        Err(io::ErrorKind::InvalidData.into())
    } else {
        Ok((bytes, descriptors))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptor_arrives_with_its_bytes() {
        let (one, two) = UnixStream::pair().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"content").unwrap();
        let again = File::open(file.path()).unwrap();
        send(&one, b"words", &[again.as_fd(), one.as_fd()]).unwrap();
        send(&one, b"more", &[]).unwrap();
        let (bytes, mut descriptors) = receive(&two, 64).unwrap();
        assert_eq!((bytes.as_slice(), descriptors.len()), (&b"words"[..], 2));
        let mut content = String::new();
        File::from(descriptors.swap_remove(0))
            .read_to_string(&mut content)
            .unwrap();
        assert_eq!(content, "content");
        assert_eq!(receive(&two, 64).unwrap().0, b"more");
        drop((one, descriptors));
        assert!(receive(&two, 64).unwrap().0.is_empty());
        assert!(send(&two, b"", &[]).is_err() && send(&two, b"x", &[]).is_err());
    }
}
