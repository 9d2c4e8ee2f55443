//! What happens next to a case: up its ladder, into probation, to a person, or nothing.
//!
//! [`intake`] turns findings into cases; [`decide`] says what is next; the gate says whether it may be; [`apply`] and its
//! siblings write the outcome into the case. All pure: the same inputs give the same bytes.

pub mod intake;
pub mod record;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::correlate::truth::Meaning;
use crate::decide::gate::mode_for;
use crate::decide::health::Signals;
use crate::decide::policy::lint::forbidden;
use crate::domain::case::{Attempt, AttemptResult, Case, CaseState, Class, Closed, HeldBy};
use crate::domain::decision::Rejected;
use crate::domain::observation::Family;
use crate::domain::permit::{Action, Tier};
use crate::domain::policy::{Ladder, LadderStep, Mode, PoolPolicy, Rung, Success};
use crate::domain::time::{Timestamp, spoken};

/// A refused step is asked again after this, unless the gate named a moment.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What our own tests in the ramdisk found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Diagnosis {
    Passed,
    /// A component failed; its name.
    Failed(String),
}

/// Everything a decision about a case may look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub now: Timestamp,
    pub case: Case,
    pub ladder: Ladder,
    pub pool: PoolPolicy,
    /// Present state of the case's signals.
    pub signals: Signals,
    /// Since when they are all good, if they are.
    pub good_since: Option<Timestamp>,
    pub disputed: bool,
    /// For cases of a silent BMC or system: what the silence means.
    pub meaning: Option<Meaning>,
    /// A hold of a domain the machine is in.
    pub held: Option<HeldBy>,
    /// Released from a hold, but its turn has not come.
    pub waits_until: Option<Timestamp>,
    pub human_lock: Option<HeldBy>,
    /// The system answered since the last attempt began.
    pub agent_back: bool,
    pub bmc_back: bool,
    /// Codes of events seen since the last attempt began.
    pub codes: Vec<String>,
    pub diagnosis: Option<Diagnosis>,
    /// A person replaced or mended the part since the case waits for hands.
    pub mended_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    Nothing,
    /// The case enters this state; no action.
    Become(CaseState),
    /// The ladder's next step.
    Step(usize),
    /// Ask the gate for this rung of the present step.
    Ask(Action),
    /// The running attempt ended.
    End(AttemptResult),
    /// The running attempt failed for good: straight to hands, with the reason.
    ToHands,
    /// Recorded only: the pool is observed.
    Shadow(Rung),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub next: Next,
    pub wake_at: Option<Timestamp>,
    /// Whole sentences.
    pub why: Vec<String>,
    pub rejected: Vec<Rejected>,
}

impl Decision {
    fn new(next: Next, why: impl Into<String>) -> Self {
        Self { next, wake_at: None, why: vec![why.into()], rejected: vec![] }
    }

    fn at(mut self, wake: Timestamp) -> Self {
        self.wake_at = Some(wake);
        self
    }
}

/// Decides what is next for one case.
pub fn decide(f: &Facts) -> Decision {
    let case = &f.case;
    match &case.state {
        CaseState::Closed { .. } => Decision::new(Next::Nothing, "The case is closed."),
        CaseState::Suspect => Decision::new(Next::Nothing, "Bad once; it is read again before anything is believed."),
        CaseState::Held(_) | CaseState::Confirmed => match hold_of(f) {
            Some((by, why)) if case.state == CaseState::Held(by.clone()) => Decision::new(Next::Nothing, why),
            Some((by, why)) => Decision::new(Next::Become(CaseState::Held(by)), why),
            None if matches!(case.state, CaseState::Held(_)) => released(f),
            None => climb(f),
        },
        CaseState::Acting { rung, until } => acting(f, *rung, *until),
        CaseState::Probation { until } => probation(f, *until),
        CaseState::NeedsHands => hands(f),
    }
}

/// What stands between a case and its ladder.
fn hold_of(f: &Facts) -> Option<(HeldBy, String)> {
    if let Some(by @ HeldBy::Domain { name, .. }) = &f.held {
        return Some((by.clone(), format!("Nothing is done: {name} is on hold, the cause is there.")));
    }
    if let Some(by @ HeldBy::Person { who, why }) = &f.human_lock {
        return Some((by.clone(), format!("Nothing is done: {who} works on the machine ({why}).")));
    }
    None
}

