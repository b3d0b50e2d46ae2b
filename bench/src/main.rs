//! Measures the platform against the bare thing: a table on the terminal, and
//! `target/bench/report.json`.
//!
//! "Ours" goes through the Rust SDK, control plane, host agent and guest agent, as a user's call
//! does. "Bare" is the same virtual machine monitor with the same command line, kernel, initramfs
//! and disk, started directly, or the same guest agent or server in the guest, asked directly. The
//! two take turns within one run, and which goes first alternates, so that whatever else the
//! machine does hits both. Every file here that is named after a row says what its clock covers.
//!
//! | what is made | where | taken away |
//! |---|---|---|
//! | an installation and its sandboxes | `target/bench/run` ([`place`]) | at the end, after a failure, after Ctrl-C |
//! | network namespaces of bare machines | `wbench-bare-*` ([`bare`]) | the same |
//! | networks beside others | slots of the installation's ([`network`]) | the same |
//! | devices of bare disks | `/dev/mapper/wbench-*` ([`disks`]) | the same |
//!
//! If we are killed, the next run clears all of it before it begins ([`cleanup`]).

mod bare;
mod checkpoint;
mod cleanup;
mod command;
mod control;
mod create;
mod disks;
mod envd;
mod exec;
mod files;
mod fork;
mod in_memory;
mod memory;
mod network;
mod pages;
mod pairs;
mod pause;
mod place;
mod plane;
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

/// Groups that can be chosen by name; without names everything is measured.
const GROUPS: [&str; 14] = [
    "disks",
    "network",
    "control",
    "create",
    "exec",
    "files",
    "ports",
    "memory",
    "warm",
    "resume",
    "pause",
    "fork",
    "checkpoint",
    "siblings",
];
/// Groups of a server whose sandboxes boot, and of one whose sandboxes are restored from a guest
/// that has booted.
const COLD: [&str; 5] = ["create", "exec", "files", "ports", "memory"];
const WARM: [&str; 6] = ["warm", "resume", "pause", "fork", "checkpoint", "siblings"];

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
        bail!(
            "there is no group of rows {unknown:?}; there are: {}",
            GROUPS.join(", ")
        );
    }
    let place = Place::lock()?;
    cleanup::clear_all(&place)
        .context("an earlier run left something that cannot be taken away")?;
    place.create_dirs()?;
    let cancelled = CancellationToken::new();
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = measure(&place, &wanted, &cancelled) => outcome,
            ended = interrupted() => Err(ended.map_or_else(anyhow::Error::from, |()| anyhow::anyhow!("interrupted"))),
        }
    });
    // Bare machines are driven by threads of their own; they see this, and are waited for when the
    // runtime goes.
    cancelled.cancel();
    drop(runtime);
    let cleared = cleanup::clear_all(&place)
        .context("not everything could be taken away; the next run tries again");
    outcome.and_then(Measured::publish).and(cleared)
}

/// Rows of all groups. The failure of a group affects no other: its rows stay, and the next one
/// finds nothing of it.
#[derive(Debug)]
struct Measured<'a> {
    place: &'a Place,
    machine: Option<Machine>,
    rows: Vec<Row>,
    failed: Vec<&'static str>,
}

impl Measured<'_> {
    /// Keeps the rows of a group. After one that failed, takes away what it has left: bare
    /// machines, and sandboxes of the `server` that runs, or networks where there is none.
    async fn add(
        &mut self,
        group: &'static str,
        server: Option<&Server>,
        rows: anyhow::Result<impl IntoIterator<Item = Row>>,
    ) {
        let error = match rows {
            Ok(rows) => return self.rows.extend(rows),
            Err(error) => error,
        };
        self.note_failed(group, &error);
        let others = match server {
            Some(server) => server.remove_sandboxes().await,
            None => cleanup::clear_networks(self.place),
        };
        for left in [cleanup::clear_bare(self.place), others]
            .into_iter()
            .filter_map(Result::err)
        {
            eprintln!("bench: after {group}: {left:#}");
        }
    }

    fn note_failed(&mut self, group: &'static str, error: &anyhow::Error) {
        eprintln!("bench: {group}: {error:#}");
        self.failed.push(group);
    }

    fn publish(self) -> anyhow::Result<()> {
        let machine = self.machine.context("nothing was measured")?;
        Report {
            machine,
            rows: self.rows,
            started_again: bare::started_again(),
        }
        .publish(self.place)?;
        match self.failed.as_slice() {
            [] => Ok(()),
            failed => bail!(
                "these groups have no rows, for the reasons above: {}",
                failed.join(", ")
            ),
        }
    }
}

