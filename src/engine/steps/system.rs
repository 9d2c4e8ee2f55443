//! From the written disk to the running system.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::domain::id::TaskId;
use crate::domain::inventory::DiskRef;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use crate::domain::work::{StepKind, StepOutcome};
use crate::engine::execute::{Context, json};
use crate::engine::steps::power::{access, exchange};
use crate::engine::steps::{StepError, is_alive};
use crate::store::agent::TaskState;
use crate::wire::agent::{Order, TaskResult};

const LOOK_AGAIN: Duration = Duration::from_secs(5);

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct BootDiskMemory {
    /// The BMC was told; `false` also when there is none.
    bmc_told: bool,
    task: Option<TaskId>,
}

/// Next boot from disk: the BMC is told (some keep a network override for every boot), the agent sets the firmware's
/// boot entry and restarts. Without an agent the BMC restarts the machine.
pub(super) async fn boot_disk(context: &mut Context) -> Result<StepOutcome, StepError> {
    let id = context.machine.id;
    let store = context.engine.store.clone();
    let mut memory: BootDiskMemory = serde_json::from_value(context.memory.data.clone()).unwrap_or_default();
    let access = access(context).await?;
    if let (Some(access), false) = (&access, memory.bmc_told) {
        let firmware = context.machine.firmware.unwrap_or(FirmwareKind::Uefi);
        let bmcs = context.engine.bmcs.clone();
        exchange(context, bmcs.set_boot_once(id, access, BootDevice::Disk, firmware).await).await?;
        memory.bmc_told = true;
    }
    if let Some(task) = memory.task {
        return follow_restart(context, memory, task).await;
    }
    let session = store.newest_agent_session(id).await?.filter(|s| is_alive(s, context.now));
    match (session, access) {
        (Some(_), _) => {
            let disk: Option<DiskRef> = context
                .run
                .steps
                .iter()
                .find(|s| s.kind == StepKind::CheckTarget)
                .and_then(|s| s.evidence.get("disk").cloned())
                .and_then(|d| serde_json::from_value(d).ok());
            let task = TaskId(clock::fresh_uuid());
            memory.task = Some(task);
            context.memory.data = json(&memory);
            context.step.attempts = context.step.attempts.saturating_add(1);
            context.step.checkpoint = json(&context.memory);
            let now = clock::now();
            let mut tx = store.begin().await?;
            tx.begin_attempt(&context.step, now).await?;
            tx.insert_task(task, id, Some(context.step.id), context.step.fence, &Order::RebootToDisk { disk }, now).await?;
            tx.commit().await?;
            Ok(StepOutcome::Again {
                checkpoint: json(&memory),
                after: LOOK_AGAIN,
                note: "the agent is told to restart from disk".to_owned(),
            })
        }
        (None, Some(access)) => {
            let bmcs = context.engine.bmcs.clone();
            let before = exchange(context, bmcs.power(id, &access).await).await?;
            context.memory.data = json(&memory);
            context.begin_attempt().await?;
            let action = if before == PowerState::Off { PowerAction::On } else { PowerAction::Cycle };
            exchange(context, bmcs.set_power(id, &access, action).await).await?;
            Ok(StepOutcome::Done {
                evidence: serde_json::json!({ "power_action": action }),
                note: format!("restarted from disk by the BMC (power {action})"),
            })
        }
        (None, None) => Err(StepError::lasting(
            "agent_lost",
            format!("{} has no BMC and its agent is gone, so it cannot be restarted from here", context.machine.name),
            "restart the machine by hand, then retry",
        )),
    }
}

async fn follow_restart(context: &mut Context, memory: BootDiskMemory, task: TaskId) -> Result<StepOutcome, StepError> {
    let stored = context.engine.store.task(task).await?.filter(|t| t.state != TaskState::Withdrawn);
    match stored.and_then(|t| t.result) {
        Some(TaskResult::Ok { evidence }) => {
            let mut tx = context.engine.store.begin().await?;
            tx.end_agent_sessions(context.machine.id).await?;
            tx.commit().await?;
            Ok(StepOutcome::Done { evidence, note: "the agent restarted the machine from its disk".to_owned() })
        }
        Some(TaskResult::Failed { code, message, retry }) => {
            context.memory.data = json(&BootDiskMemory { bmc_told: memory.bmc_told, task: None });
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
