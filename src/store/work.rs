//! Runs, steps, attempts; claims on due steps.

use std::time::Duration;

use crate::domain::id::{MachineId, RunId, StepId};
use crate::domain::time::Timestamp;
use crate::domain::work::{Progress, Run, RunState, Step, StepKind};
use crate::store::machines::Claim;
use crate::store::{Result, Store, StoreError, Tx, from_json, in_pool, in_tx, parse};

#[derive(sqlx::FromRow)]
struct RunRow {
    id: String,
    machine_id: String,
    kind: String,
    state: String,
    actor: String,
    started_at: i64,
    ended_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct StepRow {
    id: String,
    run_id: String,
    machine_id: String,
    idx: i64,
    kind: String,
    state: String,
    attempts: i64,
    checkpoint: String,
    evidence: String,
    note: String,
    progress_done: Option<i64>,
    progress_total: Option<i64>,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    deadline_at: Option<i64>,
    due_at: Option<i64>,
    fence: i64,
}

const STEP_COLUMNS: &str = "id, run_id, machine_id, idx, kind, state, attempts, checkpoint, evidence, note, progress_done, progress_total, \
     started_at, ended_at, deadline_at, due_at, fence";
const RUN_COLUMNS: &str = "id, machine_id, kind, state, actor, started_at, ended_at";

impl RunRow {
    fn into_run(self, steps: Vec<Step>) -> Result<Run> {
        const T: &str = "runs";
        Ok(Run {
            id: parse(T, &self.id, &self.id)?,
            machine: parse(T, &self.id, &self.machine_id)?,
            kind: parse(T, &self.id, &self.kind)?,
            state: parse(T, &self.id, &self.state)?,
            started_at: Timestamp(self.started_at),
            ended_at: self.ended_at.map(Timestamp),
            actor: self.actor,
            steps,
        })
    }
}

impl StepRow {
    fn into_step(self) -> Result<Step> {
        const T: &str = "steps";
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Step {
            id: parse(T, &self.id, &self.id)?,
            run: parse(T, &self.id, &self.run_id)?,
            machine: parse(T, &self.id, &self.machine_id)?,
            index: u32::try_from(self.idx).unwrap_or(u32::MAX),
            kind: parse(T, &self.id, &self.kind)?,
            state: parse(T, &self.id, &self.state)?,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            checkpoint: from_json(T, &self.id, &self.checkpoint)?,
            evidence: from_json(T, &self.id, &self.evidence)?,
            note: self.note,
            progress: self.progress_done.zip(self.progress_total).map(|(d, t)| Progress { done: unsigned(d), total: unsigned(t) }),
            started_at: self.started_at.map(Timestamp),
            ended_at: self.ended_at.map(Timestamp),
            deadline_at: self.deadline_at.map(Timestamp),
            due_at: Timestamp(self.due_at.unwrap_or(0)),
            fence: self.fence,
        })
    }
}

/// How long steps of a kind took in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usual {
    pub median: Duration,
    pub p90: Duration,
    pub samples: u32,
}

/// One try of a step, for its history.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub number: u32,
    pub begun_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// `None`: cut off.
    pub outcome: Option<String>,
}

