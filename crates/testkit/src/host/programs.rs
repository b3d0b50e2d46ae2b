//! Programs that fake sandboxes play:
//!
//! - `print OUT ERR CODE`: writes the two and exits. `about`: writes working directory, user and
//!   environment.
//! - `cat`: gives its input back. `bytes`: writes each byte value once. `size`: writes each size of
//!   its terminal.
//! - `sleep`: until a signal ends it. `deaf`: the same, and reads nothing. `stubborn`: until
//!   SIGKILL. `careful`: writes each signal, and ends well on SIGTERM and SIGINT. `flood`: writes
//!   until its reader is gone.
//! - `much`: writes the given number of MiB and exits with 3. `count`: writes how many arguments it
//!   has.
//! - `vanish`: the stream ends without an exit. `script` is there and cannot be executed; anything
//!   else is not there.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::exec_response::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;

const PROGRAMS: [&str; 13] = [
    "print", "about", "cat", "bytes", "size", "sleep", "deaf", "stubborn", "careful", "flood",
    "much", "count", "vanish",
];
const SIGKILL: u32 = 9;

/// The end of a running program that its sandbox holds; dropping it kills the program.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) sandbox_id: String,
    /// Queue of a single piece, so that a program that reads nothing stops its writer.
    pub(super) input: mpsc::Sender<rpc::SendInputRequest>,
    pub(super) signals: mpsc::Sender<u32>,
}

pub(super) fn start(
    shared: Arc<Shared>,
    request: rpc::ExecRequest,
) -> Result<ServiceStream<rpc::ExecResponse>, ConnectError> {
    if !PROGRAMS.contains(&request.cmd.as_str()) {
        let end = not_started(&request.cmd);
        return Ok(futures::stream::iter([Ok(message(Event::from(end)))]).boxed());
    }
    let (output, receiver) = mpsc::channel(4);
    let (input, inputs) = mpsc::channel(1);
    let (signals, mut signalled) = mpsc::channel(4);
    let pid = {
        let mut world = shared.world();
        let pid = world.next_pid();
        world.processes.insert(
            pid,
            Process {
                sandbox_id: request.sandbox_id.clone(),
                input,
                signals,
            },
        );
        pid
    };
    tokio::spawn(async move {
        let deadline = Duration::from_millis(request.timeout_ms.into());
        let forever = request.timeout_ms == 0;
        let mut program = Program {
            output: output.clone(),
            inputs,
            shared: Arc::clone(&shared),
        };
        let start = rpc::exec_response::ExecStart {
            pid,
            ..Default::default()
        };
        let cmd = request.cmd.clone();
        let play = async {
            program.say(Event::from(start)).await?;
            program.play(request).await
        };
        let last = tokio::select! {
            exit_code = play => exit_code.map(end),
            exit_code = ended_by_signal(&cmd, &output, &mut signalled) => Some(end(exit_code)),
            () = tokio::time::sleep(deadline), if !forever => {
                Some(Err(ConnectError::deadline_exceeded("the deadline passed and the process was killed")))
            }
            () = output.closed() => None,
        };
        if output.is_closed() {
            shared.world().hung_up.insert(pid);
        } else if let Some(last) = last {
            let _ = output.send(last).await;
        }
        shared.world().processes.remove(&pid);
    });
    Ok(ReceiverStream::new(receiver).boxed())
}

fn not_started(cmd: &str) -> rpc::exec_response::ExecEnd {
    let (exit_code, reason) = match cmd {
        "script" => (126, "Permission denied (os error 13)"),
        _ => (127, "No such file or directory (os error 2)"),
    };
    rpc::exec_response::ExecEnd {
        exit_code,
        error: Some(format!("cannot start '{cmd}': {reason}")),
        ..Default::default()
    }
}

async fn ended_by_signal(
    cmd: &str,
    output: &mpsc::Sender<Answer>,
    signals: &mut mpsc::Receiver<u32>,
) -> i32 {
    loop {
        let Some(signal) = signals.recv().await else {
            return std::future::pending().await;
        };
        match cmd {
            "stubborn" if signal != SIGKILL => {}
            "careful" if signal != SIGKILL => {
                let _ = output
                    .send(Ok(message(Event::Stdout(
                        format!("signal {signal}\n").into_bytes(),
                    ))))
                    .await;
                if matches!(signal, 2 | 15) {
                    return 0;
                }
            }
            _ => return 128 + i32::try_from(signal).unwrap_or_default(),
        }
    }
}

