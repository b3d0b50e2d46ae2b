//! PostgreSQL: a pool of connections that every wait is bounded on.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool};

use crate::db::{Call, Pool};
use crate::{Connections, Error, schema};

/// Name of a control plane's connections.
pub(crate) const APPLICATION: &str = "wrenn-cp";
const CONNECTIONS: u32 = 16;
/// Timeout of a first connection, and of one from the pool.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Idle time of a connection, below which it is used without a test of whether the server is still
/// there: a test is a round trip, and a server that restarts takes longer than this.
const UNTESTED_IDLE_TIME: Duration = Duration::from_secs(1);
/// Timeout below [`crate::db::CALL_LIMIT`], so that the server ends a statement before its caller
/// gives up on it. A transaction whose control plane is gone or stands still ends as soon: it may
/// hold the lock that all writers of events need.
const STATEMENT_LIMITS: &str =
    "SET statement_timeout = '25s'; SET idle_in_transaction_session_timeout = '25s'";
/// Limit on the wait while another process migrates.
const MIGRATION_LOCK_LIMIT: &str = "SET lock_timeout = '120s'";

#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    pool: PgPool,
    /// User, host, port and database, for errors.
    place: String,
    options: Box<PgConnectOptions>,
}

impl Postgres {
    /// Opens the database under a name that its other users see.
    pub(crate) async fn open(url: &str, application: &str) -> Result<Self, Error> {
        let options: PgConnectOptions =
            url.parse().map_err(|e: sqlx::Error| Error::InvalidUrl {
                // The driver's words name the part that is wrong, never the whole.
                problem: format!("cannot be read ({e})"),
            })?;
        let options = options.application_name(application);
        let place = place(&options);
        // The pool would try again until time is up, and then only say that it is up.
        let connection = connect(&options, &place).await?;
        let _ = connection.close().await;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_LIMIT)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(STATEMENT_LIMITS).await.map(|_| ()) })
            })
            .test_before_acquire(false)
            .before_acquire(|connection, used| {
                Box::pin(async move {
                    if used.idle_for < UNTESTED_IDLE_TIME {
                        return Ok(true);
                    }
                    connection.ping().await.map(|()| true)
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            place,
            options: Box::new(options),
        })
    }

    /// Migrates on a connection of its own: the lock of a migration lasts as long as its
    /// connection, so that it ends with it, whatever happens; and steps may take longer than
    /// statements may.
    pub(crate) async fn migrate(&self) -> Result<(), Error> {
        let mut connection = connect(&self.options, &self.place).await?;
        connection
            .execute(MIGRATION_LOCK_LIMIT)
            .await
            .map_err(|e| schema::migration_error(e.into()))?;
        let result = schema::apply_migrations(&schema::POSTGRES, &mut connection).await;
        let _ = connection.close().await;
        result
    }

    pub(crate) fn call(&self, doing: &'static str) -> Call<'_> {
        Call {
            pool: Pool::Postgres(&self.pool),
            place: &self.place,
            doing,
        }
    }

    /// Listens to channels, on a connection of its own: those of the pool are for statements.
    pub(crate) async fn listen(&self, channels: &[&str]) -> Result<PgListener, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_LIMIT)
            .connect_lazy_with(self.options.as_ref().clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen_all(channels.iter().copied()).await?;
        Ok(listener)
    }

    pub(crate) fn connections(&self) -> Connections {
        Connections::of_pool(&self.pool)
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

async fn connect(options: &PgConnectOptions, place: &str) -> Result<PgConnection, Error> {
    let place = place.to_owned();
    match tokio::time::timeout(CONNECT_LIMIT, PgConnection::connect_with(options)).await {
        Err(late) => Err(Error::Unreachable {
            place,
            source: late.into(),
        }),
        Ok(Err(source)) if is_refusal(&source) => Err(Error::Refused {
            place,
            source: source.into(),
        }),
        Ok(Err(source)) => Err(Error::Unreachable {
            place,
            source: source.into(),
        }),
        Ok(Ok(connection)) => Ok(connection),
    }
}

/// Returns true if the server refused the connection for good: wrong password, unknown user, no
/// entry in `pg_hba.conf` (class 28), unknown database (3D), no right to it (42).
fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|said| said.code());
    code.is_some_and(|code| {
        ["28", "3D", "42"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}

fn place(options: &PgConnectOptions) -> String {
    let user = options.get_username();
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(directory) => format!(
            "{}, database {database:?}, user {user:?}",
            directory.display()
        ),
        None => format!(
            "{}:{}, database {database:?}, user {user:?}",
            options.get_host(),
            options.get_port()
        ),
    }
}
