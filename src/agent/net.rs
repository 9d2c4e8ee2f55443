//! Brings the network up: every interface, an address by DHCP, and a way to the one server.

pub mod dhcp;
pub mod netlink;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::agent::console::Console;
use crate::agent::net::dhcp::Lease;
use crate::agent::net::netlink::Netlink;
use crate::agent::probe::disk::short_text;
use crate::agent::probe::nic::read_nics;
use crate::domain::id::Mac;
use crate::domain::inventory::Nic;

/// Links come up within 3 s on copper; a switch with spanning tree forwards only after 30 s, which the rounds outlast.
const CARRIER_WAIT: Duration = Duration::from_secs(5);
/// One DHCP exchange: DISCOVER at 0, 1, 3, 7 s.
const DHCP_WAIT: Duration = Duration::from_secs(10);
const CONNECT_WAIT: Duration = Duration::from_secs(4);

/// An interface with an address from which the server was reached.
pub struct Connected {
    pub nic: Nic,
    pub lease: Lease,
}

/// Tries all interfaces, the one the machine was booted from first, until the server is reached. Never gives up: the
/// cable may be plugged in later.
pub fn connect(sys: &Path, server: SocketAddr, bootif: Option<Mac>, console: &Console) -> Connected {
    let mut said_none = false;
    loop {
        let nics = read_nics(sys);
        raise(sys, &nics, console);
        if nics.is_empty() && !said_none {
            console.complain("No network interface has a driver in this ramdisk; waiting for one.");
            said_none = true;
        }
        wait_for_carrier(sys, bootif);
        let mut nics = read_nics(sys);
        nics.sort_by_key(|nic| (Some(nic.mac) != bootif, !nic.carrier));
        for nic in nics {
            if !nic.carrier {
                continue;
            }
            match try_nic(sys, &nic, server, console) {
                Ok(lease) => return Connected { nic, lease },
                Err(why) => console.say(&format!("{} ({}): {why}", nic.name, nic.mac)),
            }
        }
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn index_of(sys: &Path, name: &str) -> Option<u32> {
    short_text(&sys.join("class/net").join(name).join("ifindex"))?.parse().ok()
}

fn raise(sys: &Path, nics: &[Nic], console: &Console) {
    let lo = ("lo", Some(1));
    let all = std::iter::once(lo).chain(nics.iter().map(|nic| (nic.name.as_str(), index_of(sys, &nic.name))));
    // Each for itself: one that fails (its driver wants firmware that is not here) must not keep the others down.
    for (name, index) in all.filter_map(|(name, index)| Some((name, index?))) {
        if let Err(e) = Netlink::open().and_then(|mut netlink| netlink.set_up(index)) {
            console.complain(&format!("The network interface {name} does not come up: {e}"));
        }
    }
}

/// Until the boot interface has a link, or without one to prefer, any.
fn wait_for_carrier(sys: &Path, bootif: Option<Mac>) {
    let until = Instant::now() + CARRIER_WAIT;
    while Instant::now() < until {
        let nics = read_nics(sys);
        let preferred = nics.iter().any(|nic| Some(nic.mac) == bootif);
        if nics.iter().any(|nic| nic.carrier && (!preferred || Some(nic.mac) == bootif)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn try_nic(sys: &Path, nic: &Nic, server: SocketAddr, console: &Console) -> Result<Lease, String> {
    let index = index_of(sys, &nic.name).ok_or("it went away")?;
    let lease = dhcp::acquire(&nic.name, nic.mac, DHCP_WAIT).map_err(|e| e.to_string())?;
    let set = Netlink::open().and_then(|mut netlink| {
        netlink.add_address(index, lease.address, lease.prefix)?;
        lease.router.map_or(Ok(()), |router| netlink.set_default_route(index, router))
    });
    set.map_err(|e| format!("the address {} cannot be set: {e}", lease.address))?;
    match TcpStream::connect_timeout(&server, CONNECT_WAIT) {
        Ok(_) => {
            console.say(&format!("Network: {} ({}) has {}/{} from {}.", nic.name, nic.mac, lease.address, lease.prefix, lease.server));
            dhcp::keep(nic.name.clone(), nic.mac, lease.clone());
            Ok(lease)
        }
        Err(e) => {
            let removed = Netlink::open().and_then(|mut netlink| netlink.remove_address(index, lease.address, lease.prefix));
            let removed = removed.map_or_else(|e| format!(" (its address stays: {e})"), |()| String::new());
            Err(format!("got {} but {server} is not reached from there: {e}{removed}", lease.address))
        }
    }
}
