use proptest::prelude::*;

use super::intake::intake;
use super::*;
use crate::decide::gate;
use crate::decide::health::{Change, Finding};
use crate::decide::policy::default_policy;
use crate::domain::case::{Evidence, Severity};
use crate::domain::id::{CaseId, IncidentId, MachineId, Sha256};
use crate::domain::observation::{Component, Quality, Source};
use crate::domain::permit::Check;
use crate::domain::policy::Policy;

fn at(secs: i64) -> Timestamp {
    Timestamp((1_790_000_000 + secs) * 1_000_000)
}

fn machine() -> MachineId {
    MachineId(uuid::Uuid::from_u128(1))
}

/// Read once: these tests climb thousands of steps.
static POLICY: std::sync::LazyLock<Policy> = std::sync::LazyLock::new(|| default_policy().unwrap());

fn policy() -> &'static Policy {
    &POLICY
}

fn finding(rule: &str, change: Change, secs: i64) -> Finding {
    let p = policy();
    let family = p.rule(rule).unwrap().family;
    Finding {
        rule: rule.into(),
        component: Component::whole_machine(family),
        change,
        at: at(secs),
        since: at(0),
        evidence: Some(Evidence {
            what: "x".into(),
            source: Source::InBand,
            quality: Quality::Good,
            at: at(secs),
            bytes: Sha256([1; 32]),
            read_at: "agent".into(),
            code: None,
        }),
        disputed: false,
        reread: None,
        why: "x".into(),
    }
}

fn case(rule: &str) -> Case {
    let f = finding(rule, Change::Raised, 300);
    intake(None, None, &f, policy(), machine(), CaseId(uuid::Uuid::from_u128(2))).unwrap()
}

fn facts(case: &Case, secs: i64) -> Facts {
    Facts {
        now: at(secs),
        ladder: policy().ladder(&case.ladder).unwrap().clone(),
        case: case.clone(),
        pool: PoolPolicy { mode: Mode::Enforce, stateless: true, reimage: Mode::Enforce, limits: Default::default() },
        signals: Signals::Bad,
        good_since: None,
        disputed: false,
        meaning: (case.family == Family::System).then_some(Meaning::MachineFault),
        held: None,
        waits_until: None,
        human_lock: None,
        agent_back: false,
        bmc_back: false,
        codes: vec![],
        diagnosis: None,
        mended_at: None,
    }
}

/// Climbs a ladder with a gate that always says yes and a machine that never gets well; gives the rungs taken.
fn rungs(rule: &str, mut change: impl FnMut(&mut Facts)) -> Vec<Rung> {
    let mut c = case(rule);
    let mut out = Vec::new();
    let mut t = 300;
    for _ in 0..400 {
        let mut f = facts(&c, t);
        if let CaseState::Acting { rung: Rung::Diagnose, .. } = c.state {
            f.diagnosis = Some(Diagnosis::Passed);
        }
        change(&mut f);
        let d = decide(&f);
        match &d.next {
            Next::Ask(a) => {
                out.push(a.rung);
                begun(&mut c, a.rung, &f.ladder, at(t));
            }
            _ => apply(&mut c, &d, &f.ladder, at(t)),
        }
        t += 300;
    }
    out
}

#[test]
fn a_hang_is_watched_restarted_cycled_diagnosed_reimaged_and_given_to_hands_in_this_order() {
    assert_eq!(rungs("system-silent", |_| {}), [Rung::ForceRestart, Rung::PowerCycle, Rung::Diagnose, Rung::Reimage, Rung::NeedsHands]);
}

#[test]
fn a_component_that_the_diagnosis_names_goes_to_hands_and_not_to_reimage() {
    let seen = rungs("system-silent", |f| {
        if f.diagnosis.is_some() {
            f.diagnosis = Some(Diagnosis::Failed("DIMM A1".into()));
        }
    });
    assert_eq!(seen, [Rung::ForceRestart, Rung::PowerCycle, Rung::Diagnose, Rung::NeedsHands]);
}

