//! Plans of statements over empty databases, for tests.

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, Row as _};
use tempfile::TempDir;
use testkit::postgres::Database;

use crate::Store;

/// The numbers `n` from 1 to 10,000, in SQLite.
pub(crate) const SQLITE_NUMBERS: &str = "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 10000) SELECT n FROM c)";
/// The same in PostgreSQL.
pub(crate) const POSTGRES_NUMBERS: &str = "generate_series(1, 10000) AS n";

/// Creates a SQLite database, which goes with its directory, and a connection to it.
pub(crate) async fn create_sqlite() -> (TempDir, Store, sqlx::SqliteConnection) {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/wrenn.db", directory.path().display());
    let store = open_migrated(&url).await;
    let connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    (directory, store, connection)
}

/// Creates a PostgreSQL database, which goes with the first value, and a connection to it.
pub(crate) async fn create_postgres() -> (Database, Store, sqlx::PgConnection) {
    let database = Database::create().await.unwrap();
    let store = open_migrated(&database.url()).await;
    let connection = sqlx::PgConnection::connect(&database.url()).await.unwrap();
    (database, store, connection)
}

async fn open_migrated(url: &str) -> Store {
    let store = Store::open(url).await.unwrap();
    store.migrate().await.unwrap();
    store
}

/// Returns the number of rows that the leaves of a plan of `EXPLAIN (ANALYZE, FORMAT JSON)` returned or
/// dropped, and the plan.
pub(crate) fn rows_read(plan: &PgRow) -> (f64, serde_json::Value) {
    // JSON is text on the wire, too.
    let plan = plan.get_unchecked::<String, _>(0);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    (read_by(&plan[0]["Plan"]), plan)
}

fn read_by(plan: &serde_json::Value) -> f64 {
    if let Some(inner) = plan["Plans"].as_array() {
        return inner.iter().map(read_by).sum();
    }
    let number = |name: &str| plan[name].as_f64().unwrap_or_default();
    (number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops")
}
