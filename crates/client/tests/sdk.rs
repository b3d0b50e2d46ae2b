//! The SDK against a server on loopback.

mod server;

use bytes::Bytes;
use client::types::{
    CreateSandbox, CreateSnapshot, ExecRequest, LogSource, PathRequest, SandboxStatus,
    StartCommand, TemplateKind, TerminalSize,
};
use client::{
    AttachEvent, AttachFrom, Client, Error, ExecEvent, ExecOutput, ExecStart, FileTarget, ListQuery,
};
use futures::{StreamExt, TryStreamExt, stream};
use server::{KEY, Server};

fn path(path: &str) -> PathRequest {
    PathRequest {
        path: path.to_owned(),
        user: None,
    }
}

#[tokio::test]
async fn sandboxes_come_and_go() {
    let server = Server::start().await;
    let client = server.client();
    let spec = CreateSandbox {
        vcpus: Some(2),
        ..CreateSandbox::default()
    };
    let mut ids = Vec::new();
    for _ in 0..5 {
        let sandbox = client.create(&spec).await.unwrap();
        assert_eq!(sandbox.vcpus, 2);
        ids.push(sandbox.id);
    }
    let first = client
        .list(&ListQuery {
            limit: Some(2),
            cursor: None,
            ..ListQuery::default()
        })
        .await
        .unwrap();
    assert_eq!(
        (first.items.len(), first.next.as_deref()),
        (2, Some(ids[1].as_str()))
    );
    let all: Vec<String> = client
        .list_all()
        .await
        .unwrap()
        .into_iter()
        .map(|sandbox| sandbox.id)
        .collect();
    assert_eq!(all, ids);
    assert_eq!(client.get(&ids[0]).await.unwrap().id, ids[0]);
    client.delete(&ids[0]).await.unwrap();
    assert!(client.get(&ids[0]).await.unwrap_err().is_not_found());
    assert_eq!(client.templates().await.unwrap()[0].name, "minimal");
    assert_eq!(client.health().await.unwrap().version, "9.9.9");
}

#[tokio::test]
async fn sandboxes_pause_fork_and_go_back() {
    let server = Server::start().await;
    server.add("sb-a");
    let client = server.client();
    assert_eq!(
        client.pause("sb-a").await.unwrap().status,
        SandboxStatus::Paused
    );
    assert_eq!(
        client.resume("sb-a").await.unwrap().status,
        SandboxStatus::Running
    );
    assert_eq!(client.fork("sb-a", 3).await.unwrap().len(), 3);
    assert_eq!(client.list_all().await.unwrap().len(), 4);

    assert_eq!(
        client
            .create_checkpoint("sb-a", Some("first"))
            .await
            .unwrap()
            .name,
        "first"
    );
    assert_eq!(
        client.create_checkpoint("sb-a", None).await.unwrap().name,
        "checkpoint-0"
    );
    assert_eq!(client.checkpoints("sb-a").await.unwrap().len(), 2);
    assert_eq!(client.rollback("sb-a", "first").await.unwrap().id, "sb-a");
    client.delete_checkpoint("sb-a", "first").await.unwrap();
    assert!(
        client
            .rollback("sb-a", "first")
            .await
            .unwrap_err()
            .is_not_found()
    );

    let name = Some("ready".to_owned());
    let mut snapshot = CreateSnapshot {
        sandbox_id: "sb-a".to_owned(),
        name,
        memory: None,
        overwrite: None,
    };
    let made = client.create_snapshot(&snapshot).await.unwrap();
    assert_eq!(
        (made.kind, made.vcpus, made.memory_mb),
        (TemplateKind::Snapshot, Some(2), Some(256))
    );
    assert_eq!(
        client.create_snapshot(&snapshot).await.unwrap_err().code(),
        Some("conflict")
    );
    (snapshot.memory, snapshot.overwrite) = (Some(false), Some(true));
    assert_eq!(
        client.create_snapshot(&snapshot).await.unwrap().kind,
        TemplateKind::Image
    );
    assert_eq!(client.snapshots().await.unwrap().len(), 1);
    assert_eq!(client.snapshot("ready").await.unwrap().name, "ready");
    client.delete_snapshot("ready").await.unwrap();
    assert!(client.snapshot("ready").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn refusals_keep_their_code_and_message() {
    let server = Server::start().await;
    let spec = CreateSandbox {
        template: Some("no-such-template".into()),
        ..CreateSandbox::default()
    };
    let refused = server.client().create(&spec).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.to_string().as_str()),
        (Some("not_found"), "no template no-such-template")
    );

    let stranger = Client::new(&server.url, "wrn_wrong").unwrap();
    let refused = stranger.list_all().await.unwrap_err();
    assert!(
        matches!(refused, Error::Api { status: 401, .. }),
        "{refused:?}"
    );
    // Over the WebSocket too, before anything is started.
    let refused = stranger
        .exec_stream("sb-x", ExecStart::default())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, Error::Api { status: 401, .. }),
        "{refused:?}"
    );

    // An id cannot leave its place in the path.
    let refused = server.client().get("../templates?x=").await.unwrap_err();
    assert!(refused.is_not_found(), "{refused:?}");
}

