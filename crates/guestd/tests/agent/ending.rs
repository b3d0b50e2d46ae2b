//! Every end arrives, in its form, and reaches the whole group.

use std::time::{Duration, Instant};

use connectrpc::ErrorCode;
use connectrpc::client::CallOptions;
use guest_rpc::process::{SendSignalRequest, Signal};
use tokio::process::Command;

use crate::support::{
    Agent, PATIENCE, Running, alive, by_pid, eventually, listed, run, shell, start,
};

#[tokio::test]
async fn exit_codes_follow_the_contract() {
    let agent = Agent::open().await;
    for (code, error) in [
        (0, None),
        (1, Some("exit status 1")),
        (255, Some("exit status 255")),
    ] {
        let end = run(&agent.client(), &format!("exit {code}"))
            .await
            .end
            .expect("an end");
        assert_eq!(
            (end.exit_code, end.exited, end.status),
            (code, true, format!("exit status {code}"))
        );
        assert_eq!(end.error.as_deref(), error);
    }
}

#[tokio::test]
async fn death_by_signal_follows_the_contract() {
    let agent = Agent::open().await;
    // The last one is a real-time signal.
    for (signal, status) in [
        (9, "signal: killed"),
        (15, "signal: terminated"),
        (40, "signal: signal 40"),
    ] {
        let end = run(&agent.client(), &format!("kill -{signal} $$"))
            .await
            .end
            .expect("an end");
        assert_eq!(
            (end.exit_code, end.exited, end.status.as_str()),
            (-1, false, status)
        );
        assert_eq!(end.error.as_deref(), Some(status));
    }
}

