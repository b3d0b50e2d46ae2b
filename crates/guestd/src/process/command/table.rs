//! Table of commands, and the task that carries output into the log of each.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use connectrpc::ConnectError;
use guest_rpc::command as rpc;
use guest_rpc::process::ProcessConfig;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::log::{Ended, Log};
use super::restart::exit_code;
use super::supervision::{Supervised, Supervision};
use crate::process::input::InputError;
use crate::process::lifetime::{self, Plan};
use crate::process::output::{End, Event, Source};
use crate::process::service::StartNames;
use crate::process::table::{Process, Processes};
use crate::reaper::Exit;

/// Maximum number of commands that run at a time: together they may fill 1 GiB of disk.
const MAX_RUNNING: usize = 32;
/// Maximum number of commands that are kept after their end.
const MAX_ENDED: usize = 32;
/// Maximum number of bytes of output that all of these take together.
const MAX_ENDED_BYTES: u64 = 128 << 20;
/// Time for which a command is kept after its end.
const KEEP_ENDED: Duration = Duration::from_secs(3600);
/// Maximum number of readers of one command at a time.
const MAX_READERS: usize = 16;
/// Longest name.
const MAX_NAME: usize = 63;
/// Bytes of arguments that are kept to be shown, each with one for its end.
const MAX_SHOWN_ARGS: usize = 4 << 10;
/// Name of the start command.
pub(super) const START: &str = "start";
/// Beginning of all ids.
const ID_PREFIX: &str = "cmd-";

/// A command that runs, or has ended and is kept.
#[derive(Debug)]
pub struct Command {
    pub id: String,
    pub name: Option<String>,
    pub terminal: bool,
    pub keep_alive: bool,
    shown: Shown,
    /// Serial number of its process; of the start command a number of its own.
    pub(super) serial: u64,
    run: Mutex<Run>,
    /// Restarts of the start command.
    pub supervision: Option<Arc<Supervision>>,
    pub log: Log,
    pub readers: Arc<Semaphore>,
}

/// Present process of a command, or its last one.
#[derive(Debug, Default)]
struct Run {
    started_ms: i64,
    /// 0 while the start command does not run.
    pid: u32,
    /// Belongs to its own task: gone, with the environment of the request, soon after the end.
    process: Weak<Process>,
}

impl Run {
    fn begin(process: &Arc<Process>) -> Self {
        Self {
            started_ms: stdx::time::now_ms(),
            pid: process.pid,
            process: Arc::downgrade(process),
        }
    }
}

/// Program and arguments as they are shown.
#[derive(Debug, Default)]
struct Shown {
    cmd: String,
    args: Vec<String>,
    args_truncated: bool,
}

impl Shown {
    fn new(config: &ProcessConfig) -> Self {
        let args = shown_args(&config.args);
        Self {
            cmd: config.cmd.chars().take(MAX_SHOWN_ARGS).collect(),
            args: args.to_vec(),
            args_truncated: args.len() < config.args.len(),
        }
    }
}

impl Command {
    /// Creates the start command, before its first run.
    pub(super) fn supervised(
        config: &ProcessConfig,
        supervision: Arc<Supervision>,
        serial: u64,
        log: Log,
    ) -> Self {
        Self {
            id: new_id(),
            name: Some(START.to_owned()),
            terminal: false,
            keep_alive: false,
            shown: Shown::new(config),
            serial,
            // Of the first attempt, until a process is there: its program may not exist.
            run: Mutex::new(Run {
                started_ms: stdx::time::now_ms(),
                ..Run::default()
            }),
            supervision: Some(supervision),
            log,
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        }
    }

    /// Records that a run of the start command has begun.
    pub(super) fn begin_run(&self, process: &Arc<Process>) {
        *self.run.lock() = Run::begin(process);
    }

    /// Records that the present run has ended.
    pub(super) fn end_run(&self) {
        let mut run = self.run.lock();
        run.pid = 0;
        run.process = Weak::new();
    }

    /// Returns its process.
    ///
    /// # Errors
    /// [`InputError::Ended`].
    pub fn process(&self) -> Result<Arc<Process>, InputError> {
        self.run.lock().process.upgrade().ok_or(InputError::Ended)
    }

    /// Returns false once it has ended; the start command can wait for its next run.
    fn is_running(&self) -> bool {
        self.log.progress().ended.is_none()
    }

    fn size(&self) -> u64 {
        let progress = self.log.progress();
        progress.end - progress.start
    }

