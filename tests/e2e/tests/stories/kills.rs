//! Control plane, host agent and PostgreSQL are killed in turn while sandboxes are used: clients
//! that send again get everything done, nothing twice, and nothing is lost, stuck or left.
//!
//! Each worker keeps a model of its sandbox: the files that were acknowledged, and how many lines
//! its log has, between those that were acknowledged and those that were tried, since a command
//! whose answer is lost may have run. Requests that say nothing of their outcome are sent again:
//! creates and forks with the same idempotency key.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use e2e::{Leftovers, Postgres, Program, Programs, eventually};
use reqwest::Method;
use reqwest::blocking::multipart::{Form, Part};
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};

/// Seconds of load; `make test-long` asks for ten minutes.
const DURATION_VARIABLE: &str = "KILLS_SEC";
/// Seed of the choices, as an earlier run printed it.
const SEED_VARIABLE: &str = "KILLS_SEED";
const DEFAULT_DURATION: Duration = Duration::from_secs(120);
const WORKERS: u64 = 3;
/// Time for one operation, however often it is sent.
const PATIENCE: Duration = Duration::from_secs(120);
/// Milliseconds from one kill to the next, and until what was killed is started again.
const PAUSE_BETWEEN_KILLS: RangeInclusive<u64> = 3_000..=7_000;
const DOWN_TIME: RangeInclusive<u64> = 0..=2_000;

/// Repeatable choices (splitmix64).
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }
}

/// The API, as a client sees it that sends again what was not answered.
struct Api {
    url: String,
    key: String,
    http: Client,
    /// Requests that were sent again.
    repeated: AtomicU64,
}

/// An answer that settles a request.
struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Returns true if the same request, or a look at what it did, may have another outcome.
    fn is_passing(&self) -> bool {
        let code = self.json()["error"]["code"].as_str().map(str::to_owned);
        match code.as_deref() {
            Some("agent_error" | "host_unavailable" | "timeout") => true,
            // Another try of the same operation is still at work.
            Some("invalid_state") => true,
            _ => false,
        }
    }
}

impl Api {
    /// Sends until the answer settles it.
    ///
    /// # Panics
    /// None did in time.
    fn settle(&self, what: &str, request: impl Fn(&Client) -> RequestBuilder) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        let mut last = String::from("nothing was sent");
        while Instant::now() < deadline {
            let sent = request(&self.http).header("x-api-key", &self.key).send();
            let answer = sent.and_then(|response| {
                let status = response.status().as_u16();
                response.text().map(|text| Answer { status, text })
            });
            match answer {
                Ok(answer) if !answer.is_passing() => return answer,
                Ok(answer) => last = format!("{} {}", answer.status, answer.text),
                Err(error) => last = error.to_string(),
            }
            self.repeated.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("{what} was not done in {PATIENCE:?}; last: {last}");
    }

    fn call(&self, method: &Method, path: &str, key: &str, body: &Value) -> Answer {
        self.settle(&format!("{method} {path}"), |http| {
            http.request(method.clone(), format!("{}/v1/{path}", self.url))
                .header("idempotency-key", key)
                .json(body)
        })
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        let answer = self.call(&Method::POST, path, "unused", body);
        assert!(
            answer.is_success(),
            "{path}: {} {}",
            answer.status,
            answer.text
        );
        answer
    }

    fn get(&self, path: &str) -> Value {
        let answer = self.settle(path, |http| http.get(format!("{}/v1/{path}", self.url)));
        assert!(
            answer.is_success(),
            "{path}: {} {}",
            answer.status,
            answer.text
        );
        answer.json()
    }
}

/// What one sandbox holds.
#[derive(Debug, Clone, Default)]
struct Contents {
    files: BTreeMap<String, String>,
    acknowledged_lines: u64,
    tried_lines: u64,
}

/// A sandbox and what must be in it.
struct Used {
    id: String,
    contents: Contents,
    checkpoint: Option<(String, Contents)>,
}

struct Worker<'a> {
    api: &'a Api,
    number: u64,
    choices: Choices,
    /// For names that are used once.
    operations: u64,
    /// Ids of sandboxes that were acknowledged and not deleted, of all workers.
    live: &'a Mutex<Vec<String>>,
}

