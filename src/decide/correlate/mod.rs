//! Correlation before action: many machines ill at once have one cause, and it is not in them.
//!
//! [`Field::note`] and [`Field::well`] take in who looks ill; [`Field::review`] trips and releases holds. A hold caps its
//! members at what disturbs nobody, cancels what was queued, and is one incident with one ticket.

pub mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::case::{Domain, DomainKind, Symptom};
use crate::domain::id::{IncidentId, MachineId};
use crate::domain::observation::Family;
use crate::domain::policy::Rule;
use crate::domain::time::Timestamp;

/// Ford's window: two failures within it belong to one burst.
pub const BURST: Duration = Duration::from_secs(120);
const SLOW: Duration = Duration::from_secs(15 * 60);
/// The ticket waits this long, so that racks that fall one after another become one feed.
pub const TICKET_AFTER: Duration = Duration::from_secs(120);
/// Good for this long, then the cool-down, then machine after machine.
const GOOD_FOR: Duration = Duration::from_secs(15 * 60);
const COOL_DOWN: Duration = Duration::from_secs(5 * 60);
const RELEASE_EVERY: Duration = Duration::from_secs(5 * 60);

/// The domains one machine is in, and the rack that paces its release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub domains: Vec<Domain>,
    pub rack: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    symptoms: BTreeMap<Symptom, Timestamp>,
    membership: Membership,
}

impl Suspect {
    /// When it began to look ill.
    fn since(&self) -> Timestamp {
        self.symptoms.values().copied().min().unwrap_or_default()
    }

    /// How it looks taken together.
    fn look(&self) -> Look {
        let has = |s| self.symptoms.contains_key(&s);
        match (has(Symptom::BmcSilent), has(Symptom::SystemSilent)) {
            (true, true) => Look::Dead,
            (true, false) => Look::BmcSilent,
            (false, true) => Look::SystemSilent,
            (false, false) if has(Symptom::InputLost) => Look::InputLost,
            (false, false) if has(Symptom::Hot) || has(Symptom::Wet) => Look::Hot,
            (false, false) if has(Symptom::NoBoot) => Look::NoBoot,
            (false, false) => Look::Part,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Dead,
    BmcSilent,
    SystemSilent,
    InputLost,
    Hot,
    NoBoot,
    Part,
}

impl Look {
    /// The domains that can look like this, likeliest first: it breaks ties between domains with the same members.
    fn causes(self) -> &'static [DomainKind] {
        match self {
            Self::Dead => &[
                DomainKind::Rack,
                DomainKind::Pdu,
                DomainKind::Feed,
                DomainKind::Switch,
                DomainKind::Replica,
                DomainKind::Fleet,
                DomainKind::Cooling,
                DomainKind::Model,
                DomainKind::Bios,
            ],
            Self::BmcSilent => &[
                DomainKind::ManagementSwitch,
                DomainKind::ManagementSubnet,
                DomainKind::BmcFirmware,
                DomainKind::Replica,
                DomainKind::Rack,
                DomainKind::Fleet,
                DomainKind::Model,
            ],
            Self::SystemSilent => &[
                DomainKind::Switch,
                DomainKind::Image,
                DomainKind::Bios,
                DomainKind::PolicyVersion,
                DomainKind::Rack,
                DomainKind::Model,
                DomainKind::Pdu,
                DomainKind::Feed,
                DomainKind::Replica,
                DomainKind::Fleet,
            ],
            Self::InputLost => &[DomainKind::Feed, DomainKind::Pdu, DomainKind::Rack, DomainKind::Fleet],
            Self::Hot => &[DomainKind::Cooling, DomainKind::Rack, DomainKind::BmcFirmware, DomainKind::Fleet, DomainKind::Model],
            Self::NoBoot => &[
                DomainKind::Image,
                DomainKind::Bios,
                DomainKind::Model,
                DomainKind::Switch,
                DomainKind::PolicyVersion,
                DomainKind::Rack,
                DomainKind::Replica,
                DomainKind::Fleet,
            ],
            Self::Part => &[
                DomainKind::BmcFirmware,
                DomainKind::Bios,
                DomainKind::Model,
                DomainKind::Switch,
                DomainKind::Rack,
                DomainKind::PolicyVersion,
                DomainKind::Feed,
                DomainKind::Pdu,
                DomainKind::Cooling,
                DomainKind::Image,
                DomainKind::Replica,
                DomainKind::Fleet,
            ],
        }
    }

    fn rank(self, kind: DomainKind) -> Option<usize> {
        self.causes().iter().position(|k| *k == kind)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub domain: Domain,
    pub incident: IncidentId,
    pub opened_at: Timestamp,
    pub members: u32,
    /// Everyone who looked ill in it since it opened.
    pub suspects: BTreeSet<MachineId>,
    last_new_at: Timestamp,
    good_since: Option<Timestamp>,
}

/// One cause outside many machines: one case, one ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub id: IncidentId,
    pub opened_at: Timestamp,
    /// The domain that explains it best.
    pub cause: Domain,
    pub suspects: BTreeSet<MachineId>,
    pub ticketed: bool,
    pub closed_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What was queued for members is cancelled.
    Held {
        domain: Domain,
        incident: IncidentId,
        suspects: u32,
        members: u32,
    },
    /// One ticket for the incident, named after its likeliest cause.
    Ticket {
        incident: IncidentId,
        cause: Domain,
        suspects: u32,
    },
    Released {
        domain: Domain,
        incident: IncidentId,
    },
    Closed {
        incident: IncidentId,
    },
}

/// How a machine looks to its neighbours when this rule speaks; `None` for what never has a common cause.
pub fn symptom_of(rule: &Rule) -> Option<Symptom> {
    if !rule.correlate {
        return None;
    }
    Some(match rule.family {
        Family::Bmc => Symptom::BmcSilent,
        Family::System => Symptom::SystemSilent,
        Family::PowerSupply => Symptom::InputLost,
        Family::Temperature | Family::Fan => Symptom::Hot,
        Family::Liquid => Symptom::Wet,
        Family::Boot => Symptom::NoBoot,
        Family::Voltage
        | Family::Battery
        | Family::Memory
        | Family::Cpu
        | Family::Pcie
        | Family::Drive
        | Family::Raid
        | Family::Network
        | Family::Gpu
        | Family::Log
        | Family::Watchdog
        | Family::Chassis
        | Family::PowerBudget
        | Family::Firmware
        | Family::Report => Symptom::Part,
    })
}

/// Who looks ill, which domains are held, and who is let go when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    suspects: BTreeMap<MachineId, Suspect>,
    pub holds: Vec<Hold>,
    pub incidents: Vec<Incident>,
    /// Members of a released hold that wait for their turn.
    released: BTreeMap<MachineId, Timestamp>,
    dirty: bool,
}

