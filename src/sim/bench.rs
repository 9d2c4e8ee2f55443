//! A machine on the bench: hardware with a BMC and nothing else. It obeys at once and boots nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::inventory::Inventory;
use crate::domain::power::{PowerAction, PowerState};
use crate::sim::bmc::{BootOverride, BootProgress, Chassis, ChassisIdentity};
use crate::sim::hardware::Hardware;

/// Seeds that are looked through for a machine of one maker; each has one in four.
const LOOK_AT: usize = 200;

pub struct Bench {
    hardware: Hardware,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    on: bool,
    hung: bool,
    boots: u64,
    boot_override: Option<BootOverride>,
    bios_version: Option<String>,
}

impl Bench {
    pub fn new(hardware: Hardware) -> Arc<Self> {
        Arc::new(Self { hardware, now: Mutex::default() })
    }

    /// The first machine of this maker (`Dell Inc.`, `HPE`, `Lenovo`, `Supermicro`) in the rack with this seed.
    pub fn of(maker: &str, seed: u64) -> Option<Arc<Self>> {
        (1..LOOK_AT).map(|n| Hardware::draw(seed, n)).find(|h| h.manufacturer().eq_ignore_ascii_case(maker)).map(Self::new)
    }

    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chassis for Bench {
    fn identity(&self) -> ChassisIdentity {
        let inventory = &self.hardware.inventory;
        ChassisIdentity {
            manufacturer: self.hardware.manufacturer().to_owned(),
            model: self.hardware.product().to_owned(),
            serial: self.hardware.serial.to_string(),
            uuid: self.hardware.uuid,
            asset_tag: inventory.system.asset_tag.clone(),
            bios_version: self.lock().bios_version.clone().or_else(|| inventory.firmware.version.clone()).unwrap_or_default(),
            bmc_firmware: "2.85".to_owned(),
        }
    }

    fn power(&self) -> PowerState {
        if self.lock().on { PowerState::On } else { PowerState::Off }
    }

    fn set_power(&self, action: PowerAction) -> Result<(), String> {
        let mut now = self.lock();
        match action {
            PowerAction::On if now.on => {}
            PowerAction::Cycle | PowerAction::Reset if !now.on => return Err("the system is off".into()),
            PowerAction::On | PowerAction::Cycle | PowerAction::Reset => {
                let once = now.boot_override.filter(|b| !b.once);
                *now = Now { on: true, hung: false, boots: now.boots + 1, boot_override: once, bios_version: now.bios_version.take() };
            }
            // A hung system does not heed the button.
            PowerAction::Soft if now.hung => {}
            PowerAction::Off | PowerAction::Soft => {
                now.on = false;
                now.hung = false;
            }
        }
        Ok(())
    }

    fn boot_override(&self) -> Option<BootOverride> {
        self.lock().boot_override
    }

    fn set_boot_override(&self, boot: Option<BootOverride>) {
        self.lock().boot_override = boot;
    }

    fn inventory(&self) -> Option<Inventory> {
        Some(self.hardware.inventory.clone())
    }

    fn boot_progress(&self) -> Option<BootProgress> {
        let now = self.lock();
        Some(match (now.on, now.hung) {
            (false, _) => BootProgress::None,
            (true, true) => BootProgress::OsBootStarted,
            (true, false) => BootProgress::OsRunning,
        })
    }

    fn boots(&self) -> Option<u64> {
        Some(self.lock().boots)
    }

    fn hang(&self) {
        let mut now = self.lock();
        now.hung = now.on;
    }

    fn set_bios_version(&self, version: &str) {
        self.lock().bios_version = Some(version.to_owned());
    }
}
