//! What a Unix tool does: exit codes, signals, arguments that are bytes. docs/cli.md has the table.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Stdio};

use client::types::ProcessSignal;
use rustix::process::{Pid, Signal, kill_process};

use crate::server::{KEY, Server};
use crate::wrenn::{bare, command, finish, wrenn};

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_of_shells() {
    let server = Server::start().await;
    server.add(A);
    for (program, code, said) in [
        ("no-such-program", 127, "No such file"),
        ("script", 126, "Permission denied"),
        ("late", 124, "--timeout"),
        ("vanish", 125, "ended before"),
        ("print -l", 127, "without a shell"),
    ] {
        for args in [
            vec!["exec", A, "--", program],
            vec!["run", program],
            vec!["exec", "--json", A, program],
        ] {
            let ended = wrenn(&server, &args).await.with(code);
            assert!(
                ended.stderr.contains(said) && ended.stdout.is_empty(),
                "{args:?}: {ended:?}"
            );
        }
    }
    assert_eq!(server.world().sandboxes.len(), 1, "run removes its own");
    let gone = wrenn(&server, &["exec", "sb-00000000000000000009", "true"])
        .await
        .with(125);
    assert!(gone.stderr.contains("wrenn ls --all"), "{gone:?}");
}

fn wait_for_line(child: &mut Child, expected: &str) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, expected);
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_lets_command_clean_up() {
    let server = Server::start().await;
    server.add(A);
    for (args, number) in [
        (vec!["exec", A, "careful"], Signal::INT),
        (vec!["exec", A, "careful"], Signal::TERM),
        (vec!["run", "careful"], Signal::INT),
        (vec!["exec", A, "careful"], Signal::QUIT),
    ] {
        let mut command = command(&server, &args);
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            wait_for_line(&mut child, "asleep\n");
            signal(&child, number);
            child.wait_with_output().unwrap()
        });
        let ended = ended.await.unwrap();
        assert_eq!(
            (ended.status.code(), ended.stdout.as_slice()),
            (Some(3), b"cleaned up\n".as_slice()),
            "{args:?}"
        );
    }
    use ProcessSignal::{Interrupt, Quit, Terminate};
    assert_eq!(
        server.world().signals,
        [Interrupt, Terminate, Interrupt, Quit]
    );
    assert_eq!(server.world().sandboxes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_signal_kills_command() {
    let server = Server::start().await;
    server.add(A);
    for args in [vec!["exec", A, "stubborn"], vec!["run", "stubborn"]] {
        let mut command = command(&server, &args);
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "asleep");
            signal(&child, Signal::INT);
            assert_eq!(lines.next().unwrap().unwrap(), "Interrupt ignored");
            signal(&child, Signal::INT);
            child.wait().unwrap().code()
        });
        assert_eq!(ended.await.unwrap(), Some(130), "{args:?}");
        let signals = std::mem::take(&mut server.world().signals);
        assert_eq!(
            signals,
            [ProcessSignal::Interrupt, ProcessSignal::Kill],
            "{args:?}"
        );
    }
    assert_eq!(server.world().sandboxes.len(), 1, "run removes its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_ignores_signal_is_killed_after_grace() {
    let server = Server::start().await;
    server.add(A);
    let mut command = command(&server, &["exec", "--grace", "1", A, "stubborn"]);
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        wait_for_line(&mut child, "asleep\n");
        signal(&child, Signal::TERM);
        child.wait_with_output().unwrap()
    });
    let ended = ended.await.unwrap();
    assert_eq!(ended.status.code(), Some(143));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("--grace"));
    assert_eq!(
        server.world().signals,
        [ProcessSignal::Terminate, ProcessSignal::Kill]
    );
}

/// The signal must not stand in line behind input that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn signal_passes_unread_input() {
    let server = Server::start().await;
    server.add(A);
    let mut command = command(&server, &["exec", "-i", A, "deaf"]);
    command.stdin(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        wait_for_line(&mut child, "asleep\n");
        let mut stdin = child.stdin.take().unwrap();
        let writer =
            std::thread::spawn(move || while stdin.write_all(&[b'x'; 64 * 1024]).is_ok() {});
        signal(&child, Signal::INT);
        let code = child.wait().unwrap().code();
        writer.join().unwrap();
        code
    });
    assert_eq!(ended.await.unwrap(), Some(130));
}

