//! Which schema the database has, and which one this program needs.

use sqlx::migrate::{Migrate, MigrateError, Migrator};

use crate::db::{Pool, rows};
use crate::{Error, Store};

pub(crate) static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
pub(crate) static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// The schema that this program needs: the number of its last migration, the same for both backends.
pub(crate) fn needed() -> i64 {
    SQLITE.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl Store {
    /// # Errors
    /// [`Error::NotMigrated`] if the schema is older or newer than this program needs.
    pub async fn check_migrated(&self) -> Result<(), Error> {
        let (found, needed) = (self.schema().await?, needed());
        if found == needed { Ok(()) } else { Err(Error::NotMigrated { found, needed }) }
    }

    /// The last migration that the database has seen. 0: none.
    async fn schema(&self) -> Result<i64, Error> {
        let table = match self.read("").pool {
            Pool::Sqlite(_) => "SELECT name FROM sqlite_schema WHERE name = $1",
            Pool::Postgres(_) => "SELECT relname::TEXT FROM pg_class WHERE oid = to_regclass($1)",
        };
        if rows!(self.read("looking for the schema"), (String,), table, "_sqlx_migrations")?.is_empty() {
            return Ok(0);
        }
        let sql = "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version DESC LIMIT 1";
        let last = rows!(self.read("reading the schema's version"), (i64,), sql)?;
        Ok(last.first().map_or(0, |row| row.0))
    }
}

/// Does the steps that the database has not seen.
pub(crate) async fn migrate(steps: &Migrator, connection: &mut impl Migrate) -> Result<(), Error> {
    // Not `run`: what that asks of its connection makes futures that no task can be spawned from.
    steps.run_direct(None, connection, false).await.map_err(failed)
}

pub(crate) fn failed(source: MigrateError) -> Error {
    let needed = needed();
    match source {
        MigrateError::VersionMissing(found) if found > needed => Error::NotMigrated { found, needed },
        source => Error::Migrate { needed, source: source.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_the_same_steps() {
        let steps = |migrator: &Migrator| -> Vec<_> {
            migrator.iter().map(|step| (step.version, step.description.to_string())).collect()
        };
        assert_eq!(steps(&SQLITE), steps(&POSTGRES));
        assert!(needed() > 0);
    }
}
