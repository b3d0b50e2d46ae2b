//! The system calls that no safe wrapper covers: waiting, terminals, file systems, the entropy
//! pool, network interfaces.
//!
//! This file and `process/spawn.rs` are the only ones of this crate with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;
use tokio::io::unix::AsyncFd;

/// Collects one finished child: its pid and raw wait status. `pid` -1 means any. `None` where there
/// is none now.
pub fn reap_child(pid: i32) -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call, which writes nothing else.
    let found = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    (found > 0).then_some((found, status))
}

/// Returns the pid of one finished child, and leaves it to be collected: until then no other process
/// has its number. `pid` -1 means any.
pub fn finished_child(pid: i32) -> Option<i32> {
    let kind = if pid < 0 { libc::P_ALL } else { libc::P_PID };
    // SAFETY: plain numbers, for which all zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` outlives the call, which writes nothing else.
    let done = unsafe { libc::waitid(kind, pid.max(0).cast_unsigned(), &raw mut info, options) };
    if done != 0 {
        return None;
    }
    // SAFETY: the call fills these fields, or leaves them 0 where no child has finished.
    let found = unsafe { info.si_pid() };
    (found > 0).then_some(found)
}

/// Registers a non-blocking descriptor with the runtime.
///
/// # Errors
/// Errors of `epoll_ctl(2)`.
pub fn register_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` answers with the same open descriptor for as long as it lives, and the
    // `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Sets the window size of a terminal, in characters; the kernel tells its foreground group by
/// SIGWINCH.
///
/// # Errors
/// Errors of TIOCSWINSZ.
pub fn set_window_size(terminal: BorrowedFd<'_>, cols: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is what TIOCSWINSZ reads, and outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// Returns columns and rows of a terminal.
///
/// # Errors
/// Errors of TIOCGWINSZ.
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    // SAFETY: a `winsize` is four numbers, for which all bits zero are valid.
    let mut size: libc::winsize = unsafe { zeroed() };
    // SAFETY: `size` is what TIOCGWINSZ writes, and outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_col, size.ws_row))
}

/// Makes the terminal on standard input the controlling one of the calling session leader.
/// Safe between fork and exec: it is one system call.
///
/// # Errors
/// Errors of TIOCSCTTY.
pub fn take_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a plain number.
    check(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) })
}

/// `_IOW('f', 16, __u64)` of the kernel's `fs/ext4/ext4.h`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// Grows the mounted ext4 file system that `folder` is on to `blocks` blocks. Does nothing if it
/// has as many.
///
/// # Errors
/// Errors of EXT4_IOC_RESIZE_FS: the device is shorter, or the file system cannot grow so far.
pub fn grow_ext4(folder: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads 64 bits from `blocks`, which outlives the call.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) })
}

/// `_IOWR('X', 119, int)`, `_IOWR('X', 120, int)` and `_IOWR('X', 121, struct fstrim_range)` of
/// `linux/fs.h`.
const FIFREEZE: libc::Ioctl = 0xC004_5877;
const FITHAW: libc::Ioctl = 0xC004_5878;
const FITRIM: libc::Ioctl = 0xC018_5879;

/// Flushes the file system that `folder` is on, and blocks writes to it until [`thaw_filesystem`].
/// Waits for writes that have begun.
///
/// # Errors
/// Errors of FIFREEZE: EBUSY where it is frozen, EOPNOTSUPP where its kind cannot be.
pub fn freeze_filesystem(folder: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FIFREEZE takes no argument (the kernel does not look at it).
    check(unsafe { libc::ioctl(folder.as_raw_fd(), FIFREEZE, 0) })
}

/// Ends [`freeze_filesystem`].
///
/// # Errors
/// Errors of FITHAW: EINVAL where it is not frozen.
pub fn thaw_filesystem(folder: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FITHAW takes no argument (the kernel does not look at it).
    check(unsafe { libc::ioctl(folder.as_raw_fd(), FITHAW, 0) })
}