    /// Returns the command as it is shown.
    pub fn info(&self) -> rpc::Command {
        let progress = self.log.progress();
        let exit = progress.ended.map(|ended| ended.end.exit);
        let signal = match exit {
            None | Some(Exit::Code(_)) => None,
            Some(Exit::Signal(number, _)) => u32::try_from(number).ok(),
        };
        let run = self.run.lock();
        let supervision = self.supervision.as_ref();
        rpc::Command {
            id: self.id.clone(),
            name: self.name.clone(),
            pid: run.pid,
            cmd: self.shown.cmd.clone(),
            args: self.shown.args.clone(),
            args_truncated: self.shown.args_truncated,
            terminal: self.terminal,
            keep_alive: self.keep_alive,
            started_ms: run.started_ms,
            ended_ms: progress.ended.map(|ended| ended.at_ms),
            exit_code: exit.map(exit_code),
            signal,
            timed_out: progress.ended.is_some_and(|ended| ended.end.timed_out),
            output_start: progress.start,
            output_end: progress.end,
            supervision: supervision.map(|it| it.to_message()).into(),
            ..Default::default()
        }
    }
}

fn new_id() -> String {
    format!("{ID_PREFIX}{}", stdx::random::hex::<4>())
}

/// Returns the first arguments, as far as they fit in [`MAX_SHOWN_ARGS`].
fn shown_args(args: &[String]) -> &[String] {
    let mut bytes = 0;
    let fits = |argument: &&String| {
        bytes += argument.len() + 1;
        bytes <= MAX_SHOWN_ARGS
    };
    &args[..args.iter().take_while(fits).count()]
}

/// Table of commands; see the module.
#[derive(Debug)]
pub struct Commands {
    pub(super) processes: Arc<Processes>,
    pub(super) supervised: Mutex<Option<Supervised>>,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// In the order of their start.
    all: Vec<Arc<Command>>,
    /// Names of commands that are being started.
    starting: Vec<Option<String>>,
    /// Time at which the last command with `keep_alive` ended.
    last_kept_alive: Option<Instant>,
}

/// Place of a command that is being started; given back when this is dropped.
struct Reservation<'a> {
    commands: &'a Commands,
    name: Option<String>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut entries = self.commands.entries.lock();
        if let Some(at) = entries.starting.iter().position(|name| *name == self.name) {
            entries.starting.swap_remove(at);
        }
    }
}

/// Checks a name: one that is no pid.
fn check_name(name: &str) -> Result<(), ConnectError> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let has_form = name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && name.bytes().all(is_inner);
    if has_form {
        return Ok(());
    }
    Err(ConnectError::invalid_argument(format!(
        "the name of a command must be 1 to {MAX_NAME} letters, digits, '.', '_' and '-', and begin with a letter"
    )))
}

impl Commands {
    /// Creates an empty table over the table of processes.
    pub fn new(processes: Arc<Processes>) -> Self {
        Self {
            processes,
            supervised: Mutex::default(),
            entries: Mutex::default(),
        }
    }

    /// Starts a command; its name is the tag of the plan.
    ///
    /// # Errors
    /// `already_exists`, `failed_precondition`, and the reason why it could not be started.
    pub(super) async fn start(
        self: Arc<Self>,
        plan: Plan,
        keep_alive: bool,
    ) -> Result<Arc<Command>, ConnectError> {
        let name = plan.tag.clone();
        let names = StartNames::from_plan(&plan);
        let reservation = self.reserve(name.clone())?;
        let id = new_id();
        let terminal = plan.terminal.is_some();
        let plan = Plan {
            tag: name.clone().or_else(|| Some(id.clone())),
            ..plan
        };
        let log = tokio::task::spawn_blocking(Log::create)
            .await
            .map_err(|e| ConnectError::internal(e.to_string()))?;
        let started = lifetime::start_process(self.processes.clone(), plan).await;
        let (process, output) = match started {
            Ok(started) => started,
            Err(error) => return Err(names.explain(error).await),
        };
        let command = Arc::new(Command {
            id,
            name,
            terminal,
            keep_alive,
            shown: Shown::new(&process.config),
            serial: process.serial,
            run: Mutex::new(Run::begin(&process)),
            supervision: None,
            log,
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        });
        self.entries.lock().all.push(command.clone());
        drop(reservation);
        tokio::spawn(self.record(command.clone(), output));
        Ok(command)
    }

