//! Background commands of fake sandboxes: the same programs, whose output is kept in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::{attach_command_response, exec_response, start_command_response};
use tokio::sync::watch;

use super::{Shared, programs};

/// Bytes of output that a fake sandbox keeps of one command.
pub const KEPT: u64 = 1 << 20;

/// A background command of a fake sandbox.
#[derive(Debug)]
pub(super) struct Background {
    sandbox_id: String,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    command: rpc::Command,
    /// Pieces that are kept, of either stream.
    output: Vec<rpc::attach_command_response::CommandOutput>,
}

impl Background {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nobody panics while it holds this")
    }

    fn command(&self) -> rpc::Command {
        self.state().command.clone()
    }

    pub(super) fn is(&self, id: &str) -> bool {
        self.state().command.id == id
    }

    fn is_running(&self) -> bool {
        self.command().exit_code.is_none()
    }

    fn take(&self, stderr: bool, data: Vec<u8>) {
        let mut state = self.state();
        let piece = rpc::attach_command_response::CommandOutput {
            offset: state.command.output_end,
            stderr,
            data,
            ..Default::default()
        };
        state.command.output_end += piece.data.len() as u64;
        state.output.push(piece);
        while state.command.output_end - state.command.output_start > KEPT {
            let gone = state.output.remove(0);
            state.command.output_start += gone.data.len() as u64;
        }
        self.changed.send_replace(());
    }

    fn end(&self, exit_code: i32) {
        let mut state = self.state();
        state.command.exit_code = Some(exit_code);
        state.command.signal = u32::try_from(exit_code - 128)
            .ok()
            .filter(|&signal| signal > 0);
        state.command.ended_ms = Some(stdx::time::now_ms());
        self.changed.send_replace(());
    }

    /// Ends a run of a start command.
    fn end_run(&self, exit_code: i32) {
        let mut state = self.state();
        let supervision = state.command.supervision.as_option().cloned();
        let mut supervision = supervision.unwrap_or_default();
        let policy = supervision.policy.as_option();
        let condition = policy.and_then(|policy| policy.condition.as_known());
        let is_restarted = match condition {
            Some(rpc::RestartCondition::RESTART_CONDITION_ALWAYS) => true,
            Some(rpc::RestartCondition::RESTART_CONDITION_ON_FAILURE) => exit_code != 0,
            _ => false,
        };
        supervision.last_exit_code = Some(exit_code);
        if is_restarted {
            supervision.next_start_ms = Some(stdx::time::now_ms() + 3_600_000);
        }
        state.command.supervision = supervision.into();
        state.command.pid = 0;
        drop(state);
        if !is_restarted {
            self.end(exit_code);
        }
    }

    /// Returns what a reader at `offset` gets next; `None` at the end.
    fn next(&self, offset: u64) -> Option<attach_command_response::Event> {
        let state = self.state();
        let start = state.command.output_start;
        if offset < start {
            let dropped = rpc::attach_command_response::OutputDropped {
                bytes: start - offset,
                offset: start,
                ..Default::default()
            };
            return Some(dropped.into());
        }
        let behind = |piece: &&rpc::attach_command_response::CommandOutput| {
            offset < piece.offset + piece.data.len() as u64
        };
        let piece = state.output.iter().find(behind)?;
        let skipped = usize::try_from(offset - piece.offset).expect("it is in the piece");
        let rest = rpc::attach_command_response::CommandOutput {
            offset,
            data: piece.data[skipped..].to_vec(),
            ..piece.clone()
        };
        Some(rest.into())
    }
}

