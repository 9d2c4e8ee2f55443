//! What happens next to a machine. Pure: facts in, decision out, always with a sentence that says why.

use crate::domain::machine::{BootIntent, Fault, Lifecycle, Machine, Want};
use crate::domain::time::{Timestamp, spoken};
use crate::domain::work::{Run, RunKind, RunState, Step, StepKind, StepState};

/// Everything a decision may look at.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub machine: &'a Machine,
    /// The machine's current run.
    pub run: Option<&'a Run>,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Nothing,
    /// Start a run; the machine enters `lifecycle`.
    StartRun {
        kind: RunKind,
        lifecycle: Lifecycle,
    },
    /// Start this pending step of the current run.
    StartStep {
        index: u32,
        intent: IntentChange,
    },
    /// Every step is done: the machine enters `lifecycle`, what was wanted is fulfilled.
    FinishRun {
        lifecycle: Lifecycle,
    },
    /// The current step failed for good, or its deadline passed.
    FailRun {
        fault: Fault,
    },
}

/// What starting a step does to where a network boot of the machine leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntentChange {
    Keep,
    Set(BootIntent),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub next: Next,
    /// Decide again at this moment even if nothing happens.
    pub wake_at: Option<Timestamp>,
    pub why: String,
}

/// The steps of a run, in order. Each begins with the BMC: before anything is switched or booted through it, it must still
/// be that of this machine.
pub fn recipe(kind: RunKind) -> &'static [StepKind] {
    match kind {
        RunKind::Enroll => &[StepKind::ContactBmc, StepKind::BootRamdisk, StepKind::WaitAgent, StepKind::Inventory, StepKind::PowerOff],
        RunKind::Deploy => &[
            StepKind::ContactBmc,
            StepKind::CheckTarget,
            StepKind::BootRamdisk,
            StepKind::WaitAgent,
            StepKind::WriteImage,
            StepKind::BootDisk,
            StepKind::WaitSystem,
        ],
        RunKind::Release => &[StepKind::ContactBmc, StepKind::BootRamdisk, StepKind::WaitAgent, StepKind::WipeDisks, StepKind::PowerOff],
    }
}

/// Where a finished run leaves the machine.
fn after(kind: RunKind) -> Lifecycle {
    match kind {
        RunKind::Enroll | RunKind::Release => Lifecycle::Ready,
        RunKind::Deploy => Lifecycle::Active,
    }
}

/// Where a network boot should lead while a step of this kind and those after it run.
fn boot_intent(kind: StepKind) -> IntentChange {
    match kind {
        StepKind::BootRamdisk => IntentChange::Set(BootIntent::Ramdisk),
        StepKind::BootDisk => IntentChange::Set(BootIntent::LocalDisk),
        StepKind::ContactBmc
        | StepKind::CheckTarget
        | StepKind::WaitAgent
        | StepKind::Inventory
        | StepKind::WriteImage
        | StepKind::WaitSystem
        | StepKind::WipeDisks
        | StepKind::PowerOff => IntentChange::Keep,
    }
}

/// Decides the next move of one machine.
pub fn decide(facts: &Facts<'_>) -> Decision {
    match facts.run {
        Some(run) => match run.state {
            RunState::Running => drive(facts, run),
            RunState::Failed => {
                let why = match &facts.machine.fault {
                    Some(fault) => format!("Stopped: {}. {}", fault.what, capitalised(&fault.remedy)),
                    None => format!("The {} run failed; retry, abort or forget.", run.kind),
                };
                rest(why)
            }
            RunState::Done | RunState::Aborted => without_run(facts),
        },
        None => without_run(facts),
    }
}

fn rest(why: impl Into<String>) -> Decision {
    Decision { next: Next::Nothing, wake_at: None, why: why.into() }
}