async fn interrupted() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn measure<'a>(
    place: &'a Place,
    wanted: &[String],
    cancelled: &CancellationToken,
) -> anyhow::Result<Measured<'a>> {
    let wants = |group: &str| wanted.is_empty() || wanted.iter().any(|name| name == group);
    let machine = Some(platform::read_machine()?);
    let mut measured = Measured {
        place,
        machine,
        rows: Vec::new(),
        failed: Vec::new(),
    };
    if wants("disks") {
        measured
            .add("disks", None, disks::measure(place, cancelled).await)
            .await;
    }
    if wants("network") {
        measured
            .add("network", None, network::measure(place, cancelled).await)
            .await;
    }
    if wants("control") {
        measured
            .add("control", None, control::measure(place).await)
            .await;
    }
    for (guests, groups) in [(Guests::Cold, &COLD[..]), (Guests::Warm, &WARM[..])] {
        let groups: Vec<_> = groups
            .iter()
            .copied()
            .filter(|group| wants(group))
            .collect();
        if groups.is_empty() {
            continue;
        }
        // Rows of other groups are kept, also where the server does not start, or not end.
        if let Err(error) = with_server(place, guests, &groups, cancelled, &mut measured).await {
            groups
                .iter()
                .for_each(|group| measured.note_failed(group, &error));
        }
    }
    Ok(measured)
}

/// Measures groups of a server of their own.
async fn with_server(
    place: &Place,
    guests: Guests,
    groups: &[&'static str],
    cancelled: &CancellationToken,
    measured: &mut Measured<'_>,
) -> anyhow::Result<()> {
    let server = Server::start(place, guests).await?;
    let fresh = memory::server_memory(&server)?;
    let monitor = platform::read_monitor(place, &server).await?;
    let is_qemu = monitor.vmm.starts_with("QEMU");
    if let Some(machine) = &mut measured.machine {
        machine.monitor = Some(monitor);
    }
    match guests {
        Guests::Cold => cold(place, &server, groups, fresh, cancelled, measured).await,
        Guests::Warm if is_qemu => warm(place, &server, groups, cancelled, measured).await,
        Guests::Warm => eprintln!("{}: there is a bare side for QEMU only", WARM.join(", ")),
    }
    if let Err(error) = server.end().await {
        eprintln!("bench: a server does not end: {error:#}");
    }
    Ok(())
}

async fn cold(
    place: &Place,
    server: &Server,
    groups: &[&'static str],
    fresh: f64,
    cancelled: &CancellationToken,
    measured: &mut Measured<'_>,
) {
    for group in groups {
        let rows = match *group {
            "create" => create::measure(place, server, cancelled)
                .await
                .map(|row| vec![row]),
            "exec" => exec::measure(server).await.map(|row| vec![row]),
            "files" => files::measure(server).await.map(Vec::from),
            "ports" => ports::measure(server).await.map(Vec::from),
            _ => memory::measure(place, server, fresh, cancelled)
                .await
                .map(Vec::from),
        };
        measured.add(group, Some(server), rows).await;
    }
}

async fn warm(
    place: &Place,
    server: &Server,
    groups: &[&'static str],
    cancelled: &CancellationToken,
    measured: &mut Measured<'_>,
) {
    for group in groups {
        let rows = match *group {
            "warm" => warm::measure(place, server, cancelled).await,
            "resume" => resume::measure(place, server, cancelled)
                .await
                .map(|row| vec![row]),
            "pause" => pause::measure(place, server).await,
            "fork" => fork::measure(place, server, cancelled).await.map(Vec::from),
            "checkpoint" => checkpoint::measure(server).await.map(|row| vec![row]),
            _ => siblings::measure(place, server, cancelled)
                .await
                .map(|row| vec![row]),
        };
        measured.add(group, Some(server), rows).await;
    }
}
