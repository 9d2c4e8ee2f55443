//! Steps that the agent in the ramdisk carries out: orders are rows, so they outlive this process and the agent's
//! connection; the agent posts a result until it is accepted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::decide::boot_timeline::diagnose;
use crate::decide::target::{Choice, choose_disk};
use crate::decide::wipe;
use crate::domain::id::TaskId;
use crate::domain::inventory::DiskRef;
use crate::domain::machine::{DeploySpec, Want};
use crate::domain::time::{Timestamp, spoken};
use crate::domain::work::{Hazard, StepKind, StepOutcome};
use crate::engine::execute::{Context, json};
use crate::engine::steps::{StepError, is_alive};
use crate::store::agent::{StoredTask, TaskState};
use crate::wire::agent::{Order, Seed, TaskResult, WipeDisks, WriteImage};

/// Steps are woken when something happens; this is only for what was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// An agent silent this long during an order is gone (crash, power cut): the order will not end.
const AGENT_LOST: Duration = Duration::from_secs(5 * 60);

/// The agent of a boot that began after this run asked for it, or one that is still there.
pub(super) async fn wait_agent(context: &mut Context) -> Result<StepOutcome, StepError> {
    let store = &context.engine.store;
    let since =
        context.run.steps.iter().find(|s| s.kind == StepKind::BootRamdisk).and_then(|s| s.started_at).unwrap_or(context.run.started_at);
    if let Some(session) = store.newest_agent_session(context.machine.id).await?
        && (session.created_at >= since || is_alive(&session, context.now))
    {
        return Ok(StepOutcome::Done {
            evidence: serde_json::json!({ "session": session.session, "hello_at": session.created_at }),
            note: "the agent said hello".to_owned(),
        });
    }
    let boot = store.boots(context.machine.id, 1).await?.into_iter().next().filter(|b| b.last_at >= since);
    let note = match boot.as_ref() {
        Some(boot) => match diagnose(boot, context.now) {
            Some(diagnosis) => diagnosis.text,
            None => boot.marks.last().map_or_else(String::new, |m| format!("its boot came to {}", m.stage)),
        },
        None => "no packet of this boot was seen yet".to_owned(),
    };
    Ok(StepOutcome::Again { checkpoint: serde_json::Value::Null, after: LOOK_AGAIN, note })
}

/// What a step with an order remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct OrderMemory {
    task: Option<TaskId>,
    done: u64,
    total: u64,
}

/// Gives the order once, then follows it. The order's row, the attempt and the checkpoint that names it are written in
/// one transaction: after a crash the same order is followed, never a second one given. Should that order be gone all the
/// same, only a repeatable one is given anew; one that writes or wipes parks the run, since how far it came is not known.
async fn follow(context: &mut Context, order: impl FnOnce(&Context) -> Result<Given, StepError>) -> Result<Followed, StepError> {
    let mut memory: OrderMemory = serde_json::from_value(context.memory.data.clone()).unwrap_or_default();
    let store = context.engine.store.clone();
    let known = match memory.task {
        Some(id) => store.task(id).await?.filter(|t| t.state != TaskState::Withdrawn),
        None => None,
    };
    let task = match (known, memory.task, context.step.kind.hazard()) {
        (Some(task), _, _) => task,
        (None, Some(_), Hazard::Destructive) => {
            return Err(StepError::lasting(
                "order_lost",
                format!("the order that {} was given was withdrawn before it ended, so how far it came is not known", context.machine.name),
                "look at the agent's log, then retry, which does the step anew, or abort",
            ));
        }
        (None, None, Hazard::Destructive) | (None, _, Hazard::Repeatable | Hazard::Once) => {
            let given = order(context)?;
            let id = TaskId(clock::fresh_uuid());
            memory = OrderMemory { task: Some(id), ..OrderMemory::default() };
            give(context, id, &given, &memory).await?;
            return Ok(Followed::Again(again(&memory, "the order waits for the agent to take it")));
        }
    };
    if let Some(result) = task.result {
        return match result {
            TaskResult::Ok { evidence } => Ok(Followed::Done { evidence, order: task.order }),
            TaskResult::Failed { code, message, retry } => {
                // A new try gets a new order.
                context.memory.data = serde_json::Value::Null;
                let remedy = "look at the agent's log on the machine's page, then retry";
                Err(if retry { StepError::passing(code, message, remedy) } else { StepError::lasting(code, message, remedy) })
            }
        };
    }
    let heard = store.newest_agent_session(context.machine.id).await?.map(|s| s.last_seen_at);
    let silent = context.now.since(heard.unwrap_or(task.created_at).max(task.updated_at));
    if silent > AGENT_LOST {
        return Err(StepError::lasting(
            "agent_lost",
            format!("the agent of {} was last heard {} ago, in the middle of its work", context.machine.name, spoken(silent)),
            "look at the console and the power; retry boots the ramdisk again and starts the step anew",
        ));
    }
    memory.done = task.done;
    memory.total = task.total;
    Ok(Followed::Again(again(&memory, &progress_note(&task, context.now))))
}

