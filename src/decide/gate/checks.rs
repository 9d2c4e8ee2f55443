//! The fifteen checks.

use std::time::Duration;

use crate::decide::gate::{Drained, Facts, Identity, KillSwitches, Protection, Request, Switch, mode_for};
use crate::decide::policy::lint::forbidden;
use crate::domain::permit::{Check, Tier};
use crate::domain::policy::{ApprovalRule, DrainRule, Mode, Rung, When};
use crate::domain::time::{Timestamp, spoken};

/// A check's no: why, and when asking again may help.
pub(super) struct No {
    pub why: String,
    pub again_at: Option<Timestamp>,
}

type Answer = Result<String, No>;
type Run = fn(&Request, &Facts) -> Answer;

fn no(why: impl Into<String>) -> Answer {
    Err(No { why: why.into(), again_at: None })
}

fn later(why: impl Into<String>, again_at: Timestamp) -> Answer {
    Err(No { why: why.into(), again_at: Some(again_at) })
}

pub(super) const IN_ORDER: [(Check, Run); 15] = [
    (Check::KillSwitch, |_, f| switches(f.kill)),
    (Check::Leadership, leadership),
    (Check::Identity, target),
    (Check::Protected, protected),
    (Check::HumanLock, human_lock),
    (Check::DomainHold, domain_hold),
    (Check::Evidence, evidence),
    (Check::Reverified, reverified),
    (Check::Drained, drained),
    (Check::Conflict, conflict),
    (Check::Window, window),
    (Check::Budget, |r, f| f.usage.check(r.action.rung, &f.pool, f.now).map_err(|(why, again_at)| No { why, again_at })),
    (Check::Breaker, breaker),
    (Check::Approval, approval),
    (Check::DryRun, dry_run),
];

/// Clock error beyond this makes ages and leases meaningless.
const CLOCK_ERROR: Duration = Duration::from_secs(5);
/// A BMC's identity read longer ago than this is read anew before it counts.
const IDENTITY_AGE: Duration = Duration::from_secs(300);
/// Two reads of a fault must lie this far apart before a machine is interrupted.
const APART: Duration = Duration::from_secs(30);
const APPROVAL_LIFE: Duration = Duration::from_secs(4 * 3600);

pub(super) fn switches(kill: KillSwitches) -> Answer {
    for (what, switch) in [("fleet", kill.fleet), ("pool", kill.pool), ("rung", kill.rung)] {
        match switch {
            Switch::Off => {}
            Switch::On => return no(format!("the {what}'s kill switch is on")),
            Switch::Unreadable => return no(format!("the {what}'s kill switch cannot be read, which counts as on")),
        }
    }
    Ok("off".to_owned())
}

fn leadership(r: &Request, f: &Facts) -> Answer {
    match f.leadership.lease_until {
        None => return no("this replica has no lease on the machine"),
        Some(until) if until <= f.now => return no(format!("the lease ran out at {until}")),
        Some(_) => {}
    }
    match f.leadership.clock_error {
        None if r.tier() >= Tier::T2 => no("the clock was not compared with any other"),
        Some(e) if e > CLOCK_ERROR => no(format!("the clock is wrong by {}", spoken(e))),
        None | Some(_) => Ok("lease held, clock sane".to_owned()),
    }
}

fn target(r: &Request, f: &Facts) -> Answer {
    if r.action.machine != f.machine {
        return no("the facts are of another machine than the one asked for");
    }
    identity(&f.identity, r.tier(), f.now)
}

