//! Statements on either backend, and the meaning of their failures.
//!
//! Both drivers take `$1`-style parameters, and each statement here is one text that both databases
//! understand, so [`rows!`] is the only place where the two part.
//!
//! Every statement is run to its end, also those that change one row and return it: SQLite commits
//! at the end of the statement, and stopping after the first row would lose the error of a commit
//! that failed.

use std::time::{Duration, Instant};

use metrics::histogram;
use model::{Generation, InvalidValue};
use sqlx::{PgPool, SqlitePool};

use crate::Error;

/// Bounds one call, connection included. PostgreSQL ends the statement itself a little earlier.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Histogram of the time of statements, that for a free connection included.
pub const STATEMENT_DURATION: &str = "wrenn_cp_store_statement_duration_seconds";

/// Call of the database: the pool to use, and the purpose, for its error.
pub(crate) struct Call<'a> {
    pub(crate) pool: Pool<'a>,
    pub(crate) place: &'a str,
    pub(crate) doing: &'static str,
}

pub(crate) enum Pool<'a> {
    Sqlite(&'a SqlitePool),
    Postgres(&'a PgPool),
}

/// `rows!(call, Row, sql, bind…)`: runs one statement to its end, and gives its rows. `; each list`
/// at the end binds what is in the list, after the others.
macro_rules! rows {
    ($call:expr, $row:ty, $sql:expr $(, $bind:expr)* $(; each $list:expr)?) => {{
        let call: $crate::db::Call<'_> = $call;
        match call.pool {
            $crate::db::Pool::Sqlite(pool) => {
                let query = sqlx::query_as::<_, $row>($sql)$(.bind($bind))*;
                $(let query = $list.into_iter().fold(query, |query, item| query.bind(item));)?
                $crate::db::wait_for_statement(&call, query.fetch_all(pool)).await
            }
            $crate::db::Pool::Postgres(pool) => {
                let query = sqlx::query_as::<_, $row>($sql)$(.bind($bind))*;
                $(let query = $list.into_iter().fold(query, |query, item| query.bind(item));)?
                $crate::db::wait_for_statement(&call, query.fetch_all(pool)).await
            }
        }
    }};
}
pub(crate) use rows;

/// Declares a struct that is read from a row of either database, each field from the column of its
/// name. Not `sqlx::FromRow`'s derive: its crate builds all of sqlx a second time for the compiler.
macro_rules! row {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $kind:ty,)+
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $kind,)+
        }

        impl<'r, R> sqlx::FromRow<'r, R> for $name
        where
            R: sqlx::Row,
            &'static str: sqlx::ColumnIndex<R>,
            $($kind: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,)+
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self { $($field: row.try_get(stringify!($field))?,)+ })
            }
        }
    };
}
pub(crate) use row;

/// Waits for the statement, within [`CALL_LIMIT`], and measures it.
pub(crate) async fn wait_for_statement<T>(
    call: &Call<'_>,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    let begin = Instant::now();
    let result = match tokio::time::timeout(CALL_LIMIT, statement).await {
        Ok(result) => result.map_err(|source| failed(call, source)),
        Err(_) => Err(timed_out(call)),
    };
    let outcome = if result.is_ok() { "ok" } else { "error" };
    histogram!(STATEMENT_DURATION, "outcome" => outcome).record(begin.elapsed());
    result
}

fn timed_out(call: &Call<'_>) -> Error {
    Error::Timeout {
        doing: call.doing,
        limit_sec: CALL_LIMIT.as_secs(),
    }
}

fn failed(call: &Call<'_>, source: sqlx::Error) -> Error {
    use sqlx::Error as Sqlx;
    let doing = call.doing;
    match &source {
        Sqlx::Io(_)
        | Sqlx::Tls(_)
        | Sqlx::Protocol(_)
        | Sqlx::PoolClosed
        | Sqlx::PoolTimedOut
        | Sqlx::WorkerCrashed => Error::Unreachable {
            place: call.place.to_owned(),
            source: source.into(),
        },
        Sqlx::Database(said) => match (&call.pool, said.code().as_deref().unwrap_or_default()) {
            // SQLITE_FULL, SQLITE_IOERR_SHMSIZE (the index of the write-ahead log does not fit);
            // disk_full
            (Pool::Sqlite(_), "13" | "4874") | (Pool::Postgres(_), "53100") => Error::Full {
                doing,
                source: source.into(),
            },
            // query_canceled, by statement_timeout
            (Pool::Postgres(_), "57014") => timed_out(call),
            // connection exceptions, too_many_connections, and the server going down or coming up
            (Pool::Postgres(_), code)
                if code.starts_with("08") || code == "53300" || code.starts_with("57P0") =>
            {
                Error::Unreachable {
                    place: call.place.to_owned(),
                    source: source.into(),
                }
            }
            _ => Error::Query {
                doing,
                source: source.into(),
            },
        },
        _ => Error::Query {
            doing,
            source: source.into(),
        },
    }
}

/// Returns the first row as what it stands for; `None` if there is no row.
pub(crate) fn one<R, T: TryFrom<R, Error = Error>>(rows: Vec<R>) -> Result<Option<T>, Error> {
    rows.into_iter().next().map(T::try_from).transpose()
}

/// Returns the rows as what they stand for.
pub(crate) fn all<R, T: TryFrom<R, Error = Error>>(rows: Vec<R>) -> Result<Vec<T>, Error> {
    rows.into_iter().map(T::try_from).collect()
}

/// Returns the places of `count` parameters from number `first` on, with commas between them.
pub(crate) fn places(first: usize, count: usize) -> String {
    let places: Vec<String> = (first..first + count)
        .map(|number| format!("${number}"))
        .collect();
    places.join(", ")
}

/// Returns the number in the only row of a `SELECT count(*)`.
pub(crate) fn single_count(rows: Vec<(i64,)>) -> Result<u64, Error> {
    let number = rows.first().map_or(0, |row| row.0);
    u64::try_from(number).map_err(|source| Error::Query {
        doing: "counting rows",
        source: source.into(),
    })
}

/// Converts a generation to the databases' type. Both count to `i64::MAX`.
pub(crate) fn stored_generation(generation: Generation) -> Result<i64, Error> {
    i64::try_from(generation.0).map_err(|_| {
        InvalidValue::new(
            "generation",
            format!("must be at most {}, not {}", i64::MAX, generation.0),
        )
        .into()
    })
}

/// Refuses text with a NUL in it: PostgreSQL cannot store it, and SQLite must not accept more than
/// PostgreSQL.
pub(crate) fn without_nul(field: &'static str, text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(InvalidValue::new(field, "must not contain a NUL").into());
    }
    Ok(())
}