fn released(f: &Facts) -> Decision {
    if let Some(at) = f.waits_until {
        return Decision::new(Next::Nothing, format!("Released from the hold; its turn comes at {at}.")).at(at);
    }
    if f.signals == Signals::Good {
        let how = Closed::WithDomain;
        return Decision::new(Next::Become(CaseState::Closed { how }), "The hold is over and the machine is well: it was an effect of it.");
    }
    Decision::new(Next::Become(CaseState::Confirmed), "The hold is over and it is still ill: it is looked at from fresh evidence.")
}

fn climb(f: &Facts) -> Decision {
    let case = &f.case;
    if f.signals == Signals::Good && case.attempts.iter().all(|a| a.result != AttemptResult::Passed) {
        let how = Closed::ByItself;
        return Decision::new(Next::Become(CaseState::Closed { how }), "It is well again and nothing was done to it.");
    }
    let Some(step) = f.ladder.steps.get(case.step) else {
        return Decision::new(
            Next::Nothing,
            format!("The ladder {} is at its end; the case stays open until its signals are good.", f.ladder.id),
        );
    };
    if let Some(at) = f.waits_until {
        return Decision::new(Next::Nothing, format!("Released from a hold; its turn comes at {at}.")).at(at);
    }
    let tier = step.rung.tier();
    if let Some(meaning) = f.meaning
        && let Some(d) = by_meaning(f, step, meaning)
    {
        return d;
    }
    if f.disputed && tier >= Tier::T2 {
        let why = "Limits and the BMC's own judgement disagree: neither is trusted, and nothing beyond a ticket is done.";
        return Decision::new(Next::Nothing, why);
    }
    if f.signals == Signals::Unknown && tier >= Tier::T2 {
        return Decision::new(
            Next::Nothing,
            format!("{} waits: its signals are not heard, so nobody knows whether it is still ill.", step.rung),
        )
        .at(f.now.plus(ASK_AGAIN));
    }
    if forbidden(case.family, step.rung) {
        let mut d = Decision::new(Next::Step(case.step + 1), format!("{} is passed over.", step.rung));
        d.rejected.push(Rejected { rung: step.rung, because: format!("it does not mend {}", case.family) });
        return d;
    }
    if case.tries() >= usize::from(step.attempts) && step.rung != Rung::Observe {
        return Decision::new(Next::Step(case.step + 1), format!("{} was tried {} times and did not help.", step.rung, case.tries()));
    }
    match step.rung {
        Rung::Observe => {
            let until =
                case.step_since.max(case.confirmed_at.unwrap_or(case.step_since)).plus(step.wait.map_or(Duration::ZERO, |w| w.duration()));
            if f.now < until {
                let why = format!("It is watched for {} before anything is done: most such things pass.", spoken(until.since(f.now)));
                return Decision::new(Next::Nothing, why).at(until);
            }
            Decision::new(Next::Step(case.step + 1), "It did not pass by itself.")
        }
        Rung::NeedsHands if mode_for(&f.pool, step.rung) >= Mode::Recommend => ask(f, step, "Only a person can mend it"),
        Rung::Ticket
        | Rung::Cordon
        | Rung::BmcReset
        | Rung::SoftFix
        | Rung::GracefulReboot
        | Rung::ForceRestart
        | Rung::PowerCycle
        | Rung::PowerOff
        | Rung::FirmwareFix
        | Rung::Diagnose
        | Rung::Reimage
        | Rung::NeedsHands
        | Rung::Quarantine
        | Rung::Retire => ask(f, step, "It is still ill"),
    }
}

fn ask(f: &Facts, step: &LadderStep, because: &str) -> Decision {
    let case = &f.case;
    if mode_for(&f.pool, step.rung) == Mode::Observe {
        return Decision::new(Next::Shadow(step.rung), format!("{because}: {} would be next, and the pool is only observed.", step.rung))
            .at(f.now.plus(Duration::from_secs(3600)));
    }
    let why = format!("{because}: step {} of the ladder {} is {}.", case.step + 1, f.ladder.id, step.rung);
    let mut d = Decision::new(Next::Ask(Action { machine: case.machine, rung: step.rung }), why).at(f.now.plus(ASK_AGAIN));
    if step.rung == Rung::Reimage {
        d.rejected.push(Rejected { rung: Rung::NeedsHands, because: "the diagnostic boot found no component at fault".to_owned() });
    }
    d
}

