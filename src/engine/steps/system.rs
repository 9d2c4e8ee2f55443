//! From the written disk to the running system.

use std::time::Duration;

use crate::clock;
use crate::domain::id::TaskId;
use crate::domain::inventory::DiskRef;
use crate::domain::power::{BootDevice, FirmwareKind};
use crate::domain::work::{StepKind, StepOutcome};
use crate::engine::execute::{Context, json};
use crate::engine::steps::power::{RestartMemory, access, exchange, restart, signs_of_restart};
use crate::engine::steps::{StepError, is_alive};
use crate::store::agent::{StoredTask, TaskState};
use crate::wire::agent::{Order, TaskResult};

const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Next boot from disk: the BMC is told (some keep a network override for every boot), the agent sets the firmware's
/// boot entry and restarts. Without an agent the BMC restarts the machine.
pub(super) async fn boot_disk(context: &mut Context) -> Result<StepOutcome, StepError> {
    let id = context.machine.id;
    let store = context.engine.store.clone();
    let memory = RestartMemory::of(context);
    // An order that was withdrawn is as none: the restart it asked for is asked for again.
    if let Some(task) = memory.task
        && let Some(stored) = store.task(task).await?.filter(|t| t.state != TaskState::Withdrawn)
    {
        return follow_restart(context, memory, stored).await;
    }
    if let Some(outcome) = signs_of_restart(context, memory).await? {
        return Ok(outcome);
    }
    let access = access(context).await?;
    let session = store.newest_agent_session(id).await?.filter(|s| is_alive(s, context.now));
    if session.is_none() && access.is_none() {
        return Err(StepError::lasting(
            "agent_lost",
            format!("{} has no BMC and its agent is gone, so it cannot be restarted from here", context.machine.name),
            "restart the machine by hand, then retry",
        ));
    }
    context.memory.data = json(&RestartMemory::default());
    context.begin_attempt().await?;
    if let Some(access) = &access {
        let firmware = context.machine.firmware.unwrap_or(FirmwareKind::Uefi);
        let bmcs = context.engine.bmcs.clone();
        exchange(context, bmcs.set_boot_once(id, access, BootDevice::Disk, firmware).await).await?;
    }
    match (session, access) {
        (None, Some(access)) => {
            let (before, action) = restart(context, &access).await?;
            Ok(StepOutcome::Done {
                evidence: serde_json::json!({ "power_before": before, "power_action": action }),
                note: format!("restarted from disk by the BMC (power {action})"),
            })
        }
        (Some(_) | None, _) => order_restart(context).await,
    }
}

async fn order_restart(context: &mut Context) -> Result<StepOutcome, StepError> {
    let disk: Option<DiskRef> = context
        .run
        .steps
        .iter()
        .find(|s| s.kind == StepKind::CheckTarget)
        .and_then(|s| s.evidence.get("disk").cloned())
        .and_then(|d| serde_json::from_value(d).ok());
    let task = TaskId(clock::fresh_uuid());
    let memory = RestartMemory { task: Some(task), ..RestartMemory::default() };
    context.memory.data = json(&memory);
    context.step.checkpoint = json(&context.memory);
    let mut tx = context.engine.store.begin().await?;
    tx.keep_step(&context.step).await?;
    tx.insert_task(task, context.machine.id, Some(context.step.id), &Order::RebootToDisk { disk }, clock::now()).await?;
    tx.commit().await?;
    Ok(StepOutcome::Again { checkpoint: json(&memory), after: LOOK_AGAIN, note: "the agent is told to restart from disk".to_owned() })
}

async fn follow_restart(context: &mut Context, memory: RestartMemory, task: StoredTask) -> Result<StepOutcome, StepError> {
    match task.result {
        Some(TaskResult::Ok { evidence }) => {
            let mut tx = context.engine.store.begin().await?;
            tx.end_agent_sessions(context.machine.id).await?;
            tx.commit().await?;
            Ok(StepOutcome::Done { evidence, note: "the agent restarted the machine from its disk".to_owned() })
        }
        Some(TaskResult::Failed { code, message, retry }) => {
            context.memory.data = serde_json::Value::Null;
            let remedy = "look at the agent's log; set the boot order in the firmware by hand if need be, then retry";
            Err(if retry { StepError::passing(code, message, remedy) } else { StepError::lasting(code, message, remedy) })
        }
        None => Ok(StepOutcome::Again { checkpoint: json(&memory), after: LOOK_AGAIN, note: "the agent prepares the restart".to_owned() }),
    }
}

/// The deployed system calls home (cloud-init `phone_home`).
pub(super) async fn wait_system(context: &mut Context) -> Result<StepOutcome, StepError> {
    if let Some((at, body)) = context.engine.store.phone_home(context.run.id).await? {
        let shown: String = body.chars().take(500).collect();
        return Ok(StepOutcome::Done {
            evidence: serde_json::json!({ "called_at": at, "said": shown }),
            note: "the system reported in".to_owned(),
        });
    }
    let since = context.step.started_at.unwrap_or(context.now);
    let boot = context.engine.store.boots(context.machine.id, 1).await?.into_iter().next().filter(|b| b.started_at >= since);
    let note = match boot.as_ref().and_then(|b| b.marks.last()) {
        Some(mark) => format!("its firmware asked the network first (last seen: {})", mark.stage),
        None => "no network boot was seen since the restart, so it boots its disk".to_owned(),
    };
    Ok(StepOutcome::Again { checkpoint: serde_json::Value::Null, after: LOOK_AGAIN, note })
}
