//! Agent sessions, orders to agents, their logs, and phone-home tokens of deployed systems.

use std::time::Duration;

use crate::domain::id::{MachineId, RunId, StepId, TaskId};
use crate::domain::power::text_form;
use crate::domain::time::Timestamp;
use crate::store::{Result, Store, StoreError, Tx, from_json, in_pool, in_tx, parse, parse_opt, to_json, token_hash};
use crate::wire::agent::{Order, Task, TaskResult};

/// An agent's token outlives any single step but not a forgotten ramdisk.
pub const SESSION_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Log lines kept per machine.
const LOG_KEPT: i64 = 5000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Waits for the agent, or the agent works on it.
    Open,
    Done,
    /// Withdrawn: the agent is told to stop.
    Withdrawn,
}
text_form!(TaskState { Open = "open", Done = "done", Withdrawn = "withdrawn" });

/// An order as stored, with how far it came.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTask {
    pub id: TaskId,
    pub machine: MachineId,
    pub step: Option<StepId>,
    pub fence: i64,
    pub order: Order,
    pub state: TaskState,
    pub phase: Option<String>,
    pub done: u64,
    pub total: u64,
    pub result: Option<TaskResult>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct TaskRow {
    id: String,
    machine_id: String,
    step_id: Option<String>,
    fence: i64,
    body: String,
    state: String,
    phase: Option<String>,
    done: Option<i64>,
    total: Option<i64>,
    result: Option<String>,
    created_at: i64,
    updated_at: i64,
}

impl TaskRow {
    fn into_task(self) -> Result<StoredTask> {
        const T: &str = "agent_tasks";
        let id = self.id;
        Ok(StoredTask {
            id: parse(T, &id, &id)?,
            machine: parse(T, &id, &self.machine_id)?,
            step: parse_opt(T, &id, self.step_id.as_ref())?,
            fence: self.fence,
            order: from_json(T, &id, &self.body)?,
            state: parse(T, &id, &self.state)?,
            phase: self.phase,
            done: self.done.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
            total: self.total.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
            result: self.result.as_deref().map(|r| from_json(T, &id, r)).transpose()?,
            created_at: Timestamp(self.created_at),
            updated_at: Timestamp(self.updated_at),
        })
    }
}

/// An agent that has said hello in this boot of its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSession {
    pub machine: MachineId,
    pub session: uuid::Uuid,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct SessionRow {
    machine_id: String,
    session: String,
    created_at: i64,
    last_seen_at: i64,
}

impl SessionRow {
    fn into_session(self) -> Result<AgentSession> {
        const T: &str = "agent_sessions";
        Ok(AgentSession {
            machine: parse(T, &self.machine_id, &self.machine_id)?,
            session: parse(T, &self.machine_id, &self.session)?,
            created_at: Timestamp(self.created_at),
            last_seen_at: Timestamp(self.last_seen_at),
        })
    }
}

/// One line an agent sent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentLogLine {
    pub at: Timestamp,
    pub uptime_secs: f64,
    pub level: String,
    pub text: String,
}

