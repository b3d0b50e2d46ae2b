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
    || migrator!("sqlite": "0001_sandboxes_and_keys", "0002_disks", "0003_secrets", "0004_network", "0005_teams", "0006_snapshot_locks", "0007_events", "0008_sandbox_attributes", "0009_webhooks"),
);
pub(crate) static POSTGRES: LazyLock<Migrator> = LazyLock::new(
    || migrator!("postgres": "0001_sandboxes_and_keys", "0002_disks", "0003_secrets", "0004_network", "0005_teams", "0006_snapshot_locks", "0007_events", "0008_sandbox_attributes", "0009_webhooks"),
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
    /// Checks that the database's schema is the one that this program needs.
    ///
    /// # Errors
    /// [`Error::NotMigrated`] if the schema is older or newer than this program needs.
    pub async fn check_migrated(&self) -> Result<(), Error> {
        let found = self.schema().await?;
        let needed = needed_version();
        if found == needed {
            Ok(())
        } else {
            Err(Error::NotMigrated { found, needed })
        }
    }

    /// Returns the number of the last migration that was applied to the database; 0: none.
    async fn schema(&self) -> Result<i64, Error> {
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