impl Worker<'_> {
    fn run(mut self, stop: &AtomicBool) -> u64 {
        let mut sandbox = self.create();
        while !stop.load(Ordering::Relaxed) {
            match self.choices.within(0..=19) {
                0..=6 => self.write(&mut sandbox),
                7..=10 => self.append(&mut sandbox),
                11..=12 => self.check(&sandbox),
                13..=14 => self.pause(&sandbox),
                15 => self.fork(&sandbox),
                16 => self.checkpoint(&mut sandbox),
                17 => self.rollback(&mut sandbox),
                _ => {
                    self.check(&sandbox);
                    self.delete(&sandbox.id);
                    sandbox = self.create();
                }
            }
        }
        self.check(&sandbox);
        self.operations
    }

    /// Returns a name that was not used before.
    fn name(&mut self) -> String {
        self.operations += 1;
        format!("w{}-{}", self.number, self.operations)
    }

    fn create(&mut self) -> Used {
        let key = self.name();
        let body = json!({ "memory_mb": 192 });
        let made = self.api.call(&Method::POST, "sandboxes", &key, &body);
        assert!(made.is_success(), "create: {} {}", made.status, made.text);
        let id = made.json()["id"].as_str().expect("an id").to_owned();
        self.live.lock().unwrap().push(id.clone());
        Used {
            id,
            contents: Contents::default(),
            checkpoint: None,
        }
    }

    fn write(&mut self, sandbox: &mut Used) {
        let path = format!("/root/{}", self.name());
        let content = format!("{path} {}", self.choices.next()).repeat(100);
        let url = format!("{}/v1/sandboxes/{}/files/write", self.api.url, sandbox.id);
        let written = self.api.settle("a write", |http| {
            let form = Form::new().text("path", path.clone()).text("user", "root");
            http.post(&url)
                .multipart(form.part("file", Part::text(content.clone())))
        });
        assert!(
            written.is_success(),
            "write: {} {}",
            written.status,
            written.text
        );
        sandbox.contents.files.insert(path, content);
    }

    /// Appends a line by a command, which may run more than once.
    fn append(&mut self, sandbox: &mut Used) {
        self.operations += 1;
        let repeated = AtomicU64::new(0);
        let url = format!("{}/v1/sandboxes/{}/exec", self.api.url, sandbox.id);
        let body = json!({ "cmd": "sh", "args": ["-c", "echo line >> /root/log"], "user": "root" });
        let done = self.api.settle("an exec", |http| {
            repeated.fetch_add(1, Ordering::Relaxed);
            http.post(&url).json(&body)
        });
        assert!(done.is_success(), "exec: {} {}", done.status, done.text);
        assert_eq!(done.json()["exit_code"], 0, "{}", done.text);
        sandbox.contents.acknowledged_lines += 1;
        sandbox.contents.tried_lines += repeated.into_inner();
    }

    /// Reads everything back.
    fn check(&mut self, sandbox: &Used) {
        self.operations += 1;
        self.check_contents(&sandbox.id, &sandbox.contents);
    }

    fn check_contents(&self, id: &str, contents: &Contents) {
        for (path, content) in &contents.files {
            let body = json!({ "path": path, "user": "root" });
            let read = self.api.post(&format!("sandboxes/{id}/files/read"), &body);
            assert!(read.text == *content, "{path} of {id}: {:?}", read.text);
        }
        let script = "cat /root/log 2>/dev/null | wc -l";
        let body = json!({ "cmd": "sh", "args": ["-c", script], "user": "root" });
        let counted = self.api.post(&format!("sandboxes/{id}/exec"), &body).json();
        let lines: u64 = counted["stdout"].as_str().unwrap().trim().parse().unwrap();
        let right = contents.acknowledged_lines..=contents.tried_lines;
        assert!(
            right.contains(&lines),
            "{lines} lines in {id}, not {right:?}"
        );
    }

    fn pause(&mut self, sandbox: &Used) {
        self.operations += 1;
        let path = format!("sandboxes/{}", sandbox.id);
        let paused = self.api.post(&format!("{path}/pause"), &json!({}));
        assert_eq!(paused.json()["status"], "paused", "{}", paused.text);
        if self.choices.within(0..=1) == 0 {
            let resumed = self.api.post(&format!("{path}/resume"), &json!({}));
            assert_eq!(resumed.json()["status"], "running", "{}", resumed.text);
        }
    }

    fn fork(&mut self, sandbox: &Used) {
        let key = self.name();
        let path = format!("sandboxes/{}/fork", sandbox.id);
        let forked = self
            .api
            .call(&Method::POST, &path, &key, &json!({ "count": 1 }));
        assert!(
            forked.is_success(),
            "fork: {} {}",
            forked.status,
            forked.text
        );
        let child = forked.json()[0]["id"].as_str().expect("an id").to_owned();
        self.live.lock().unwrap().push(child.clone());
        self.check_contents(&child, &sandbox.contents);
        self.delete(&child);
    }

    fn checkpoint(&mut self, sandbox: &mut Used) {
        let name = self.name();
        let path = format!("sandboxes/{}/checkpoints", sandbox.id);
        let made = self
            .api
            .call(&Method::POST, &path, "unused", &json!({ "name": name }));
        // An earlier try, whose answer was lost, may have made it.
        let is_there = made.is_success() || made.json()["error"]["code"] == "conflict";
        assert!(is_there, "checkpoint: {} {}", made.status, made.text);
        let listed = self.api.get(&path);
        let listed = listed.as_array().expect("a list").iter();
        let names: Vec<_> = listed
            .map(|entry| entry["name"].as_str().unwrap())
            .collect();
        assert!(names.contains(&name.as_str()), "{name} in {names:?}");
        if let Some((before, _)) = sandbox.checkpoint.replace((name, sandbox.contents.clone())) {
            let gone = self.api.call(
                &Method::DELETE,
                &format!("{path}/{before}"),
                "unused",
                &json!({}),
            );
            assert!(gone.is_success() || gone.status == 404, "{}", gone.text);
        }
    }

    fn rollback(&mut self, sandbox: &mut Used) {
        let Some((name, contents)) = &sandbox.checkpoint else {
            return;
        };
        self.operations += 1;
        let path = format!("sandboxes/{}/checkpoints/{name}/rollback", sandbox.id);
        self.api.post(&path, &json!({}));
        sandbox.contents = contents.clone();
        self.check_contents(&sandbox.id, &sandbox.contents);
    }

    fn delete(&mut self, id: &str) {
        self.operations += 1;
        let gone = self.api.call(
            &Method::DELETE,
            &format!("sandboxes/{id}"),
            "unused",
            &json!({}),
        );
        // An earlier try, whose answer was lost, may have removed it.
        let is_gone = gone.is_success() || gone.status == 404;
        assert!(is_gone, "delete: {} {}", gone.status, gone.text);
        self.live.lock().unwrap().retain(|other| other != id);
    }
}

