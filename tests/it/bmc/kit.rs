//! A still machine behind a simulated BMC, and how to reach it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hostler::bmc::{BmcAccess, BmcSettings, Bmcs, Timing};
use hostler::domain::bmc::BmcAddress;
use hostler::domain::id::MachineId;
use hostler::domain::power::{PowerAction, PowerState};
use hostler::domain::secret::Secret;
use hostler::sim::bmc::{BootOverride, Chassis, ChassisIdentity, Setup, SimBmc};

pub const UUID: &str = "11223344-5566-4788-9900-525400770001";

/// A machine that obeys at once and remembers what it was told.
pub struct Still {
    state: Mutex<(PowerState, Option<BootOverride>, Vec<PowerAction>)>,
}

impl Still {
    pub fn new(power: PowerState) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((power, None, Vec::new())) })
    }

    pub fn actions(&self) -> Vec<PowerAction> {
        self.state.lock().unwrap().2.clone()
    }
}

impl Chassis for Still {
    fn identity(&self) -> ChassisIdentity {
        ChassisIdentity {
            manufacturer: "LabCorp".into(),
            model: "LabServer-1".into(),
            serial: "SN00042".into(),
            uuid: UUID.parse().unwrap(),
            asset_tag: Some("A-17".into()),
            bios_version: "1.2.3".into(),
            bmc_firmware: "2.14".into(),
        }
    }

    fn power(&self) -> PowerState {
        self.state.lock().unwrap().0
    }

    fn set_power(&self, action: PowerAction) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        state.2.push(action);
        state.0 = match action {
            PowerAction::On | PowerAction::Cycle | PowerAction::Reset => PowerState::On,
            PowerAction::Off | PowerAction::Soft => PowerState::Off,
        };
        Ok(())
    }

    fn boot_override(&self) -> Option<BootOverride> {
        self.state.lock().unwrap().1
    }

    fn set_boot_override(&self, boot: Option<BootOverride>) {
        self.state.lock().unwrap().1 = boot;
    }
}

pub fn machine() -> MachineId {
    "0190a000-0000-7000-8000-000000000001".parse().unwrap()
}

/// Short waits, so that a test of silence takes seconds.
pub fn settings() -> BmcSettings {
    BmcSettings {
        timing: Timing {
            connect: Duration::from_secs(2),
            request: Duration::from_secs(5),
            settle: Duration::from_millis(600),
            poll: Duration::from_millis(50),
            call: Duration::from_secs(30),
            walk: Duration::from_secs(60),
            upload: Duration::from_secs(60),
        },
        write_gap: Duration::from_millis(20),
        ..BmcSettings::default()
    }
}

pub fn bmcs() -> Bmcs {
    Bmcs::new(settings())
}

pub fn access(address: BmcAddress, user: &str, password: &str) -> BmcAccess {
    BmcAccess { address, user: user.into(), password: Secret::new(password.into()), tls_pin: None, prefer: None }
}

pub async fn start(power: PowerState, setup: Setup) -> (SimBmc, Arc<Still>) {
    let still = Still::new(power);
    (SimBmc::start(still.clone(), setup).await.unwrap(), still)
}

pub fn setup() -> Setup {
    Setup::new("admin", "secret")
}
