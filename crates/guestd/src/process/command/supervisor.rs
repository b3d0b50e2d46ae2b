//! Supervisor of the start command: it runs it, waits as [`super::restart`] says, and runs it
//! again.
//!
//! There is one start command, which the host sets after each boot and each restore. The same one
//! again changes nothing but its policy, so that it goes on over a restore with its back-off: its
//! clock is the monotonic one, which stands still while the guest does. Its task owns all runs; the table has the
//! command with its log as soon as the disk takes that, which may be frozen when the host calls.
//! All of this is in memory: after a boot of the same disk the host sets it anew.
//!
//! All processes of a run end with its first one ([`crate::process::scope`]), so no run meets what
//! another left behind. A start command that replaces another waits for the end of that one's
//! supervisor, and so for the ends of all before it.

use std::sync::Arc;

use connectrpc::{ConnectError, ErrorCode};
use guest_rpc::command as rpc;
use guest_rpc::process::{ProcessConfig, StartRequest};
use guest_rpc::start_error;
use nix::errno::Errno;
use nix::libc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::log::Log;
use super::restart::Policy;
use super::supervision::{Supervised, Supervision};
use super::table::{Command, Commands, START, carry_output};
use crate::process::lifetime::{self, Plan};
use crate::process::output::{End, Event, Source};
use crate::process::scope::Scope;
use crate::process::service::{StartNames, parse_plan, send_signal};
use crate::process::table::Process;
use crate::reaper::Exit;
use crate::settings::Settings;

/// Signals after which the start command is not started again, as `docker kill` has it.
const LAST_SIGNALS: [i32; 2] = [libc::SIGKILL, libc::SIGTERM];
/// Exit codes of a shell for a program that does not exist, and for one that cannot be started.
const NO_SUCH_PROGRAM: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

impl Commands {
    /// Sets the start command. The same one again changes its policy alone, unless it has ended for
    /// good and is asked for anew.
    ///
    /// # Errors
    /// `invalid_argument` where there is no program.
    pub(super) fn supervise(
        self: &Arc<Self>,
        settings: &Arc<Settings>,
        request: rpc::SuperviseRequest,
    ) -> Result<(), ConnectError> {
        let cmd = request.process.as_option().map(|process| &process.cmd);
        if cmd.is_none_or(String::is_empty) {
            return Err(ConnectError::invalid_argument(
                "field process.cmd is missing: give the program of the start command",
            ));
        }
        let policy = request.restart.as_option().cloned().unwrap_or_default();
        let policy = Policy::from_message(&policy);
        let restart_ended = request.restart_ended;
        let request = known_command(request);
        let mut supervised = self.supervised.lock();
        if let Some(present) = supervised.as_ref()
            && present.request == request
            && !(restart_ended && present.is_over())
        {
            present.supervision.set_policy(policy);
            return Ok(());
        }
        let former = supervised.take().map(|former| {
            self.kill_start_command(&former.supervision);
            former.task
        });
        let supervision = Arc::new(Supervision::new(policy));
        let running = Arc::clone(self).run_supervised(
            Arc::clone(settings),
            request.clone(),
            Arc::clone(&supervision),
            former,
        );
        *supervised = Some(Supervised {
            request,
            supervision,
            task: tokio::spawn(running),
        });
        Ok(())
    }

    /// Runs the start command until its last end.
    async fn run_supervised(
        self: Arc<Self>,
        settings: Arc<Settings>,
        request: rpc::SuperviseRequest,
        supervision: Arc<Supervision>,
        former: Option<JoinHandle<()>>,
    ) {
        if let Some(former) = former
            && let Err(error) = former.await
        {
            tracing::error!("the supervisor of the former start command failed: {error}");
        }
        if supervision.is_stopped() {
            // Replaced before its first run.
            return;
        }
        let log = match tokio::task::spawn_blocking(Log::create).await {
            Ok(log) => log,
            Err(error) => return tracing::error!("the start command cannot be started: {error}"),
        };
        let config = request.process.as_option().cloned().unwrap_or_default();
        let serial = self.processes.next_serial();
        let command = Command::supervised(&config, Arc::clone(&supervision), serial, log);
        let command = Arc::new(command);
        self.insert(Arc::clone(&command));
        while supervision.begin_run() {
            // Of each run: whatever cleans up empty cgroups in the guest may have removed that of the
            // run before.
            let scope = Arc::new(Scope::create(&self.processes, START));
            let begun = Instant::now();
            let exit = self.run_once(&settings, &request, &command, &scope).await;
            let wait = supervision.end_run(exit, begun.elapsed());
            command.end_run();
            let Some(wait) = wait else { break };
            tracing::info!(
                "the start command ended ({exit:?}): restart {} in {} ms",
                supervision.count() + 1,
                wait.as_millis()
            );
            supervision.wait(wait).await;
        }
        let killed = Exit::Signal(libc::SIGKILL, false);
        let end = End {
            exit: supervision.last_exit().unwrap_or(killed),
            timed_out: false,
        };
        tracing::info!("the start command has ended for good ({:?})", end.exit);
        self.record_end(&command, end);
        tokio::spawn(self.forget_later(command.serial));
    }

