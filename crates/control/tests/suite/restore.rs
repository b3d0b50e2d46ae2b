//! A database from a backup that is older than what hosts and clients know: `wrenn-cp` as a program,
//! over either database, with the tools that an operator has.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use api_types::{CreateSandbox, SandboxStatus};
use client::{Client, EventQuery};
use reqwest::Method;
use testkit::host::{FakeHost, TOKEN};
use testkit::postgres::{self, Database};
use tokio::net::TcpListener;

use crate::support::{eventually, refused};

/// Database, host and addresses of one control plane, which ends with this.
struct Installation {
    dir: tempfile::TempDir,
    /// PostgreSQL, else SQLite in `dir`.
    postgres: Option<Database>,
    host: FakeHost,
    api: String,
    metrics: String,
    plane: Option<Child>,
}

async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

impl Installation {
    async fn new(postgres: Option<Database>) -> Self {
        let new = Self {
            dir: tempfile::tempdir().unwrap(),
            postgres,
            host: FakeHost::start(),
            api: free_address().await,
            metrics: free_address().await,
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
            .env("CP_LISTEN_ADDR", &self.api)
            .env("CP_METRICS_ADDR", &self.metrics)
            .env("CP_HOST_AGENT_ADDR", self.host.url())
            .env("AGENT_TOKEN", TOKEN)
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
        let mut command = self.command(&["serve"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.plane = Some(command.spawn().unwrap());
        eventually("the control plane", async || {
            self.health().await.filter(|health| health.status == "ok")
        })
        .await;
    }

    async fn health(&self) -> Option<api_types::Health> {
        let answer = reqwest::get(format!("http://{}/health", self.api)).await;
        answer.ok()?.json().await.ok()
    }

    fn kill(&mut self) {
        let mut plane = self.plane.take().unwrap();
        plane.kill().unwrap();
        plane.wait().unwrap();
    }

    fn key(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("credentials")).unwrap();
        let mut lines = text.lines();
        let key = lines.find_map(|line| line.strip_prefix("WRENN_API_KEY="));
        key.unwrap().to_owned()
    }

    fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.api), &self.key()).unwrap()
    }

    async fn last_cursor(&self) -> String {
        let events = self.client().events(&EventQuery::default()).await.unwrap();
        events.items.last().unwrap().cursor.clone()
    }

    /// Value of the metric of held sandboxes.
    async fn held(&self) -> Option<u32> {
        let answer = reqwest::get(format!("http://{}/metrics", self.metrics)).await;
        let text = answer.ok()?.text().await.ok()?;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix("wrenn_cp_held_sandboxes "));
        value?.parse().ok()
    }

    fn back_up(&self) -> PathBuf {
        let file = self.dir.path().join("backup");
        match &self.postgres {
            None => drop(self.succeed(&["backup", "backup"])),
            Some(database) => {
                postgres_tool("pg_dump", &["--format=custom", "--file"], &file, database)
            }
        }
        file
    }

    fn restore(&self, file: &Path) -> String {
        match &self.postgres {
            None => self.succeed(&["restore", "backup"]),
            Some(database) => {
                postgres_tool("pg_restore", &["--clean", "--if-exists"], file, database);
                self.succeed(&["restore"])
            }
        }
    }
}

fn postgres_tool(name: &str, args: &[&str], file: &Path, database: &Database) {
    let url = database.url();
    // Options after the ? are the driver's own.
    let url = url.split('?').next().unwrap();
    let done = Command::new(postgres::program(name).unwrap())
        .args(args)
        .arg(file)
        .arg("--dbname")
        .arg(url)
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
    place.succeed(&["orphans", "adopt", &newer]);
    place.succeed(&["orphans", "remove", &other]);
    let again = place.fail(&["orphans", "adopt", &newer]);
    assert!(again.contains("orphans list"), "{again}");
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
        let url = format!("http://{}/v1/events?cursor={cursor}", place.api);
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
