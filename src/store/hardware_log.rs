//! The logs of BMCs, kept: entries once each, by epoch, with what was read as evidence.

use serde::Serialize;

use crate::domain::hardware_log::{LogCursor, LogEntry, LogNews, LogSeverity};
use crate::domain::id::{MachineId, Sha256};
use crate::domain::time::Timestamp;
use crate::store::{Result, Store, Tx, from_json, in_pool, in_tx, parse, to_json};

const T: &str = "hardware_log";
/// Entries kept of one machine; the oldest go first.
const KEPT: i64 = 5000;
/// Longest text of one piece of evidence.
const MAX_EVIDENCE: usize = 64 << 10;

/// An entry as kept.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptEntry {
    pub id: uuid::Uuid,
    /// Which life of the log, from 1 on.
    pub epoch: u64,
    pub received_at: Timestamp,
    /// From before our first contact: says nothing about now.
    pub historical: bool,
    pub entry: LogEntry,
    /// The hash under which the entry is kept as it was read.
    pub evidence: Sha256,
}

/// How far one log was read.
#[derive(Clone, Debug, PartialEq)]
pub struct LogMark {
    pub log: String,
    pub epoch: u64,
    pub cursor: LogCursor,
    pub read_at: Timestamp,
    /// Used and total entries, where the BMC says.
    pub fill: Option<(u32, u32)>,
}

/// Which entries to read.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    /// This severity or a worse one.
    pub at_least: Option<LogSeverity>,
    /// Part of a message, message id, origin or log name; lower case counts the same.
    pub text: Option<String>,
    pub log: Option<String>,
    /// Only entries that came before this one.
    pub before: Option<uuid::Uuid>,
}

type Row = (String, i64, i64, bool, String, String);
type MarkRow = (String, i64, String, i64, Option<i64>, Option<i64>);

fn kept((id, epoch, received_at, historical, evidence, body): Row) -> Result<KeptEntry> {
    Ok(KeptEntry {
        epoch: u64::try_from(epoch).unwrap_or(0),
        received_at: Timestamp(received_at),
        historical,
        entry: from_json(T, &id, &body)?,
        evidence: parse(T, &id, &evidence)?,
        id: parse(T, &id, &id)?,
    })
}

fn mark((log, epoch, cursor, read_at, used, total): MarkRow) -> Result<LogMark> {
    let count = |n: i64| u32::try_from(n).unwrap_or(0);
    Ok(LogMark {
        cursor: from_json("log_cursors", &log, &cursor)?,
        log,
        epoch: u64::try_from(epoch).unwrap_or(0),
        read_at: Timestamp(read_at),
        fill: used.zip(total).map(|(u, t)| (count(u), count(t))),
    })
}

/// An entry that is surely no longer than [`MAX_EVIDENCE`] as JSON: drivers cap each text, not their number.
fn bounded(entry: &LogEntry) -> LogEntry {
    let cut = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    LogEntry {
        log: cut(&entry.log, 256),
        id: cut(&entry.id, 256),
        message: cut(&entry.message, 4096),
        message_id: entry.message_id.as_deref().map(|t| cut(t, 256)),
        message_args: entry.message_args.iter().take(16).map(|t| cut(t, 256)).collect(),
        origin: entry.origin.as_deref().map(|t| cut(t, 256)),
        source: cut(&entry.source, 512),
        ..entry.clone()
    }
}

/// `%` and `_` of a person's search are themselves.
fn like(text: &str) -> String {
    let mut out = String::from("%");
    for c in text.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('%');
    out
}

