//! The only SQL in the house. One concrete `Store` on two engines: SQLite inside by default, PostgreSQL where several
//! replicas serve a site. SQL text, binds and row structs are written once; the macros expand them per engine.
//!
//! Writes go through [`Tx`]; high-rate facts go through [`facts`] (group commit). After each commit the machines that
//! were touched are announced on [`Store::changes`], a hint for live pages and long polls, never the truth.

pub mod access;
pub mod agent;
pub mod boots;
pub mod campaigns;
pub mod dhcp_leases;
pub mod events;
pub mod facts;
pub mod hardware_log;
pub mod images;
pub mod machines;
pub mod open;
pub mod outbox;
pub mod parts;
pub mod polls;
pub mod retention;
pub mod samples;
pub mod sheets;
pub mod work;

use std::path::PathBuf;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection};
use tokio::sync::broadcast;

use crate::domain::id::MachineId;

/// Where the data lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// A SQLite file; made when it is not there.
    Sqlite { path: PathBuf },
    /// `postgres://user:password@host/database`.
    Postgres { url: crate::domain::secret::Secret<String> },
}

pub(crate) enum Pool {
    /// One writer (SQLite has one anyway, and waiting in our queue is fairer than its busy handler) and some readers.
    Sqlite {
        write: sqlx::SqlitePool,
        read: sqlx::SqlitePool,
    },
    Postgres(sqlx::PgPool),
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: std::sync::Arc<Inner>,
}

struct Inner {
    pool: Pool,
    changes: broadcast::Sender<Change>,
    facts: facts::FactSink,
}

/// Something about this machine changed (or, without a machine, about images, users or settings).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub machine: Option<MachineId>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database {path} is in use by another process; stop it, or give this one its own --state directory")]
    Busy { path: String },
    #[error("the disk that holds the database is full; free some space, nothing was changed")]
    Full,
    #[error("the database {path} cannot be written: {why}; check the owner and mode of the file and its directory")]
    ReadOnly { path: String, why: String },
    #[error(
        "the database {path} was made by a newer hostler (migration {theirs}, this program knows {ours}); use that version or newer, the file was left as it was"
    )]
    Newer { path: String, theirs: i64, ours: i64 },
    #[error("the database {path} is damaged ({why}); restore a backup, the file was left as it was")]
    Damaged { path: String, why: String },
    #[error("cannot open the database {path}: {why}")]
    Open { path: String, why: String },
    #[error("a stored row cannot be read: {table} {id}: {why}")]
    BadRow { table: &'static str, id: String, why: String },
    #[error("the record was changed by someone else meanwhile; read it again and retry")]
    Conflict,
    #[error("a text holds a NUL character, which the database cannot keep")]
    NotText,
    #[error("the database refused")]
    Db(#[source] sqlx::Error),
    #[error("the store is shutting down")]
    Closed,
}

/// PostgreSQL errors after which the same transaction may well succeed: serialization_failure, deadlock_detected.
const TRY_AGAIN: [&str; 2] = ["40001", "40P01"];
/// PostgreSQL's character_not_in_repertoire and untranslatable_character: its TEXT holds no NUL.
const NOT_TEXT: [&str; 2] = ["22021", "22P05"];

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        let Some(refused) = e.as_database_error() else { return Self::Db(e) };
        // Someone wrote the same name, MAC or address between our look and our write.
        if refused.is_unique_violation() {
            return Self::Conflict;
        }
        if refused.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
            let code = refused.code().unwrap_or_default();
            return match code.as_ref() {
                again if TRY_AGAIN.contains(&again) => Self::Conflict,
                text if NOT_TEXT.contains(&text) => Self::NotText,
                _ => Self::Db(e),
            };
        }
        // SQLite primary result codes: 5 BUSY, 8 READONLY, 13 FULL, 11 CORRUPT, 26 NOTADB (sqlite.org/rescode.html).
        match refused.code().and_then(|c| c.parse::<i64>().ok()).map(|c| c & 0xff) {
            Some(13) => Self::Full,
            Some(11 | 26) => Self::Damaged { path: "in use".to_owned(), why: e.to_string() },
            Some(8) => Self::ReadOnly { path: "in use".to_owned(), why: e.to_string() },
            _ => Self::Db(e),
        }
    }
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// A write transaction. Dropped without [`Tx::commit`], it changes nothing.
pub struct Tx {
    pub(crate) inner: TxInner,
    touched: Vec<Option<MachineId>>,
    changes: broadcast::Sender<Change>,
}

