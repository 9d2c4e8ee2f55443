//! What a machine is doing, in the words of the people who look after it. Pure: facts in, words out.

use std::time::Duration;

use crate::app::view::{MachineView, RunView, StepView, shipped_usual};
use crate::domain::boot::{BootStage, ClientArch};
use crate::domain::event::Severity;
use crate::domain::machine::{Lifecycle, Verb};
use crate::domain::power::{PowerAction, PowerState};
use crate::domain::time::{Timestamp, spoken};
use crate::domain::work::{RunKind, RunState, StepKind, StepState};

/// How something is; shown by colour, shape and word together. In the order of a list: what needs someone comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tone {
    /// Square. Stopped; a person must act.
    Crit,
    /// Triangle. Goes on, but someone should look.
    Warn,
    /// Diamond. Waits for a decision.
    New,
    /// Half circle. Busy by itself.
    Working,
    /// Dashed outline. Not there (yet), or out of the pool.
    Off,
    /// Circle.
    Ok,
}

impl Tone {
    /// CSS class and icon id.
    pub fn class(self) -> &'static str {
        match self {
            Self::Crit => "crit",
            Self::Warn => "warn",
            Self::New => "new",
            Self::Working => "working",
            Self::Off => "off",
            Self::Ok => "ok",
        }
    }

    pub fn of_severity(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::Ok,
            Severity::Warning => Self::Warn,
            Severity::Error => Self::Crit,
        }
    }
}

/// Groups of the list's summary and its `state:` filter. Each machine is in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    Problem,
    New,
    Working,
    Ready,
    InUse,
    Expected,
    Out,
}

impl Group {
    pub const ALL: [Self; 7] = [Self::Problem, Self::New, Self::Working, Self::Ready, Self::InUse, Self::Expected, Self::Out];

    /// Word in the URL.
    pub fn key(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::New => "new",
            Self::Working => "working",
            Self::Ready => "ready",
            Self::InUse => "in-use",
            Self::Expected => "expected",
            Self::Out => "out",
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Problem => "need you",
            Self::New => "new",
            Self::Working => "working",
            Self::Ready => "ready",
            Self::InUse => "in use",
            Self::Expected => "expected",
            Self::Out => "out of use",
        }
    }

    pub fn tone(self) -> Tone {
        match self {
            Self::Problem => Tone::Crit,
            Self::New => Tone::New,
            Self::Working => Tone::Working,
            Self::Ready | Self::InUse => Tone::Ok,
            Self::Expected | Self::Out => Tone::Off,
        }
    }

    pub fn of(m: &MachineView) -> Self {
        if m.fault.is_some() || m.run.as_ref().is_some_and(|r| r.state == RunState::Failed) {
            return Self::Problem;
        }
        match m.lifecycle {
            Lifecycle::Discovered if m.expected_only => Self::Expected,
            Lifecycle::Discovered => Self::New,
            Lifecycle::Enrolling | Lifecycle::Deploying | Lifecycle::Releasing | Lifecycle::Repairing | Lifecycle::Retiring => {
                Self::Working
            }
            Lifecycle::Ready => Self::Ready,
            Lifecycle::Active => Self::InUse,
            Lifecycle::Quarantined => Self::Problem,
            Lifecycle::Retired => Self::Out,
        }
    }
}

/// The state as people call it. The word of the API is shown on hover.
pub fn state_word(m: &MachineView) -> &'static str {
    if m.run.as_ref().is_some_and(|r| r.state == RunState::Failed) {
        return "Stopped";
    }
    match m.lifecycle {
        Lifecycle::Discovered if m.expected_only => "Expected",
        Lifecycle::Discovered => "New",
        Lifecycle::Enrolling => "Enrolling",
        Lifecycle::Ready => "Ready",
        Lifecycle::Deploying => "Installing",
        Lifecycle::Active => "In use",
        Lifecycle::Releasing => "Erasing",
        Lifecycle::Repairing => "In repair",
        Lifecycle::Quarantined => "Quarantined",
        Lifecycle::Retiring => "Retiring",
        Lifecycle::Retired => "Retired",
    }
}

