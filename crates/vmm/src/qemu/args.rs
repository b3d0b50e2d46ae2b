//! QEMU's command line. The same input gives the same arguments, except that the file system is
//! asked whether a disk is a device.
//!
//! Values that hold paths are passed as JSON, where the comma has no meaning; sockets are named
//! relative to the working directory, since a socket's name may have only 107 bytes (unix(7)).

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{DiskFormat, VmConfig, run_dir};

use super::{Accel, Ram};

/// Names in QEMU's working directory ([`run_dir`]).
pub(super) const QMP_SOCKET: &str = "qmp.sock";
const PID_FILE: &str = "qemu.pid";

/// Socket on which QEMU waits for the state of a restored guest, in its working directory.
pub(super) const INCOMING_SOCKET: &str = "incoming.sock";

/// Name in the directory of the VM.
pub(super) use crate::memory_files::MEMORY as MEMORY_FILE;

/// Id of the memory.
const RAM_ID: &str = "ram";

/// Id of the character device that takes the serial console.
pub(super) const CONSOLE: &str = "console";

/// Size of QEMU's ring of console output, bytes; QEMU requires a power of two.
pub(super) const CONSOLE_SIZE: usize = crate::console::LIMIT;

/// Parameters of the command line besides the configuration.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) accel: Accel,
    /// Rate of the host's time stamp counter, kHz.
    pub(super) tsc_khz: Option<u64>,
    pub(super) ram: Ram,
    /// File of the guest's memory.
    pub(super) memory: &'a Path,
    /// True to wait for device state instead of booting.
    pub(super) incoming: bool,
    /// Number of the descriptor of the guest's network device, where it has one.
    pub(super) tap: Option<RawFd>,
}

pub(super) fn command_line(
    config: &VmConfig,
    machine: &Machine<'_>,
) -> std::io::Result<Vec<OsString>> {
    let mut line = Line::default();
    // With its key: otherwise an equals sign in the name would begin a parameter.
    line.pair(
        "-name",
        &*format!("guest={}", config.name.replace(',', ",,")),
    );
    // ACPI stays on: without it a guest cannot power itself off.
    line.pair(
        "-M",
        &*format!(
            "microvm,accel={},memory-backend={RAM_ID}",
            machine.accel.qemu()
        ),
    );
    line.pair("-cpu", machine.accel.cpu());
    line.pair("-smp", &*config.vcpus.to_string());
    line.pair("-m", &*format!("{}M", config.memory_mb));
    line.json("-object", &memory(config, machine)?);
    line.args(["-nodefaults", "-no-user-config", "-nographic", "-S"]);
    line.pair("-global", "virtio-mmio.force-legacy=false");
    // The process outlives the guest, so that its last output can be read later, even by another
    // run of this program.
    line.pair("-action", "reboot=shutdown,shutdown=pause");
    line.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    line.pair(
        "-chardev",
        &*format!("ringbuf,id={CONSOLE},size={CONSOLE_SIZE}"),
    );
    line.pair("-serial", &*format!("chardev:{CONSOLE}"));
    line.pair("-qmp", &*format!("unix:{QMP_SOCKET},server=on,wait=off"));
    line.pair("-pidfile", pid_file(&config.dir));
    line.pair("-kernel", &config.kernel);
    line.pair("-initrd", &config.initramfs);
    line.pair("-append", &*kernel_args(config, machine));
    disk(&mut line, config)?;
    modules(&mut line, config)?;
    net(&mut line, config, machine.tap);
    line.json(
        "-device",
        &json!({"driver": "virtio-rng-device", "id": "rng"}),
    );
    if machine.incoming {
        // As an argument rather than by commands: QEMU reads those byte by byte, at some 0.1 ms
        // each.
        line.pair("-incoming", &*format!("unix:{INCOMING_SOCKET}"));
        // The state has no description of the machine; see `state`.
        line.pair("-global", "migration.send-configuration=off");
        // After a migration a guest announces its new place in the network five times. Here it has
        // not moved, and the announcements would only wake it.
        line.pair("-global", "migration.announce-rounds=0");
    }
    Ok(line.0)
}

/// Returns the path of the pid file. QEMU writes its own number in its PID namespace, which is
/// useless here; only the path matters, as a mark in the command line.
fn pid_file(dir: &Path) -> PathBuf {
    run_dir::path(dir).join(PID_FILE)
}

/// Returns true if the arguments are those of the QEMU of the VM in `dir`, and of no other process.
pub(super) fn is_of(cmdline: &[u8], dir: &Path) -> bool {
    let wanted = pid_file(dir);
    let args: Vec<&[u8]> = cmdline.split(|&byte| byte == 0).collect();
    args.windows(2)
        .any(|pair| pair[0] == b"-pidfile" && pair[1] == wanted.as_os_str().as_encoded_bytes())
}

