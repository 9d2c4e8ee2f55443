//! Virtual machines in the demo's rack: QEMU with real firmware, a real ramdisk and a real system on its disk, behind the
//! simulated BMC fronts. They need no rights: their network is a router inside this process.
//!
//! ```text
//!  BMC front (Redfish, IPMI) -> power switch -> QEMU == cable == router -> DHCP, TFTP, HTTP of the service
//! ```

pub mod cable;
pub mod console;
pub mod frame;
pub mod machine;
pub mod monitor;
pub mod needs;
pub mod qemu;
pub mod router;
pub mod tcp;
pub mod udp;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::clock;
use crate::domain::id::{Mac, Name, SystemUuid};
use crate::domain::power::FirmwareKind;
use crate::server::config::RelayedSubnet;
use crate::sim::bmc::{Chassis, RedfishFront, Setup, SimBmc};
use crate::sim::vm::frame::Lan;
use crate::sim::vm::machine::{Shared, Vm};
use crate::sim::vm::qemu::{Birthplace, Spec, Tools};
use crate::sim::vm::router::Outside;

/// The machines' network. It exists in this process only, so it cannot collide with a real one.
pub const LAN: Lan = Lan { router: Ipv4Addr::new(10, 12, 0, 1), prefix: 24, router_mac: Mac([0x52, 0x54, 0, 0xd0, 0, 0]) };
/// The same for the service: the addresses it gives away there.
pub const SUBNET: RelayedSubnet = RelayedSubnet {
    network: Ipv4Addr::new(10, 12, 0, 0),
    prefix: LAN.prefix,
    range_start: Ipv4Addr::new(10, 12, 0, 100),
    range_end: Ipv4Addr::new(10, 12, 0, 199),
    router: None,
};
const RACK: &str = "VM";
const USER: &str = "admin";

/// Where the machines reach the service's HTTP port.
pub fn url() -> String {
    format!("http://{}:{}", LAN.router, tcp::PORT)
}

pub struct Plan {
    pub machines: u16,
    pub tools: Tools,
    /// For disks and consoles.
    pub dir: PathBuf,
    pub dhcp: SocketAddrV4,
    pub tftp: SocketAddrV4,
    pub http: SocketAddrV4,
}

struct Unit {
    vm: Arc<Vm>,
    address: String,
    password: String,
    number: u16,
    /// Its fronts close when it is dropped.
    _bmc: SimBmc,
}

/// The running machines. Dropping them pulls the plug.
pub struct Vms {
    units: Vec<Unit>,
    _tasks: JoinSet<()>,
}

impl Vms {
    /// Builds the machines, powered off, with their BMCs answering: UEFI behind Redfish, BIOS behind IPMI, by turns where both
    /// firmwares are here.
    ///
    /// # Errors
    /// When a file cannot be made or a port not be opened.
    pub async fn start(plan: &Plan) -> io::Result<Self> {
        let shared = Shared { tools: plan.tools.clone(), birthplace: Birthplace::open()?, lan: LAN };
        let mut tasks = JoinSet::new();
        let mut units = Vec::new();
        for number in 1..=plan.machines {
            let spec = spec(number, &plan.tools)?;
            let low = u8::try_from(number).map_err(io::Error::other)?;
            let outside = Outside { address: Ipv4Addr::new(127, 13, 0, low), dhcp: plan.dhcp, tftp: plan.tftp, http: plan.http };
            let vm = Arc::new(Vm::build(spec, shared.clone(), &plan.dir.join(format!("vm-{number}")), outside)?);
            let password = format!("vm-{}", &clock::fresh_token()[..12]);
            let (redfish, ipmi) = match vm.spec.firmware {
                FirmwareKind::Uefi => (Some(RedfishFront::Https), false),
                FirmwareKind::Bios => (None, true),
            };
            let chassis: Arc<dyn Chassis> = vm.clone();
            let bmc = SimBmc::start(chassis, Setup { redfish, ipmi, ..Setup::new(USER, &password) }).await?;
            let address = bmc.redfish_address().or_else(|| bmc.ipmi_address()).map(|a| a.to_string()).unwrap_or_default();
            let running = vm.clone();
            tasks.spawn(async move { running.run().await });
            units.push(Unit { vm, address, password, number, _bmc: bmc });
        }
        Ok(Self { units, _tasks: tasks })
    }

    /// Their lines of a packing list, in the columns of [`crate::sim::fleet::Fleet::packing_list`].
    pub fn packing_lines(&self) -> String {
        let line = |u: &Unit| {
            let Spec { name, serial, mac, .. } = &u.vm.spec;
            format!("{name},{serial},{mac},{},{USER},{},{RACK},{}\n", u.address, u.password, u.number)
        };
        self.units.iter().map(line).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Vm> {
        self.units.iter().map(|u| u.vm.as_ref())
    }

    pub fn has(&self, name: &Name) -> bool {
        self.iter().any(|vm| vm.spec.name == name.as_str())
    }

    /// Ends every QEMU.
    pub async fn stop(&self) {
        for vm in self.iter() {
            vm.stop().await;
        }
    }
}

fn spec(number: u16, tools: &Tools) -> io::Result<Spec> {
    let firmware = match (&tools.uefi, tools.bios) {
        (Some(_), true) if number % 2 == 1 => FirmwareKind::Uefi,
        (Some(_), false) => FirmwareKind::Uefi,
        (Some(_) | None, _) => FirmwareKind::Bios,
    };
    let [high, low] = number.to_be_bytes();
    Ok(Spec {
        name: format!("vm-{number}"),
        serial: format!("DEMOVM{number:04}").parse().map_err(|e| io::Error::other(format!("{e}")))?,
        mac: Mac([0x52, 0x54, 0, 0xd0, high, low]),
        uuid: SystemUuid(clock::fresh_uuid()),
        firmware,
    })
}
