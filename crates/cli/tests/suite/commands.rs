//! The commands against a server on loopback.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};

use client::types::ProcessSignal;

use crate::server::Server;
use crate::wrenn::{command, finish, wrenn};
use rustix::process::{Pid, Signal, kill_process};

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";
const B: &str = "sb-aaaabbbbbbbbbbbbbbbb";

#[tokio::test(flavor = "multi_thread")]
async fn run_keeps_streams_apart_and_exits_with_the_commands_code() {
    let server = Server::start().await;
    let ran = wrenn(
        &server,
        &[
            "run", "--vcpus", "2", "--", "print", "to out", "to err", "7",
        ],
    )
    .await
    .with(7);
    assert_eq!(
        (ran.text().as_str(), ran.stderr.as_str()),
        ("to out", "to err")
    );
    assert!(
        server.world().sandboxes.is_empty(),
        "run removes its sandbox"
    );

    let missing = wrenn(&server, &["run", "no-such-program"]).await.with(127);
    assert!(missing.stderr.contains("no-such-program"), "{missing:?}");
    let vanished = wrenn(&server, &["run", "vanish"]).await.with(125);
    assert!(vanished.stderr.contains("ended before"), "{vanished:?}");
    let template = wrenn(&server, &["run", "--template", "no-such-template", "true"])
        .await
        .with(125);
    assert!(
        template.stderr.contains("no-such-template") && template.stderr.contains("wrenn templates"),
        "{template:?}"
    );
    assert!(
        !template.stderr.contains("checkpoint"),
        "a hint belongs to what was asked for: {template:?}"
    );
    assert!(
        server.world().sandboxes.is_empty(),
        "run removes its sandbox after a failure too"
    );

    let json = wrenn(
        &server,
        &["run", "--json", "--", "print", "out", "err", "3"],
    )
    .await
    .with(3)
    .json();
    assert_eq!(
        (json["stdout"].as_str(), json["exit_code"].as_i64()),
        (Some("out"), Some(3))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_stops_the_command_and_removes_the_sandbox() {
    let server = Server::start().await;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut run = command(&server, &["run", "sleep"]);
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = run.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(line, "asleep\n");
            kill_process(Pid::from_child(&child), signal).unwrap();
            child.wait().unwrap()
        });
        assert_eq!(ended.await.unwrap().code(), Some(code));
        assert!(server.world().sandboxes.is_empty());
    }
    let signals = [
        ProcessSignal::Interrupt,
        ProcessSignal::Terminate,
        ProcessSignal::Hangup,
    ];
    assert_eq!(server.world().signals, signals);
}

