//! A database from a backup that is older than what hosts and clients know: `wrenn-cp` as a program,
//! over either database, with the tools that an operator has.

use std::future::ready;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use api_types::{CreateSandbox, SandboxStatus};
use client::{Client, EventQuery};
use reqwest::Method;
use testkit::host::{FakeHost, TOKEN};
use testkit::postgres::{self, Database};

use crate::support::{eventually, refused};

/// Database, host and addresses of one control plane, which ends with this.
struct Installation {
    dir: tempfile::TempDir,
    /// PostgreSQL, else SQLite in `dir`.
    postgres: Option<Database>,
    host: FakeHost,
    drain_sec: &'static str,
    plane: Option<Plane>,
}

/// A running control plane, and the addresses that it has said in its log.
struct Plane {
    process: Child,
    api: String,
    metrics: String,
}

/// Returns the value of a field in a line of the log.
fn log_field(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("{name}="))?;
    rest.split_whitespace().next().map(str::to_owned)
}

impl Installation {
    async fn new(postgres: Option<Database>) -> Self {
        let new = Self {
            dir: tempfile::tempdir().unwrap(),
            postgres,
            host: FakeHost::start(),
            drain_sec: "0",
            plane: None,
        };
        new.succeed(&["migrate"]);
        new
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wrenn-cp"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("WRENN_DIR", self.dir.path())
            .env("CP_LISTEN_ADDR", "127.0.0.1:0")
            .env("CP_METRICS_ADDR", "127.0.0.1:0")
            .env("CP_DRAIN_SEC", self.drain_sec)
            .env("CP_HOST_AGENT_ADDR", self.host.url())
            .env("AGENT_TOKEN", TOKEN)
            .env_remove("RUST_LOG")
            .env_remove("DATABASE_URL");
        if let Some(database) = &self.postgres {
            command.env("DATABASE_URL", database.url());
        }
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command, and returns what it says.
    fn succeed(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that fails, and returns its error.
    fn fail(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    async fn start(&mut self) {
        let path = self.dir.path().join("log");
        let log = std::fs::File::create(&path).unwrap();
        let mut command = self.command(&["serve"]);
        let process = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let (api, metrics) = eventually("the control plane", async || {
            let text = std::fs::read_to_string(&path).unwrap();
            let line = text
                .lines()
                .find(|line| line.contains("the control plane serves"))?;
            Some((log_field(line, "listen")?, log_field(line, "metrics")?))
        })
        .await;
        self.plane = Some(Plane {
            process,
            api,
            metrics,
        });
        eventually("a healthy control plane", async || {
            self.health().await.filter(|health| health.status == "ok")
        })
        .await;
    }

    fn plane(&self) -> &Plane {
        self.plane.as_ref().unwrap()
    }

    async fn health(&self) -> Option<api_types::Health> {
        let answer = reqwest::get(format!("http://{}/health", self.plane().api)).await;
        answer.ok()?.json().await.ok()
    }

    fn kill(&mut self) {
        let mut process = self.plane.take().unwrap().process;
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn key(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("credentials")).unwrap();
        let mut lines = text.lines();
        let key = lines.find_map(|line| line.strip_prefix("WRENN_API_KEY="));
        key.unwrap().to_owned()
    }

    fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.plane().api), &self.key()).unwrap()
    }

    async fn last_cursor(&self) -> String {
        let events = self.client().events(&EventQuery::default()).await.unwrap();
        events.items.last().unwrap().cursor.clone()
    }

    /// Value of the metric of held sandboxes.
    async fn held(&self) -> Option<u32> {
        let answer = reqwest::get(format!("http://{}/metrics", self.plane().metrics)).await;
        let text = answer.ok()?.text().await.ok()?;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix("wrenn_cp_held_sandboxes "));
        value?.parse().ok()
    }

    fn back_up(&self) -> PathBuf {
        let file = self.dir.path().join("backup");
        let path = file.display().to_string();
        match &self.postgres {
            None => drop(self.succeed(&["backup", "backup"])),
            Some(database) => {
                postgres_tool("pg_dump", &["--format=custom", "--file", &path], database);
            }
        }
        file
    }

    /// Restores as docs/operations.md says.
    fn restore(&self, file: &Path) -> String {
        let Some(database) = &self.postgres else {
            return self.succeed(&["restore", "backup"]);
        };
        let sql = ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"];
        let args = ["--command", sql[0], "--command", sql[1]];
        postgres_tool("psql", &args, database);
        let file = file.display().to_string();
        let args = ["--single-transaction", "--exit-on-error", &file];
        postgres_tool("pg_restore", &args, database);
        self.succeed(&["restore"])
    }
}

fn postgres_tool(name: &str, args: &[&str], database: &Database) {
    let url = database.url();
    // Options after the ? are the driver's own.
    let url = url.split('?').next().unwrap();
    let done = Command::new(postgres::program(name).unwrap())
        .args(["--dbname", url])
        .args(args)
        .output()
        .unwrap();
    assert!(done.status.success(), "{name}: {done:?}");
}

impl Drop for Installation {
    fn drop(&mut self) {
        if self.plane.is_some() {
            self.kill();
        }
    }
}

