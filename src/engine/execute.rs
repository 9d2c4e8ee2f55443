//! Executes one claimed step: one bounded exchange, its outcome recorded in one transaction under the claim's fence.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::domain::event::Severity;
use crate::domain::id::StepId;
use crate::domain::machine::Machine;
use crate::domain::time::Timestamp;
use crate::domain::work::{Progress, Run, RunState, Step, StepOutcome, StepState};
use crate::engine::reconcile::event;
use crate::engine::steps::StepError;
use crate::engine::{CALL_LIMIT, Engine, steps};
use crate::store::StoreError;
use crate::store::machines::Claim;

/// Waits between tries of a step that failed in a way that may pass: 2, 4, 8, 16, 32 s; with the most attempts any step
/// has (5) their sum is 30 s.
const BACKOFF_FIRST: Duration = Duration::from_secs(2);
const BACKOFF_CAP: Duration = Duration::from_secs(60);

/// What is kept of a step between two calls: how often it failed, and the step's own data.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    pub failures: u32,
    pub data: serde_json::Value,
}

/// Everything a step may look at and use.
pub(crate) struct Context {
    pub engine: Engine,
    pub machine: Machine,
    pub run: Run,
    pub step: Step,
    pub memory: Memory,
    pub now: Timestamp,
}

impl Context {
    /// Commits the attempt right before anything is changed outside. The step's data is stored with it, so that a restarted
    /// process knows what was begun.
    ///
    /// # Errors
    /// `Conflict` when the run was given up or the step taken over meanwhile: nothing may be changed.
    pub async fn begin_attempt(&mut self) -> Result<(), StepError> {
        self.step.attempts = self.step.attempts.saturating_add(1);
        self.step.checkpoint = json(&self.memory);
        let mut tx = self.engine.store.begin().await?;
        tx.begin_attempt(&self.step, clock::now()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Stores the step's data within the attempt, right before something that must not be repeated blindly.
    ///
    /// # Errors
    /// `Conflict` when the run was given up or the step taken over since the attempt began: nothing more may be sent.
    pub async fn keep(&mut self) -> Result<(), StepError> {
        self.step.checkpoint = json(&self.memory);
        let mut tx = self.engine.store.begin().await?;
        tx.keep_step(&self.step).await?;
        tx.commit().await?;
        Ok(())
    }
}

pub(crate) fn json<T: Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or(serde_json::Value::Null)
}

impl Engine {
    pub(crate) async fn execute(&self, claim: Claim<StepId>) -> Result<(), StoreError> {
        let Some(step) = self.store.step(claim.id).await? else { return Ok(()) };
        // Taken over by another claim.
        if step.fence != claim.fence {
            return Ok(());
        }
        let (machine, run) = (self.store.machine(step.machine).await?, self.store.run(step.run).await?);
        let (Some(machine), Some(run)) = (machine, run.filter(|r| r.state == RunState::Running && step.state == StepState::Running)) else {
            // Ended by a person meanwhile, or by a process that died halfway: it must not come due again and again.
            let mut tx = self.store.begin().await?;
            tx.rest_step(step.id, claim.fence).await?;
            return tx.commit().await;
        };
        let memory: Memory = serde_json::from_value(step.checkpoint.clone()).unwrap_or_default();
        let mut context = Context { engine: self.clone(), machine, run, step, memory, now: clock::now() };
        let outcome = match tokio::time::timeout(CALL_LIMIT, steps::perform(&mut context)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StepError::passing(
                "call_timeout",
                format!("an exchange of the step {} took longer than {} s", context.step.kind, CALL_LIMIT.as_secs()),
                "look at the BMC and the network between, then retry",
            )),
        };
        match self.record(context, outcome).await {
            // Another process took the step over: its result counts, not ours.
            Err(StoreError::Conflict) => Ok(()),
            other => other,
        }
    }

    async fn record(&self, context: Context, outcome: Result<StepOutcome, StepError>) -> Result<(), StoreError> {
        let Context { machine, run, mut step, mut memory, .. } = context;
        let now = clock::now();
        let mut tx = self.store.begin().await?;
        let mut due = None;
        let spoken;
        match outcome {
            Ok(StepOutcome::Done { evidence, note }) => {
                step.state = StepState::Done;
                step.evidence = evidence;
                step.ended_at = Some(now);
                spoken = format!("done: {note}");
                step.note = note;
            }
            Ok(StepOutcome::Skipped { note }) => {
                step.state = StepState::Skipped;
                step.ended_at = Some(now);
                spoken = format!("skipped: {note}");
                step.note = note;
            }
            Ok(StepOutcome::Again { checkpoint, after, note }) => {
                step.progress = progress_in(&checkpoint).or(step.progress);
                memory.data = checkpoint;
                step.checkpoint = json(&memory);
                due = Some(now.plus(after));
                spoken = format!("goes on: {note}");
                step.note = note;
            }
            Err(StepError::Store(e)) => return Err(e),
            Err(StepError::Fault { code, what, remedy, passing }) => {
                memory.failures = memory.failures.saturating_add(1);
                spoken = format!("failed: {what}");
                if passing && memory.failures < step.kind.max_attempts() {
                    let after = backoff(memory.failures);
                    step.note = format!("{what}; try {} of {} in {} s", memory.failures + 1, step.kind.max_attempts(), after.as_secs());
                    step.checkpoint = json(&memory);
                    due = Some(now.plus(after));
                    event(&mut tx, &machine, Some(run.id), "step.retry", Severity::Warning, format!("{}: {}", step.kind, step.note), now)
                        .await?;
                } else {
                    step.state = StepState::Failed;
                    step.note = what.clone();
                    step.evidence = serde_json::json!({ "code": code, "what": what, "remedy": remedy, "failures": memory.failures });
                    step.ended_at = Some(now);
                }
            }
        }
        let ended = step.state != StepState::Running;
        tx.end_attempt(step.id, now, &spoken).await?;
        tx.update_step(&step, due).await?;
        if ended {
            if step.state != StepState::Failed {
                event(&mut tx, &machine, Some(run.id), "step.done", Severity::Info, format!("{}: {}", step.kind, step.note), now).await?;
            }
            tx.make_due(machine.id, now).await?;
        }
        tx.commit().await
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(5)).min(BACKOFF_CAP)
}

/// A step that waits for an agent's order keeps `done` and `total` in its data.
fn progress_in(data: &serde_json::Value) -> Option<Progress> {
    let number = |key: &str| data.get(key).and_then(serde_json::Value::as_u64);
    number("done").zip(number("total")).filter(|(_, total)| *total > 0).map(|(done, total)| Progress { done, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_between_tries_grow_and_are_capped() {
        let waits: Vec<u64> = (1..=7).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
    }
}
