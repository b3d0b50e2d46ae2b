//! The Connect service `process.Process`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::{
    ConnectError, ErrorCode, InboundStream, RequestContext, Response, ServiceRequest,
    ServiceResult, ServiceStream,
};
use futures::StreamExt;
use guest_rpc::process::__buffa::oneof::stream_input_request::Event as InputEvent;
use guest_rpc::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest,
    ListResponse, Process as Rpc, ProcessInfo, SendInputRequest, SendInputResponse,
    SendSignalRequest, SendSignalResponse, StartRequest, StartResponse, StreamInputRequest,
    StreamInputResponse, UpdateRequest, UpdateResponse,
};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::events::{Bound, Events};
use super::lifetime::{self, Plan};
use super::spawn::Program;
use super::table::{Process, Processes};
use super::{interpreter, request};
use crate::Agent;
use crate::auth::Caller;
use crate::settings::Settings;
use crate::user::User;

/// Creates the service's router, to be merged with the others.
pub fn service(agent: &Agent) -> connectrpc::Router {
    let service = Service {
        settings: agent.settings.clone(),
        processes: agent.processes.clone(),
    };
    connectrpc::Router::new().add_service(Arc::new(service))
}

struct Service {
    settings: Arc<Settings>,
    processes: Arc<Processes>,
}

/// Checks a request and puts everything together that a start needs.
///
/// # Errors
/// `invalid_argument`, naming the field.
pub(super) async fn parse_plan(
    settings: &Arc<Settings>,
    user: User,
    request: StartRequest,
    deadline: Option<Instant>,
) -> Result<Plan, ConnectError> {
    let settings = settings.clone();
    let preparing = tokio::task::spawn_blocking(move || {
        let program = request::parse_program(&request, user, &settings)?;
        Ok::<_, ConnectError>((program, request))
    });
    let (program, request) = preparing
        .await
        .map_err(|e| ConnectError::internal(e.to_string()))??;
    let terminal = request
        .pty
        .as_option()
        .map(request::parse_window)
        .transpose()?;
    Ok(Plan {
        program,
        terminal,
        stdin: request.stdin.unwrap_or(true),
        tag: request.tag,
        config: request.process.into_option().unwrap_or_default(),
        deadline,
        scope: None,
    })
}

