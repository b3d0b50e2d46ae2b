//! `exec -it` and `shell` on a terminal of ours: it is raw while the command runs, and as before
//! after every end.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::server::Server;
use crate::wrenn::{command, eventually};

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

/// A terminal with nobody in front of it.
pub struct Screen {
    lines: BufReader<File>,
    side: File,
}

impl Screen {
    pub fn new() -> Self {
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&pty).unwrap();
        unlockpt(&pty).unwrap();
        let name = ptsname(&pty, Vec::new()).unwrap();
        let side = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let screen = Self {
            lines: BufReader::new(File::from(pty)),
            side,
        };
        screen.resize(90);
        screen
    }

    fn resize(&self, columns: u16) {
        tcsetwinsize(
            &self.side,
            Winsize {
                ws_row: 30,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
    }

    pub fn start(&self, command: &mut Command) -> Child {
        let side = || self.side.try_clone().unwrap();
        command
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap()
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Reads lines up to one that has a text in it.
    pub fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains(text)) {
            assert!(seen.len() < 100, "no {text} in {seen:?}");
            seen.push(self.line());
        }
        seen.concat()
    }

    /// Reads what programs have written so far. They must not write any more.
    pub fn written(&mut self) -> String {
        self.side.write_all(b"[end]\n").unwrap();
        let written = self.until("[end]");
        written.trim_end_matches("[end]").to_owned()
    }

    fn type_keys(&mut self, keys: &str) {
        self.lines.get_mut().write_all(keys.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.side)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON)
    }
}

pub fn wait_until_stopped(child: &Child) {
    let pid = Some(Pid::from_child(child));
    let stopped = waitpid(pid, WaitOptions::UNTRACED).unwrap().unwrap().1;
    assert!(stopped.stopped());
}

pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_is_raw_and_restored_after_signals() {
    let server = Server::start().await;
    server.add(A);
    for (number, code) in [
        (Signal::INT, 130),
        (Signal::TERM, 143),
        (Signal::HUP, 129),
        (Signal::QUIT, 131),
    ] {
        let mut exec = command(&server, &["exec", "-it", A, "size"]);
        let checked = tokio::task::spawn_blocking(move || {
            let mut screen = Screen::new();
            let mut child = screen.start(&mut exec);
            assert_eq!(screen.line(), "90x30");
            assert!(screen.is_raw());
            screen.resize(120);
            signal(&child, Signal::WINCH);
            assert_eq!(screen.line(), "120x30");
            signal(&child, number);
            assert_eq!(child.wait().unwrap().code(), Some(code));
            assert!(!screen.is_raw(), "as before");
        });
        checked.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_is_given_back_while_stopped() {
    let server = Server::start().await;
    server.add(A);
    let mut exec = command(&server, &["exec", "-it", A, "size"]);
    let checked = tokio::task::spawn_blocking(move || {
        let mut screen = Screen::new();
        let mut child = screen.start(&mut exec);
        assert_eq!(screen.line(), "90x30");
        signal(&child, Signal::TSTP);
        wait_until_stopped(&child);
        assert!(
            !screen.is_raw(),
            "the shell has its terminal while we are stopped"
        );
        let written = screen.written();
        assert!(written.starts_with("\x1b[?1047l"), "{written:?}");
        signal(&child, Signal::CONT);
        eventually("raw again", || screen.is_raw());
        signal(&child, Signal::TERM);
        assert_eq!(child.wait().unwrap().code(), Some(143));
        assert!(!screen.is_raw());
    });
    checked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_is_restored_after_lost_connection() {
    let server = Server::start().await;
    server.add(A);
    for (program, code) in [("vanish", 125), ("no-such-program", 127), ("late", 124)] {
        let mut exec = command(&server, &["exec", "-it", A, program]);
        let checked = tokio::task::spawn_blocking(move || {
            let screen = Screen::new();
            let mut child = screen.start(&mut exec);
            assert_eq!(child.wait().unwrap().code(), Some(code), "{program}");
            assert!(!screen.is_raw(), "{program}");
        });
        checked.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shell_survives_detach() {
    let server = Server::start().await;
    server.add(A);
    let mut shell = command(&server, &["shell", A, "--", "cat"]);
    let mut attach = command(&server, &["shell", "--attach", "shell", "--tail", "1k", A]);
    let checked = tokio::task::spawn_blocking(move || {
        let mut screen = Screen::new();
        let mut child = screen.start(&mut shell);
        eventually("it is raw", || screen.is_raw());
        screen.type_keys("one\n");
        screen.until("one");
        screen.type_keys("~?");
        screen.until("~~");
        screen.type_keys("~~.\n");
        screen.until("~.");
        screen.type_keys("~.");
        screen.until("wrenn shell --attach shell sb-");
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(!screen.is_raw());
        let mut child = screen.start(&mut attach);
        eventually("it is raw", || screen.is_raw());
        screen.type_keys("two\n");
        screen.until("two");
        signal(&child, Signal::HUP);
        assert_eq!(child.wait().unwrap().code(), Some(129));
        let written = screen.written();
        assert!(written.contains("\x1b[?1047l\x1b[?25h"), "{written:?}");
    });
    checked.await.unwrap();
    let world = server.world();
    assert!(world.commands[0].terminal && !world.commands[0].keep_alive);
    assert_eq!((world.commands.len(), world.attaches.len()), (1, 2));
    assert_eq!(world.signals, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn shell_reconnects_without_loss() {
    let server = Server::start().await;
    server.add(A);
    let mut shell = command(&server, &["shell", A, "--", "count", "200"]);
    let checked = tokio::task::spawn_blocking(move || {
        let mut screen = Screen::new();
        let mut child = screen.start(&mut shell);
        let mut read = String::new();
        while !read.ends_with("199") {
            read.push_str(&screen.line());
        }
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let notes = ["wrenn: the connection is lost; trying again, ~. detaches"];
        for note in notes.into_iter().chain(["wrenn: reconnected"]) {
            assert!(read.contains(note), "{read}");
            read = read.replace(note, "");
        }
        let all: String = (0..200).map(|n| n.to_string()).collect();
        assert_eq!(read, all);
    });
    checked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_server_leaves_way_out() {
    let server = Server::start().await;
    server.add(A);
    for attach in [
        &["shell", A, "--", "mute"][..],
        &["attach", "-i", A, "shell"],
    ] {
        let mut attach = command(&server, attach);
        let checked = tokio::task::spawn_blocking(move || {
            let mut screen = Screen::new();
            let mut child = screen.start(&mut attach);
            eventually("it is raw", || screen.is_raw());
            // More than waits for a connection from a pipe.
            for _ in 0..100 {
                screen.type_keys("x");
            }
            screen.type_keys("\n~.");
            screen.until("Detached");
            assert_eq!(child.wait().unwrap().code(), Some(0));
            assert!(!screen.is_raw());
        });
        checked.await.unwrap();
    }
}
