//! The physical network interfaces.

use std::path::Path;

use crate::agent::probe::disk::{entries, link_name, short_text};
use crate::domain::id::Mac;
use crate::domain::inventory::Nic;

/// Interfaces with hardware behind them, by name.
pub fn read_nics(sys: &Path) -> Vec<Nic> {
    let root = sys.join("class/net");
    let mut nics: Vec<Nic> = entries(&root)
        .into_iter()
        .filter_map(|name| {
            let at = root.join(&name);
            // Virtual ones (lo, bonds, bridges) have no device. ARPHRD_ETHER is 1: InfiniBand has no MAC.
            if !at.join("device").exists() || short_text(&at.join("type")).as_deref() != Some("1") {
                return None;
            }
            let mac: Mac = short_text(&at.join("address"))?.parse().ok()?;
            let carrier = short_text(&at.join("carrier")).as_deref() == Some("1");
            let speed = short_text(&at.join("speed")).and_then(|text| text.parse::<u32>().ok());
            Some(Nic {
                mac,
                speed_mbps: speed.filter(|mbps| carrier && *mbps > 0 && *mbps < u32::MAX),
                carrier,
                driver: link_name(&at.join("device/driver")),
                pci_address: pci_address(&at.join("device")),
                lldp: None,
                name,
            })
        })
        .collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics
}

/// The last PCI address on the way to the device: virtio sits one level below its PCI function.
fn pci_address(device: &Path) -> Option<String> {
    let path = std::fs::canonicalize(device).ok()?;
    let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
    parts.into_iter().rev().find(|part| is_pci_address(part)).map(str::to_owned)
}

/// `0000:00:03.0`.
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
    match text.split([':', '.']).collect::<Vec<_>>()[..] {
        [domain, bus, device, function] => {
            text.matches(':').count() == 2 && hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_virtio_nic_is_found_with_driver_and_pci_address() {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path();
        let device = sys.join("devices/pci0000:00/0000:00:03.0/virtio0");
        let net = device.join("net/eth0");
        fs::create_dir_all(&net).unwrap();
        fs::create_dir_all(sys.join("bus/virtio/drivers/virtio_net")).unwrap();
        fs::create_dir_all(sys.join("class/net")).unwrap();
        fs::create_dir_all(sys.join("devices/virtual/net/lo")).unwrap();
        symlink(&net, sys.join("class/net/eth0")).unwrap();
        symlink(sys.join("devices/virtual/net/lo"), sys.join("class/net/lo")).unwrap();
        symlink(&device, net.join("device")).unwrap();
        symlink(sys.join("bus/virtio/drivers/virtio_net"), device.join("driver")).unwrap();
        for (name, text) in [("type", "1\n"), ("address", "52:54:00:77:00:01\n"), ("carrier", "1\n"), ("speed", "-1\n")] {
            fs::write(net.join(name), text).unwrap();
        }
        let nics = read_nics(sys);
        assert_eq!(nics.len(), 1);
        assert_eq!((nics[0].name.as_str(), nics[0].driver.as_deref()), ("eth0", Some("virtio_net")));
        assert_eq!(nics[0].pci_address.as_deref(), Some("0000:00:03.0"));
        assert_eq!((nics[0].carrier, nics[0].speed_mbps), (true, None));
    }

    #[test]
    fn only_whole_addresses_are_pci_addresses() {
        assert!(is_pci_address("0000:3b:00.1"));
        for text in ["pci0000:00", "virtio0", "0000:00:03", "00:03.0", "0000.00:03:0x"] {
            assert!(!is_pci_address(text), "{text}");
        }
    }
}
