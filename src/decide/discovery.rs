//! Which record does a sighting belong to? Evidence is compared, never a single field trusted.
//!
//! | evidence | worth |
//! |---|---|
//! | serial equal | the same, unless UUID and every MAC say otherwise (some vendors ship equal serials) |
//! | system UUID equal | the same, unless the serials differ: two machines with one UUID exist in the field and are not merged |
//! | a MAC equal | the same, unless serial or UUID differ: then a NIC moved from one machine to another |

use crate::domain::id::{Mac, MachineId, Serial, SystemUuid};
use crate::domain::machine::Machine;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub uuid: Option<SystemUuid>,
    pub serial: Option<Serial>,
    pub macs: Vec<Mac>,
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
    serial: Option<bool>,
    uuid: Option<bool>,
    macs: usize,
}

impl<'a> Fit<'a> {
    fn of(e: &Evidence, machine: &'a Machine) -> Self {
        let uuid = |u: Option<SystemUuid>| u.filter(|u| u.is_usable());
        Self {
            machine,
            serial: e.serial.as_ref().zip(machine.serial.as_ref()).map(|(a, b)| a.as_str().eq_ignore_ascii_case(b.as_str())),
            uuid: uuid(e.uuid).zip(uuid(machine.uuid)).map(|(a, b)| a == b),
            macs: e.macs.iter().filter(|m| machine.macs.contains(m)).count(),
        }
    }

    fn is_same(&self) -> bool {
        match (self.serial, self.uuid) {
            (Some(true), Some(false)) => self.macs > 0,
            (Some(true), _) => true,
            (Some(false), _) => false,
            (None, Some(true)) => true,
            (None, Some(false)) => false,
            (None, None) => self.macs > 0,
        }
    }

    fn weight(&self) -> (bool, bool, usize) {
        (self.serial == Some(true), self.uuid == Some(true), self.macs)
    }
}

/// Finds the record for `e` among `candidates` (all machines that share any evidence with it).
pub fn join(e: &Evidence, candidates: &[Machine]) -> Join {
    let mut fits: Vec<Fit<'_>> = candidates.iter().map(|m| Fit::of(e, m)).filter(Fit::is_same).collect();
    fits.sort_by_key(|f| std::cmp::Reverse(f.weight()));
    match fits.as_slice() {
        [] => Join::New { twin_of: twin(e, candidates) },
        [first, second, ..] if first.weight() == second.weight() => {
            Join::Unclear { why: format!("{} and {} fit equally well", first.machine.name, second.machine.name) }
        }
        [best, ..] => {
            // A packet that shares only a UUID may come from a twin: its serial is not known yet.
            if e.source == Source::Packet && best.macs == 0 && best.serial != Some(true) {
                return Join::Unclear { why: format!("only the system UUID is that of {}", best.machine.name) };
            }
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
    use crate::domain::machine::{Lifecycle, Want};
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
            source,
        }
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
}
