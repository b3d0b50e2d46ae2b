//! What each test gets: a fresh, empty database, and values to fill it with.

use std::collections::BTreeMap;

use model::{
    Generation, SandboxAttributes, SandboxId, SandboxSpec, SandboxState, StopReason, TeamId,
};
use store::{Disk, Idempotency, Inserted, NewSandbox, Report, Sandbox, Store};
use testkit::postgres::Database;

/// An empty database. It goes when this is dropped.
pub struct Db {
    pub url: String,
    keep: Keep,
}

enum Keep {
    File(tempfile::TempDir),
    Server(#[expect(dead_code, reason = "dropped in time")] Box<Database>),
}

impl Db {
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/wrenn.db", directory.path().display());
        Self {
            url,
            keep: Keep::File(directory),
        }
    }

    pub async fn postgres() -> Self {
        let database = Database::create().await.unwrap();
        Self {
            url: database.url(),
            keep: Keep::Server(Box::new(database)),
        }
    }

    /// Where the database file is.
    pub fn directory(&self) -> &std::path::Path {
        match &self.keep {
            Keep::File(directory) => directory.path(),
            Keep::Server(_) => panic!("a database of PostgreSQL has no directory here"),
        }
    }

    pub async fn empty(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }

    pub async fn store(&self) -> Store {
        let store = self.empty().await;
        store.migrate().await.unwrap();
        store
    }

    /// Runs a statement behind the store's back.
    pub async fn tamper(&self, sql: &'static str) {
        use sqlx::{Connection, Executor};
        if self.url.starts_with("sqlite") {
            let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            connection.execute(sql).await.unwrap();
            connection.close().await.unwrap();
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
            connection.execute(sql).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

/// Orders rows as pages of the list have them.
pub fn newest_first(mut rows: Vec<Sandbox>) -> Vec<Sandbox> {
    rows.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    rows
}

pub fn spec() -> SandboxSpec {
    let envs = BTreeMap::from([("QUOTE'\"".to_owned(), "ü\n{}".to_owned())]);
    let network = model::NetworkSpec::parse(&["*.a.com".to_owned()], &[], false).unwrap();
    SandboxSpec::builder()
        .vcpus(2)
        .envs(envs)
        .network(network)
        .build()
}

pub fn new_sandbox(now: i64) -> NewSandbox {
    NewSandbox {
        id: SandboxId::random(),
        spec: spec(),
        attributes: SandboxAttributes::default(),
        team_id: TeamId::default(),
        key_id: "key-1".to_owned(),
        idempotency: None,
        now,
    }
}

pub fn idempotent(key: &str, fingerprint: u8) -> NewSandbox {
    let idempotency = Some(Idempotency {
        key: key.to_owned(),
        fingerprint: [fingerprint; 32],
    });
    NewSandbox {
        idempotency,
        ..new_sandbox(1)
    }
}

pub async fn insert(store: &Store, now: i64) -> Sandbox {
    match store.sandbox_insert(&new_sandbox(now)).await.unwrap() {
        Inserted::New(row) => row,
        other => panic!("{other:?}"),
    }
}

fn network(generation: u64) -> model::NetworkSpec {
    model::NetworkSpec::parse(&[format!("{generation}.example.com")], &[], false).unwrap()
}

pub fn report(id: &SandboxId, generation: u64, state: SandboxState) -> Report {
    Report {
        id: id.clone(),
        host_id: format!("host-{}", generation % 2),
        generation: Generation(generation),
        state,
        reason: state.is_terminal().then(|| format!("reason {generation}")),
        stop_reason: state.is_terminal().then_some(StopReason::GuestShutdown),
        guest_ip: Some("169.254.0.21".to_owned()),
        host_ip: (state == SandboxState::Running).then(|| format!("10.11.0.{generation}")),
        started_at: Some(1000 + generation.cast_signed()),
        last_active_at: None,
        disk: (!generation.is_multiple_of(3)).then(|| Disk {
            backend: "dm".to_owned(),
            size_mb: 4096,
            used_bytes: generation.cast_signed() << 20,
        }),
        network: generation.is_multiple_of(2).then(|| network(generation)),
    }
}