    /// Signals the process group of a command.
    ///
    /// # Errors
    /// `not_found` when it has ended, `failed_precondition` while a start command does not run and
    /// the signal is none that ends it for good, `invalid_argument` for one that is not known.
    pub(super) fn signal(&self, command: &Command, signal: i32) -> Result<(), ConnectError> {
        let supervision = command.supervision.as_ref();
        let stopped = supervision.filter(|_| LAST_SIGNALS.contains(&signal));
        if stopped.is_some_and(|supervision| supervision.stop(signal)) {
            return Ok(());
        }
        let sent = match command.process() {
            Ok(process) => send_signal(&self.processes, &process, signal),
            Err(ended) => Err(ended.into()),
        };
        let is_ended = command.log.progress().ended.is_some();
        sent.or_else(|error| match (supervision, stopped) {
            _ if is_ended => Err(error),
            // One that waits for its next run ends with the wait.
            (_, Some(_)) => Ok(()),
            (Some(_), None) => Err(ConnectError::failed_precondition(
                "the start command does not run now and will be started again: try again later, or end it with SIGTERM",
            )),
            (None, None) => Err(error),
        })
    }

    /// Kills the present run of a start command, and makes it the last one.
    fn kill_start_command(&self, supervision: &Arc<Supervision>) {
        if supervision.stop(libc::SIGKILL) {
            return;
        }
        let is_its = |command: &&Arc<Command>| {
            let other = command.supervision.as_ref();
            other.is_some_and(|other| Arc::ptr_eq(other, supervision))
        };
        // Where it has no log yet it has not run, and never will.
        if let Some(command) = self.list().iter().find(is_its)
            && let Ok(process) = command.process()
        {
            self.signal_run(&process, libc::SIGKILL);
        }
    }

    fn signal_run(&self, process: &Process, signal: i32) {
        if let Err(error) = send_signal(&self.processes, process, signal) {
            // It ended by itself.
            tracing::debug!("the start command does not take signal {signal}: {error}");
        }
    }

    /// Runs it once. A reason why it cannot be started is output.
    async fn run_once(
        &self,
        settings: &Arc<Settings>,
        request: &rpc::SuperviseRequest,
        command: &Arc<Command>,
        scope: &Arc<Scope>,
    ) -> Exit {
        let error = match self.start_run(settings, request, command, scope).await {
            Ok(mut output) => return carry_output(command, &mut output).await.exit,
            Err(error) => error,
        };
        let text = error.message.unwrap_or_default();
        let code = match start_error::number(&text) {
            Some(number) if number == Errno::ENOENT as i32 => NO_SUCH_PROGRAM,
            _ => NOT_EXECUTABLE,
        };
        let command = Arc::clone(command);
        let append = move || {
            command
                .log
                .append(Source::Stderr, format!("{text}\n").as_bytes())
        };
        let _ = tokio::task::spawn_blocking(append).await;
        Exit::Code(code)
    }