    fn reserve(&self, name: Option<String>) -> Result<Reservation<'_>, ConnectError> {
        if let Some(name) = &name {
            check_name(name)?;
        }
        let mut entries = self.entries.lock();
        let running = entries.all.iter().filter(|command| command.is_running());
        if running.count() + entries.starting.len() >= MAX_RUNNING {
            return Err(ConnectError::failed_precondition(format!(
                "{MAX_RUNNING} background commands run in this sandbox, which is as many as may: end one first"
            )));
        }
        let is_taken = |name: &String| {
            let mut running = entries.all.iter().filter(|command| command.is_running());
            running.any(|command| command.name.as_ref() == Some(name))
                || entries.starting.iter().flatten().any(|other| other == name)
        };
        if let Some(name) = name.as_ref().filter(|name| is_taken(name)) {
            return Err(ConnectError::already_exists(format!(
                "a command '{name}' runs in this sandbox: end it first, or take another name"
            )));
        }
        entries.starting.push(name.clone());
        Ok(Reservation {
            commands: self,
            name,
        })
    }

    /// Adds the start command.
    pub(super) fn insert(&self, command: Arc<Command>) {
        self.entries.lock().all.push(command);
    }

    /// Returns all commands, oldest first.
    pub(super) fn list(&self) -> Vec<Arc<Command>> {
        self.entries.lock().all.clone()
    }

    /// Finds a command by id, by name (the youngest, running ones first) or by pid.
    ///
    /// # Errors
    /// `not_found`.
    pub(super) fn find(&self, reference: &str) -> Result<Arc<Command>, ConnectError> {
        let pid: Option<u32> = reference.parse().ok().filter(|pid| *pid > 0);
        let entries = self.entries.lock();
        let fits = |command: &&Arc<Command>| match pid {
            Some(pid) => command.run.lock().pid == pid,
            None => command.id == reference || command.name.as_deref() == Some(reference),
        };
        let found = entries.all.iter().filter(fits).max_by_key(|command| {
            (
                command.id == reference,
                command.is_running(),
                command.serial,
            )
        });
        found.cloned().ok_or_else(|| {
            let short: String = reference.chars().take(64).collect();
            ConnectError::not_found(format!(
                "no command '{short}' runs in this sandbox or is kept: {MAX_ENDED} are kept for {} minutes after their end",
                KEEP_ENDED.as_secs() / 60
            ))
        })
    }

    /// Returns the number of commands with `keep_alive` that run; if there is none, the time since
    /// the last one ended.
    pub(super) fn keep_alive(&self) -> (usize, Option<Duration>) {
        let entries = self.entries.lock();
        let kept = |command: &&Arc<Command>| command.keep_alive && command.is_running();
        match entries.all.iter().filter(kept).count() {
            0 => (0, entries.last_kept_alive.map(|last| last.elapsed())),
            running => (running, None),
        }
    }

    /// Carries output into the log until the end, and forgets the command some time after it.
    async fn record(self: Arc<Self>, command: Arc<Command>, mut output: mpsc::Receiver<Event>) {
        let end = carry_output(&command, &mut output).await;
        self.record_end(&command, end);
        // Dropped for the wait: its log must go when newer ones need the room.
        let serial = command.serial;
        drop(command);
        self.forget_later(serial).await;
    }

    /// Records the end of a command.
    pub(super) fn record_end(&self, command: &Command, end: End) {
        let mut entries = self.entries.lock();
        // Under the lock: who no longer sees it run sees when it ended.
        if command.keep_alive {
            entries.last_kept_alive = Some(Instant::now());
        }
        command.log.finish(Ended {
            end,
            at_ms: stdx::time::now_ms(),
        });
        entries.remove_excess();
    }

    /// Forgets a command that has ended, some time later.
    pub(super) async fn forget_later(self: Arc<Self>, serial: u64) {
        tokio::time::sleep(KEEP_ENDED).await;
        let mut entries = self.entries.lock();
        entries.all.retain(|other| other.serial != serial);
    }
}

impl Entries {
    /// Removes the commands that ended first, until the rest is within its bounds.
    fn remove_excess(&mut self) {
        let mut ended: Vec<(i64, u64, Arc<Command>)> = self
            .all
            .iter()
            .filter_map(|command| {
                let ended = command.log.progress().ended?;
                Some((ended.at_ms, command.size(), command.clone()))
            })
            .collect();
        ended.sort_by_key(|(at_ms, _, command)| (*at_ms, command.serial));
        let mut bytes = 0;
        let mut kept = 0;
        for (_, size, command) in ended.into_iter().rev() {
            bytes += size;
            kept += 1;
            // The last one is kept however large it is.
            if kept > 1 && (kept > MAX_ENDED || bytes > MAX_ENDED_BYTES) {
                self.all.retain(|other| !Arc::ptr_eq(other, &command));
            }
        }
    }
}