pub(crate) enum TxInner {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

/// Expands `$body` once per engine with `$c` bound to the transaction's connection.
macro_rules! in_tx {
    ($tx:expr, $c:ident => $body:expr) => {
        match &mut $tx.inner {
            $crate::store::TxInner::Sqlite(t) => {
                let $c = &mut **t;
                $body
            }
            $crate::store::TxInner::Postgres(t) => {
                let $c = &mut **t;
                $body
            }
        }
    };
}
pub(crate) use in_tx;

/// Expands `$body` once per engine with `$p` bound to a pool for reading.
macro_rules! in_pool {
    ($store:expr, $p:ident => $body:expr) => {
        match $store.pool() {
            $crate::store::Pool::Sqlite { read: $p, .. } => $body,
            $crate::store::Pool::Postgres($p) => $body,
        }
    };
}
pub(crate) use in_pool;

/// A connection to read on: one of the pool's, or that of a transaction. A read in a transaction must go through the
/// transaction: asking the pool for a second connection while holding one is a deadlock once all are held.
pub(crate) enum Conn<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

/// A connection borrowed from the pool.
pub(crate) enum Borrowed {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Borrowed {
    pub(crate) fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Sqlite(c) => Conn::Sqlite(c),
            Self::Postgres(c) => Conn::Postgres(c),
        }
    }
}

/// Expands `$body` once per engine with `$c` bound to the connection.
macro_rules! in_conn {
    ($conn:expr, $c:ident => $body:expr) => {
        match $conn {
            $crate::store::Conn::Sqlite(c) => {
                let $c = &mut **c;
                $body
            }
            $crate::store::Conn::Postgres(c) => {
                let $c = &mut **c;
                $body
            }
        }
    };
}
pub(crate) use in_conn;

impl Store {
    /// A connection for several reads in a row.
    pub(crate) async fn reading(&self) -> Result<Borrowed> {
        Ok(match self.pool() {
            Pool::Sqlite { read, .. } => Borrowed::Sqlite(read.acquire().await?),
            Pool::Postgres(pool) => Borrowed::Postgres(pool.acquire().await?),
        })
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// Begins a write transaction. Nothing but store calls may happen while it is open.
    pub async fn begin(&self) -> Result<Tx> {
        let inner = match &self.inner.pool {
            // IMMEDIATE: take the write lock now, so that a read in the transaction cannot be overtaken.
            Pool::Sqlite { write, .. } => TxInner::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            Pool::Postgres(pool) => TxInner::Postgres(pool.begin().await?),
        };
        Ok(Tx { inner, touched: Vec::new(), changes: self.inner.changes.clone() })
    }

    /// Hints that something changed. A slow receiver loses hints (`Lagged`) and then reads anew.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.changes.subscribe()
    }

    /// The queue for high-rate facts: many in one commit.
    pub fn facts(&self) -> &facts::FactSink {
        &self.inner.facts
    }

    /// Finishes queued facts and closes all connections.
    pub async fn close(&self) {
        self.inner.facts.close().await;
        match &self.inner.pool {
            Pool::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Pool::Postgres(pool) => pool.close().await,
        }
    }

    /// Answers a trivial query: for readiness checks.
    pub async fn ping(&self) -> Result<()> {
        in_pool!(self, p => sqlx::query("SELECT 1").execute(p).await.map(|_| ()))?;
        Ok(())
    }
}

impl Tx {
    /// The transaction's connection, to read on.
    pub(crate) fn conn(&mut self) -> Conn<'_> {
        match &mut self.inner {
            TxInner::Sqlite(t) => Conn::Sqlite(t),
            TxInner::Postgres(t) => Conn::Postgres(t),
        }
    }

    /// Marks a machine as changed; announced after the commit.
    pub fn touch(&mut self, machine: Option<MachineId>) {
        if !self.touched.contains(&machine) {
            self.touched.push(machine);
        }
    }

    pub async fn commit(self) -> Result<()> {
        match self.inner {
            TxInner::Sqlite(t) => t.commit().await?,
            TxInner::Postgres(t) => t.commit().await?,
        }
        for machine in self.touched {
            // No receiver is fine: nobody watches right now.
            drop(self.changes.send(Change { machine }));
        }
        Ok(())
    }
}

/// Parses a stored text form, naming the row when it cannot be.
pub(crate) fn parse<T: std::str::FromStr>(table: &'static str, id: &str, text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| StoreError::BadRow { table, id: id.to_owned(), why: e.to_string() })
}

/// Parses an optional stored text form.
pub(crate) fn parse_opt<T: std::str::FromStr>(table: &'static str, id: &str, text: Option<&String>) -> Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    text.map(|t| parse(table, id, t)).transpose()
}

/// Reads a stored JSON document.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(table: &'static str, id: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| StoreError::BadRow { table, id: id.to_owned(), why: e.to_string() })
}

/// Writes a document; our own types cannot fail to serialise.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::BadRow { table: "new", id: String::new(), why: e.to_string() })
}

/// SHA-256 of a bearer secret, as stored: a stolen database gives no tokens.
pub fn token_hash(token: &str) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(token.as_bytes()))
}