/// An order to give, with the token by which the system it sets up will report in.
struct Given {
    order: Order,
    phone_token: Option<String>,
}

impl From<Order> for Given {
    fn from(order: Order) -> Self {
        Self { order, phone_token: None }
    }
}

enum Followed {
    Done { evidence: serde_json::Value, order: Order },
    Again(StepOutcome),
}

fn again(memory: &OrderMemory, note: &str) -> StepOutcome {
    StepOutcome::Again { checkpoint: json(memory), after: LOOK_AGAIN, note: note.to_owned() }
}

/// `write: 412 of 861 MB, about 30 s left`.
fn progress_note(task: &StoredTask, now: Timestamp) -> String {
    let phase = task.phase.as_deref().unwrap_or("");
    if task.total == 0 {
        return if phase.is_empty() { "the agent has the order".to_owned() } else { phase.to_owned() };
    }
    let mb = |bytes: u64| bytes / 1_000_000;
    let mut note = format!("{phase}: {} of {} MB", mb(task.done), mb(task.total));
    let elapsed = now.since(task.created_at);
    if task.done > task.total / 50 && task.done < task.total {
        let left = elapsed.as_secs_f64() * (task.total - task.done) as f64 / task.done as f64;
        note.push_str(&format!(", about {} left", spoken(Duration::from_secs_f64(left.min(1e7)))));
    }
    note
}