impl Field {
    /// A machine looks ill in this way. Repeated notes change nothing: the first time counts.
    pub fn note(&mut self, machine: MachineId, symptom: Symptom, at: Timestamp, membership: &Membership) {
        let s = self.suspects.entry(machine).or_insert_with(|| Suspect { symptoms: BTreeMap::new(), membership: membership.clone() });
        if let std::collections::btree_map::Entry::Vacant(first) = s.symptoms.entry(symptom) {
            first.insert(at);
            s.membership = membership.clone();
            self.dirty = true;
        }
    }

    /// A machine does not look ill in this way any more.
    pub fn well(&mut self, machine: MachineId, symptom: Symptom) {
        if let Some(s) = self.suspects.get_mut(&machine) {
            s.symptoms.remove(&symptom);
            if s.symptoms.is_empty() {
                self.suspects.remove(&machine);
            }
            self.dirty = true;
        }
    }

    /// Open holds that cover a machine.
    pub fn holds_of<'a>(&'a self, membership: &'a Membership) -> impl Iterator<Item = &'a Hold> {
        self.holds.iter().filter(|h| h.domain.kind == DomainKind::Fleet || membership.domains.contains(&h.domain))
    }

    /// Until when a machine of a released hold waits for its turn.
    pub fn waits_until(&self, machine: MachineId, now: Timestamp) -> Option<Timestamp> {
        self.released.get(&machine).copied().filter(|at| *at > now)
    }

    pub fn is_idle(&self) -> bool {
        self.holds.is_empty() && self.suspects.is_empty() && !self.dirty && self.incidents.iter().all(|i| i.closed_at.is_some())
    }

    /// A person ends a hold, the only way for one of the whole fleet.
    pub fn release_by_person(&mut self, domain: &Domain, now: Timestamp) -> Vec<Event> {
        let mut out = Vec::new();
        while let Some(n) = self.holds.iter().position(|h| h.domain == *domain) {
            let hold = self.holds.remove(n);
            self.let_go(&hold, now);
            out.push(Event::Released { domain: hold.domain.clone(), incident: hold.incident });
        }
        self.close_incidents(now, &mut out);
        out
    }

