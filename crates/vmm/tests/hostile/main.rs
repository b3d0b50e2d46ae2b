//! VMMs that their guests have taken over.
//!
//! `hostile-vmm` (`vmm/`) is started in QEMU's or Firecracker's place, by the real driver, in the
//! real jail, as a user of its own, and speaks its protocol rightly until its guest runs. Then it
//! does what the VM's name says: something over the socket (`vmm/qemu.rs`, `vmm/firecracker.rs`),
//! or something in its jail (`vmm/inside.rs`).
//!
//! To add an attack: give it a name in one of those files, and a test here that boots a VM of that
//! name with [`lab::withstand`]. It starts a neighbour that behaves, runs the test, and then looks
//! whether
//! - the hostile VM can be destroyed, within [`lab::PROMPTLY`],
//! - the neighbour still answers,
//! - the memory of this process, which stands for the agent, is back within [`lab::MEMORY_SLACK`],
//! - no process of the VM's user is left, and its directory can be removed.
//!
//! Each test prints the memory and processor time that the attack cost here:
//! `cargo test -p vmm --test hostile -- --nocapture`. Needs root. No guest is booted, so that an
//! attack takes a moment.

mod lab;

mod environment;
mod files;
mod firecracker;
mod process;
mod qmp;
mod syscalls;
