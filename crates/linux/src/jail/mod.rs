//! Jail for a process that runs foreign code: it sees and uses next to nothing, under a user of its
//! own.
//!
//! A [`Jail`] is prepared outside, for one start: each path that the process is to see is opened
//! here, as a mount of its own that is attached nowhere yet, so a path that is missing or may not
//! be read is reported by name before anything runs. Paths are the same inside as outside, only
//! fewer, so no path has to be translated.
//!
//! ```text
//!  thread of its own                                      child of that thread
//!   enter the empty mount namespace (template)             limits
//!   copy it: nothing to copy, however much the host has    no other descriptors, no capabilities
//!   attach root, files, devices; pivot; let go of the rest keyring, user and group; no new privileges
//!   new PID and IPC namespace, prepared network one        system calls ([`Syscalls`]); exec, once (`starts`)
//!   fork, into the cgroup ───────────────────────────────→
//! ```
//! The thread ends after the start, so no thread of ours stays in a foreign namespace. Everything
//! of a jail but its cgroup lives as long as its process, which is the first of its PID namespace:
//! if it or we die, nothing is left.
//!
//! Needs Linux 5.12 (`mount_setattr`) and root's capabilities.

mod filter;
mod privileges;
mod root;
mod starts;
mod template;
mod tree;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::exec::Program;
use crate::program_file::ProgramFile;
pub use filter::{Call, Enforcement, PROGRAM_CALLS, Syscalls};
pub use privileges::Limits;
pub use tree::{Access, memory_dir};

/// Directory of programs' libraries and data. Nothing in there is secret; it is shown read-only.
const SYSTEM: &str = "/usr";
/// Names in the root that may be links into [`SYSTEM`] or directories of their own.
const ALIASES: [&str; 5] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64"];
/// Index of libraries in which the loader looks first (ld.so(8)).
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// Jail for one start of a program.
#[derive(Debug)]
pub struct Jail {
    uid: u32,
    gid: u32,
    template: OwnedFd,
    trees: Vec<Tree>,
    links: Vec<(PathBuf, PathBuf)>,
    devices: Vec<Device>,
    limits: Limits,
    syscalls: Syscalls,
    group: Option<File>,
}

/// File or directory that is visible in the jail.
#[derive(Debug)]
struct Tree {
    path: PathBuf,
    mount: OwnedFd,
    is_dir: bool,
}

/// Device node that is created in the jail and belongs to its user.
#[derive(Debug)]
struct Device {
    path: PathBuf,
    number: u64,
    is_block: bool,
}

