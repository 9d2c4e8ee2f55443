//! What this BMC can do over IPMI, each line with the command that showed it.

use crate::bmc::BmcError;
use crate::bmc::ipmi::Ipmi;
use crate::bmc::ipmi::session::Repeat;
use crate::domain::bmc_features::{Capability, Support};
use crate::wire::ipmi::{self, Command, completion};
use crate::wire::ipmi_event::{FIRMWARE_PROGRESS, OS_BOOT};

/// Evidence for or against one capability.
struct Shown {
    offered: bool,
    evidence: String,
}

impl Shown {
    fn yes(evidence: impl Into<String>) -> Self {
        Self { offered: true, evidence: evidence.into() }
    }

    fn no(evidence: impl Into<String>) -> Self {
        Self { offered: false, evidence: evidence.into() }
    }
}

impl Ipmi {
    pub(super) async fn sheet(&self) -> Result<Vec<Support>, BmcError> {
        let mut out = Vec::with_capacity(Capability::ALL.len());
        for capability in Capability::ALL {
            let Shown { offered, evidence } = self.shown(capability).await?;
            out.push(Support { capability, offered, evidence });
        }
        Ok(out)
    }

    async fn shown(&self, capability: Capability) -> Result<Shown, BmcError> {
        Ok(match capability {
            Capability::Power => self.probe(ipmi::CHASSIS_STATUS, &[]).await?,
            Capability::PowerCycle | Capability::SoftOff => {
                Shown::yes("Chassis Control has it; the specification makes it optional, so only its use can tell (28.3)")
            }
            Capability::BootOnce => self.probe(ipmi::GET_BOOT_OPTIONS, &[ipmi::PARAMETER_BOOT_FLAGS, 0, 0]).await?,
            Capability::BootOrder => Shown::no("IPMI has a boot override (28.13) and no boot order"),
            Capability::BootProgress => self.progress_shown().await?,
            Capability::Sensors => match self.repository().await {
                Ok(r) => Shown::yes(format!("{} sensors in its sensor data records", r.sensors.len())),
                Err(BmcError::Unsupported { what, .. }) => Shown::no(format!("it does not offer {what}")),
                Err(other) => return Err(other),
            },
            Capability::Parts => match self.repository().await {
                Ok(r) => Shown::yes(format!("FRU 0, {} FRU locators and the presence of what has sensors", r.frus.len())),
                Err(BmcError::Unsupported { .. }) => self.probe(ipmi::FRU_AREA, &[0]).await?,
                Err(other) => return Err(other),
            },
            Capability::Logs => self.probe(ipmi::SEL_INFO, &[]).await?,
            Capability::ClearLog => self.probe(ipmi::RESERVE_SEL, &[]).await?,
            Capability::Events => Shown::no("traps (PEF) are not taken; the event log is polled"),
            Capability::FirmwareInventory => self.probe(ipmi::GET_DEVICE_ID, &[]).await?,
            Capability::FirmwareUpdate => Shown::no("IPMI has no standard for firmware updates that vendors share"),
            Capability::BiosSettings => Shown::no("IPMI has no BIOS settings"),
            Capability::Accounts => self.probe(ipmi::GET_USER_ACCESS, &[0x0e, 1]).await?,
            Capability::VirtualMedia => Shown::no("IPMI has no virtual media"),
            Capability::LocatorLed => self.identify_shown().await?,
            // Asking would do it.
            Capability::BmcReset => Shown::yes("Cold Reset is mandatory in IPMI 1.5 and later (appendix G); it was not tried"),
            Capability::SerialConsole => self.console_shown().await?,
            Capability::Fru => self.probe(ipmi::FRU_AREA, &[0]).await?,
            Capability::PowerReading => {
                if self.speaks_dcmi().await? {
                    self.probe(ipmi::DCMI_POWER, &[ipmi::GROUP_DCMI, 1, 0, 0]).await?
                } else {
                    Shown::no("Get DCMI Capabilities Info is refused: it does not speak DCMI")
                }
            }
            Capability::BmcNetwork => self.probe(ipmi::GET_LAN, &[0x0e, 3, 0, 0]).await?,
        })
    }

    /// Offered if the BMC answers the command with OK.
    async fn probe(&self, command: Command, data: &[u8]) -> Result<Shown, BmcError> {
        let (code, _) = self.raw(command, data, Repeat::Yes).await?;
        Ok(match code {
            completion::OK => Shown::yes(format!("it answers {}", command.name)),
            code => Shown::no(format!("{}: {}", command.name, ipmi::code_words(code))),
        })
    }

    async fn progress_shown(&self) -> Result<Shown, BmcError> {
        match self.repository().await {
            Ok(r) => Ok(match r.sensors.iter().find(|s| s.sensor_type == FIRMWARE_PROGRESS || s.sensor_type == OS_BOOT) {
                Some(sensor) => Shown::yes(format!("sensor {:?} ({})", sensor.name, sensor.key)),
                None => Shown::no("it has no sensor for firmware progress or operating system boot"),
            }),
            Err(BmcError::Unsupported { what, .. }) => Ok(Shown::no(format!("it does not offer {what}"))),
            Err(other) => Err(other),
        }
    }

    async fn identify_shown(&self) -> Result<Shown, BmcError> {
        // 28.2: bit 6 of byte 3. BMCs that leave it clear may still have the command; nobody asks it without blinking.
        let status = self.read(ipmi::CHASSIS_STATUS, &[]).await?;
        Ok(match status.get(2) {
            Some(misc) if misc & 0x40 != 0 => Shown::yes("Get Chassis Status tells the identify state"),
            _ => Shown::no("Get Chassis Status does not tell the identify state; Chassis Identify may still work"),
        })
    }

    /// SOL parameter 1 (26.3): bit 0 is "enabled".
    async fn console_shown(&self) -> Result<Shown, BmcError> {
        let (code, data) = self.raw(ipmi::GET_SOL, &[0x0e, 1, 0, 0], Repeat::Yes).await?;
        Ok(match (code, data.get(1)) {
            (completion::OK, Some(enable)) if enable & 1 == 1 => Shown::yes("serial over LAN is enabled"),
            (completion::OK, _) => Shown::no("serial over LAN is there and switched off"),
            (code, _) => Shown::no(format!("{}: {}", ipmi::GET_SOL.name, ipmi::code_words(code))),
        })
    }
}
