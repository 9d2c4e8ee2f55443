//! Steps that go through the BMC: first contact, boot into the ramdisk, power off.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bmc::{Answer, BmcAccess, BmcError};
use crate::clock;
use crate::decide::bmc_identity;
use crate::domain::bmc::{BmcIdentity, BmcStatus};
use crate::domain::id::TaskId;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use crate::domain::time::Timestamp;
use crate::domain::work::StepOutcome;
use crate::engine::execute::{Context, json};
use crate::engine::steps::{BMC_OF_ANOTHER, BMC_OF_ANOTHER_REMEDY, StepError, is_alive};
use crate::store::StoreError;

/// How long a power command that may have gone out is given to show signs of life before it is sent again.
const SIGNS_WITHIN: Duration = Duration::from_secs(60);

/// Runs one BMC exchange and records what it showed.
pub(super) async fn exchange<T>(context: &Context, outcome: Result<Answer<T>, BmcError>) -> Result<T, StepError> {
    match outcome {
        Ok(answer) => {
            let (protocol, pin) = (answer.protocol, answer.tls_pin);
            note(context, |status, now| {
                status.protocol = Some(protocol);
                status.tls_pin = status.tls_pin.or(pin);
                status.last_ok_at = Some(now);
                status.fault = None;
                status.auth_failures = 0;
                status.paused_until = None;
            })
            .await?;
            Ok(answer.value)
        }
        Err(e) => {
            if let Some(asked) = &context.machine.bmc {
                context.engine.note_bmc_failure(context.machine.id, &asked.address, &e).await?;
            }
            Err(e.into())
        }
    }
}

/// Records what the BMC showed that the machine had when the step began: the one that was asked.
pub(super) async fn note(context: &Context, change: impl FnOnce(&mut BmcStatus, Timestamp)) -> Result<(), StoreError> {
    match &context.machine.bmc {
        Some(asked) => context.engine.note_bmc(context.machine.id, &asked.address, change).await,
        None => Ok(()),
    }
}

/// What is needed to talk to the machine's BMC. Nothing is done through a BMC that did not say yet whose it is: after its
/// address was entered or changed it is asked first.
pub(super) async fn access(context: &Context) -> Result<Option<BmcAccess>, StepError> {
    let Some(status) = &context.machine.bmc else { return Ok(None) };
    let access = context.engine.bmc_access(context.machine.id, status).await?;
    if let Some(access) = &access
        && status.identity == BmcIdentity::default()
    {
        identify(context, access).await?;
    }
    Ok(access)
}

/// Asks the BMC who it is; refuses one that belongs to another machine.
async fn identify(context: &Context, access: &BmcAccess) -> Result<BmcIdentity, StepError> {
    let identity = exchange(context, context.engine.bmcs.identity(context.machine.id, access).await).await?;
    if let Err(why) = bmc_identity::fits(&identity, &context.machine) {
        return Err(StepError::lasting(BMC_OF_ANOTHER, format!("the BMC at {} {why}", access.address), BMC_OF_ANOTHER_REMEDY));
    }
    let seen = identity.clone();
    note(context, |status, _| status.identity = seen).await?;
    Ok(identity)
}

/// Identity and power state; refuses a BMC that belongs to another machine.
pub(super) async fn contact_bmc(context: &mut Context) -> Result<StepOutcome, StepError> {
    let id = context.machine.id;
    let access = match &context.machine.bmc {
        Some(status) => context.engine.bmc_access(id, status).await?,
        None => None,
    };
    let Some(access) = access else {
        return Ok(StepOutcome::Skipped { note: "no BMC is known; power is switched by hand".to_owned() });
    };
    let identity = identify(context, &access).await?;
    let power = exchange(context, context.engine.bmcs.power(id, &access).await).await?;
    note(context, |status, now| {
        status.power = Some(power);
        status.power_seen_at = Some(now);
    })
    .await?;
    Ok(StepOutcome::Done { evidence: json(&identity), note: format!("the BMC at {} answers, power is {power}", access.address) })
}

/// What a step that restarts the machine remembers.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RestartMemory {
    /// When the power command was begun; before that nothing went out.
    pub begun_at: Option<Timestamp>,
    /// The agent's order to restart, where the agent does it.
    pub task: Option<TaskId>,
}

impl RestartMemory {
    pub fn of(context: &Context) -> Self {
        serde_json::from_value(context.memory.data.clone()).unwrap_or_default()
    }
}