#[tokio::test]
async fn signal_reaches_whole_process_group() {
    let agent = Agent::open().await;
    let client = agent.client();
    let mut running = start(&client, shell("sleep 60 & echo $!; wait")).await;
    running.until(|o| o.text().ends_with('\n')).await;
    let child: u32 = running.outcome.text().trim().parse().expect("a pid");
    let pid = running.pid;
    assert_eq!(listed(&client).await, [pid]);
    let signal = SendSignalRequest {
        process: by_pid(pid).into(),
        signal: Signal::SIGNAL_SIGTERM.into(),
        ..Default::default()
    };
    client
        .send_signal(signal.clone())
        .await
        .expect("is signalled");
    assert_eq!(
        running.finish().await.end.expect("an end").status,
        "signal: terminated"
    );
    assert!(!alive(pid), "it is reaped");
    eventually("its child is gone too", async || !alive(child)).await;
    assert!(listed(&client).await.is_empty());
    let error = client.send_signal(signal).await.expect_err("it has ended");
    assert_eq!(error.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn signals_that_ask_reach_program() {
    trap_signals(&Agent::open().await).await;
}

/// As where a shell without job control has started the agent in the background.
#[tokio::test]
async fn signals_ignored_at_start_reach_program() {
    let mut env = Command::new("env");
    env.args(["--ignore-signal=HUP,INT,QUIT,USR1,USR2", Agent::PROGRAM]);
    trap_signals(&Agent::open_by(env).await).await;
}

async fn trap_signals(agent: &Agent) {
    let client = agent.client();
    for signal in [
        Signal::SIGNAL_SIGHUP,
        Signal::SIGNAL_SIGINT,
        Signal::SIGNAL_SIGQUIT,
        Signal::SIGNAL_SIGUSR1,
        Signal::SIGNAL_SIGUSR2,
    ] {
        let number = signal as i32;
        let script =
            format!("trap 'exit $((100 + {number}))' {number}; echo up; while :; do :; done");
        let mut running = start(&client, shell(&script)).await;
        running.until(|o| o.text() == "up\n").await;
        let process = by_pid(running.pid).into();
        let request = SendSignalRequest {
            process,
            signal: signal.into(),
            ..Default::default()
        };
        client.send_signal(request).await.expect("is signalled");
        let end = running.finish().await.end.expect("an end");
        assert_eq!(end.exit_code, 100 + number);
    }
}

#[tokio::test]
async fn non_utf8_bytes_reach_program() {
    let agent = Agent::open().await;
    let client = agent.client();
    let mut request = shell(r#"printf '%s %s' "$1" "$N" | od -An -tx1"#);
    let mut config = request.process.clone().into_option().expect("a config");
    config
        .args
        .extend(["sh", "caf\u{10fffd}xE9"].map(str::to_owned));
    config
        .envs
        .insert("N".to_owned(), "\u{10fffd}xFF".to_owned());
    request.process = config.into();
    let outcome = start(&client, request).await.finish().await;
    assert_eq!(outcome.text().trim(), "63 61 66 e9 20 ff");
}

#[tokio::test]
async fn output_before_exit_arrives() {
    let agent = Agent::open().await;
    let client = agent.client();
    let mut running = start(
        &client,
        shell("trap 'head -c 300000 /dev/zero; exit 7' TERM; echo up; while :; do :; done"),
    )
    .await;
    running.until(|o| o.text() == "up\n").await;
    // To the shell alone, so that it can still run `head`.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(running.pid.cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("is signalled");
    let outcome = running.finish().await;
    assert_eq!((outcome.stdout.len(), outcome.code()), (3 + 300_000, 7));
}

#[tokio::test]
async fn the_deadline_kills_the_whole_group() {
    let agent = Agent::open().await;
    let client = agent.client();
    let options = CallOptions::default().with_timeout(Duration::from_millis(400));
    let mut running = Running::start(&client, shell("sleep 60 & echo $!; wait"), options)
        .await
        .expect("starts");
    running.until(|o| o.text().ends_with('\n')).await;
    let (pid, child) = (
        running.pid,
        running.outcome.text().trim().parse::<u32>().expect("a pid"),
    );
    let error = running
        .finish()
        .await
        .error
        .expect("the stream ends with an error");
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);
    eventually("both are dead", async || !alive(pid) && !alive(child)).await;
}

#[tokio::test]
async fn deadline_holds_after_client_hangs_up() {
    let agent = Agent::open().await;
    let client = agent.client();
    let options = CallOptions::default().with_timeout(Duration::from_millis(300));
    let running = Running::start(&client, shell("sleep 60"), options)
        .await
        .expect("starts");
    let pid = running.pid;
    let since = Instant::now();
    drop(running);
    assert!(alive(pid));
    eventually("the process is killed", async || !alive(pid)).await;
    assert!(
        since.elapsed() >= Duration::from_millis(200),
        "not before its time"
    );
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let agent = Agent::open().await;
    let client = agent.client();
    let refused = async |change: &dyn Fn(&mut guest_rpc::process::ProcessConfig)| {
        let mut request = shell("true");
        let mut config = request.process.clone().into_option().expect("a config");
        change(&mut config);
        request.process = config.into();
        let error = Running::start(&client, request, CallOptions::default())
            .await
            .expect_err("is refused");
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        error.message.unwrap_or_default()
    };
    let missing = refused(&|c| c.cmd = "no-such-program".into()).await;
    assert!(
        missing.contains("no-such-program") && guest_rpc::start_error::number(&missing) == Some(2),
        "{missing}"
    );
    let folder = crate::support::open_folder();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh\r\n").expect("writes");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("chmod");
    let windows = refused(&|c| c.cmd = script.display().to_string()).await;
    assert!(
        windows.contains("interpreter \"/bin/sh\\r\"")
            && guest_rpc::start_error::number(&windows) == Some(2),
        "{windows}"
    );
    let no_program = refused(&|c| c.cmd = "/etc/passwd".into()).await;
    assert_eq!(
        guest_rpc::start_error::number(&no_program),
        Some(13),
        "{no_program}"
    );
    assert!(
        refused(&|c| c.cmd = String::new())
            .await
            .contains("process.cmd")
    );
    assert!(
        refused(&|c| c.cwd = Some("/no/such".into()))
            .await
            .contains("/no/such")
    );
    assert!(
        refused(&|c| c.cwd = Some("/etc/passwd".into()))
            .await
            .contains("not a directory")
    );
    assert!(
        refused(&|c| drop(c.envs.insert("A=B".into(), "x".into())))
            .await
            .contains("envs")
    );
    assert!(
        refused(&|c| c.args.push("a\0b".into()))
            .await
            .contains("NUL")
    );
    assert!(listed(&client).await.is_empty());
}

#[tokio::test]
async fn many_at_once_all_end() {
    let agent = Agent::open().await;
    let client = agent.client();
    let runs = (0..200).map(|i| {
        let client = client.clone();
        async move {
            let outcome = run(&client, &format!("echo {i}; exit {}", i % 3)).await;
            (outcome.text(), outcome.code()) == (format!("{i}\n"), i % 3)
        }
    });
    assert!(
        futures::future::join_all(runs)
            .await
            .into_iter()
            .all(|right| right)
    );
    assert!(listed(&client).await.is_empty());
}

#[tokio::test]
async fn writing_orphan_does_not_delay_end() {
    let agent = Agent::open().await;
    for pause in ["head -c 500000 /dev/zero; sleep 0.05", "echo x; sleep 0.1"] {
        let script = format!(
            "sh -c 'while :; do {pause}; done' & echo $! >&2; head -c 300000 /dev/zero | tr '\\0' z; exit 6"
        );
        let outcome = run(&agent.client(), &script).await;
        assert_eq!(outcome.code(), 6);
        // All of the process's own is there, among that of the other.
        assert_eq!(
            outcome.stdout.iter().filter(|byte| **byte == b'z').count(),
            300_000
        );
        end_of_leftover(&String::from_utf8_lossy(&outcome.stderr));
    }
}

#[tokio::test]
async fn deadline_spares_background_children() {
    let agent = Agent::open().await;
    let options = CallOptions::default().with_timeout(Duration::from_millis(3000));
    let running = Running::start(&agent.client(), shell("sleep 60 & echo $!"), options)
        .await
        .expect("starts");
    let outcome = running.finish().await;
    assert_eq!(outcome.code(), 0);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    end_of_leftover(&outcome.text());
}

fn end_of_leftover(pid: &str) {
    let pid: u32 = pid.trim().parse().expect("a pid");
    assert!(alive(pid), "it was killed");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.cast_signed()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("can be killed");
}

#[tokio::test]
async fn closed_output_does_not_end_process() {
    let agent = Agent::open().await;
    let client = agent.client();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gate = folder.path().join("gate");
    let script = format!(
        "exec >&- 2>&-; while [ ! -e {} ]; do sleep 0.01; done; exit 3",
        gate.display()
    );
    let running = start(&client, shell(&script)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(listed(&client).await, [running.pid]);
    std::fs::write(&gate, "").expect("opens the gate");
    assert_eq!(running.finish().await.code(), 3);
}

#[tokio::test]
async fn the_first_process_buries_every_orphan() {
    let agent = Agent::first_process().await;
    let client = agent.client();
    // Each of them is born to a shell that has ended by the time it ends itself.
    let script = "i=0; while [ $i -lt 20 ]; do (sleep 0.2 &); i=$((i+1)); done; echo $$";
    assert_eq!(run(&client, script).await.code(), 0);
    let count =
        "grep -lE '^State:.*zombie' /proc/[0-9]*/status 2>/dev/null | wc -l; pgrep -c sleep";
    eventually("neither sleepers nor zombies are left", async || {
        run(&client, count).await.text() == "0\n0\n"
    })
    .await;
}

/// As after a restore: the other ends of all streams are gone.
#[tokio::test]
async fn process_outlives_its_stream() {
    let agent = Agent::open().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let done = folder.path().join("done");
    // More than all queues on the way hold.
    let script = format!(
        "sleep 0.2; yes | head -c 20000000; echo > {}",
        done.display()
    );
    drop(start(&agent.client(), shell(&script)).await);
    let begin = Instant::now();
    while !done.exists() {
        assert!(begin.elapsed() < PATIENCE, "the process ended or waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
