//! Schema that the database has, and schema that this program needs.

use std::sync::LazyLock;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};

use crate::db::{Pool, rows};
use crate::{Error, Store};

/// Builds a [`Migrator`] from the files of one backend. Not `sqlx::migrate!`: its crate builds all
/// of sqlx, SQLite included, a second time for the compiler.
macro_rules! migrator {
    ($backend:literal: $($file:literal),+ $(,)?) => {
        Migrator::with_migrations(vec![$(migration(
            $file,
            include_str!(concat!("../migrations/", $backend, "/", $file, ".sql")),
        )),+])
    };
}

pub(crate) static SQLITE: LazyLock<Migrator> = LazyLock::new(
    || migrator!("sqlite": "0001_sandboxes_and_keys", "0002_disks", "0003_secrets", "0004_network", "0005_teams", "0006_snapshot_locks", "0007_events", "0008_sandbox_attributes", "0009_webhooks", "0010_webhook_pauses", "0011_event_times", "0012_end_policies", "0013_host_drains", "0014_pauses"),
);
pub(crate) static POSTGRES: LazyLock<Migrator> = LazyLock::new(
    || migrator!("postgres": "0001_sandboxes_and_keys", "0002_disks", "0003_secrets", "0004_network", "0005_teams", "0006_snapshot_locks", "0007_events", "0008_sandbox_attributes", "0009_webhooks", "0010_webhook_pauses", "0011_event_times", "0012_end_policies", "0013_host_drains", "0014_pauses"),
);

/// Returns the step in a file whose name is `VERSION_DESCRIPTION`.
fn migration(file: &'static str, sql: &'static str) -> Migration {
    let (version, description) = file.split_once('_').unwrap_or((file, ""));
    let description = description.replace('_', " ");
    Migration::new(
        version.parse().unwrap_or_default(),
        description.into(),
        MigrationType::Simple,
        sql.into_sql_str(),
        false,
    )
}