impl Store {
    /// Who holds this agent token.
    pub async fn agent_session(&self, token: &str, now: Timestamp) -> Result<Option<AgentSession>> {
        let row: Option<SessionRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT machine_id, session, created_at, last_seen_at FROM agent_sessions WHERE token_hash = $1 AND expires_at > $2")
            .bind(token_hash(token)).bind(now.0).fetch_optional(p).await)?;
        row.map(SessionRow::into_session).transpose()
    }

    /// The newest agent session of a machine.
    pub async fn newest_agent_session(&self, machine: MachineId) -> Result<Option<AgentSession>> {
        let row: Option<SessionRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT machine_id, session, created_at, last_seen_at FROM agent_sessions WHERE machine_id = $1 ORDER BY created_at DESC LIMIT 1")
            .bind(machine.to_string()).fetch_optional(p).await)?;
        row.map(SessionRow::into_session).transpose()
    }

    /// The oldest open order for a machine's agent.
    pub async fn open_task(&self, machine: MachineId) -> Result<Option<Task>> {
        let row: Option<TaskRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, machine_id, step_id, fence, body, state, phase, done, total, result, created_at, updated_at FROM agent_tasks
             WHERE machine_id = $1 AND state = 'open' ORDER BY created_at LIMIT 1")
            .bind(machine.to_string()).fetch_optional(p).await)?;
        Ok(row.map(TaskRow::into_task).transpose()?.map(|t| Task { id: t.id, fence: t.fence, order: t.order }))
    }

    pub async fn task(&self, id: TaskId) -> Result<Option<StoredTask>> {
        let row: Option<TaskRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, machine_id, step_id, fence, body, state, phase, done, total, result, created_at, updated_at FROM agent_tasks WHERE id = $1")
            .bind(id.to_string()).fetch_optional(p).await)?;
        row.map(TaskRow::into_task).transpose()
    }

    /// The newest `limit` lines of a machine's agents, oldest first.
    pub async fn agent_log(&self, machine: MachineId, limit: u32) -> Result<Vec<AgentLogLine>> {
        let mut rows: Vec<(i64, f64, String, String)> = in_pool!(self, p => sqlx::query_as(
            "SELECT at, uptime_secs, level, line FROM agent_logs WHERE machine_id = $1 ORDER BY id DESC LIMIT $2")
            .bind(machine.to_string()).bind(i64::from(limit)).fetch_all(p).await)?;
        rows.reverse();
        Ok(rows.into_iter().map(|(at, uptime_secs, level, text)| AgentLogLine { at: Timestamp(at), uptime_secs, level, text }).collect())
    }

    /// Whether the system deployed by this run reported in, when, and what it said.
    pub async fn phone_home(&self, run: RunId) -> Result<Option<(Timestamp, String)>> {
        let row: Option<(i64, Option<String>)> = in_pool!(self, p => sqlx::query_as(
            "SELECT called_at, body FROM phone_homes WHERE run_id = $1 AND called_at IS NOT NULL ORDER BY called_at LIMIT 1")
            .bind(run.to_string()).fetch_optional(p).await)?;
        Ok(row.map(|(at, body)| (Timestamp(at), body.unwrap_or_default())))
    }
}

