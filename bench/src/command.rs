//! Configuration of a virtual machine monitor that runs, and the same for another directory: QEMU
//! on its command line, Firecracker over its socket, which a bare one reads from a file instead.

use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use hostd::disk::device_name;
use hostd::snapshot::format::{INITRAMFS, KERNEL, MODULES};
use model::SandboxId;
use serde_json::Value;

/// Working directory of a sandbox's monitor, below the directory of the sandbox.
pub const RUN: &str = "vm/run";
/// Name of Firecracker's socket in a run directory, and of the disk.
const SOCKET: &str = "api.sock";
const DISK: &str = "disk";
/// Parts of Firecracker's configuration that say where output goes.
const OUTPUT: [&str; 3] = ["logger", "metrics", "serial"];

/// Command line as in `/proc/PID/cmdline`, and the configuration that Firecracker got over its API.
#[derive(Debug, Clone)]
pub struct Command {
    pub program: PathBuf,
    args: Vec<String>,
    told: Option<Told>,
    /// The directory that it names.
    dir: PathBuf,
}

/// Configuration that a Firecracker got over its socket.
#[derive(Debug, Clone)]
pub struct Told {
    config: Value,
    /// The file or device that the guest's disk is on.
    pub disk: PathBuf,
}

/// Returns the process id of the monitor of the sandbox in `dir`.
///
/// # Errors
/// When there is none, or more than one.
pub fn monitor_of(dir: &Path) -> anyhow::Result<u32> {
    let needle = format!("{}/", dir.display());
    let found = linux::process::find(|cmdline| {
        let text = String::from_utf8_lossy(cmdline);
        let program = text.split('\0').next().unwrap_or_default();
        (program.contains("qemu-system") || is_firecracker(Path::new(program)))
            && text.contains(&needle)
    })?;
    ensure!(
        found.len() == 1,
        "{} processes run the machine in {}, not one",
        found.len(),
        dir.display()
    );
    Ok(found[0].pid())
}

fn is_firecracker(program: &Path) -> bool {
    program
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("firecracker"))
}

