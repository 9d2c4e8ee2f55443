//! What people and programs are shown of machines, runs and boots. The API's JSON and the pages are made of these alike.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::{App, Result};
use crate::clock;
use crate::decide::{access, boot_timeline, workflow};
use crate::domain::bmc::{BmcAddress, BmcIdentity, BmcProtocol, BmcStatus};
use crate::domain::boot::{Arch, Boot, BootStage, ClientArch};
use crate::domain::event::{Event, Severity};
use crate::domain::id::{BootId, EventId, Mac, MachineId, Name, RunId, Serial, Sha256, StepId, SystemUuid};
use crate::domain::inventory::{DiskRef, Inventory};
use crate::domain::machine::{BootIntent, Fault, Hardware, Hold, Lifecycle, Machine, Verb, Want};
use crate::domain::place::Place;
use crate::domain::power::{FirmwareKind, PowerState};
use crate::domain::time::Timestamp;
use crate::domain::work::{Progress, Run, RunKind, RunState, Step, StepKind, StepState};
use crate::store::work::Usual;

/// How long the usual durations of steps are kept before they are read again.
const USUAL_FRESH: Duration = Duration::from_secs(30);

/// What a machine does now, for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StateView {
    /// A whole sentence: what it does or waits for.
    pub sentence: String,
    pub since: Timestamp,
    /// How long this usually takes (the middle of past durations).
    pub usual_secs: Option<u64>,
    /// By itself it gives up at this time.
    pub gives_up_at: Option<Timestamp>,
    /// What happens next by itself, or what a person can do.
    pub next: String,
}

/// How far something came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProgressView {
    pub done: u64,
    pub total: u64,
    pub percent: u8,
    pub eta_secs: Option<u64>,
}

/// Whether a verb is possible now, and why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VerbView {
    pub verb: Verb,
    pub allowed: bool,
    pub reason: Option<String>,
    pub hint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    pub id: StepId,
    pub index: u32,
    pub kind: StepKind,
    pub state: StepState,
    /// What it waits for: the middle of the sentence "Waiting for …".
    pub waits_for: String,
    pub attempts: u32,
    /// The sentence of this moment.
    pub note: String,
    pub progress: Option<ProgressView>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub gives_up_at: Option<Timestamp>,
    pub usual_secs: Option<u64>,
    /// What proved it done, or its error.
    #[schema(value_type = Object)]
    pub evidence: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    pub id: RunId,
    pub machine: MachineId,
    pub kind: RunKind,
    pub state: RunState,
    pub actor: String,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub percent: u8,
    /// Sum of the usual durations of what is left.
    pub eta_secs: Option<u64>,
    /// Some of those durations are shipped figures: this installation has no history of them yet.
    pub eta_estimated: bool,
    pub steps: Vec<StepView>,
}

/// The run of a list row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunBrief {
    pub id: RunId,
    pub kind: RunKind,
    pub state: RunState,
    pub step: Option<StepKind>,
    pub step_number: u32,
    pub steps: u32,
    pub percent: u8,
    pub eta_secs: Option<u64>,
    /// As in the whole run.
    pub eta_estimated: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BmcView {
    pub address: BmcAddress,
    pub user: String,
    pub protocol: Option<BmcProtocol>,
    pub identity: BmcIdentity,
    pub power: Option<PowerState>,
    pub power_seen_at: Option<Timestamp>,
    pub last_ok_at: Option<Timestamp>,
    pub fault: Option<String>,
    /// Failed logins in a row; we stop asking before the BMC locks the account.
    pub auth_failures: u32,
    pub paused_until: Option<Timestamp>,
    /// SHA-256 of the certificate's public key pinned at first contact.
    pub tls_pin: Option<Sha256>,
}

impl From<BmcStatus> for BmcView {
    fn from(b: BmcStatus) -> Self {
        Self {
            address: b.address,
            user: b.user,
            protocol: b.protocol,
            identity: b.identity,
            power: b.power,
            power_seen_at: b.power_seen_at,
            last_ok_at: b.last_ok_at,
            fault: b.fault,
            auth_failures: b.auth_failures,
            paused_until: b.paused_until,
            tls_pin: b.tls_pin,
        }
    }
}