#[test]
fn no_rule_of_the_shipped_policy_restarts_fans_supplies_or_heat_or_reimages_hardware() {
    for rule in &policy().rules {
        for rung in rungs(&rule.id, |_| {}) {
            assert!(!rung.restarts() || rule.family.restart_may_help(), "{}: {rung}", rule.id);
            assert!(rung != Rung::Reimage || rule.family.reimage_may_help(), "{}: {rung}", rule.id);
            assert_ne!(rung, Rung::Retire, "{}", rule.id);
        }
    }
}

#[test]
fn what_silence_means_decides_before_the_ladder() {
    for meaning in [Meaning::SystemsNetwork, Meaning::RackLost, Meaning::SwitchedOff, Meaning::Unclear, Meaning::BmcSick] {
        assert_eq!(rungs("system-silent", |f| f.meaning = Some(meaning)), vec![], "{meaning:?}");
    }
    assert_eq!(rungs("system-silent", |f| f.meaning = Some(Meaning::Dead)), [Rung::NeedsHands]);
    assert_eq!(rungs("bmc-silent", |f| f.meaning = Some(Meaning::BmcSick))[..2], [Rung::BmcReset, Rung::BmcReset]);
    assert_eq!(rungs("bmc-silent", |f| f.meaning = Some(Meaning::ManagementNetwork)), vec![]);
}

#[test]
fn a_hold_cancels_what_runs_and_afterwards_only_fresh_evidence_counts() {
    let mut c = case("system-silent");
    let by = HeldBy::Domain { incident: IncidentId(uuid::Uuid::nil()), name: "rack 1".into() };
    let mut f = facts(&c, 1000);
    f.held = Some(by.clone());
    let d = decide(&f);
    assert_eq!(d.next, Next::Become(CaseState::Held(by.clone())));
    apply(&mut c, &d, &f.ladder, at(1000));
    let mut f = facts(&c, 2000);
    f.held = Some(by);
    assert_eq!(decide(&f).next, Next::Nothing);
    let mut f = facts(&c, 3000);
    f.waits_until = Some(at(3300));
    assert_eq!((decide(&f).next, decide(&f).wake_at), (Next::Nothing, Some(at(3300))));
    let f = facts(&c, 3300);
    let d = decide(&f);
    apply(&mut c, &d, &f.ladder, at(3300));
    assert_eq!((c.state.clone(), c.evidence.len(), c.step_since), (CaseState::Confirmed, 0, at(3300)));
    assert_eq!(gate::Proof::of(&c, &[], None, false).witnesses, vec![]);
    let mut f = facts(&c, 3300);
    f.case.state = CaseState::Held(HeldBy::Domain { incident: IncidentId(uuid::Uuid::nil()), name: "x".into() });
    f.signals = Signals::Good;
    assert_eq!(decide(&f).next, Next::Become(CaseState::Closed { how: Closed::WithDomain }));
}

#[test]
fn silence_ends_neither_a_case_nor_its_probation() {
    let c = case("psu-failed");
    let mut f = facts(&c, 900);
    f.signals = Signals::Unknown;
    assert!(!matches!(decide(&f).next, Next::Become(CaseState::Closed { .. })));
    f.case.state = CaseState::Probation { until: at(1000) };
    f.now = at(9_000_000);
    assert_eq!(decide(&f).next, Next::Nothing);
}

#[test]
fn a_relapse_in_probation_takes_the_next_rung_and_a_relapse_later_goes_on_behind_what_helped() {
    let mut c = case("system-silent");
    let f = facts(&c, 1000);
    c.step = 1;
    begun(&mut c, Rung::ForceRestart, &f.ladder, at(1000));
    let mut f = facts(&c, 1300);
    f.signals = Signals::Good;
    assert_eq!(decide(&f).next, Next::Nothing, "a log that says nothing new proves nothing before the machine is back");
    f.agent_back = true;
    let d = decide(&f);
    apply(&mut c, &d, &f.ladder, at(1300));
    assert!(matches!(c.state, CaseState::Probation { .. }));
    let f = facts(&c, 1500);
    let d = decide(&f);
    assert_eq!(d.next, Next::Step(2));
    let mut f = facts(&c, 1300 + 3600);
    f.signals = Signals::Good;
    f.good_since = Some(at(1300));
    let d = decide(&f);
    assert_eq!(d.next, Next::Become(CaseState::Closed { how: Closed::Repaired }));
    apply(&mut c, &d, &f.ladder, f.now);
    let again =
        intake(None, Some(&c), &finding("system-silent", Change::Raised, 90_000), policy(), machine(), CaseId(uuid::Uuid::nil())).unwrap();
    assert_eq!(again.step, 2);
}