impl Command {
    /// Reads the command line of the sandbox in `dir`. Its kernel and initramfs are linked into
    /// `boot`: they go with the sandbox.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn of_sandbox(dir: &Path, boot: &Path) -> anyhow::Result<Self> {
        let pid = monitor_of(dir)?;
        link_boot_files(dir, boot)?;
        let mut command = Self::parse(&fs::read(format!("/proc/{pid}/cmdline"))?, dir)?;
        if is_firecracker(&command.program) {
            let run = dir.join(RUN);
            let config = configuration(&run.join(SOCKET))
                .await
                .context("Firecracker does not answer")?;
            command.told = Some(Told {
                config,
                disk: fs::read_link(run.join(DISK))?,
            });
        }
        Ok(command)
    }

    /// Returns the configuration of a Firecracker; `None` for QEMU, whose arguments say everything.
    pub fn told(&self) -> Option<&Told> {
        self.told.as_ref()
    }

    fn parse(cmdline: &[u8], dir: &Path) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(cmdline).context("the command line is not UTF-8")?;
        let mut words = text.trim_end_matches('\0').split('\0').map(str::to_owned);
        let program = words.next().context("the process has ended")?.into();
        Ok(Self {
            program,
            args: words.collect(),
            told: None,
            dir: dir.to_owned(),
        })
    }

    /// Returns arguments for the same machine in `dir`, with a disk of its own at `disk`, which is
    /// that of `id`.
    ///
    /// # Errors
    /// When Firecracker's files cannot be written.
    pub fn prepare(&self, dir: &Path, id: &SandboxId, disk: &Path) -> anyhow::Result<Vec<String>> {
        let Some(told) = &self.told else {
            return Ok(self.args_for(dir, id));
        };
        let run = dir.join(RUN);
        let mut config = told.config.clone();
        for part in OUTPUT {
            config
                .as_object_mut()
                .context("Firecracker's configuration is no object")?
                .remove(part);
        }
        symlink(disk, run.join(DISK))?;
        let file = run.join("config.json");
        let from = format!("{}/", self.dir.display());
        let to = format!("{}/", dir.display());
        fs::write(&file, config.to_string().replace(&from, &to))?;
        Ok(["--no-api", "--config-file"]
            .map(str::to_owned)
            .into_iter()
            .chain([file.display().to_string()])
            .collect())
    }

    /// Returns the arguments with `dir` in place of the sandbox's directory, and the disk device of
    /// `id` in place of its own. Without `-S`, with which the machine would wait for the host
    /// agent's word to start.
    fn args_for(&self, dir: &Path, id: &SandboxId) -> Vec<String> {
        let own = self
            .dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let own = format!("/dev/mapper/wrenn-{own}");
        let other = format!("/dev/mapper/{}", device_name(id));
        let from = format!("{}/", self.dir.display());
        let to = format!("{}/", dir.display());
        self.args
            .iter()
            .filter(|arg| *arg != "-S")
            .map(|arg| arg.replace(&from, &to).replace(&own, &other))
            .collect()
    }

    /// Returns true if QEMU gets the guest's network device as an open file, as the host agent
    /// starts it; Firecracker opens it itself.
    pub fn takes_tap(&self) -> bool {
        self.values("-netdev")
            .any(|value| tap_object(value).is_some())
    }

    /// Returns the file that a restored QEMU has mapped as the guest's memory; `None` where the
    /// machine was booted, or is none of QEMU's.
    pub fn mapped(&self) -> Option<String> {
        self.values("-incoming").next()?;
        let objects = self
            .values("-object")
            .filter_map(|value| serde_json::from_str::<Value>(value).ok());
        objects
            .into_iter()
            .find_map(|object| object["mem-path"].as_str().map(str::to_owned))
    }

    /// Replaces the guest's memory with a private mapping of `memory`.
    pub fn over(mut self, memory: &Path) -> Self {
        for arg in &mut self.args {
            if let Ok(mut object) = serde_json::from_str::<Value>(arg)
                && object.get("mem-path").is_some()
            {
                object["mem-path"] = memory.display().to_string().into();
                object["share"] = false.into();
                *arg = object.to_string();
            }
        }
        self
    }

    /// Returns the values of an option, in their order.
    pub fn values<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> {
        self.args
            .windows(2)
            .filter(move |pair| pair[0] == option)
            .map(|pair| pair[1].as_str())
    }
}

/// Replaces the number of the network device's open file in arguments of QEMU.
pub fn with_tap(args: Vec<String>, tap: RawFd) -> Vec<String> {
    let replace = |arg: String| match tap_object(&arg) {
        Some(mut object) => {
            object["fd"] = tap.to_string().into();
            object.to_string()
        }
        None => arg,
    };
    args.into_iter().map(replace).collect()
}

/// Returns the network device that `arg` describes if QEMU inherits its open file.
fn tap_object(arg: &str) -> Option<Value> {
    let object = serde_json::from_str::<Value>(arg).ok()?;
    (object["type"] == "tap" && object.get("fd").is_some()).then_some(object)
}

/// Gives the files that a machine was booted with names in `to` as well.
///
/// # Errors
/// As [`link_all`].
pub fn link_boot_files(from: &Path, to: &Path) -> anyhow::Result<()> {
    link_all(from, to, &[KERNEL, INITRAMFS])?;
    if from.join(MODULES).exists() {
        link_all(from, to, &[MODULES])?;
    }
    Ok(())
}

/// Gives files of `from` names in `to` as well, unless something has them there.
///
/// # Errors
/// Errors of the file system.
pub fn link_all(from: &Path, to: &Path, names: &[&str]) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for name in names {
        let real = from.join(name).canonicalize()?;
        let link = to.join(name);
        if !link.exists() {
            fs::hard_link(&real, &link).or_else(|_| fs::copy(&real, &link).map(drop))?;
        }
    }
    Ok(())
}

