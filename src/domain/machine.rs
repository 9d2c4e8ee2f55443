//! A machine: its lifecycle, what is wanted of it, and what is known about it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::bmc::BmcStatus;
use crate::domain::boot::Arch;
use crate::domain::id::{Mac, MachineId, Name, RunId, Serial, SystemUuid};
use crate::domain::inventory::{DiskRef, Inventory};
use crate::domain::place::Place;
use crate::domain::power::{FirmwareKind, text_form};
use crate::domain::time::Timestamp;

/// The coarse state of a machine. Power, health, holds and intents are orthogonal and live beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Seen, or announced by a packing list. Nothing is written to its disks.
    Discovered,
    /// Accepted; being inventoried.
    Enrolling,
    /// In the pool, empty, can be deployed.
    Ready,
    /// Getting its image.
    Deploying,
    /// Runs the system it was given.
    Active,
    /// Being wiped.
    Releasing,
    Repairing,
    /// Taken out of use with a reason; waits for a person.
    Quarantined,
    Retiring,
    /// Proven wiped and gone.
    Retired,
}
text_form!(Lifecycle {
    Discovered = "discovered", Enrolling = "enrolling", Ready = "ready", Deploying = "deploying", Active = "active",
    Releasing = "releasing", Repairing = "repairing", Quarantined = "quarantined", Retiring = "retiring", Retired = "retired",
});

impl Lifecycle {
    pub const ALL: [Self; 10] = [
        Self::Discovered,
        Self::Enrolling,
        Self::Ready,
        Self::Deploying,
        Self::Active,
        Self::Releasing,
        Self::Repairing,
        Self::Quarantined,
        Self::Retiring,
        Self::Retired,
    ];

    /// The longest a machine may stay in a working state before it counts as stuck. `None`: it may rest here.
    /// Derived from the sum of the deadlines of the recipe's steps (`decide::workflow`), rounded up.
    pub fn deadline(self) -> Option<Duration> {
        match self {
            Self::Enrolling => Some(Duration::from_secs(45 * 60)),
            Self::Deploying => Some(Duration::from_secs(3 * 3600)),
            Self::Releasing => Some(Duration::from_secs(24 * 3600)),
            Self::Repairing | Self::Retiring => Some(Duration::from_secs(24 * 3600)),
            Self::Discovered | Self::Ready | Self::Active | Self::Quarantined | Self::Retired => None,
        }
    }

    /// Was accepted by a person or a rule at some time, so its disks may be written by a run that is entitled to.
    pub fn is_accepted(self) -> bool {
        match self {
            Self::Discovered => false,
            Self::Enrolling
            | Self::Ready
            | Self::Deploying
            | Self::Active
            | Self::Releasing
            | Self::Repairing
            | Self::Quarantined
            | Self::Retiring
            | Self::Retired => true,
        }
    }
}

/// What a person or a program may ask of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Accept,
    Deploy,
    Release,
    /// Try the failed step again.
    Retry,
    /// Give up the run; the machine goes back to where that is safe.
    Abort,
    /// Change power through the BMC.
    Power,
    /// Drop the record. Touches nothing on the machine, so not while a run works on it.
    Forget,
}
text_form!(Verb { Accept = "accept", Deploy = "deploy", Release = "release", Retry = "retry", Abort = "abort", Power = "power", Forget = "forget" });

impl Verb {
    pub const ALL: [Self; 7] = [Self::Accept, Self::Deploy, Self::Release, Self::Retry, Self::Abort, Self::Power, Self::Forget];
}

/// What is wanted of a machine. Written by people and rules, read by `decide::workflow`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "want", rename_all = "snake_case")]
pub enum Want {
    #[default]
    Nothing,
    Enroll,
    Deploy(Box<DeploySpec>),
    Release,
}

/// How to set up the system after its image is on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeploySpec {
    pub image: Name,
    /// Hostname; the machine's name when absent.
    #[serde(default)]
    pub hostname: Option<Name>,
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// cloud-init user data, passed through unread.
    #[serde(default)]
    pub user_data: Option<String>,
    /// cloud-init network config (version 1 or 2 YAML), passed through unread.
    #[serde(default)]
    pub network_config: Option<String>,
    /// The disk to write, by serial or WWN; chosen by rule when absent.
    #[serde(default)]
    pub disk: Option<DiskRef>,
}

