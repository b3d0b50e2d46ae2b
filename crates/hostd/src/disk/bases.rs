//! Registry of the read-only loop devices of base images: one device for each image, shared by all
//! disks over it.
//!
//! A base is identified by device and inode of its file, so that links to one image, renamed and
//! deleted images share too. Users are counted by sandbox id: acquiring or releasing twice counts
//! once, and no user can release for another. The registry keeps each device open while it has
//! users; the kernel detaches it when neither the registry nor any disk's device has it open. So a
//! registry that dies with its process takes no device from a disk, and leaves none that is unused;
//! the next registry learns of the existing disks by [`LoopRegistry::adopt_device`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use linux::loopdev::{self, Access, FileIdentity, LoopDevice};
use model::SandboxId;
use parking_lot::{Mutex, MutexGuard};

/// The base images in use by one agent. Safe to use from many threads.
#[derive(Debug)]
pub struct LoopRegistry {
    mark: String,
    bases: Mutex<BTreeMap<FileIdentity, Base>>,
}

#[derive(Debug)]
struct Base {
    device: LoopDevice,
    users: BTreeSet<SandboxId>,
}

impl LoopRegistry {
    /// Creates an empty registry. Devices that it attaches bear `mark`.
    #[must_use]
    pub fn new(mark: &str) -> Self {
        Self {
            mark: mark.to_owned(),
            bases: Mutex::default(),
        }
    }

    /// Returns the number of the loop device of `image`, which stays until `user` is released.
    ///
    /// # Errors
    /// When there is no such image, or no loop device can be attached.
    pub fn acquire_device(&self, image: &Path, user: &SandboxId) -> io::Result<u32> {
        let identity = FileIdentity::from_path(image)?;
        // Locked during the attach: two users at once must not attach two devices.
        let mut bases = self.lock();
        if let Some(base) = bases.get_mut(&identity) {
            base.users.insert(user.clone());
            return Ok(base.device.number());
        }
        let device = loopdev::attach(image, Access::ReadOnly, &self.mark)?;
        let number = device.number();
        bases.insert(
            identity,
            Base {
                device,
                users: BTreeSet::from([user.clone()]),
            },
        );
        Ok(number)
    }

    /// Takes over a device of an earlier run that `user`'s disk is made of. A device that is gone,
    /// writable or without our mark is left alone.
    ///
    /// # Errors
    /// When its status cannot be read.
    pub fn adopt_device(&self, number: u32, user: &SandboxId) -> io::Result<()> {
        let Some(device) = LoopDevice::open(number)? else {
            return Ok(());
        };
        let Some(status) = device.status()? else {
            return Ok(());
        };
        if !status.read_only || status.mark != self.mark {
            return Ok(());
        }
        let mut bases = self.lock();
        bases
            .entry(status.backing)
            .or_insert(Base {
                device,
                users: BTreeSet::new(),
            })
            .users
            .insert(user.clone());
        Ok(())
    }

    /// Removes `user` from all bases, and closes those without users. Idempotent.
    pub fn release_user(&self, user: &SandboxId) {
        self.lock().retain(|_, base| {
            base.users.remove(user);
            !base.users.is_empty()
        });
    }

    /// Returns the numbers of the devices, and how many users each has.
    #[must_use]
    pub fn user_counts(&self) -> Vec<(u32, usize)> {
        self.lock()
            .values()
            .map(|base| (base.device.number(), base.users.len()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FileIdentity, Base>> {
        self.bases.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn devices_on(image: &Path) -> usize {
        let identity = FileIdentity::from_path(image).unwrap();
        loopdev::list()
            .unwrap()
            .iter()
            .filter(|status| status.backing == identity)
            .count()
    }

    fn image(dir: &Path, name: &str) -> std::path::PathBuf {
        let path = dir.join(name);
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        path
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    #[test]
    fn thirty_at_once_share_one_device() {
        let dir = dir();
        let image = image(dir.path(), "image");
        let link = dir.path().join("link");
        fs::hard_link(&image, &link).unwrap();
        let registry = LoopRegistry::new("wrenn-test");
        let users: Vec<SandboxId> = (0..30).map(|_| SandboxId::random()).collect();
        std::thread::scope(|scope| {
            for (index, user) in users.iter().enumerate() {
                let path = if index % 2 == 0 { &image } else { &link };
                let registry = &registry;
                scope.spawn(move || registry.acquire_device(path, user).unwrap());
            }
        });
        assert_eq!(
            registry
                .user_counts()
                .iter()
                .map(|(_, users)| *users)
                .collect::<Vec<_>>(),
            [30]
        );
        assert_eq!(devices_on(&image), 1);
        std::thread::scope(|scope| {
            for user in &users {
                // Twice: the second release must change nothing.
                scope.spawn(|| [registry.release_user(user), registry.release_user(user)]);
            }
        });
        assert_eq!((registry.user_counts(), devices_on(&image)), (vec![], 0));
    }

    #[test]
    fn registry_finds_devices_of_earlier_one() {
        let dir = dir();
        let image = image(dir.path(), "image");
        let user = SandboxId::random();
        let other = SandboxId::random();
        let earlier = LoopRegistry::new("wrenn-test");
        let number = earlier.acquire_device(&image, &user).unwrap();
        // Stands for the disk's device, which keeps it while no agent runs.
        let disk = fs::File::open(format!("/dev/loop{number}")).unwrap();
        drop(earlier);
        LoopRegistry::new("wrenn-another")
            .adopt_device(number, &user)
            .unwrap();
        let later = LoopRegistry::new("wrenn-test");
        later.adopt_device(number, &user).unwrap();
        later.adopt_device(number, &user).unwrap();
        assert_eq!(later.user_counts(), [(number, 1)]);
        fs::remove_file(&image).unwrap();
        assert!(later.acquire_device(&image, &other).is_err());
        later.release_user(&user);
        assert!(later.user_counts().is_empty());
        drop(disk);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        /// A device exists exactly while its image has users, in whatever order they acquire and
        /// release it.
        #[test]
        fn devices_follow_their_users(steps in prop::collection::vec((any::<bool>(), 0..2_usize, 0..3_usize), 1..12)) {
            let dir = dir();
            let images = [image(dir.path(), "a"), image(dir.path(), "b")];
            let users: Vec<SandboxId> = (0..3).map(|_| SandboxId::random()).collect();
            let registry = LoopRegistry::new("wrenn-test");
            let mut model = [BTreeSet::new(), BTreeSet::new()];
            for (comes, image, user) in steps {
                if comes {
                    registry.acquire_device(&images[image], &users[user]).unwrap();
                    model[image].insert(user);
                } else {
                    registry.release_user(&users[user]);
                    for users in &mut model {
                        users.remove(&user);
                    }
                }
                for (image, users) in images.iter().zip(&model) {
                    prop_assert_eq!(devices_on(image), usize::from(!users.is_empty()));
                }
            }
        }
    }
}
