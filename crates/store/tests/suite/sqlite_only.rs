//! What only a file can have: a mode, and a process that is killed over it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

use model::SandboxId;
use store::{Error, Store};

use crate::db::{Db, insert};

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    let db = Db::sqlite();
    // As a program of another time may have made them.
    for name in ["wrenn.db", "wrenn.db-wal"] {
        let path = db.directory().join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let store = db.store().await;
    insert(&store, 1).await;

    let entries = std::fs::read_dir(db.directory())
        .unwrap()
        .map(Result::unwrap);
    let modes: Vec<_> = entries
        .map(|entry| (entry.file_name(), entry.metadata().unwrap().mode() & 0o777))
        .collect();
    assert_eq!(modes.len(), 3, "{modes:?}");
    assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");

    store.close().await;
    assert_eq!(
        std::fs::read_dir(db.directory()).unwrap().count(),
        1,
        "the log is in the database after an orderly end"
    );
}

#[tokio::test]
async fn a_file_of_something_else_is_refused() {
    let db = Db::sqlite();
    let path = db.directory().join("wrenn.db");
    std::fs::write(
        &path,
        "no database, and long enough to have a header ".repeat(100),
    )
    .unwrap();
    let refused = Store::open(&db.url).await.unwrap_err();
    assert!(matches!(refused, Error::File { .. }), "{refused:?}");
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .starts_with("no database")
    );
}

/// In the process that is to be killed: the database to write to.
const VICTIM: &str = "STORE_TEST_VICTIM";

/// This test starts itself as a second process, which inserts rows and says each one's id; then it
/// is killed.
#[tokio::test]
async fn acknowledged_rows_survive_a_kill() {
    if let Ok(url) = std::env::var(VICTIM) {
        let store = Store::open(&url).await.unwrap();
        loop {
            println!("\nacknowledged {}", insert(&store, 1).await.id);
        }
    }
    let db = Db::sqlite();
    db.store().await.close().await;
    for _ in 0..3 {
        let ids = kill_after(20, &db.url);
        let store = db.empty().await;
        for id in ids {
            assert!(
                store.sandbox_get_any_team(&id).await.unwrap().is_some(),
                "{id} is lost"
            );
        }
        store.close().await;
    }
}

fn kill_after(rows: usize, url: &str) -> Vec<SandboxId> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "sqlite_only::acknowledged_rows_survive_a_kill",
            "--nocapture",
        ])
        .env(VICTIM, url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut next = || {
        lines
            .by_ref()
            .find_map(|line| line.ok()?.strip_prefix("acknowledged ")?.parse().ok())
    };
    let mut ids: Vec<SandboxId> = std::iter::from_fn(&mut next).take(rows).collect();
    assert_eq!(ids.len(), rows);
    victim.kill().unwrap();
    victim.wait().unwrap();
    // What it said on its way out counts too.
    ids.extend(std::iter::from_fn(next));
    ids
}