/// What silence means decides before the ladder does.
fn by_meaning(f: &Facts, step: &LadderStep, meaning: Meaning) -> Option<Decision> {
    let tier = step.rung.tier();
    match meaning {
        Meaning::Well | Meaning::MachineFault => None,
        // The one thing that may be done to a sick BMC is in its own ladder.
        Meaning::BmcSick if f.case.family == Family::Bmc && tier <= Tier::T1 => None,
        Meaning::Dead if f.case.family == Family::System => Some(to_hands(f, meaning.sentence())),
        // Their part is in the case of the silent system.
        Meaning::Dead if tier <= Tier::T0 => None,
        Meaning::Dead
        | Meaning::BmcSick
        | Meaning::ManagementNetwork
        | Meaning::RackLost
        | Meaning::SystemsNetwork
        | Meaning::SwitchedOff
        | Meaning::Unclear
            if tier == Tier::T0 =>
        {
            None
        }
        Meaning::Dead
        | Meaning::BmcSick
        | Meaning::ManagementNetwork
        | Meaning::RackLost
        | Meaning::SystemsNetwork
        | Meaning::SwitchedOff
        | Meaning::Unclear => Some(Decision::new(Next::Nothing, meaning.sentence()).at(f.now.plus(ASK_AGAIN))),
    }
}

fn to_hands(f: &Facts, why: &str) -> Decision {
    match f.ladder.steps.iter().position(|s| s.rung == Rung::NeedsHands) {
        Some(at) if at > f.case.step => Decision::new(Next::Step(at), why),
        Some(_) => ask(f, &f.ladder.steps[f.case.step], why),
        None => Decision::new(Next::ToHands, why),
    }
}

fn acting(f: &Facts, rung: Rung, until: Timestamp) -> Decision {
    if let Some((by, why)) = hold_of(f)
        && matches!(by, HeldBy::Domain { .. })
        && f.now >= until
    {
        return Decision::new(Next::Become(CaseState::Held(by)), why);
    }
    let Some(step) = f.ladder.steps.get(f.case.step) else {
        return Decision::new(Next::End(AttemptResult::Failed), "The ladder changed under the attempt.");
    };
    let passed = match &step.success {
        // Good signals before the machine is back may only be silence of a log that nothing was written to yet.
        Success::Signals => f.signals == Signals::Good && (f.agent_back || f.now >= until),
        Success::Agent => f.agent_back,
        Success::Bmc => f.bmc_back,
        Success::Event(code) => f.codes.contains(code),
        Success::Diagnosis => f.diagnosis == Some(Diagnosis::Passed) && f.signals == Signals::Good,
    };
    if let Some(Diagnosis::Failed(part)) = &f.diagnosis
        && rung == Rung::Diagnose
    {
        let mut d = Decision::new(Next::ToHands, format!("The diagnostic boot found a fault in {part}: only hands mend that."));
        d.rejected.push(Rejected { rung: Rung::Reimage, because: format!("{part} is hardware") });
        return d;
    }
    if rung == Rung::PowerOff {
        // Being off is what was wanted; the fault is still there.
        return Decision::new(Next::Step(f.case.step + 1), "It is off and stays off until someone has looked.");
    }
    if passed {
        return Decision::new(Next::End(AttemptResult::Passed), format!("{rung} helped: its success test passed."));
    }
    let diagnosed = rung == Rung::Diagnose && f.diagnosis.is_some();
    if f.now >= until || diagnosed {
        let why = if diagnosed {
            "The diagnostic boot found no component at fault, and it is still ill.".to_owned()
        } else {
            format!("{rung} did not help within its time.")
        };
        return Decision::new(Next::End(AttemptResult::Failed), why);
    }
    Decision::new(Next::Nothing, format!("{rung} has until {until} to show success.")).at(until)
}

fn probation(f: &Facts, until: Timestamp) -> Decision {
    match f.signals {
        Signals::Bad => {
            let why = "It came back during probation: the next rung is taken, not the first again.";
            Decision::new(Next::Step(f.case.step + 1), why)
        }
        Signals::Unknown => {
            Decision::new(Next::Nothing, "Probation waits: its signals are not heard, and silence is not health.").at(f.now.plus(ASK_AGAIN))
        }
        Signals::Good => {
            // All of the time must be good and heard.
            let length = f.ladder.probation.duration();
            let since = f.good_since.unwrap_or(f.now);
            if f.now >= until && f.now.since(since) >= length.min(Duration::from_secs(86_400)) {
                let how =
                    if f.case.attempts.iter().any(|a| a.result == AttemptResult::Passed) { Closed::Repaired } else { Closed::ByPerson };
                return Decision::new(Next::Become(CaseState::Closed { how }), format!("Everything was good for {}.", spoken(length)));
            }
            Decision::new(Next::Nothing, format!("On probation until {until}."))
                .at(until.max(since.plus(length.min(Duration::from_secs(86_400)))))
        }
    }
}