#[test]
fn an_alerts_start_is_the_cases_and_no_later_report_moves_it() {
    let mut c = Some(case("psu-failed"));
    for n in 1..50 {
        let mut f = finding("psu-failed", Change::StillBad, 300 + n * 60);
        f.since = at(300 + n * 60);
        c = intake(c, None, &f, policy(), machine(), CaseId(uuid::Uuid::nil()));
    }
    assert_eq!(c.unwrap().since, at(0));
}

#[test]
fn the_graver_rule_takes_the_case_over() {
    let c =
        intake(Some(case("mem-ce-rate")), None, &finding("mem-ue", Change::Raised, 600), policy(), machine(), CaseId(uuid::Uuid::nil()));
    let c = c.unwrap();
    assert_eq!((c.rule.as_str(), c.ladder.as_str(), c.severity, c.rules.len()), ("mem-ue", "mem-ue", Severity::Critical, 2));
}

#[test]
fn a_family_that_flaps_is_frozen() {
    let mut before = case("link-down");
    before.state = CaseState::Closed { how: Closed::ByItself };
    for n in 1..=3 {
        let f = finding("link-down", Change::Raised, n * 3600);
        before = intake(None, Some(&before), &f, policy(), machine(), CaseId(uuid::Uuid::nil())).unwrap();
        if n < 3 {
            assert_eq!(before.state, CaseState::Confirmed);
            before.state = CaseState::Closed { how: Closed::ByItself };
        }
    }
    assert_eq!(before.state, CaseState::Held(HeldBy::Flapping));
}

#[test]
fn an_observed_pool_gets_shadows_and_no_action() {
    let c = case("psu-failed");
    let mut f = facts(&c, 900);
    f.pool.mode = Mode::Observe;
    assert_eq!(decide(&f).next, Next::Shadow(Rung::Ticket));
}

#[test]
fn the_same_inputs_give_the_same_record_byte_by_byte() {
    let mut c = case("system-silent");
    c.step = 1;
    let f = facts(&c, 2000);
    let stored: Facts = serde_json::from_str(&serde_json::to_string(&f).unwrap()).unwrap();
    let make = |f: &Facts| {
        let d = decide(f);
        let (r, mut g) = (gate::tests::request(Rung::ForceRestart), gate::tests::facts());
        g.human_lock = Some("kim".into());
        let answer = gate::ask(&r, &g, uuid::Uuid::nil());
        assert_eq!(answer.result.as_ref().err().map(|r| r.check), Some(Check::HumanLock));
        serde_json::to_string(&record::record(f, &d, Some(&answer), &f.case, 1, "test")).unwrap()
    };
    assert_eq!(make(&f), make(&stored));
    assert!(make(&f).contains("kim works on the machine"));
}

proptest! {
    /// Whatever the state and the facts: power, fans, heat and liquid are never restarted, hardware is never reimaged.
    #[test]
    fn no_path_restarts_what_a_restart_does_not_mend(
        rule in prop::sample::select(policy().rules.clone()), step in 0usize..8, ladder in prop::sample::select(policy().ladders.clone()),
        signals in prop::sample::select(vec![Signals::Good, Signals::Unknown, Signals::Bad]), secs in 0i64..10_000_000,
        agent in any::<bool>(), disputed in any::<bool>(),
    ) {
        let mut c = case(&rule.id);
        c.step = step;
        let mut f = facts(&c, secs);
        // Even under a ladder that belongs to something else.
        f.ladder = ladder;
        f.signals = signals;
        f.agent_back = agent;
        f.disputed = disputed;
        if let Next::Ask(a) = decide(&f).next {
            prop_assert!(!a.rung.restarts() || rule.family.restart_may_help());
            prop_assert!(a.rung != Rung::Reimage || rule.family.reimage_may_help());
        }
    }
}
