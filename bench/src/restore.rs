//! A bare QEMU that is restored from a snapshot of ours: the same state, loaded in the fewest steps
//! that QEMU has for it, over a private mapping of the same memory. No jail, no loop device, no
//! checks of what is in the files.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hostd::disk::{self, Choice, Disks};
use linux::process::Process;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::command::{Command, link_all};
use crate::place::Place;
use crate::server::Server;

/// Sockets in the directory of a machine.
const QMP: &str = "qmp.sock";
const INCOMING: &str = "incoming.sock";
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);

/// Snapshot under names of ours: changes of the host agent to its own do not reach it. Its memory
/// file is full.
#[derive(Debug, Clone)]
pub struct Saved {
    pub dir: PathBuf,
    pub disk_bytes: u64,
    /// Token that the guest agent in there knows, if any.
    pub token: Option<String>,
}

impl Saved {
    /// Copies the snapshot in `dir`, whose disk is in `disk` and not in use, as `name`.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn copy_snapshot(
        place: &Place,
        name: &str,
        dir: &Path,
        disk: &Path,
    ) -> anyhow::Result<Self> {
        let root = place.saved();
        let of = manifest(dir)?;
        let to = root.join(name);
        // Of an earlier group of rows, whose machines have ended.
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        let files = fs::read_dir(dir.join("memory"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let files: Vec<String> = files.collect::<std::io::Result<_>>()?;
        let names: Vec<&str> = files.iter().map(String::as_str).collect();
        link_all(&dir.join("memory"), &to.join("memory"), &names)?;
        vmm::SnapshotStore::of_full_files().merge(&to.join("memory"), &CancellationToken::new())?;
        let chosen = disk::choose_backend(Choice::Auto, &root, Some(&place.image()), true)?;
        Disks::new(&root, chosen)?.copy_unused(disk, &to)?;
        let disk_bytes = of["disk"]["size_bytes"]
            .as_u64()
            .context("an instant does not say the size of its disk")?;
        Ok(Self {
            dir: to,
            disk_bytes,
            token: of["token"].as_str().map(str::to_owned),
        })
    }

    pub fn memory(&self) -> PathBuf {
        self.dir.join("memory/memory")
    }
}

/// Waits until sandboxes of a shape are restored from a guest that has booted, and returns the
/// command line of one, and the guest.
///
/// # Errors
/// When sandboxes of that shape still boot.
pub async fn prepare_shape(
    place: &Place,
    server: &Server,
    memory_mb: u32,
) -> anyhow::Result<(Command, Saved)> {
    // The first boots, and leaves the guest for those after it.
    for _ in 0..2 {
        let sandbox = server.create(Some(memory_mb)).await?;
        server.exec(&sandbox).await?;
        let command = Command::of_sandbox(&server.dir_of(&sandbox), &place.boot()).await;
        server.client.delete(&sandbox.id).await?;
        let command = command?;
        if command.mapped().is_some() {
            let dir = warm_guest(server, memory_mb)?;
            return Ok((
                command,
                Saved::copy_snapshot(place, &format!("warm-{memory_mb}"), &dir, &dir)?,
            ));
        }
    }
    bail!(
        "sandboxes with {memory_mb} MiB do not go on from one that has booted; {} says why",
        place.log().display()
    )
}

fn warm_guest(server: &Server, memory_mb: u32) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(server.warm_dir())? {
        let dir = entry?.path();
        if manifest(&dir).is_ok_and(|of| of["memory_mb"] == memory_mb) {
            return Ok(dir);
        }
    }
    bail!(
        "no guest with {memory_mb} MiB waits in {}",
        server.warm_dir().display()
    )
}

fn manifest(dir: &Path) -> anyhow::Result<Value> {
    let path = dir.join("snapshot.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Loads the state into the QEMU that works in `run`, and lets the guest run.
///
/// # Errors
/// When QEMU ends or refuses.
pub fn load_state(run: &Path, saved: &Saved, process: &Process) -> anyhow::Result<()> {
    let mut qmp = Qmp::connect(&run.join(QMP), process)?;
    let leave_out_memory =
        json!({"capabilities": [{"capability": "x-ignore-shared", "state": true}]});
    qmp.execute("migrate-set-capabilities", &leave_out_memory)?;
    let mut socket = UnixStream::connect(run.join(INCOMING))?;
    // QEMU may have seen enough before the last byte.
    let _ = std::io::copy(
        &mut File::open(saved.dir.join("memory/state"))?,
        &mut socket,
    );
    drop(socket);
    while qmp.execute("query-status", &json!({}))?["status"] == "inmigrate" {
        std::thread::sleep(POLL);
    }
    qmp.execute("cont", &json!({})).map(drop)
}

/// QEMU's monitor, one command at a time.
struct Qmp {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Qmp {
    fn connect(path: &Path, process: &Process) -> anyhow::Result<Self> {
        let deadline = Instant::now() + TIMEOUT;
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("a bare QEMU does not listen");
                }
                Err(_) => std::thread::sleep(POLL),
            }
            ensure!(process.has_ended()?.is_none(), "a bare QEMU ended at once");
        };
        socket.set_read_timeout(Some(TIMEOUT))?;
        let mut qmp = Self {
            input: BufReader::new(socket.try_clone()?),
            output: socket,
        };
        qmp.message()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        self.output.write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                bail!("a bare QEMU refused {command}: {error}");
            }
            if message.get("return").is_some() {
                return Ok(message["return"].take());
            }
        }
    }

    fn message(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        ensure!(self.input.read_line(&mut line)? > 0, "a bare QEMU ended");
        Ok(serde_json::from_str(&line)?)
    }
}