/// Where a network boot of this machine should lead right now. Set by the running step, cleared when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootIntent {
    /// Into the ramdisk with the agent.
    Ramdisk,
    /// From its own disk.
    LocalDisk,
}
text_form!(BootIntent { Ramdisk = "ramdisk", LocalDisk = "local_disk" });

/// Why a run cannot go on by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Stable word for programs, for example `image_hash_mismatch`.
    pub code: String,
    /// What happened, to which machine, why.
    pub what: String,
    /// What a person can do.
    pub remedy: String,
    pub at: Timestamp,
    pub run: Option<RunId>,
}

/// A hold: automation and people leave the machine alone until it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub owner: String,
    pub reason: String,
    pub until: Option<Timestamp>,
}

/// What lists show of an inventory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    pub manufacturer: Option<String>,
    pub product: Option<String>,
    pub cpu: Option<String>,
    pub threads: u32,
    pub memory_bytes: u64,
    pub disks: u32,
    pub disk_bytes: u64,
    pub nics: u32,
    /// Serials of boards, chassis and fixed disks, by which the machine is known again when its cards or board were changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub part_serials: Vec<Serial>,
    pub at: Timestamp,
}

/// Part serials kept of one machine: enough to know it again by.
const MAX_PART_SERIALS: usize = 64;

/// Serials of boards, chassis and fixed disks that may tell one machine from another.
pub fn part_serials(inventory: &Inventory) -> Vec<Serial> {
    let system = &inventory.system;
    let boards = [&system.board_serial, &system.chassis_serial].into_iter().flatten();
    let disks = inventory.fixed_disks().filter_map(|d| d.serial.as_ref());
    // A chassis or board that repeats the system's serial is no second piece of evidence.
    boards.chain(disks).filter(|s| system.serial.as_ref() != Some(s)).take(MAX_PART_SERIALS).cloned().collect()
}

impl Hardware {
    pub fn of(inventory: &Inventory, at: Timestamp) -> Self {
        Self {
            manufacturer: inventory.system.manufacturer.clone(),
            product: inventory.system.product.clone(),
            cpu: inventory.cpus.first().map(|c| c.model.clone()),
            threads: inventory.cpus.iter().map(|c| c.threads).sum(),
            memory_bytes: inventory.memory_bytes,
            disks: u32::try_from(inventory.fixed_disks().count()).unwrap_or(u32::MAX),
            disk_bytes: inventory.fixed_disks().map(|d| d.size_bytes).fold(0, u64::saturating_add),
            nics: u32::try_from(inventory.nics.len()).unwrap_or(u32::MAX),
            part_serials: part_serials(inventory),
            at,
        }
    }
}

/// Everything stored about one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub id: MachineId,
    /// Raised by every change; a write names the revision it read.
    pub rev: i64,
    pub name: Name,
    pub lifecycle: Lifecycle,
    pub lifecycle_since: Timestamp,
    pub want: Want,
    pub serial: Option<Serial>,
    pub uuid: Option<SystemUuid>,
    pub macs: Vec<Mac>,
    pub arch: Option<Arch>,
    pub firmware: Option<FirmwareKind>,
    pub place: Option<Place>,
    pub boot_intent: Option<BootIntent>,
    /// The gist of the last inventory; the whole is read with `Store::inventory`.
    pub hardware: Option<Hardware>,
    /// The image on its disk, once written.
    pub image: Option<Name>,
    /// Disks that Hostler wrote to since the last proven wipe.
    pub written_disks: Vec<DiskRef>,
    pub fault: Option<Fault>,
    pub hold: Option<Hold>,
    pub bmc: Option<BmcStatus>,
    pub current_run: Option<RunId>,
    pub created_at: Timestamp,
    /// First and last sign of life by itself (packet, agent); `None` while only a packing list knows it.
    pub first_seen_at: Option<Timestamp>,
    pub last_seen_at: Option<Timestamp>,
    pub accepted_at: Option<Timestamp>,
    /// The last decision about this machine, in a sentence.
    pub why: String,
}

impl Machine {
    /// Announced by a packing list and not yet seen.
    pub fn is_expected_only(&self) -> bool {
        self.first_seen_at.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lifecycle_state_has_one_text_form() {
        for state in Lifecycle::ALL {
            assert_eq!(state.to_string().parse::<Lifecycle>(), Ok(state));
        }
    }

    #[test]
    fn only_a_discovered_machine_counts_as_never_accepted() {
        for state in Lifecycle::ALL {
            assert_eq!(state.is_accepted(), state != Lifecycle::Discovered);
        }
    }
}