pub(super) async fn start(
    shared: &Arc<Shared>,
    request: rpc::StartCommandRequest,
) -> Result<rpc::StartCommandResponse, ConnectError> {
    let name = request.name.clone();
    let is_taken = shared.world().background.iter().any(|other| {
        other.sandbox_id == request.sandbox_id
            && name.is_some()
            && other.command().name == name
            && other.is_running()
    });
    if is_taken {
        return Err(ConnectError::already_exists("a command of that name runs"));
    }
    let exec = rpc::ExecRequest {
        sandbox_id: request.sandbox_id.clone(),
        cmd: request.cmd.clone(),
        args: request.args.clone(),
        envs: request.envs,
        cwd: request.cwd,
        user: request.user,
        timeout_ms: u32::try_from(request.timeout_ms).unwrap_or(u32::MAX),
        stdin: request.stdin,
        terminal: request.terminal.clone(),
        ..Default::default()
    };
    let mut events = programs::start(Arc::clone(shared), exec)?;
    let first = events
        .next()
        .await
        .transpose()?
        .and_then(|first| first.event);
    let result = match first {
        Some(exec_response::Event::Start(start)) => {
            let command = rpc::Command {
                id: format!("cmd-{:08x}", start.pid),
                name,
                pid: start.pid,
                cmd: request.cmd,
                args: request.args,
                terminal: request.terminal.is_set(),
                keep_alive: request.keep_alive,
                started_ms: stdx::time::now_ms(),
                ..Default::default()
            };
            let background = Arc::new(Background {
                sandbox_id: request.sandbox_id,
                state: Mutex::new(State {
                    command: command.clone(),
                    output: Vec::new(),
                }),
                changed: watch::Sender::new(()),
            });
            shared.world().background.push(Arc::clone(&background));
            tokio::spawn(record(Arc::clone(shared), background, events));
            start_command_response::Result::from(command)
        }
        Some(exec_response::Event::End(end)) => start_command_response::Result::from(*end),
        _ => return Err(ConnectError::internal("a program begins with its start")),
    };
    Ok(rpc::StartCommandResponse {
        result: Some(result),
        ..Default::default()
    })
}

/// Starts the start command of a sandbox, if it has one. After a failure it waits for ever, and ends
/// for good otherwise.
pub(super) fn supervise(shared: &Arc<Shared>, sandbox_id: &str) {
    let mut world = shared.world();
    let sandbox = world.sandboxes.get(sandbox_id);
    let Some(command) = sandbox.and_then(|sandbox| sandbox.spec.start_command.as_option().cloned())
    else {
        return;
    };
    let supervision = rpc::Supervision {
        policy: command.restart.clone(),
        ..Default::default()
    };
    let background = Arc::new(Background {
        sandbox_id: sandbox_id.to_owned(),
        state: Mutex::new(State {
            command: rpc::Command {
                id: format!("cmd-{}", stdx::random::hex::<4>()),
                name: Some("start".to_owned()),
                cmd: command.cmd.clone(),
                args: command.args.clone(),
                started_ms: stdx::time::now_ms(),
                supervision: supervision.into(),
                ..Default::default()
            },
            output: Vec::new(),
        }),
        changed: watch::Sender::new(()),
    });
    world.background.push(Arc::clone(&background));
    drop(world);
    let exec = rpc::ExecRequest {
        sandbox_id: sandbox_id.to_owned(),
        cmd: command.cmd,
        args: command.args,
        envs: command.envs,
        cwd: command.cwd,
        user: command.user,
        ..Default::default()
    };
    if let Ok(events) = programs::start(Arc::clone(shared), exec) {
        tokio::spawn(record_run(background, events));
    }
}

async fn record_run(background: Arc<Background>, mut events: ServiceStream<rpc::ExecResponse>) {
    while let Some(Ok(event)) = events.next().await {
        match event.event {
            Some(exec_response::Event::Start(start)) => {
                background.state().command.pid = start.pid;
            }
            Some(exec_response::Event::Stdout(bytes)) => background.take(false, bytes),
            Some(exec_response::Event::Stderr(bytes)) => background.take(true, bytes),
            Some(exec_response::Event::End(end)) => background.end_run(end.exit_code),
            _ => {}
        }
    }
}

async fn record(
    shared: Arc<Shared>,
    background: Arc<Background>,
    mut events: ServiceStream<rpc::ExecResponse>,
) {
    while let Some(Ok(event)) = events.next().await {
        match event.event {
            Some(exec_response::Event::Stdout(bytes)) => background.take(false, bytes),
            Some(exec_response::Event::Stderr(bytes)) => background.take(true, bytes),
            Some(exec_response::Event::End(end)) => background.end(end.exit_code),
            _ => {}
        }
    }
    end_and_report(&shared, &background, 137);
}

