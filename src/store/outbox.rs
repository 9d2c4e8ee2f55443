//! The outbox: notices, written in the transaction that causes them, with one delivery row for each target that wants them.

use crate::domain::alert::{DeliveryState, TargetSpec};
use crate::domain::notice::{Notice, NoticeKind, Subject};
use crate::store::{Result, Store, Tx, from_json, in_pool, in_tx, to_json};

/// A notice with its place among those of its subject, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    pub notice: Notice,
    pub seq: i64,
}

impl Store {
    /// All notices of a subject that are kept, in order.
    pub async fn notices_of(&self, subject: Subject) -> Result<Vec<Posted>> {
        let rows: Vec<(String, i64, String)> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, seq, doc FROM notices WHERE subject = $1 ORDER BY seq")
            .bind(subject.to_string()).fetch_all(p).await)?;
        rows.into_iter().map(|(id, seq, doc)| Ok(Posted { notice: from_json("notices", &id, &doc)?, seq })).collect()
    }
}

impl Tx {
    /// Puts a notice into the outbox, in order behind those of the same subject. Whoever causes it calls this in the transaction
    /// that writes the cause; it is sent after the commit. Returns whether it was put: a `Closed` of what is not open is not.
    pub async fn put_notice(&mut self, notice: &Notice) -> Result<bool> {
        // Every run that ends closes what it may have told: the usual one has told nothing, and leaves no row.
        if notice.kind == NoticeKind::Closed && !self.is_open(notice.subject).await? {
            return Ok(false);
        }
        self.lock_subject(notice).await?;
        let was_open = self.is_open(notice.subject).await?;
        let kind = match (notice.kind, was_open) {
            (NoticeKind::Closed, false) => return Ok(false),
            (NoticeKind::Closed, true) => NoticeKind::Closed,
            (NoticeKind::Opened | NoticeKind::Updated, false) => NoticeKind::Opened,
            (NoticeKind::Opened | NoticeKind::Updated, true) => NoticeKind::Updated,
        };
        let notice = Notice { kind, ..notice.clone() };
        let subject = notice.subject.to_string();
        let open = kind != NoticeKind::Closed;
        let (seq,): (i64,) = in_tx!(self, c => sqlx::query_as(
            "UPDATE alert_subjects SET last_seq = last_seq + 1, is_open = $2, changed_at = $3,
                opened_at = CASE WHEN is_open THEN opened_at ELSE $3 END
             WHERE subject = $1 RETURNING last_seq")
            .bind(&subject)
            .bind(open)
            .bind(notice.at.0)
            .fetch_one(c).await)?;
        in_tx!(self, c => sqlx::query("INSERT INTO notices (id, subject, seq, at, doc) VALUES ($1, $2, $3, $4, $5)")
            .bind(notice.id.to_string())
            .bind(&subject)
            .bind(seq)
            .bind(notice.at.0)
            .bind(to_json(&notice)?)
            .execute(c).await.map(|_| ()))?;
        for target in self.targets_of(&notice).await? {
            in_tx!(self, c => sqlx::query(
                "INSERT INTO alert_deliveries (notice_id, target_id, subject, seq, state, attempts, created_at, due_at, fence, answer)
                 VALUES ($1, $2, $3, $4, $5, 0, $6, $6, 0, '')")
                .bind(notice.id.to_string())
                .bind(&target)
                .bind(&subject)
                .bind(seq)
                .bind(DeliveryState::Pending.to_string())
                .bind(notice.at.0)
                .execute(c).await.map(|_| ()))?;
        }
        self.touch(notice.machine);
        Ok(true)
    }

    /// Takes the subject's row (and makes it when there is none) until the commit: notices of one subject are judged and numbered
    /// one after the other.
    async fn lock_subject(&mut self, notice: &Notice) -> Result<()> {
        in_tx!(self, c => sqlx::query(
            "INSERT INTO alert_subjects (subject, machine_id, last_seq, is_open, opened_at, changed_at) VALUES ($1, $2, 0, $3, $4, $4)
             ON CONFLICT (subject) DO UPDATE SET machine_id = COALESCE(alert_subjects.machine_id, $2)")
            .bind(notice.subject.to_string())
            .bind(notice.machine.map(|m| m.to_string()))
            .bind(false)
            .bind(notice.at.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Whether a subject was opened and not closed since.
    pub async fn is_open(&mut self, subject: Subject) -> Result<bool> {
        let open: Option<(bool,)> = in_tx!(self, c => sqlx::query_as("SELECT is_open FROM alert_subjects WHERE subject = $1")
            .bind(subject.to_string()).fetch_optional(c).await)?;
        Ok(open.is_some_and(|(open,)| open))
    }

    /// The ids of the targets that a notice goes to: those that want it, and at a close those that heard of the subject.
    async fn targets_of(&mut self, notice: &Notice) -> Result<Vec<String>> {
        if notice.kind == NoticeKind::Closed {
            let told: Vec<(String,)> = in_tx!(self, c => sqlx::query_as(
                "SELECT DISTINCT target_id FROM alert_deliveries WHERE subject = $1 AND target_id IN (SELECT id FROM alert_targets)")
                .bind(notice.subject.to_string()).fetch_all(c).await)?;
            return Ok(told.into_iter().map(|(id,)| id).collect());
        }
        let rows: Vec<(String, String)> = in_tx!(self, c => sqlx::query_as("SELECT id, doc FROM alert_targets").fetch_all(c).await)?;
        let mut wanted = Vec::new();
        for (id, doc) in rows {
            if from_json::<TargetSpec>("alert_targets", &id, &doc)?.wants(notice) {
                wanted.push(id);
            }
        }
        Ok(wanted)
    }
}