fn kernel_args(config: &VmConfig, machine: &Machine<'_>) -> String {
    // A triple fault is the way to restart that needs no device; a restart ends the VM, and so does
    // a panic.
    let mut args = String::from("console=ttyS0 reboot=t panic=-1");
    if let (Accel::Tcg, Some(khz)) = (machine.accel, machine.tsc_khz) {
        // An emulated guest sees the host's counter. Measuring it against emulated timers fails
        // about every second boot, and then the guest hangs. Told the rate, the kernel also skips
        // its delay loop calibration. There is no other clock to verify the counter against, and
        // without one that it trusts the kernel ticks at its full rate even when idle: 6 % of a
        // processor for each guest.
        args.push_str(&format!(" tsc_early_khz={khz} tsc=reliable"));
    }
    if !config.kernel_args.is_empty() {
        args.push(' ');
        args.push_str(&config.kernel_args);
    }
    args
}

fn memory(config: &VmConfig, machine: &Machine<'_>) -> std::io::Result<Value> {
    Ok(json!({
        "qom-type": "memory-backend-file",
        "id": RAM_ID,
        "size": u64::from(config.memory_mb) << 20,
        "mem-path": text(machine.memory)?,
        "share": machine.ram == Ram::File,
    }))
}

fn disk(line: &mut Line, config: &VmConfig) -> std::io::Result<()> {
    // QEMU has another driver for block devices than for files.
    let is_device =
        std::fs::metadata(&config.disk.path).is_ok_and(|meta| meta.file_type().is_block_device());
    let driver = if is_device { "host_device" } else { "file" };
    let file = json!({
        "driver": driver, "node-name": "file", "filename": text(&config.disk.path)?, "discard": "unmap",
    });
    let format = match config.disk.format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    line.json("-blockdev", &file);
    let mut image =
        json!({"driver": format, "node-name": "disk", "file": "file", "discard": "unmap"});
    if let Some(base) = &config.disk.base {
        // The name of a base in the overlay itself is not used: it may have moved, and a VMM has
        // written that name.
        let file = json!({"driver": "file", "filename": text(base)?});
        image["backing"] = json!({"driver": "raw", "file": file, "read-only": true});
    }
    line.json("-blockdev", &image);
    // A full disk of the host is an I/O error in the guest; QEMU would stop the guest for good.
    line.json(
        "-device",
        &json!({
            "driver": "virtio-blk-device", "id": "root", "drive": "disk", "werror": "report", "rerror": "report",
        }),
    );
    Ok(())
}

/// Adds the modules, after the disk: the guest numbers block devices in this order.
fn modules(line: &mut Line, config: &VmConfig) -> std::io::Result<()> {
    let Some(path) = &config.modules else {
        return Ok(());
    };
    let file = json!({
        "driver": "file", "node-name": "modules-file", "filename": text(path)?, "read-only": true,
    });
    line.json("-blockdev", &file);
    line.json(
        "-blockdev",
        &json!({"driver": "raw", "node-name": "modules", "file": "modules-file", "read-only": true}),
    );
    line.json(
        "-device",
        &json!({"driver": "virtio-blk-device", "id": "modules", "drive": "modules"}),
    );
    Ok(())
}

/// Adds the network device, which is open already: QEMU's network namespace is empty.
fn net(line: &mut Line, config: &VmConfig, tap: Option<RawFd>) {
    let (Some(net), Some(tap)) = (&config.net, tap) else {
        return;
    };
    let mac: Vec<String> = net.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let tap = json!({"type": "tap", "id": "net", "fd": tap.to_string()});
    line.json("-netdev", &tap);
    line.json(
        "-device",
        &json!({"driver": "virtio-net-device", "id": "nic", "netdev": "net", "mac": mac.join(":")}),
    );
}

