//! What every driver has to do, tried on real virtual machines.
//!
//! Each test runs once per driver that the machine has ([`lab`]). Guests are the distribution's
//! kernel with a busybox whose script does what the kernel command line says ([`guest`],
//! `init.sh`). A test that leaves a process or a file behind fails. Needs root (network namespaces,
//! mounts), QEMU, busybox-static, and the kernel of `make test-data`.

mod guest;
mod lab;
mod machine;

mod adopt;
mod crowd;
mod devices;
mod ends;
mod failures;
mod jail;
mod layers;
mod lifecycle;
mod memory;
mod output;
mod places;
mod restore;
mod snapshot;
mod snapshot_failures;
