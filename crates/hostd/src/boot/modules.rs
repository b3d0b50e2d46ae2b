//! Which kernel modules a guest needs to boot, and in which order.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Drivers of the devices that our VMs have. Distribution kernels build them as modules; one that
/// is missing here is taken to be built in.
const WANTED: [&str; 5] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "tcp_diag",
];

/// A module, decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// File name without directory and compression, for example `virtio_net.ko`.
    pub file_name: String,
    pub content: Vec<u8>,
}

/// Returns the modules in `dir` (as `/lib/modules/VERSION`, with its `modules.dep`) that a guest
/// needs, dependencies first.
///
/// # Errors
/// When `modules.dep` or a module that it names cannot be read.
pub fn find_needed(dir: &Path) -> io::Result<Vec<Module>> {
    let table = parse(&fs::read_to_string(dir.join("modules.dep"))?);
    load_order(&table)
        .into_iter()
        .map(|path| read(&dir.join(path)))
        .collect()
}

/// Path of each module, by name, with the paths of what it depends on.
#[derive(Debug, Default)]
struct Dependencies(BTreeMap<String, (String, Vec<String>)>);

/// Reads modules.dep (modules.dep(5)): `path: path path …`.
fn parse(text: &str) -> Dependencies {
    let line = |line: &str| {
        let (path, needs) = line.split_once(':')?;
        let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
        Some((name(path), (path.to_owned(), needs)))
    };
    Dependencies(text.lines().filter_map(line).collect())
}

/// Returns the name of the module at a path: `kernel/drivers/net/virtio_net.ko.xz` → `virtio_net`.
/// Hyphens and underscores are the same in module names.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Returns the paths of the wanted modules and their dependencies, dependencies first.
fn load_order(table: &Dependencies) -> Vec<String> {
    let mut order = Vec::new();
    for wanted in WANTED {
        visit(table, wanted, &mut order, 0);
    }
    order
}

fn visit(table: &Dependencies, module: &str, order: &mut Vec<String>, depth: usize) {
    // Deeper than any real chain: a table that names a circle must not hang us.
    const MAX_DEPTH: usize = 32;
    let Some((path, needs)) = table.0.get(module) else {
        return;
    };
    if order.contains(path) || depth > MAX_DEPTH {
        return;
    }
    for need in needs {
        visit(table, &name(need), order, depth + 1);
    }
    if !order.contains(path) {
        order.push(path.clone());
    }
}

fn read(path: &Path) -> io::Result<Module> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = fs::File::open(path).map_err(named)?;
    let mut content = Vec::new();
    let mut reader: Box<dyn Read> = match path.extension().and_then(|extension| extension.to_str())
    {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
        Some("gz") => Box::new(flate2::read::GzDecoder::new(file)),
        Some("zst") => Box::new(
            ruzstd::decoding::StreamingDecoder::new(file)
                .map_err(|error| named(io::Error::other(error.to_string())))?,
        ),
        _ => Box::new(file),
    };
    reader.read_to_end(&mut content).map_err(named)?;
    let stem = if path.extension().is_some_and(|extension| extension == "ko") {
        path.to_owned()
    } else {
        PathBuf::from(path.file_stem().unwrap_or_default())
    };
    let file_name = stem
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(Module { file_name, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio_ring.ko
";

    #[test]
    fn dependencies_come_first_and_once() {
        let order: Vec<String> = load_order(&parse(TABLE))
            .iter()
            .map(|path| name(path))
            .collect();
        let expected = [
            "virtio",
            "virtio_ring",
            "virtio_mmio",
            "failover",
            "net_failover",
            "virtio_net",
            "virtio_rng",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn a_circle_ends() {
        let circle = "a/virtio_mmio.ko: a/virtio_blk.ko\na/virtio_blk.ko: a/virtio_mmio.ko\n";
        assert_eq!(load_order(&parse(circle)).len(), 2);
    }
}
