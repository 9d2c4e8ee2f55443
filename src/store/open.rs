//! Opening the database: look before touching, migrate, say clearly what is wrong.

use std::io::Read;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::broadcast;

use crate::store::{Inner, Pool, Result, Store, StoreConfig, StoreError, facts};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Hints kept for a slow watcher before it must read anew.
const CHANGES_KEPT: usize = 4096;
/// How long a statement waits for another process's lock before the file counts as busy.
const BUSY_AFTER: Duration = Duration::from_secs(5);
const SQLITE_READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 16;

/// The newest migration this program carries.
pub fn newest_migration() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

impl Store {
    /// Opens and migrates the database.
    ///
    /// # Errors
    /// `Busy`, `Full`, `ReadOnly`, `Newer`, `Damaged`: the file is left as it was.
    pub async fn open(config: &StoreConfig) -> Result<Self> {
        let pool = match config {
            StoreConfig::Sqlite { path } => open_sqlite(path).await?,
            StoreConfig::Postgres { url } => open_postgres(url.expose()).await?,
        };
        let (changes, _) = broadcast::channel(CHANGES_KEPT);
        let (facts, queue) = facts::FactSink::new();
        let store = Self { inner: std::sync::Arc::new(Inner { pool, changes, facts }) };
        facts::spawn_writer(&store, queue);
        Ok(store)
    }
}

async fn open_sqlite(path: &Path) -> Result<Pool> {
    let shown = path.display().to_string();
    if path.exists() {
        look_before_touching(path, &shown).await?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: an attempt row must be on the platter before its BMC call goes out.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_AFTER)
        .foreign_keys(true);
    let write = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(30))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.clone())
        .await
        .map_err(|e| explain(&e, &shown))?;
    if let Err(e) = MIGRATIONS.run(&write).await {
        write.close().await;
        return Err(explain_migration(&e, &shown));
    }
    let read = SqlitePoolOptions::new()
        .max_connections(SQLITE_READERS)
        .acquire_timeout(Duration::from_secs(30))
        .connect_with(options.read_only(true).create_if_missing(false))
        .await
        .map_err(|e| explain(&e, &shown))?;
    Ok(Pool::Sqlite { write, read })
}

/// Checks an existing file without writing to it: SQLite header, integrity, version, permission.
async fn look_before_touching(path: &Path, shown: &str) -> Result<()> {
    let mut head = Vec::with_capacity(16);
    std::fs::File::open(path)
        .and_then(|file| file.take(16).read_to_end(&mut head))
        .map_err(|e| StoreError::Open { path: shown.to_owned(), why: e.to_string() })?;
    if !head.is_empty() && head != b"SQLite format 3\0" {
        return Err(StoreError::Damaged { path: shown.to_owned(), why: "it does not begin as a SQLite file does".to_owned() });
    }
    if let Err(e) = std::fs::OpenOptions::new().append(true).open(path) {
        return Err(StoreError::ReadOnly { path: shown.to_owned(), why: e.to_string() });
    }
    if head.is_empty() {
        return Ok(());
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_AFTER);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(|e| explain(&e, shown))?;
    let checked = check_open_file(&pool, shown).await;
    pool.close().await;
    checked
}

async fn check_open_file(pool: &sqlx::SqlitePool, shown: &str) -> Result<()> {
    let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await.map_err(|e| explain(&e, shown))?;
    if verdict != "ok" {
        return Err(StoreError::Damaged { path: shown.to_owned(), why: verdict });
    }
    let migrated: Option<String> = sqlx::query_scalar("SELECT name FROM sqlite_master WHERE name = '_sqlx_migrations'")
        .fetch_optional(pool)
        .await
        .map_err(|e| explain(&e, shown))?;
    if migrated.is_none() {
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master").fetch_one(pool).await.map_err(|e| explain(&e, shown))?;
        if tables > 0 {
            return Err(StoreError::Open { path: shown.to_owned(), why: "it is a SQLite file of another program".to_owned() });
        }
        return Ok(());
    }
    let theirs: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(pool).await.map_err(|e| explain(&e, shown))?;
    let (theirs, ours) = (theirs.unwrap_or(0), newest_migration());
    if theirs > ours {
        return Err(StoreError::Newer { path: shown.to_owned(), theirs, ours });
    }
    Ok(())
}

fn explain(e: &sqlx::Error, shown: &str) -> StoreError {
    let path = shown.to_owned();
    let code = e.as_database_error().and_then(|d| d.code()).and_then(|c| c.parse::<i64>().ok()).map(|c| c & 0xff);
    match code {
        Some(5 | 6) => StoreError::Busy { path },
        Some(8 | 14) => StoreError::ReadOnly { path, why: e.to_string() },
        Some(13) => StoreError::Full,
        Some(11 | 26) => StoreError::Damaged { path, why: e.to_string() },
        _ => StoreError::Open { path, why: e.to_string() },
    }
}

fn explain_migration(e: &sqlx::migrate::MigrateError, shown: &str) -> StoreError {
    match e {
        sqlx::migrate::MigrateError::VersionMissing(theirs) => {
            StoreError::Newer { path: shown.to_owned(), theirs: *theirs, ours: newest_migration() }
        }
        sqlx::migrate::MigrateError::Execute(e) | sqlx::migrate::MigrateError::ExecuteMigration(e, _) => explain(e, shown),
        other => StoreError::Open { path: shown.to_owned(), why: other.to_string() },
    }
}

async fn open_postgres(url: &str) -> Result<Pool> {
    // The URL may hold a password: never show it.
    let shown = "postgres";
    let options = PgConnectOptions::from_str(url).map_err(|_| StoreError::Open {
        path: shown.to_owned(),
        why: "the URL cannot be read; write postgres://user:password@host/database".to_owned(),
    })?;
    let pool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(Duration::from_secs(30))
        .connect_with(options)
        .await
        .map_err(|e| StoreError::Open { path: shown.to_owned(), why: e.to_string() })?;
    if let Err(e) = MIGRATIONS.run(&pool).await {
        pool.close().await;
        return Err(explain_migration(&e, shown));
    }
    Ok(Pool::Postgres(pool))
}
