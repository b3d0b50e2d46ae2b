//! Kernel modules of the initramfs: `/modules/NN-name.ko`, in the order of their names,
//! uncompressed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use stdx::io::OptionalExt;

use super::BootError;

const MODULES: &str = "/modules";

/// Loads all modules of the initramfs. A module that is in the kernel already is fine, as is an
/// initramfs without any.
pub fn load_all() -> Result<(), BootError> {
    for path in list(Path::new(MODULES)).map_err(|source| BootError::Module {
        path: MODULES.into(),
        source,
    })? {
        load(&path).map_err(|source| BootError::Module { path, source })?;
    }
    Ok(())
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(entries) = fs::read_dir(folder).optional()? else {
        return Ok(Vec::new());
    };
    let paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    let mut modules: Vec<_> = paths
        .into_iter()
        .filter(|p| p.extension() == Some(OsStr::new("ko")))
        .collect();
    modules.sort();
    Ok(modules)
}

fn load(path: &Path) -> io::Result<()> {
    match finit_module(&File::open(path)?, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_listed_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["10-b.ko", "02-a.ko", "README"] {
            fs::write(folder.path().join(name), "").expect("a file");
        }
        let names: Vec<_> = list(folder.path())
            .expect("a list")
            .iter()
            .map(|p| p.file_name().map(OsStr::to_owned))
            .collect();
        assert_eq!(names, [Some("02-a.ko".into()), Some("10-b.ko".into())]);
        assert_eq!(
            list(&folder.path().join("none")).expect("an empty list"),
            Vec::<PathBuf>::new()
        );
    }
}