/// Gives the disk blocks that are unused in these bytes of the file system back to its device.
///
/// # Errors
/// Errors of FITRIM: EOPNOTSUPP where the device takes nothing back.
pub fn trim_filesystem(folder: BorrowedFd<'_>, start: u64, length: u64) -> io::Result<()> {
    // `struct fstrim_range`: start, length, shortest run.
    let mut range = [start, length, 0];
    // SAFETY: the kernel reads and writes three 64-bit numbers, which outlive the call.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), FITRIM, &raw mut range) })
}

/// Maximum number of bytes that [`add_entropy`] takes at once.
pub const ENTROPY_LIMIT: usize = 512;

#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; ENTROPY_LIMIT],
}

/// `_IOW('R', 3, int[2])` and `_IO('R', 7)` of `linux/random.h`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Mixes bytes into the kernel's pool, credits all their bits, and reseeds the generator at once,
/// so that two guests restored from one snapshot diverge. RNDRESEEDCRNG is needed for that:
/// RNDADDENTROPY leaves the bytes in the pool until the generator's next turn, up to a minute later
/// (kernel: `crng_reseed_interval`). Bytes beyond [`ENTROPY_LIMIT`] are left out.
///
/// # Errors
/// Errors of RNDADDENTROPY and RNDRESEEDCRNG (CAP_SYS_ADMIN is needed).
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let length = bytes.len().min(ENTROPY_LIMIT);
    let count = i32::try_from(length).unwrap_or(0);
    let mut info = PoolInfo {
        entropy_bits: count * 8,
        bytes: count,
        data: [0; ENTROPY_LIMIT],
    };
    info.data[..length].copy_from_slice(&bytes[..length]);
    // SAFETY: the layout is `struct rand_pool_info`; `bytes` says how much of `data` is read, and
    // it is inside.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) })?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) })
}

/// A socket to configure IPv4 interfaces through.
#[derive(Debug)]
pub struct Interfaces(OwnedFd);

impl Interfaces {
    /// Opens the socket.
    ///
    /// # Errors
    /// Errors of `socket(2)`.
    pub fn open() -> io::Result<Self> {
        // SAFETY: plain numbers; the answer is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        check(fd.min(0))?;
        // SAFETY: the kernel just gave us this descriptor, and it has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sets address and prefix length.
    ///
    /// # Errors
    /// Errors of SIOCSIFADDR and SIOCSIFNETMASK.
    pub fn set_address(&self, name: &str, address: Ipv4Addr, prefix: u32) -> io::Result<()> {
        let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0));
        for (request, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
            let mut interface = request_for(name)?;
            interface.ifr_ifru.ifru_addr = socket_address(value);
            self.ioctl(request, &raw const interface)?;
        }
        Ok(())
    }

    /// Sets how many bytes an interface carries in one packet.
    ///
    /// # Errors
    /// Errors of SIOCSIFMTU; EINVAL where the driver carries less.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        let mut interface = request_for(name)?;
        interface.ifr_ifru.ifru_mtu =
            libc::c_int::try_from(mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.ioctl(libc::SIOCSIFMTU, &raw const interface)
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// Errors of SIOCSIFFLAGS; ENODEV where there is no such interface.
    pub fn bring_up(&self, name: &str) -> io::Result<()> {
        let mut interface = request_for(name)?;
        interface.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        self.ioctl(libc::SIOCSIFFLAGS, &raw const interface)
    }

    /// Adds a default route.
    ///
    /// # Errors
    /// Errors of SIOCADDRT other than that the route is there already.
    pub fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        // SAFETY: all zero is a valid rtentry: no device name, all addresses unspecified.
        let mut route: libc::rtentry = unsafe { zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        match self.ioctl(libc::SIOCADDRT, &raw const route) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    fn ioctl<T>(&self, request: libc::c_ulong, argument: *const T) -> io::Result<()> {
        // SAFETY: callers pass the structure that `request` reads, alive for the call.
        check(unsafe { libc::ioctl(self.0.as_fd().as_raw_fd(), request as libc::Ioctl, argument) })
    }
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zero is a valid ifreq: an empty name and an empty union.
    let mut interface: libc::ifreq = unsafe { zeroed() };
    if name.is_empty() || name.len() >= interface.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in interface.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(interface)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.octets()),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both structures are 16 bytes of plain data; the first two are the family in each.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
