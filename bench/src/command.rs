//! The command line of a virtual machine monitor that runs, and the same for another directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use hostd::disk::device_name;
use model::SandboxId;

/// As it stands in `/proc/PID/cmdline`.
#[derive(Debug, Clone)]
pub struct Command {
    pub program: PathBuf,
    args: Vec<String>,
    /// The directory that it names.
    dir: PathBuf,
}

/// The monitor of the sandbox in `dir`, by its number.
///
/// # Errors
/// When there is none, or more than one.
pub fn monitor_of(dir: &Path) -> anyhow::Result<u32> {
    let needle = format!("{}/", dir.display());
    let found = linux::process::find(|cmdline| {
        let text = String::from_utf8_lossy(cmdline);
        text.split('\0').next().is_some_and(|program| program.contains("qemu-system")) && text.contains(&needle)
    })?;
    ensure!(found.len() == 1, "{} processes run the machine in {}, not one", found.len(), dir.display());
    Ok(found[0].pid())
}

impl Command {
    /// Of the sandbox in `dir`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn of(dir: &Path) -> anyhow::Result<Self> {
        let pid = monitor_of(dir)?;
        Self::parse(&fs::read(format!("/proc/{pid}/cmdline"))?, dir)
    }

    fn parse(cmdline: &[u8], dir: &Path) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(cmdline).context("the command line is not UTF-8")?;
        let mut words = text.trim_end_matches('\0').split('\0').map(str::to_owned);
        let program = words.next().context("the process has ended")?.into();
        Ok(Self { program, args: words.collect(), dir: dir.to_owned() })
    }

    /// The arguments with `dir` in place of the sandbox's directory, and the disk device of `id` in place of its own. Without `-S`, by which the host agent has the
    /// machine wait for its word: nobody who starts one by hand wants that.
    pub fn args_for(&self, dir: &Path, id: &SandboxId) -> Vec<String> {
        let own = self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (own, other) = (format!("/dev/mapper/wrenn-{own}"), format!("/dev/mapper/{}", device_name(id)));
        let (from, to) = (format!("{}/", self.dir.display()), format!("{}/", dir.display()));
        self.args.iter().filter(|arg| *arg != "-S").map(|arg| arg.replace(&from, &to).replace(&own, &other)).collect()
    }

    /// Values of an option, in their order.
    pub fn values<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> {
        self.args.windows(2).filter(move |pair| pair[0] == option).map(|pair| pair[1].as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_moves_to_another_directory() {
        let line = "/usr/bin/qemu-system-x86_64\0-S\0-M\0microvm,accel=tcg\0-drive\0/a/sb-1/root\0-drive\0/a/sb-10/x\0";
        let command = Command::parse(line.as_bytes(), Path::new("/a/sb-1")).unwrap();
        let moved = command.args_for(Path::new("/b"), &SandboxId::random());
        assert_eq!(moved, ["-M", "microvm,accel=tcg", "-drive", "/b/root", "-drive", "/a/sb-10/x"]);
        assert_eq!(command.values("-drive").count(), 2);
        assert_eq!(command.program, Path::new("/usr/bin/qemu-system-x86_64"));
    }
}