async fn give(context: &mut Context, id: TaskId, given: &Given, memory: &OrderMemory) -> Result<(), StepError> {
    let Given { order, phone_token } = given;
    context.step.attempts = context.step.attempts.saturating_add(1);
    context.memory.data = json(memory);
    context.step.checkpoint = json(&context.memory);
    let now = clock::now();
    let mut tx = context.engine.store.begin().await?;
    tx.begin_attempt(&context.step, now).await?;
    if let Order::WriteImage(write) = order {
        // Before the first byte can be written: from now on this disk counts as ours to wipe.
        tx.add_written_disk(context.machine.id, &write.disk).await?;
    }
    if let Some(token) = phone_token {
        tx.insert_phone_home(token, context.machine.id, context.run.id, now).await?;
    }
    tx.insert_task(id, context.machine.id, Some(context.step.id), order, now).await?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn take_inventory(context: &mut Context) -> Result<StepOutcome, StepError> {
    match follow(context, |_| Ok(Order::Inventory.into())).await? {
        Followed::Again(again) => Ok(again),
        Followed::Done { .. } => {
            let Some((inventory, at)) = context.engine.store.inventory(context.machine.id).await? else {
                return Err(StepError::passing("no_inventory", "the agent said it sent an inventory and none arrived", "retry"));
            };
            let note = format!(
                "{} disks, {} NICs, {} DIMMs, {} GiB memory",
                inventory.disks.len(),
                inventory.nics.len(),
                inventory.dimms.len(),
                inventory.memory_bytes >> 30
            );
            Ok(StepOutcome::Done { evidence: serde_json::json!({ "inventory_at": at }), note })
        }
    }
}

pub(super) async fn write_image(context: &mut Context) -> Result<StepOutcome, StepError> {
    let store = context.engine.store.clone();
    let Want::Deploy(spec) = context.machine.want.clone() else {
        return Err(StepError::lasting(
            "nothing_wanted",
            format!("no deployment of {} is wanted any more", context.machine.name),
            "abort the run",
        ));
    };
    let Some(image) = store.image(&spec.image).await? else {
        return Err(StepError::lasting(
            "image_unknown",
            format!("the image {} was removed meanwhile", spec.image),
            "import it again, then retry",
        ));
    };
    let planned = context.run.steps.iter().find(|s| s.kind == StepKind::CheckTarget).map(|s| s.evidence.clone()).unwrap_or_default();
    if planned.get("sha256").and_then(|v| v.as_str()) != Some(image.sha256.to_string().as_str()) {
        return Err(StepError::lasting(
            "image_changed",
            format!("the image {} was replaced since this deployment was checked", image.name),
            "abort, then deploy again",
        ));
    }
    let Some((inventory, _)) = store.inventory(context.machine.id).await? else {
        return Err(StepError::lasting("no_inventory", "no inventory is known".to_owned(), "abort the run"));
    };
    // The agent of this boot has sent a fresh inventory: the planned disk must still be there.
    let disk: DiskRef = match planned.get("disk").cloned().and_then(|d| serde_json::from_value(d).ok()) {
        Some(disk) => match choose_disk(&inventory, image.raw_size_bytes, Some(&disk)) {
            Choice::Disk(disk) => disk,
            Choice::None(why) => return Err(StepError::lasting("disk_not_found", why, "put the disk back, or abort and deploy again")),
        },
        None => return Err(StepError::lasting("no_plan", "the check of the target left no disk", "abort, then deploy again")),
    };
    let token = clock::fresh_token();
    let phone_url = format!("{}/phone-home/{token}", context.engine.settings.netboot_url);
    let seed = seed(context, &spec, &phone_url);
    let followed = follow(context, |c| {
        let order = Order::WriteImage(Box::new(WriteImage {
            path: format!("/boot/image/{}", image.sha256),
            format: image.format,
            size_bytes: image.size_bytes,
            sha256: image.sha256,
            raw_size_bytes: image.raw_size_bytes,
            raw_sha256: image.raw_sha256,
            disk: disk.clone(),
            grow: true,
            seed: Some(seed),
            firmware: inventory.firmware.kind.or(c.machine.firmware),
        }));
        Ok(Given { order, phone_token: Some(token) })
    })
    .await?;
    match followed {
        Followed::Again(again) => Ok(again),
        Followed::Done { evidence, .. } => Ok(StepOutcome::Done { evidence, note: format!("{} stands on {disk}, verified", image.name) }),
    }
}

/// The NoCloud seed. What the user gave passes through unread; ours goes into vendor-data.
fn seed(context: &Context, spec: &DeploySpec, phone_url: &str) -> Seed {
    let hostname = spec.hostname.as_ref().unwrap_or(&context.machine.name);
    // JSON strings are YAML strings: quoting is right for any text.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let keys: Vec<String> = spec.ssh_keys.iter().map(|k| format!("  - {}\n", quoted(k))).collect();
    let mut meta_data = format!("instance-id: {}\nlocal-hostname: {}\n", quoted(&context.run.id.to_string()), quoted(hostname.as_str()));
    if !keys.is_empty() {
        meta_data.push_str(&format!("public-keys:\n{}", keys.concat()));
    }
    let vendor_data = format!(
        "#cloud-config\nphone_home:\n  url: {}\n  post: [hostname, fqdn, instance_id, pub_key_ed25519]\n  tries: 10\n",
        quoted(phone_url)
    );
    Seed {
        meta_data,
        user_data: spec.user_data.clone().unwrap_or_else(|| "#cloud-config\n{}\n".to_owned()),
        vendor_data,
        network_config: spec.network_config.clone(),
    }
}

pub(super) async fn wipe_disks(context: &mut Context) -> Result<StepOutcome, StepError> {
    let store = context.engine.store.clone();
    let Some((inventory, _)) = store.inventory(context.machine.id).await? else {
        return Err(StepError::lasting("no_inventory", "no inventory is known, so the disks to wipe are not".to_owned(), "abort the run"));
    };
    let wanted = wipe::order(&inventory, &context.machine.written_disks, context.machine.name.as_str())
        .map_err(|wipe::Refusal { code, what, remedy }| StepError::lasting(code, what, remedy))?;
    if wanted.is_empty() {
        return Ok(StepOutcome::Done {
            evidence: serde_json::json!({ "disks": [] }),
            note: "the machine has no fixed disk; nothing was wiped".to_owned(),
        });
    }
    let disks = wanted.clone();
    let (evidence, order) = match follow(context, |_| Ok(Order::WipeDisks(WipeDisks { disks }).into())).await? {
        Followed::Again(again) => return Ok(again),
        Followed::Done { evidence, order } => (evidence, order),
    };
    // The order as it was given, and the machine as it is now: both must be covered.
    let Order::WipeDisks(WipeDisks { disks: ordered }) = order else {
        return Err(StepError::lasting("order_lost", "the order of this step was not a wipe", "retry, which does the step anew"));
    };
    if let Some(disk) = wanted.iter().find(|d| !ordered.iter().any(|o| o.means_same(d))) {
        context.memory.data = serde_json::Value::Null;
        return Err(StepError::passing(
            "disks_changed",
            format!("{disk} of {} came or changed while its disks were wiped, so it was not wiped", context.machine.name),
            "retry, which wipes all disks anew",
        ));
    }
    if let Err(why) = wipe::proven(&ordered, &evidence) {
        return Err(StepError::lasting(
            "wipe_not_proven",
            format!("the wipe of {} is not proven: {why}", context.machine.name),
            "build the ramdisk again (pxe/build) so that agent and service are of one version, then retry; until then its disks hold data",
        ));
    }
    Ok(StepOutcome::Done { evidence, note: format!("{} disks wiped and read back as zeros", ordered.len()) })
}
