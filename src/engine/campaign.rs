//! Firmware campaigns: asks `decide::campaign` what comes next, and brings one machine after the other to its baseline.
//!
//! Each machine of a campaign is a row with a lease and a fence, and each call here is one look at its BMC. That its file is being
//! sent is written before it is: a process that comes after a crash finds the row, and asks the BMC what it runs and which tasks it
//! keeps before anything is sent again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::Artifacts;
use crate::bmc::{Advice, BmcAccess, BmcError};
use crate::clock;
use crate::decide::bmc_identity;
use crate::decide::campaign::{self, Next};
use crate::domain::bmc_features::{FirmwareItem, FirmwareSource, TaskState};
use crate::domain::campaign::{Campaign, CampaignState, Target, TargetState};
use crate::domain::event::{NewEvent, Severity};
use crate::domain::id::EventId;
use crate::domain::machine::Machine;
use crate::domain::part::{Part, PartState};
use crate::domain::sensor::Health;
use crate::domain::time::Timestamp;
use crate::engine::Engine;
use crate::engine::steps::StepError;
use crate::store::StoreError;
use crate::store::campaigns::TargetClaim;

/// Longer than an upload to a slow BMC (1,800 s), so that no other replica looks meanwhile.
const LEASE: Duration = Duration::from_secs(2100);
/// Machines under way at the same time in one process: an upload keeps the file in memory.
const AT_ONCE: usize = 32;
/// Good readings of the wanted version in a row: a BMC that has just restarted answers, falls silent and answers again.
const PROOFS: u32 = 3;
/// Tries before anything was sent.
const TRIES: u32 = 3;

/// How often a machine under way is looked at, and campaigns are decided on.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    pub look: Duration,
    pub idle: Duration,
    /// After a send whose end is not known: how long the BMC is given to show a task or the version, before the send counts as lost.
    pub lost_after: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { look: Duration::from_secs(15), idle: Duration::from_secs(2), lost_after: Duration::from_secs(600) }
    }
}

/// The worker. Cheap to clone.
#[derive(Clone)]
pub struct Campaigner {
    engine: Engine,
    artifacts: Artifacts,
    rhythm: Rhythm,
    at_once: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// What one look led to: the machine's new state, and when it is looked at again.
enum Look {
    Again(Target),
    Over(Target),
}

impl Campaigner {
    pub fn new(engine: Engine, artifacts: Artifacts, rhythm: Rhythm) -> Self {
        Self { engine, artifacts, rhythm, at_once: Arc::new(Semaphore::new(AT_ONCE)), tasks: TaskTracker::new() }
    }