/// Returns the schema that this program needs: the number of its last migration, the same for both
/// backends.
pub(crate) fn needed_version() -> i64 {
    SQLITE
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

impl Store {
    /// Checks that the database's schema is the one that this program needs, and that it is not being
    /// restored.
    ///
    /// # Errors
    /// [`Error::NotMigrated`] if the schema is older or newer than this program needs;
    /// [`Error::BeingRestored`].
    pub async fn check_migrated(&self) -> Result<(), Error> {
        self.wait_until_restored().await?;
        let found = self.schema().await?;
        let needed = needed_version();
        if found == needed {
            Ok(())
        } else {
            Err(Error::NotMigrated { found, needed })
        }
    }

    /// Returns the number of the last migration that was applied to the database; 0: none.
    pub(crate) async fn schema(&self) -> Result<i64, Error> {
        let table = match self.read("").pool {
            Pool::Sqlite(_) => "SELECT name FROM sqlite_schema WHERE name = $1",
            Pool::Postgres(_) => "SELECT relname::TEXT FROM pg_class WHERE oid = to_regclass($1)",
        };
        if rows!(
            self.read("looking for the schema"),
            (String,),
            table,
            "_sqlx_migrations"
        )?
        .is_empty()
        {
            return Ok(0);
        }
        let sql =
            "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version DESC LIMIT 1";
        let last = rows!(self.read("reading the schema's version"), (i64,), sql)?;
        Ok(last.first().map_or(0, |row| row.0))
    }
}

/// Does the steps that the database has not seen.
pub(crate) async fn apply_migrations(
    steps: &Migrator,
    connection: &mut impl Migrate,
) -> Result<(), Error> {
    // Not `run`: what that asks of its connection makes futures that no task can be spawned from.
    steps
        .run_direct(None, connection, false)
        .await
        .map_err(migration_error)
}

pub(crate) fn migration_error(source: MigrateError) -> Error {
    let needed = needed_version();
    match source {
        MigrateError::VersionMissing(found) if found > needed => {
            Error::NotMigrated { found, needed }
        }
        source => Error::Migrate {
            needed,
            source: source.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, Executor as _, SqliteConnection};

    use super::*;

    #[tokio::test]
    async fn snapshots_keep_owners_in_strict_table() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let before = SQLITE.iter().filter(|step| step.version < 6).cloned();
        let before = Migrator::with_migrations(before.collect());
        apply_migrations(&before, &mut connection).await.unwrap();
        let row = "INSERT INTO snapshots VALUES ('a', 'team', 7)";
        connection.execute(row).await.unwrap();
        apply_migrations(&SQLITE, &mut connection).await.unwrap();
        let sql = "SELECT name, team_id, created_at FROM snapshots";
        let rows: Vec<(String, String, i64)> = sqlx::query_as(sql)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        assert_eq!(rows, [("a".to_owned(), "team".to_owned(), 7)]);
        let wrong = "INSERT INTO snapshots VALUES ('b', 'team', 'no time')";
        assert!(connection.execute(wrong).await.is_err());
    }

    const ID: &str = "sb-0123456789abcdefghij";

    /// What a database of each version has, as that version wrote it.
    const ROWS: [(i64, &str); 11] = [
        (
            1,
            "INSERT INTO sandboxes (id, state, generation, spec, key_id, created_at, last_updated, host_id) VALUES \
             ('sb-0123456789abcdefghij', 'running', 7, \
             '{\"template\":\"minimal\",\"vcpus\":1,\"memory_mb\":512,\"timeout_sec\":300}', 'key-1', 5, 5, 'host-1')",
        ),
        (
            2,
            "UPDATE sandboxes SET disk_backend = 'dm', disk_mb = 4096, disk_used_bytes = 9",
        ),
        (
            4,
            "UPDATE sandboxes SET network = '{\"allow_internet\":false}'",
        ),
        (5, "UPDATE sandboxes SET team_id = 'ours'"),
        (
            5,
            "INSERT INTO snapshots (name, team_id, created_at) VALUES ('saved', 'ours', 1)",
        ),
        (
            6,
            "INSERT INTO snapshot_locks (name, holder, expires_at) VALUES ('saved', 'gone', 1)",
        ),
        (
            7,
            "INSERT INTO events (kind, team_id, subject, actor, data, created_at) \
             VALUES ('sandbox.created', 'ours', 'sb-0123456789abcdefghij', 'key-1', '{}', 5)",
        ),
        (
            8,
            "UPDATE sandboxes SET name = 'web', labels = '{\"env\":\"prod\"}', template = 'minimal'",
        ),
        (
            9,
            "INSERT INTO webhooks (id, team_id, with_installation, url, description, kinds, after_cursor, secret, \
             enabled, is_slow, leased_until, served_at, created_at) VALUES \
             ('wh-0123456789abcdef', 'ours', FALSE, 'https://example.com/', '', '[]', 0, 'whsec_', TRUE, FALSE, 0, 0, 1)",
        ),
        (
            9,
            "INSERT INTO webhook_deliveries (webhook_id, message_id, kind, payload, state, attempts, due_at, created_at) \
             VALUES ('wh-0123456789abcdef', 'evt-1', 'host.lost', '{\"data\":{}}', 'pending', 0, 0, 1), \
             ('wh-0123456789abcdef', 'evt-2', 'key.created', '{\"data\":{\"team_id\":\"ours\"}}', 'pending', 0, 0, 1), \
             ('wh-0123456789abcdef', 'evt-3', 'webhook.test', '{\"data\":{}}', 'pending', 0, 0, 1)",
        ),
        (
            10,
            "UPDATE webhook_deliveries SET is_installation = TRUE WHERE message_id = 'evt-1'",
        ),
    ];

    /// Makes a database of an earlier version, with rows as that one wrote them.
    macro_rules! make_database {
        ($connection:expr, $steps:expr, $version:expr) => {{
            let mut connection = $connection;
            let steps = $steps.iter().filter(|step| step.version <= $version);
            let steps = Migrator::with_migrations(steps.cloned().collect());
            apply_migrations(&steps, &mut connection).await.unwrap();
            for (_, sql) in ROWS.iter().filter(|(since, _)| *since <= $version) {
                connection.execute(*sql).await.unwrap();
            }
            let sql =
                "INSERT INTO keys (id, name, hash, created_at) VALUES ('key-1', 'old', $1, 1)";
            let insert = sqlx::query(sql).bind([1_u8; 32].to_vec());
            insert.execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }};
    }

    async fn check_upgrade(url: &str, from: i64) {
        let store = Store::open(url).await.unwrap();
        let refused = store.check_migrated().await.unwrap_err();
        assert!(matches!(refused, Error::NotMigrated { .. }), "{refused:?}");
        store.migrate().await.unwrap();
        store.check_migrated().await.unwrap();
        let team: model::TeamId = if from >= 5 { "ours" } else { "default" }.parse().unwrap();
        let id: model::SandboxId = ID.parse().unwrap();
        let row = store.sandbox_get(&team, &id).await.unwrap().unwrap();
        assert_eq!(row.state, model::SandboxState::Running);
        assert_eq!(row.generation, model::Generation(7));
        assert_eq!(row.disk.is_some(), from >= 2, "{from}");
        assert_eq!(row.spec.network.allow_internet, from < 4, "{from}");
        assert_eq!(row.attributes.name.is_some(), from >= 8, "{from}");
        let filter = crate::SandboxFilter {
            template: Some("minimal".to_owned()),
            ..crate::SandboxFilter::default()
        };
        assert_eq!(store.sandbox_count(&team, &filter).await.unwrap(), 1);
        let key = store.key_find(&[1; 32]).await.unwrap().unwrap();
        assert_eq!(key.scopes, model::Scopes::Admin);
        let saved = "saved".parse().unwrap();
        let owner = store.snapshot_owner(&saved).await.unwrap();
        assert_eq!(owner, (from >= 5).then_some(team.clone()), "{from}");
        let events = async || {
            store
                .event_list(&crate::EventQuery::default(), None, 9)
                .await
        };
        let before = usize::from(from >= 7);
        assert!(
            matches!(events().await.unwrap(), crate::Events::Page(page) if page.len() == before)
        );
        store.sandbox_mark_deleting(&team, &id, 9).await.unwrap();
        store.sandbox_remove(&id, 9).await.unwrap();
        assert!(store.sandbox_was_deleted(&id).await.unwrap());
        assert!(
            matches!(events().await.unwrap(), crate::Events::Page(page) if page.len() == before + 2)
        );
        // The event of the installation is not the team's.
        let visible = crate::VisibleDeliveries {
            webhook: &"wh-0123456789abcdef".parse().unwrap(),
            with_installation: false,
        };
        let kept = store.delivery_list(visible, None, None, 9).await.unwrap();
        let kept: Vec<&str> = kept.iter().map(|delivery| delivery.id.as_str()).collect();
        let expected: &[&str] = if from >= 9 { &["evt-3", "evt-2"] } else { &[] };
        assert_eq!(kept, expected, "{from}");
        store.close().await;
    }

    #[tokio::test]
    async fn every_earlier_schema_is_upgraded() {
        for version in 1..needed_version() {
            let directory = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}/wrenn.db", directory.path().display());
            Store::open(&url).await.unwrap().close().await;
            let connection = SqliteConnection::connect(&url).await.unwrap();
            make_database!(connection, SQLITE, version);
            check_upgrade(&url, version).await;

            let database = testkit::postgres::Database::create().await.unwrap();
            let url = database.url();
            let connection = sqlx::PgConnection::connect(&url).await.unwrap();
            make_database!(connection, POSTGRES, version);
            check_upgrade(&url, version).await;
        }
    }

    #[test]
    fn backends_have_the_same_steps() {
        let steps = |migrator: &Migrator| -> Vec<_> {
            migrator
                .iter()
                .map(|step| (step.version, step.description.to_string()))
                .collect()
        };
        assert_eq!(steps(&SQLITE), steps(&POSTGRES));
        assert!(needed_version() > 0);
    }

    /// As sqlx itself reads the directories: databases have these versions and checksums written
    /// down.
    #[tokio::test]
    async fn every_migration_file_is_built_in() {
        let steps = |migrator: &Migrator| -> Vec<_> {
            let step = |step: &Migration| {
                (
                    step.version,
                    step.description.to_string(),
                    step.checksum.to_vec(),
                )
            };
            migrator.iter().map(step).collect()
        };
        for (backend, built_in) in [("sqlite", &SQLITE), ("postgres", &POSTGRES)] {
            let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("migrations")
                .join(backend);
            assert_eq!(
                steps(&Migrator::new(directory).await.unwrap()),
                steps(built_in),
                "{backend}"
            );
        }
    }
}
