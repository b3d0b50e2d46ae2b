//! Supervisor of the start command: it runs it, waits as [`super::restart`] says, and runs it again.
//!
//! There is one start command, which the host sets after each boot and each restore. The same one
//! again is no news, so that it goes on over a restore with its back-off: its clock is the
//! monotonic one, which stands still while the guest does. Its task owns all runs; the table has the
//! command with its log as soon as the disk takes that, which may be frozen when the host calls.
//! All of this is in memory: after a boot of the same disk the host sets it anew.

use std::sync::Arc;

use connectrpc::{ConnectError, ErrorCode};
use guest_rpc::command as rpc;
use guest_rpc::process::StartRequest;
use guest_rpc::start_error;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::log::Log;
use super::restart::Policy;
use super::supervision::{Supervised, Supervision};
use super::table::{Command, Commands, START, carry_output};
use crate::process::lifetime;
use crate::process::output::{End, Event, Source};
use crate::process::service::{StartNames, parse_plan};
use crate::reaper::Exit;
use crate::settings::Settings;

/// Exit codes of a shell for a program that does not exist, and for one that cannot be started.
const NO_SUCH_PROGRAM: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

impl Commands {
    /// Sets the start command. The same one again changes its policy alone.
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
        let request = rpc::SuperviseRequest {
            restart: None.into(),
            ..request
        };
        let mut supervised = self.supervised.lock();
        if let Some(present) = supervised.as_ref()
            && present.request == request
        {
            present.supervision.set_policy(policy);
            return Ok(());
        }
        let supervision = Arc::new(Supervision::new(policy));
        let former = supervised.replace(Supervised {
            request: request.clone(),
            supervision: Arc::clone(&supervision),
        });
        let former = former.map(|former| former.supervision);
        let settings = Arc::clone(settings);
        tokio::spawn(Arc::clone(self).run_supervised(settings, request, supervision, former));
        Ok(())
    }

    /// Runs the start command until its last end.
    async fn run_supervised(
        self: Arc<Self>,
        settings: Arc<Settings>,
        request: rpc::SuperviseRequest,
        supervision: Arc<Supervision>,
        former: Option<Arc<Supervision>>,
    ) {
        if let Some(former) = former {
            self.end_former(&former).await;
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
            let begun = Instant::now();
            let exit = self.run_once(&settings, &request, &command).await;
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
        let killed = Exit::Signal(Signal::SIGKILL as i32, false);
        let end = End {
            exit: supervision.last_exit().unwrap_or(killed),
            timed_out: false,
        };
        tracing::info!("the start command has ended for good ({:?})", end.exit);
        self.finish(command, end).await;
    }

    /// Kills the former start command, and waits for its end: what it held, as a port, is free then.
    async fn end_former(&self, former: &Arc<Supervision>) {
        former.stop();
        let is_former = |command: &&Arc<Command>| {
            let supervision = command.supervision.as_ref();
            supervision.is_some_and(|supervision| Arc::ptr_eq(supervision, former))
        };
        // Where it has no log yet it has not run, and never will.
        let Some(command) = self.list().iter().find(is_former).cloned() else {
            return;
        };
        if let Ok(process) = command.process() {
            let killed = self
                .processes
                .reaper
                .signal_group(process.pid, Signal::SIGKILL);
            if let Err(error) = killed {
                tracing::warn!("the former start command cannot be killed: {error}");
            }
        }
        let _ = command
            .log
            .watch()
            .wait_for(|progress| progress.ended.is_some())
            .await;
    }

    /// Runs it once. A reason why it cannot be started is output.
    async fn run_once(
        &self,
        settings: &Arc<Settings>,
        request: &rpc::SuperviseRequest,
        command: &Arc<Command>,
    ) -> Exit {
        let error = match self.start_run(settings, request, command).await {
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
        let plan = parse_plan(settings, user, start, None).await?;
        let names = StartNames::from_plan(&plan);
        let started = lifetime::start_process(Arc::clone(&self.processes), plan).await;
        match started {
            Ok((process, output)) => {
                command.begin_run(&process);
                Ok(output)
            }
            Err(error) => Err(names.explain(error).await),
        }
    }
}