pub fn run_word(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Enroll => "Enrolling",
        RunKind::Deploy => "Installing",
        RunKind::Release => "Erasing",
    }
}

pub fn run_noun(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Enroll => "Enrolment",
        RunKind::Deploy => "Installation",
        RunKind::Release => "Erasure",
    }
}

pub fn run_state_word(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Failed => "stopped, waits for you",
        RunState::Done => "done",
        RunState::Aborted => "given up",
    }
}

/// Name of a step in a list.
pub fn step_title(kind: StepKind) -> &'static str {
    match kind {
        StepKind::ContactBmc => "Contact the BMC",
        StepKind::CheckTarget => "Check image, disk and firmware",
        StepKind::BootRamdisk => "Boot from the network",
        StepKind::WaitAgent => "Wait for the agent",
        StepKind::Inventory => "Take the inventory",
        StepKind::WriteImage => "Write the image",
        StepKind::BootDisk => "Restart from disk",
        StepKind::WaitSystem => "Wait for the system",
        StepKind::WipeDisks => "Wipe the disks",
        StepKind::PowerOff => "Power off",
    }
}

/// The step in the middle of a sentence: "Installing: writing the image".
pub fn step_doing(kind: StepKind) -> &'static str {
    match kind {
        StepKind::ContactBmc => "contacting the BMC",
        StepKind::CheckTarget => "checking image, disk and firmware",
        StepKind::BootRamdisk => "starting the network boot",
        StepKind::WaitAgent => "waiting for the agent to say hello",
        StepKind::Inventory => "taking the inventory",
        StepKind::WriteImage => "writing the image",
        StepKind::BootDisk => "restarting from disk",
        StepKind::WaitSystem => "waiting for the system to report in",
        StepKind::WipeDisks => "wiping the disks",
        StepKind::PowerOff => "powering off",
    }
}

pub fn step_state_word(state: StepState) -> &'static str {
    match state {
        StepState::Pending => "to come",
        StepState::Running => "running",
        StepState::Done => "done",
        StepState::Failed => "failed",
        StepState::Skipped => "not needed",
    }
}

pub fn verb_word(verb: Verb) -> &'static str {
    match verb {
        Verb::Accept => "Accept",
        Verb::Deploy => "Install",
        Verb::Release => "Release",
        Verb::Retry => "Retry",
        Verb::Abort => "Give up",
        Verb::Power => "Power",
        Verb::Forget => "Forget",
    }
}

/// What pressing the button does.
pub fn verb_means(verb: Verb) -> &'static str {
    match verb {
        Verb::Accept => "Take this machine in: boot the ramdisk, read its inventory, make it ready. Nothing is written to its disks.",
        Verb::Deploy => "Write an image to its disk and start that system.",
        Verb::Release => "Take its system away: wipe every disk Hostler may write, read it back, return it to the pool.",
        Verb::Retry => "Try the step that failed once more.",
        Verb::Abort => "Stop the work at hand and leave the machine where that is safe.",
        Verb::Power => "Switch it through its BMC.",
        Verb::Forget => "Drop the record. Nothing on the machine is touched; it comes back as new when it is seen again.",
    }
}

pub fn power_word(state: Option<PowerState>) -> &'static str {
    match state {
        Some(PowerState::On) => "On",
        Some(PowerState::Off) => "Off",
        Some(PowerState::Changing) => "Changing",
        None => "Unknown",
    }
}

/// Power buttons: word, what it does, whether it asks first.
pub fn power_action(action: PowerAction) -> (&'static str, &'static str, bool) {
    match action {
        PowerAction::On => ("Power on", "Switches it on.", false),
        PowerAction::Soft => ("Shut down", "Asks its system to shut down. The system may ignore it.", true),
        PowerAction::Reset => ("Reset", "Restarts it at once without removing power.", true),
        PowerAction::Cycle => ("Power cycle", "Off, a pause, on.", true),
        PowerAction::Off => ("Power off", "Cuts its power at once.", true),
    }
}

