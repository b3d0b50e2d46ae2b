//! Standard input and terminals.

use connectrpc::ErrorCode;
use connectrpc::client::CallOptions;
use guest_rpc::process::__buffa::oneof::process_input::Input;
use guest_rpc::process::__buffa::oneof::process_selector::Selector;
use guest_rpc::process::stream_input_request::{DataEvent, KeepAlive, StartEvent};
use guest_rpc::process::{
    CloseStdinRequest, PTY, ProcessInput, ProcessSelector, SendInputRequest, StartRequest,
    StreamInputRequest, UpdateRequest, pty,
};

use crate::support::{Agent, Client, Running, by_pid, shell, start};

fn with_stdin(script: &str) -> StartRequest {
    // Absent means true.
    StartRequest {
        stdin: None,
        ..shell(script)
    }
}

fn with_pty(script: &str, cols: u32, rows: u32) -> StartRequest {
    StartRequest {
        pty: window(cols, rows).into(),
        ..shell(script)
    }
}

fn window(cols: u32, rows: u32) -> PTY {
    PTY {
        size: pty::Size {
            cols,
            rows,
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
}

fn input(input: Input) -> ProcessInput {
    ProcessInput {
        input: Some(input),
        ..Default::default()
    }
}

fn send(pid: u32, data: Input) -> SendInputRequest {
    SendInputRequest {
        process: by_pid(pid).into(),
        input: input(data).into(),
        ..Default::default()
    }
}

fn close(pid: u32) -> CloseStdinRequest {
    CloseStdinRequest {
        process: by_pid(pid).into(),
        ..Default::default()
    }
}

async fn refused(client: &Client, pid: u32, data: Input) -> ErrorCode {
    client
        .send_input(send(pid, data))
        .await
        .expect_err("is refused")
        .code
}

#[tokio::test]
async fn stdin_arrives_and_ends() {
    let agent = Agent::open().await;
    let client = agent.client();
    // It stays after its input has ended: closing again must find it, not win a race with its exit.
    let mut running = start(&client, with_stdin("cat; echo end; sleep 60")).await;
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
    for part in bytes.chunks(50_000) {
        client
            .send_input(send(running.pid, Input::Stdin(part.to_vec())))
            .await
            .expect("is taken");
    }
    client
        .close_stdin(close(running.pid))
        .await
        .expect("closes");
    client
        .close_stdin(close(running.pid))
        .await
        .expect("closing again is fine");
    let expected = [bytes, b"end\n".to_vec()].concat();
    running.until(|o| o.stdout.len() >= expected.len()).await;
    assert_eq!(running.outcome.stdout, expected);
    kill(&client, running).await;
}

#[tokio::test]
async fn process_without_stdin_reads_end() {
    let agent = Agent::open().await;
    let client = agent.client();
    let mut running = start(&client, shell("cat; echo end; sleep 60")).await;
    running.until(|o| o.text() == "end\n").await;
    assert_eq!(
        refused(&client, running.pid, Input::Stdin(b"x".to_vec())).await,
        ErrorCode::FailedPrecondition
    );
    assert_eq!(
        refused(&client, running.pid, Input::Pty(b"x".to_vec())).await,
        ErrorCode::FailedPrecondition
    );
    assert_eq!(
        refused(&client, 1, Input::Stdin(b"x".to_vec())).await,
        ErrorCode::NotFound
    );
    kill(&client, running).await;
}

#[tokio::test]
async fn input_can_be_streamed() {
    let agent = Agent::open().await;
    let client = agent.client();
    let request = StartRequest {
        tag: Some("cat".into()),
        ..with_stdin("head -c 6")
    };
    let running = start(&client, request).await;
    let selector = ProcessSelector {
        selector: Some(Selector::Tag("cat".into())),
        ..Default::default()
    };
    let data = |bytes: &[u8]| DataEvent {
        input: input(Input::Stdin(bytes.to_vec())).into(),
        ..Default::default()
    };
    let messages = [
        StartEvent {
            process: selector.into(),
            ..Default::default()
        }
        .into(),
        data(b"abc").into(),
        KeepAlive::default().into(),
        data(b"def").into(),
    ];
    let messages = messages.map(|event| StreamInputRequest {
        event: Some(event),
        ..Default::default()
    });
    client
        .stream_input(futures::stream::iter(messages))
        .await
        .expect("is taken");
    assert_eq!(running.finish().await.text(), "abcdef");
}

#[tokio::test]
async fn streamed_data_before_start_is_refused() {
    let agent = Agent::open().await;
    let data = DataEvent {
        input: input(Input::Stdin(vec![1])).into(),
        ..Default::default()
    };
    let messages = [StreamInputRequest {
        event: Some(data.into()),
        ..Default::default()
    }];
    let error = agent
        .client()
        .stream_input(futures::stream::iter(messages))
        .await
        .expect_err("is refused");
    assert_eq!(error.code, ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn terminal_is_tty_and_resizes() {
    let agent = Agent::open().await;
    let client = agent.client();
    let script = "tty; stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do :; done";
    let mut running = start(&client, with_pty(script, 100, 30)).await;
    running
        .until(|o| String::from_utf8_lossy(&o.pty).contains("ready"))
        .await;
    let update = |cols| UpdateRequest {
        process: by_pid(running.pid).into(),
        pty: window(cols, 40).into(),
        ..Default::default()
    };
    let too_wide = client.update(update(70_000)).await.expect_err("is refused");
    assert_eq!(too_wide.code, ErrorCode::InvalidArgument);
    client.update(update(132)).await.expect("changes");
    let outcome = running.finish().await;
    let text = String::from_utf8_lossy(&outcome.pty).into_owned();
    assert!(
        text.starts_with("/dev/pts/") && text.contains("30 100") && text.contains("40 132"),
        "{text}"
    );
    assert_eq!(outcome.code(), 5);
    assert!(outcome.stdout.is_empty() && outcome.stderr.is_empty());
}

#[tokio::test]
async fn terminal_takes_input_and_keys() {
    let agent = Agent::open().await;
    let client = agent.client();
    let running = start(
        &client,
        with_pty(
            "stty -echo; echo up; read line; echo got $line; cat; echo end",
            80,
            24,
        ),
    )
    .await;
    let mut running = running;
    running
        .until(|o| String::from_utf8_lossy(&o.pty).contains("up"))
        .await;
    client
        .send_input(send(running.pid, Input::Pty(b"hello\n".to_vec())))
        .await
        .expect("is taken");
    assert_eq!(
        refused(&client, running.pid, Input::Stdin(b"x".to_vec())).await,
        ErrorCode::FailedPrecondition
    );
    let error = client
        .close_stdin(close(running.pid))
        .await
        .expect_err("is refused");
    assert_eq!(error.code, ErrorCode::FailedPrecondition);
    running
        .until(|o| String::from_utf8_lossy(&o.pty).contains("got hello"))
        .await;
    client
        .send_input(send(running.pid, Input::Pty(vec![4])))
        .await
        .expect("Ctrl-D is taken");
    let outcome = running.finish().await;
    assert!(String::from_utf8_lossy(&outcome.pty).contains("end"));
}

async fn kill(client: &Client, running: Running) {
    let request = guest_rpc::process::SendSignalRequest {
        process: by_pid(running.pid).into(),
        signal: guest_rpc::process::Signal::SIGNAL_SIGKILL.into(),
        ..Default::default()
    };
    client
        .send_signal_with_options(request, CallOptions::default())
        .await
        .expect("is killed");
    assert_eq!(
        running.finish().await.end.expect("an end").status,
        "signal: killed"
    );
}