fn text(path: &Path) -> std::io::Result<&str> {
    path.to_str().ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8")
    })
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn args<const N: usize>(&mut self, args: [&str; N]) {
        self.0.extend(args.map(OsString::from));
    }

    fn pair(&mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) {
        self.0.push(name.into());
        self.0.push(value.as_ref().to_owned());
    }

    fn json(&mut self, name: &str, value: &Value) {
        self.pair(name, value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, Net};

    fn config() -> VmConfig {
        VmConfig {
            dir: "/vm,s/sb-1".into(),
            name: "sb,1".into(),
            vcpus: 2,
            memory_mb: 256,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_args: "quiet".into(),
            disk: Disk {
                path: "/d,x".into(),
                format: DiskFormat::Qcow2,
                base: None,
                size_bytes: 1 << 30,
            },
            modules: None,
            jail: None,
            net: Some(Net {
                netns: "n".into(),
                tap: "tap0".into(),
                mac: [2, 0, 0, 0, 0, 0xab],
            }),
        }
    }

    fn line(accel: Accel, ram: Ram, incoming: bool) -> Vec<String> {
        let machine = Machine {
            accel,
            tsc_khz: Some(2_000_000),
            ram,
            memory: Path::new("/m"),
            incoming,
            tap: Some(7),
        };
        let args = command_line(&config(), &machine).unwrap();
        args.into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect()
    }

    fn after<'a>(line: &'a [String], name: &str) -> Vec<&'a str> {
        line.windows(2)
            .filter(|pair| pair[0] == name)
            .map(|pair| pair[1].as_str())
            .collect()
    }

    #[test]
    fn emulated_guest_gets_tsc_rate() {
        let emulated = line(Accel::Tcg, Ram::File, false);
        assert_eq!(
            after(&emulated, "-append"),
            ["console=ttyS0 reboot=t panic=-1 tsc_early_khz=2000000 tsc=reliable quiet"]
        );
        assert_eq!(after(&emulated, "-cpu"), ["max,la57=off,svm=off"]);
        let virtualised = line(Accel::Kvm, Ram::File, false);
        assert_eq!(
            after(&virtualised, "-append"),
            ["console=ttyS0 reboot=t panic=-1 quiet"]
        );
        assert_eq!(
            after(&virtualised, "-cpu"),
            ["host,vmx=off,svm=off,pmu=off,kvm-asyncpf=off,kvm-asyncpf-int=off"]
        );
    }

    #[test]
    fn names_may_contain_commas() {
        let line = line(Accel::Tcg, Ram::File, false);
        assert_eq!(after(&line, "-name"), ["guest=sb,,1"]);
        let disk: Value = serde_json::from_str(after(&line, "-blockdev")[0]).unwrap();
        assert_eq!(disk["filename"], "/d,x");
        let nic = after(&line, "-device")
            .into_iter()
            .find(|device| device.contains("virtio-net"))
            .unwrap();
        assert!(nic.contains("02:00:00:00:00:ab"));
    }

    #[test]
    fn module_disk_comes_second_read_only() {
        let accel = Accel::Tcg;
        let ram = Ram::File;
        let memory = Path::new("/m");
        let machine = Machine {
            accel,
            tsc_khz: None,
            ram,
            memory,
            incoming: false,
            tap: None,
        };
        let line = |modules: Option<&str>| -> Vec<String> {
            let config = VmConfig {
                modules: modules.map(PathBuf::from),
                ..config()
            };
            let args = command_line(&config, &machine).unwrap();
            args.into_iter()
                .map(|arg| arg.into_string().unwrap())
                .collect()
        };
        let with = line(Some("/modules,x"));
        let devices: Vec<&str> = after(&with, "-device")
            .into_iter()
            .filter(|device| device.contains("virtio-blk"))
            .collect();
        assert!(
            devices.len() == 2 && devices[0].contains("root") && devices[1].contains("modules"),
            "{devices:?}"
        );
        let drives = after(&with, "-blockdev");
        let drives: Vec<_> = drives
            .into_iter()
            .filter(|drive| drive.contains("modules"))
            .collect();
        assert!(
            drives.len() == 2
                && drives
                    .iter()
                    .all(|drive| drive.contains(r#""read-only":true"#)),
            "{drives:?}"
        );
        // A VM of before has no such device, and is restored without.
        assert!(line(None).iter().all(|arg| !arg.contains("modules")));
    }

    #[test]
    fn network_device_is_a_descriptor() {
        let line = line(Accel::Kvm, Ram::File, false);
        assert_eq!(
            after(&line, "-netdev"),
            [r#"{"fd":"7","id":"net","type":"tap"}"#]
        );
    }

    #[test]
    fn restored_guest_maps_memory_privately() {
        let booted = line(Accel::Tcg, Ram::File, false);
        let restored = line(Accel::Tcg, Ram::Private, true);
        assert!(
            after(&booted, "-object")[0].contains(r#""share":true"#)
                && after(&booted, "-incoming").is_empty()
        );
        assert!(after(&restored, "-object")[0].contains(r#""share":false"#));
        assert_eq!(after(&restored, "-incoming"), ["unix:incoming.sock"]);
    }

    #[test]
    fn process_is_known_by_whole_directory() {
        let cmdline = line(Accel::Tcg, Ram::File, false).join("\0");
        assert!(is_of(cmdline.as_bytes(), Path::new("/vm,s/sb-1")));
        assert!(!is_of(cmdline.as_bytes(), Path::new("/vm,s/sb-")));
        assert!(!is_of(
            b"editor\0/vm,s/sb-1/run/qemu.pid",
            Path::new("/vm,s/sb-1")
        ));
    }
}
