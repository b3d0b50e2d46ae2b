//! Programs, files and logs of a sandbox, and how guests end.

use std::time::Duration;

use connectrpc::ErrorCode;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::exec_response::Event;
use host_rpc::__buffa::oneof::{read_file_response, write_file_request};
use host_rpc::client::HostClient;
use host_rpc::write_file_request::WriteFileDone;
use linux::process;
use model::SandboxId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::eventually;

use crate::agent::{Agent, Done, PATIENCE, shell};

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_run_as_asked_and_ended_when_nobody_listens() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    let done = agent
        .sh(&id, "id -un; echo $GREETING >&2; exit 7")
        .await
        .unwrap();
    assert_eq!(
        done,
        Done {
            stdout: "user\n".into(),
            stderr: "hello\n".into(),
            code: 7
        }
    );
    let root = rpc::ExecRequest {
        user: Some("root".into()),
        cwd: Some("/etc".into()),
        ..shell(&id, "id -u; pwd")
    };
    assert_eq!(agent.exec(root).await.unwrap().stdout, "0\n/etc\n");
    for (cmd, code) in [("no-such-program", 127), ("/etc/hosts", 126)] {
        let missing = rpc::ExecRequest {
            cmd: cmd.into(),
            args: vec![],
            ..shell(&id, "")
        };
        assert_eq!(agent.exec(missing).await.unwrap().code, code, "{cmd}");
    }
    let late = rpc::ExecRequest {
        timeout_ms: 1500,
        ..shell(&id, "sleep 3001")
    };
    assert_eq!(
        agent.exec(late).await.unwrap_err().code,
        ErrorCode::DeadlineExceeded
    );
    hang_up(&agent.client(), &id).await;
    eventually("both sleeps gone", Duration::from_secs(20), async || {
        let left = agent
            .sh(&id, "pgrep -fx 'sleep 300[12]' | wc -l")
            .await
            .unwrap();
        (left.stdout == "0\n").then_some(())
    })
    .await;
    agent.finish().await;
}

/// Root's options of `/proc` hold for other users, who may mount one in namespaces of their own.
#[tokio::test(flavor = "multi_thread")]
async fn hidden_processes_stay_hidden_from_users() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    let find = "find /proc /run -maxdepth 6 -type d -path '*/proc/1/task' 2>/dev/null; true";
    let hide = rpc::ExecRequest {
        user: Some("root".into()),
        ..shell(&id, &format!("mount -o remount,hidepid=2 /proc; {find}"))
    };
    let of_root = agent.exec(hide).await.unwrap().stdout;
    assert_eq!(of_root, "/proc/1/task\n/run/wrenn/private/proc/1/task\n");
    assert_eq!(agent.out(&id, find).await, "");
    let mount = "unshare -Urmpf --mount-proc sh -c 'echo $$; ls -d /proc/1'";
    assert_eq!(agent.out(&id, mount).await, "1\n/proc/1");
    agent.finish().await;
}

/// Starts something long and goes away.
async fn hang_up(client: &HostClient, id: &SandboxId) {
    let mut stream = client
        .commands()
        .exec(shell(id, "sleep 3002"))
        .await
        .unwrap();
    let first = stream
        .message::<rpc::ExecResponse>()
        .await
        .unwrap()
        .unwrap()
        .to_owned_message();
    assert!(matches!(first.event, Some(Event::Start(_))), "{first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_out_byte_for_byte() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|number| number.to_le_bytes()[(number % 3) as usize])
        .collect();
    assert_eq!(
        write(
            &agent.client(),
            &id,
            "/home/user/deep/er/data",
            &content,
            true
        )
        .await
        .unwrap(),
        3_000_000
    );
    assert!(read(&agent.client(), &id, "deep/er/data").await.unwrap() == content);
    let owner = agent.sh(&id, "stat -c '%U %a' deep/er/data").await.unwrap();
    assert_eq!(owner.stdout, "user 644\n");
    let error = read(&agent.client(), &id, "/no/such/file")
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound, "{error}");
    let error = write(&agent.client(), &id, "/etc/shadow", b"x", true)
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::PermissionDenied, "{error}");
    // An upload that breaks off leaves no file behind.
    assert!(
        write(&agent.client(), &id, "/home/user/half", &content, false)
            .await
            .is_err()
    );
    let request = rpc::StatPathRequest {
        sandbox_id: id.to_string(),
        path: "half".into(),
        ..Default::default()
    };
    eventually("the half file gone", Duration::from_secs(20), async || {
        let error = agent
            .client()
            .files()
            .stat_path(request.clone())
            .await
            .err()?;
        (error.code == ErrorCode::NotFound).then_some(())
    })
    .await;
    agent.finish().await;
}