/// Whether the BMC that would be told is that of the machine meant. Below T2 only contradiction refuses; from T2 on the
/// serial or UUID must be said and agree.
pub(super) fn identity(id: &Identity, tier: Tier, now: Timestamp) -> Answer {
    if let (Some(a), Some(b)) = (&id.inventory_serial, &id.bmc_serial)
        && !a.as_str().eq_ignore_ascii_case(b.as_str())
    {
        return no(format!("the BMC says serial {b}, the record says {a}"));
    }
    if let (Some(a), Some(b)) = (&id.inventory_serial, &id.system_serial)
        && !a.as_str().eq_ignore_ascii_case(b.as_str())
    {
        return no(format!("the system says serial {b}, the record says {a}: the BMC may be cabled to another machine"));
    }
    if let (Some(a), Some(b)) = (id.inventory_uuid, id.bmc_uuid)
        && a != b
    {
        return no(format!("the BMC says system UUID {b}, the record says {a}"));
    }
    if let Some((expected, seen)) = id.bmc_mac
        && expected != seen
    {
        return no(format!("the BMC at this address has MAC {seen}, not {expected}"));
    }
    if tier < Tier::T2 {
        return Ok("nothing contradicts".to_owned());
    }
    if id.has_twin {
        return no("another record has the same serial or UUID: they cannot be told apart");
    }
    let by_serial = id.inventory_serial.is_some() && id.bmc_serial.is_some();
    let by_uuid = id.inventory_uuid.is_some() && id.bmc_uuid.is_some();
    if !by_serial && (tier >= Tier::T3 || !by_uuid) {
        return no("the BMC has not proven which machine it is in");
    }
    match id.read_at {
        Some(at) if now.since(at) <= IDENTITY_AGE && at <= now => Ok("serial agrees".to_owned()),
        Some(_) | None => no("the BMC's identity was not read within the last 5 minutes"),
    }
}

fn protected(r: &Request, f: &Facts) -> Answer {
    match &f.protection {
        Protection::Controller if r.tier() >= Tier::T1 && r.action.rung != Rung::Ticket && r.action.rung != Rung::NeedsHands => {
            return no("it runs Hostler itself");
        }
        Protection::Protected { reason } if r.tier() >= Tier::T3 => return no(format!("it is protected: {reason}")),
        Protection::RoleUnknown if r.tier() >= Tier::T3 => return no("nobody said what it is for, so it is protected"),
        Protection::No | Protection::Protected { .. } | Protection::Controller | Protection::RoleUnknown => {}
    }
    if !f.consent && r.tier() >= Tier::T2 {
        return no("whoever uses it has not agreed to be interrupted");
    }
    // Whatever a policy file says: hardware is not reimaged, and a fan is not restarted away.
    if forbidden(r.family, r.action.rung) {
        return no(format!("{} does not mend {}", r.action.rung, r.family));
    }
    Ok("not protected".to_owned())
}

fn human_lock(r: &Request, f: &Facts) -> Answer {
    match &f.human_lock {
        Some(who) if r.tier() >= Tier::T2 || r.action.rung == Rung::BmcReset => no(format!("{who} works on the machine")),
        Some(_) | None => Ok("nobody works on it".to_owned()),
    }
}

fn domain_hold(r: &Request, f: &Facts) -> Answer {
    if r.tier() >= Tier::T2 || r.action.rung == Rung::BmcReset {
        if let Some(d) = f.domain_holds.first() {
            return no(format!("{d} is on hold: the cause is there"));
        }
        if f.unknown && r.tier() >= Tier::T2 {
            return no("the machine is not heard: what is known of it may be old");
        }
    }
    Ok("no hold".to_owned())
}

fn evidence(r: &Request, f: &Facts) -> Answer {
    let p = &r.proof;
    let tier = r.tier();
    if tier == Tier::T0 {
        return Ok("looking needs none".to_owned());
    }
    if p.disputed && tier >= Tier::T2 {
        return no("limits and the BMC's own judgement disagree: neither is trusted");
    }
    let most = Duration::from_secs(if tier == Tier::T1 { 15 * 60 } else { 5 * 60 });
    let fresh = |at: &Timestamp| *at <= f.now && f.now.since(*at) <= most;
    let witnesses = p.witnesses.iter().filter(|(_, at)| fresh(at)).count();
    let fatal = p.positive_fatal.as_ref().is_some_and(fresh);
    let count = format!("{witnesses} independent sources within {}", spoken(most));
    let enough = match tier {
        Tier::T0 => true,
        Tier::T1 => witnesses >= 1,
        Tier::T2 => witnesses >= 2 || (fatal && witnesses >= 1),
        Tier::T3 => witnesses >= 2 && p.restart_failed,
        Tier::T4 => p.human_intent && witnesses >= 2,
    };
    if enough {
        return Ok(count);
    }
    match tier {
        Tier::T0 | Tier::T1 => no(format!("the evidence is too old: {count}")),
        Tier::T2 => no(format!("{count}; two are needed, or one hardware report that names the part")),
        Tier::T3 => no(format!("{count}, restart tried and failed: {}; both are needed", if p.restart_failed { "yes" } else { "no" })),
        Tier::T4 => no(format!("{count}, a person's order: {}; both are needed", if p.human_intent { "yes" } else { "no" })),
    }
}

