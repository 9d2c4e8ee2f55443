use proptest::prelude::*;

use super::*;
use crate::domain::case::{CASE_VERSION, CaseState, Class, DomainKind, Severity};
use crate::domain::observation::{Component, Source};
use crate::domain::permit::Check;
use crate::domain::policy::ApprovalRule;

const NOW: Timestamp = Timestamp(1_795_000_000_000_000);

fn machine(n: u128) -> MachineId {
    MachineId(uuid::Uuid::from_u128(n))
}

fn ago(secs: u64) -> Timestamp {
    NOW.minus(Duration::from_secs(secs))
}

pub(crate) fn request(rung: Rung) -> Request {
    Request {
        action: Action { machine: machine(1), rung },
        case: CaseId(uuid::Uuid::from_u128(7)),
        family: Family::System,
        proof: Proof {
            digest: Sha256([1; 32]),
            witnesses: vec![(Witness::Bmc, ago(20)), (Witness::System, ago(10))],
            positive_fatal: None,
            first_bad: ago(1200),
            restart_failed: true,
            human_intent: true,
            disputed: false,
        },
        policy_version: 3,
        drain: DrainRule::NotNeeded,
        when: When::Now,
        requires: Some(Requires { stateless: true, approval: ApprovalRule::AutoIfPoolAllows }),
    }
}

/// Facts under which everything but retirement is allowed.
pub(crate) fn facts() -> Facts {
    let serial: Serial = "SN1".parse().unwrap();
    Facts {
        now: NOW,
        kill: KillSwitches { fleet: Switch::Off, pool: Switch::Off, rung: Switch::Off },
        leadership: Leadership { lease_until: Some(NOW.plus(Duration::from_secs(30))), clock_error: Some(Duration::ZERO) },
        machine: machine(1),
        identity: Identity {
            inventory_serial: Some(serial.clone()),
            bmc_serial: Some(serial),
            read_at: Some(ago(5)),
            ..Identity::default()
        },
        protection: Protection::No,
        consent: true,
        human_lock: None,
        domain_holds: vec![],
        unknown: false,
        reverified_at: Some(ago(2)),
        drained: Drained::Down,
        conflicts: vec![],
        window_closed_until: None,
        in_window: false,
        usage: Usage {
            rack: budget::Scope { members: 40, in_flight: 0 },
            feed: budget::Scope { members: 240, in_flight: 0 },
            pool: budget::Scope { members: 100, in_flight: 0 },
            pool_available: 100,
            fleet: budget::Scope { members: 1000, in_flight: 0 },
            ..Usage::default()
        },
        breaker: Breaker::default(),
        pool: PoolPolicy { mode: Mode::Enforce, stateless: true, reimage: Mode::Enforce, limits: Default::default() },
        approval: None,
        is_campaign: false,
    }
}

fn outcome(request: &Request, facts: &Facts) -> Result<(), Check> {
    ask(request, facts, uuid::Uuid::from_u128(9)).result.map(|p| assert_eq!(p.record().action, request.action)).map_err(|r| r.check)
}

fn refused(rung: Rung, change: impl FnOnce(&mut Request, &mut Facts)) -> Option<Check> {
    let (mut r, mut f) = (request(rung), facts());
    change(&mut r, &mut f);
    outcome(&r, &f).err()
}

#[test]
fn with_everything_right_a_permit_is_given_and_all_fifteen_checks_are_on_record() {
    for rung in [Rung::ForceRestart, Rung::PowerCycle, Rung::Diagnose, Rung::Reimage] {
        let answer = ask(&request(rung), &facts(), uuid::Uuid::from_u128(9));
        assert_eq!(answer.passed.iter().map(|p| p.check).collect::<Vec<_>>(), Check::ALL, "{rung}");
        assert!(answer.result.is_ok());
    }
}