    async fn start_run(
        &self,
        settings: &Arc<Settings>,
        request: &rpc::SuperviseRequest,
        command: &Arc<Command>,
        scope: &Arc<Scope>,
    ) -> Result<mpsc::Receiver<Event>, ConnectError> {
        let user = settings.user(request.user.as_deref());
        let user =
            user.map_err(|e| ConnectError::new(ErrorCode::InvalidArgument, e.to_string()))?;
        let start = StartRequest {
            process: request.process.clone(),
            tag: Some(START.to_owned()),
            stdin: Some(false),
            ..Default::default()
        };
        let plan = Plan {
            scope: Some(Arc::clone(scope)),
            ..parse_plan(settings, user, start, None).await?
        };
        let names = StartNames::from_plan(&plan);
        let started = lifetime::start_process(Arc::clone(&self.processes), plan).await;
        match started {
            Ok((process, output)) => {
                command.begin_run(&process);
                let supervision = command.supervision.as_ref();
                if let Some(signal) = supervision.and_then(|it| it.confirm_run()) {
                    self.signal_run(&process, signal);
                }
                Ok(output)
            }
            Err(error) => Err(names.explain(error).await),
        }
    }
}

/// Returns the command of a request without its policy, in the fields that this version knows: a
/// host of a later version may send more, and the command that runs is the same one.
fn known_command(request: rpc::SuperviseRequest) -> rpc::SuperviseRequest {
    let process = request.process.into_option().unwrap_or_default();
    let process = ProcessConfig {
        cmd: process.cmd,
        args: process.args,
        envs: process.envs,
        cwd: process.cwd,
        ..Default::default()
    };
    rpc::SuperviseRequest {
        process: process.into(),
        user: request.user,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use buffa::Message as _;

    use super::*;
    use crate::process::table::Processes;
    use crate::reaper::{AfterLeader, Reaper};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn sleep_forever() -> rpc::SuperviseRequest {
        let config = ProcessConfig {
            cmd: "sleep".to_owned(),
            args: vec!["1000".to_owned()],
            ..Default::default()
        };
        let policy = rpc::RestartPolicy {
            condition: rpc::RestartCondition::RESTART_CONDITION_ALWAYS.into(),
            ..Default::default()
        };
        rpc::SuperviseRequest {
            process: config.into(),
            restart: policy.into(),
            ..Default::default()
        }
    }

    async fn find_start_command(commands: &Commands) -> Arc<Command> {
        let finding = async {
            loop {
                match commands.find(START) {
                    Ok(command) => break command,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, finding).await;
        found.expect("the start command is listed")
    }

    #[test]
    fn fields_of_later_version_change_nothing() {
        // Field 100, with the number 1.
        let later = [0xa0, 0x06, 0x01];
        let request = sleep_forever();
        let process = request.process.as_option().unwrap();
        let bytes = [process.encode_to_vec(), later.to_vec()].concat();
        let mut of_later = request.clone();
        of_later.process = ProcessConfig::decode_from_slice(&bytes).unwrap().into();
        let bytes = [of_later.encode_to_vec(), later.to_vec()].concat();
        let of_later = rpc::SuperviseRequest::decode_from_slice(&bytes).unwrap();
        assert_ne!(of_later, request);
        assert_eq!(known_command(of_later), known_command(request));
    }

    /// On one thread: a command that is listed is being started, in the same step of its task.
    #[tokio::test]
    async fn stop_during_start_ends_run() {
        let processes = Arc::new(Processes::new(Reaper::start().unwrap(), None));
        let commands = Arc::new(Commands::new(Arc::clone(&processes)));
        let (entered, begun) = tokio::sync::oneshot::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        // Holds up every start.
        let holding = std::thread::spawn(move || {
            let fork = || -> io::Result<(u32, ())> {
                let _ = entered.send(());
                let _ = held.recv();
                Err(io::Error::other("nothing is started"))
            };
            processes.reaper.adopt(AfterLeader::Keep, fork).is_err()
        });
        begun.await.unwrap();
        let settings = Arc::new(Settings::new(false));
        commands.supervise(&settings, sleep_forever()).unwrap();
        let command = find_start_command(&commands).await;
        assert!(command.process().is_err());
        commands.signal(&command, libc::SIGTERM).unwrap();
        release.send(()).unwrap();
        assert!(holding.join().unwrap());
        let mut progress = command.log.watch();
        let ended = progress.wait_for(|progress| progress.ended.is_some());
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        let ended = ended.expect("it ends").unwrap().ended.unwrap();
        assert_eq!(ended.end.exit, Exit::Signal(libc::SIGTERM, false));
        assert!(commands.signal(&command, libc::SIGTERM).is_err());
    }
}