async fn configuration(socket: &Path) -> reqwest::Result<Value> {
    let client = reqwest::Client::builder().unix_socket(socket).build()?;
    client
        .get("http://localhost/vm/config")
        .send()
        .await?
        .error_for_status()?
        .json()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_moves_to_another_directory() {
        let line = "/usr/bin/qemu-system-x86_64\0-S\0-M\0microvm,accel=tcg\0-drive\0/a/sb-1/root\0-drive\0/a/sb-10/x\0";
        let command = Command::parse(line.as_bytes(), Path::new("/a/sb-1")).unwrap();
        let moved = command.args_for(Path::new("/b"), &SandboxId::random());
        assert_eq!(
            moved,
            [
                "-M",
                "microvm,accel=tcg",
                "-drive",
                "/b/root",
                "-drive",
                "/a/sb-10/x"
            ]
        );
        assert_eq!(command.values("-drive").count(), 2);
        assert_eq!(command.program, Path::new("/usr/bin/qemu-system-x86_64"));
    }

    #[test]
    fn open_file_of_the_tap_is_replaced() {
        let line = "/usr/bin/qemu-system-x86_64\0-netdev\0{\"fd\":\"32\",\"id\":\"net\",\"type\":\"tap\"}\0-S";
        let command = Command::parse(line.as_bytes(), Path::new("/a/sb-1")).unwrap();
        assert!(command.takes_tap());
        let args = with_tap(command.args_for(Path::new("/b"), &SandboxId::random()), 7);
        assert_eq!(args, ["-netdev", r#"{"fd":"7","id":"net","type":"tap"}"#]);
    }

    #[test]
    fn boot_files_include_the_module_disk() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let to = dir.path().join("to");
        fs::create_dir(&from).unwrap();
        for name in [KERNEL, INITRAMFS] {
            fs::write(from.join(name), name).unwrap();
        }
        link_boot_files(&from, &to).unwrap();
        assert!(!to.join(MODULES).exists(), "a kernel without modules");
        fs::write(from.join(MODULES), "disk").unwrap();
        link_boot_files(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join(MODULES)).unwrap(), "disk");
    }

    #[test]
    fn a_restored_machine_maps_another_file() {
        let object = r#"{"id":"ram","mem-path":"/dev/loop3","share":true}"#;
        let line =
            format!("/qemu-system-x86_64\0-object\0{object}\0-incoming\0unix:incoming.sock\0");
        let command = Command::parse(line.as_bytes(), Path::new("/a/sb-1")).unwrap();
        assert_eq!(command.mapped().as_deref(), Some("/dev/loop3"));
        let moved = command.over(Path::new("/saved/memory"));
        assert_eq!(moved.mapped().as_deref(), Some("/saved/memory"));
        assert!(
            moved
                .values("-object")
                .all(|object| object.contains(r#""share":false"#))
        );
        let booted = Command::parse(b"/qemu-system-x86_64\0-S\0", Path::new("/a/sb-1")).unwrap();
        assert_eq!(booted.mapped(), None);
    }

    #[test]
    fn bare_firecracker_gets_config_without_output() {
        let mut command =
            Command::parse(b"/usr/bin/firecracker\0--id\0sb-1\0", Path::new("/a/sb-1")).unwrap();
        let config = serde_json::json!({ "machine-config": { "vcpu_count": 1 }, "metrics": {}, "serial": null });
        command.told = Some(Told {
            config,
            disk: "/dev/mapper/wrenn-sb-1".into(),
        });
        let dir = std::env::temp_dir().join(format!("wbench-{}", std::process::id()));
        fs::create_dir_all(dir.join(RUN)).unwrap();
        let args = command
            .prepare(&dir, &SandboxId::random(), Path::new("/dev/mapper/x"))
            .unwrap();
        let config = fs::read_to_string(&args[2]);
        let disk = fs::read_link(dir.join("vm/run/disk"));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(config.unwrap(), r#"{"machine-config":{"vcpu_count":1}}"#);
        assert_eq!(
            (disk.unwrap(), args.len()),
            (PathBuf::from("/dev/mapper/x"), 3)
        );
    }
}