// The trait allows any encodable answer; these are the messages themselves.
#[allow(refining_impl_trait)]
impl Rpc for Service {
    async fn list(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<ListResponse> {
        let info = |process: Arc<Process>| ProcessInfo {
            config: process.config.clone().into(),
            pid: process.pid,
            tag: process.tag.clone(),
            ..Default::default()
        };
        let processes = self.processes.running().into_iter().map(info).collect();
        Response::ok(ListResponse {
            processes,
            ..Default::default()
        })
    }

    async fn start(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let user = Caller::of(context.extensions()).rpc_user(&self.settings)?;
        let deadline = context.deadline().map(Instant::from_std);
        let request = request.to_owned_message();
        let plan = parse_plan(&self.settings, user, request, deadline).await?;
        let names = StartNames::from_plan(&plan);
        // In a task of its own: a client that hangs up now must not leave a process without an
        // owner.
        let starting = tokio::spawn(lifetime::start_process(self.processes.clone(), plan));
        let started = starting
            .await
            .map_err(|e| ConnectError::internal(e.to_string()))?;
        let (process, listener) = match started {
            Ok(started) => started,
            Err(error) => return Err(names.explain(error).await),
        };
        let events = Events::new(process.pid, listener, context.headers(), Bound::OfProcess);
        let wrap = |event| StartResponse {
            event: Some(event).into(),
            ..Default::default()
        };
        Ok(Response::stream(events.into_stream(wrap)))
    }

    async fn connect(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let process = self
            .processes
            .find(request.to_owned_message().process.as_option(), true)?;
        let bound = Bound::OfStream(context.deadline().map(Instant::from_std));
        let events = Events::new(
            process.pid,
            process.output.listen(),
            context.headers(),
            bound,
        );
        let wrap = |event| ConnectResponse {
            event: Some(event).into(),
            ..Default::default()
        };
        Ok(Response::stream(events.into_stream(wrap)))
    }

    async fn update(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.processes.find(request.process.as_option(), false)?;
        if let Some(pty) = request.pty.as_option() {
            process.input()?.resize(request::parse_window(pty)?)?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _context: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        let mut process: Option<Arc<Process>> = None;
        while let Some(request) = requests.next().await {
            match request?.to_owned_message().event {
                Some(InputEvent::Start(start)) => {
                    process = Some(self.processes.find(start.process.as_option(), false)?)
                }
                Some(InputEvent::Data(data)) => {
                    let Some(process) = &process else {
                        return Err(ConnectError::invalid_argument(
                            "the first message of StreamInput must be start",
                        ));
                    };
                    process.input()?.write(&data.input).await?;
                }
                Some(InputEvent::Keepalive(_)) | None => {}
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.processes.find(request.process.as_option(), false)?;
        process.input()?.write(&request.input).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let process = self.processes.find(request.process.as_option(), false)?;
        send_signal(&self.processes, &process, request.signal.to_i32())?;
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let process = self
            .processes
            .find(request.to_owned_message().process.as_option(), false)?;
        process.input()?.close().await?;
        Response::ok(CloseStdinResponse::default())
    }
}

/// Sends a signal to the group of a process.
///
/// # Errors
/// `invalid_argument` for another signal than those of the contract, `not_found` if it has ended.
pub(super) fn send_signal(
    processes: &Processes,
    process: &Process,
    number: i32,
) -> Result<(), ConnectError> {
    let signal = match number {
        1 => Signal::SIGHUP,
        2 => Signal::SIGINT,
        3 => Signal::SIGQUIT,
        9 => Signal::SIGKILL,
        10 => Signal::SIGUSR1,
        12 => Signal::SIGUSR2,
        15 => Signal::SIGTERM,
        other => {
            let message = format!("field signal is {other}: give one of 1, 2, 3, 9, 10, 12 and 15");
            return Err(ConnectError::invalid_argument(message));
        }
    };
    let pid = process.pid;
    let ended = || ConnectError::not_found(format!("process {pid} has ended"));
    // Its number may belong to another one by now.
    if !process.running() {
        return Err(ended());
    }
    match processes.reaper.signal_group(pid, signal) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ended()),
        Err(e) => Err(ConnectError::internal(format!(
            "process {pid} cannot be signalled: {e}"
        ))),
    }
}

/// Returns the error for a program that could not be started. Lack of resources is not the caller's
/// mistake; all else is (no such program, not executable, …).
/// Names of a start, for the error if it fails.
pub(super) struct StartNames {
    program: String,
    path: PathBuf,
    user: User,
}

impl StartNames {
    pub(super) fn from_plan(plan: &Plan) -> Self {
        let Program {
            program, cwd, user, ..
        } = &plan.program;
        Self {
            program: program.clone(),
            path: cwd.join(program),
            user: user.clone(),
        }
    }

    /// Explains why the program could not be started.
    pub(super) async fn explain(self, error: io::Error) -> ConnectError {
        let explained = interpreter::explain(error, self.path, &self.user).await;
        start_error(&self.program, &explained)
    }
}

fn start_error(program: &str, error: &io::Error) -> ConnectError {
    let exhausted =
        [Errno::EAGAIN, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE].map(|e| Some(e as i32));
    let full = exhausted.contains(&error.raw_os_error());
    let code = if full {
        ErrorCode::ResourceExhausted
    } else {
        ErrorCode::InvalidArgument
    };
    ConnectError::new(code, guest_rpc::start_error::text(program, error))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::process::spawn::Program;
    use crate::reaper::Reaper;
    use crate::user::lookup_user;

    #[tokio::test]
    async fn ended_process_does_not_signal_the_next_of_its_number() {
        let processes = Arc::new(Processes::new(Reaper::start().unwrap(), None));
        let plan = Plan {
            program: Program {
                program: "/bin/sleep".into(),
                args: vec!["100".into()],
                envs: BTreeMap::new(),
                cwd: "/".into(),
                user: lookup_user(&nix::unistd::getuid().to_string()).unwrap(),
            },
            config: Default::default(),
            tag: None,
            terminal: None,
            stdin: false,
            deadline: None,
            scope: None,
        };
        let (next, _output) = lifetime::start_process(processes.clone(), plan)
            .await
            .unwrap();
        let ended = Process {
            pid: next.pid,
            tag: None,
            config: Default::default(),
            input: Default::default(),
            output: Arc::default(),
            exited: true.into(),
            serial: 0,
        };
        let refused = send_signal(&processes, &ended, 9).unwrap_err();
        assert_eq!(refused.code, ErrorCode::NotFound);
        send_signal(&processes, &next, 9).unwrap();
    }
}
