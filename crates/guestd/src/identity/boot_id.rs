//! A boot id of our own over the kernel's, which is the same in every clone of a running machine.
//!
//! Programs read `/proc/sys/kernel/random/boot_id` and derive ids from it. A file in `/run`
//! (memory) is mounted over it, in the one mount namespace that all processes here start in; later
//! ids go into the same inode, so they show wherever it is mounted. A container that mounts a
//! `/proc` of its own sees the kernel's again.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use parking_lot::Mutex;

/// The mode of the kernel's own.
const MODE: u32 = 0o444;

/// Flags as for the rest of `/proc`, and read-only: the kernel's own cannot be written either.
const SEALED: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_RDONLY);

/// The file, and where it is mounted.
#[derive(Debug)]
pub struct BootId {
    folder: PathBuf,
    target: PathBuf,
    /// Open once it is mounted: found again whatever becomes of its name.
    file: Mutex<Option<File>>,
}

impl BootId {
    /// Creates the boot id of the machine whose root is `root`.
    pub fn new(root: &Path) -> Self {
        let target = root.join("proc/sys/kernel/random/boot_id");
        Self {
            folder: root.join("run/wrenn"),
            target,
            file: Mutex::default(),
        }
    }

    /// Shows `id` from now on.
    ///
    /// # Errors
    /// Where the file cannot be made or mounted; the one before stays.
    pub fn set(&self, id: &str) -> io::Result<()> {
        let mut file = super::lock(&self.file);
        // All ids have one length, so writing over the one before leaves nothing of it.
        let content = format!("{id}\n");
        match &*file {
            Some(file) => file.write_all_at(content.as_bytes(), 0),
            None => {
                *file = Some(self.make(&content)?);
                Ok(())
            }
        }
    }

    fn make(&self, content: &str) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join("boot_id");
        stdx::fs::remove_file_if_exists(&path)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&path)?;
        file.set_permissions(Permissions::from_mode(MODE))?;
        // Before it is mounted, so that no reader sees an empty id.
        file.write_all_at(content.as_bytes(), 0)?;
        let none = None::<&str>;
        mount(Some(&path), &self.target, none, MsFlags::MS_BIND, none)?;
        if let Err(e) = mount(
            none,
            &self.target,
            none,
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | SEALED,
            none,
        ) {
            tracing::info!("{} can be written: {e}", self.target.display());
        }
        Ok(file)
    }
}

/// Returns true if it is a UUID as the kernel writes them: lower-case hexadecimal digits in groups
/// of 8, 4, 4, 4 and 12.
pub fn valid_boot_id(id: &str) -> bool {
    let hex = |group: &str| {
        group
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    id.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && id.split('-').all(hex)
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    const ONE: &str = "11111111-2222-4333-8444-555555555555";
    const TWO: &str = "66666666-7777-4888-9999-aaaaaaaaaaaa";

    /// Runs `act` in a mount namespace of its own, which ends with its thread, and all mounts in
    /// it.
    fn apart(act: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: this needs root");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                .expect("nothing gets out");
            act();
        });
        thread.join().expect("the test holds");
    }

    #[test]
    fn set_boot_id_hides_kernel_value() {
        apart(|| {
            mount(
                Some("tmpfs"),
                "/run",
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .expect("a /run of our own");
            let path = "/proc/sys/kernel/random/boot_id";
            let read = || fs::read_to_string(path).expect("can be read");
            let boot_id = BootId::new(Path::new("/"));
            assert_ne!(read().trim(), ONE);
            for id in [ONE, TWO, TWO, ONE] {
                boot_id.set(id).expect("can be set");
                assert_eq!(read(), format!("{id}\n"));
            }
            assert_eq!(
                fs::metadata(path).expect("is there").permissions().mode() & 0o7777,
                0o444
            );
            assert!(
                fs::write(path, "x").is_err(),
                "as little as the kernel's own"
            );
            fs::remove_dir_all("/run/wrenn").expect("can be removed by a user who is root");
            boot_id.set(TWO).expect("can still be set");
            assert_eq!(read(), format!("{TWO}\n"));
        });
    }

    #[test]
    fn only_kernel_format_is_boot_id() {
        assert!(valid_boot_id(TWO));
        for bad in [
            "",
            &TWO.to_uppercase(),
            &TWO[1..],
            &TWO.replace('-', ""),
            &ONE.replace('1', "g"),
        ] {
            assert!(!valid_boot_id(bad), "{bad}");
        }
    }
}