#[tokio::test]
async fn no_server_says_how_to_start_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(&url, KEY).unwrap();
    for error in [
        client.list_all().await.unwrap_err(),
        client
            .exec_stream("sb-x", ExecStart::default())
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("wrenn up"), "{error}");
    }
    for url in ["", "127.0.0.1:8000", "ftp://x", "https://x"] {
        assert!(
            matches!(Client::new(url, KEY), Err(Error::InvalidUrl { .. })),
            "{url}"
        );
    }
    assert!(matches!(Client::new(&url, "a\nb"), Err(Error::InvalidKey)));
    assert!(
        !format!("{client:?}").contains(KEY),
        "the key is never printed"
    );
}

#[tokio::test]
async fn exec_gives_output_and_exit_code() {
    let server = Server::start().await;
    server.add("sb-a");
    let args = ["out", "err", "7"].map(str::to_owned).to_vec();
    let request = ExecRequest {
        cmd: "print".into(),
        args,
        ..ExecRequest::default()
    };
    let result = server.client().exec("sb-a", &request).await.unwrap();
    assert_eq!(
        (
            result.stdout.as_str(),
            result.stderr.as_str(),
            result.exit_code
        ),
        ("out", "err", 7)
    );
}

fn program(cmd: &str) -> ExecStart {
    ExecStart {
        cmd: cmd.to_owned(),
        ..ExecStart::default()
    }
}

/// Everything on standard output, and the exit code.
async fn rest(output: &mut ExecOutput) -> (Vec<u8>, i32) {
    let mut stdout = Vec::new();
    while let Some(event) = output.next().await.unwrap() {
        match event {
            ExecEvent::Stdout(data) => stdout.extend_from_slice(&data),
            ExecEvent::Exited { exit_code } => {
                assert_eq!(output.next().await.unwrap(), None);
                return (stdout, exit_code);
            }
            _ => {}
        }
    }
    panic!("no exit");
}

#[tokio::test]
async fn streams_are_binary_safe_both_ways() {
    let server = Server::start().await;
    server.add("sb-a");
    let client = server.client();
    let (_input, mut output) = client.exec_stream("sb-a", program("bytes")).await.unwrap();
    assert_eq!(rest(&mut output).await, ((0..=255).collect(), 0));

    let sent: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let start = ExecStart {
        stdin: true,
        ..program("cat")
    };
    let (mut input, mut output) = client.exec_stream("sb-a", start).await.unwrap();
    let writing = async {
        input.write(&sent).await.unwrap();
        input.close().await.unwrap();
    };
    let ((), (got, exit_code)) = tokio::join!(writing, rest(&mut output));
    assert!(
        got == sent && exit_code == 0,
        "{} of {} bytes",
        got.len(),
        sent.len()
    );
}

#[tokio::test]
async fn terminals_resize_and_programs_stop() {
    let server = Server::start().await;
    server.add("sb-a");
    let client = server.client();
    let size = |cols| TerminalSize { cols, rows: 24 };
    let start = ExecStart {
        terminal: Some(size(80)),
        stdin: true,
        ..program("size")
    };
    let (mut input, mut output) = client.exec_stream("sb-a", start).await.unwrap();
    input.resize(size(132)).await.unwrap();
    input.close().await.unwrap();
    assert_eq!(rest(&mut output).await, (b"80x24\n132x24\n".to_vec(), 0));

    let (mut input, mut output) = client.exec_stream("sb-a", program("sleep")).await.unwrap();
    input.stop().await.unwrap();
    assert_eq!(rest(&mut output).await.1, 137);
}

