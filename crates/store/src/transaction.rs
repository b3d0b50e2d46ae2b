//! Transactions of several statements on either backend.
//!
//! One that is dropped, or whose caller stops waiting, is rolled back. In one of them no other call
//! of the store may be made: SQLite has one writer, which is taken.
//!
//! SQLite rolls back by itself where a disk is full, and sqlx, which counts its transactions, can
//! begin none on that connection any more. So transactions of SQLite are begun and ended here, and a
//! connection whose transaction did not come to its end is closed: its file knows nothing of it then.

use sqlx::pool::PoolConnection;
use sqlx::{Postgres, Sqlite};

use crate::db::{Call, Pool, wait_for_statement};
use crate::{Error, Store};

/// An open transaction. Nothing of it holds until [`Transaction::commit`].
pub(crate) struct Transaction<'a> {
    pub(crate) connection: Connection,
    pub(crate) call: Call<'a>,
    pub(crate) store: &'a Store,
    /// True if it has events, which readers are to be woken for.
    pub(crate) has_events: bool,
}

pub(crate) enum Connection {
    Sqlite(SqliteTransaction),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

/// The connection of a transaction of SQLite.
pub(crate) struct SqliteTransaction {
    pub(crate) connection: PoolConnection<Sqlite>,
    has_ended: bool,
}

impl SqliteTransaction {
    async fn end(mut self, call: &Call<'_>, sql: &'static str) -> Result<(), Error> {
        wait_for_statement(call, sqlx::query(sql).execute(&mut *self.connection)).await?;
        self.has_ended = true;
        Ok(())
    }
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        if !self.has_ended {
            self.connection.close_on_drop();
        }
    }
}

/// Does in a transaction what [`rows!`](crate::db::rows) does on its own.
macro_rules! rows_in {
    ($transaction:expr, $row:ty, $sql:expr $(, $bind:expr)* $(; each $list:expr)?) => {{
        let transaction: &mut $crate::transaction::Transaction<'_> = $transaction;
        let call = &transaction.call;
        match &mut transaction.connection {
            $crate::transaction::Connection::Sqlite(connection) => {
                let query = sqlx::query_as::<_, $row>($sql)$(.bind($bind))*;
                $(let query = $list.into_iter().fold(query, |query, item| query.bind(item));)?
                $crate::db::wait_for_statement(call, query.fetch_all(&mut *connection.connection)).await
            }
            $crate::transaction::Connection::Postgres(connection) => {
                let query = sqlx::query_as::<_, $row>($sql)$(.bind($bind))*;
                $(let query = $list.into_iter().fold(query, |query, item| query.bind(item));)?
                $crate::db::wait_for_statement(call, query.fetch_all(&mut **connection)).await
            }
        }
    }};
}
pub(crate) use rows_in;

/// Makes one change together with its events: `change!(store, doing, Row, events, sql, bind…)` runs
/// the statement, records the events if it gave a row, and gives its rows.
///
/// PostgreSQL does both in one statement where there is one event, which is a single round trip
/// instead of four. The row is locked before the event takes its cursor there too: what is recorded
/// is selected from what was changed.
macro_rules! change {
    ($store:expr, $doing:expr, $row:ty, $events:expr, $sql:expr $(, $bind:expr)* $(,)?) => {
        async {
            let (store, events): (&$crate::Store, &[$crate::NewEvent]) = ($store, $events);
            let call = store.write($doing);
            if let (&$crate::db::Pool::Postgres(pool), [event]) = (&call.pool, events) {
                let sql = $crate::events::with_event($sql, [$(stringify!($bind)),*].len());
                let query = sqlx::query_as::<_, $row>(sqlx::AssertSqlSafe(sql))$(.bind($bind))*;
                let query = $crate::events::bind_event!(query, store.event_columns(event)?);
                let rows = $crate::db::wait_for_statement(&call, query.fetch_all(pool)).await?;
                if !rows.is_empty() {
                    store.events_recorded.send_replace(());
                }
                return Ok(rows);
            }
            let mut transaction = store.begin($doing).await?;
            let rows = $crate::transaction::rows_in!(&mut transaction, $row, $sql $(, $bind)*)?;
            if rows.is_empty() {
                transaction.rollback().await?;
                return Ok(rows);
            }
            for event in events {
                transaction.record(event).await?;
            }
            transaction.commit().await?;
            Ok::<Vec<$row>, $crate::Error>(rows)
        }
        .await
    };
}
pub(crate) use change;

impl Store {
    /// Begins a transaction that writes.
    pub(crate) async fn begin(&self, doing: &'static str) -> Result<Transaction<'_>, Error> {
        let call = self.write(doing);
        let connection = match &call.pool {
            Pool::Sqlite(pool) => {
                let mut begun = SqliteTransaction {
                    connection: wait_for_statement(&call, pool.acquire()).await?,
                    has_ended: false,
                };
                // The lock of the writer at once: one that is taken later can fail for good.
                let begin = sqlx::query("BEGIN IMMEDIATE").execute(&mut *begun.connection);
                wait_for_statement(&call, begin).await?;
                Connection::Sqlite(begun)
            }
            Pool::Postgres(pool) => {
                Connection::Postgres(wait_for_statement(&call, pool.begin()).await?)
            }
        };
        Ok(Transaction {
            connection,
            call,
            store: self,
            has_events: false,
        })
    }
}

impl Transaction<'_> {
    pub(crate) async fn commit(self) -> Result<(), Error> {
        match self.connection {
            Connection::Sqlite(begun) => begun.end(&self.call, "COMMIT").await?,
            Connection::Postgres(begun) => wait_for_statement(&self.call, begun.commit()).await?,
        }
        if self.has_events {
            self.store.events_recorded.send_replace(());
        }
        Ok(())
    }

    /// Ends a transaction that has changed nothing. Dropping it costs SQLite a connection.
    pub(crate) async fn rollback(self) -> Result<(), Error> {
        match self.connection {
            Connection::Sqlite(begun) => begun.end(&self.call, "ROLLBACK").await,
            Connection::Postgres(begun) => wait_for_statement(&self.call, begun.rollback()).await,
        }
    }
}