pub const POWER_ACTIONS: [PowerAction; 5] = [PowerAction::On, PowerAction::Soft, PowerAction::Reset, PowerAction::Cycle, PowerAction::Off];

/// How long a step usually takes, and whether that was measured here.
pub fn usual(step: &StepView) -> (Duration, bool) {
    match step.usual_secs {
        Some(secs) => (Duration::from_secs(secs.max(1)), true),
        None => (shipped_usual(step.kind), false),
    }
}

/// `usually 3 min 10 s`.
pub fn usually(usual: Duration, measured: bool) -> String {
    if measured { format!("usually {}", spoken(usual)) } else { format!("estimate {}", spoken(usual)) }
}

/// What takes thrice the usual time, and at least half a minute more, deserves a look.
pub fn is_slow(since: Timestamp, usual: Duration, now: Timestamp) -> bool {
    now.since(since) > (usual * 3).max(usual + Duration::from_secs(30))
}

/// The step that runs, failed, or comes next.
pub fn current_step(run: &RunView) -> Option<&StepView> {
    run.steps.iter().find(|s| !matches!(s.state, StepState::Done | StepState::Skipped))
}

/// The run's expected end: what the current step still needs, and the usual times of those to come.
pub fn expected_end(run: &RunView, now: Timestamp) -> Option<Timestamp> {
    if run.state != RunState::Running {
        return None;
    }
    let left = run.steps.iter().map(|step| match step.state {
        StepState::Done | StepState::Skipped | StepState::Failed => Duration::ZERO,
        StepState::Pending => usual(step).0,
        StepState::Running => match step.progress.and_then(|p| p.eta_secs) {
            Some(secs) => Duration::from_secs(secs),
            None => usual(step).0.saturating_sub(step.started_at.map_or(Duration::ZERO, |t| now.since(t))),
        },
    });
    Some(coarse(now.plus(left.sum())))
}

/// To the nearest five seconds, so that an estimate is not sent anew for a change nobody sees.
pub fn coarse(t: Timestamp) -> Timestamp {
    const STEP: i64 = 5_000_000;
    Timestamp((t.0.saturating_add(STEP / 2)).div_euclid(STEP).saturating_mul(STEP))
}

/// What a machine is doing or waiting for, without the time (which ticks beside it).
pub fn doing(m: &MachineView) -> String {
    if let Some(run) = &m.run
        && let Some(step) = run.step
    {
        let what = step_doing(step);
        match run.state {
            RunState::Failed => return format!("{} stopped at {what}", run_noun(run.kind)),
            RunState::Running => return format!("{}: {what}", run_word(run.kind)),
            RunState::Done | RunState::Aborted => {}
        }
    }
    match m.lifecycle {
        Lifecycle::Discovered if m.expected_only => "On the packing list, not seen yet".to_owned(),
        Lifecycle::Discovered => "Seen on the network, waits to be accepted".to_owned(),
        Lifecycle::Enrolling => "Accepted, enrolment starts".to_owned(),
        Lifecycle::Ready => "Empty, ready to be installed".to_owned(),
        Lifecycle::Deploying => "Installation starts".to_owned(),
        Lifecycle::Active => match &m.image {
            Some(image) => format!("Runs {image}"),
            None => "In use".to_owned(),
        },
        Lifecycle::Releasing => "Erasure starts".to_owned(),
        Lifecycle::Repairing => "In repair".to_owned(),
        Lifecycle::Quarantined => "Taken out of use, waits for a person".to_owned(),
        Lifecycle::Retiring => "Being retired".to_owned(),
        Lifecycle::Retired => "Wiped and gone".to_owned(),
    }
}

