//! The part of Firecracker: its requests are answered as it does, until the guest runs; then the
//! attack.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{endless, inside, park};

struct Firecracker {
    attack: String,
    state: &'static str,
    /// The attack has begun.
    taken_over: bool,
    console: PathBuf,
    metrics: PathBuf,
}

pub fn run(attack: &str, socket: &str) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let (state, taken_over) = ("Not started", false);
    let (console, metrics) = (PathBuf::new(), PathBuf::new());
    let mut firecracker = Firecracker {
        attack: attack.to_owned(),
        state,
        taken_over,
        console,
        metrics,
    };
    for client in listener.incoming() {
        // Each client has one request and hangs up.
        let _ = firecracker.serve(client?);
    }
    Ok(())
}

impl Firecracker {
    fn serve(&mut self, client: UnixStream) -> io::Result<()> {
        if self.taken_over {
            self.attack_client(&client);
        }
        let (request, body) = read_request(&client)?;
        let answer = self.obey(&request, &body)?;
        reply(&client, &answer)?;
        if request == "PUT /actions" && body["action_type"] == "InstanceStart" {
            self.taken_over = true;
            self.attack_at_start()?;
        }
        Ok(())
    }

    fn obey(&mut self, request: &str, body: &Value) -> io::Result<String> {
        let path = |name: &str| PathBuf::from(body[name].as_str().unwrap_or_default());
        match request {
            "GET /" => {
                let id = self.attack.as_str();
                return Ok(
                    json!({"id": id, "state": self.state, "vmm_version": "1.16.1"}).to_string(),
                );
            }
            "PUT /serial" => self.console = path("serial_out_path"),
            "PUT /metrics" => self.metrics = path("metrics_path"),
            "PUT /actions" => self.state = "Running",
            "PATCH /vm" => {
                self.state = if body["state"] == "Paused" {
                    "Paused"
                } else {
                    "Running"
                }
            }
            "PUT /snapshot/create" => {
                for name in ["snapshot_path", "mem_file_path"] {
                    std::fs::OpenOptions::new()
                        .write(true)
                        .open(path(name))?
                        .write_all(&[7; 4096])?;
                }
            }
            _ => {}
        }
        Ok(String::new())
    }

    /// What it does as soon as its guest runs.
    fn attack_at_start(&self) -> io::Result<()> {
        let pipe = |path: &PathBuf| std::fs::OpenOptions::new().write(true).open(path);
        let mut console = pipe(&self.console)?;
        console.write_all(inside::run(&self.attack).as_bytes())?;
        let flooded = match self.attack.as_str() {
            "console-flood" => (console, b"a\n".to_vec()),
            "metrics-flood" => (pipe(&self.metrics)?, b"{\"a\": 1}\n".to_vec()),
            "metrics-line" => (pipe(&self.metrics)?, b"{".to_vec()),
            _ => return Ok(()),
        };
        // Beside the answers, which go on.
        std::thread::spawn(move || endless(flooded.0, &flooded.1));
        Ok(())
    }

    /// What it does to who connects once it was taken over.
    fn attack_client(&self, client: &UnixStream) {
        match self.attack.as_str() {
            "silence" => park(),
            "endless-status" => endless(client, b"x"),
            "endless-interim" => endless(client, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
            "endless-headers" => begin_and_go_on(client, "HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
            "endless-header" => begin_and_go_on(client, "HTTP/1.1 200 OK\r\nx: ", b"y"),
            "endless-body" => begin_and_go_on(
                client,
                "HTTP/1.1 400 Bad\r\nContent-Length: 99999999999\r\n\r\n",
                b"z",
            ),
            "endless-chunks" => begin_and_go_on(
                client,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1\r\nz\r\n",
            ),
            _ => {}
        }
    }
}

fn begin_and_go_on(mut client: &UnixStream, beginning: &str, piece: &[u8]) {
    let _ = client.write_all(beginning.as_bytes());
    endless(client, piece);
}

/// Method with path, and the body.
fn read_request(client: &UnixStream) -> io::Result<(String, Value)> {
    let mut reader = BufReader::new(client);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request: Vec<&str> = first.split(' ').take(2).collect();
    Ok((
        request.join(" "),
        serde_json::from_slice(&body).unwrap_or_default(),
    ))
}

fn reply(mut client: &UnixStream, body: &str) -> io::Result<()> {
    let status = if body.is_empty() {
        "204 No Content"
    } else {
        "200 OK"
    };
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    client.write_all(format!("HTTP/1.1 {status}\r\n{length}\r\n{body}").as_bytes())
}
