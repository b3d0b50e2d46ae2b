//! Unpacks archives, and reads the results.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use oci::{Budget, Error, Limits, Plan, PlannedResult, Unpacking};
use tar::{Builder, EntryType, Header};

pub(crate) const ARCHITECTURE: &str = "amd64";

pub(crate) const LIMITS: Limits = Limits {
    unpacked_bytes: 1 << 30,
    spool_bytes: 1 << 30,
    entries: 10_000,
    time: Duration::from_secs(60),
};

/// An image that was made of an archive.
pub(crate) struct Unpacked {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) plan: Plan,
}

/// Unpacks an archive, and has e2fsck look for mistakes.
pub(crate) fn unpack(archive: &[u8]) -> Result<Unpacked, Error> {
    unpack_within(archive, LIMITS)
}

pub(crate) fn unpack_within(archive: &[u8], limits: Limits) -> Result<Unpacked, Error> {
    let dir = tempfile::tempdir().unwrap();
    let mut file = tempfile::tempfile_in(dir.path()).unwrap();
    file.write_all(archive).unwrap();
    let spool = tempfile::tempfile_in(dir.path()).unwrap();
    let unpacking = Unpacking::plan_image(file, &spool, ARCHITECTURE, Budget::new(limits))?;
    let plan = unpacking.plan.clone();
    let unpacked = Unpacked { dir, plan };
    if let PlannedResult::Fill(need) = unpacked.plan.result {
        let path = unpacked.path();
        File::create(&path).unwrap();
        // Three block groups, so that there are backups, and groups without files.
        let bytes = (need.blocks * 4096 + (300 << 20)).next_multiple_of(1 << 20);
        linux::programs::create_empty_ext4(&path, "test", bytes, need.inodes * 2).unwrap();
        let image = File::options().read(true).write(true).open(&path).unwrap();
        unpacking.fill_image(image)?;
        unpacked.check();
    }
    Ok(unpacked)
}

impl Unpacked {
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("image.ext4")
    }

    fn check(&self) {
        let output = Command::new("/sbin/e2fsck")
            .args(["-f", "-n"])
            .arg(self.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
    }

    /// Returns what a command of debugfs(8) prints.
    pub(crate) fn debugfs(&self, command: &str) -> String {
        let output = Command::new("/sbin/debugfs")
            .args(["-R", command])
            .arg(self.path())
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns the content of a file.
    pub(crate) fn content(&self, path: &str) -> Vec<u8> {
        let to = self.dir.path().join("dumped");
        let _ = std::fs::remove_file(&to);
        self.debugfs(&format!("dump {path} {}", to.display()));
        std::fs::read(to).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Returns the names in a directory, but for those that are always there.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let listed = self.debugfs(&format!("ls -p {path}"));
        let names = listed.lines().filter_map(|line| line.split('/').nth(5));
        let mut names: Vec<String> = names
            .filter(|name| !matches!(*name, "." | ".." | "lost+found"))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn message(result: Result<Unpacked, Error>) -> String {
    match result {
        Ok(_) => panic!("it was unpacked"),
        Err(error) => error.to_string(),
    }
}

/// An archive in the making.
pub(crate) struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds an entry whose header is set by `set`. Its path may be one that the crate `tar` refuses
    /// to write.
    pub(crate) fn entry(
        mut self,
        path: &[u8],
        kind: EntryType,
        content: &[u8],
        set: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == EntryType::Directory {
            0o755
        } else {
            0o644
        });
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let name = &mut header.as_old_mut().name;
        assert!(path.len() <= name.len());
        name[..path.len()].copy_from_slice(path);
        set(&mut header);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(path.as_bytes(), EntryType::Regular, content, |_| {})
    }

    pub(crate) fn directory(self, path: &str) -> Self {
        self.entry(path.as_bytes(), EntryType::Directory, b"", |_| {})
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path.as_bytes(), EntryType::Symlink, b"", |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path.as_bytes(), EntryType::Link, b"", |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    /// Adds records of an extended header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry(b"pax", EntryType::XHeader, &content, |_| {})
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}