/// Creates, backs up, creates more and deletes some, restores: nothing is lost.
async fn restore_story(postgres: Option<Database>) {
    let mut place = Installation::new(postgres).await;
    place.start().await;
    let client = place.client();
    let create = async || {
        let spec = CreateSandbox {
            memory_mb: Some(256),
            ..CreateSandbox::default()
        };
        client.create(&spec).await.unwrap().id
    };
    let [old, deleted] = [create().await, create().await];
    let before = place.last_cursor().await;
    let file = place.back_up();
    let [newer, other] = [create().await, create().await];
    client.pause(&newer).await.unwrap();
    client.delete(&deleted).await.unwrap();
    let after = place.last_cursor().await;
    let args: &[&str] = match &place.postgres {
        None => &["restore", "backup"],
        Some(_) => &["restore"],
    };
    let in_use = place.fail(args);
    assert!(
        in_use.contains("in use") && in_use.contains("stop"),
        "{in_use}"
    );
    place.kill();
    let said = place.restore(&file);
    assert!(said.contains("wrenn-cp orphans list"), "{said}");
    place.start().await;
    let client = place.client();

    eventually("two are held", async || {
        place.held().await.filter(|held| *held == 2)
    })
    .await;
    for id in [&newer, &other] {
        assert!(place.host.world().sandboxes.contains_key(id));
    }
    let lost = client.get(&deleted).await.unwrap();
    assert_eq!(lost.status, SandboxStatus::Error);
    assert!(lost.reason.unwrap().contains("no longer knows it"));
    assert_eq!(
        client.get(&old).await.unwrap().status,
        SandboxStatus::Running
    );
    check_cursors(&place, &before, &after).await;

    let mut held: Vec<String> = place
        .succeed(&["orphans", "list", "--quiet"])
        .lines()
        .map(str::to_owned)
        .collect();
    held.sort();
    let mut both = [newer.clone(), other.clone()];
    both.sort();
    assert_eq!(held, both);
    let listed = place.succeed(&["orphans", "list"]);
    assert!(
        listed.contains("paused") && listed.contains("held"),
        "{listed}"
    );
    // A sandbox that cannot be adopted does not stop the adoption of the next.
    let unknown = model::SandboxId::random().to_string();
    let told = place.fail(&["orphans", "adopt", &unknown, &newer]);
    assert!(told.contains(&unknown) && !told.contains(&newer), "{told}");
    assert!(!told.contains("no key belongs"), "{told}");
    place.succeed(&["orphans", "remove", &other]);
    let again = place.fail(&["orphans", "adopt", "--team", "typo", &newer]);
    assert!(again.contains("orphans list"), "{again}");
    assert!(again.contains("no key belongs to the team typo"), "{again}");
    let adopted = client.get(&newer).await.unwrap();
    assert_eq!(
        (adopted.status, adopted.memory_mb),
        (SandboxStatus::Paused, 256)
    );
    assert_eq!(
        client.resume(&newer).await.unwrap().status,
        SandboxStatus::Running
    );
    for id in [&old, &deleted, &newer] {
        client.delete(id).await.unwrap();
    }
    assert!(place.host.world().sandboxes.is_empty());
}

/// A cursor from before the backup goes on; one from after it is refused with a reason.
async fn check_cursors(place: &Installation, before: &str, after: &str) {
    let get = |cursor: &str| {
        let url = format!("http://{}/v1/events?cursor={cursor}", place.plane().api);
        let request = reqwest::Client::new().request(Method::GET, url);
        request.header("x-api-key", place.key())
    };
    let known = get(before).send().await.unwrap();
    assert_eq!(known.status(), 200);
    let events: Vec<api_types::Event> = known.json().await.unwrap();
    assert!(
        events.iter().all(|event| event.cursor != *after),
        "{events:?}"
    );
    let refused = refused(get(after), 410, "expired").await;
    assert!(refused.contains("older backup"), "{refused}");
}

#[tokio::test]
async fn restore_leaves_newer_sandboxes_to_operator() {
    restore_story(None).await;
}

#[tokio::test]
async fn restored_postgres_leaves_newer_sandboxes() {
    restore_story(Some(Database::create().await.unwrap())).await;
}

#[tokio::test]
async fn second_signal_ends_drain() {
    let mut place = Installation::new(None).await;
    place.drain_sec = "300";
    place.start().await;
    let terminate = |place: &Installation| {
        let id = place.plane().process.id().to_string();
        let done = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(done.success());
    };
    terminate(&place);
    eventually("the drain", async || {
        let answer = reqwest::get(format!("http://{}/ready", place.plane().api)).await;
        answer.ok().filter(|answer| answer.status() == 503)
    })
    .await;
    terminate(&place);
    let mut process = place.plane.take().unwrap().process;
    let ended = eventually("its end", || ready(process.try_wait().unwrap())).await;
    assert!(ended.success(), "{ended:?}");
}

/// A control plane keeps the database open that something has damaged under it.
#[tokio::test]
async fn damaged_database_in_use_is_kept() {
    let mut place = Installation::new(None).await;
    place.start().await;
    place.back_up();
    let path = place.dir.path().join("wrenn.db");
    let damage = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    damage.write_all_at(&[0xa5; 100], 0).unwrap();
    let log = place.dir.path().join("wrenn.db-wal");
    assert!(log.exists());
    let in_use = place.fail(&["restore", "backup"]);
    assert!(in_use.contains("in use"), "{in_use}");
    assert!(log.exists());
    place.kill();
    let restored = place.succeed(&["restore", "backup"]);
    assert!(restored.contains("wrenn.db.before-restore"), "{restored}");
    place.start().await;
}

#[tokio::test]
async fn backup_in_use_is_no_source() {
    let mut place = Installation::new(None).await;
    place.start().await;
    let other = Installation::new(None).await;
    let path = place.dir.path().join("wrenn.db").display().to_string();
    let in_use = other.fail(&["restore", &path]);
    assert!(
        in_use.contains(&path) && in_use.contains("in use"),
        "{in_use}"
    );
    place.kill();
    other.succeed(&["restore", &path]);
}
