//! Which record does a sighting belong to? Evidence is compared, never a single field trusted.
//!
//! | evidence | worth |
//! |---|---|
//! | serial equal | one piece; nothing if UUID and every MAC say otherwise (some vendors ship equal serials) |
//! | system UUID equal | one piece, unless the serials differ: two machines with one UUID exist in the field and are not merged |
//! | every MAC of the record | a piece each, up to two, unless serial or UUID differ: then a NIC moved from one machine to another |
//! | a board's or disk's serial | one piece |
//!
//! A record whose hardware an agent has shown is joined on two pieces that agree; less is unclear. Anyone can type one serial
//! or send one MAC, and the record brings its acceptance along. A record that only a packing list knows has but one to offer.

use crate::domain::id::{Mac, MachineId, Serial, SystemUuid};
use crate::domain::machine::Machine;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub uuid: Option<SystemUuid>,
    pub serial: Option<Serial>,
    pub macs: Vec<Mac>,
    /// Serials of boards and disks, as in [`crate::domain::machine::Hardware::part_serials`].
    pub parts: Vec<Serial>,
    pub source: Source,
}

/// Who saw it, which tells how complete it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A packet or boot script: one MAC, perhaps a UUID and serial. Never makes a record.
    Packet,
    /// The agent in the machine: everything there is.
    Agent,
    /// A packing list: what someone typed.
    PackingList,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// No record fits. `twin_of`: another machine has the same UUID or serial, so the value cannot tell them apart.
    New { twin_of: Option<MachineId> },
    /// This record. `new_macs` are not on it yet; `lost_macs` are on it and no longer in the machine (agent only).
    Same { machine: MachineId, new_macs: Vec<Mac>, lost_macs: Vec<Mac> },
    /// Several records fit equally well, or a packet says too little.
    Unclear { why: String },
}

/// Agreement of one record with the evidence.
struct Fit<'a> {
    machine: &'a Machine,
    source: Source,
    serial: Option<bool>,
    uuid: Option<bool>,
    macs: usize,
    /// Board or disk serials that are in both.
    parts: usize,
}

/// What an agreement amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// Something agrees, but too little to say that it is the same.
    TooLittle,
    Other,
}

impl<'a> Fit<'a> {
    fn of(e: &Evidence, machine: &'a Machine) -> Self {
        let uuid = |u: Option<SystemUuid>| u.filter(|u| u.is_usable());
        let same = |a: &Serial, b: &Serial| a.as_str().eq_ignore_ascii_case(b.as_str());
        let known_parts = machine.hardware.as_ref().map_or(&[][..], |h| &h.part_serials);
        Self {
            machine,
            source: e.source,
            serial: e.serial.as_ref().zip(machine.serial.as_ref()).map(|(a, b)| same(a, b)),
            uuid: uuid(e.uuid).zip(uuid(machine.uuid)).map(|(a, b)| a == b),
            macs: e.macs.iter().filter(|m| machine.macs.contains(m)).count(),
            parts: known_parts.iter().filter(|p| e.parts.iter().any(|q| same(p, q))).count(),
        }
    }

    fn verdict(&self) -> Verdict {
        let fits = match (self.serial, self.uuid) {
            (Some(true), Some(false)) => self.macs > 0 || self.parts > 0,
            (Some(true), _) | (None, Some(true)) => true,
            (Some(false), _) | (None, Some(false)) => false,
            (None, None) => self.macs > 0,
        };
        match fits {
            false => Verdict::Other,
            true if self.is_enough() => Verdict::Same,
            true => Verdict::TooLittle,
        }
    }

    fn is_enough(&self) -> bool {
        match (self.source, &self.machine.hardware) {
            // A packet has one MAC and perhaps the rest; it opens no record, its answer is only where to boot from. The MAC
            // says whose packet it is, or, of a new card, serial and UUID together.
            (Source::Packet, Some(_)) => self.macs > 0 || (self.serial == Some(true) && self.uuid == Some(true)),
            // A packet that shares only a UUID may come from a twin: its serial is not known yet.
            (Source::Packet, None) => self.macs > 0 || self.serial == Some(true),
            (Source::Agent | Source::PackingList, None) => true,
            (Source::Agent | Source::PackingList, Some(_)) => self.pieces() >= 2,
        }
    }

    /// Independent pieces of evidence that agree.
    fn pieces(&self) -> usize {
        let every_mac = self.macs == self.machine.macs.len();
        // One of several cards may have been put into another machine; with the UUID it is a second piece.
        let macs = if every_mac { self.macs.min(2) } else { usize::from(self.macs > 0 && self.uuid == Some(true)) };
        usize::from(self.serial == Some(true)) + usize::from(self.uuid == Some(true)) + macs + usize::from(self.parts > 0)
    }

    fn weight(&self) -> (bool, bool, usize) {
        (self.serial == Some(true), self.uuid == Some(true), self.macs)
    }

