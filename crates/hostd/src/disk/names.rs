//! Every name of a disk: files in its sandbox's directory, kernel objects, and the mark of their
//! owner.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use model::SandboxId;
use sha2::{Digest, Sha256};

pub(super) const BASE: &str = "base.ext4";
pub(super) const RAW: &str = "root.ext4";
pub(super) const OVERLAY: &str = "root.qcow2";
pub(super) const COW: &str = "root.cow";

/// Prefix of the names of our device-mapper devices.
pub(super) const PREFIX: &str = "wrenn-";
/// Suffix of the name of the origin device, which lengthens a base that is smaller than the disk.
const ORIGIN: &str = "-origin";

/// Returns the name of a sandbox's device below `/dev/mapper`.
#[must_use]
pub fn device_name(id: &SandboxId) -> String {
    format!("{PREFIX}{id}")
}

pub(super) fn origin_name(id: &SandboxId) -> String {
    format!("{PREFIX}{id}{ORIGIN}")
}

/// Returns the sandbox of a device, and true if it is the origin device. `None` for other names.
pub(super) fn parse(name: &str) -> Option<(SandboxId, bool)> {
    let id = name.strip_prefix(PREFIX)?;
    let (id, is_origin) = id.strip_suffix(ORIGIN).map_or((id, false), |id| (id, true));
    Some((id.parse().ok()?, is_origin))
}

/// Returns the mark of the kernel objects of the agent whose sandboxes are in `root`: a hash of
/// that path, which differs between agents on one machine.
pub(super) fn agent_mark(root: &Path) -> String {
    let hash = Sha256::digest(root.as_os_str().as_bytes());
    format!("{PREFIX}{}", hex::encode(&hash[..8]))
}

/// Returns the device-mapper UUID of a device, which has the mark of the agent that made it. The
/// prefix `WRENN` keeps it apart from those of LVM and others.
pub(super) fn device_uuid(mark: &str, name: &str) -> String {
    format!("WRENN-{mark}-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_sandbox() {
        let id = SandboxId::random();
        assert_eq!(parse(&device_name(&id)), Some((id.clone(), false)));
        assert_eq!(parse(&origin_name(&id)), Some((id.clone(), true)));
        for other in [
            "wrenn-",
            "wrenn-probe-1",
            "wrenn-sb-short",
            "vg-root",
            &format!("x{}", device_name(&id)),
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        // The kernel takes 127 and 128 bytes.
        assert!(device_uuid(&agent_mark(Path::new("/a")), &origin_name(&id)).len() <= 128);
        assert_ne!(agent_mark(Path::new("/a")), agent_mark(Path::new("/b")));
    }
}