/// Carries output into the log, as fast as the disk takes it. Returns the end of the process.
pub(super) async fn carry_output(
    command: &Arc<Command>,
    output: &mut mpsc::Receiver<Event>,
) -> End {
    let mut events = Vec::new();
    loop {
        if output.recv_many(&mut events, 64).await == 0 {
            // The task of a process always tells its end; without one it was torn down with the
            // agent.
            return End {
                exit: Exit::Signal(9, false),
                timed_out: false,
            };
        }
        let mut end = None;
        let pieces: Vec<(Source, Bytes)> = events
            .drain(..)
            .filter_map(|event| match event {
                Event::Data(source, bytes) => Some((source, bytes)),
                Event::End(reason) => {
                    end = Some(reason);
                    None
                }
            })
            .collect();
        let command = command.clone();
        let append = tokio::task::spawn_blocking(move || {
            for (source, bytes) in pieces {
                command.log.append(source, &bytes);
            }
        });
        if let Err(error) = append.await {
            tracing::error!("output of a command is lost: {error}");
        }
        if let Some(end) = end {
            return end;
        }
    }
}

#[cfg(test)]
impl Command {
    /// Creates a command without a process.
    pub fn example(serial: u64, keep_alive: bool) -> Arc<Self> {
        Arc::new(Self {
            id: format!("{ID_PREFIX}{serial}"),
            name: None,
            terminal: false,
            keep_alive,
            shown: Shown::default(),
            serial,
            run: Mutex::default(),
            supervision: None,
            log: Log::create(),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reaper::Reaper;

    const END: End = End {
        exit: Exit::Code(0),
        timed_out: false,
    };

    fn table() -> Arc<Commands> {
        let processes = Processes::new(Reaper::start().unwrap(), None);
        Arc::new(Commands::new(Arc::new(processes)))
    }

    /// Has a command recorded; the sender is its process.
    fn record(commands: &Arc<Commands>, command: &Arc<Command>) -> mpsc::Sender<Event> {
        let (process, output) = mpsc::channel(8);
        commands.entries.lock().all.push(command.clone());
        tokio::spawn(commands.clone().record(command.clone(), output));
        process
    }

    #[tokio::test]
    async fn logs_go_with_excess_commands() {
        let commands = table();
        let mut all = Vec::new();
        for serial in 0..40 {
            let command = Command::example(serial, false);
            let process = record(&commands, &command);
            let mut progress = command.log.watch();
            process.send(Event::End(END)).await.unwrap();
            progress.wait_for(|p| p.ended.is_some()).await.unwrap();
            all.push(Arc::downgrade(&command));
        }
        let kept = || all.iter().filter(|command| command.strong_count() > 0);
        // The task of the last one may still be on its way to its wait.
        let settled = async {
            while kept().any(|command| command.strong_count() > 1) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let settled = tokio::time::timeout(Duration::from_secs(10), settled).await;
        settled.expect("nothing but the table keeps commands that ended");
        assert_eq!(kept().count(), MAX_ENDED);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn end_of_keep_alive_is_known_at_once() {
        let commands = table();
        for serial in 0..100 {
            let command = Command::example(serial, true);
            let process = record(&commands, &command);
            commands.entries.lock().last_kept_alive = None;
            assert_eq!(commands.keep_alive(), (1, None));
            process.send(Event::End(END)).await.unwrap();
            let idle = loop {
                match commands.keep_alive() {
                    (0, idle) => break idle,
                    _ => std::hint::spin_loop(),
                }
            };
            assert!(idle.is_some());
        }
    }

    #[test]
    fn names_are_no_pids() {
        for name in ["web", "a", "Build.2_x-y", &"x".repeat(MAX_NAME)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "17",
            "1a",
            "-a",
            ".a",
            "a/b",
            "a b",
            "\u{e4}",
            &"x".repeat(MAX_NAME + 1),
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn shown_args_are_bounded() {
        let args = ["a".to_owned(), "b".repeat(MAX_SHOWN_ARGS), "c".to_owned()];
        assert_eq!(shown_args(&args), &args[..1]);
        assert_eq!(shown_args(&args[..1]), &args[..1]);
        let empty = vec![String::new(); MAX_SHOWN_ARGS + 1];
        assert_eq!(shown_args(&empty).len(), MAX_SHOWN_ARGS);
    }
}
