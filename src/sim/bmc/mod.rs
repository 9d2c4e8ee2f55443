//! A simulated BMC: Redfish (HTTPS with its own self-signed certificate, or HTTP) and IPMI 2.0 (suites 3 and 17) in front
//! of one simulated machine.
//!
//! The machine implements [`Chassis`]; [`SimBmc::start`] opens the fronts on loopback ports the system chooses and
//! [`SimBmc::redfish_address`] / [`SimBmc::ipmi_address`] are what to enrol. [`SimBmc::set_faults`] makes it misbehave,
//! [`SimBmc::strike`] makes something happen to its hardware, [`SimBmc::counts`] shows what was asked of it. Dropping it closes
//! everything at once, as a pulled cable would.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use hostler::sim::bmc::{Chassis, Faults, Setup, SimBmc};
//! # async fn example(machine: Arc<dyn Chassis>) -> std::io::Result<()> {
//! let bmc = SimBmc::start(machine, Setup::new("admin", "secret")).await?;
//! println!("{:?} {:?}", bmc.redfish_address(), bmc.ipmi_address());
//! bmc.set_faults(Faults { busy_answers: 2, ..Faults::default() });
//! # Ok(()) }
//! ```
//!
//! IPMI was checked against `ipmitool -C 3`, `-C 17` and FreeIPMI `-I 17` (`tests/it/bmc/ipmi_peers.rs`), Redfish with
//! DMTF's validators (`tests/it/bmc/validators.rs`).

mod accounts;
pub mod board;
mod faults;
mod ipmi;
mod keeper;
pub(in crate::sim) mod redfish;
mod shared;
mod strike;

pub(in crate::sim) use accounts::{Account, Role};
pub use faults::{Counts, Faults, Reach};
pub use strike::Strike;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::clock;
use crate::domain::bmc::{BmcAddress, BmcProtocol};
use crate::domain::id::SystemUuid;
use crate::domain::inventory::Inventory;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use crate::sim::bmc::board::Board;
use crate::sim::bmc::shared::Shared;
use crate::sim::control::Breakable;
use crate::sim::pace::Pace;

/// The machine a BMC manages. Calls are quick and do not wait: a change that takes time is begun, and [`Chassis::power`]
/// says how far it is.
pub trait Chassis: Send + Sync + 'static {
    fn identity(&self) -> ChassisIdentity;
    fn power(&self) -> PowerState;
    /// Begins the change. `Err` is the reason the BMC gives for refusing.
    fn set_power(&self, action: PowerAction) -> Result<(), String>;
    /// What the next boot was told to do. The machine clears it when it boots, if it is for once.
    fn boot_override(&self) -> Option<BootOverride>;
    fn set_boot_override(&self, boot: Option<BootOverride>);
    /// What is inside. `None`: the BMC makes up a machine that fits the identity's UUID.
    fn inventory(&self) -> Option<Inventory> {
        None
    }
    /// How far the machine's firmware came. `None`: as far as the power state tells.
    fn boot_progress(&self) -> Option<BootProgress> {
        None
    }
    /// Times that the machine began to boot. `None`: as often as the BMC was told to.
    fn boots(&self) -> Option<u64> {
        None
    }
    /// The system stops where it is and heeds neither network nor power button, until it is reset.
    fn hang(&self) {}
    /// The BIOS is another version from now on.
    fn set_bios_version(&self, _version: &str) {}
    /// A part was taken out or another one is in its place: what the machine finds at its next boot.
    fn refit(&self, _inventory: &Inventory) {}
}

/// Redfish `BootProgress.LastState`, as far as simulated machines tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootProgress {
    None,
    MemoryInitializationStarted,
    SystemHardwareInitializationComplete,
    OsBootStarted,
    OsRunning,
}