fn without_run(facts: &Facts<'_>) -> Decision {
    let m = facts.machine;
    if let Some(hold) = &m.hold {
        return rest(format!("Held by {}: {}.", hold.owner, hold.reason));
    }
    let start = |kind: RunKind, lifecycle: Lifecycle, why: &str| Decision {
        next: Next::StartRun { kind, lifecycle },
        wake_at: None,
        why: why.to_owned(),
    };
    match (&m.want, m.lifecycle) {
        (Want::Enroll, Lifecycle::Discovered) => start(RunKind::Enroll, Lifecycle::Enrolling, "Accepted: its inventory is taken next."),
        (Want::Deploy(spec), Lifecycle::Ready) => {
            start(RunKind::Deploy, Lifecycle::Deploying, &format!("Deployment of {} was asked for.", spec.image))
        }
        (Want::Release, Lifecycle::Active | Lifecycle::Quarantined | Lifecycle::Deploying) => {
            start(RunKind::Release, Lifecycle::Releasing, "Release was asked for: its disks are wiped next.")
        }
        (Want::Nothing, Lifecycle::Discovered) if m.is_expected_only() => {
            rest("On a packing list; no packet and no agent of it was seen yet. Power it on with network boot.")
        }
        (Want::Nothing, Lifecycle::Discovered) => rest("Waits to be accepted. Nothing is written to its disks before that."),
        (Want::Nothing, Lifecycle::Ready) => rest("Ready to be deployed."),
        (Want::Nothing, Lifecycle::Active) => match &m.image {
            Some(image) => rest(format!("Runs {image}.")),
            None => rest("Runs its system."),
        },
        (Want::Nothing, Lifecycle::Quarantined) => match &m.fault {
            Some(fault) => rest(format!("Out of use: {}. {}", fault.what, capitalised(&fault.remedy))),
            None => rest("Out of use until a person decides."),
        },
        (Want::Nothing, Lifecycle::Retired) => rest("Retired."),
        (
            Want::Nothing,
            state @ (Lifecycle::Enrolling | Lifecycle::Deploying | Lifecycle::Releasing | Lifecycle::Repairing | Lifecycle::Retiring),
        ) => rest(format!("It is {state} without a run; release or forget it.")),
        (Want::Enroll | Want::Deploy(_) | Want::Release, state) => {
            rest(format!("What is wanted does not fit a machine that is {state}; nothing is done."))
        }
    }
}

fn drive(facts: &Facts<'_>, run: &Run) -> Decision {
    let Some(step) = run.current_step() else {
        let lifecycle = after(run.kind);
        return Decision { next: Next::FinishRun { lifecycle }, wake_at: None, why: format!("The {} run is done: {lifecycle}.", run.kind) };
    };
    match step.state {
        StepState::Pending => Decision {
            next: Next::StartStep { index: step.index, intent: boot_intent(step.kind) },
            wake_at: None,
            why: format!("Starts {}: {}.", step.kind, step.kind.waits_for()),
        },
        StepState::Running => match step.deadline_at {
            Some(deadline) if deadline <= facts.now => {
                let fault = overdue(facts, run, step);
                Decision { why: fault.what.clone(), next: Next::FailRun { fault }, wake_at: None }
            }
            deadline => Decision { next: Next::Nothing, wake_at: deadline, why: format!("Waiting for {}.", step.kind.waits_for()) },
        },
        StepState::Failed => {
            let fault = fault_of(facts, run, step);
            Decision { why: fault.what.clone(), next: Next::FailRun { fault }, wake_at: None }
        }
        // `current_step` never returns these; treat them as done.
        StepState::Done | StepState::Skipped => rest("The step is done."),
    }
}

fn overdue(facts: &Facts<'_>, run: &Run, step: &Step) -> Fault {
    let note = if step.note.is_empty() { String::new() } else { format!(" Last seen: {}", step.note) };
    Fault {
        code: format!("{}_overdue", step.kind),
        what: format!(
            "{} waited {} for {}, which is its limit.{note}",
            facts.machine.name,
            spoken(step.kind.deadline()),
            step.kind.waits_for()
        ),
        remedy: remedy_when_overdue(step.kind).to_owned(),
        at: facts.now,
        run: Some(run.id),
    }
}

fn remedy_when_overdue(kind: StepKind) -> &'static str {
    match kind {
        StepKind::ContactBmc => "check the BMC's address, cable and login, then retry",
        StepKind::BootRamdisk | StepKind::WaitAgent => {
            "look at the boot timeline and the console: cable, switch port, boot order, another DHCP server; then retry"
        }
        StepKind::CheckTarget => "choose another image or disk, then retry",
        StepKind::Inventory | StepKind::WriteImage | StepKind::WipeDisks => {
            "look at the agent's log; restart the machine into the ramdisk with retry"
        }
        StepKind::BootDisk => "restart the machine by hand from its disk, or retry",
        StepKind::WaitSystem => {
            "look at the console: boot order, boot loader, network and cloud-init of the deployed system; then retry, or release it"
        }
        StepKind::PowerOff => "power the machine off by hand, then retry",
    }
}

/// The fault that `engine` wrote into the evidence of a failed step.
fn fault_of(facts: &Facts<'_>, run: &Run, step: &Step) -> Fault {
    let text = |key: &str| step.evidence.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    Fault {
        code: text("code").unwrap_or_else(|| format!("{}_failed", step.kind)),
        what: text("what").unwrap_or_else(|| step.note.clone()),
        remedy: text("remedy").unwrap_or_else(|| remedy_when_overdue(step.kind).to_owned()),
        at: facts.now,
        run: Some(run.id),
    }
}

