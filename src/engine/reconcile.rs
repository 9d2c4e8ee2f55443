//! Asks `decide::workflow` about one machine and applies the answer in one transaction, until there is nothing to do.

use crate::clock;
use crate::decide::workflow::{Decision, Facts, IntentChange, Next, decide, recipe};
use crate::domain::event::{NewEvent, Severity};
use crate::domain::id::{EventId, MachineId, RunId, StepId};
use crate::domain::machine::{Lifecycle, Machine, Want};
use crate::domain::time::Timestamp;
use crate::domain::work::{Run, RunKind, RunState, Step, StepState};
use crate::engine::{Engine, alerts};
use crate::store::{StoreError, Tx};

/// Decisions applied in a row to one machine: the longest chain is start run, start step, finish.
const CHAIN: usize = 8;

impl Engine {
    /// Decides on a machine until nothing more is to be done.
    pub async fn reconcile(&self, id: MachineId) -> Result<(), StoreError> {
        for _ in 0..CHAIN {
            let now = clock::now();
            let Some(machine) = self.store.machine(id).await? else { return Ok(()) };
            let run = match machine.current_run {
                Some(run) => self.store.run(run).await?,
                None => None,
            };
            let decision = decide(&Facts { machine: &machine, run: run.as_ref(), now });
            let nothing = decision.next == Next::Nothing;
            match self.apply(machine, run.as_ref(), decision, now).await {
                Ok(()) => {}
                // Someone changed it between our read and our write: read and decide again.
                Err(StoreError::Conflict) => continue,
                Err(e) => return Err(e),
            }
            if nothing {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn apply(&self, mut m: Machine, run: Option<&Run>, decision: Decision, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        m.why = decision.why;
        let mut due = decision.wake_at;
        match decision.next {
            Next::Nothing => {}
            Next::StartRun { kind, lifecycle } => {
                start_run(&mut tx, &mut m, kind, lifecycle, now).await?;
                due = Some(now);
            }
            Next::StartStep { index, intent } => {
                if let Some(step) = run.and_then(|r| r.steps.iter().find(|s| s.index == index)) {
                    tx.start_step(step.id, m.id, now, now.plus(step.kind.deadline()), "").await?;
                }
                match intent {
                    IntentChange::Keep => {}
                    IntentChange::Set(intent) => m.boot_intent = Some(intent),
                }
                due = Some(now);
            }
            Next::FinishRun { lifecycle } => {
                if let Some(run) = run {
                    finish_run(&mut tx, &mut m, run, lifecycle, now).await?;
                }
                due = Some(now);
            }
            Next::FailRun { fault } => {
                if let Some(run) = run {
                    fail_step(&mut tx, run, now).await?;
                    tx.set_run_state(run.id, m.id, RunState::Failed).await?;
                    tx.withdraw_tasks(m.id, now).await?;
                }
                event(&mut tx, &m, run.map(|r| r.id), "run.failed", Severity::Error, format!("{}. {}", fault.what, fault.remedy), now)
                    .await?;
                if let Some(run) = run {
                    tx.put_notice(&alerts::run_failed(&m, run, &fault, now)).await?;
                }
                m.fault = Some(fault);
                due = Some(now);
            }
        }
        tx.update_machine(&m, due).await?;
        tx.commit().await
    }
}

async fn start_run(tx: &mut Tx, m: &mut Machine, kind: RunKind, lifecycle: Lifecycle, now: Timestamp) -> Result<(), StoreError> {
    let id = RunId(clock::fresh_uuid());
    let steps = recipe(kind)
        .iter()
        .enumerate()
        .map(|(i, kind)| Step {
            id: StepId(clock::fresh_uuid()),
            run: id,
            machine: m.id,
            index: u32::try_from(i).unwrap_or(u32::MAX),
            kind: *kind,
            state: StepState::Pending,
            attempts: 0,
            checkpoint: serde_json::Value::Null,
            evidence: serde_json::Value::Null,
            note: String::new(),
            progress: None,
            started_at: None,
            ended_at: None,
            deadline_at: None,
            due_at: now,
            fence: 0,
        })
        .collect();
    let run = Run { id, machine: m.id, kind, state: RunState::Running, started_at: now, ended_at: None, actor: "system".to_owned(), steps };
    // What was ordered before this run is not part of it, and would come between it and the agent.
    tx.withdraw_tasks(m.id, now).await?;
    tx.insert_run(&run).await?;
    m.current_run = Some(id);
    m.lifecycle = lifecycle;
    m.lifecycle_since = now;
    m.fault = None;
    event(tx, m, Some(id), "run.started", Severity::Info, format!("The {kind} run started: {} is {lifecycle}.", m.name), now).await
}

async fn finish_run(tx: &mut Tx, m: &mut Machine, run: &Run, lifecycle: Lifecycle, now: Timestamp) -> Result<(), StoreError> {
    tx.end_run(run.id, m.id, RunState::Done, now).await?;
    match run.kind {
        RunKind::Enroll => {}
        RunKind::Deploy => {
            if let Want::Deploy(spec) = &m.want {
                m.image = Some(spec.image.clone());
            }
        }
        RunKind::Release => {
            m.image = None;
            m.written_disks.clear();
        }
    }
    m.want = Want::Nothing;
    m.current_run = None;
    m.boot_intent = None;
    m.fault = None;
    m.lifecycle = lifecycle;
    m.lifecycle_since = now;
    let took = crate::domain::time::spoken(now.since(run.started_at));
    let text = format!("The {} run is done after {took}: {} is {lifecycle}.", run.kind, m.name);
    alerts::close_all(tx, m, Some(run.id), &text, now).await?;
    event(tx, m, Some(run.id), "run.done", Severity::Info, text, now).await
}

/// Marks the running step as failed when its deadline passed; one that failed by itself is marked already.
async fn fail_step(tx: &mut Tx, run: &Run, now: Timestamp) -> Result<(), StoreError> {
    let Some(step) = run.current_step().filter(|s| s.state == StepState::Running) else { return Ok(()) };
    tx.fail_overdue_step(step.id, run.machine, now).await
}

/// Appends an event about a machine.
pub(crate) async fn event(
    tx: &mut Tx,
    m: &Machine,
    run: Option<RunId>,
    kind: &'static str,
    severity: Severity,
    text: String,
    now: Timestamp,
) -> Result<(), StoreError> {
    let event = NewEvent { machine: Some(m.id), run, kind, severity, text, actor: "system".to_owned() };
    tx.insert_event(EventId(clock::fresh_uuid()), now, &event).await
}
