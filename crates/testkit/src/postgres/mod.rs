//! Real PostgreSQL databases for tests.
//!
//! Each test process that asks starts one server of its own from Debian's package, in a temporary
//! directory and on a free port of the loopback; all tests in the process share it. It ends with
//! the process, however that ends: see `server.sh`. With `DATABASE_URL_TEST` (a user who may create
//! databases) that server is used instead.

mod server;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

/// Names a server to use in place of one from the package.
pub const SERVER_VARIABLE: &str = "DATABASE_URL_TEST";

/// An empty database of one test. Dropped from the server when this is dropped.
#[derive(Debug)]
pub struct Database {
    name: String,
    server: PgConnectOptions,
}

impl Database {
    /// Creates an empty database of its own.
    ///
    /// # Errors
    /// There is no PostgreSQL on this machine (the text names the package), or it does not start.
    pub async fn create() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = server_options().await?;
        // Unique among the processes that share the server of DATABASE_URL_TEST.
        let name = format!(
            "wrenn_test_{}_{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut connection = server
            .connect()
            .await
            .context("connecting to the PostgreSQL server for tests")?;
        // A process that was killed and had the same number may have left one.
        connection
            .execute(AssertSqlSafe(format!(
                "DROP DATABASE IF EXISTS {name} WITH (FORCE)"
            )))
            .await?;
        let create = format!("CREATE DATABASE {name} TEMPLATE template0");
        connection
            .execute(AssertSqlSafe(create))
            .await
            .context("creating a database for a test")?;
        connection.close().await?;
        Ok(Self { name, server })
    }

    /// Returns the URL of the database, as `DATABASE_URL` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        self.options().to_url_lossy().to_string()
    }

    /// Returns the database's options, as sqlx takes them.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.server.clone().database(&self.name)
    }
}

/// Returns the path of a program of PostgreSQL's package, such as `pg_dump`.
///
/// # Errors
/// There is no PostgreSQL on this machine (the text names the package).
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    Ok(server::programs()?.join(name))
}

async fn server_options() -> anyhow::Result<PgConnectOptions> {
    match std::env::var(SERVER_VARIABLE) {
        Ok(url) => url
            .parse()
            .with_context(|| format!("{SERVER_VARIABLE} is not the URL of a PostgreSQL server")),
        Err(_) => server::shared().await,
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Our own server goes as a whole.
        if std::env::var_os(SERVER_VARIABLE).is_none() {
            return;
        }
        let server = self.server.clone();
        let name = self.name.clone();
        // Tests drop this inside of a runtime, which must not be blocked on.
        let dropped = std::thread::spawn(move || drop_database(&server, &name)).join();
        if !matches!(dropped, Ok(Ok(()))) {
            eprintln!(
                "the database {} could not be dropped: {dropped:?}",
                self.name
            );
        }
    }
}

fn drop_database(server: &PgConnectOptions, name: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut connection = server.connect().await?;
        connection
            .execute(AssertSqlSafe(format!(
                "DROP DATABASE IF EXISTS {name} WITH (FORCE)"
            )))
            .await?;
        Ok(connection.close().await?)
    })
}