/// What happens next without anybody doing anything.
pub fn next_by_itself(m: &MachineView, run: Option<&RunView>) -> String {
    if let Some(run) = run.filter(|r| r.state == RunState::Running)
        && let Some(step) = current_step(run)
    {
        let after = run.steps.iter().find(|s| s.index > step.index && s.state == StepState::Pending);
        let then = match after {
            Some(next) => format!("Next by itself: {}.", lower_first(step_title(next.kind))),
            None => match run.kind {
                RunKind::Enroll | RunKind::Release => "Then the machine is ready.".to_owned(),
                RunKind::Deploy => "Then the machine is in use.".to_owned(),
            },
        };
        let left = step.kind.max_attempts().saturating_sub(step.attempts);
        let tries = match left {
            0 => "If this attempt fails, it stops and says why.".to_owned(),
            1 => "If it fails, it is tried once more.".to_owned(),
            n => format!("If it fails, it is tried up to {n} more times."),
        };
        return format!("{then} {tries}");
    }
    if m.fault.is_some() || m.run.as_ref().is_some_and(|r| r.state == RunState::Failed) {
        return "Nothing happens by itself until you retry it, give it up, or forget the machine.".to_owned();
    }
    match m.lifecycle {
        Lifecycle::Discovered if m.expected_only => "It appears here as soon as it asks for an address.".to_owned(),
        Lifecycle::Discovered => "Nothing is written to its disks until you accept it.".to_owned(),
        Lifecycle::Enrolling | Lifecycle::Deploying | Lifecycle::Releasing => "The next step starts in a moment.".to_owned(),
        Lifecycle::Ready => "It waits here until it is given a system.".to_owned(),
        Lifecycle::Active => "When it boots from the network it is sent to its own disk.".to_owned(),
        Lifecycle::Repairing | Lifecycle::Quarantined | Lifecycle::Retiring | Lifecycle::Retired => "Nothing happens by itself.".to_owned(),
    }
}

/// A line of the boot timeline.
pub fn stage_word(stage: BootStage) -> &'static str {
    match stage {
        BootStage::DhcpDiscover => "Asked for an address",
        BootStage::DhcpOffer => "Was offered one",
        BootStage::DhcpOther => "Chose another DHCP server",
        BootStage::DhcpRequest => "Requested our offer",
        BootStage::DhcpAck => "Got address and boot file",
        BootStage::LoaderStart => "Boot loader requested",
        BootStage::LoaderDone => "Boot loader sent",
        BootStage::LoaderStalled => "Boot loader transfer stalled",
        BootStage::Script => "iPXE fetched its script",
        BootStage::Kernel => "Kernel fetched",
        BootStage::Ramdisk => "Ramdisk fetched",
        BootStage::Agent => "Agent said hello",
        BootStage::LocalDisk => "Sent to its own disk",
        BootStage::System => "Deployed system reported in",
    }
}

pub fn stage_tone(stage: BootStage) -> Tone {
    match stage {
        BootStage::DhcpOther => Tone::Warn,
        BootStage::LoaderStalled => Tone::Crit,
        BootStage::DhcpDiscover
        | BootStage::DhcpOffer
        | BootStage::DhcpRequest
        | BootStage::DhcpAck
        | BootStage::LoaderStart
        | BootStage::LoaderDone
        | BootStage::Script
        | BootStage::Kernel
        | BootStage::Ramdisk => Tone::Working,
        BootStage::Agent | BootStage::LocalDisk | BootStage::System => Tone::Ok,
    }
}

pub fn client_word(client: ClientArch) -> &'static str {
    match client {
        ClientArch::Bios => "BIOS",
        ClientArch::UefiX64 => "UEFI x64",
        ClientArch::UefiX64Http => "UEFI x64, HTTP boot",
        ClientArch::UefiArm64 => "UEFI arm64",
        ClientArch::UefiArm64Http => "UEFI arm64, HTTP boot",
    }
}

fn lower_first(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
