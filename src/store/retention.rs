//! What is dropped in time, table by table. Each call deletes at most so many rows of a table, so that it never holds the
//! write lock for long; the sweep comes again.

use std::time::Duration;

use crate::domain::time::Timestamp;
use crate::store::{Result, Store, Tx, from_json, in_pool, in_tx, to_json};
use crate::wire::agent::Order;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Ended runs with their steps, attempts, orders and phone-home tokens.
    pub runs: Duration,
    pub events: Duration,
    /// Who did what: longest of all.
    pub audit: Duration,
    pub boots: Duration,
    /// Network boots kept of one machine.
    pub boots_per_machine: u32,
    /// Network boots kept of all cards together that belong to no machine: anyone on the network can make them.
    pub stray_boots: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self { runs: DAY * 180, events: DAY * 365, audit: DAY * 3 * 365, boots: DAY * 90, boots_per_machine: 200, stray_boots: 2000 }
    }
}

impl Store {
    /// Runs that ended before `before` and that no machine is at, oldest first.
    async fn old_runs(&self, before: Timestamp, limit: u32) -> Result<Vec<String>> {
        let rows: Vec<(String,)> = in_pool!(self, p => sqlx::query_as(
            "SELECT id FROM runs WHERE ended_at < $1 AND id NOT IN (SELECT current_run FROM machines WHERE current_run IS NOT NULL)
             ORDER BY ended_at LIMIT $2")
            .bind(before.0).bind(i64::from(limit)).fetch_all(p).await)?;
        Ok(rows.into_iter().map(|r| r.0).collect())
    }

    /// Drops what is older than `keep` says, at most `limit` rows of a table (and runs with what belongs to them). Returns
    /// how many went; fewer than `limit` of each kind means that nothing is left to drop.
    pub async fn drop_old(&self, keep: &Keep, now: Timestamp, limit: u32) -> Result<u64> {
        let runs = self.old_runs(now.minus(keep.runs), limit.min(50)).await?;
        let mut dropped = 0;
        for run in &runs {
            let mut tx = self.begin().await?;
            dropped += tx.drop_run(run).await?;
            tx.commit().await?;
        }
        for (sql, age) in [
            // Ids grow with time, so the oldest rows are found by the primary key.
            ("DELETE FROM events WHERE at < $1 AND id IN (SELECT id FROM events ORDER BY id LIMIT $2)", keep.events),
            ("DELETE FROM audit WHERE at < $1 AND id IN (SELECT id FROM audit ORDER BY id LIMIT $2)", keep.audit),
            ("DELETE FROM boots WHERE last_at < $1 AND id IN (SELECT id FROM boots ORDER BY id LIMIT $2)", keep.boots),
            (
                "DELETE FROM agent_tasks WHERE updated_at < $1 AND step_id IS NULL AND state <> 'open'
                   AND id IN (SELECT id FROM agent_tasks WHERE step_id IS NULL ORDER BY id LIMIT $2)",
                keep.runs,
            ),
        ] {
            let mut tx = self.begin().await?;
            dropped += in_tx!(tx, c => sqlx::query(sql).bind(now.minus(age).0).bind(i64::from(limit)).execute(c).await
                .map(|r| r.rows_affected()))?;
            tx.commit().await?;
        }
        let mut tx = self.begin().await?;
        dropped += in_tx!(tx, c => sqlx::query(
            "DELETE FROM boots WHERE machine_id IS NULL AND id IN (
                SELECT id FROM boots WHERE machine_id IS NULL ORDER BY started_at DESC, id DESC LIMIT $1 OFFSET $2)")
            .bind(i64::from(limit)).bind(i64::from(keep.stray_boots)).execute(c).await.map(|r| r.rows_affected()))?;
        tx.commit().await?;
        Ok(dropped)
    }

    /// Takes user data, keys and tokens out of orders that are finished: nobody reads them again. At most `limit` of them.
    pub async fn blank_finished_orders(&self, limit: u32) -> Result<u64> {
        let rows: Vec<(String, String)> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, body FROM agent_tasks WHERE state <> 'open' AND body LIKE $1 LIMIT $2")
            .bind("%\"seed\":{%").bind(i64::from(limit)).fetch_all(p).await)?;
        let mut blanked = 0;
        for (id, body) in rows {
            let Order::WriteImage(mut order) = from_json("agent_tasks", &id, &body)? else { continue };
            order.seed = None;
            let body = to_json(&Order::WriteImage(order))?;
            let mut tx = self.begin().await?;
            blanked += in_tx!(tx, c => sqlx::query("UPDATE agent_tasks SET body = $2 WHERE id = $1 AND state <> 'open'")
                .bind(&id).bind(&body).execute(c).await.map(|r| r.rows_affected()))?;
            tx.commit().await?;
        }
        Ok(blanked)
    }
}

impl Tx {
    async fn drop_run(&mut self, run: &str) -> Result<u64> {
        let dropped = in_tx!(self, c => {
            let mut dropped = 0;
            for sql in [
                "DELETE FROM attempts WHERE step_id IN (SELECT id FROM steps WHERE run_id = $1)",
                "DELETE FROM agent_tasks WHERE step_id IN (SELECT id FROM steps WHERE run_id = $1)",
                "DELETE FROM phone_homes WHERE run_id = $1",
                "DELETE FROM steps WHERE run_id = $1",
                "DELETE FROM runs WHERE id = $1",
            ] {
                dropped += sqlx::query(sql).bind(run).execute(&mut *c).await?.rows_affected();
            }
            Ok::<u64, sqlx::Error>(dropped)
        })?;
        Ok(dropped)
    }

    /// Keeps the newest boots of a machine.
    pub async fn prune_boots(&mut self, machine: crate::domain::id::MachineId, keep: &Keep) -> Result<()> {
        in_tx!(self, c => sqlx::query(
            "DELETE FROM boots WHERE machine_id = $1 AND id IN (
                SELECT id FROM boots WHERE machine_id = $1 ORDER BY started_at DESC, id DESC LIMIT 1000 OFFSET $2)")
            .bind(machine.to_string()).bind(i64::from(keep.boots_per_machine)).execute(c).await.map(|_| ()))?;
        Ok(())
    }
}
