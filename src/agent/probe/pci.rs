//! The PCI devices as sysfs lists them.

use std::path::Path;

use crate::agent::probe::disk::{entries, link_name, short_text};
use crate::domain::inventory::PciDevice;

pub fn read_pci(sys: &Path) -> Vec<PciDevice> {
    let root = sys.join("bus/pci/devices");
    let hex = |path: &Path| short_text(path).and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    let mut found: Vec<PciDevice> = entries(&root)
        .into_iter()
        .filter_map(|address| {
            let at = root.join(&address);
            Some(PciDevice {
                vendor: u16::try_from(hex(&at.join("vendor"))?).ok()?,
                device: u16::try_from(hex(&at.join("device"))?).ok()?,
                class: hex(&at.join("class"))?,
                driver: link_name(&at.join("driver")),
                address,
            })
        })
        .collect();
    found.sort_by(|a, b| a.address.cmp(&b.address));
    found
}