/// Ends a command if it has not ended, and reports it.
pub(super) fn end_and_report(shared: &Shared, background: &Background, exit_code: i32) {
    if background.is_running() {
        background.end(exit_code);
    }
    // An error means that there is no watcher.
    let _ = shared.command_ends.send(rpc::CommandsEnded {
        sandbox_id: background.sandbox_id.clone(),
        commands: vec![background.command()],
        ..Default::default()
    });
}

/// Returns a report of each command that has ended.
pub(super) fn ended(shared: &Shared) -> Vec<rpc::CommandsEnded> {
    let world = shared.world();
    let ended = world.background.iter().filter(|it| !it.is_running());
    ended
        .map(|background| rpc::CommandsEnded {
            sandbox_id: background.sandbox_id.clone(),
            commands: vec![background.command()],
            ..Default::default()
        })
        .collect()
}

pub(super) fn list(shared: &Shared, sandbox_id: &str) -> Vec<rpc::Command> {
    let world = shared.world();
    let of_sandbox = world
        .background
        .iter()
        .filter(|background| background.sandbox_id == sandbox_id);
    of_sandbox.map(|background| background.command()).collect()
}

pub(super) fn find(
    shared: &Shared,
    sandbox_id: &str,
    reference: &str,
) -> Result<rpc::Command, ConnectError> {
    find_entry(shared, sandbox_id, reference).map(|background| background.command())
}

fn find_entry(
    shared: &Shared,
    sandbox_id: &str,
    reference: &str,
) -> Result<Arc<Background>, ConnectError> {
    let world = shared.world();
    let fits = |background: &&Arc<Background>| {
        let command = background.command();
        background.sandbox_id == sandbox_id
            && (command.id == reference
                || command.name.as_deref() == Some(reference)
                || command.pid.to_string() == reference)
    };
    let found = world
        .background
        .iter()
        .filter(fits)
        .max_by_key(|background| (background.is_running(), background.command().pid));
    found
        .cloned()
        .ok_or_else(|| ConnectError::not_found(format!("no command '{reference}' runs")))
}

pub(super) fn attach(
    shared: &Shared,
    request: &rpc::AttachCommandRequest,
) -> Result<ServiceStream<rpc::AttachCommandResponse>, ConnectError> {
    use attach_command_response::Event;
    let background = find_entry(shared, &request.sandbox_id, &request.command)?;
    let command = background.command();
    if request.offset > command.output_end {
        return Err(ConnectError::invalid_argument(
            "the offset lies behind the output",
        ));
    }
    let follow = request.follow;
    let wait = Duration::from_millis(request.wait_ms.into());
    let may_wait = request.offset == command.output_end;
    let first = Event::Attached(Box::new(command));
    let changed = background.changed.subscribe();
    let state = (
        background,
        changed,
        request.offset,
        Some(first),
        false,
        may_wait,
    );
    let events = futures::stream::unfold(
        state,
        move |(background, mut changed, mut offset, first, over, mut may_wait)| async move {
            if over {
                return None;
            }
            let event = match first {
                Some(first) => first,
                None => loop {
                    changed.borrow_and_update();
                    let is_over = !background.is_running();
                    if let Some(event) = background.next(offset) {
                        break event;
                    }
                    if is_over {
                        break Event::Ended(Box::new(background.command()));
                    }
                    if follow {
                        changed.changed().await.ok()?;
                    } else if may_wait {
                        may_wait = false;
                        let _ = tokio::time::timeout(wait, changed.changed()).await;
                    } else {
                        return None;
                    }
                },
            };
            let over = matches!(event, Event::Ended(_));
            offset = match &event {
                Event::Output(output) => output.offset + output.data.len() as u64,
                Event::Dropped(dropped) => dropped.offset,
                _ => offset,
            };
            let message = rpc::AttachCommandResponse {
                event: Some(event),
                ..Default::default()
            };
            Some((
                Ok(message),
                (background, changed, offset, None, over, may_wait),
            ))
        },
    );
    Ok(events.boxed())
}