impl BootProgress {
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::MemoryInitializationStarted => "MemoryInitializationStarted",
            Self::SystemHardwareInitializationComplete => "SystemHardwareInitializationComplete",
            Self::OsBootStarted => "OSBootStarted",
            Self::OsRunning => "OSRunning",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChassisIdentity {
    pub manufacturer: String,
    pub model: String,
    pub serial: String,
    pub uuid: SystemUuid,
    pub asset_tag: Option<String>,
    pub bios_version: String,
    pub bmc_firmware: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootOverride {
    pub device: BootDevice,
    pub firmware: FirmwareKind,
    pub once: bool,
}

/// How a BMC is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    pub user: String,
    pub password: String,
    /// `None`: no Redfish, as on old boards.
    pub redfish: Option<RedfishFront>,
    pub ipmi: bool,
    /// The address of both fronts; their ports are free ones.
    pub listen: IpAddr,
    /// Refused logins in a row after which the account is locked, right password or not, until [`SimBmc::unlock`].
    pub lock_after: u32,
    /// Sessions at the same time, for each front (real ones: 4 to 16).
    pub session_cap: usize,
    /// How fast updates and restarts of the BMC go.
    pub pace: Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedfishFront {
    Https,
    Http,
    /// HTTPS without a session service, as sushy-tools: basic authentication only.
    HttpsBasicOnly,
}

impl Setup {
    /// Both protocols, HTTPS, on 127.0.0.1, locked after 5 refused logins, 8 sessions, in real time.
    pub fn new(user: &str, password: &str) -> Self {
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            redfish: Some(RedfishFront::Https),
            ipmi: true,
            listen: Ipv4Addr::LOCALHOST.into(),
            lock_after: 5,
            session_cap: 8,
            pace: Pace::default(),
        }
    }
}

/// A running BMC.
pub struct SimBmc {
    shared: Arc<Shared>,
    redfish: Option<Arc<redfish::Front>>,
    ipmi: Option<Arc<ipmi::Front>>,
    // Dropping the set ends the tasks.
    _tasks: JoinSet<()>,
}

impl SimBmc {
    /// Opens the fronts `setup` names.
    ///
    /// # Errors
    /// When a port cannot be bound or the certificate cannot be made.
    pub async fn start(chassis: Arc<dyn Chassis>, setup: Setup) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(chassis, setup));
        let mut tasks = JoinSet::new();
        let redfish = match shared.setup.redfish {
            Some(kind) => Some(Arc::new(redfish::Front::start(Arc::clone(&shared), kind, &mut tasks).await?)),
            None => None,
        };
        let ipmi = match shared.setup.ipmi {
            true => Some(Arc::new(ipmi::Front::start(Arc::clone(&shared), &mut tasks).await?)),
            false => None,
        };
        tasks.spawn(keeper::run(Arc::clone(&shared), redfish.clone(), ipmi.clone()));
        Ok(Self { shared, redfish, ipmi, _tasks: tasks })
    }

    /// `https://127.0.0.1:PORT` (or `http://`), if it speaks Redfish.
    pub fn redfish_address(&self) -> Option<BmcAddress> {
        let front = self.redfish.as_ref()?;
        Some(address(BmcProtocol::Redfish, front.is_tls(), front.addr))
    }

    /// `ipmi://127.0.0.1:PORT`, if it speaks IPMI.
    pub fn ipmi_address(&self) -> Option<BmcAddress> {
        Some(address(BmcProtocol::Ipmi, false, self.ipmi.as_ref()?.addr))
    }

    /// From now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.set_faults(|f| *f = faults);
    }

    /// Lets something happen. `Err` says why it cannot (no such part, no such sensor).
    pub fn strike(&self, strike: &Strike) -> Result<(), String> {
        strike::happen(&self.shared, strike)
    }

    /// Looks at the board as it is now, for tests and for the fault controls.
    pub fn board<T>(&self, look: impl FnOnce(&Board) -> T) -> T {
        look(&self.shared.board())
    }

    /// Parts and sensors by the ids that [`Strike`] takes.
    pub fn breakables(&self) -> Vec<Breakable> {
        let host = self.shared.host();
        let board = self.shared.board();
        let parts = board.parts.iter().map(|p| Breakable {
            id: p.id.clone(),
            name: p.name.clone(),
            kind: p.kind.to_string(),
            now: p.health().unwrap_or("absent").to_owned(),
        });
        let sensors = board.sensors.iter().map(|s| Breakable {
            id: s.id.clone(),
            name: s.name.clone(),
            kind: format!("{} sensor", s.kind),
            now: board.reading(s, clock::now(), &host).map_or_else(|| "no reading".to_owned(), |r| r.to_string()),
        });
        parts.chain(sensors).collect()
    }

    pub fn counts(&self) -> Counts {
        let sessions = self.redfish.as_ref().map_or(0, |f| f.open_sessions()) + self.ipmi.as_ref().map_or(0, |f| f.open_sessions());
        self.shared.counts(sessions)
    }

    /// Lets the account log in again, as an administrator at its web page would.
    pub fn unlock(&self) {
        self.shared.accounts().unlock_all();
    }

    /// Restarts the Redfish front with a new key and certificate: connections and sessions are gone.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn change_certificate(&self) -> io::Result<()> {
        self.redfish.as_ref().map_or(Ok(()), |f| f.change_certificate())
    }

    /// Restarts the BMC in no time: all sessions and connections are gone, nothing else changes.
    pub fn restart(&self) {
        self.shared.raise_generation();
        if let Some(front) = &self.redfish {
            front.forget_sessions();
        }
        if let Some(front) = &self.ipmi {
            front.forget_sessions();
        }
    }
}

fn address(protocol: BmcProtocol, tls: bool, addr: SocketAddr) -> BmcAddress {
    BmcAddress { protocol: Some(protocol), tls, host: addr.ip().to_string(), port: Some(addr.port()), system_path: None }
}
