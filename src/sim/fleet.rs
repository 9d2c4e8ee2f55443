//! A rack of simulated machines with their BMCs and the packing list that came with it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::agent::link::{LinkError, http_client_builder};
use crate::domain::id::{Mac, Serial};
use crate::domain::power::PowerState;
use crate::sim::bmc::{Chassis, RedfishFront, Setup, SimBmc, Strike};
use crate::sim::dhcp::{ForeignServer, Uplink};
use crate::sim::hardware::{BmcFront, Hardware};
use crate::sim::machine::{Machine, Surroundings};
use crate::sim::pace::Pace;

/// Racks with fewer machines have no odd ones.
const ODD_FROM: usize = 8;
const RACK_U: usize = 48;
const FIRST_RACK: usize = 12;
/// Nothing listens on the discard port of a host of today: the BMC whose cable nobody plugged in.
const DEAD_BMC: &str = "https://127.0.0.1:9";

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("cannot open the BMC of simulated machine {number}; with many machines raise the limit of open files (ulimit -n): {source}")]
    Bmc { number: usize, source: std::io::Error },
    #[error(transparent)]
    Client(#[from] LinkError),
}

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    None,
    /// A second DHCP server is nearer and gives addresses without a boot file.
    OtherDhcpServer,
    /// The packing list has a password that its BMC does not take.
    WrongPassword,
    /// On the packing list, and not in the rack.
    NeverTurnsUp,
}

/// One line of the packing list.
#[derive(Clone, Debug)]
pub struct Listing {
    pub serial: Serial,
    pub mac: Mac,
    pub bmc: String,
    pub user: String,
    pub password: String,
    /// In the fleet, from 1.
    pub number: usize,
}

struct Unit {
    machine: Arc<Machine>,
    listing: Listing,
    oddity: Oddity,
    /// Its fronts close when it is dropped.
    bmc: Option<SimBmc>,
}

/// A running rack. Dropping it pulls the plug.
pub struct Fleet {
    units: Vec<Unit>,
    _tasks: JoinSet<()>,
}

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub machines: usize,
    pub seed: u64,
    pub pace: Pace,
    pub uplink: Uplink,
    /// Have a few machines that are not as they should be.
    pub odd: bool,
}

impl Plan {
    fn oddity(&self, number: usize) -> Oddity {
        if !self.odd || self.machines < ODD_FROM {
            return Oddity::None;
        }
        match self.machines - number {
            0 => Oddity::NeverTurnsUp,
            1 => Oddity::WrongPassword,
            2 => Oddity::OtherDhcpServer,
            _ => Oddity::None,
        }
    }
}

impl Fleet {
    /// Builds the rack, powered off, with its BMCs answering.
    ///
    /// # Errors
    /// When a BMC's port cannot be opened.
    pub async fn start(plan: &Plan) -> Result<Self, FleetError> {
        let around = Surroundings {
            uplink: plan.uplink,
            pace: plan.pace,
            http: plan.uplink.reach(http_client_builder()).build().map_err(LinkError::Client)?,
        };
        let mut tasks = JoinSet::new();
        let mut units = Vec::with_capacity(plan.machines);
        for number in 1..=plan.machines {
            let oddity = plan.oddity(number);
            let foreign = (oddity == Oddity::OtherDhcpServer).then(|| foreign(plan.uplink.relay));
            let hardware = Hardware::draw(plan.seed, number);
            let machine = Arc::new(Machine::new(hardware, around.clone(), foreign));
            let hardware = &machine.hardware;
            // IPMI 2.0 takes at most 20 bytes (section 22.30).
            let (user, password) = (bmc_user(hardware), format!("sim-{:012x}", hardware.uuid.0.as_u128() & 0xffff_ffff_ffff));
            let bmc = match oddity {
                Oddity::NeverTurnsUp => None,
                Oddity::None | Oddity::OtherDhcpServer | Oddity::WrongPassword => {
                    let chassis: Arc<dyn Chassis> = machine.clone();
                    let bmc = SimBmc::start(chassis, Setup { pace: plan.pace, ..fronts(hardware.bmc, user, &password) }).await;
                    Some(bmc.map_err(|source| FleetError::Bmc { number, source })?)
                }
            };
            let address = bmc.as_ref().and_then(|b| b.redfish_address().or_else(|| b.ipmi_address()));
            let listing = Listing {
                serial: hardware.serial.clone(),
                mac: hardware.boot_mac,
                bmc: address.map_or_else(|| DEAD_BMC.to_owned(), |a| a.to_string()),
                user: user.to_owned(),
                password: if oddity == Oddity::WrongPassword { "not-the-password".to_owned() } else { password },
                number,
            };
            if oddity != Oddity::NeverTurnsUp {
                let machine = machine.clone();
                tasks.spawn(async move { machine.run().await });
            }
            units.push(Unit { machine, listing, oddity, bmc });
        }
        Ok(Self { units, _tasks: tasks })
    }