#[test]
fn each_check_refuses_a_reimage_on_its_own() {
    let twin = |f: &mut Facts| f.identity.has_twin = true;
    type Spoil = fn(&mut Request, &mut Facts);
    let cases: [(Check, Spoil); 38] = [
        (Check::KillSwitch, |_, f| f.kill.fleet = Switch::On),
        (Check::KillSwitch, |_, f| f.kill.pool = Switch::On),
        (Check::KillSwitch, |_, f| f.kill.rung = Switch::Unreadable),
        (Check::Leadership, |_, f| f.leadership.lease_until = None),
        (Check::Leadership, |_, f| f.leadership.lease_until = Some(NOW)),
        (Check::Leadership, |_, f| f.leadership.clock_error = None),
        (Check::Leadership, |_, f| f.leadership.clock_error = Some(Duration::from_secs(366 * 86_400))),
        (Check::Identity, |r, _| r.action.machine = machine(2)),
        (Check::Identity, |_, f| f.identity.bmc_serial = Some("SN2".parse().unwrap())),
        (Check::Identity, |_, f| f.identity.bmc_serial = None),
        (Check::Identity, |_, f| f.identity.system_serial = Some("SN2".parse().unwrap())),
        (Check::Identity, |_, f| f.identity = Identity::default()),
        (Check::Identity, |_, f| f.identity.read_at = Some(ago(301))),
        (Check::Identity, |_, f| {
            f.identity.bmc_mac = Some(("52:54:00:00:00:01".parse().unwrap(), "52:54:00:00:00:02".parse().unwrap()));
        }),
        (Check::Protected, |_, f| f.protection = Protection::Protected { reason: "ceph".into() }),
        (Check::Protected, |_, f| f.protection = Protection::RoleUnknown),
        (Check::Protected, |_, f| f.protection = Protection::Controller),
        (Check::Protected, |_, f| f.consent = false),
        (Check::Protected, |r, _| r.family = Family::Drive),
        (Check::HumanLock, |_, f| f.human_lock = Some("kim".into())),
        (Check::DomainHold, |_, f| f.domain_holds.push(Domain { kind: DomainKind::Rack, name: "r1".into() })),
        (Check::DomainHold, |_, f| f.unknown = true),
        (Check::Evidence, |r, _| r.proof.witnesses.clear()),
        (Check::Evidence, |r, _| r.proof.witnesses[0].1 = ago(301)),
        (Check::Evidence, |r, _| r.proof.restart_failed = false),
        (Check::Evidence, |r, _| r.proof.disputed = true),
        (Check::Reverified, |_, f| f.reverified_at = None),
        (Check::Reverified, |_, f| f.reverified_at = Some(ago(90))),
        (Check::Drained, |_, f| f.drained = Drained::NotAsked),
        (Check::Conflict, |_, f| f.conflicts.push("RAID rebuild".into())),
        (Check::Window, |_, f| f.window_closed_until = Some(NOW.plus(Duration::from_secs(60)))),
        (Check::Budget, |_, f| f.usage.machine.push((Tier::T3, ago(86_400)))),
        (Check::Budget, |_, f| f.usage.canary = budget::Canary { started: 1, passed: 0 }),
        (Check::Budget, |_, f| f.usage.unreadable = true),
        (Check::Breaker, |_, f| (0..3).for_each(|n| f.breaker.record(machine(n), false, ago(60)))),
        (Check::Approval, |r, _| r.requires = None),
        (Check::Approval, |_, f| f.pool.stateless = false),
        (Check::Approval, |_, f| f.pool.reimage = Mode::Recommend),
    ];
    for (n, (check, spoil)) in cases.into_iter().enumerate() {
        assert_eq!(refused(Rung::Reimage, spoil), Some(check), "case {n}");
    }
    assert_eq!(refused(Rung::Reimage, |_, f| twin(f)), Some(Check::Identity));
    assert_eq!(refused(Rung::ForceRestart, |_, f| f.pool.mode = Mode::Observe), Some(Check::Approval));
    assert_eq!(refused(Rung::Cordon, |_, f| f.pool.mode = Mode::Observe), Some(Check::DryRun));
}

#[test]
fn the_first_refusal_is_recorded_and_nothing_behind_it_is_looked_at() {
    let mut f = facts();
    f.human_lock = Some("kim".into());
    f.conflicts.push("backup".into());
    let answer = ask(&request(Rung::Reimage), &f, uuid::Uuid::nil());
    assert_eq!(answer.passed.len(), 4);
    let refusal = answer.result.unwrap_err();
    assert_eq!(refusal.to_string(), "refused by check 5 (human_lock): kim works on the machine");
}

#[test]
fn an_interruption_needs_two_witnesses_or_a_hardware_report_that_names_the_part() {
    assert_eq!(refused(Rung::ForceRestart, |r, _| r.proof.witnesses.truncate(1)), Some(Check::Evidence));
    let fatal = |r: &mut Request, _: &mut Facts| {
        r.proof.witnesses.truncate(1);
        r.proof.positive_fatal = Some(ago(10));
    };
    assert_eq!(refused(Rung::ForceRestart, fatal), None);
    assert_eq!(refused(Rung::Reimage, fatal), Some(Check::Evidence), "a report of hardware is no reason to reimage");
    assert_eq!(refused(Rung::ForceRestart, |r, _| r.proof.first_bad = ago(20)), Some(Check::Reverified));
}

#[test]
fn fans_supplies_and_heat_are_never_restarted_whatever_the_policy_says() {
    for family in Family::ALL.into_iter().filter(|f| !f.restart_may_help()) {
        for rung in Rung::ALL.into_iter().filter(|r| r.restarts()) {
            assert_eq!(refused(rung, |r, _| r.family = family), Some(Check::Protected), "{family} {rung}");
        }
    }
}

