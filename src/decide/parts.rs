//! What changed among a machine's parts since the BMC was asked last. A part is known by its serial, its place by its source.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::domain::id::Serial;
use crate::domain::part::{Part, PartState};
use crate::domain::sensor::Health;
use crate::domain::time::Timestamp;

/// Answers in a row that must lack a part before it counts as gone (NVM-4): BMCs leave parts out while they start.
const MISSED_UNTIL_GONE: u32 = 2;

/// A part as last seen in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownPart {
    pub part: Part,
    /// Since when this very part (this serial) is in this place.
    pub since: Timestamp,
    pub seen_at: Timestamp,
    /// Answers in a row without it.
    #[serde(default)]
    pub missed: u32,
    #[serde(default)]
    pub gone_at: Option<Timestamp>,
}

/// Something that happened to a part.
#[derive(Clone, Debug, PartialEq)]
pub enum PartChange {
    /// A part in a place that had none, or that we never saw.
    Appeared { part: Part, from: Option<String> },
    /// Another serial in the same place.
    Swapped { old: Box<Part>, new: Part, from: Option<String> },
    /// The place is empty, or the BMC lists it no more.
    Gone { part: Part },
    /// The BMC's own judgement changed.
    Health { part: Part, before: Option<Health> },
}

/// The parts now, and what changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
    pub known: Vec<KnownPart>,
    pub changes: Vec<PartChange>,
}

/// Whether the BMC's list could be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    Whole,
    /// Something that was linked could not be read: what is missing may be there.
    Partial,
}

/// Compares an answer with what is known. The first answer of a machine changes nothing: all of it is simply what is there.
pub fn compare(known: &[KnownPart], seen: Vec<Part>, walk: Walk, now: Timestamp) -> Compared {
    let first = known.is_empty();
    let mut out = Compared::default();
    let mut places: HashMap<&str, &KnownPart> = known.iter().map(|k| (k.part.source.as_str(), k)).collect();
    let where_was: HashMap<&Serial, &Part> =
        known.iter().filter(|k| k.gone_at.is_none()).filter_map(|k| Some((k.part.serial.as_ref()?, &k.part))).collect();
    let mut taken = HashSet::new();
    for part in seen {
        if !taken.insert(part.source.clone()) {
            continue;
        }
        let here = part.state != PartState::Absent;
        let from = |new: &Part| {
            let old = where_was.get(new.serial.as_ref()?)?;
            (old.source != new.source).then(|| place_of(old))
        };
        match places.remove(part.source.as_str()) {
            None => {
                if !first && here {
                    out.changes.push(PartChange::Appeared { from: from(&part), part: part.clone() });
                }
                out.known.push(KnownPart { part, since: now, seen_at: now, missed: 0, gone_at: (!here).then_some(now) });
            }
            Some(old) => {
                let was_here = old.gone_at.is_none();
                let other_serial = matches!((&old.part.serial, &part.serial), (Some(a), Some(b)) if a != b);
                let change = match (was_here, here) {
                    (true, false) => Some(PartChange::Gone { part: old.part.clone() }),
                    (_, true) if other_serial => {
                        Some(PartChange::Swapped { old: Box::new(old.part.clone()), from: from(&part), new: part.clone() })
                    }
                    (false, true) => Some(PartChange::Appeared { from: from(&part), part: part.clone() }),
                    (true, true) if old.part.health != part.health && part.health.is_some() => {
                        Some(PartChange::Health { part: part.clone(), before: old.part.health })
                    }
                    (true, true) | (false, false) => None,
                };
                let since = if other_serial || (here && !was_here) { now } else { old.since };
                out.changes.extend(change);
                // An empty place keeps the part that was in it, so that its serial is still known when another comes.
                let kept = if here { part } else { Part { state: PartState::Absent, ..old.part.clone() } };
                let gone_at = if here { None } else { old.gone_at.or(Some(now)) };
                out.known.push(KnownPart { part: kept, since, seen_at: now, missed: 0, gone_at });
            }
        }
    }
    for old in known.iter().filter(|k| places.contains_key(k.part.source.as_str())) {
        let missed = match walk {
            Walk::Whole => old.missed.saturating_add(1),
            Walk::Partial => old.missed,
        };
        let gone = missed >= MISSED_UNTIL_GONE && old.gone_at.is_none();
        if gone {
            out.changes.push(PartChange::Gone { part: old.part.clone() });
        }
        out.known.push(KnownPart { missed, gone_at: if gone { Some(now) } else { old.gone_at }, ..old.clone() });
    }
    out
}

/// Where a part sits, as a technician reads it.
pub fn place_of(part: &Part) -> String {
    part.place.clone().unwrap_or_else(|| part.name.clone())
}

impl PartChange {
    pub fn part(&self) -> &Part {
        match self {
            Self::Appeared { part, .. } | Self::Gone { part } | Self::Health { part, .. } => part,
            Self::Swapped { new, .. } => new,
        }
    }

    /// Dotted word for the event log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Appeared { .. } => "part.appeared",
            Self::Swapped { .. } => "part.swapped",
            Self::Gone { .. } => "part.gone",
            Self::Health { .. } => "part.health",
        }
    }

    /// A sentence that reads alone.
    pub fn sentence(&self) -> String {
        let serial = |p: &Part| p.serial.as_ref().map_or("without a serial".to_owned(), |s| format!("serial {s}"));
        let moved = |from: &Option<String>| from.as_ref().map(|f| format!("; it was in {f} before")).unwrap_or_default();
        let health = |h: Option<Health>| h.map_or("not said".to_owned(), |h| h.to_string());
        match self {
            Self::Appeared { part, from } => {
                format!("A {} appeared in {}: {} ({}){}.", words(part), place_of(part), part.name, serial(part), moved(from))
            }
            Self::Swapped { old, new, from } => {
                format!("The {} in {} was swapped: {} instead of {}{}.", words(new), place_of(new), serial(new), serial(old), moved(from))
            }
            Self::Gone { part } => format!("The {} in {} is gone: {} ({}).", words(part), place_of(part), part.name, serial(part)),
            Self::Health { part, before } => format!(
                "The BMC judges the {} {} ({}) as {}; before it was {}.",
                words(part),
                part.name,
                serial(part),
                health(part.health),
                health(*before)
            ),
        }
    }
}