pub async fn write(
    client: &HostClient,
    id: &SandboxId,
    path: &str,
    content: &[u8],
    whole: bool,
) -> Result<u64, connectrpc::ConnectError> {
    let target = rpc::WriteFileTarget {
        sandbox_id: id.to_string(),
        path: path.into(),
        ..Default::default()
    };
    let message = |part| rpc::WriteFileRequest {
        part: Some(part),
        ..Default::default()
    };
    let mut messages = vec![message(write_file_request::Part::from(target))];
    let chunks = content.chunks(host_rpc::FILE_CHUNK_BYTES);
    messages.extend(chunks.map(|chunk| message(write_file_request::Part::Data(chunk.to_vec()))));
    if whole {
        messages.push(message(write_file_request::Part::from(
            WriteFileDone::default(),
        )));
    }
    Ok(client
        .files()
        .write_file(connectrpc::stream_iter(messages))
        .await?
        .into_owned()
        .bytes_written)
}

pub async fn read(
    client: &HostClient,
    id: &SandboxId,
    path: &str,
) -> Result<Vec<u8>, connectrpc::ConnectError> {
    let request = rpc::ReadFileRequest {
        sandbox_id: id.to_string(),
        path: path.into(),
        ..Default::default()
    };
    let mut stream = client.files().read_file(request).await?;
    let mut content = Vec::new();
    while let Some(message) = stream.message::<rpc::ReadFileResponse>().await? {
        if let Some(read_file_response::Part::Data(data)) = message.to_owned_message().part {
            content.extend(data);
        }
    }
    Ok(content)
}

/// A guest that is gone does not even refuse a connection: whoever waits for it must hear of it
/// from us.
#[tokio::test(flavor = "multi_thread")]
async fn calls_to_a_guest_that_dies_are_answered() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    let of = agent
        .dir
        .path()
        .join("sandboxes")
        .join(id.as_str())
        .to_string_lossy()
        .into_owned()
        .into_bytes();
    let vmm = process::find(|cmdline| cmdline.windows(of.len()).any(|window| window == of))
        .unwrap()
        .remove(0);
    let pid = Pid::from_raw(vmm.pid().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let stat = rpc::StatPathRequest {
        sandbox_id: id.to_string(),
        path: "/".into(),
        ..Default::default()
    };
    let client = agent.client();
    let files = client.files();
    let calls = async {
        tokio::join!(
            agent.sh(&id, "true"),
            files.stat_path(stat),
            write(&client, &id, "file", b"content", true)
        )
    };
    let death = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        kill(pid, Signal::SIGKILL).unwrap();
    };
    let (calls, ()) = tokio::join!(tokio::time::timeout(PATIENCE, calls), death);
    let (exec, stat, write) = calls.expect("nobody answers");
    for error in [
        exec.unwrap_err(),
        stat.map(drop).unwrap_err(),
        write.map(drop).unwrap_err(),
    ] {
        assert!(
            error.code == ErrorCode::FailedPrecondition && error.to_string().contains("signal 9"),
            "{error}"
        );
    }
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_how_a_guest_ended() {
    let agent = Agent::start(&[]).await;
    let (off, panics) = tokio::join!(agent.create(), agent.create());
    let as_root = |id, script: &str| rpc::ExecRequest {
        user: Some("root".into()),
        ..shell(id, script)
    };
    // The kernel's own words: everything that it prints goes to the console.
    let crash = "echo 8 > /proc/sys/kernel/printk; sleep 1; echo c > /proc/sysrq-trigger; sleep 60";
    let error = agent.exec(as_root(&panics, crash)).await.unwrap_err();
    assert_ne!(error.code, ErrorCode::DeadlineExceeded, "{error}");
    let (state, reason) = agent.ended(&panics).await;
    assert_eq!(state, rpc::SandboxState::SANDBOX_STATE_ERROR);
    assert!(reason.contains("panicked"), "{reason}");
    let _ = agent
        .exec(as_root(&off, "echo o > /proc/sysrq-trigger; sleep 60"))
        .await
        .unwrap_err();
    let (state, reason) = agent.ended(&off).await;
    assert_eq!(state, rpc::SandboxState::SANDBOX_STATE_STOPPED);
    assert!(reason.contains("powered itself off"), "{reason}");
    let lines = log(&agent.client(), &panics).await;
    assert!(
        lines.iter().any(|line| line.contains("the sandbox runs")),
        "{lines:?}"
    );
    assert!(
        lines.iter().any(|line| line.contains("Kernel panic")),
        "{lines:?}"
    );
    agent.finish().await;
}

async fn log(client: &HostClient, id: &SandboxId) -> Vec<String> {
    let request = rpc::ReadLogsRequest {
        sandbox_id: id.to_string(),
        follow: true,
        ..Default::default()
    };
    let mut stream = client.logs().read_logs(request).await.unwrap();
    let mut lines = Vec::new();
    // It has ended, so following comes to an end too.
    let read = async {
        while let Some(message) = stream.message::<rpc::ReadLogsResponse>().await.unwrap() {
            lines.push(message.to_owned_message().line);
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the log of an ended sandbox ends");
    lines
}
