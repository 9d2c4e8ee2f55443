//! A simulated BMC: Redfish (HTTPS with its own self-signed certificate, or HTTP) and IPMI 2.0 (suites 3 and 17) in front
//! of one simulated machine.
//!
//! The machine implements [`Chassis`]; [`SimBmc::start`] opens the fronts on loopback ports the system chooses and
//! [`SimBmc::redfish_address`] / [`SimBmc::ipmi_address`] are what to enrol. [`SimBmc::set_faults`] makes it misbehave,
//! [`SimBmc::counts`] shows what was asked of it. Dropping it closes everything at once, as a pulled cable would.
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
//! IPMI was checked against `ipmitool -C 3`, `-C 17` and FreeIPMI `-I 17` (`tests/it/bmc_sim.rs`).

mod ipmi;
mod redfish;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::domain::bmc::{BmcAddress, BmcProtocol};
use crate::domain::id::SystemUuid;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedfishFront {
    Https,
    Http,
    /// HTTPS without a session service, as sushy-tools: basic authentication only.
    HttpsBasicOnly,
}

impl Setup {
    /// Both protocols, HTTPS, on 127.0.0.1, locked after 5 refused logins, 8 sessions.
    pub fn new(user: &str, password: &str) -> Self {
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            redfish: Some(RedfishFront::Https),
            ipmi: true,
            listen: Ipv4Addr::LOCALHOST.into(),
            lock_after: 5,
            session_cap: 8,
        }
    }
}

/// What is wrong with a BMC now. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub reach: Reach,
    /// Answers are JSON of the wrong shape over Redfish, empty over IPMI.
    pub nonsense: bool,
    /// Power and boot commands are accepted and change nothing.
    pub accepts_and_does_nothing: bool,
    /// As many answers from now on are "busy" (503, IPMI completion code 0xc0).
    pub busy_answers: u32,
    /// Before every answer.
    pub delay: Duration,
    /// A boot override for once reads back as continuous (sushy-tools).
    pub boot_stays: bool,
    /// A PATCH without `If-Match` is refused with 428.
    pub demands_etag: bool,
    /// The next answers to this many requests with a good session are 401 (seen from HPE).
    pub forgets_session: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    #[default]
    Normal,
    /// Connections are dropped at once; nothing answers over IPMI.
    Dropped,
    /// Connections are taken and never answered; nothing answers over IPMI.
    Silent,
}

/// What was asked of a BMC since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    /// Power and boot commands.
    pub writes: u64,
    pub logins: u64,
    pub refused_logins: u64,
    pub open_sessions: usize,
    /// Most requests that were in flight at the same time.
    pub most_at_once: u32,
    pub locked: bool,
}

/// What both fronts share.
struct Shared {
    chassis: Arc<dyn Chassis>,
    setup: Setup,
    faults: Mutex<Faults>,
    requests: AtomicU64,
    writes: AtomicU64,
    logins: AtomicU64,
    refused_logins: AtomicU64,
    /// In a row: locks at `lock_after`.
    refused_in_row: AtomicU32,
    locked: AtomicBool,
    in_flight: AtomicU32,
    most_at_once: AtomicU32,
}

/// One request being answered.
struct InFlight<'a>(&'a Shared);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn faults(&self) -> Faults {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Spends one of a fault's counted answers.
    fn spend(&self, which: impl Fn(&mut Faults) -> &mut u32) -> bool {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let left = which(&mut faults);
        let spend = *left > 0;
        *left = left.saturating_sub(1);
        spend
    }

    fn begin(&self) -> InFlight<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(now, Ordering::Relaxed);
        InFlight(self)
    }

    fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    fn login_accepted(&self) {
        self.logins.fetch_add(1, Ordering::Relaxed);
        self.refused_in_row.store(0, Ordering::Relaxed);
    }

    fn login_refused(&self) {
        self.refused_logins.fetch_add(1, Ordering::Relaxed);
        if self.refused_in_row.fetch_add(1, Ordering::Relaxed) + 1 >= self.setup.lock_after {
            self.locked.store(true, Ordering::Relaxed);
        }
    }

    fn set_power(&self, action: PowerAction) -> Result<(), String> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.faults().accepts_and_does_nothing { Ok(()) } else { self.chassis.set_power(action) }
    }

    fn set_boot(&self, boot: Option<BootOverride>) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let faults = self.faults();
        if !faults.accepts_and_does_nothing {
            self.chassis.set_boot_override(boot.map(|b| BootOverride { once: b.once && !faults.boot_stays, ..b }));
        }
    }
}

/// A running BMC.
pub struct SimBmc {
    shared: Arc<Shared>,
    redfish: Option<redfish::Front>,
    ipmi: Option<ipmi::Front>,
    // Dropping the set ends the tasks.
    _tasks: JoinSet<()>,
}

impl SimBmc {
    /// Opens the fronts `setup` names.
    ///
    /// # Errors
    /// When a port cannot be bound or the certificate cannot be made.
    pub async fn start(chassis: Arc<dyn Chassis>, setup: Setup) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            chassis,
            setup,
            faults: Mutex::default(),
            requests: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            logins: AtomicU64::new(0),
            refused_logins: AtomicU64::new(0),
            refused_in_row: AtomicU32::new(0),
            locked: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            most_at_once: AtomicU32::new(0),
        });
        let mut tasks = JoinSet::new();
        let redfish = match shared.setup.redfish {
            Some(kind) => Some(redfish::Front::start(Arc::clone(&shared), kind, &mut tasks).await?),
            None => None,
        };
        let ipmi = if shared.setup.ipmi { Some(ipmi::Front::start(Arc::clone(&shared), &mut tasks).await?) } else { None };
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
        *self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    pub fn counts(&self) -> Counts {
        let s = &self.shared;
        Counts {
            requests: s.requests.load(Ordering::Relaxed),
            writes: s.writes.load(Ordering::Relaxed),
            logins: s.logins.load(Ordering::Relaxed),
            refused_logins: s.refused_logins.load(Ordering::Relaxed),
            open_sessions: self.redfish.as_ref().map_or(0, redfish::Front::open_sessions)
                + self.ipmi.as_ref().map_or(0, ipmi::Front::open_sessions),
            most_at_once: s.most_at_once.load(Ordering::Relaxed),
            locked: s.is_locked(),
        }
    }

    /// Lets the account log in again, as an administrator at its web page would.
    pub fn unlock(&self) {
        self.shared.refused_in_row.store(0, Ordering::Relaxed);
        self.shared.locked.store(false, Ordering::Relaxed);
    }

    /// Restarts the Redfish front with a new key and certificate: connections and sessions are gone.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn change_certificate(&self) -> io::Result<()> {
        self.redfish.as_ref().map_or(Ok(()), redfish::Front::change_certificate)
    }

    /// Restarts the BMC: all sessions and connections are gone, nothing else changes.
    pub fn restart(&self) {
        if let Some(front) = &self.redfish {
            front.restart();
        }
        if let Some(front) = &self.ipmi {
            front.forget_sessions();
        }
    }
}

fn address(protocol: BmcProtocol, tls: bool, addr: SocketAddr) -> BmcAddress {
    BmcAddress { protocol: Some(protocol), tls, host: addr.ip().to_string(), port: Some(addr.port()), system_path: None }
}