/// One row of a machine list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MachineView {
    pub id: MachineId,
    pub name: Name,
    pub lifecycle: Lifecycle,
    pub lifecycle_since: Timestamp,
    pub state: StateView,
    pub place: Option<Place>,
    pub serial: Option<Serial>,
    pub uuid: Option<SystemUuid>,
    pub macs: Vec<Mac>,
    pub arch: Option<Arch>,
    pub firmware: Option<FirmwareKind>,
    pub power: Option<PowerState>,
    pub bmc_address: Option<BmcAddress>,
    /// The last failure of its BMC as a sentence; absent after the next success.
    pub bmc_fault: Option<String>,
    pub hardware: Option<Hardware>,
    pub image: Option<Name>,
    /// What a person wants of it: `nothing`, `enroll`, `deploy` or `release`.
    pub want: String,
    pub boot_intent: Option<BootIntent>,
    /// Announced by a packing list, not yet seen.
    pub expected_only: bool,
    pub fault: Option<Fault>,
    pub hold: Option<Hold>,
    pub run: Option<RunBrief>,
    pub verbs: Vec<VerbView>,
    pub created_at: Timestamp,
    pub first_seen_at: Option<Timestamp>,
    pub last_seen_at: Option<Timestamp>,
    pub accepted_at: Option<Timestamp>,
    /// The last decision about it, in a sentence.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MarkView {
    pub stage: BootStage,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub count: u32,
    pub note: String,
}