#[tokio::test(flavor = "multi_thread")]
async fn input_and_output_are_binary_safe() {
    let server = Server::start().await;
    server.add(A);
    let input: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let echoed = finish(
        command(&server, &["exec", "-i", A, "--", "cat"]),
        input.clone(),
    )
    .await
    .with(0);
    assert!(
        echoed.stdout == input,
        "{} of {} bytes",
        echoed.stdout.len(),
        input.len()
    );
    // Without -i the program reads end of file at once.
    assert!(
        wrenn(&server, &["exec", A, "cat"])
            .await
            .with(0)
            .stdout
            .is_empty()
    );
    let bytes = wrenn(&server, &["exec", A, "bytes"]).await.with(0).stdout;
    assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    // What follows the command belongs to it.
    assert_eq!(
        wrenn(&server, &["exec", A, "print", "--json", "-x"])
            .await
            .with(0)
            .text(),
        "--json"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_command_quietly() {
    let server = Server::start().await;
    server.add(A);
    for (args, code) in [(vec!["exec", A, "flood"], 141), (vec!["run", "flood"], 141)] {
        let mut flood = command(&server, &args);
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = flood.spawn().unwrap();
            let mut some = [0; 10];
            child.stdout.take().unwrap().read_exact(&mut some).unwrap();
            let output = child.wait_with_output().unwrap();
            (
                output.status.code(),
                String::from_utf8(output.stderr).unwrap(),
            )
        });
        assert_eq!(
            ended.await.unwrap(),
            (Some(code), String::new()),
            "{args:?}"
        );
    }
    assert_eq!(server.world().sandboxes.len(), 1, "run removed its own");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut ls = command(&server, &["ls"]);
    ls.stdout(writer);
    assert_eq!(finish(ls, Vec::new()).await.with(0).stderr, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_listed_and_found_by_their_beginning() {
    let server = Server::start().await;
    let created = wrenn(&server, &["create", "--memory", "1g", "--json"])
        .await
        .with(0)
        .json();
    assert_eq!(
        (created["status"].as_str(), created["memory_mb"].as_u64()),
        (Some("running"), Some(1024))
    );
    let id = created["id"].as_str().unwrap().to_owned();
    let plain = wrenn(&server, &["create"]).await.with(0);
    assert_eq!(plain.text().len(), 23, "the id alone");
    assert!(plain.stderr.is_empty(), "no chatter where no terminal is");
    server.add(A);
    server.add(B);

    let table = wrenn(&server, &["ls"]).await.with(0).text();
    assert!(
        table.starts_with("ID ") && table.lines().count() == 5 && !table.contains('\u{1b}'),
        "{table}"
    );
    assert!(table.lines().all(|line| line.trim_end() == line));
    assert_eq!(
        wrenn(&server, &["ls", "--json"])
            .await
            .with(0)
            .json()
            .as_array()
            .unwrap()
            .len(),
        4
    );

    assert_eq!(
        wrenn(&server, &["info", "--json", &id[..22]])
            .await
            .with(1)
            .stdout,
        b"",
        "two begin so"
    );
    assert_eq!(
        wrenn(&server, &["info", "--json", "aaaab"])
            .await
            .with(0)
            .json()["id"],
        B
    );
    assert!(
        wrenn(&server, &["info", "sb-aaaab"])
            .await
            .with(0)
            .text()
            .contains("running")
    );
    let ambiguous = wrenn(&server, &["exec", "aaaa", "true"]).await.with(125);
    assert!(
        ambiguous.stderr.contains(A) && ambiguous.stderr.contains(B),
        "{ambiguous:?}"
    );
    let unknown = wrenn(&server, &["info", "sb-nothing"]).await.with(1);
    assert!(
        unknown.stderr.contains("sb-nothing") && unknown.stderr.contains("ls --all"),
        "{unknown:?}"
    );

    let removed = wrenn(&server, &["rm", "sb-nothing", "aaaab"]).await.with(1);
    assert!(
        removed.text() == B && removed.stderr.contains("sb-nothing"),
        "{removed:?}"
    );
    assert_eq!(
        wrenn(&server, &["rm", "--all", "--json"])
            .await
            .with(0)
            .json()["removed"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert!(
        wrenn(&server, &["ls", "--all"])
            .await
            .with(0)
            .stdout
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_cannot_drive_the_terminal() {
    let server = Server::start().await;
    server.add(A);
    let text = wrenn(&server, &["logs", "aaaaa"]).await.with(0).text();
    assert!(
        text.contains("agent   booted") && text.contains("console \\u{1b}[2Jhello"),
        "{text}"
    );
    assert_eq!(
        wrenn(&server, &["logs", "--json", A])
            .await
            .with(0)
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        wrenn(&server, &["logs", "-f", "--json", A])
            .await
            .with(0)
            .text()
            .lines()
            .count(),
        3
    );
    assert_eq!(
        wrenn(&server, &["version", "--json"]).await.with(0).json()["server"],
        "9.9.9"
    );
    assert!(
        wrenn(&server, &["templates"])
            .await
            .with(0)
            .text()
            .contains("minimal")
    );
    let mut stranger = command(&server, &["ls"]);
    stranger.env("WRENN_API_KEY", "wrn_wrong");
    let refused = finish(stranger, Vec::new()).await.with(1);
    assert!(refused.stderr.contains("WRENN_API_KEY"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_directories_are_copied() {
    let server = Server::start().await;
    server.add(A);
    let dir = tempfile::tempdir().unwrap();
    let local = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    fs::create_dir_all(local("tree/deep")).unwrap();
    fs::write(local("tree/deep/data"), &data).unwrap();
    fs::set_permissions(local("tree/deep/data"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("deep/data", local("tree/link")).unwrap();

    let inside = |path: &str| format!("aaaaa:{path}");
    let _ = wrenn(&server, &["cp", &local("tree"), &inside("/srv/tree")])
        .await
        .with(0);
    let _ = wrenn(&server, &["cp", &inside("/srv/tree"), &local("back")])
        .await
        .with(0);
    assert!(fs::read(local("back/deep/data")).unwrap() == data);
    assert_eq!(
        fs::metadata(local("back/deep/data"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o750
    );
    assert_eq!(
        fs::read_link(local("back/link")).unwrap().to_str(),
        Some("deep/data")
    );

    let sent = wrenn(
        &server,
        &[
            "cp",
            "--json",
            &local("tree/deep/data"),
            &inside("/tmp/data"),
        ],
    )
    .await
    .with(0);
    assert_eq!(sent.json()["bytes"], data.len());
    assert_eq!(server.world().mode.as_deref(), Some("0750"));
    let _ = wrenn(&server, &["cp", &inside("/tmp/data"), &local("")])
        .await
        .with(0);
    assert!(
        fs::read(local("data")).unwrap() == data,
        "a directory takes it under its name"
    );
    let piped = finish(
        command(&server, &["cp", "-", &inside("piped")]),
        b"from a pipe".to_vec(),
    );
    let _ = piped.await.with(0);
    assert_eq!(
        wrenn(&server, &["cp", &inside("piped"), "-"])
            .await
            .with(0)
            .text(),
        "from a pipe"
    );

    let missing = wrenn(&server, &["cp", &inside("/no/such"), &local("")])
        .await
        .with(1);
    assert!(missing.stderr.contains("/no/such"), "{missing:?}");
    let unreadable = wrenn(&server, &["cp", &local("nothing"), &inside("x")])
        .await
        .with(1);
    assert!(unreadable.stderr.contains("nothing"), "{unreadable:?}");
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 3, "no temporary file is left: {left:?}");
}