impl Tx {
    /// Opens an agent session. Older sessions of the machine end: it booted anew. So do open orders that no step gave: they
    /// were meant for the boot before.
    pub async fn insert_agent_session(
        &mut self,
        token: &str,
        nonce: &str,
        machine: MachineId,
        session: uuid::Uuid,
        now: Timestamp,
    ) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => {
            sqlx::query("DELETE FROM agent_sessions WHERE machine_id = $1").bind(machine.to_string()).execute(&mut *c).await?;
            sqlx::query("UPDATE agent_tasks SET state = 'withdrawn', updated_at = $2 WHERE machine_id = $1 AND step_id IS NULL AND state = 'open'")
                .bind(machine.to_string()).bind(now.0).execute(&mut *c).await?;
            sqlx::query(
                "INSERT INTO agent_sessions (token_hash, machine_id, nonce_hash, session, created_at, last_seen_at, expires_at)
                 VALUES ($1, $2, $3, $4, $5, $5, $6)")
                .bind(token_hash(token)).bind(machine.to_string()).bind(token_hash(nonce)).bind(session.to_string())
                .bind(now.0).bind(now.plus(SESSION_LIFE).0)
                .execute(&mut *c).await?;
            Ok::<(), sqlx::Error>(())
        })?;
        Ok(())
    }

    /// Ends all agent sessions of a machine: it is about to boot something else.
    pub async fn end_agent_sessions(&mut self, machine: MachineId) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query("DELETE FROM agent_sessions WHERE machine_id = $1").bind(machine.to_string()).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    pub async fn note_agent_seen(&mut self, token_hash: &str, machine: MachineId, at: Timestamp) -> Result<()> {
        in_tx!(self, c => {
            sqlx::query("UPDATE agent_sessions SET last_seen_at = $2 WHERE token_hash = $1").bind(token_hash).bind(at.0).execute(&mut *c).await?;
            sqlx::query("UPDATE machines SET last_seen_at = $2 WHERE id = $1").bind(machine.to_string()).bind(at.0).execute(&mut *c).await?;
            Ok::<(), sqlx::Error>(())
        })?;
        Ok(())
    }

    /// Gives an order under the next number of the machine's orders, whatever step gives it: the agent refuses a number
    /// below one it has seen.
    ///
    /// # Errors
    /// `Conflict` when the machine was forgotten meanwhile.
    pub async fn insert_task(&mut self, id: TaskId, machine: MachineId, step: Option<StepId>, order: &Order, at: Timestamp) -> Result<()> {
        let body = to_json(order)?;
        self.touch(Some(machine));
        let row: Option<(i64,)> = in_tx!(self, c => sqlx::query_as(
            "UPDATE machines SET order_fence = order_fence + 1 WHERE id = $1 RETURNING order_fence")
            .bind(machine.to_string()).fetch_optional(c).await)?;
        let Some((fence,)) = row else { return Err(StoreError::Conflict) };
        in_tx!(self, c => sqlx::query(
            "INSERT INTO agent_tasks (id, machine_id, step_id, fence, body, state, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, 'open', $6, $6)")
            .bind(id.to_string()).bind(machine.to_string()).bind(step.map(|s| s.to_string())).bind(fence).bind(&body).bind(at.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Withdraws all open orders of a machine.
    pub async fn withdraw_tasks(&mut self, machine: MachineId, at: Timestamp) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query("UPDATE agent_tasks SET state = 'withdrawn', updated_at = $2 WHERE machine_id = $1 AND state = 'open'")
            .bind(machine.to_string()).bind(at.0).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    pub async fn note_task_progress(
        &mut self,
        task: TaskId,
        machine: MachineId,
        at: Timestamp,
        phase: &str,
        done: u64,
        total: u64,
    ) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query(
            "UPDATE agent_tasks SET phase = $2, done = $3, total = $4, updated_at = $5 WHERE id = $1 AND state = 'open'")
            .bind(task.to_string()).bind(phase)
            .bind(i64::try_from(done).unwrap_or(i64::MAX)).bind(i64::try_from(total).unwrap_or(i64::MAX)).bind(at.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Stores an order's result once; a repeat changes nothing. Returns the step that waits for it.
    pub async fn finish_task(&mut self, task: TaskId, machine: MachineId, result: &TaskResult, at: Timestamp) -> Result<Option<StepId>> {
        let body = to_json(result)?;
        self.touch(Some(machine));
        let row: Option<(Option<String>,)> = in_tx!(self, c => sqlx::query_as(
            "UPDATE agent_tasks SET state = 'done', result = $3, updated_at = $4 WHERE id = $1 AND machine_id = $2 AND state = 'open' RETURNING step_id")
            .bind(task.to_string()).bind(machine.to_string()).bind(&body).bind(at.0)
            .fetch_optional(c).await)?;
        parse_opt("agent_tasks", &task.to_string(), row.and_then(|r| r.0).as_ref())
    }

    pub async fn insert_agent_log(
        &mut self,
        id: uuid::Uuid,
        machine: MachineId,
        at: Timestamp,
        uptime_secs: f64,
        level: &str,
        line: &str,
    ) -> Result<()> {
        in_tx!(self, c => sqlx::query("INSERT INTO agent_logs (id, machine_id, at, uptime_secs, level, line) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(id.to_string()).bind(machine.to_string()).bind(at.0).bind(uptime_secs).bind(level).bind(line)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Keeps the newest lines of a machine's log.
    pub async fn prune_agent_log(&mut self, machine: MachineId) -> Result<()> {
        in_tx!(self, c => sqlx::query(
            "DELETE FROM agent_logs WHERE machine_id = $1 AND id < (SELECT id FROM agent_logs WHERE machine_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)")
            .bind(machine.to_string()).bind(LOG_KEPT).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    pub async fn insert_phone_home(&mut self, token: &str, machine: MachineId, run: RunId, at: Timestamp) -> Result<()> {
        in_tx!(self, c => sqlx::query("INSERT INTO phone_homes (token_hash, machine_id, run_id, created_at) VALUES ($1, $2, $3, $4)")
            .bind(token_hash(token)).bind(machine.to_string()).bind(run.to_string()).bind(at.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// The deployed system reports in. The first call counts; repeats and unknown tokens give `None`.
    pub async fn note_phone_home(&mut self, token: &str, body: &str, at: Timestamp) -> Result<Option<(MachineId, RunId)>> {
        let row: Option<(String, String)> = in_tx!(self, c => sqlx::query_as(
            "UPDATE phone_homes SET called_at = $2, body = $3 WHERE token_hash = $1 AND called_at IS NULL RETURNING machine_id, run_id")
            .bind(token_hash(token)).bind(at.0).bind(body)
            .fetch_optional(c).await)?;
        let Some((machine, run)) = row else { return Ok(None) };
        let machine = parse("phone_homes", "", &machine)?;
        self.touch(Some(machine));
        Ok(Some((machine, parse("phone_homes", "", &run)?)))
    }
}