#[test]
fn retirement_takes_a_persons_order_and_approval_and_two_people_for_more_than_one() {
    let approve = |people| Approval { evidence: Sha256([1; 32]), rung: Rung::Retire, people, at: ago(60), used: false };
    assert_eq!(refused(Rung::Retire, |_, _| {}), Some(Check::Approval));
    assert_eq!(refused(Rung::Retire, |_, f| f.approval = Some(approve(1))), None);
    let campaign = |people| {
        move |_: &mut Request, f: &mut Facts| {
            f.approval = Some(approve(people));
            f.is_campaign = true;
        }
    };
    assert_eq!(refused(Rung::Retire, campaign(1)), Some(Check::Approval));
    assert_eq!(refused(Rung::Retire, campaign(2)), None);
    assert_eq!(
        refused(Rung::Retire, |r, f| {
            f.approval = Some(approve(2));
            r.proof.human_intent = false;
        }),
        Some(Check::Evidence)
    );
    assert_eq!(
        refused(Rung::Retire, |_, f| {
            f.approval = Some(approve(2));
            f.protection = Protection::Protected { reason: "x".into() };
        }),
        Some(Check::Protected)
    );
}

#[test]
fn an_approval_counts_once_for_its_rung_and_its_evidence_and_for_four_hours() {
    let good = Approval { evidence: Sha256([1; 32]), rung: Rung::Reimage, people: 1, at: ago(60), used: false };
    let with = |a: Approval| {
        refused(Rung::Reimage, move |_, f| {
            f.pool.reimage = Mode::Recommend;
            f.approval = Some(a);
        })
    };
    assert_eq!(with(good), None);
    for bad in [
        Approval { used: true, ..good },
        Approval { rung: Rung::ForceRestart, ..good },
        Approval { evidence: Sha256([2; 32]), ..good },
        Approval { at: ago(4 * 3600 + 1), ..good },
        Approval { at: NOW.plus(Duration::from_secs(9)), ..good },
    ] {
        assert_eq!(with(bad), Some(Check::Approval), "{bad:?}");
    }
}

#[test]
fn limits_hold_for_machine_rack_feed_pool_and_fleet() {
    type Spoil = fn(&mut Usage);
    let cases: [Spoil; 10] = [
        |u| u.machine = vec![(Tier::T2, ago(3600)), (Tier::T2, ago(7200)), (Tier::T2, ago(10_000))],
        |u| u.machine = vec![(Tier::T2, ago(1700))],
        |u| u.machine = (1..7).map(|d| (Tier::T2, ago(d * 86_000))).collect(),
        |u| u.rack.in_flight = 1,
        |u| u.rack_last_cycle = Some(ago(20)),
        |u| u.feed.in_flight = 4,
        |u| u.pool.in_flight = 5,
        |u| u.fleet.in_flight = 10,
        |u| u.fleet_t2_last_hour = 20,
        |u| u.unreadable = true,
    ];
    for (n, spoil) in cases.into_iter().enumerate() {
        assert_eq!(refused(Rung::PowerCycle, |_, f| spoil(&mut f.usage)), Some(Check::Budget), "case {n}");
    }
    assert_eq!(refused(Rung::PowerCycle, |_, f| f.usage.machine = vec![(Tier::T2, ago(1801)), (Tier::T2, ago(9000))]), None);
    // A policy cannot loosen the site's limit.
    assert_eq!(
        refused(Rung::PowerCycle, |_, f| {
            f.usage.pool.in_flight = 5;
            f.pool.limits.disruptive_in_flight_percent = Some(100.0);
        }),
        Some(Check::Budget)
    );
    let available = |_: &mut Request, f: &mut Facts| {
        f.usage.pool_available = 90;
        f.pool.limits.min_available_percent = Some(90.0);
    };
    assert_eq!(refused(Rung::PowerCycle, available), Some(Check::Budget));
}

fn recheck() -> Recheck {
    let f = facts();
    Recheck {
        now: NOW.plus(Duration::from_secs(60)),
        machine: machine(1),
        kill: f.kill,
        identity: f.identity,
        human_lock: None,
        is_held: false,
        evidence: Sha256([1; 32]),
        policy_version: 3,
        nonce_used: false,
    }
}

fn redeemed(change: impl FnOnce(&mut Recheck)) -> Result<Rung, Check> {
    let permit = ask(&request(Rung::Reimage), &facts(), uuid::Uuid::from_u128(9)).result.unwrap();
    let mut seen = recheck();
    change(&mut seen);
    permit.redeem(&seen).map(|w| w.action().rung).map_err(|r| r.check)
}