/// Kills one program after the other and starts it again, until the time is up or a worker failed.
fn kill_in_turn(
    programs: &mut Programs,
    postgres: &mut Postgres,
    choices: &mut Choices,
    mut goes_on: impl FnMut() -> bool,
) -> u32 {
    let mut kills = 0;
    while goes_on() {
        std::thread::sleep(choices.millis(PAUSE_BETWEEN_KILLS));
        let down = choices.millis(DOWN_TIME);
        programs.assert_running();
        let program = match kills % 3 {
            0 => Some(Program::ControlPlane),
            1 => Some(Program::HostAgent),
            _ => None,
        };
        if let Some(program) = program {
            programs.kill_nine(program);
            std::thread::sleep(down);
            programs.launch(program);
        } else {
            postgres.kill_nine();
            std::thread::sleep(down);
            postgres.launch();
        }
        kills += 1;
    }
    kills
}

/// Returns the seed of this run, or that of an earlier one.
fn seed() -> u64 {
    let asked = std::env::var(SEED_VARIABLE);
    asked.map_or_else(
        |_| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.expect("a clock after 1970").as_secs()
        },
        |text| text.parse().expect("a number"),
    )
}

fn duration() -> Duration {
    let asked = std::env::var(DURATION_VARIABLE);
    asked.map_or(DEFAULT_DURATION, |text| {
        Duration::from_secs(text.parse().expect("seconds"))
    })
}

#[test]
fn mixed_load_survives_kills_in_turn() {
    let before = Leftovers::list();
    let mut postgres = Postgres::start();
    let mut programs = Programs::start("kills", Some(&postgres.url()), &[]);
    let seed = seed();
    println!("seed {seed}");
    let api = Api {
        url: programs.url(),
        key: programs.key(),
        http: Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap(),
        repeated: AtomicU64::new(0),
    };
    let (stop, live) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let (kills, operations) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let worker = Worker {
                    api: &api,
                    number,
                    choices: Choices(seed + number),
                    operations: 0,
                    live: &live,
                };
                scope.spawn(|| worker.run(&stop))
            })
            .collect();
        let end = Instant::now() + duration();
        let mut choices = Choices(seed + WORKERS);
        let kills = kill_in_turn(&mut programs, &mut postgres, &mut choices, || {
            Instant::now() < end && !workers.iter().any(|worker| worker.is_finished())
        });
        stop.store(true, Ordering::Relaxed);
        let operations: u64 = workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker that found nothing wrong"))
            .sum();
        (kills, operations)
    });
    let repeated = api.repeated.load(Ordering::Relaxed);
    println!("{kills} kills, {operations} operations, {repeated} requests sent again");
    assert!(
        operations > u64::from(kills),
        "the load went on beside the kills"
    );
    let mut expected = live.into_inner().unwrap();
    expected.sort();
    let listed = api.get("sandboxes");
    let listed = listed.as_array().expect("a list").iter();
    let mut ids: Vec<_> = listed
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    assert_eq!(ids, expected, "sandboxes lost or made twice");
    let _ = programs.cli().run(["rm", "--all"]).succeeded();
    eventually("files of removed sandboxes gone", PATIENCE, || {
        let dir = std::fs::read_dir(programs.dir().join("sandboxes"));
        dir.is_ok_and(|mut entries| entries.next().is_none())
            .then_some(())
    });
    programs.stop();
    drop(postgres);
    before.assert_nothing_new();
}
