//! Logs: for people on a terminal, JSON lines for programs. Secrets are kept out by their type (`Secret` prints nothing).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::server::config::{LogConfig, LogFormat};

/// Ours at `info`; sqlx logs every statement at `debug`, hyper every frame at `trace`.
const DEFAULT_LEVEL: &str = "info";

/// Starts logging to stderr. The first call counts; a second one (tests) changes nothing.
///
/// # Errors
/// A sentence when `log.level` cannot be read.
pub fn start(config: &LogConfig) -> Result<(), String> {
    let level = config.level.as_deref().unwrap_or(DEFAULT_LEVEL);
    let filter = EnvFilter::try_new(level).map_err(|e| format!("log.level {level:?} cannot be read: {e}"))?;
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        // Under a supervisor that keeps a journal, lines are read by programs first.
        LogFormat::Auto => !std::io::stderr().is_terminal() && std::env::var_os("JOURNAL_STREAM").is_some(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).try_init()
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
    Ok(())
}