    /// What agrees, for a person.
    fn shared(&self) -> String {
        let shared = [
            (self.serial == Some(true), "serial"),
            (self.uuid == Some(true), "system UUID"),
            (self.macs > 0, "a network card"),
            (self.parts > 0, "a board or disk"),
        ];
        shared.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect::<Vec<_>>().join(" and ")
    }
}

/// Finds the record for `e` among `candidates` (all machines that share any evidence with it).
pub fn join(e: &Evidence, candidates: &[Machine]) -> Join {
    let mut fits: Vec<Fit<'_>> = candidates.iter().map(|m| Fit::of(e, m)).filter(|f| f.verdict() != Verdict::Other).collect();
    fits.sort_by_key(|f| std::cmp::Reverse((f.verdict() == Verdict::Same, f.weight())));
    match fits.as_slice() {
        [] => Join::New { twin_of: twin(e, candidates) },
        [best, ..] if best.verdict() != Verdict::Same => {
            Join::Unclear { why: format!("of what is known of {} only {} agrees, which is not enough", best.machine.name, best.shared()) }
        }
        [first, second, ..] if second.verdict() == Verdict::Same && first.weight() == second.weight() => {
            Join::Unclear { why: format!("{} and {} fit equally well", first.machine.name, second.machine.name) }
        }
        [best, ..] => {
            let new_macs = e.macs.iter().copied().filter(|m| !best.machine.macs.contains(m)).collect();
            let lost_macs = match e.source {
                Source::Agent => best.machine.macs.iter().copied().filter(|m| !e.macs.contains(m)).collect(),
                Source::Packet | Source::PackingList => Vec::new(),
            };
            Join::Same { machine: best.machine.id, new_macs, lost_macs }
        }
    }
}

