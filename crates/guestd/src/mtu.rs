//! MTU of the guest's link, as the host's `/init` wants it: that of the way out to the internet,
//! which may be another one behind the host of a restore. The last MTU that the host wanted is kept
//! in memory, and so in snapshots: an MTU that the guest's root has set stays until the host wants
//! another.

use std::io;

use parking_lot::Mutex;

use crate::boot::ETHERNET;
use crate::syscall::Interfaces;

/// MTU that the link was given last.
#[derive(Debug, Default)]
pub struct LinkMtu(Mutex<Option<u32>>);

impl LinkMtu {
    /// Sets the link's MTU, unless the host wanted the same one before. A link that refuses it is
    /// no reason to refuse a guest: path MTU discovery finds the host's smaller links.
    pub fn apply(&self, wanted: Option<u32>) {
        let Some(mtu) = wanted else {
            return;
        };
        let mut given = self.0.lock();
        if *given == Some(mtu) {
            return;
        }
        match set_link_mtu(mtu) {
            Ok(()) => *given = Some(mtu),
            Err(e) => tracing::warn!("{ETHERNET} does not take an MTU of {mtu}: {e}"),
        }
    }
}

fn set_link_mtu(mtu: u32) -> io::Result<()> {
    Interfaces::open()?.set_mtu(ETHERNET, mtu)
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn ip(arguments: &[&str]) -> String {
        let output = std::process::Command::new("ip")
            .args(arguments)
            .output()
            .expect("ip starts");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn own_mtu_stays_until_host_changes() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this needs root");
            let link = LinkMtu::default();
            link.apply(Some(1400));
            ip(&[
                "link", "add", ETHERNET, "type", "veth", "peer", "name", "peer0",
            ]);
            let has = |mtu: &str| ip(&["link", "show", ETHERNET]).contains(mtu);
            link.apply(None);
            assert!(has(" mtu 1500 "));
            link.apply(Some(1400));
            assert!(has(" mtu 1400 "));
            ip(&["link", "set", ETHERNET, "mtu", "1300"]);
            link.apply(Some(1400));
            assert!(has(" mtu 1300 "));
            link.apply(Some(1420));
            assert!(has(" mtu 1420 "));
        });
        thread.join().expect("the test holds");
    }
}