impl Store {
    /// The newest entries that fit, newest first.
    pub async fn hardware_log(&self, machine: MachineId, filter: &LogFilter, limit: u32) -> Result<Vec<KeptEntry>> {
        let severity = filter.at_least.filter(|s| *s > LogSeverity::Info).map(|s| s.to_string()).unwrap_or_default();
        let text = filter.text.as_deref().map(like).unwrap_or_default();
        let before = filter.before.map(|id| id.to_string()).unwrap_or_default();
        let log = filter.log.clone().unwrap_or_default();
        let rows: Vec<Row> = in_pool!(self, p => sqlx::query_as(
            "SELECT h.id, h.epoch, h.received_at, h.historical, h.evidence, e.body FROM hardware_log h JOIN evidence e ON e.sha256 = h.evidence
             WHERE h.machine_id = $1 AND ($2 = '' OR h.severity = $2 OR h.severity = 'critical') AND ($3 = '' OR h.words LIKE $3 ESCAPE '\\')
               AND ($4 = '' OR h.log = $4) AND ($5 = '' OR h.id < $5)
             ORDER BY h.id DESC LIMIT $6")
            .bind(machine.to_string()).bind(&severity).bind(&text).bind(&log).bind(&before).bind(i64::from(limit))
            .fetch_all(p).await)?;
        rows.into_iter().map(kept).collect()
    }

    /// How far each log of a machine was read.
    pub async fn log_marks(&self, machine: MachineId) -> Result<Vec<LogMark>> {
        let rows: Vec<MarkRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT log, epoch, cursor_doc, read_at, used, total FROM log_cursors WHERE machine_id = $1 ORDER BY log")
            .bind(machine.to_string()).fetch_all(p).await)?;
        rows.into_iter().map(mark).collect()
    }

    /// Machines with more entries than are kept.
    pub async fn machines_with_long_logs(&self) -> Result<Vec<MachineId>> {
        let rows: Vec<(String,)> = in_pool!(self, p => sqlx::query_as(
            "SELECT machine_id FROM hardware_log GROUP BY machine_id HAVING COUNT(*) > $1").bind(KEPT).fetch_all(p).await)?;
        rows.into_iter().map(|(id,)| parse(T, &id, &id)).collect()
    }

    /// What was read, as it was read.
    pub async fn evidence(&self, hash: Sha256) -> Result<Option<String>> {
        let row: Option<(String,)> = in_pool!(self, p => sqlx::query_as("SELECT body FROM evidence WHERE sha256 = $1").bind(hash.to_string()).fetch_optional(p).await)?;
        Ok(row.map(|r| r.0))
    }
}

impl Tx {
    /// Takes entries in that were not kept yet and returns those, oldest first. `fresh_id` makes the id of the
    /// N-th entry; ids must grow with N.
    ///
    /// An entry counts as the same when log, epoch, id and content are the same; in a new epoch also when content and time
    /// equal those of an older one, because a log that wrapped brings entries again under new ids (C4).
    pub async fn take_log_entries(
        &mut self,
        machine: MachineId,
        epoch: u64,
        entries: &[LogEntry],
        historical: impl Fn(&LogEntry) -> bool,
        now: Timestamp,
        fresh_id: impl Fn(usize) -> uuid::Uuid,
    ) -> Result<Vec<KeptEntry>> {
        let (id, epoch_number) = (machine.to_string(), i64::try_from(epoch).unwrap_or(i64::MAX));
        let mut new = Vec::new();
        for (index, entry) in entries.iter().map(bounded).enumerate() {
            if epoch > 1 && entry.at.is_some() {
                let seen: Option<(String,)> = in_tx!(self, c => sqlx::query_as(
                    "SELECT id FROM hardware_log WHERE machine_id = $1 AND log = $2 AND content = $3 AND at = $4 AND epoch < $5 LIMIT 1")
                    .bind(&id).bind(&entry.log).bind(entry.content.to_string()).bind(entry.at.map(|t| t.0)).bind(epoch_number)
                    .fetch_optional(c).await)?;
                if seen.is_some() {
                    continue;
                }
            }
            let evidence = self.put_evidence(&entry, now).await?;
            let (row, historical) = (fresh_id(index), historical(&entry));
            let words = [Some(entry.message.as_str()), entry.message_id.as_deref(), entry.origin.as_deref(), Some(entry.log.as_str())]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("\n")
                .to_lowercase();
            let added = in_tx!(self, c => sqlx::query(
                "INSERT INTO hardware_log (id, machine_id, log, epoch, entry_id, content, at, received_at, severity, historical, words, evidence)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                 ON CONFLICT (machine_id, log, epoch, entry_id, content) DO NOTHING")
                .bind(row.to_string()).bind(&id).bind(&entry.log).bind(epoch_number).bind(&entry.id).bind(entry.content.to_string())
                .bind(entry.at.map(|t| t.0)).bind(now.0).bind(entry.severity.to_string()).bind(historical).bind(&words).bind(evidence.to_string())
                .execute(c).await.map(|r| r.rows_affected()))?;
            if added == 1 {
                new.push(KeptEntry { id: row, epoch, received_at: now, historical, entry, evidence });
            }
        }
        Ok(new)
    }