fn words(part: &Part) -> String {
    part.kind.to_string().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::part::{PartFacts, PartKind};

    fn at(secs: i64) -> Timestamp {
        Timestamp(secs * 1_000_000)
    }

    fn dimm(slot: u32, serial: Option<&str>) -> Part {
        Part {
            kind: PartKind::Dimm,
            source: format!("/redfish/v1/Systems/1/Memory/{slot}"),
            name: format!("DIMM {slot}"),
            place: Some(format!("PROC 1 DIMM {slot}")),
            manufacturer: None,
            model: None,
            part_number: None,
            serial: serial.map(|s| s.parse().unwrap()),
            firmware: None,
            state: if serial.is_some() { PartState::Present } else { PartState::Absent },
            health: Some(Health::Ok),
            facts: PartFacts::default(),
        }
    }

    fn kinds(c: &Compared) -> Vec<&'static str> {
        c.changes.iter().map(PartChange::kind).collect()
    }

    #[test]
    fn the_first_answer_is_what_is_there_and_no_event() {
        let first = compare(&[], vec![dimm(1, Some("AAA1")), dimm(2, None)], Walk::Whole, at(0));
        assert_eq!((kinds(&first), first.known.len()), (vec![], 2));
        let same = compare(&first.known, vec![dimm(1, Some("AAA1")), dimm(2, None)], Walk::Whole, at(300));
        assert_eq!(kinds(&same), Vec::<&str>::new());
        assert_eq!(same.known[0].since, at(0));
    }

    #[test]
    fn another_serial_in_the_same_place_is_a_swap() {
        let first = compare(&[], vec![dimm(1, Some("AAA1"))], Walk::Whole, at(0));
        let second = compare(&first.known, vec![dimm(1, Some("BBB2"))], Walk::Whole, at(300));
        assert_eq!(kinds(&second), ["part.swapped"]);
        let said = second.changes[0].sentence();
        assert!(said.contains("BBB2 instead of serial AAA1") && said.contains("PROC 1 DIMM 1"), "{said}");
        assert_eq!(second.known[0].since, at(300), "the new part starts clean");
    }

    #[test]
    fn a_part_pulled_and_another_put_in_is_a_swap_too() {
        let first = compare(&[], vec![dimm(1, Some("AAA1"))], Walk::Whole, at(0));
        let empty = compare(&first.known, vec![dimm(1, None)], Walk::Whole, at(300));
        assert_eq!(kinds(&empty), ["part.gone"]);
        let filled = compare(&empty.known, vec![dimm(1, Some("BBB2"))], Walk::Whole, at(600));
        assert_eq!(kinds(&filled), ["part.swapped"]);
        let back = compare(&empty.known, vec![dimm(1, Some("AAA1"))], Walk::Whole, at(600));
        assert_eq!(kinds(&back), ["part.appeared"]);
    }

    #[test]
    fn a_part_that_moved_says_where_it_was() {
        let first = compare(&[], vec![dimm(1, Some("AAA1")), dimm(2, None)], Walk::Whole, at(0));
        let second = compare(&first.known, vec![dimm(1, None), dimm(2, Some("AAA1"))], Walk::Whole, at(300));
        assert_eq!(kinds(&second), ["part.gone", "part.appeared"]);
        assert!(second.changes[1].sentence().contains("it was in PROC 1 DIMM 1"), "{}", second.changes[1].sentence());
    }

    #[test]
    fn c1_a_part_left_out_once_is_not_gone() {
        let first = compare(&[], vec![dimm(1, Some("AAA1")), dimm(2, Some("BBB2"))], Walk::Whole, at(0));
        let once = compare(&first.known, vec![dimm(2, Some("BBB2"))], Walk::Whole, at(300));
        assert_eq!(kinds(&once), Vec::<&str>::new());
        let twice = compare(&once.known, vec![dimm(2, Some("BBB2"))], Walk::Whole, at(600));
        assert_eq!(kinds(&twice), ["part.gone"]);
        let unread = compare(&once.known, vec![dimm(2, Some("BBB2"))], Walk::Partial, at(600));
        assert_eq!(kinds(&unread), Vec::<&str>::new(), "what could not be read is unknown, not gone");
        let still = compare(&twice.known, vec![dimm(2, Some("BBB2"))], Walk::Whole, at(900));
        assert_eq!(kinds(&still), Vec::<&str>::new(), "said once");
    }

    #[test]
    fn a_changed_judgement_is_said_and_a_missing_one_is_not_health() {
        let first = compare(&[], vec![dimm(1, Some("AAA1"))], Walk::Whole, at(0));
        let ill = Part { health: Some(Health::Critical), ..dimm(1, Some("AAA1")) };
        assert_eq!(kinds(&compare(&first.known, vec![ill.clone()], Walk::Whole, at(300))), ["part.health"]);
        let unsaid = Part { health: None, ..ill };
        assert_eq!(kinds(&compare(&first.known, vec![unsaid], Walk::Whole, at(300))), Vec::<&str>::new());
    }
}
