//! Firmware components, update files and the long way of an update: verified, flashed, applied when the component's nature or
//! the request says so, lost when the power goes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::part::PartKind;
use crate::domain::time::Timestamp;
use crate::sim::bmc::board::parts::BoardPart;

/// When new firmware of a component runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// The BMC's own: it restarts itself.
    WithTheBmc,
    /// Flashed during the next power-on self test of the machine (BIOS, CPLD).
    AtHostReset,
    AtOnce,
}

#[derive(Clone, Debug)]
pub struct Component {
    /// Last segment of its URI.
    pub id: String,
    pub name: String,
    pub version: String,
    pub software_id: String,
    pub applies: Applies,
    /// Id of the part it runs on.
    pub part: Option<String>,
    /// Power went while it was written: only another update helps.
    pub torn: bool,
}

/// `@Redfish.OperationApplyTime` of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyTime {
    Immediate,
    OnReset,
}

/// How long the stages of an update take, in the machine's time.
pub const VERIFY: Duration = Duration::from_secs(8);
pub const FLASH: Duration = Duration::from_secs(90);
pub const FLASH_IN_POST: Duration = Duration::from_secs(60);
/// A BMC restarts for minutes: long enough that a client must cope.
pub const RESTART: Duration = Duration::from_secs(100);

/// Where an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The BMC is still getting the file.
    Fetching,
    Verifying {
        until: Timestamp,
    },
    Flashing {
        from: Timestamp,
        until: Timestamp,
    },
    /// Since this many boots of the machine.
    WaitingForReset {
        boots: u64,
    },
    FlashingInPost {
        from: Timestamp,
        until: Timestamp,
    },
    /// The BMC is away and runs the new version when it is back.
    Restarting {
        until: Timestamp,
    },
    Completed,
    Failed,
}

impl Stage {
    pub fn is_over(self) -> bool {
        match self {
            Self::Completed | Self::Failed => true,
            Self::Fetching
            | Self::Verifying { .. }
            | Self::Flashing { .. }
            | Self::WaitingForReset { .. }
            | Self::FlashingInPost { .. }
            | Self::Restarting { .. } => false,
        }
    }

    /// Redfish `TaskState`.
    pub fn task_state(self) -> &'static str {
        match self {
            Self::Fetching => "Starting",
            Self::Verifying { .. } | Self::Flashing { .. } | Self::FlashingInPost { .. } | Self::Restarting { .. } => "Running",
            Self::WaitingForReset { .. } => "Pending",
            Self::Completed => "Completed",
            Self::Failed => "Exception",
        }
    }

    pub fn percent(self, now: Timestamp) -> u8 {
        let share = |from: Timestamp, until: Timestamp, low: f64, high: f64| {
            let all = until.since(from).as_secs_f64().max(0.001);
            (low + (high - low) * (now.since(from).as_secs_f64() / all).min(1.0)) as u8
        };
        match self {
            Self::Fetching | Self::Failed => 0,
            Self::Verifying { .. } => 5,
            Self::Flashing { from, until } => share(from, until, 10.0, 90.0),
            Self::WaitingForReset { .. } => 50,
            Self::FlashingInPost { from, until } => share(from, until, 55.0, 95.0),
            Self::Restarting { .. } => 95,
            Self::Completed => 100,
        }
    }
}

/// One update and how it goes. The BMC shows it as a task.
#[derive(Clone, Debug)]
pub struct Update {
    pub id: u32,
    pub stage: Stage,
    /// Known once the file is read.
    pub file: Option<FirmwareFile>,
    pub apply: ApplyTime,
    pub began: Timestamp,
    pub ended: Option<Timestamp>,
    /// Message id and sentence, oldest first.
    pub messages: Vec<(&'static str, String)>,
    /// A fault that somebody ordered: it breaks off in the middle of the flash.
    pub will_fail: bool,
}

/// What an update file of the simulated machines says about itself. A real one is signed; this one has a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareFile {
    /// Id in the firmware inventory.
    pub component: String,
    /// The machine's model, as the BMC tells it.
    pub model: String,
    pub version: String,
}

const MAGIC: &str = "hostler-sim-firmware 1";

impl FirmwareFile {
    /// The bytes of an update file with `size` bytes of payload.
    pub fn bytes(&self, size: usize) -> Vec<u8> {
        let head = serde_json::json!({"component": self.component, "model": self.model, "version": self.version});
        let mut seed = Sha256::digest(head.to_string().as_bytes()).to_vec();
        let mut payload = Vec::with_capacity(size + seed.len());
        while payload.len() < size {
            payload.extend_from_slice(&seed);
            seed = Sha256::digest(&seed).to_vec();
        }
        payload.truncate(size);
        let mut out = format!("{MAGIC}\n{head}\n{}\n", hex::encode(Sha256::digest(&payload))).into_bytes();
        out.extend_from_slice(&payload);
        out
    }

    /// Reads a file; `Err` is what the BMC says about it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = bytes;
        let mut line = || {
            let end = rest.iter().take(4096).position(|b| *b == b'\n')?;
            let (head, tail) = rest.split_at(end);
            rest = tail.get(1..).unwrap_or_default();
            std::str::from_utf8(head).ok()
        };
        if line() != Some(MAGIC) {
            return Err("The file is not an update package.".into());
        }
        let head = line().and_then(|l| serde_json::from_str(l).ok()).ok_or("The head of the update package cannot be read.")?;
        let digest = line().unwrap_or_default().to_owned();
        if hex::encode(Sha256::digest(rest)) != digest {
            return Err("The signature of the update package does not fit.".into());
        }
        Ok(head)
    }
}

/// The components of a machine with these parts.
pub fn draw(parts: &[BoardPart], bios: &str, bmc: &str) -> Vec<Component> {
    let component = |id: &str, name: &str, version: &str, applies, part: Option<&BoardPart>| Component {
        id: id.to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
        software_id: format!("SIM-{id}"),
        applies,
        part: part.map(|p| p.id.clone()),
        torn: false,
    };
    let mut out = vec![
        component("BIOS", "System BIOS", bios, Applies::AtHostReset, None),
        component("BMC", "Management Controller", bmc, Applies::WithTheBmc, None),
        component("CPLD", "System CPLD", "1.0.6", Applies::AtHostReset, None),
    ];
    for part in parts {
        let Some(version) = &part.firmware else { continue };
        if matches!(part.kind, PartKind::NetworkAdapter | PartKind::StorageController | PartKind::PowerSupply | PartKind::Drive) {
            out.push(component(&part.id, &part.name, version, Applies::AtOnce, Some(part)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_and_a_changed_or_cut_one_is_refused() {
        let file = FirmwareFile { component: "BIOS".into(), model: "PowerEdge R650".into(), version: "1.11.2".into() };
        let bytes = file.bytes(5000);
        assert_eq!(FirmwareFile::read(&bytes), Ok(file));
        for cut in 0..bytes.len() {
            assert!(FirmwareFile::read(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in (0..bytes.len()).step_by(7) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            let read = FirmwareFile::read(&changed);
            assert!(read.is_err() || at < 120 && read != FirmwareFile::read(&bytes), "flipped at {at}: {read:?}");
        }
    }
}
