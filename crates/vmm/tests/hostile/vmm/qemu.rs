//! The part of QEMU: real QMP, until the guest runs; then the attack.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::{endless, inside, park};

const EVENT: &[u8] =
    b"{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"NIC_RX_FILTER_CHANGED\", \"data\": {}}\r\n";

struct Qemu {
    attack: String,
    state: &'static str,
    /// The attack has begun.
    taken_over: bool,
    /// What the guest "printed" and nobody has read.
    console: String,
}

pub fn run(attack: &str, incoming: bool) -> io::Result<()> {
    let listener = UnixListener::bind("qmp.sock")?;
    std::fs::write("qemu.pid", "1\n")?;
    let state = if incoming { "inmigrate" } else { "prelaunch" };
    let mut qemu = Qemu {
        attack: attack.to_owned(),
        state,
        taken_over: false,
        console: String::new(),
    };
    for client in listener.incoming() {
        // A client that hangs up is followed by the next.
        let _ = qemu.serve(client?);
    }
    Ok(())
}

impl Qemu {
    fn serve(&mut self, mut client: UnixStream) -> io::Result<()> {
        if self.taken_over {
            self.attack_at_greeting(&client);
        }
        let version = json!({"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""});
        say(
            &mut client,
            &json!({"QMP": {"version": version, "capabilities": ["oob"]}}),
        )?;
        let lines = BufReader::new(client.try_clone()?).lines();
        for line in lines {
            let command: Value = serde_json::from_str(&line?)?;
            let name = command["execute"].as_str().unwrap_or_default();
            let answer =
                json!({"return": self.obey(name, &command["arguments"])?, "id": command["id"]});
            if self.taken_over {
                self.answer_wrongly(&mut client, &answer)?;
            } else {
                say(&mut client, &answer)?;
            }
            if name == "cont" && !self.taken_over {
                self.taken_over = true;
                self.console.push_str(&inside::run(&self.attack));
                self.attack_at_start(&client);
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        Ok(match command {
            "cont" => {
                self.state = "running";
                json!({})
            }
            "stop" => {
                self.state = "paused";
                json!({})
            }
            "query-status" => {
                json!({"status": self.state, "running": self.state == "running", "singlestep": false})
            }
            "ringbuf-read" => json!(STANDARD.encode(std::mem::take(&mut self.console))),
            "xen-save-devices-state" => {
                std::fs::write(
                    arguments["filename"].as_str().unwrap_or("state.unfinished"),
                    b"devices",
                )?;
                json!({})
            }
            _ => json!({}),
        })
    }

    /// What it does to who connects once it was taken over.
    fn attack_at_greeting(&self, client: &UnixStream) {
        match self.attack.as_str() {
            "endless-line" => endless(client, b"x"),
            "event-flood" => endless(client, EVENT),
            "silence" => park(),
            _ => {}
        }
    }

    /// What it does as soon as its guest runs.
    fn attack_at_start(&self, client: &UnixStream) {
        match self.attack.as_str() {
            "endless-line" => endless(client, b"x"),
            "event-flood" => endless(client, EVENT),
            "shutdown-flood" => {
                let data = json!({"guest": true, "reason": "guest-shutdown"});
                let time = json!({"seconds": 1, "microseconds": 2});
                endless(
                    client,
                    format!(
                        "{}\n",
                        json!({"event": "SHUTDOWN", "data": data, "timestamp": time})
                    )
                    .as_bytes(),
                )
            }
            "silence" => park(),
            _ => {}
        }
    }

    fn answer_wrongly(&self, client: &mut UnixStream, right: &Value) -> io::Result<()> {
        let id = &right["id"];
        match self.attack.as_str() {
            "wrong-answers" => say(client, &json!({"return": [[{"status": 7}]], "id": id})),
            "answers-of-others" => {
                say(client, &json!({"return": {"status": "shutdown"}, "id": 1}))?;
                say(
                    client,
                    &json!({"error": {"class": "GenericError", "desc": "x".repeat(100_000)}, "id": id}),
                )
            }
            "answers-twice" => {
                say(client, right)?;
                say(client, right)
            }
            "no-json" => client.write_all(b"OK\n"),
            _ => say(client, right),
        }
    }
}

fn say(client: &mut UnixStream, message: &Value) -> io::Result<()> {
    client.write_all(format!("{message}\r\n").as_bytes())
}
