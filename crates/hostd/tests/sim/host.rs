//! The parts of a host that is simulated: real but for VMs and networks, in a directory of its own.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hostd::boot::BootFiles;
use hostd::config::Limits;
use hostd::disk::{Backend, Chosen, Disks};
use hostd::drain::Drain;
use hostd::generations::Generations;
use hostd::host::{Host, HostComponents};
use hostd::images::Images;
use hostd::sandbox::fork_notes::ForkNotes;
use hostd::sandbox::ledger::Ledger;
use hostd::snapshot::preboot::PrebootCache;
use hostd::snapshot::template::Templates;
use model::SandboxId;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use vmm::engine::Engine;

use crate::network::{LoopbackNetworks, NoRules, UsersOnly};
use crate::vm::SimDriver;
use crate::world::World;

/// Bytes of the image; value and stamp are the first of them.
const IMAGE_BYTES: usize = 8192;
/// More than any history makes.
const LIMITS: Limits = Limits {
    sandboxes: 100,
    checkpoints: 100,
    snapshots: 100,
    images: 100,
    image_bytes: 1 << 30,
};

/// More than all that a history makes.
const FILE_SYSTEM_BYTES: u64 = 32 << 20;
const BALLAST: &str = "ballast";

/// What outlives agents on disk, and the place where guests are called.
pub struct Place {
    dir: TempDir,
    /// Claims of slots, which real hosts have below `/run`.
    run: TempDir,
    pub guests: TcpListener,
    /// Limits of the host of the next agent.
    pub limits: Limits,
    /// It is a file system of its own, which can be full.
    is_mounted: bool,
}

impl Place {
    pub fn new() -> Self {
        Self::in_dir(in_memory(), false)
    }

    /// A place with a file system of its own. Needs root.
    pub fn with_own_file_system() -> Self {
        let dir = TempDir::with_prefix("wrenn-sim-").unwrap();
        let none: Option<&str> = None;
        let size = format!("size={FILE_SYSTEM_BYTES}");
        mount(
            none,
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size.as_str()),
        )
        .expect("root may mount");
        Self::in_dir(dir, true)
    }

    /// Something else takes all of the room that is left.
    pub fn fill(&self) {
        let mut ballast = fs::File::create(self.path(BALLAST)).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
    }

    /// Gives the room back.
    pub fn free(&self) {
        let _ = fs::remove_file(self.path(BALLAST));
    }

    fn in_dir(dir: TempDir, is_mounted: bool) -> Self {
        fs::create_dir(dir.path().join("images")).unwrap();
        // Not only zeroes, which a copy may leave out: a guest's disk has its blocks, also where
        // the host's is full.
        let mut image = [1; IMAGE_BYTES];
        image[..16].fill(0);
        fs::write(dir.path().join("images/base.ext4"), image).unwrap();
        for name in ["kernel", "initramfs"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let guests = TcpListener::bind("0.0.0.0:0").unwrap();
        guests.set_nonblocking(true).unwrap();
        Self {
            dir,
            run: in_memory(),
            guests,
            limits: LIMITS,
            is_mounted,
        }
    }

    /// Returns the directory with all that agents write.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As [`Host::prepare`] does it when an agent starts.
    pub fn host(&self, world: &Arc<World>, warm: bool) -> Host {
        let sandboxes = self.path("sandboxes");
        let ledger = Ledger::open(&sandboxes).unwrap();
        let chosen = Chosen {
            backend: Backend::Copy,
            why: "simulated".to_owned(),
        };
        let driver = Arc::new(SimDriver(Arc::clone(world)));
        let clock = Arc::clone(world);
        let port = self.guests.local_addr().unwrap().port();
        let components = HostComponents {
            id: "host-simulated".to_owned(),
            engine: Engine {
                driver,
                vmm: "qemu",
                accel: "tcg",
                why: "simulated".to_owned(),
            },
            disks: Disks::new(&sandboxes, chosen).unwrap(),
            boot: BootFiles {
                kernel: self.path("kernel"),
                initramfs: self.path("initramfs"),
                modules: None,
            },
            images: Images::new(&self.path("images")),
            unpacker: u32::MAX - 2,
            registries: Default::default(),
            templates: Templates::open(&self.path("snapshots")).unwrap(),
            preboot: PrebootCache::open(&self.path("warm"), warm).unwrap(),
            networks: Arc::new(LoopbackNetworks::new(
                &self.run.path().join("slots"),
                self.dir.path(),
                port,
            )),
            jails: Arc::new(UsersOnly),
            egress: Arc::new(NoRules),
            ledger,
            fork_notes: ForkNotes::open(&self.path("forks")).unwrap(),
            generations: Generations::open(&self.path("generation"), move || clock.now_ms())
                .unwrap(),
            drain: Drain::new(self.dir.path()),
        };
        Host::from_components(components, self.limits)
    }

    /// What is there of sandboxes, snapshots and forks.
    pub fn leftovers(&self) -> Vec<String> {
        let names = |dir: PathBuf| -> Vec<String> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            // Whose turn it is among slots is no sandbox's.
            let entries = entries.filter(|entry| entry.file_name() != "next");
            entries
                .map(|entry| entry.path().display().to_string())
                .collect()
        };
        let dirs = ["sandboxes", "snapshots", "forks"].map(|dir| self.path(dir));
        dirs.into_iter()
            .chain([self.run.path().join("slots")])
            .flat_map(names)
            .collect()
    }

    /// All that lies where the checkpoints of a sandbox do.
    pub fn checkpoint_entries(&self, id: &SandboxId) -> Vec<String> {
        let entries =
            fs::read_dir(self.path("sandboxes").join(id.as_str()).join("checkpoints")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Takes away what is written last of a checkpoint.
    pub fn break_checkpoint(&self, id: &SandboxId, name: &str) {
        let dir = self
            .path("sandboxes")
            .join(id.as_str())
            .join("checkpoints")
            .join(name);
        fs::remove_file(dir.join("snapshot.json")).unwrap();
    }

    /// All files of the preboot cache.
    pub fn preboot_files(&self) -> Vec<PathBuf> {
        let list = |dir: PathBuf| {
            fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().path())
        };
        let entries = list(self.path("warm"));
        let content = entries.flat_map(list);
        let (dirs, files): (Vec<_>, Vec<_>) = content.partition(|path| path.is_dir());
        files
            .into_iter()
            .chain(dirs.into_iter().flat_map(list))
            .collect()
    }

    /// Names of the snapshots that an agent left.
    pub fn snapshots(&self) -> Vec<model::TemplateName> {
        let snapshots = Templates::open(&self.path("snapshots")).unwrap();
        snapshots
            .list_templates()
            .into_iter()
            .map(|snapshot| snapshot.name)
            .collect()
    }
}

/// A directory in memory, where there is such a place: nobody waits for a disk.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    TempDir::with_prefix_in("wrenn-sim-", parent).unwrap()
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: a thread of a history that failed may still be in there.
            umount2(self.dir.path(), MntFlags::MNT_DETACH).expect("it is mounted");
        }
    }
}