impl Store {
    pub async fn run(&self, id: RunId) -> Result<Option<Run>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {RUN_COLUMNS} FROM runs WHERE id = $1"));
        let row: Option<RunRow> = in_pool!(self, p => sqlx::query_as(sql).bind(id.to_string()).fetch_optional(p).await)?;
        match row {
            Some(row) => Ok(Some(self.with_steps(row).await?)),
            None => Ok(None),
        }
    }

    /// The newest runs of a machine, newest first.
    pub async fn runs(&self, machine: MachineId, limit: u32) -> Result<Vec<Run>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {RUN_COLUMNS} FROM runs WHERE machine_id = $1 ORDER BY started_at DESC LIMIT $2"));
        let rows: Vec<RunRow> =
            in_pool!(self, p => sqlx::query_as(sql).bind(machine.to_string()).bind(i64::from(limit)).fetch_all(p).await)?;
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            runs.push(self.with_steps(row).await?);
        }
        Ok(runs)
    }

    /// The current run of every machine that has one, by machine.
    pub async fn current_runs(&self) -> Result<std::collections::HashMap<MachineId, Run>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {RUN_COLUMNS} FROM runs WHERE id IN (SELECT current_run FROM machines)"));
        let runs: Vec<RunRow> = in_pool!(self, p => sqlx::query_as(sql).fetch_all(p).await)?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {STEP_COLUMNS} FROM steps WHERE run_id IN (SELECT current_run FROM machines) ORDER BY idx"
        ));
        let rows: Vec<StepRow> = in_pool!(self, p => sqlx::query_as(sql).fetch_all(p).await)?;
        let mut steps: std::collections::HashMap<RunId, Vec<Step>> = std::collections::HashMap::new();
        for row in rows {
            let step = row.into_step()?;
            steps.entry(step.run).or_default().push(step);
        }
        runs.into_iter()
            .map(|row| {
                let id = parse("runs", &row.id, &row.id)?;
                let run = row.into_run(steps.remove(&id).unwrap_or_default())?;
                Ok((run.machine, run))
            })
            .collect()
    }

    async fn with_steps(&self, row: RunRow) -> Result<Run> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {STEP_COLUMNS} FROM steps WHERE run_id = $1 ORDER BY idx"));
        let steps: Vec<StepRow> = in_pool!(self, p => sqlx::query_as(sql).bind(&row.id).fetch_all(p).await)?;
        row.into_run(steps.into_iter().map(StepRow::into_step).collect::<Result<_>>()?)
    }

    pub async fn step(&self, id: StepId) -> Result<Option<Step>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {STEP_COLUMNS} FROM steps WHERE id = $1"));
        let row: Option<StepRow> = in_pool!(self, p => sqlx::query_as(sql).bind(id.to_string()).fetch_optional(p).await)?;
        row.map(StepRow::into_step).transpose()
    }

    pub async fn attempts(&self, step: StepId) -> Result<Vec<Attempt>> {
        let rows: Vec<(i64, i64, Option<i64>, Option<String>)> = in_pool!(self, p => sqlx::query_as(
            "SELECT number, begun_at, ended_at, outcome FROM attempts WHERE step_id = $1 ORDER BY number").bind(step.to_string()).fetch_all(p).await)?;
        Ok(rows
            .into_iter()
            .map(|(n, b, e, outcome)| Attempt {
                number: u32::try_from(n).unwrap_or(u32::MAX),
                begun_at: Timestamp(b),
                ended_at: e.map(Timestamp),
                outcome,
            })
            .collect())
    }

    /// How long the last (at most 50) steps of this kind took, fleet-wide.
    pub async fn usual(&self, kind: StepKind) -> Result<Option<Usual>> {
        let rows: Vec<(i64,)> = in_pool!(self, p => sqlx::query_as(
            "SELECT ended_at - started_at FROM steps WHERE kind = $1 AND state = 'done' AND started_at IS NOT NULL AND ended_at IS NOT NULL
             ORDER BY ended_at DESC LIMIT 50").bind(kind.to_string()).fetch_all(p).await)?;
        let mut micros: Vec<u64> = rows.into_iter().filter_map(|(n,)| u64::try_from(n).ok()).collect();
        micros.sort_unstable();
        let at = |q: usize| micros.get((micros.len().saturating_sub(1)) * q / 100).copied().map(Duration::from_micros);
        Ok(at(50).zip(at(90)).map(|(median, p90)| Usual { median, p90, samples: u32::try_from(micros.len()).unwrap_or(u32::MAX) }))
    }

    /// Claims up to `limit` due steps of running runs.
    pub async fn claim_due_steps(&self, owner: &str, now: Timestamp, lease: Duration, limit: u32) -> Result<Vec<Claim<StepId>>> {
        let until = now.plus(lease);
        let mut tx = self.begin().await?;
        let rows: Vec<(String, i64)> = in_tx!(tx, c => sqlx::query_as(
            "UPDATE steps SET lease_owner = $1, lease_until = $2, fence = fence + 1
             WHERE id IN (SELECT id FROM steps WHERE due_at <= $3 AND (lease_until IS NULL OR lease_until <= $3) ORDER BY due_at LIMIT $4)
               AND due_at <= $3 AND (lease_until IS NULL OR lease_until <= $3)
             RETURNING id, fence")
            .bind(owner).bind(until.0).bind(now.0).bind(i64::from(limit))
            .fetch_all(c).await)?;
        tx.commit().await?;
        rows.into_iter().map(|(id, fence)| Ok(Claim { id: parse("steps", &id, &id)?, fence, until })).collect()
    }
}

impl Tx {
    /// Inserts a run with its steps; the first step is due at once.
    pub async fn insert_run(&mut self, run: &Run) -> Result<()> {
        self.touch(Some(run.machine));
        in_tx!(self, c => sqlx::query("INSERT INTO runs (id, machine_id, kind, state, spec, actor, started_at) VALUES ($1, $2, $3, $4, '{}', $5, $6)")
            .bind(run.id.to_string()).bind(run.machine.to_string()).bind(run.kind.to_string()).bind(run.state.to_string())
            .bind(&run.actor).bind(run.started_at.0)
            .execute(c).await.map(|_| ()))?;
        for step in &run.steps {
            in_tx!(self, c => sqlx::query(
                "INSERT INTO steps (id, run_id, machine_id, idx, kind, state, attempts, checkpoint, evidence, note, due_at, fence)
                 VALUES ($1, $2, $3, $4, $5, 'pending', 0, 'null', 'null', '', NULL, 0)")
                .bind(step.id.to_string()).bind(step.run.to_string()).bind(step.machine.to_string())
                .bind(i64::from(step.index)).bind(step.kind.to_string())
                .execute(c).await.map(|_| ()))?;
        }
        Ok(())
    }

    /// Starts a pending step, or makes a failed one run again: due at `now`, deadline set anew.
    pub async fn start_step(&mut self, step: StepId, machine: MachineId, now: Timestamp, deadline: Timestamp, note: &str) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query(
            "UPDATE steps SET state = 'running', started_at = $2, ended_at = NULL, deadline_at = $3, due_at = $2, note = $4, attempts = 0,
                lease_owner = NULL, lease_until = NULL, progress_done = NULL, progress_total = NULL
             WHERE id = $1 AND state IN ('pending', 'failed')")
            .bind(step.to_string()).bind(now.0).bind(deadline.0).bind(note)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Puts steps of a failed run back to pending, so that the run goes on from there.
    pub async fn reset_steps_from(&mut self, run: RunId, index: u32) -> Result<()> {
        in_tx!(self, c => sqlx::query(
            "UPDATE steps SET state = 'pending', checkpoint = 'null', evidence = 'null', note = '', progress_done = NULL, progress_total = NULL,
                started_at = NULL, ended_at = NULL, deadline_at = NULL, due_at = NULL, lease_owner = NULL, lease_until = NULL
             WHERE run_id = $1 AND idx >= $2")
            .bind(run.to_string()).bind(i64::from(index)).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// A step ran past its deadline: it is failed and its claim, if any, no longer counts.
    pub async fn fail_overdue_step(&mut self, step: StepId, machine: MachineId, at: Timestamp) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query(
            "UPDATE steps SET state = 'failed', ended_at = $2, due_at = NULL, lease_owner = NULL, lease_until = NULL, fence = fence + 1 WHERE id = $1 AND state = 'running'")
            .bind(step.to_string()).bind(at.0).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Ends a run. Steps that are not through end with it, and whoever works on one right now has lost it: nothing is due any
    /// more, and the raised fence lets it neither begin an attempt nor record an outcome.
    pub async fn end_run(&mut self, run: RunId, machine: MachineId, state: RunState, at: Timestamp) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => {
            sqlx::query("UPDATE runs SET state = $2, ended_at = $3 WHERE id = $1").bind(run.to_string()).bind(state.to_string()).bind(at.0).execute(&mut *c).await?;
            sqlx::query(
                "UPDATE steps SET state = CASE state WHEN 'running' THEN 'failed' WHEN 'pending' THEN 'skipped' ELSE state END,
                    ended_at = CASE WHEN state IN ('running', 'pending') THEN $2 ELSE ended_at END,
                    note = CASE state WHEN 'pending' THEN 'the run ended before it' ELSE note END,
                    due_at = NULL, lease_owner = NULL, lease_until = NULL, fence = fence + 1
                 WHERE run_id = $1")
                .bind(run.to_string()).bind(at.0).execute(&mut *c).await?;
            sqlx::query(
                "UPDATE attempts SET ended_at = $2, outcome = 'cut off: the run ended'
                 WHERE ended_at IS NULL AND step_id IN (SELECT id FROM steps WHERE run_id = $1)")
                .bind(run.to_string()).bind(at.0).execute(&mut *c).await?;
            Ok::<(), sqlx::Error>(())
        })?;
        Ok(())
    }

    /// Marks a run as failed (it waits for a person) or running again.
    pub async fn set_run_state(&mut self, run: RunId, machine: MachineId, state: RunState) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query("UPDATE runs SET state = $2 WHERE id = $1").bind(run.to_string()).bind(state.to_string()).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Writes a step worked on under `step.fence`.
    ///
    /// # Errors
    /// `Conflict` when the claim was taken over meanwhile: the caller's work does not count.
    pub async fn update_step(&mut self, step: &Step, due: Option<Timestamp>) -> Result<()> {
        self.touch(Some(step.machine));
        let (done, total) = match step.progress {
            Some(p) => (Some(i64::try_from(p.done).unwrap_or(i64::MAX)), Some(i64::try_from(p.total).unwrap_or(i64::MAX))),
            None => (None, None),
        };
        let changed = in_tx!(self, c => sqlx::query(
            "UPDATE steps SET state = $3, attempts = $4, checkpoint = $5, evidence = $6, note = $7, progress_done = $8, progress_total = $9,
                ended_at = $10, due_at = $11, lease_owner = NULL, lease_until = NULL
             WHERE id = $1 AND fence = $2 AND state = 'running'")
            .bind(step.id.to_string())
            .bind(step.fence)
            .bind(step.state.to_string())
            .bind(i64::from(step.attempts))
            .bind(step.checkpoint.to_string())
            .bind(step.evidence.to_string())
            .bind(step.note.chars().take(1000).collect::<String>())
            .bind(done)
            .bind(total)
            .bind(step.ended_at.map(|t| t.0))
            .bind(due.map(|t| t.0))
            .execute(c).await.map(|r| r.rows_affected()))?;
        if changed == 1 { Ok(()) } else { Err(StoreError::Conflict) }
    }

    /// Keeps what a step wants to remember within its attempt, before it goes on.
    ///
    /// # Errors
    /// `Conflict` when the claim was taken over, or the run was ended or given up meanwhile: nothing more may be done.
    pub async fn keep_step(&mut self, step: &Step) -> Result<()> {
        let held = in_tx!(self, c => sqlx::query(
            "UPDATE steps SET attempts = $3, checkpoint = $4 WHERE id = $1 AND fence = $2 AND state = 'running'
               AND EXISTS (SELECT 1 FROM runs WHERE runs.id = steps.run_id AND runs.state = 'running')")
            .bind(step.id.to_string()).bind(step.fence).bind(i64::from(step.attempts)).bind(step.checkpoint.to_string())
            .execute(c).await.map(|r| r.rows_affected()))?;
        if held == 1 { Ok(()) } else { Err(StoreError::Conflict) }
    }

    /// Write-ahead: an attempt begins.
    ///
    /// # Errors
    /// As [`Tx::keep_step`].
    pub async fn begin_attempt(&mut self, step: &Step, at: Timestamp) -> Result<()> {
        self.keep_step(step).await?;
        in_tx!(self, c => sqlx::query(
            "INSERT INTO attempts (step_id, number, fence, begun_at)
             VALUES ($1, (SELECT COALESCE(MAX(number), 0) + 1 FROM attempts WHERE step_id = $1), $2, $3)")
            .bind(step.id.to_string()).bind(step.fence).bind(at.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Nothing will work on this step any more (its run has ended, its machine is gone): it is not due again.
    pub async fn rest_step(&mut self, step: StepId, fence: i64) -> Result<()> {
        in_tx!(self, c => sqlx::query("UPDATE steps SET due_at = NULL, lease_owner = NULL, lease_until = NULL WHERE id = $1 AND fence = $2")
            .bind(step.to_string()).bind(fence).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// The step's last attempt ended.
    pub async fn end_attempt(&mut self, step: StepId, at: Timestamp, outcome: &str) -> Result<()> {
        in_tx!(self, c => sqlx::query(
            "UPDATE attempts SET ended_at = $2, outcome = $3 WHERE step_id = $1 AND ended_at IS NULL")
            .bind(step.to_string()).bind(at.0).bind(outcome.chars().take(1000).collect::<String>())
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Wakes a running step (its agent answered, its system reported in).
    pub async fn wake_step(&mut self, step: StepId, at: Timestamp) -> Result<()> {
        in_tx!(self, c => sqlx::query("UPDATE steps SET due_at = $2 WHERE id = $1 AND state = 'running' AND (due_at IS NULL OR due_at > $2)")
            .bind(step.to_string()).bind(at.0).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Wakes whatever step of a machine runs now.
    pub async fn wake_machine_step(&mut self, machine: MachineId, at: Timestamp) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query("UPDATE steps SET due_at = $2 WHERE machine_id = $1 AND state = 'running' AND due_at > $2")
            .bind(machine.to_string()).bind(at.0).execute(c).await.map(|_| ()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::work::StepState;

    #[test]
    fn the_sql_literals_are_the_text_forms() {
        assert_eq!(StepState::Running.to_string(), "running");
        assert_eq!(StepState::Pending.to_string(), "pending");
        assert_eq!(StepState::Failed.to_string(), "failed");
        assert_eq!(StepState::Done.to_string(), "done");
    }
}