    /// Trips and releases. `members` counts a domain's machines; `fresh` gives the id of a new incident.
    pub fn review(&mut self, now: Timestamp, members: impl Fn(&Domain) -> u32, mut fresh: impl FnMut() -> IncidentId) -> Vec<Event> {
        let mut out = Vec::new();
        if self.dirty {
            self.dirty = false;
            // First into the holds there are: a rack that falls after its feed is part of the feed's incident.
            self.grow(now);
            for (domain, ill) in self.tripped(now, &members) {
                self.hold(domain, ill, now, &members, &mut fresh, &mut out);
            }
            self.grow(now);
        }
        self.release(now, &mut out);
        self.tickets(now, &members, &mut out);
        self.close_incidents(now, &mut out);
        self.released.retain(|_, at| *at > now);
        self.incidents.retain(|i| i.closed_at.is_none_or(|at| now.since(at) < Duration::from_secs(86_400)));
        out
    }

    /// Domains with enough suspects at once and no hold yet.
    fn tripped(&self, now: Timestamp, members: &impl Fn(&Domain) -> u32) -> Vec<(Domain, BTreeSet<MachineId>)> {
        let mut ill: BTreeMap<&Domain, Vec<(Timestamp, MachineId)>> = BTreeMap::new();
        let fleet = Domain { kind: DomainKind::Fleet, name: String::new() };
        for (id, s) in &self.suspects {
            let look = s.look();
            for d in s.membership.domains.iter().chain([&fleet]) {
                if look.rank(d.kind).is_some() {
                    ill.entry(d).or_default().push((s.since(), *id));
                }
            }
        }
        let mut out = Vec::new();
        for (domain, mut when) in ill {
            if self.holds.iter().any(|h| h.domain == *domain) {
                continue;
            }
            when.sort_unstable();
            let n = members(domain);
            // Most domains that a sick machine is in hold nobody else: the count below would never trip.
            if when.len() < 3 {
                continue;
            }
            let within = |span: Duration| when.iter().filter(|(at, _)| now.since(*at) <= span).count();
            let most_in = |span: Duration| {
                let mut best = 0;
                let mut first = 0;
                for last in 0..when.len() {
                    while when[last].0.since(when[first].0) > span {
                        first += 1;
                    }
                    best = best.max(last - first + 1);
                }
                best
            };
            let burst = 3.max(n.div_ceil(20)) as usize;
            let slow = 3.max(n.div_ceil(5)) as usize;
            // Somebody must be new: old suspects that stayed ill after a release do not trip it again.
            let is_new = within(SLOW) > 0;
            if is_new && (most_in(BURST) >= burst && within(SLOW) >= burst || within(SLOW) >= slow) {
                out.push((domain.clone(), when.into_iter().map(|(_, id)| id).collect()));
            }
        }
        out
    }

    fn hold(
        &mut self,
        domain: Domain,
        ill: BTreeSet<MachineId>,
        now: Timestamp,
        members: &impl Fn(&Domain) -> u32,
        fresh: &mut impl FnMut() -> IncidentId,
        out: &mut Vec<Event>,
    ) {
        let shares = |i: &Incident| i.closed_at.is_none() && i.suspects.intersection(&ill).next().is_some();
        let joined: Vec<IncidentId> = self.incidents.iter().filter(|i| shares(i)).map(|i| i.id).collect();
        let incident = match joined.as_slice() {
            [] => {
                let id = fresh();
                self.incidents.push(Incident {
                    id,
                    opened_at: now,
                    cause: domain.clone(),
                    suspects: ill.clone(),
                    ticketed: false,
                    closed_at: None,
                });
                id
            }
            [first, others @ ..] => {
                // One wider cause explains them all: the oldest incident goes on, the others become part of it.
                let mut all = ill.clone();
                let mut ticketed = false;
                for id in others {
                    if let Some(n) = self.incidents.iter().position(|i| i.id == *id) {
                        let other = self.incidents.remove(n);
                        all.extend(other.suspects);
                        ticketed |= other.ticketed;
                    }
                    for h in self.holds.iter_mut().filter(|h| h.incident == *id) {
                        h.incident = *first;
                    }
                }
                if let Some(i) = self.incidents.iter_mut().find(|i| i.id == *first) {
                    i.suspects.extend(all);
                    i.ticketed |= ticketed;
                }
                *first
            }
        };
        let n = members(&domain);
        out.push(Event::Held { domain: domain.clone(), incident, suspects: u32::try_from(ill.len()).unwrap_or(u32::MAX), members: n });
        self.holds.push(Hold { domain, incident, opened_at: now, members: n, suspects: ill, last_new_at: now, good_since: None });
    }

