//! What the guests boot from: the distribution's kernel, and an initramfs of busybox, `init.sh` and
//! modules.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cpio::newc::{Builder, trailer};

const INIT: &str = include_str!("init.sh");

/// What `init.sh` uses of busybox.
const APPLETS: [&str; 14] = [
    "cat", "dd", "grep", "head", "insmod", "ip", "mount", "ping", "poweroff", "reboot", "sh",
    "tail", "usleep", "yes",
];

/// Drivers of what a VM has; dependencies come from `modules.dep`.
const MODULES: [&str; 3] = ["virtio_mmio.ko", "virtio_blk.ko", "virtio_net.ko"];

/// File types as in stat(2).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

fn test_data() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testdata");
    std::env::var_os("WRENN_TEST_DATA").map_or_else(default, PathBuf::from)
}

/// The kernel that `make test-data` fetches, taken out of its packing once: not every engine does
/// that itself.
pub fn kernel() -> PathBuf {
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    KERNEL
        .get_or_init(|| unpacked(&test_data().join("kernels/vmlinux")))
        .clone()
}

fn unpacked(path: &Path) -> PathBuf {
    let hint = || {
        format!(
            "the guest kernel {} cannot be used; type: make test-data",
            path.display()
        )
    };
    let image = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", hint()));
    let elf = vmm::kernel::vmlinux(&image).unwrap_or_else(|error| panic!("{}: {error}", hint()));
    // Beside it, or where everybody can write.
    let beside = path.with_extension("elf");
    let elsewhere = std::env::temp_dir().join("wrenn-conformance-kernel.elf");
    let write = |to: &PathBuf| linux::file::write_atomic(to, &elf, 0o644).is_ok();
    let written = [beside, elsewhere]
        .into_iter()
        .find(|to| fs::read(to).is_ok_and(|old| old == elf) || write(to));
    let written = written.expect(
        "the unpacked kernel can be written beside the packed one or to the temporary directory",
    );
    written.canonicalize().expect("it was just written")
}

/// Writes the initramfs.
pub fn write_initramfs(path: &Path) -> io::Result<()> {
    let mut archive = Archive {
        out: BufWriter::new(File::create(path)?),
        inode: 0,
    };
    for dir in ["bin", "dev", "proc", "sys", "modules"] {
        archive.add(dir, DIRECTORY | 0o755, b"")?;
    }
    archive.add("bin/busybox", REGULAR | 0o755, &busybox())?;
    for applet in APPLETS {
        archive.add(&format!("bin/{applet}"), LINK | 0o777, b"busybox")?;
    }
    archive.add("init", REGULAR | 0o755, INIT.as_bytes())?;
    for (number, module) in modules().iter().enumerate() {
        let name = module
            .file_name()
            .expect("a module has a name")
            .to_string_lossy();
        archive.add(
            &format!("modules/{number:02}-{name}"),
            REGULAR | 0o644,
            &fs::read(module)?,
        )?;
    }
    trailer(&mut archive.out)?;
    archive.out.flush()
}

struct Archive {
    out: BufWriter<File>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut entry = Builder::new(name)
            .ino(self.inode)
            .mode(mode)
            .write(&mut self.out, size);
        entry.write_all(content)?;
        entry.finish().map(drop)
    }
}

fn busybox() -> Vec<u8> {
    let hint = "a static busybox is needed for the guests; type: apt-get install busybox-static";
    let path = linux::programs::find("busybox").expect(hint);
    let content = fs::read(path).expect(hint);
    let loader = b"/lib64/ld-linux";
    assert!(
        !content.windows(loader.len()).any(|window| window == loader),
        "{hint}"
    );
    content
}

/// Each module after those that it needs. A kernel without `modules` has them built in.
fn modules() -> Vec<PathBuf> {
    let Some(dir) = fs::read_dir(test_data().join("kernels/modules"))
        .ok()
        .and_then(|mut dirs| dirs.next())
    else {
        return Vec::new();
    };
    let dir = dir
        .expect("the directory of the modules can be read")
        .path();
    let table =
        fs::read_to_string(dir.join("modules.dep")).expect("modules.dep; type: make test-data");
    let mut order: Vec<PathBuf> = Vec::new();
    for wanted in MODULES {
        let Some((path, needs)) =
            table
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(path, _)| {
                    path.rsplit('/')
                        .next()
                        .is_some_and(|name| name.starts_with(wanted))
                })
        else {
            continue;
        };
        // modules.dep(5): what has to be loaded first stands last.
        let chain = needs
            .split_ascii_whitespace()
            .rev()
            .chain([path])
            .map(|path| dir.join(path));
        for path in chain {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    order
}