    /// Notes how far a log was read, after its entries were taken in.
    pub async fn put_log_mark(&mut self, machine: MachineId, log: &str, epoch: u64, news: &LogNews, now: Timestamp) -> Result<()> {
        let cursor = to_json(&news.cursor)?;
        in_tx!(self, c => sqlx::query(
            "INSERT INTO log_cursors (machine_id, log, epoch, cursor_doc, read_at, used, total) VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (machine_id, log) DO UPDATE SET epoch = excluded.epoch, cursor_doc = excluded.cursor_doc, read_at = excluded.read_at,
                used = excluded.used, total = excluded.total")
            .bind(machine.to_string()).bind(log).bind(i64::try_from(epoch).unwrap_or(i64::MAX)).bind(&cursor).bind(now.0)
            .bind(news.fill.map(|(used, _)| i64::from(used))).bind(news.fill.map(|(_, total)| i64::from(total)))
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Keeps what was read under the hash of its text. The same text is kept once.
    pub async fn put_evidence<D: Serialize>(&mut self, what: &D, now: Timestamp) -> Result<Sha256> {
        use sha2::Digest;
        let mut body = to_json(what)?;
        if body.len() > MAX_EVIDENCE {
            let head: String = body.chars().take(MAX_EVIDENCE / 8).collect();
            body = to_json(&serde_json::json!({ "cut": true, "bytes": body.len(), "head": head }))?;
        }
        let hash = Sha256(sha2::Sha256::digest(body.as_bytes()).into());
        in_tx!(self, c => sqlx::query(
            "INSERT INTO evidence (sha256, body, first_at, last_at) VALUES ($1, $2, $3, $3) ON CONFLICT (sha256) DO UPDATE SET last_at = excluded.last_at")
            .bind(hash.to_string()).bind(&body).bind(now.0)
            .execute(c).await.map(|_| ()))?;
        Ok(hash)
    }

    /// Drops the oldest entries of a machine beyond [`KEPT`], at most `limit` of them; returns how many.
    pub async fn prune_hardware_log(&mut self, machine: MachineId, limit: u32) -> Result<u64> {
        let id = machine.to_string();
        let (count,): (i64,) =
            in_tx!(self, c => sqlx::query_as("SELECT COUNT(*) FROM hardware_log WHERE machine_id = $1").bind(&id).fetch_one(c).await)?;
        let surplus = (count - KEPT).min(i64::from(limit));
        if surplus <= 0 {
            return Ok(0);
        }
        let gone = in_tx!(self, c => sqlx::query(
            "DELETE FROM hardware_log WHERE id IN (SELECT id FROM hardware_log WHERE machine_id = $1 ORDER BY id LIMIT $2)")
            .bind(&id).bind(surplus).execute(c).await.map(|r| r.rows_affected()))?;
        Ok(gone)
    }

    /// Drops up to `limit` pieces of evidence that nothing refers to and that were last seen before `before`.
    pub async fn prune_evidence(&mut self, before: Timestamp, limit: u32) -> Result<u64> {
        let gone = in_tx!(self, c => sqlx::query(
            "DELETE FROM evidence WHERE sha256 IN (SELECT sha256 FROM evidence WHERE last_at < $1
                AND NOT EXISTS (SELECT 1 FROM hardware_log WHERE hardware_log.evidence = evidence.sha256)
                AND NOT EXISTS (SELECT 1 FROM part_history WHERE part_history.evidence = evidence.sha256) LIMIT $2)")
            .bind(before.0).bind(i64::from(limit)).execute(c).await.map(|r| r.rows_affected()))?;
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_for_a_percent_sign_finds_percent_signs() {
        assert_eq!(like("Fan 100%_x"), "%fan 100\\%\\_x%");
    }

    #[test]
    fn the_sql_literals_are_the_text_forms() {
        assert_eq!(LogSeverity::Critical.to_string(), "critical");
        assert_eq!(LogSeverity::Warning.to_string(), "warning");
    }
}
