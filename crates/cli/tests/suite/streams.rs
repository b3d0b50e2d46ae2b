//! Standard streams that are not as one expects: non-blocking, full, closed, a directory.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::process::Stdio;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_getpipe_size;

use crate::server::Server;
use crate::wrenn::{bare, command, eventually, finish};

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

fn non_blocking(fd: &impl AsFd) {
    fcntl_setfl(fd, fcntl_getfl(fd).unwrap() | OFlags::NONBLOCK).unwrap();
}

fn full_pipe(reader: &PipeReader) -> bool {
    ioctl_fionread(reader).unwrap() as usize >= fcntl_getpipe_size(reader).unwrap() - 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_output_waits_for_nonblocking_pipe() {
    let server = Server::start().await;
    server.add(A);
    let dir = tempfile::tempdir().unwrap();
    let input: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(dir.path().join("input"), &input).unwrap();
    let (mut reader, writer): (PipeReader, PipeWriter) = pipe().unwrap();
    non_blocking(&writer);
    let mut exec = command(&server, &["exec", "-i", A, "--", "cat"]);
    exec.stdin(File::open(dir.path().join("input")).unwrap())
        .stdout(writer);
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = exec.spawn().unwrap();
        drop(exec);
        // What comes next has to wait, or is lost.
        eventually("the pipe full", || {
            full_pipe(&reader) || child.try_wait().unwrap().is_some()
        });
        let mut output = Vec::new();
        reader.read_to_end(&mut output).unwrap();
        (child.wait_with_output().unwrap(), output)
    });
    let (ended, output) = ended.await.unwrap();
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    assert!(output == input, "{} of {} bytes", output.len(), input.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_input_waits_for_nonblocking_pipe() {
    let server = Server::start().await;
    server.add(A);
    let (reader, mut writer) = pipe().unwrap();
    non_blocking(&reader);
    let mut exec = command(&server, &["exec", "-i", A, "--", "cat"]);
    exec.stdin(reader);
    let world = server.clone();
    let output = tokio::task::spawn_blocking(move || {
        let child = exec.spawn().unwrap();
        drop(exec);
        eventually("the program running", || world.world().listener.is_some());
        writer.write_all(b"late input").unwrap();
        drop(writer);
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), b"late input".as_slice())
    );
}

/// As coreutils' tests have it for each of their programs (tests/misc/write-errors.sh).
#[tokio::test(flavor = "multi_thread")]
async fn full_device_is_an_error() {
    let server = Server::start().await;
    server.add(A);
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    for (args, code) in [
        (vec!["exec", A, "print", "out"], 125),
        (vec!["exec", "--json", A, "print", "out"], 125),
        (vec!["ls"], 1),
        (vec!["logs", A], 1),
        (vec!["--help"], 1),
        (vec!["--version"], 1),
        (vec!["completions", "bash"], 1),
    ] {
        let mut command = command(&server, &args);
        command.stdout(full());
        let ended = finish(command, Vec::new()).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
    }
    // That an error cannot be told changes nothing of its exit code.
    let mut command = bare(&["ls"]);
    command.stderr(full());
    finish(command, Vec::new()).await.with(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_input_is_an_error() {
    let server = Server::start().await;
    server.add(A);
    for args in [
        vec!["exec", "-i", A, "cat"],
        vec!["run", "-i", "cat"],
        vec!["cp", "-", "aaaa:notes"],
    ] {
        let mut command = command(&server, &args);
        command.stdin(File::open("/").unwrap());
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(
            ended.status.code(),
            Some(if args[0] == "cp" { 1 } else { 125 }),
            "{args:?}: {stderr}"
        );
        assert!(stderr.contains("Is a directory"), "{stderr}");
    }
    assert!(
        server.world().files.is_empty(),
        "nothing is taken for the whole of it"
    );
}

/// Input that never ends must not keep a command that has.
#[tokio::test(flavor = "multi_thread")]
async fn exec_ends_while_input_stays_open() {
    let server = Server::start().await;
    server.add(A);
    for args in [
        vec!["exec", "-i", A, "print", "out"],
        vec!["run", "-i", "print", "out"],
    ] {
        let (reader, writer) = pipe().unwrap();
        let mut exec = command(&server, &args);
        exec.stdin(reader);
        let output = tokio::task::spawn_blocking(move || exec.output().unwrap())
            .await
            .unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(0), b"out".as_slice()),
            "{args:?}"
        );
        drop(writer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_standard_streams_are_no_panic() {
    let server = Server::start().await;
    server.add(A);
    for redirections in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let mut shell = command(&server, &[]);
        let script = format!("exec \"$0\" exec -i {A} -- print out err 3 {redirections}");
        let wrenn = shell.get_program().to_owned();
        let environment: Vec<_> = shell
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
            .collect();
        shell = std::process::Command::new("sh");
        shell.arg("-c").arg(script).arg(wrenn).env_clear();
        shell.envs(
            environment
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let output = tokio::task::spawn_blocking(move || shell.output().unwrap())
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(3), "{redirections}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forward_ends_with_its_sandbox() {
    let server = Server::start().await;
    server.add(A);
    let mut forward = command(&server, &["port-forward", "--json", A, "0:7000"]);
    let mut child = forward.spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        let mut documents = serde_json::Deserializer::from_reader(stdout).into_iter();
        let said: serde_json::Value = documents.next().unwrap().unwrap();
        let address = said["forwards"][0]["local"].as_str().unwrap().to_owned();
        // Nothing listens there, which ends one connection only.
        let connect = || {
            let mut stream = std::net::TcpStream::connect(&address).unwrap();
            std::io::Read::read_to_end(&mut stream, &mut Vec::new()).ok()
        };
        connect();
        connect();
        assert_eq!(child.try_wait().unwrap(), None);
        server.world().sandboxes.clear();
        connect();
        child.wait_with_output().unwrap()
    });
    let ended = ended.await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        ended.status.code() == Some(1) && said.contains("no sandbox"),
        "{said}"
    );
}