/// Where a failed or stuck run goes on after `retry`: at the step that failed, or, if that step needs an agent that is
/// not there any more, at the boot into the ramdisk before it.
pub fn resume_from(run: &Run, agent_alive: bool) -> Option<u32> {
    let current = run.current_step()?;
    let needs_agent =
        matches!(current.kind, StepKind::WaitAgent | StepKind::Inventory | StepKind::WriteImage | StepKind::WipeDisks | StepKind::BootDisk);
    if needs_agent && !agent_alive {
        let boot = run.steps.iter().find(|s| s.kind == StepKind::BootRamdisk && s.index <= current.index);
        return Some(boot.map_or(current.index, |b| b.index));
    }
    Some(current.index)
}

/// Where an aborted run leaves the machine: back where it was when nothing was written, else out of use until it is
/// released (wiped), so that half an image is never taken for a ready machine.
pub fn after_abort(machine: &Machine, kind: RunKind) -> Lifecycle {
    match kind {
        RunKind::Enroll => Lifecycle::Discovered,
        RunKind::Deploy if machine.written_disks.is_empty() => Lifecycle::Ready,
        RunKind::Deploy | RunKind::Release => Lifecycle::Quarantined,
    }
}

/// The sentence a person reads: what it does, since when, how long that usually takes, what happens next by itself.
pub fn state_sentence(
    step: &Step,
    usual: Option<(std::time::Duration, std::time::Duration)>,
    next: Option<StepKind>,
    now: Timestamp,
) -> String {
    let mut out = format!("Waiting for {}", step.kind.waits_for());
    if let Some(since) = step.started_at {
        out.push_str(&format!(" since {}", spoken(now.since(since))));
    }
    if let Some((median, p90)) = usual {
        out.push_str(&format!(" (usually {} to {})", spoken(median), spoken(p90)));
    }
    out.push('.');
    if !step.note.is_empty() {
        out.push_str(&format!(" {}", capitalised(&step.note)));
        if !out.ends_with(['.', '!', '?']) {
            out.push('.');
        }
    }
    if let Some(deadline) = step.deadline_at {
        out.push_str(&format!(" Gives up in {}.", spoken(deadline.since(now))));
    }
    match next {
        Some(next) => out.push_str(&format!(" Next: {}.", next.waits_for())),
        None => out.push_str(" This is the last step."),
    }
    out
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decide::discovery::tests::machine;
    use crate::domain::id::{RunId, StepId};
    use crate::domain::inventory::DiskRef;
    use crate::domain::machine::{DeploySpec, Hold};

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn run(kind: RunKind, states: &[StepState]) -> Run {
        let id = RunId(uuid::Uuid::from_u128(7));
        let m = machine(1, None, None, &[]).id;
        let steps = recipe(kind)
            .iter()
            .enumerate()
            .map(|(i, kind)| Step {
                id: StepId(uuid::Uuid::from_u128(100 + i as u128)),
                run: id,
                machine: m,
                index: u32::try_from(i).unwrap(),
                kind: *kind,
                state: states.get(i).copied().unwrap_or(StepState::Pending),
                attempts: 0,
                checkpoint: serde_json::Value::Null,
                evidence: serde_json::Value::Null,
                note: String::new(),
                progress: None,
                started_at: Some(NOW),
                ended_at: None,
                deadline_at: Some(NOW.plus(Duration::from_secs(60))),
                due_at: NOW,
                fence: 1,
            })
            .collect();
        Run { id, machine: m, kind, state: RunState::Running, started_at: NOW, ended_at: None, actor: "kim".into(), steps }
    }

    fn deploy() -> Want {
        Want::Deploy(Box::new(DeploySpec {
            image: "debian-12".parse().unwrap(),
            hostname: None,
            ssh_keys: vec![],
            user_data: None,
            network_config: None,
            disk: None,
        }))
    }

    #[test]
    fn nothing_happens_to_a_machine_that_nobody_accepted() {
        let m = machine(1, None, None, &[]);
        assert_eq!(decide(&Facts { machine: &m, run: None, now: NOW }).next, Next::Nothing);
    }

    #[test]
    fn a_deployment_never_starts_on_a_machine_that_is_not_ready() {
        for lifecycle in Lifecycle::ALL {
            let mut m = machine(1, None, None, &[]);
            m.lifecycle = lifecycle;
            m.want = deploy();
            let started = matches!(decide(&Facts { machine: &m, run: None, now: NOW }).next, Next::StartRun { .. });
            assert_eq!(started, lifecycle == Lifecycle::Ready, "{lifecycle}");
        }
    }

    #[test]
    fn a_wipe_never_starts_on_a_machine_that_is_discovered_enrolling_or_ready() {
        for lifecycle in [Lifecycle::Discovered, Lifecycle::Enrolling, Lifecycle::Ready, Lifecycle::Retired, Lifecycle::Repairing] {
            let mut m = machine(1, None, None, &[]);
            m.lifecycle = lifecycle;
            m.want = Want::Release;
            assert_eq!(decide(&Facts { machine: &m, run: None, now: NOW }).next, Next::Nothing, "{lifecycle}");
        }
    }

    #[test]
    fn a_held_machine_starts_no_run() {
        let mut m = machine(1, None, None, &[]);
        m.lifecycle = Lifecycle::Ready;
        m.want = deploy();
        m.hold = Some(Hold { owner: "kim".into(), reason: "fan".into(), until: None });
        assert_eq!(decide(&Facts { machine: &m, run: None, now: NOW }).next, Next::Nothing);
    }

    #[test]
    fn a_step_past_its_deadline_fails_with_a_sentence_and_a_remedy() {
        let m = machine(1, None, None, &[]);
        let r = run(RunKind::Deploy, &[StepState::Done, StepState::Done, StepState::Done, StepState::Running]);
        let d = decide(&Facts { machine: &m, run: Some(&r), now: NOW.plus(Duration::from_secs(61)) });
        let Next::FailRun { fault } = d.next else { panic!("{:?}", d.next) };
        assert!(fault.what.contains("the agent in the ramdisk to say hello") && !fault.remedy.is_empty());
        let early = decide(&Facts { machine: &m, run: Some(&r), now: NOW.plus(Duration::from_secs(59)) });
        assert_eq!((early.next, early.wake_at), (Next::Nothing, Some(NOW.plus(Duration::from_secs(60)))));
    }

    #[test]
    fn a_run_whose_steps_are_all_done_or_skipped_is_finished() {
        let m = machine(1, None, None, &[]);
        let r = run(RunKind::Enroll, &[StepState::Skipped, StepState::Done, StepState::Done, StepState::Done, StepState::Skipped]);
        assert_eq!(decide(&Facts { machine: &m, run: Some(&r), now: NOW }).next, Next::FinishRun { lifecycle: Lifecycle::Ready });
    }

    #[test]
    fn every_working_state_has_a_deadline_not_shorter_than_its_steps() {
        for (kind, state) in
            [(RunKind::Enroll, Lifecycle::Enrolling), (RunKind::Deploy, Lifecycle::Deploying), (RunKind::Release, Lifecycle::Releasing)]
        {
            let steps: Duration = recipe(kind).iter().map(|s| s.deadline()).sum();
            assert!(state.deadline() >= Some(steps), "{kind}: {steps:?}");
        }
    }

    #[test]
    fn a_retry_without_an_agent_boots_the_ramdisk_again() {
        let failed_at = |index: usize| {
            let mut states = vec![StepState::Done; index];
            states.push(StepState::Failed);
            run(RunKind::Deploy, &states)
        };
        let at = |kind| recipe(RunKind::Deploy).iter().position(|k| *k == kind).unwrap();
        let index = |kind| Some(u32::try_from(at(kind)).unwrap());
        let r = failed_at(at(StepKind::WaitAgent));
        assert_eq!(resume_from(&r, true), index(StepKind::WaitAgent));
        assert_eq!(resume_from(&r, false), index(StepKind::BootRamdisk));
        let r = failed_at(at(StepKind::WaitSystem));
        assert_eq!(resume_from(&r, false), index(StepKind::WaitSystem));
    }

    #[test]
    fn every_run_asks_the_bmc_whose_it_is_before_it_does_anything() {
        for kind in [RunKind::Enroll, RunKind::Deploy, RunKind::Release] {
            assert_eq!(recipe(kind).first(), Some(&StepKind::ContactBmc), "{kind}");
        }
    }

    #[test]
    fn an_aborted_deployment_that_wrote_something_is_not_ready() {
        let mut m = machine(1, None, None, &[]);
        assert_eq!(after_abort(&m, RunKind::Deploy), Lifecycle::Ready);
        m.written_disks = vec![DiskRef { serial: None, wwn: Some("eui.1".into()), size_bytes: 1, name_hint: "sda".into() }];
        assert_eq!(after_abort(&m, RunKind::Deploy), Lifecycle::Quarantined);
        assert_eq!(after_abort(&m, RunKind::Release), Lifecycle::Quarantined);
    }
}
