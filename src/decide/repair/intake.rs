//! Findings to cases: one open case per machine and family.

use std::time::Duration;

use crate::decide::health::{Change, Finding};
use crate::domain::case::{CASE_VERSION, Case, CaseState, Closed, HeldBy};
use crate::domain::id::{CaseId, MachineId};
use crate::domain::policy::{Policy, Rule};
use crate::domain::time::Timestamp;

/// Three times from well to suspect within a day is flapping: the ladder stands still.
const FLAPS: usize = 3;
const DAY: Duration = Duration::from_secs(86_400);
/// A repaired component is watched this long: ill again, it goes on at the rung after the one that helped.
const WATCHED: Duration = Duration::from_secs(30 * 86_400);

/// What a finding does to the family's open case. `fresh`: the id of a new case; `before`: the family's last closed case.
/// `None`: there is no case and none is needed.
pub fn intake(
    open: Option<Case>,
    before: Option<&Case>,
    finding: &Finding,
    policy: &Policy,
    machine: MachineId,
    fresh: CaseId,
) -> Option<Case> {
    let Some(rule) = policy.rule(&finding.rule) else { return open };
    let case = match open {
        Some(mut case) => {
            update(&mut case, finding, rule);
            case
        }
        None => match finding.change {
            Change::Suspect | Change::Raised | Change::StillBad => new_case(before, finding, rule, machine, fresh),
            Change::Dropped | Change::Cleared | Change::Historical | Change::Unknown => return None,
        },
    };
    Some(case)
}

fn new_case(before: Option<&Case>, f: &Finding, rule: &Rule, machine: MachineId, id: CaseId) -> Case {
    let confirmed = f.change != Change::Suspect;
    // The same component, mended by us not long ago: what helped then did not last.
    let again = before.filter(|b| {
        b.rule == rule.id
            && b.component.key() == f.component.key()
            && b.state == CaseState::Closed { how: Closed::Repaired }
            && f.at.since(b.step_since) <= WATCHED
    });
    let mut flaps: Vec<Timestamp> =
        before.map(|b| b.flaps.iter().copied().filter(|at| f.at.since(*at) < DAY).collect()).unwrap_or_default();
    if before.is_some_and(|b| {
        b.state != CaseState::Closed { how: Closed::NeverConfirmed } && b.state != CaseState::Closed { how: Closed::WithDomain }
    }) {
        flaps.push(f.at);
    }
    let mut case = Case {
        version: CASE_VERSION,
        id,
        machine,
        family: f.component.family,
        component: f.component.clone(),
        rule: rule.id.clone(),
        rules: vec![rule.id.clone()],
        class: rule.class,
        severity: rule.severity,
        positive_fatal: rule.positive_fatal,
        ladder: rule.ladder.clone(),
        step: again.map_or(0, |b| b.step + 1),
        state: if confirmed { CaseState::Confirmed } else { CaseState::Suspect },
        since: f.since,
        confirmed_at: confirmed.then_some(f.at),
        step_since: f.at,
        last_bad_at: f.at,
        unknown_since: None,
        attempts: vec![],
        evidence: f.evidence.iter().cloned().collect(),
        last_refusal: None,
        flaps,
    };
    if confirmed {
        freeze_if_flapping(&mut case);
    }
    case
}

fn freeze_if_flapping(case: &mut Case) {
    if case.flaps.len() >= FLAPS {
        case.state = CaseState::Held(HeldBy::Flapping);
    }
}

fn update(case: &mut Case, f: &Finding, rule: &Rule) {
    if let Some(e) = &f.evidence {
        case.add_evidence(e.clone());
    }
    match f.change {
        Change::Suspect => case.last_bad_at = f.at,
        Change::Raised | Change::StillBad => {
            case.last_bad_at = f.at;
            case.unknown_since = None;
            if !case.rules.contains(&rule.id) {
                case.rules.push(rule.id.clone());
            }
            let first = case.state == CaseState::Suspect;
            let graver = (rule.severity, rule.class) > (case.severity, case.class) && rule.id != case.rule;
            // A suspicion's rule is only the first to speak; the rule that is raised first owns the case.
            if first || graver {
                let new_ladder = case.ladder != rule.ladder;
                case.rule.clone_from(&rule.id);
                case.ladder.clone_from(&rule.ladder);
                case.class = rule.class;
                case.severity = rule.severity;
                case.component = f.component.clone();
                let idle = matches!(case.state, CaseState::Suspect | CaseState::Confirmed | CaseState::NeedsHands);
                if new_ladder && idle {
                    case.step = 0;
                    case.step_since = f.at;
                    case.state = CaseState::Confirmed;
                }
            }
            case.positive_fatal |= rule.positive_fatal;
            if first {
                case.state = CaseState::Confirmed;
                case.confirmed_at = Some(f.at);
                case.step_since = f.at;
                freeze_if_flapping(case);
            }
        }
        Change::Dropped => {
            if case.state == CaseState::Suspect {
                case.state = CaseState::Closed { how: Closed::NeverConfirmed };
            }
        }
        Change::Unknown => case.unknown_since = case.unknown_since.or(Some(f.at)),
        // Whether the whole family is well again is asked of the watch, not of one rule.
        Change::Cleared | Change::Historical => {}
    }
}