fn hands(f: &Facts) -> Decision {
    if f.signals == Signals::Good {
        let until = f.now.plus(f.ladder.probation.duration());
        let why = if f.mended_at.is_some() { "A person mended it." } else { "It is good again although nobody said that it was mended." };
        return Decision::new(Next::Become(CaseState::Probation { until }), format!("{why} It is watched until {until}."));
    }
    Decision::new(Next::Nothing, "It waits for a person.")
}

/// Writes a decision without an action into the case.
pub fn apply(case: &mut Case, d: &Decision, ladder: &Ladder, now: Timestamp) {
    match &d.next {
        Next::Nothing | Next::Ask(_) | Next::Shadow(_) => {}
        Next::Become(state) => {
            if matches!(state, CaseState::Held(_)) {
                cancel(case, now);
            }
            // After a hold the evidence from before it does not count any more.
            if matches!(case.state, CaseState::Held(HeldBy::Domain { .. })) && *state == CaseState::Confirmed {
                case.evidence.clear();
                case.step_since = now;
            }
            case.state = state.clone();
        }
        Next::Step(to) => {
            end(case, AttemptResult::Failed, now);
            case.step = *to;
            case.step_since = now;
            case.state = CaseState::Confirmed;
        }
        Next::End(AttemptResult::Passed) => {
            end(case, AttemptResult::Passed, now);
            case.state = CaseState::Probation { until: now.plus(ladder.probation.duration()) };
        }
        Next::End(result) => {
            end(case, *result, now);
            case.state = CaseState::Confirmed;
        }
        Next::ToHands => {
            end(case, AttemptResult::Failed, now);
            match ladder.steps.iter().position(|s| s.rung == Rung::NeedsHands) {
                Some(at) => {
                    case.step = at;
                    case.step_since = now;
                    case.state = CaseState::Confirmed;
                }
                None => case.state = CaseState::NeedsHands,
            }
            case.class = case.class.max(Class::NeedsHands);
        }
    }
}

/// A permitted rung was begun.
pub fn begun(case: &mut Case, rung: Rung, ladder: &Ladder, now: Timestamp) {
    let settle = ladder.steps.get(case.step).map_or(Duration::ZERO, |s| s.settle.duration());
    let attempt = |result| Attempt { step: case.step, rung, started_at: now, ended_at: None, result };
    case.last_refusal = None;
    match rung {
        // These have no outcome to wait for: they are said, and the ladder goes on.
        Rung::Observe | Rung::Ticket | Rung::Cordon => {
            case.attempts.push(Attempt { ended_at: Some(now), ..attempt(AttemptResult::Failed) });
            case.step += 1;
            case.step_since = now;
        }
        Rung::NeedsHands | Rung::Quarantine | Rung::Retire => {
            case.attempts.push(Attempt { ended_at: Some(now), ..attempt(AttemptResult::Failed) });
            case.state = CaseState::NeedsHands;
        }
        Rung::BmcReset
        | Rung::SoftFix
        | Rung::GracefulReboot
        | Rung::ForceRestart
        | Rung::PowerCycle
        | Rung::PowerOff
        | Rung::FirmwareFix
        | Rung::Diagnose
        | Rung::Reimage => {
            case.attempts.push(attempt(AttemptResult::Running));
            case.state = CaseState::Acting { rung, until: now.plus(settle) };
        }
    }
}

fn end(case: &mut Case, result: AttemptResult, now: Timestamp) {
    if let Some(a) = case.attempts.last_mut().filter(|a| a.result == AttemptResult::Running) {
        a.result = result;
        a.ended_at = Some(now);
    }
}

/// A hold cancels what was begun or queued; nothing of it is done when the hold is over.
pub fn cancel(case: &mut Case, now: Timestamp) {
    end(case, AttemptResult::Cancelled, now);
}

#[cfg(test)]
mod tests;