impl Jail {
    /// Creates an empty jail, with `/dev/null` and `/dev/urandom`, for a process of that user and
    /// group.
    ///
    /// # Errors
    /// When the kernel lacks what jails need, or we may not make them.
    pub fn new(uid: u32, gid: u32, limits: Limits) -> io::Result<Self> {
        if uid == 0 || gid == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "root does not go into a jail",
            ));
        }
        let template = template::open()?;
        let trees = Vec::new();
        let links = Vec::new();
        let devices = Vec::new();
        let syscalls = Syscalls::default();
        let mut jail = Self {
            uid,
            gid,
            template,
            trees,
            links,
            devices,
            limits,
            syscalls,
            group: None,
        };
        jail.show_device(Path::new("/dev/null"))?;
        jail.show_device(Path::new("/dev/urandom"))?;
        Ok(jail)
    }

    /// Makes the program visible, and the system's libraries unless it is linked statically.
    ///
    /// # Errors
    /// `NotFound` when there is no such program.
    pub fn program(&mut self, path: &Path) -> io::Result<()> {
        self.show_libraries(&File::open(path)?)?;
        self.show_path(path, Access::Read)
    }

    /// Makes visible what a program needs that is executed by its open file: the system's libraries
    /// unless it is linked statically. The program itself has no name in the jail.
    ///
    /// # Errors
    /// `PermissionDenied` with the remedy when the jail's user may not use it.
    pub fn program_file(&mut self, program: &ProgramFile) -> io::Result<()> {
        self.show_libraries(program.file())?;
        self.check(program.path(), &program.file().metadata()?, Access::Read)
    }

    fn show_libraries(&mut self, program: &File) -> io::Result<()> {
        if needs_libraries(program)? {
            self.show_path(Path::new(SYSTEM), Access::Read)?;
            for alias in ALIASES.map(Path::new) {
                match fs::read_link(alias) {
                    Ok(target) => self.links.push((alias.to_owned(), target)),
                    Err(_) if alias.is_dir() => self.show_path(alias, Access::Read)?,
                    Err(_) => {}
                }
            }
            if Path::new(LOADER_CACHE).exists() {
                self.show_path(Path::new(LOADER_CACHE), Access::Read)?;
            }
        }
        Ok(())
    }

    /// Makes a file, or a directory with its content, visible; without mounts below it.
    ///
    /// # Errors
    /// `NotFound` when there is none, `PermissionDenied` with the remedy when the jail's user
    /// may not use it.
    pub fn show_path(&mut self, path: &Path, access: Access) -> io::Result<()> {
        let mount = tree::open(path, access)?;
        let found = File::from(mount.try_clone()?).metadata()?;
        self.check(path, &found, access)?;
        self.trees.push(Tree {
            path: path.to_owned(),
            mount,
            is_dir: found.is_dir(),
        });
        Ok(())
    }

    /// Attaches a mount that is attached nowhere yet, such as a [`memory_dir`], at `path`.
    pub fn attach(&mut self, path: &Path, mount: OwnedFd) {
        self.trees.push(Tree {
            path: path.to_owned(),
            mount,
            is_dir: true,
        });
    }

    /// Checks that the file's mode lets the jail's user in.
    fn check(&self, path: &Path, found: &fs::Metadata, access: Access) -> io::Result<()> {
        let owned = found.uid() == self.uid;
        let shift = if owned { 6 } else { 0 };
        let bits = match access {
            Access::Read => 0o4,
            Access::Write => 0o6,
            Access::OpenFiles => 0o1,
        };
        let bits = if found.is_dir() { bits | 0o1 } else { bits };
        if (found.mode() >> shift) & bits == bits {
            return Ok(());
        }
        let mode = found.mode() & 0o7777;
        let owner = found.uid();
        let user = self.uid;
        let fix = match access {
            Access::Read | Access::OpenFiles => format!("type: chmod o+rX {}", path.display()),
            Access::Write => "it must belong to that user".to_owned(),
        };
        let problem = format!(
            "its mode is {mode:04o} and its owner {owner}, which shuts out user {user}; {fix}"
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
    }

    /// Gives the process a device of the host: a node with its number, at its path, that only the
    /// jail's user can open.
    ///
    /// # Errors
    /// `NotFound` when there is none, `InvalidInput` when it is no device.
    pub fn show_device(&mut self, path: &Path) -> io::Result<()> {
        let found = fs::metadata(path)?;
        let is_block = found.file_type().is_block_device();
        let is_char = found.file_type().is_char_device();
        if !is_block && !is_char {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no device",
            ));
        }
        self.devices.push(Device {
            path: path.to_owned(),
            number: found.rdev(),
            is_block,
        });
        Ok(())
    }

    /// Sets the system calls that the process may make.
    pub fn allow_syscalls(&mut self, syscalls: Syscalls) {
        self.syscalls = syscalls;
    }

    /// Sets the control group that the process starts in.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn cgroup(&mut self, group: &Path) -> io::Result<()> {
        self.group = Some(File::open(group)?);
        Ok(())
    }

    /// Starts the program in the jail and returns its process id outside. Without `netns` it gets
    /// an empty network namespace. `first` runs in the child before that gives up its privileges.
    ///
    /// # Safety
    /// `first` only makes system calls.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn spawn(
        mut self,
        program: Program,
        netns: Option<File>,
        first: impl Fn() -> io::Result<()> + Send + 'static,
    ) -> io::Result<u32> {
        let uid = self.uid;
        let gid = self.gid;
        let limits = self.limits;
        let group = self.group.take();
        let gate = starts::Gate::new()?;
        let child = privileges::Child {
            uid,
            gid,
            limits,
            filter: filter::compile_filter(self.syscalls)?,
            gate: gate.child_side(),
        };
        let thread = std::thread::Builder::new()
            .name("jail".to_owned())
            .spawn(move || {
                root::enter(&self, netns)?;
                // SAFETY: both only make system calls on values prepared before the fork.
                unsafe {
                    program.start(
                        group.as_ref(),
                        || first().and_then(|()| child.drop_privileges()),
                        || gate.let_through(),
                    )
                }
            })?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread that makes the jail panicked"))?
    }
}

/// Returns true if an ELF program names a loader (segment type `PT_INTERP`, elf(5)), and for every
/// file that is not 64-bit ELF, which may need anything.
fn needs_libraries(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    const PT_INTERP: u32 = 3;
    let mut header = [0; 64];
    if file.read_exact_at(&mut header, 0).is_err() || header[..5] != *b"\x7fELF\x02" {
        return Ok(true);
    }
    let two = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let mut offset = [0; 8];
    offset.copy_from_slice(&header[32..40]);
    let table = u64::from_le_bytes(offset);
    let size = two(54);
    let count = two(56);
    for number in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, table.saturating_add(number * size))?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