/// A power command may have gone out before this process died, or before the BMC fell silent: it is not sent again before
/// signs of it were looked for. `None`: nothing went out, or it did not happen; send it.
pub(super) async fn signs_of_restart(context: &Context, memory: RestartMemory) -> Result<Option<StepOutcome>, StepError> {
    let Some(begun) = memory.begun_at else { return Ok(None) };
    let store = &context.engine.store;
    let boot = store.boots(context.machine.id, 1).await?.first().is_some_and(|b| b.last_at >= begun);
    let system = store.phone_home(context.run.id).await?.is_some_and(|(at, _)| at >= begun);
    if boot || system {
        return Ok(Some(StepOutcome::Done {
            evidence: serde_json::json!({ "alive_after": begun, "network_boot": boot, "system": system }),
            note: "its restart was seen".to_owned(),
        }));
    }
    Ok((context.now.since(begun) < SIGNS_WITHIN).then(|| StepOutcome::Again {
        checkpoint: json(&memory),
        after: Duration::from_secs(2),
        note: "a power command was under way and its end is not known; looking for signs that it happened".to_owned(),
    }))
}

/// Power that makes the machine boot: on, or a cycle. That it was begun is stored right before the command.
pub(super) async fn restart(context: &mut Context, access: &BmcAccess) -> Result<(PowerState, PowerAction), StepError> {
    let id = context.machine.id;
    let bmcs = context.engine.bmcs.clone();
    let before = exchange(context, bmcs.power(id, access).await).await?;
    let action = match before {
        PowerState::Off => PowerAction::On,
        PowerState::On | PowerState::Changing => PowerAction::Cycle,
    };
    let memory = RestartMemory::of(context);
    context.memory.data = json(&RestartMemory { begun_at: Some(clock::now()), ..memory });
    context.keep().await?;
    let sent = bmcs.set_power(id, access, action).await;
    if sent.as_ref().is_err_and(|e| !e.may_have_acted()) {
        // It said no: nothing is on its way, and a new try need not look for it.
        context.memory.data = json(&memory);
    }
    exchange(context, sent).await?;
    note(context, |status, now| {
        status.power = Some(PowerState::On);
        status.power_seen_at = Some(now);
    })
    .await?;
    Ok((before, action))
}

/// Boot once from the network and a power cycle, with evidence that it happened.
pub(super) async fn boot_ramdisk(context: &mut Context) -> Result<StepOutcome, StepError> {
    let id = context.machine.id;
    if let Some(session) = context.engine.store.newest_agent_session(id).await?
        && is_alive(&session, context.now)
    {
        return Ok(StepOutcome::Done {
            evidence: serde_json::json!({ "agent": session.session }),
            note: "the agent is there already".to_owned(),
        });
    }
    let Some(access) = access(context).await? else {
        return Ok(StepOutcome::Done {
            evidence: serde_json::Value::Null,
            note: "no BMC is known: power the machine on, or restart it, with network boot first".to_owned(),
        });
    };
    if let Some(outcome) = signs_of_restart(context, RestartMemory::of(context)).await? {
        return Ok(outcome);
    }
    let firmware = context.machine.firmware.unwrap_or(FirmwareKind::Uefi);
    let bmcs = context.engine.bmcs.clone();
    context.memory.data = json(&RestartMemory::default());
    context.begin_attempt().await?;
    let set = exchange(context, bmcs.set_boot_once(id, &access, BootDevice::Network, firmware).await).await?;
    let (before, action) = restart(context, &access).await?;
    let evidence = serde_json::json!({ "boot": "network", "boot_set": format!("{set:?}"), "firmware": firmware, "power_before": before, "power_action": action });
    Ok(StepOutcome::Done { evidence, note: format!("network boot set, power {action} accepted by the BMC") })
}

/// Ready machines rest powered off where a BMC can wake them.
pub(super) async fn power_off(context: &mut Context) -> Result<StepOutcome, StepError> {
    let id = context.machine.id;
    if !context.engine.settings.power_off_ready {
        return Ok(StepOutcome::Skipped { note: "ready machines stay on (configuration)".to_owned() });
    }
    let Some(access) = access(context).await? else {
        return Ok(StepOutcome::Skipped { note: "no BMC is known: the agent stays in the ramdisk and waits".to_owned() });
    };
    let bmcs = context.engine.bmcs.clone();
    let before = exchange(context, bmcs.power(id, &access).await).await?;
    if before != PowerState::Off {
        context.begin_attempt().await?;
        exchange(context, bmcs.set_power(id, &access, PowerAction::Off).await).await?;
    }
    note(context, |status, now| {
        status.power = Some(PowerState::Off);
        status.power_seen_at = Some(now);
    })
    .await?;
    let mut tx = context.engine.store.begin().await?;
    tx.end_agent_sessions(id).await?;
    tx.commit().await?;
    Ok(StepOutcome::Done {
        evidence: serde_json::json!({ "power_before": before, "power": "off" }),
        note: "powered off, the BMC confirms it".to_owned(),
    })
}