/// One boot, from its first packet on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BootView {
    pub id: BootId,
    pub machine: Option<MachineId>,
    pub mac: Mac,
    pub client: Option<ClientArch>,
    pub started_at: Timestamp,
    pub last_at: Timestamp,
    pub marks: Vec<MarkView>,
    /// Where it stopped or what made it slow, and what that usually means; absent while it goes well.
    pub diagnosis: Option<DiagnosisView>,
    /// Its parts that are over, with how long each took.
    pub phases: Vec<PhaseView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiagnosisView {
    pub severity: Severity,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PhaseView {
    /// For example `firmware`, `iPXE`, `kernel`.
    pub name: String,
    pub secs: f64,
}

impl BootView {
    pub fn of(boot: Boot, now: Timestamp) -> Self {
        let diagnosis = boot_timeline::diagnose(&boot, now).map(|d| DiagnosisView { severity: d.severity, text: d.text });
        let phases = boot_timeline::phases(&boot, None);
        Self {
            diagnosis,
            phases: phases.into_iter().map(|p| PhaseView { name: p.name.to_owned(), secs: p.took.as_secs_f64() }).collect(),
            id: boot.id,
            machine: boot.machine,
            mac: boot.mac,
            client: boot.client,
            started_at: boot.started_at,
            last_at: boot.last_at,
            marks: boot
                .marks
                .into_iter()
                .map(|m| MarkView { stage: m.stage, first_at: m.first_at, last_at: m.last_at, count: m.count, note: m.note })
                .collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    pub id: EventId,
    pub at: Timestamp,
    pub machine: Option<MachineId>,
    pub run: Option<RunId>,
    pub kind: String,
    pub severity: Severity,
    pub text: String,
    pub actor: String,
}

impl From<Event> for EventView {
    fn from(e: Event) -> Self {
        Self { id: e.id, at: e.at, machine: e.machine, run: e.run, kind: e.kind, severity: e.severity, text: e.text, actor: e.actor }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLineView {
    pub at: Timestamp,
    /// Seconds since the ramdisk's kernel started.
    pub uptime_secs: f64,
    pub level: String,
    pub text: String,
}

/// Everything about one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MachineDetail {
    #[serde(flatten)]
    pub machine: MachineView,
    pub bmc: Option<BmcView>,
    pub current_run: Option<RunView>,
    /// The newest runs, newest first, the current one included.
    pub runs: Vec<RunView>,
    /// The newest boots, newest first.
    pub boots: Vec<BootView>,
    /// The newest events, oldest first.
    pub events: Vec<EventView>,
    /// The newest lines of the agent's log, oldest first.
    pub agent_log: Vec<LogLineView>,
    pub inventory: Option<Inventory>,
    pub inventory_at: Option<Timestamp>,
    /// Disks that Hostler wrote to since the last proven wipe.
    pub written_disks: Vec<DiskRef>,
}

/// Usual durations by kind of step, read at most every half minute.
#[derive(Default)]
pub(crate) struct UsualCache(Mutex<Option<(Timestamp, HashMap<StepKind, Usual>)>>);

/// What a view needs beside the rows.
pub(crate) struct Lens {
    pub usual: HashMap<StepKind, Usual>,
    pub now: Timestamp,
}

impl App {
    pub(crate) async fn lens(&self) -> Result<Lens> {
        let now = clock::now();
        {
            let cache = self.inner.usual.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some((at, usual)) = &*cache
                && now.since(*at) < USUAL_FRESH
            {
                return Ok(Lens { usual: usual.clone(), now });
            }
        }
        let mut usual = HashMap::new();
        for kind in [
            StepKind::ContactBmc,
            StepKind::CheckTarget,
            StepKind::BootRamdisk,
            StepKind::WaitAgent,
            StepKind::Inventory,
            StepKind::WriteImage,
            StepKind::BootDisk,
            StepKind::WaitSystem,
            StepKind::WipeDisks,
            StepKind::PowerOff,
        ] {
            if let Some(found) = self.store().usual(kind).await? {
                usual.insert(kind, found);
            }
        }
        *self.inner.usual.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((now, usual.clone()));
        Ok(Lens { usual, now })
    }
}

/// What a step usually takes before this installation has its own history. From runs on a lab rack of virtual machines
/// and from the POST times of common servers; shown as an estimate, replaced by measured medians as they come in.
pub fn shipped_usual(kind: StepKind) -> Duration {
    Duration::from_secs(match kind {
        StepKind::ContactBmc => 5,
        StepKind::CheckTarget => 1,
        StepKind::BootRamdisk => 20,
        StepKind::WaitAgent => 180,
        StepKind::Inventory => 5,
        StepKind::WriteImage => 90,
        StepKind::BootDisk => 5,
        StepKind::WaitSystem => 180,
        StepKind::WipeDisks => 1800,
        StepKind::PowerOff => 15,
    })
}

impl Lens {
    fn usual_secs(&self, kind: StepKind) -> Option<u64> {
        self.usual.get(&kind).map(|u| u.median.as_secs())
    }

    pub fn progress(&self, progress: Progress, started: Option<Timestamp>) -> ProgressView {
        let percent = percent(progress.done, progress.total);
        let elapsed = started.map(|s| self.now.since(s).as_secs());
        let eta_secs = elapsed.filter(|_| progress.done > 0 && progress.total >= progress.done).and_then(|secs| {
            let left = u128::from(progress.total - progress.done) * u128::from(secs) / u128::from(progress.done);
            u64::try_from(left).ok()
        });
        ProgressView { done: progress.done, total: progress.total, percent, eta_secs }
    }

    pub fn step(&self, step: &Step) -> StepView {
        let running = step.state == StepState::Running;
        StepView {
            id: step.id,
            index: step.index,
            kind: step.kind,
            state: step.state,
            waits_for: step.kind.waits_for().to_owned(),
            attempts: step.attempts,
            note: step.note.clone(),
            progress: step.progress.map(|p| self.progress(p, step.started_at.filter(|_| running))),
            started_at: step.started_at,
            ended_at: step.ended_at,
            gives_up_at: step.deadline_at.filter(|_| running),
            usual_secs: self.usual_secs(step.kind),
            evidence: step.evidence.clone(),
        }
    }

    pub fn run(&self, run: &Run) -> RunView {
        RunView {
            id: run.id,
            machine: run.machine,
            kind: run.kind,
            state: run.state,
            actor: run.actor.clone(),
            started_at: run.started_at,
            ended_at: run.ended_at,
            percent: run_percent(run),
            eta_secs: self.eta(run),
            eta_estimated: self.is_estimated(run),
            steps: run.steps.iter().map(|s| self.step(s)).collect(),
        }
    }

    fn brief(&self, run: &Run) -> RunBrief {
        let current = run.current_step();
        let steps = u32::try_from(run.steps.len()).unwrap_or(u32::MAX);
        RunBrief {
            id: run.id,
            kind: run.kind,
            state: run.state,
            step: current.map(|s| s.kind),
            step_number: current.map_or(steps, |s| s.index + 1),
            steps,
            percent: run_percent(run),
            eta_secs: self.eta(run),
            eta_estimated: self.is_estimated(run),
        }
    }

    /// Usual durations of what is left; a running step counts for what is left of it.
    fn eta(&self, run: &Run) -> Option<u64> {
        if run.state != RunState::Running {
            return None;
        }
        let mut sum = 0;
        for step in &run.steps {
            sum += match step.state {
                StepState::Done | StepState::Skipped => 0,
                StepState::Pending | StepState::Failed => self.usual_or_shipped(step.kind),
                StepState::Running => {
                    let by_progress = step.progress.and_then(|p| self.progress(p, step.started_at).eta_secs);
                    let spent = step.started_at.map_or(0, |s| self.now.since(s).as_secs());
                    by_progress.unwrap_or_else(|| self.usual_or_shipped(step.kind).saturating_sub(spent))
                }
            };
        }
        Some(sum)
    }

    fn usual_or_shipped(&self, kind: StepKind) -> u64 {
        self.usual_secs(kind).unwrap_or_else(|| shipped_usual(kind).as_secs())
    }

    fn is_estimated(&self, run: &Run) -> bool {
        run.steps.iter().any(|s| matches!(s.state, StepState::Pending | StepState::Running) && self.usual_secs(s.kind).is_none())
    }

    pub fn machine(&self, m: &Machine, run: Option<&Run>) -> MachineView {
        MachineView {
            id: m.id,
            name: m.name.clone(),
            lifecycle: m.lifecycle,
            lifecycle_since: m.lifecycle_since,
            state: self.state(m, run),
            place: m.place.clone(),
            serial: m.serial.clone(),
            uuid: m.uuid,
            macs: m.macs.clone(),
            arch: m.arch,
            firmware: m.firmware,
            power: m.bmc.as_ref().and_then(|b| b.power),
            bmc_address: m.bmc.as_ref().map(|b| b.address.clone()),
            bmc_fault: m.bmc.as_ref().and_then(|b| b.fault.clone()),
            hardware: m.hardware.clone(),
            image: m.image.clone(),
            want: want_word(&m.want).to_owned(),
            boot_intent: m.boot_intent,
            expected_only: m.is_expected_only(),
            fault: m.fault.clone(),
            hold: m.hold.clone(),
            run: run.map(|r| self.brief(r)),
            verbs: Verb::ALL.into_iter().map(|v| verb_view(m, run, v)).collect(),
            created_at: m.created_at,
            first_seen_at: m.first_seen_at,
            last_seen_at: m.last_seen_at,
            accepted_at: m.accepted_at,
            why: m.why.clone(),
        }
    }

    fn state(&self, m: &Machine, run: Option<&Run>) -> StateView {
        let working = run.filter(|r| r.state == RunState::Running);
        if let Some(run) = working
            && let Some(step) = run.current_step()
        {
            let usual = self.usual.get(&step.kind).map(|u| (u.median, u.p90));
            let next = run.steps.iter().find(|s| s.index > step.index).map(|s| s.kind);
            return StateView {
                sentence: workflow::state_sentence(step, usual, next, self.now),
                since: step.started_at.unwrap_or(run.started_at),
                usual_secs: self.usual_secs(step.kind),
                gives_up_at: step.deadline_at.filter(|_| step.state == StepState::Running),
                next: match next {
                    Some(kind) => format!("Then, by itself: {}.", kind.waits_for()),
                    None => "Then the run is done.".to_owned(),
                },
            };
        }
        // No step works: the pure decision says why, freshly.
        let decision = workflow::decide(&workflow::Facts { machine: m, run, now: self.now });
        let next = match (&decision.next, run.map(|r| r.state), m.lifecycle) {
            (workflow::Next::Nothing, Some(RunState::Failed), _) => "Nothing by itself: retry, abort or forget it.".to_owned(),
            (workflow::Next::Nothing, _, Lifecycle::Discovered) => format!("Nothing by itself: hostler machine accept {}", m.name),
            (workflow::Next::Nothing, _, Lifecycle::Ready) => format!("Nothing by itself: hostler machine deploy {} --image NAME", m.name),
            (workflow::Next::Nothing, _, _) => "Nothing by itself.".to_owned(),
            (_, _, _) => "Goes on at once.".to_owned(),
        };
        StateView { sentence: decision.why, since: m.lifecycle_since, usual_secs: None, gives_up_at: None, next }
    }
}

pub(crate) fn verb_view(m: &Machine, run: Option<&Run>, verb: Verb) -> VerbView {
    match access::can(m, run, verb) {
        Ok(()) => VerbView { verb, allowed: true, reason: None, hint: None },
        Err(reason) => VerbView { verb, allowed: false, reason: Some(reason.why), hint: Some(reason.hint) },
    }
}

fn want_word(want: &Want) -> &'static str {
    match want {
        Want::Nothing => "nothing",
        Want::Enroll => "enroll",
        Want::Deploy(_) => "deploy",
        Want::Release => "release",
    }
}

fn percent(done: u64, total: u64) -> u8 {
    if total == 0 {
        return 0;
    }
    u8::try_from(u128::from(done.min(total)) * 100 / u128::from(total)).unwrap_or(100)
}

/// Steps done, the running one by its progress.
fn run_percent(run: &Run) -> u8 {
    let total = u64::try_from(run.steps.len()).unwrap_or(u64::MAX).saturating_mul(100);
    let done = run.steps.iter().map(|s| match s.state {
        StepState::Done | StepState::Skipped => 100,
        StepState::Running => s.progress.map_or(0, |p| u64::from(percent(p.done, p.total))),
        StepState::Pending | StepState::Failed => 0,
    });
    percent(done.sum(), total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_never_leaves_its_range() {
        assert_eq!((percent(0, 0), percent(5, 10), percent(20, 10), percent(u64::MAX, u64::MAX)), (0, 50, 100, 100));
    }

    #[test]
    fn what_is_left_is_told_from_what_was_done() {
        let lens = Lens { usual: HashMap::new(), now: Timestamp(30_000_000) };
        let view = lens.progress(Progress { done: 25, total: 100 }, Some(Timestamp(0)));
        assert_eq!((view.percent, view.eta_secs), (25, Some(90)));
        assert_eq!(lens.progress(Progress { done: 0, total: 100 }, Some(Timestamp(0))).eta_secs, None);
    }
}