fn bytes(text: &[u8]) -> OsString {
    OsStr::from_bytes(text).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_and_environment_stay_bytes() {
    let server = Server::start().await;
    server.add(A);
    let mut command = command(&server, &["exec"]);
    command
        .arg("-e")
        .arg(bytes(b"N=caf\xe9"))
        .args(["-e", "HERE", A, "--", "hex"]);
    command.args([
        bytes(b"caf\xe9"),
        bytes(b"\xff\xfe"),
        bytes("\u{10fffd}xE9".as_bytes()),
        bytes("ä".as_bytes()),
    ]);
    command.env("HERE", bytes(b"\xa0"));
    let ended = finish(command, Vec::new()).await.with(0);
    assert_eq!(
        ended.text(),
        "636166e9\nfffe\nf48fbfbd784539\nc3a4\n48455245=a0\n4e=636166e9"
    );
}

/// Whatever comes as arguments, there is no panic: its exit code is 101.
#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_are_no_text_never_panic() {
    let odd = bytes(b"caf\xe9");
    for words in [
        vec![odd.clone()],
        vec![bytes(b"--\xff")],
        vec!["ls".into(), odd.clone()],
        vec!["--json".into(), odd.clone()],
        vec!["ls".into(), "--json".into(), odd.clone()],
        vec!["info".into(), odd.clone()],
        vec!["rm".into(), odd.clone()],
        vec!["--url".into(), odd.clone(), "ls".into()],
        vec!["--key".into(), odd.clone(), "ls".into()],
        vec!["create".into(), "--template".into(), odd.clone()],
        vec!["create".into(), "--memory".into(), odd.clone()],
        vec!["exec".into(), odd.clone(), "true".into()],
        vec![
            "exec".into(),
            "-u".into(),
            odd.clone(),
            A.into(),
            "true".into(),
        ],
        vec!["snapshot".into(), A.into(), odd.clone()],
        vec!["completions".into(), odd.clone()],
        vec!["port-forward".into(), A.into(), odd.clone()],
    ] {
        let mut command = bare(&[]);
        command.args(&words);
        let ended = finish(command, Vec::new()).await.with(2);
        assert!(
            !ended.stderr.is_empty() && !ended.stderr.contains("panic"),
            "{words:?}: {ended:?}"
        );
    }
    // These are no arguments that have to be text.
    for words in [
        vec!["cp".into(), odd.clone(), "sb-a:x".into()],
        vec!["--key-file".into(), odd.clone(), "ls".into()],
    ] {
        let mut command = bare(&["--url", "http://127.0.0.1:1"]);
        command.args(&words).env("WRENN_API_KEY", "wrn_x");
        let ended = finish(command, Vec::new()).await.with(1);
        assert!(!ended.stderr.contains("panic"), "{words:?}: {ended:?}");
    }
    let mut command = bare(&["ls"]);
    command
        .env("WRENN_API_KEY", &odd)
        .env("WRENN_API_URL", &odd)
        .env("WRENN_DIR", &odd);
    finish(command, Vec::new()).await.with(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_arguments_reach_the_command() {
    let server = Server::start().await;
    server.add(A);
    let names: Vec<String> = (0..5000)
        .map(|n| format!("src/module_{n}/file.py"))
        .collect();
    let mut command = command(&server, &["exec", A, "--", "hex"]);
    command.args(&names);
    assert_eq!(
        finish(command, Vec::new())
            .await
            .with(0)
            .text()
            .lines()
            .count(),
        5000
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn key_comes_from_file_or_standard_input() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, format!("{KEY}\n")).unwrap();
    let with = |args: &[&str]| {
        let mut command = bare(&["--url", &server.url]);
        command.args(args);
        command
    };
    let from_file = ["--key-file", path.to_str().unwrap(), "ls", "--json"];
    assert_eq!(
        finish(with(&from_file), Vec::new()).await.with(0).text(),
        "[]"
    );
    let from_stdin = with(&["ls", "--json", "--key-file", "-"]);
    assert_eq!(finish(from_stdin, KEY.into()).await.with(0).text(), "[]");
    for (args, code, said) in [
        (
            vec!["--key-file", "/nonexistent/key", "ls"],
            1,
            "/nonexistent/key",
        ),
        (vec!["--key-file", "/dev/null", "ls"], 1, "no key"),
        (vec!["--key-file", "-", "--key", "wrn_x", "ls"], 2, "--key"),
        (
            vec!["--key-file", "-", "exec", "-i", A, "cat"],
            2,
            "standard input",
        ),
    ] {
        let ended = finish(with(&args), Vec::new()).await.with(code);
        assert!(ended.stderr.contains(said), "{args:?}: {ended:?}");
    }
}
