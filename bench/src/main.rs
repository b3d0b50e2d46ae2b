//! Measures the platform against the bare thing: a table on the terminal, and `target/bench/report.json`.
//!
//! "Ours" goes through the Rust SDK, control plane, host agent and guest agent, as a user's call does. "Bare" is the
//! same virtual machine monitor with the same command line, kernel, initramfs and disk, started directly, or the same
//! guest agent or server in the guest, asked directly. The two take turns within one run, and which goes first alternates, so that whatever
//! else the machine does hits both. Every file here that is named after a row says what its clock covers.
//!
//! | what is made | where | taken away |
//! |---|---|---|
//! | an installation and its sandboxes | `target/bench/run` ([`place`]) | at the end, after a failure, after Ctrl-C |
//! | network namespaces of bare machines | `wbench-bare-*` ([`bare`]) | the same |
//! | networks beside others | slots of the installation's ([`network`]) | the same |
//! | devices of bare disks | `/dev/mapper/wbench-*` ([`disks`]) | the same |
//!
//! If we are killed, the next run clears all of it before it begins.

mod bare;
mod command;
mod create;
mod disks;
mod envd;
mod exec;
mod files;
mod fork;
mod in_memory;
mod memory;
mod network;
mod pairs;
mod pause;
mod place;
mod platform;
mod ports;
mod report;
mod restore;
mod resume;
mod server;
mod siblings;
mod stats;
mod warm;

use std::process::ExitCode;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use place::Place;
use platform::Machine;
use report::{Report, Row};
use server::{Guests, Server};

/// What can be asked for by name; without names everything is measured.
const GROUPS: [&str; 12] =
    ["disks", "network", "create", "exec", "files", "ports", "memory", "warm", "resume", "pause", "fork", "siblings"];
/// Those of a server whose sandboxes boot, and those of one whose sandboxes go on from a guest that has booted.
const COLD: [&str; 5] = ["create", "exec", "files", "ports", "memory"];
const WARM: [&str; 5] = ["warm", "resume", "pause", "fork", "siblings"];

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| !GROUPS.contains(&name.as_str())) {
        bail!("there is no group of rows {unknown:?}; there are: {}", GROUPS.join(", "));
    }
    let place = Place::prepare()?;
    let cancelled = CancellationToken::new();
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = measure(&place, &wanted, &cancelled) => outcome,
            ended = interrupted() => Err(ended.map_or_else(anyhow::Error::from, |()| anyhow::anyhow!("interrupted"))),
        }
    });
    // Bare machines are driven by threads of their own; they see this, and are waited for when the runtime goes.
    cancelled.cancel();
    drop(runtime);
    let cleared = place.clear().context("not everything could be taken away; the next run tries again");
    outcome.and_then(|measured| measured.publish(&place)).and(cleared)
}

/// Rows of all groups. One that fails takes no other's away.
#[derive(Debug, Default)]
struct Measured {
    machine: Option<Machine>,
    rows: Vec<Row>,
    failed: Vec<&'static str>,
}

impl Measured {
    fn add(&mut self, group: &'static str, rows: anyhow::Result<impl IntoIterator<Item = Row>>) {
        match rows {
            Ok(rows) => self.rows.extend(rows),
            Err(error) => {
                eprintln!("bench: {group}: {error:#}");
                self.failed.push(group);
            }
        }
    }

    fn publish(self, place: &Place) -> anyhow::Result<()> {
        let machine = self.machine.context("nothing was measured")?;
        Report { machine, rows: self.rows }.publish(place)?;
        match self.failed.as_slice() {
            [] => Ok(()),
            failed => bail!("these groups have no rows, for the reasons above: {}", failed.join(", ")),
        }
    }
}

async fn interrupted() -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn measure(place: &Place, wanted: &[String], cancelled: &CancellationToken) -> anyhow::Result<Measured> {
    let wants = |group: &str| wanted.is_empty() || wanted.iter().any(|name| name == group);
    let (mut machine, mut measured) = (platform::look()?, Measured::default());
    if wants("disks") {
        measured.add("disks", disks::measure(place, cancelled).await);
    }
    if wants("network") {
        measured.add("network", network::measure(place, cancelled).await);
    }
    if COLD.iter().any(|group| wants(group)) {
        let server = Server::start(place, Guests::Cold).await?;
        let fresh = memory::of_the_server(&server)?;
        machine.monitor = Some(platform::monitor(place, &server).await?);
        cold(place, &server, &wants, fresh, cancelled, &mut measured).await;
        server.end().await?;
    }
    if WARM.iter().any(|group| wants(group)) {
        let server = Server::start(place, Guests::Warm).await?;
        let monitor = platform::monitor(place, &server).await?;
        if monitor.vmm.starts_with("QEMU") {
            warm(place, &server, &wants, cancelled, &mut measured).await;
        } else {
            eprintln!("{}: there is a bare side for QEMU only", WARM.join(", "));
        }
        machine.monitor = Some(monitor);
        server.end().await?;
    }
    measured.machine = Some(machine);
    Ok(measured)
}

async fn cold(
    place: &Place,
    server: &Server,
    wants: &impl Fn(&str) -> bool,
    fresh: f64,
    cancelled: &CancellationToken,
    measured: &mut Measured,
) {
    if wants("create") {
        measured.add("create", create::measure(place, server, cancelled).await.map(|row| [row]));
    }
    if wants("exec") {
        measured.add("exec", exec::measure(server).await.map(|row| [row]));
    }
    if wants("files") {
        measured.add("files", files::measure(server).await);
    }
    if wants("ports") {
        measured.add("ports", ports::measure(server).await);
    }
    if wants("memory") {
        measured.add("memory", memory::measure(place, server, fresh, cancelled).await);
    }
}

async fn warm(
    place: &Place,
    server: &Server,
    wants: &impl Fn(&str) -> bool,
    cancelled: &CancellationToken,
    measured: &mut Measured,
) {
    if wants("warm") {
        measured.add("warm", warm::measure(place, server, cancelled).await);
    }
    if wants("resume") {
        measured.add("resume", resume::measure(place, server, cancelled).await.map(|row| [row]));
    }
    if wants("pause") {
        measured.add("pause", pause::measure(place, server).await);
    }
    if wants("fork") {
        measured.add("fork", fork::measure(place, server, cancelled).await);
    }
    if wants("siblings") {
        measured.add("siblings", siblings::measure(place, server, cancelled).await.map(|row| [row]));
    }
}
