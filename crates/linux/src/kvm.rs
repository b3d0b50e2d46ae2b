//! Measures whether KVM runs guest code at the speed of the processor.
//!
//! That `/dev/kvm` opens and makes virtual machines proves nothing: on some nested hosts every
//! guest instruction in supervisor mode is interpreted, so that Linux never boots. [`measure_exits`] runs
//! a loop of two instructions in real mode, which such hosts do at some 2 million instructions per
//! second, and real hardware a thousand times faster. Nothing is left behind: the virtual machine
//! goes with its file descriptors.

#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Rounds of the loop that [`measure_exits`] times.
pub const ROUNDS: u32 = 100_000;

/// `dec ecx; jnz -5; hlt` in 16-bit code: 0x66 makes the register 32 bits wide.
const CODE: [u8; 5] = [0x66, 0x49, 0x75, 0xfc, 0xf4];

/// Guest address of the code, and size of the only memory of the guest.
const PAGE: usize = 4096;

/// Reason why no speed could be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "there is no /dev/kvm: the processor, the BIOS or the cloud provider does not offer virtualisation"
    )]
    Missing,
    #[error("/dev/kvm may not be opened by this user; run as root or join the group kvm")]
    Denied,
    #[error("KVM cannot {action}")]
    Kernel {
        action: &'static str,
        source: std::io::Error,
    },
    #[error("KVM ended the test guest with {exit} instead of running it")]
    Odd { exit: String },
    #[error("KVM did not get through the test guest within {} ms", limit.as_millis())]
    Stuck { limit: Duration },
}

/// Returns how long a guest takes for [`ROUNDS`] rounds, the best of `attempts` so that a busy host
/// is not mistaken for a slow one.
///
/// # Errors
/// When KVM is missing, refuses, runs the code wrongly or needs longer than `limit`. A thread that
/// is stuck in the guest then goes on until the guest ends or this process does.
pub fn measure_exits(attempts: u32, limit: Duration) -> Result<Duration, Error> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("kvm-probe".into())
        .spawn(move || sender.send(best_of(attempts)))
        .map_err(|source| Error::Kernel {
            action: "get a thread",
            source,
        })?;
    receiver
        .recv_timeout(limit)
        .unwrap_or(Err(Error::Stuck { limit }))
}

fn best_of(attempts: u32) -> Result<Duration, Error> {
    let mut guest = Guest::new()?;
    let mut best = guest.run()?;
    for _ in 1..attempts {
        best = best.min(guest.run()?);
    }
    Ok(best)
}

/// A virtual machine with one page of memory. Fields are dropped in order: the memory last.
struct Guest {
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: Page,
}

impl Guest {
    fn new() -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            nix::libc::ENOENT | nix::libc::ENODEV | nix::libc::ENXIO => Error::Missing,
            nix::libc::EACCES | nix::libc::EPERM => Error::Denied,
            _ => refused("be opened")(error),
        })?;
        let vm = kvm.create_vm().map_err(refused("make a virtual machine"))?;
        let memory = Page::new()?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: PAGE as u64,
            memory_size: PAGE as u64,
            userspace_addr: memory.0.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the page is mapped for as long as the VM lives (field order above) and nothing
        // else in this program refers to its content until then.
        unsafe { vm.set_user_memory_region(region) }.map_err(refused("give memory to a guest"))?;
        let vcpu = vm
            .create_vcpu(0)
            .map_err(refused("make a virtual processor"))?;
        Ok(Self {
            vcpu,
            _vm: vm,
            _memory: memory,
        })
    }

    fn run(&mut self) -> Result<Duration, Error> {
        let mut segments = self.vcpu.get_sregs().map_err(refused("tell registers"))?;
        (segments.cs.base, segments.cs.selector) = (0, 0);
        self.vcpu
            .set_sregs(&segments)
            .map_err(refused("set registers"))?;
        let mut registers = self.vcpu.get_regs().map_err(refused("tell registers"))?;
        // Bit 1 of the flags is always set (Intel SDM volume 1, 3.4.3).
        (registers.rip, registers.rcx, registers.rflags) = (PAGE as u64, u64::from(ROUNDS), 2);
        self.vcpu
            .set_regs(&registers)
            .map_err(refused("set registers"))?;
        let start = Instant::now();
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::Hlt) => break,
                Ok(VcpuExit::Intr) => {}
                Ok(exit) => {
                    return Err(Error::Odd {
                        exit: format!("{exit:?}"),
                    });
                }
                Err(error) if error.errno() == nix::libc::EINTR => {}
                Err(error) => return Err(refused("run a guest")(error)),
            }
        }
        let took = start.elapsed();
        let left = self.vcpu.get_regs().map_err(refused("tell registers"))?.rcx;
        if left == 0 {
            Ok(took)
        } else {
            Err(Error::Odd {
                exit: format!("{left} rounds left"),
            })
        }
    }
}

fn refused(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Kernel {
        action,
        source: error.into(),
    }
}

/// Page of memory with the test code at its start.
struct Page(NonNull<u8>);

impl Page {
    fn new() -> Result<Self, Error> {
        const SIZE: NonZeroUsize = NonZeroUsize::new(PAGE).expect("a page has a size");
        // SAFETY: a new private mapping at an address that the kernel chooses replaces nothing.
        let page = unsafe {
            mmap_anonymous(
                None,
                SIZE,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .map_err(|errno| Error::Kernel {
            action: "get memory",
            source: errno.into(),
        })?
        .cast::<u8>();
        // SAFETY: the page was just mapped, writable and longer than the code.
        unsafe { std::ptr::copy_nonoverlapping(CODE.as_ptr(), page.as_ptr(), CODE.len()) };
        Ok(Self(page))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped only here.
        let _ = unsafe { munmap(self.0.cast(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the machine offers, the answer comes in time, and a speed is one that a processor
    /// can have.
    #[test]
    fn probe_returns_speed_or_reason() {
        match measure_exits(2, Duration::from_secs(10)) {
            // Two instructions a round, at most some 20 thousand million instructions per second.
            Ok(took) => assert!(took > Duration::from_micros(10), "{took:?}"),
            Err(Error::Stuck { .. }) => panic!("the loop must end or be refused in 10 s"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn short_limit_is_reported_as_stuck() {
        let result = measure_exits(1000, Duration::ZERO);
        assert!(matches!(result, Err(Error::Stuck { .. })), "{result:?}");
    }
}