fn reverified(r: &Request, f: &Facts) -> Answer {
    if r.tier() <= Tier::T1 {
        return Ok("not needed".to_owned());
    }
    match f.reverified_at {
        None => later("the fault was not read again", f.now.plus(APART)),
        Some(at) if at > f.now || f.now.since(at) > Duration::from_secs(60) => {
            later("the fault was last read again more than a minute ago", f.now.plus(Duration::from_secs(60)))
        }
        Some(at) if at.since(r.proof.first_bad) < APART => {
            later("the two reads of the fault lie less than 30 s apart", r.proof.first_bad.plus(APART))
        }
        Some(_) => Ok("read again and still there".to_owned()),
    }
}

fn drained(r: &Request, f: &Facts) -> Answer {
    if r.tier() <= Tier::T1 || r.drain == DrainRule::NotNeeded && matches!(f.drained, Drained::Down) {
        return Ok("nothing to drain".to_owned());
    }
    match (f.drained, r.drain) {
        (Drained::Confirmed, _) => Ok("the workload has left".to_owned()),
        (Drained::Down, _) => Ok("the system is down".to_owned()),
        (Drained::Asked(deadline), DrainRule::OrDeadline) if f.now >= deadline => Ok("the deadline of the drain passed".to_owned()),
        (Drained::Asked(deadline), _) => later("the workload has not left yet", deadline),
        (Drained::NotAsked, _) => no("the workload was not asked to leave"),
    }
}

fn conflict(r: &Request, f: &Facts) -> Answer {
    match f.conflicts.first() {
        Some(what) if r.tier() >= Tier::T2 => no(format!("other work goes on: {what}")),
        Some(_) | None => Ok("no other work".to_owned()),
    }
}

fn window(r: &Request, f: &Facts) -> Answer {
    if r.tier() <= Tier::T1 || f.in_window {
        return Ok("allowed at any time, or in its window".to_owned());
    }
    // Heat and liquid do not wait; they are allowed one thing, to be switched off.
    if r.action.rung == Rung::PowerOff {
        return Ok("an emergency".to_owned());
    }
    match (r.when, f.window_closed_until) {
        (When::Now, None) => Ok("no window is asked for".to_owned()),
        (_, Some(opens)) => later(format!("the pool's window opens at {opens}"), opens),
        (When::Window, None) => no("the step waits for a maintenance window and the pool has none"),
    }
}

fn breaker(r: &Request, f: &Facts) -> Answer {
    if r.tier() <= Tier::T1 {
        return Ok("not needed".to_owned());
    }
    match f.breaker.open(f.now) {
        Some(why) => no(why),
        None => Ok("closed".to_owned()),
    }
}

fn approval(r: &Request, f: &Facts) -> Answer {
    let mode = mode_for(&f.pool, r.action.rung);
    let person = match r.tier() {
        Tier::T0 | Tier::T1 => false,
        Tier::T2 => mode < Mode::Enforce,
        Tier::T3 => match r.requires {
            None => return no("the policy says nothing of what this rung requires"),
            Some(q) if q.stateless && !f.pool.stateless => return no("the pool is not marked stateless"),
            Some(q) => q.approval == ApprovalRule::Person || mode < Mode::Enforce || !f.pool.stateless,
        },
        Tier::T4 => true,
    };
    if !person {
        return Ok("by itself: the pool allows it".to_owned());
    }
    let people = if r.tier() == Tier::T4 && f.is_campaign { 2 } else { 1 };
    match f.approval {
        None => no("a person has to approve it"),
        Some(a) if a.used => no("the approval was used before"),
        Some(a) if a.rung != r.action.rung => no(format!("the approval is for {}", a.rung)),
        Some(a) if a.evidence != r.proof.digest => no("the evidence changed since it was approved"),
        Some(a) if a.at > f.now || f.now.since(a.at) > APPROVAL_LIFE => no("the approval is older than 4 hours"),
        Some(a) if a.people < people => no(format!("{people} people have to approve it, {} did", a.people)),
        Some(a) => Ok(format!("approved by {} at {}", a.people, a.at)),
    }
}

fn dry_run(r: &Request, f: &Facts) -> Answer {
    if mode_for(&f.pool, r.action.rung) == Mode::Observe && r.tier() >= Tier::T1 {
        return no("the pool is only observed");
    }
    Ok("off".to_owned())
}
