//! TAP devices: the host's end of a guest's network cable (Linux
//! `Documentation/networking/tuntap.rst`).

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;

nix::ioctl_write_int!(set_interface, b'T', 202);
nix::ioctl_write_int!(set_persist, b'T', 203);
nix::ioctl_write_int!(set_owner, b'T', 204);
nix::ioctl_read!(get_interface, b'T', 210, libc::c_uint);

/// Flag of a device that stays without an open file (linux/if_tun.h). The library has it as another
/// type.
const IFF_PERSIST: i32 = 0x0800;

/// The control device.
pub const DEVICE: &str = "/dev/net/tun";

/// Creates a persistent TAP device in the namespace of the calling thread. It stays until the link
/// is deleted or its namespace goes. Only user `owner`, or a process that may administer the
/// network, can open it.
///
/// # Errors
/// `NotFound` when the kernel has no TUN/TAP, `InvalidInput` when the name is longer than 15 bytes.
pub fn create(name: &str, owner: u32) -> io::Result<()> {
    let device = attach(name)?;
    // SAFETY: the descriptor is open. TUNSETOWNER and TUNSETPERSIST are declared as writing an int
    // (linux/if_tun.h), and take a number.
    unsafe {
        set_owner(device.as_raw_fd(), owner.into())?;
        set_persist(device.as_raw_fd(), 1)?;
    }
    Ok(())
}

/// Opens the TAP device of that name, which [`create`] made in the namespace of the calling thread:
/// frames that are written to the file are received by the link, and the other way round. Only one
/// file of a device can be open.
///
/// # Errors
/// `NotFound` when there is none, `ResourceBusy` when it is open already.
pub fn open(name: &str) -> io::Result<File> {
    let device = attach(name)?;
    // SAFETY: all zeroes is a valid ifreq: it is plain data.
    let mut found: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the ifreq lives until the call returns, which fills it
    // in.
    let flags = unsafe {
        get_interface(device.as_raw_fd(), std::ptr::from_mut(&mut found).cast())?;
        i32::from(found.ifr_ifru.ifru_flags)
    };
    // Otherwise it was made by this call, and goes with the file.
    if flags & IFF_PERSIST == 0 {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no TAP device {name}"),
        ));
    }
    Ok(device)
}

/// Opens a device of that name, and creates it if need be.
fn attach(name: &str) -> io::Result<File> {
    let device = File::options().read(true).write(true).open(DEVICE)?;
    // SAFETY: all zeroes is a valid ifreq: it is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is no name for a link"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
    // SAFETY: the descriptor is open and the ifreq lives until the call returns. TUNSETIFF is
    // declared as writing an int (linux/if_tun.h), and takes a pointer.
    unsafe {
        set_interface(
            device.as_raw_fd(),
            std::ptr::from_ref(&request) as libc::c_ulong,
        )?
    };
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{link, netns};

    #[test]
    fn a_tap_lives_in_its_namespace() {
        let name = format!("wtest-tap-{}", std::process::id());
        netns::create(&name).unwrap();
        let links = netns::enter(&name, || {
            create("tap0", 0)?;
            link::list("tap")
        });
        assert_eq!(links.unwrap(), ["tap0"]);
        let missing = netns::enter(&name, || open("tap1")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let (first, second) = netns::enter(&name, || Ok((open("tap0")?, open("tap0")))).unwrap();
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(first);
        // It outlives its file, and nothing was made by a look for another.
        assert_eq!(netns::enter(&name, || link::list("tap")).unwrap(), ["tap0"]);
        drop(netns::enter(&name, || open("tap0")).unwrap());
        let refused = netns::enter(&name, || create("a-name-that-is-too-long", 0)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        netns::remove(&name).unwrap();
    }
}
