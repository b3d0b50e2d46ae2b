//! `wrenn stats`, once and as a live table.

use std::io::Read;

use rustix::process::Signal;

use crate::server::Server;
use crate::terminals::{Screen, signal, wait_until_stopped};
use crate::wrenn::{command, eventually, wrenn};

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";
const B: &str = "sb-bbbbbbbbbbbbbbbbbbbb";

#[tokio::test(flavor = "multi_thread")]
async fn stats_print_once() {
    let server = Server::start().await;
    server.add(A);
    server.add(B);
    let all = wrenn(&server, &["stats", "--no-stream"])
        .await
        .with(0)
        .text();
    let lines: Vec<&str> = all.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("SANDBOX"), "{all}");
    assert!(
        lines[1].starts_with(A) && lines[1].contains("12.50"),
        "{all}"
    );
    let one = wrenn(
        &server,
        &["stats", "--no-stream", "--format", "json", "sb-b"],
    )
    .await;
    let one = one.with(0).json();
    assert_eq!(
        (one[0]["id"].as_str(), one.as_array().unwrap().len()),
        (Some(B), 1)
    );
    let hosts = wrenn(&server, &["stats", "--no-stream", "--hosts"]).await;
    let hosts = hosts.with(0).text();
    assert!(
        hosts.contains("host-a") && hosts.contains("2.00 GiB"),
        "{hosts}"
    );
    let unknown = wrenn(
        &server,
        &["stats", "--no-stream", "sb-00000000000000000009"],
    );
    assert!(unknown.await.with(1).stderr.contains("sb-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_stream_json_lines() {
    let server = Server::start().await;
    server.add(A);
    let mut stats = command(&server, &["stats", "--json"]);
    let checked = tokio::task::spawn_blocking(move || {
        let mut child = stats.spawn().unwrap();
        let mut first = Vec::new();
        let mut stdout = child.stdout.take().unwrap();
        while !first.ends_with(b"\n") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            first.push(byte[0]);
        }
        let first: serde_json::Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(first[0]["id"], A);
        signal(&child, Signal::TERM);
        assert_eq!(child.wait().unwrap().code(), Some(143));
    });
    checked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn live_table_survives_failed_read() {
    let server = Server::start().await;
    server.add(A);
    server.world().usage_reads_before_failure = Some(1);
    let mut stats = command(&server, &["stats"]);
    let checked = tokio::task::spawn_blocking(move || {
        let mut screen = Screen::new();
        let mut child = screen.start(&mut stats);
        let shown = screen.until("trying again");
        assert!(
            shown.contains(A) && shown.contains("the host agent failed"),
            "{shown:?}"
        );
        screen.until(A);
        screen.until("SANDBOX");
        signal(&child, Signal::INT);
        assert_eq!(child.wait().unwrap().code(), Some(130));
    });
    checked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_table_gives_terminal_back() {
    let server = Server::start().await;
    server.add(A);
    let mut stats = command(&server, &["stats"]);
    let checked = tokio::task::spawn_blocking(move || {
        let mut screen = Screen::new();
        let mut child = screen.start(&mut stats);
        screen.until(A);
        signal(&child, Signal::TSTP);
        wait_until_stopped(&child);
        let shown = screen.written();
        assert!(shown.ends_with("\x1b[?25h\x1b[?1049l"), "{shown:?}");
        signal(&child, Signal::CONT);
        let again = screen.until(A);
        assert!(again.contains("\x1b[?1049h\x1b[?25l"), "{again:?}");
        signal(&child, Signal::INT);
        assert_eq!(child.wait().unwrap().code(), Some(130));
    });
    checked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn live_table_restores_terminal() {
    let server = Server::start().await;
    server.add(A);
    let mut stats = command(&server, &["stats"]);
    let checked = tokio::task::spawn_blocking(move || {
        let mut screen = Screen::new();
        let mut child = screen.start(&mut stats);
        let mut shown = String::new();
        eventually("a row", || {
            shown += &screen.line();
            shown.contains(A)
        });
        assert!(shown.starts_with("\x1b[?1049h\x1b[?25l"), "{shown:?}");
        signal(&child, Signal::INT);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let mut after = String::new();
        eventually("the last table", || {
            after += &screen.line();
            let closed = after.split_once("\x1b[?25h\x1b[?1049l");
            closed.is_some_and(|(_, table)| table.contains(A))
        });
    });
    checked.await.unwrap();
}