    /// New suspects join the holds that cover them.
    fn grow(&mut self, now: Timestamp) {
        for h in &mut self.holds {
            let before = h.suspects.len();
            for (id, s) in &self.suspects {
                let inside = h.domain.kind == DomainKind::Fleet || s.membership.domains.contains(&h.domain);
                if inside && s.look().rank(h.domain.kind).is_some() {
                    h.suspects.insert(*id);
                }
            }
            if h.suspects.len() > before {
                h.last_new_at = now;
                if let Some(i) = self.incidents.iter_mut().find(|i| i.id == h.incident) {
                    i.suspects.extend(h.suspects.iter().copied());
                }
            }
        }
    }

    /// Still ill in a hold's way.
    fn still_ill(&self, h: &Hold) -> usize {
        h.suspects.iter().filter(|id| self.suspects.get(id).is_some_and(|s| s.look().rank(h.domain.kind).is_some())).count()
    }

    fn release(&mut self, now: Timestamp, out: &mut Vec<Event>) {
        let mut open = std::mem::take(&mut self.holds);
        let mut go = Vec::new();
        open.retain_mut(|h| {
            // A few that do not come back are sick by themselves (0.5 to 1 % do not survive a power loss): fewer than would
            // trip the domain, and at most a fifth of those that were ill.
            let ill = self.still_ill(h);
            let good = ill * 5 <= h.suspects.len() && now.since(h.last_new_at) >= BURST;
            h.good_since = if good { h.good_since.or(Some(now)) } else { None };
            let over = h.domain.kind != DomainKind::Fleet && h.good_since.is_some_and(|at| now.since(at) >= GOOD_FOR + COOL_DOWN);
            if over {
                go.push(h.clone());
            }
            !over
        });
        self.holds = open;
        for h in go {
            self.let_go(&h, now);
            out.push(Event::Released { domain: h.domain.clone(), incident: h.incident });
        }
    }

    /// Members that are still ill are looked at anew, one per rack every five minutes.
    fn let_go(&mut self, h: &Hold, now: Timestamp) {
        let mut turn: BTreeMap<String, u32> = BTreeMap::new();
        for id in &h.suspects {
            let Some(s) = self.suspects.get(id) else { continue };
            let n = turn.entry(s.membership.rack.clone()).or_default();
            let at = now.plus(RELEASE_EVERY * *n);
            *n += 1;
            let slot = self.released.entry(*id).or_insert(at);
            *slot = (*slot).max(at);
        }
    }

    fn tickets(&mut self, now: Timestamp, members: &impl Fn(&Domain) -> u32, out: &mut Vec<Event>) {
        let holds = &self.holds;
        let suspects = &self.suspects;
        for i in self.incidents.iter_mut().filter(|i| i.closed_at.is_none()) {
            let best = holds
                .iter()
                .filter(|h| h.incident == i.id)
                .map(|h| {
                    // How well the domain's members and the ill ones cover each other (F1, in per mille), then likelihood.
                    let both = h.suspects.len();
                    let all = members(&h.domain) as usize + i.suspects.len();
                    let fit = (2000 * both).checked_div(all).unwrap_or(0);
                    let rank = h.suspects.iter().filter_map(|m| suspects.get(m)).filter_map(|s| s.look().rank(h.domain.kind)).min();
                    (fit, std::cmp::Reverse(rank.unwrap_or(usize::MAX)), h.domain.clone())
                })
                .max();
            if let Some((_, _, cause)) = best {
                i.cause = cause;
            }
            if !i.ticketed && now.since(i.opened_at) >= TICKET_AFTER {
                i.ticketed = true;
                let suspects = u32::try_from(i.suspects.len()).unwrap_or(u32::MAX);
                out.push(Event::Ticket { incident: i.id, cause: i.cause.clone(), suspects });
            }
        }
    }

    fn close_incidents(&mut self, now: Timestamp, out: &mut Vec<Event>) {
        for i in self.incidents.iter_mut().filter(|i| i.closed_at.is_none()) {
            if !self.holds.iter().any(|h| h.incident == i.id) {
                i.closed_at = Some(now);
                out.push(Event::Closed { incident: i.id });
            }
        }
    }
}

#[cfg(test)]
mod tests;