#[tokio::test]
async fn streams_that_fail_say_so() {
    let server = Server::start().await;
    server.add("sb-a");
    for (cmd, expected) in [
        ("vanish", "ended before the program did"),
        ("nothing", "cannot start 'nothing'"),
    ] {
        let (_input, mut output) = server
            .client()
            .exec_stream("sb-a", program(cmd))
            .await
            .unwrap();
        let error = loop {
            match output.next().await {
                Ok(event) => assert!(
                    matches!(event, Some(ExecEvent::Started { pid: 42 })),
                    "{event:?}"
                ),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains(expected), "{cmd}: {error}");
    }
}

#[tokio::test]
async fn files_go_in_and_out() {
    let server = Server::start().await;
    server.add("sb-a");
    let client = server.client();
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let parts: Vec<_> = data
        .chunks(10_000)
        .map(|part| Ok(Bytes::copy_from_slice(part)))
        .collect();
    let target = FileTarget {
        path: "/tmp/ä b".into(),
        user: None,
        mode: Some(0o755),
    };
    client
        .write_file(
            "sb-a",
            &target,
            stream::iter(parts),
            Some(data.len() as u64),
        )
        .await
        .unwrap();
    assert_eq!(server.world().mode.as_deref(), Some("0755"));
    assert_eq!(
        client.stat("sb-a", &path("/tmp/ä b")).await.unwrap().size,
        data.len() as u64
    );
    let read = client.read_file("sb-a", &path("/tmp/ä b")).await.unwrap();
    let read: Vec<u8> = read
        .try_fold(Vec::new(), async |all, part| {
            Ok([all, part.to_vec()].concat())
        })
        .await
        .unwrap();
    assert!(read == data);
    client.remove_file("sb-a", &path("/tmp/ä b")).await.unwrap();
    assert!(
        client
            .read_file("sb-a", &path("/tmp/ä b"))
            .await
            .err()
            .unwrap()
            .is_not_found()
    );

    let tar = Bytes::from_static(b"a tar archive");
    client
        .write_archive("sb-a", &path("/srv/x y"), stream::iter([Ok(tar.clone())]))
        .await
        .unwrap();
    let mut back = client
        .read_archive("sb-a", &path("/srv/x y"))
        .await
        .unwrap();
    assert_eq!(back.next().await.unwrap().unwrap(), tar);
}

#[tokio::test]
async fn an_upload_that_breaks_off_writes_nothing() {
    let server = Server::start().await;
    server.add("sb-a");
    let parts = [
        Ok(Bytes::from_static(b"half")),
        Err(std::io::Error::other("the disk is gone")),
    ];
    let target = FileTarget {
        path: "/tmp/half".into(),
        ..FileTarget::default()
    };
    let error = server
        .client()
        .write_file("sb-a", &target, stream::iter(parts), None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Broken(_)), "{error:?}");
    assert!(server.world().files.is_empty());
}

#[tokio::test]
async fn logs_come_line_by_line() {
    let server = Server::start().await;
    server.add("sb-a");
    let mut seen = Vec::new();
    let mut logs = server.client().logs("sb-a", true).await.unwrap();
    while let Some(entry) = logs.next().await.unwrap() {
        seen.push((entry.source, entry.line));
    }
    let expected = [
        (LogSource::Agent, "booted"),
        (LogSource::Console, "\u{1b}[2Jhello"),
        (LogSource::Agent, "followed"),
    ];
    assert_eq!(
        seen,
        expected.map(|(source, line)| (source, line.to_owned()))
    );
}

/// Time does not pass here: it jumps to the next deadline when nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn silent_server_is_broken_connection() {
    let server = Server::start().await;
    let client = server.client();
    let id = client.create(&CreateSandbox::default()).await.unwrap().id;
    let start = StartCommand {
        cmd: "mute".to_owned(),
        ..StartCommand::default()
    };
    let command = client.start_command(&id, &start).await.unwrap();
    let attached = client.attach(&id, &command.id, AttachFrom::Tail(10)).await;
    let (_input, mut output) = attached.unwrap();
    let first = output.next().await.unwrap();
    assert!(matches!(first, Some(AttachEvent::Attached(_))), "{first:?}");
    let error = output.next().await.unwrap_err();
    assert!(matches!(error, Error::Broken(_)), "{error:?}");
}