#[test]
fn a_permit_is_looked_at_again_right_before_the_call() {
    assert_eq!(redeemed(|_| {}), Ok(Rung::Reimage));
    assert_eq!(redeemed(|s| s.kill.fleet = Switch::On), Err(Check::KillSwitch));
    assert_eq!(redeemed(|s| s.kill.fleet = Switch::Unreadable), Err(Check::KillSwitch));
    assert_eq!(redeemed(|s| s.machine = machine(2)), Err(Check::Identity));
    assert_eq!(redeemed(|s| s.identity.bmc_serial = Some("SN2".parse().unwrap())), Err(Check::Identity));
    assert_eq!(redeemed(|s| s.human_lock = Some("kim".into())), Err(Check::HumanLock));
    assert_eq!(redeemed(|s| s.is_held = true), Err(Check::DomainHold));
    assert_eq!(redeemed(|s| s.now = NOW.plus(Duration::from_secs(120))), Err(Check::Leadership));
    assert_eq!(redeemed(|s| s.now = ago(1)), Err(Check::Leadership), "a clock that stepped back");
    assert_eq!(redeemed(|s| s.evidence = Sha256([2; 32])), Err(Check::Evidence));
    assert_eq!(redeemed(|s| s.policy_version = 4), Err(Check::Evidence));
    assert_eq!(redeemed(|s| s.nonce_used = true), Err(Check::Conflict));
}

#[test]
fn evidence_that_only_grows_older_keeps_its_digest_and_a_new_attempt_changes_it() {
    let line = |at| Evidence {
        what: "x".into(),
        source: Source::InBand,
        quality: Quality::Good,
        at,
        bytes: Sha256([3; 32]),
        read_at: "agent".into(),
        code: None,
    };
    let mut case = Case {
        version: CASE_VERSION,
        id: CaseId(uuid::Uuid::from_u128(1)),
        machine: machine(1),
        family: Family::System,
        component: Component::whole_machine(Family::System),
        rule: "system-silent".into(),
        rules: vec![],
        class: Class::Unknown,
        severity: Severity::Critical,
        positive_fatal: false,
        ladder: "hang".into(),
        step: 0,
        state: CaseState::Confirmed,
        since: ago(900),
        confirmed_at: None,
        step_since: ago(600),
        last_bad_at: ago(10),
        unknown_since: None,
        attempts: vec![],
        evidence: vec![line(ago(60))],
        last_refusal: None,
        flaps: vec![],
    };
    let before = Proof::of(&case, &[], None, false).digest;
    case.add_evidence(line(ago(1)));
    assert_eq!(Proof::of(&case, &[], None, false).digest, before);
    case.rule = "no-boot".into();
    assert_ne!(Proof::of(&case, &[], None, false).digest, before);
}

proptest! {
    /// Whatever the facts: no permit for something destructive on a protected, held, locked or unproven machine.
    #[test]
    fn no_facts_give_a_destructive_permit_to_a_machine_that_must_not_be_touched(
        rung in prop::sample::select(vec![Rung::Reimage, Rung::Retire]),
        spoil in 0u8..7, mode in 0u8..3, stateless in any::<bool>(), people in 0u8..4, restart_failed in any::<bool>(),
        intent in any::<bool>(), family in prop::sample::select(Family::ALL.to_vec()), window in any::<bool>(),
    ) {
        let (mut r, mut f) = (request(rung), facts());
        r.family = family;
        r.proof.restart_failed = restart_failed;
        r.proof.human_intent = intent;
        f.in_window = window;
        f.pool.stateless = stateless;
        f.pool.mode = [Mode::Observe, Mode::Recommend, Mode::Enforce][usize::from(mode)];
        f.approval = Some(Approval { evidence: r.proof.digest, rung, people, at: ago(1), used: false });
        match spoil {
            0 => f.protection = Protection::Protected { reason: "x".into() },
            1 => f.human_lock = Some("kim".into()),
            2 => f.domain_holds.push(Domain { kind: DomainKind::Fleet, name: String::new() }),
            3 => f.identity.bmc_serial = Some("OTHER".parse().unwrap()),
            4 => f.kill.fleet = Switch::Unreadable,
            5 => f.protection = Protection::RoleUnknown,
            _ => f.machine = machine(2),
        }
        prop_assert!(outcome(&r, &f).is_err());
    }

    /// Without any spoiling: hardware is never reimaged.
    #[test]
    fn hardware_is_never_reimaged(family in prop::sample::select(Family::ALL.to_vec()), people in 0u8..3) {
        let (mut r, mut f) = (request(Rung::Reimage), facts());
        r.family = family;
        f.approval = Some(Approval { evidence: r.proof.digest, rung: Rung::Reimage, people, at: ago(1), used: false });
        prop_assert_eq!(outcome(&r, &f).is_ok(), family.reimage_may_help());
    }
}
