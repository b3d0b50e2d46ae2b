//! The life of one process: start, carry its output, hold it to its deadline, tell its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use guest_rpc::process::ProcessConfig;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::descriptor::Descriptor;
use super::input::Input;
use super::output::{End, Event, Source, pump_output};
use super::scope::Scope;
use super::spawn::{Pipes, Program, Spawned, Stdio3, spawn_child};
use super::table::{Process, Processes};
use super::terminal::{self, Size};
use crate::reaper::{AfterLeader, Exit};

/// Time for which the end of a process is kept for those who connect late (E2B contract 2.4).
pub const KEEP_ENDED: Duration = Duration::from_secs(30);

/// Plan of a start: the program, and everything around it.
#[derive(Debug)]
pub struct Plan {
    pub program: Program,
    pub config: ProcessConfig,
    pub tag: Option<String>,
    /// `None`: pipes.
    pub terminal: Option<Size>,
    pub stdin: bool,
    /// Time at which the whole group is killed.
    pub deadline: Option<Instant>,
    /// Scope of all processes that end with it. `None`: those that it leaves behind live on.
    pub scope: Option<Arc<Scope>>,
}

type Pump = (Source, Arc<Descriptor>);

/// Starts a process; it then lives on its own. The receiver has all of its output.
///
/// # Errors
/// Where it could not be started; nothing is left then.
pub async fn start_process(
    processes: Arc<Processes>,
    plan: Plan,
) -> io::Result<(Arc<Process>, mpsc::Receiver<Event>)> {
    let Plan {
        program,
        config,
        tag,
        terminal,
        stdin,
        deadline,
        scope,
    } = plan;
    let (spawned, master) = spawn(&processes, program, terminal, stdin, scope.as_deref()).await?;
    let (input, pumps) = match connect(spawned.pipes, master) {
        Ok(connected) => connected,
        Err(e) => {
            // The program's events would have no reader; the error is what the caller needs to
            // know.
            let _ = processes.reaper.signal_group(spawned.pid, Signal::SIGKILL);
            return Err(e);
        }
    };
    let serial = processes.next_serial();
    let input = Mutex::new(Some(Arc::new(input)));
    let exited = AtomicBool::new(false);
    let output = Arc::default();
    let process = Arc::new(Process {
        pid: spawned.pid,
        tag,
        config,
        input,
        output,
        exited,
        serial,
    });
    let listener = process.output.listen();
    processes.insert(process.clone());
    tokio::spawn(live(
        processes,
        process.clone(),
        spawned.exit,
        pumps,
        deadline,
        scope,
    ));
    Ok((process, listener))
}

/// Spawns the first process, with our side of its terminal, if it has one.
async fn spawn(
    processes: &Processes,
    program: Program,
    terminal: Option<Size>,
    stdin: bool,
    scope: Option<&Scope>,
) -> io::Result<(Spawned, Option<OwnedFd>)> {
    let reaper = processes.reaper.clone();
    let own_cgroup = scope.and_then(Scope::cgroup);
    let cgroup = own_cgroup.or_else(|| processes.cgroup.clone());
    let group = match scope {
        Some(_) => AfterLeader::Kill,
        None => AfterLeader::Keep,
    };
    tokio::task::spawn_blocking(move || {
        let (stdio, master) = match terminal {
            None => (Stdio3::Pipes { stdin }, None),
            Some(size) => {
                let (ours, theirs) = terminal::open_pair(size, &program.user)?;
                (Stdio3::Terminal(theirs), Some(ours))
            }
        };
        let spawned = spawn_child(&reaper, cgroup.as_deref(), group, &program, stdio)?;
        Ok((spawned, master))
    })
    .await?
}

fn connect(pipes: Pipes, master: Option<OwnedFd>) -> io::Result<(Input, Vec<Pump>)> {
    if let Some(master) = master {
        let master = Arc::new(Descriptor::new(master)?);
        return Ok((
            Input::terminal(master.clone()),
            vec![(Source::Terminal, master)],
        ));
    }
    let mut pumps = Vec::new();
    for (source, fd) in [
        (Source::Stdout, pipes.stdout),
        (Source::Stderr, pipes.stderr),
    ] {
        if let Some(fd) = fd {
            pumps.push((source, Arc::new(Descriptor::new(fd)?)));
        }
    }
    Ok((
        Input::pipe(pipes.stdin.map(Descriptor::new).transpose()?),
        pumps,
    ))
}

async fn live(
    processes: Arc<Processes>,
    process: Arc<Process>,
    exit: oneshot::Receiver<Exit>,
    pumps: Vec<Pump>,
    deadline: Option<Instant>,
    scope: Option<Arc<Scope>>,
) {
    let (tell_exited, exited) = watch::channel(false);
    let leader = async {
        let end = end_of_leader(&processes, &process, exit, deadline).await;
        if let Some(scope) = scope {
            scope.end().await;
        }
        process.exited.store(true, Ordering::Release);
        tell_exited.send_replace(true);
        end
    };
    let carrying = pumps
        .into_iter()
        .map(|(source, from)| pump_output(process.output.clone(), source, from, exited.clone()));
    let (end, _) = futures::future::join(leader, join_all(carrying)).await;
    process.input.lock().take();
    process.output.finish(end).await;
    tokio::time::sleep(KEEP_ENDED).await;
    processes.remove(&process);
}

/// Waits for the end of the leader, and holds it to its deadline with all of its group.
async fn end_of_leader(
    processes: &Processes,
    process: &Process,
    mut exit: oneshot::Receiver<Exit>,
    deadline: Option<Instant>,
) -> End {
    // The reaper answers always; a status that it lost can only mean that it was killed with it.
    let lost = Exit::Signal(Signal::SIGKILL as i32, false);
    tokio::select! {
        biased;
        exit = &mut exit => return End { exit: exit.unwrap_or(lost), timed_out: false },
        () = passed(deadline) => {}
    }
    let timed_out = processes
        .reaper
        .signal_group(process.pid, Signal::SIGKILL)
        .unwrap_or_else(|e| {
            tracing::error!(
                "process {} is past its deadline and cannot be killed: {e}",
                process.pid
            );
            false
        });
    End {
        exit: exit.await.unwrap_or(lost),
        timed_out,
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
