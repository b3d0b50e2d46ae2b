//! Disk, network and processors as the guest sees them.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, MetadataExt};

use linux::link::Links;
use linux::{netns, tap};
use vmm::{Disk, DiskFormat, Exit, Net, VmConfig};

use crate::lab::on_every_driver;

const WRITTEN: &[u8] = b"written by the guest\n";

#[test]
fn guest_reads_and_writes_disk() {
    on_every_driver(async |lab| {
        let config = lab.config("vm", "disk");
        let disk = fs::File::options()
            .write(true)
            .open(&config.disk.path)
            .expect("the disk");
        disk.write_all_at(b"hello from a host\n", 0)
            .expect("the disk can be written");
        let mut machine = lab.boot(config).await;
        assert_eq!(machine.end().await, Exit::Shutdown);
        assert!(
            machine.text.contains("from disk: hello from a host"),
            "{}",
            machine.text
        );
        let content = fs::read(&machine.config.disk.path).expect("the disk");
        assert!(content[8 * 512..].starts_with(WRITTEN));
    });
}

#[test]
fn overlay_takes_writes_spares_base() {
    on_every_driver(async |lab| {
        if !lab.driver.supports(DiskFormat::Qcow2) {
            return;
        }
        let config = lab.config("vm", "disk");
        let base = config.disk.path.clone();
        let disk = fs::File::options()
            .write(true)
            .open(&base)
            .expect("the disk");
        disk.write_all_at(b"hello from a host\n", 0)
            .expect("the disk can be written");
        let before = fs::read(&base).expect("the base");
        let path = lab.root().join("overlay");
        let bytes = fs::metadata(&base).expect("the base").len();
        linux::overlay::create(&base, &path, bytes)
            .expect("an overlay; type: apt-get install qemu-utils");
        let disk = Disk {
            path: path.clone(),
            format: DiskFormat::Qcow2,
            base: Some(base.clone()),
            size_bytes: 4 << 20,
        };
        let mut machine = lab.boot(VmConfig { disk, ..config }).await;
        assert_eq!(machine.end().await, Exit::Shutdown);
        assert!(
            machine.text.contains("from disk: hello from a host"),
            "{}",
            machine.text
        );
        assert!(fs::read(&base).expect("the base") == before);
        let overlay = fs::read(&path).expect("the overlay");
        assert!(
            overlay
                .windows(WRITTEN.len())
                .any(|window| window == WRITTEN)
        );
    });
}

#[test]
fn guest_has_requested_vcpus() {
    on_every_driver(async |lab| {
        let mut machine = lab
            .boot(VmConfig {
                vcpus: 2,
                ..lab.config("vm", "cpus")
            })
            .await;
        assert_eq!(machine.end().await, Exit::Shutdown);
        assert!(machine.text.contains("processors: 2"), "{}", machine.text);
    });
}

/// A network namespace with a TAP, there until dropped.
pub struct Network {
    pub netns: String,
}

impl Network {
    pub fn new(name: &str, user: u32) -> Self {
        let network = Self {
            netns: format!("wtest-{name}-{user}"),
        };
        netns::create(&network.netns).expect("a network namespace; the suite runs as root");
        netns::enter(&network.netns, move || {
            tap::create("tap0", user)?;
            let links = Links::in_this_netns()?;
            links.add_address("tap0", Ipv4Addr::new(169, 254, 0, 22), 30)?;
            links.set_up("tap0")
        })
        .expect("a TAP");
        network
    }

    fn inode(&self) -> u64 {
        fs::metadata(format!("{}/{}", netns::DIR, self.netns))
            .expect("the namespace")
            .ino()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = netns::remove(&self.netns);
    }
}

#[test]
fn guest_reaches_host_through_tap() {
    on_every_driver(async |lab| {
        let config = lab.config("vm", "network");
        let network = Network::new("tap", config.jail.as_ref().map_or(0, |jail| jail.uid));
        let net = Net {
            netns: network.netns.clone(),
            tap: "tap0".into(),
            mac: [2, 0, 0, 0xab, 0, 1],
        };
        let mut machine = lab
            .boot(VmConfig {
                net: Some(net),
                ..config
            })
            .await;
        let own =
            fs::metadata(format!("/proc/{}/ns/net", machine.vm.pid())).expect("the process lives");
        // QEMU has the device as a descriptor, and no network itself.
        assert_eq!(
            own.ino() == network.inode(),
            lab.driver.name() == "firecracker"
        );
        assert_eq!(machine.end().await, Exit::Shutdown);
        assert!(
            machine.text.contains("mac 02:00:00:ab:00:01"),
            "{}",
            machine.text
        );
        assert!(machine.text.contains(" 0% packet loss"), "{}", machine.text);
    });
}