fn twin(e: &Evidence, candidates: &[Machine]) -> Option<MachineId> {
    candidates.iter().map(|m| Fit::of(e, m)).find(|f| f.uuid == Some(true) || f.serial == Some(true)).map(|f| f.machine.id)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::domain::machine::{Hardware, Lifecycle, Want};
    use crate::domain::time::Timestamp;

    pub(crate) fn machine(n: u128, serial: Option<&str>, uuid: Option<u128>, macs: &[u8]) -> Machine {
        Machine {
            id: MachineId(uuid::Uuid::from_u128(n)),
            rev: 1,
            name: format!("m{n}").parse().unwrap(),
            lifecycle: Lifecycle::Discovered,
            lifecycle_since: Timestamp(0),
            want: Want::Nothing,
            serial: serial.map(|s| s.parse().unwrap()),
            uuid: uuid.map(|u| SystemUuid(uuid::Uuid::from_u128(u))),
            macs: macs.iter().map(|b| mac(*b)).collect(),
            arch: None,
            firmware: None,
            place: None,
            boot_intent: None,
            hardware: None,
            image: None,
            written_disks: Vec::new(),
            fault: None,
            hold: None,
            bmc: None,
            current_run: None,
            created_at: Timestamp(0),
            first_seen_at: None,
            last_seen_at: None,
            accepted_at: None,
            why: String::new(),
        }
    }

    fn mac(b: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, b])
    }

    fn evidence(source: Source, serial: Option<&str>, uuid: Option<u128>, macs: &[u8]) -> Evidence {
        Evidence {
            uuid: uuid.map(|u| SystemUuid(uuid::Uuid::from_u128(u))),
            serial: serial.map(|s| s.parse().unwrap()),
            macs: macs.iter().map(|b| mac(*b)).collect(),
            parts: Vec::new(),
            source,
        }
    }

    /// A record whose hardware an agent has shown, with a disk of this serial.
    fn seen(mut machine: Machine, disk: &str) -> Machine {
        machine.hardware = Some(Hardware { part_serials: vec![disk.parse().unwrap()], ..Hardware::default() });
        machine
    }

    fn with_disk(mut evidence: Evidence, disk: &str) -> Evidence {
        evidence.parts.push(disk.parse().unwrap());
        evidence
    }

    const U: u128 = 0x1122_3344_5566_4788_9900_5254_0077_0001;

    #[test]
    fn a_packing_list_record_and_the_agent_of_that_serial_are_one() {
        let listed = machine(1, Some("LAB0001"), None, &[]);
        let seen = evidence(Source::Agent, Some("lab0001"), Some(U), &[1, 2]);
        assert_eq!(
            join(&seen, &[listed]),
            Join::Same { machine: MachineId(uuid::Uuid::from_u128(1)), new_macs: vec![mac(1), mac(2)], lost_macs: vec![] }
        );
    }

    #[test]
    fn a_swapped_nic_is_the_same_machine_with_one_mac_lost_and_one_new() {
        let known = machine(1, Some("LAB0001"), Some(U), &[1, 2]);
        let seen = evidence(Source::Agent, Some("LAB0001"), Some(U), &[1, 3]);
        assert_eq!(
            join(&seen, &[known]),
            Join::Same { machine: MachineId(uuid::Uuid::from_u128(1)), new_macs: vec![mac(3)], lost_macs: vec![mac(2)] }
        );
    }

    #[test]
    fn two_machines_with_the_same_uuid_are_not_merged() {
        let known = machine(1, Some("LAB0001"), Some(U), &[1]);
        let twin = evidence(Source::Agent, Some("LAB0002"), Some(U), &[9]);
        assert_eq!(join(&twin, std::slice::from_ref(&known)), Join::New { twin_of: Some(known.id) });
    }

    #[test]
    fn a_packet_that_shares_only_a_uuid_decides_nothing() {
        let known = machine(1, Some("LAB0001"), Some(U), &[1]);
        assert!(matches!(join(&evidence(Source::Packet, None, Some(U), &[9]), &[known]), Join::Unclear { .. }));
    }

    #[test]
    fn a_nic_that_moved_to_another_machine_does_not_carry_its_identity_along() {
        let known = machine(1, Some("LAB0001"), Some(U), &[1]);
        let other = evidence(Source::Agent, Some("LAB0002"), Some(U + 1), &[1, 5]);
        assert_eq!(join(&other, &[known]), Join::New { twin_of: None });
    }

    #[test]
    fn a_replaced_board_keeps_the_record_when_the_serial_and_a_nic_stayed() {
        let known = machine(1, Some("LAB0001"), Some(U), &[1]);
        let seen = evidence(Source::Agent, Some("LAB0001"), Some(U + 7), &[1]);
        assert!(matches!(join(&seen, &[known]), Join::Same { .. }));
    }

    #[test]
    fn equal_serials_on_machines_that_share_nothing_else_are_two() {
        let known = machine(1, Some("SAME"), Some(U), &[1]);
        let seen = evidence(Source::Agent, Some("SAME"), Some(U + 7), &[2]);
        assert_eq!(join(&seen, std::slice::from_ref(&known)), Join::New { twin_of: Some(known.id) });
    }

    #[test]
    fn no_evidence_joins_nothing() {
        let known = machine(1, None, None, &[]);
        assert_eq!(join(&evidence(Source::Agent, None, None, &[]), &[known]), Join::New { twin_of: None });
    }

    #[test]
    fn one_field_alone_does_not_inherit_a_record_whose_hardware_was_seen() {
        let mut known = seen(machine(1, Some("LAB0001"), Some(U), &[1, 2]), "DISK1");
        for now in [
            evidence(Source::Agent, Some("LAB0001"), None, &[9]),
            evidence(Source::Agent, None, Some(U), &[9]),
            evidence(Source::Agent, None, None, &[1]),
            // One card of two beside the serial: it may have been moved here.
            evidence(Source::Agent, Some("LAB0001"), None, &[1, 9]),
            evidence(Source::Agent, Some("LAB0001"), Some(U + 7), &[1, 9]),
            with_disk(evidence(Source::Agent, Some("LAB0001"), None, &[9]), "DISK2"),
            evidence(Source::Packet, Some("LAB0001"), None, &[9]),
        ] {
            assert!(matches!(join(&now, std::slice::from_ref(&known)), Join::Unclear { .. }), "{now:?}");
        }
        // Without serial and UUID to compare, one card is one piece.
        known = seen(machine(1, None, None, &[1]), "DISK1");
        assert!(matches!(join(&evidence(Source::Agent, Some("EVIL"), Some(U), &[1]), &[known]), Join::Unclear { .. }));
    }

    #[test]
    fn two_pieces_that_agree_are_the_machine() {
        let known = seen(machine(1, Some("LAB0001"), Some(U), &[1, 2]), "DISK1");
        for now in [
            evidence(Source::Agent, Some("LAB0001"), Some(U), &[8, 9]),
            evidence(Source::Agent, Some("lab0001"), None, &[1, 2]),
            evidence(Source::Agent, None, Some(U), &[1, 9]),
            evidence(Source::Agent, None, None, &[1, 2]),
            // A new board with a new NIC: serial and disks stayed.
            with_disk(evidence(Source::Agent, Some("LAB0001"), Some(U + 7), &[9]), "disk1"),
        ] {
            assert!(matches!(join(&now, std::slice::from_ref(&known)), Join::Same { .. }), "{now:?}");
        }
        for packet in [evidence(Source::Packet, None, None, &[1]), evidence(Source::Packet, Some("LAB0001"), Some(U), &[9])] {
            assert!(matches!(join(&packet, std::slice::from_ref(&known)), Join::Same { .. }), "{packet:?}");
        }
    }

    #[test]
    fn a_record_that_only_a_packing_list_knows_is_joined_on_what_it_has() {
        assert!(matches!(
            join(&evidence(Source::Agent, Some("LAB0001"), Some(U), &[9]), &[machine(1, Some("LAB0001"), None, &[])]),
            Join::Same { .. }
        ));
        assert!(matches!(
            join(&evidence(Source::Agent, Some("LAB0001"), Some(U), &[1]), &[machine(1, None, None, &[1])]),
            Join::Same { .. }
        ));
    }
}