    /// Works until `stop`, then lets what is out with a BMC end.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(e) = self.tick(clock::now()).await {
                tracing::error!(error = &e as &dyn std::error::Error, "firmware campaigns could not be worked on; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self.rhythm.idle) => {}
            }
        }
        self.settle().await;
    }

    /// Decides on every running campaign and looks at the machines that are due.
    ///
    /// # Errors
    /// The store's.
    pub async fn tick(&self, now: Timestamp) -> Result<(), StoreError> {
        for campaign in self.engine.store.campaigns_in(CampaignState::Running).await? {
            match self.drive(campaign, now).await {
                // A person or another replica was faster: the next look sees it.
                Ok(()) | Err(StoreError::Conflict) => {}
                Err(e) => return Err(e),
            }
        }
        let free = u32::try_from(self.at_once.available_permits()).unwrap_or(0);
        if free == 0 {
            return Ok(());
        }
        for claim in self.engine.store.claim_due_targets(&self.engine.settings.owner, now, LEASE, free).await? {
            let Ok(permit) = Arc::clone(&self.at_once).acquire_owned().await else { break };
            let worker = self.clone();
            self.tasks.spawn(async move {
                match worker.look(claim).await {
                    Ok(()) | Err(StoreError::Conflict) => {}
                    Err(e) => {
                        tracing::error!(machine = %claim.machine, error = &e as &dyn std::error::Error, "a firmware update could not be recorded; its claim runs out and it is looked at again");
                    }
                }
                drop(permit);
            });
        }
        Ok(())
    }

    /// Waits until nothing is out with a BMC.
    pub async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    async fn drive(&self, mut campaign: Campaign, now: Timestamp) -> Result<(), StoreError> {
        let targets = self.engine.store.campaign_targets(campaign.id).await?;
        let decision = campaign::decide(&campaign, &targets, now);
        let from = campaign.state;
        let mut tx = self.engine.store.begin().await?;
        match decision.next {
            Next::Nothing if decision.why == campaign.why => return Ok(()),
            Next::Nothing => {}
            Next::Halt => campaign.state = CampaignState::Halted,
            Next::Finish => campaign.state = CampaignState::Done,
            Next::StartWave(wave) => {
                for target in targets.into_iter().filter(|t| t.wave == wave && t.state == TargetState::Waiting) {
                    let ready = Target { state: TargetState::Ready, note: "its turn has come".to_owned(), ..target };
                    tx.begin_target(campaign.id, &ready, now).await?;
                }
            }
        }
        campaign.why = decision.why;
        tx.update_campaign(&campaign, from).await?;
        if campaign.state != from {
            let severity = if campaign.state == CampaignState::Halted { Severity::Error } else { Severity::Info };
            let text = format!("The firmware campaign for {} {}: {}", campaign.baseline.model, campaign.baseline.component, campaign.why);
            let event = NewEvent { machine: None, run: None, kind: "campaign.state", severity, text, actor: "hostler".to_owned() };
            tx.insert_event(EventId(clock::fresh_uuid()), now, &event).await?;
        }
        tx.commit().await
    }

    /// One look at one machine.
    async fn look(&self, claim: TargetClaim) -> Result<(), StoreError> {
        let store = &self.engine.store;
        let (Some(target), Some(campaign)) = (store.campaign_target(&claim).await?, store.campaign(claim.campaign).await?) else {
            return Ok(());
        };
        let machine = store.machine(claim.machine).await?;
        let now = clock::now();
        let look = match machine {
            None => over(target, TargetState::Skipped, "the machine is not known any more", now),
            Some(machine) => self.advance(&claim, &campaign, &machine, target).await?,
        };
        let (target, due) = match look {
            Look::Again(target) => (target, Some(clock::now().plus(self.rhythm.look))),
            Look::Over(target) => (target, None),
        };
        let mut tx = store.begin().await?;
        tx.rest_target(&claim, &target, due).await?;
        if due.is_none() {
            let severity = if target.state == TargetState::Failed { Severity::Error } else { Severity::Info };
            let text = format!("Firmware {} {}: {}.", campaign.baseline.component, campaign.baseline.version, target.note);
            let kind = "campaign.machine";
            let event = NewEvent { machine: Some(claim.machine), run: None, kind, severity, text, actor: "hostler".to_owned() };
            tx.insert_event(EventId(clock::fresh_uuid()), clock::now(), &event).await?;
        }
        tx.commit().await
    }

    async fn advance(&self, claim: &TargetClaim, campaign: &Campaign, machine: &Machine, target: Target) -> Result<Look, StoreError> {
        let now = clock::now();
        if matches!(target.state, TargetState::Ready) {
            // Nothing was sent yet: a halt, a pause or a hold keeps it so.
            if campaign.state != CampaignState::Running {
                let waits = Target { state: TargetState::Ready, note: format!("the campaign is {}", campaign.state), ..target };
                return Ok(if campaign.state.is_over() {
                    over(waits, TargetState::Skipped, "the campaign ended before", now)
                } else {
                    Look::Again(waits)
                });
            }
            if let Some(hold) = &machine.hold {
                return Ok(over(target, TargetState::Skipped, &format!("{} holds it: {}", hold.owner, hold.reason), now));
            }
        }
        if target.is_late(&campaign.gate, now) {
            let waited = crate::domain::time::spoken(Duration::from_secs(campaign.gate.within_secs));
            let note = format!("{} does not show within {waited}; last: {}", campaign.baseline.version, target.note);
            return Ok(over(target, TargetState::Failed, &note, now));
        }
        let access = match &machine.bmc {
            Some(status) => match self.engine.bmc_access(machine.id, status).await {
                Ok(access) => access,
                Err(StepError::Store(e)) => return Err(e),
                Err(StepError::Fault { what, .. }) => return Ok(over(target, TargetState::Failed, &what, now)),
            },
            None => None,
        };
        let Some(access) = access else { return Ok(over(target, TargetState::Failed, "no BMC is known for it", now)) };
        match &target.state {
            TargetState::Ready => self.begin(claim, campaign, machine, &access, target).await,
            TargetState::Begun => {
                // Its answer, or our process, was lost: only the BMC can tell whether it took the file.
                match self.prove(campaign, machine, &access, target, 0).await {
                    Look::Again(target) if target.state == TargetState::Begun => Ok(self.find_task(machine, &access, target).await),
                    proven => Ok(proven),
                }
            }
            TargetState::Following { task } => {
                let task = task.clone();
                Ok(match self.engine.bmcs.task(machine.id, &access, &task).await.map(|a| a.value) {
                    Ok(TaskState::Running { percent, note }) => {
                        let share = percent.map(|p| format!("{p} %, ")).unwrap_or_default();
                        Look::Again(Target { note: format!("{share}{note}"), ..target })
                    }
                    Ok(TaskState::Failed { reason }) => over(target, TargetState::Failed, &format!("the BMC gave up: {reason}"), now),
                    Ok(TaskState::Done { .. } | TaskState::Lost) => Look::Again(Target {
                        state: TargetState::Proving { good: 0 },
                        note: "the BMC is done with it".to_owned(),
                        ..target
                    }),
                    // Away, as a BMC is that restarts into its new firmware.
                    Err(e) => Look::Again(Target { note: e.to_string(), ..target }),
                })
            }
            TargetState::Proving { good } => {
                let good = *good;
                Ok(self.prove(campaign, machine, &access, target, good).await)
            }
            TargetState::Waiting | TargetState::Done | TargetState::Failed | TargetState::Skipped => Ok(Look::Over(target)),
        }
    }

    async fn inventory(&self, machine: &Machine, access: &BmcAccess) -> Result<Vec<FirmwareItem>, BmcError> {
        Ok(self.engine.bmcs.firmware(machine.id, access).await?.value.items)
    }

    async fn ill_parts(&self, machine: &Machine, access: &BmcAccess) -> Result<u32, BmcError> {
        let parts = self.engine.bmcs.parts(machine.id, access).await?.value.items;
        Ok(u32::try_from(parts.iter().filter(|p| is_ill(p)).count()).unwrap_or(u32::MAX))
    }

    /// Everything that can be known before a file is sent, then the file.
    async fn begin(
        &self,
        claim: &TargetClaim,
        campaign: &Campaign,
        machine: &Machine,
        access: &BmcAccess,
        mut target: Target,
    ) -> Result<Look, StoreError> {
        let baseline = &campaign.baseline;
        let now = clock::now();
        let seen = async {
            let identity = self.engine.bmcs.identity(machine.id, access).await?.value;
            let tasks = match self.engine.bmcs.tasks(machine.id, access).await {
                Ok(answer) => answer.value.items,
                Err(BmcError::Unsupported { .. }) => Vec::new(),
                Err(e) => return Err(e),
            };
            Ok((identity, self.inventory(machine, access).await?, self.ill_parts(machine, access).await?, tasks))
        };
        let (identity, inventory, ill, tasks) = match seen.await {
            Ok(seen) => seen,
            Err(e) => return Ok(again_or_failed(target, &e, now)),
        };
        if let Err(why) = bmc_identity::fits(&identity, machine) {
            return Ok(over(target, TargetState::Failed, &format!("the BMC at {} {why}", access.address), now));
        }
        if identity.model.as_deref() != Some(baseline.model.as_str()) {
            let is = identity.model.unwrap_or_else(|| "of no model that it tells".to_owned());
            return Ok(over(
                target,
                TargetState::Failed,
                &format!("the file is for {} and this is {is}: it was not sent", baseline.model),
                now,
            ));
        }
        let Some(item) = campaign::item(baseline, &inventory) else {
            let note = format!("its BMC lists no component {}: the file was not sent", baseline.component);
            return Ok(over(target, TargetState::Failed, &note, now));
        };
        if item.version.as_deref() == Some(baseline.version.as_str()) {
            return Ok(over(target, TargetState::Skipped, "it runs that version already", now));
        }
        if let Err(e) = self.artifacts.verify(&baseline.sha256).await {
            return Ok(over(target, TargetState::Failed, &format!("the file was not sent: {e}"), now));
        }
        if let Some(other) = tasks.iter().find(|t| matches!(t.state, TaskState::Running { .. })) {
            return Ok(Look::Again(Target { note: format!("its BMC is busy with {}", other.source), ..target }));
        }
        (target.version_before, target.ill_before) = (item.version.clone(), ill);
        target.tasks_before = tasks.into_iter().map(|t| t.source).collect();
        target.state = TargetState::Begun;
        target.begun_at = Some(now);
        target.note = "the file is being sent".to_owned();
        // Written under the fence, before the BMC sees a byte.
        let mut tx = self.engine.store.begin().await?;
        tx.keep_target(claim, &target).await?;
        tx.commit().await?;
        let source = FirmwareSource::File { path: self.artifacts.path_of(&baseline.sha256), name: baseline.file_name.clone() };
        Ok(match self.engine.bmcs.start_firmware_update(machine.id, access, &source, &[]).await.map(|a| a.value) {
            Ok(begun) => {
                let state = begun.task.map_or(TargetState::Proving { good: 0 }, |task| TargetState::Following { task });
                Look::Again(Target { state, note: begun.note, ..target })
            }
            Err(e) if e.may_have_acted() => Look::Again(Target { note: e.to_string(), ..target }),
            // It said no: nothing is on its way.
            Err(e) => again_or_failed(Target { state: TargetState::Ready, begun_at: None, ..target }, &e, clock::now()),
        })
    }

    /// What became of a file whose sending was cut off, by the BMC's own tasks. Only a BMC that lists its tasks, has none that is
    /// not known from before, and runs the old version after all that time, has not got it: then it is sent again.
    async fn find_task(&self, machine: &Machine, access: &BmcAccess, target: Target) -> Look {
        let now = clock::now();
        let tasks = match self.engine.bmcs.tasks(machine.id, access).await {
            Ok(answer) if answer.value.unread.is_empty() => answer.value.items,
            // Not known is not "none".
            Ok(_) => return Look::Again(Target { note: "its BMC's tasks cannot be read completely".to_owned(), ..target }),
            Err(e) => return Look::Again(Target { note: e.to_string(), ..target }),
        };
        if let Some(running) = tasks.iter().find(|t| matches!(t.state, TaskState::Running { .. })) {
            let note = format!("the BMC had taken the file: {}", running.source);
            return Look::Again(Target { state: TargetState::Following { task: running.source.clone() }, note, ..target });
        }
        if let Some(ended) = tasks.iter().find(|t| !target.tasks_before.contains(&t.source)) {
            return match &ended.state {
                TaskState::Failed { reason } => over(target, TargetState::Failed, &format!("the BMC gave up: {reason}"), now),
                TaskState::Done { .. } | TaskState::Lost | TaskState::Running { .. } => {
                    Look::Again(Target { state: TargetState::Proving { good: 0 }, note: "the BMC had taken the file".to_owned(), ..target })
                }
            };
        }
        if target.begun_at.is_none_or(|at| now.since(at) < self.rhythm.lost_after) {
            return Look::Again(Target { note: "whether the BMC took the file is not known; looking for its task".to_owned(), ..target });
        }
        let tries = target.tries + 1;
        if tries >= TRIES {
            return over(Target { tries, ..target }, TargetState::Failed, "the file never came to its BMC", now);
        }
        let note = "the file never came: its BMC has no task of it and runs the old version; it is sent again".to_owned();
        Look::Again(Target { state: TargetState::Ready, begun_at: None, tries, note, ..target })
    }

    /// The wanted version, read several times in a row, and no part worse than before.
    async fn prove(&self, campaign: &Campaign, machine: &Machine, access: &BmcAccess, target: Target, good: u32) -> Look {
        let now = clock::now();
        let proving = |good, note: String, target: Target| {
            // Without a task the row keeps saying that the file was sent and nothing more.
            let state = if target.state == TargetState::Begun && good == 0 { TargetState::Begun } else { TargetState::Proving { good } };
            Look::Again(Target { state, note, ..target })
        };
        let inventory = match self.inventory(machine, access).await {
            Ok(inventory) => inventory,
            Err(e) => return proving(0, e.to_string(), target),
        };
        let wanted = &campaign.baseline.version;
        let runs = campaign::item(&campaign.baseline, &inventory).and_then(|i| i.version.clone());
        if runs.as_ref() != Some(wanted) {
            return proving(0, format!("it runs {} and not {wanted} yet", runs.as_deref().unwrap_or("no version that it tells")), target);
        }
        if good + 1 < PROOFS {
            return proving(good + 1, format!("it runs {wanted}; read {} of {PROOFS} times", good + 1), target);
        }
        match self.ill_parts(machine, access).await {
            Err(e) => proving(good, e.to_string(), target),
            Ok(ill) if ill > target.ill_before => {
                let note = format!("it runs {wanted}, and {ill} parts are not well where {} were not before", target.ill_before);
                over(target, TargetState::Failed, &note, now)
            }
            Ok(_) => over(target, TargetState::Done, &format!("it runs {wanted}, read {PROOFS} times"), now),
        }
    }
}

fn is_ill(part: &Part) -> bool {
    part.state != PartState::Absent && part.health.is_some_and(|h| h != Health::Ok)
}

fn over(target: Target, state: TargetState, note: &str, now: Timestamp) -> Look {
    Look::Over(Target { state, note: note.to_owned(), ended_at: Some(now), ..target })
}

/// Nothing was sent: passing trouble is tried again, some times.
fn again_or_failed(target: Target, e: &BmcError, now: Timestamp) -> Look {
    let tries = target.tries + 1;
    if e.advice() == Advice::Stop || tries >= TRIES {
        return over(Target { tries, ..target }, TargetState::Failed, &format!("the file was not sent: {e}"), now);
    }
    Look::Again(Target { tries, note: e.to_string(), ..target })
}