type Answer = Result<rpc::ExecResponse, ConnectError>;

fn message(event: Event) -> rpc::ExecResponse {
    rpc::ExecResponse {
        event: Some(event),
        ..Default::default()
    }
}

fn end(exit_code: i32) -> Answer {
    Ok(message(Event::from(rpc::exec_response::ExecEnd {
        exit_code,
        ..Default::default()
    })))
}

struct Program {
    output: mpsc::Sender<Answer>,
    inputs: mpsc::Receiver<rpc::SendInputRequest>,
    shared: Arc<Shared>,
}

impl Program {
    /// Sends an event; `None` when the reader is gone.
    async fn say(&self, event: Event) -> Option<()> {
        self.output.send(Ok(message(event))).await.ok()
    }

    /// Plays a program. Returns its exit code; `None` for an end without one.
    async fn play(&mut self, request: rpc::ExecRequest) -> Option<i32> {
        let argument = |index: usize| request.args.get(index).cloned().unwrap_or_default();
        match request.cmd.as_str() {
            "print" => {
                self.say(Event::Stdout(argument(0).into_bytes())).await?;
                self.say(Event::Stderr(argument(1).into_bytes())).await?;
                Some(argument(2).parse().unwrap_or_default())
            }
            "about" => {
                self.say(Event::Stdout(about(&request).into_bytes()))
                    .await?;
                Some(0)
            }
            "bytes" => {
                self.say(Event::Stdout((0..=255).collect())).await?;
                Some(0)
            }
            "cat" if request.stdin => self.cat().await,
            "cat" => Some(0),
            "size" => {
                let size = request.terminal.into_option()?;
                self.sizes(size.cols, size.rows).await
            }
            "much" => {
                for _ in 0..argument(0).parse().unwrap_or(0) {
                    self.say(Event::Stdout(vec![b'x'; 1024 * 1024])).await?;
                }
                Some(3)
            }
            "count" => {
                self.say(Event::Stdout(request.args.len().to_string().into_bytes()))
                    .await?;
                Some(0)
            }
            "sleep" | "stubborn" | "careful" => loop {
                if self.inputs.recv().await.is_none() {
                    std::future::pending::<()>().await;
                }
            },
            "deaf" => std::future::pending().await,
            "flood" => loop {
                self.say(Event::Stdout(vec![b'x'; 32 * 1024])).await?;
                self.shared.world().given_out += 32 * 1024;
            },
            _ => None,
        }
    }

    async fn cat(&mut self) -> Option<i32> {
        while let Some(input) = self.inputs.recv().await {
            if !input.data.is_empty() {
                self.say(Event::Stdout(input.data)).await?;
            }
            if input.close {
                return Some(0);
            }
        }
        None
    }

    async fn sizes(&mut self, mut cols: u32, mut rows: u32) -> Option<i32> {
        loop {
            self.say(Event::Stdout(format!("{cols}x{rows}\n").into_bytes()))
                .await?;
            match self.inputs.recv().await?.resize.into_option() {
                Some(size) => (cols, rows) = (size.cols, size.rows),
                None => return Some(0),
            }
        }
    }
}

fn about(request: &rpc::ExecRequest) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let mut envs: Vec<String> = request
        .envs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    envs.sort();
    format!(
        "{} {} {}",
        text(&request.cwd),
        text(&request.user),
        envs.join(",")
    )
}

pub(super) async fn send_input(
    shared: &Shared,
    request: rpc::SendInputRequest,
) -> Result<(), ConnectError> {
    let no_process = || {
        ConnectError::not_found(format!(
            "no process with pid {} runs in this sandbox",
            request.pid
        ))
    };
    let input = shared
        .world()
        .processes
        .get(&request.pid)
        .map(|process| process.input.clone());
    let missing = no_process();
    input
        .ok_or_else(no_process)?
        .send(request)
        .await
        .map_err(|_| missing)
}

pub(super) fn send_signal(shared: &Shared, pid: u32, signal: u32) -> Result<(), ConnectError> {
    let mut world = shared.world();
    match world
        .processes
        .get(&pid)
        .map(|process| process.signals.clone())
    {
        Some(signals) => {
            world.signals.push(signal);
            let _ = signals.try_send(signal);
            Ok(())
        }
        None => Err(ConnectError::not_found(format!("process {pid} has ended"))),
    }
}