    pub fn listings(&self) -> impl Iterator<Item = &Listing> {
        self.units.iter().map(|u| &u.listing)
    }

    /// The packing list as the supplier would send it: rack R12 from the bottom up, and the next racks.
    pub fn packing_list(&self) -> String {
        let mut csv = String::from("name,serial,mac,bmc,user,password,rack,u\n");
        for l in self.listings() {
            let (rack, u) = place(l.number);
            let name = name(l.number);
            csv.push_str(&format!("{name},{},{},{},{},{},{rack},{u}\n", l.serial, l.mac, l.bmc, l.user, l.password));
        }
        csv
    }

    /// What can be made to happen to the machine of this serial, MAC, name (`r12-u03`) or number. `Err` says why it cannot.
    pub fn strike(&self, which: &str, strike: &Strike) -> Result<(), String> {
        let bmc = self.unit(which)?.bmc.as_ref().ok_or_else(|| format!("{which} is not in the rack"))?;
        bmc.strike(strike)
    }

    /// The BMC of that machine, to look at its board.
    pub fn bmc(&self, which: &str) -> Result<&SimBmc, String> {
        self.unit(which)?.bmc.as_ref().ok_or_else(|| format!("{which} is not in the rack"))
    }

    fn unit(&self, which: &str) -> Result<&Unit, String> {
        let is = |u: &&Unit| {
            let l = &u.listing;
            let mac = l.mac.to_string();
            [l.serial.as_str(), mac.as_str(), name(l.number).as_str(), l.number.to_string().as_str()]
                .iter()
                .any(|n| n.eq_ignore_ascii_case(which))
        };
        self.units.iter().find(is).ok_or_else(|| format!("there is no machine {which}"))
    }

    /// Powers every machine on by hand, as someone with a key to the rack could.
    pub fn power_on_all(&self) {
        for unit in &self.units {
            unit.machine.switch_on();
        }
    }

    /// Machines that have power, and the last line on each one's console, for who wants to know why nothing happens.
    pub fn consoles(&self) -> Vec<(&Serial, PowerState, String)> {
        self.units.iter().map(|u| (&u.listing.serial, u.machine.power(), u.machine.console())).collect()
    }

    pub fn odd(&self) -> impl Iterator<Item = (&Listing, Oddity)> {
        self.units.iter().filter(|u| u.oddity != Oddity::None).map(|u| (&u.listing, u.oddity))
    }
}

/// Rack and U of machine `number`.
fn place(number: usize) -> (String, usize) {
    let (row, u) = ((number - 1) / RACK_U, (number - 1) % RACK_U + 1);
    (format!("R{}", FIRST_RACK + row), u)
}

/// The name that the packing list gives it.
pub fn name(number: usize) -> String {
    let (rack, u) = place(number);
    format!("{}-u{u:02}", rack.to_ascii_lowercase())
}

fn bmc_user(hardware: &Hardware) -> &'static str {
    match hardware.manufacturer() {
        "Dell Inc." => "root",
        "HPE" => "Administrator",
        "Lenovo" => "USERID",
        _ => "ADMIN",
    }
}

fn fronts(kind: BmcFront, user: &str, password: &str) -> Setup {
    let (redfish, ipmi) = match kind {
        BmcFront::Redfish => (Some(RedfishFront::Https), false),
        BmcFront::Ipmi => (None, true),
    };
    Setup { redfish, ipmi, ..Setup::new(user, password) }
}

/// Someone's router at the far end of the relay's network.
fn foreign(relay: Ipv4Addr) -> ForeignServer {
    let [a, b, ..] = relay.octets();
    ForeignServer { server: Ipv4Addr::new(a, b, 255, 254), gives: Ipv4Addr::new(a, b, 255, 17) }
}
