//! What is inside a simulated machine: drawn from a few plausible models by a seed, so that the same seed and number
//! always give the same machine.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::domain::boot::{Arch, ClientArch};
use crate::domain::id::{Mac, Serial, SystemUuid};
use crate::domain::inventory::{Cpu, Dimm, Disk, FirmwareInfo, Inventory, LldpNeighbour, Nic, PciDevice, Smart, SystemInfo};
use crate::domain::power::FirmwareKind;

/// The network boot code in the machine's firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rom {
    /// EDK2's PXE: TFTP with windows, asks for the size first.
    EfiPxe,
    /// EDK2's HTTP boot.
    EfiHttp,
    /// A BIOS option ROM of a NIC vendor: TFTP in lock step.
    BiosPxe,
    /// iPXE as the BIOS option ROM (SeaBIOS under QEMU): asks for its script at once.
    BiosIpxe,
}

impl Rom {
    pub fn client(self) -> ClientArch {
        match self {
            Self::EfiPxe => ClientArch::UefiX64,
            Self::EfiHttp => ClientArch::UefiX64Http,
            Self::BiosPxe | Self::BiosIpxe => ClientArch::Bios,
        }
    }

    pub fn firmware(self) -> FirmwareKind {
        self.client().firmware()
    }
}

/// The protocol that the BMC's front speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BmcFront {
    Redfish,
    Ipmi,
}

/// How long things take on this machine, in its own time (see `Pace`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tempo {
    /// Power command to power.
    pub power: Duration,
    /// Power-on self test, to the first DHCP packet or the boot sector.
    pub post: Duration,
    /// Kernel and ramdisk, to the agent's first line.
    pub kernel: Duration,
    /// Reading the hardware.
    pub probe: Duration,
    /// Writing an image or wiping one disk.
    pub write: Duration,
    /// Boot loader to cloud-init's last stage.
    pub system: Duration,
}

/// One machine as it was built.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// 1 is the lowest in the rack.
    pub number: usize,
    pub rom: Rom,
    pub bmc: BmcFront,
    pub boot_mac: Mac,
    pub uuid: SystemUuid,
    pub serial: Serial,
    pub tempo: Tempo,
    /// As the agent will report it.
    pub inventory: Inventory,
}

struct Model {
    manufacturer: &'static str,
    product: &'static str,
    bios: (&'static str, &'static str, &'static str),
    serial: fn(&mut StdRng) -> String,
    cpu: (&'static str, u32),
    dimm_slots: &'static [&'static str],
    dimm: (&'static str, &'static str, u32),
    dimm_gib: u64,
    dimms: u32,
    nic: (&'static str, [u8; 3], u32, u16, u16),
    disks: &'static [DiskModel],
    post_secs: (u64, u64),
}

struct DiskModel {
    count: u32,
    model: &'static str,
    transport: &'static str,
    bytes: u64,
    rotational: bool,
}

const GB: u64 = 1_000_000_000;

const MODELS: [Model; 4] = [
    Model {
        manufacturer: "Dell Inc.",
        product: "PowerEdge R650",
        bios: ("Dell Inc.", "1.10.2", "02/14/2023"),
        serial: |r| letters(r, b"123456789BCDFGHJKLMNPQRSTVWXYZ", 7),
        cpu: ("Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", 32),
        dimm_slots: &["A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8"],
        dimm: ("Hynix Semiconductor", "HMAA8GR7AJR4N-XN", 3200),
        dimm_gib: 32,
        dimms: 16,
        nic: ("bnxt_en", [0xb0, 0x26, 0x28], 25_000, 0x14e4, 0x16d7),
        disks: &[
            DiskModel { count: 1, model: "DELLBOSS VD", transport: "sata", bytes: 480_036_519_936, rotational: false },
            DiskModel {
                count: 2,
                model: "Dell Ent NVMe v2 AGN RI U.2 1.92TB",
                transport: "nvme",
                bytes: 1_920_383_410_176,
                rotational: false,
            },
        ],
        post_secs: (75, 120),
    },
    Model {
        manufacturer: "HPE",
        product: "ProLiant DL360 Gen10",
        bios: ("HPE", "U32 v2.72", "09/29/2022"),
        serial: |r| format!("CZJ{}", letters(r, b"0123456789BCDFGHJKLMNPQRSTVWXYZ", 7)),
        cpu: ("Intel(R) Xeon(R) Silver 4214R CPU @ 2.40GHz", 12),
        dimm_slots: &[
            "PROC 1 DIMM 1",
            "PROC 1 DIMM 3",
            "PROC 1 DIMM 8",
            "PROC 1 DIMM 10",
            "PROC 2 DIMM 1",
            "PROC 2 DIMM 3",
            "PROC 2 DIMM 8",
            "PROC 2 DIMM 10",
        ],
        dimm: ("HPE", "P00924-B21", 2933),
        dimm_gib: 32,
        dimms: 8,
        nic: ("tg3", [0x94, 0x40, 0xc9], 1000, 0x14e4, 0x1657),
        disks: &[
            DiskModel { count: 2, model: "VK000480GWSRR", transport: "sata", bytes: 480_103_981_056, rotational: false },
            DiskModel { count: 4, model: "EG001200JWJNQ", transport: "sas", bytes: 1_200_243_695_616, rotational: true },
        ],
        post_secs: (90, 140),
    },
    Model {
        manufacturer: "Lenovo",
        product: "ThinkSystem SR630 V2",
        bios: ("Lenovo", "AFE126E-2.10", "04/18/2023"),
        serial: |r| format!("J30{}", letters(r, b"0123456789ABCDEFGHJKLMNPRSTUVWXYZ", 5)),
        cpu: ("Intel(R) Xeon(R) Silver 4314 CPU @ 2.40GHz", 16),
        dimm_slots: &["DIMM 1", "DIMM 3", "DIMM 5", "DIMM 7", "DIMM 17", "DIMM 19", "DIMM 21", "DIMM 23"],
        dimm: ("Samsung", "M393A4K40EB3-CWE", 3200),
        dimm_gib: 32,
        dimms: 8,
        nic: ("ice", [0x3c, 0xfd, 0xfe], 25_000, 0x8086, 0x159b),
        disks: &[DiskModel {
            count: 2,
            model: "SAMSUNG MZQL21T9HCJR-00A07",
            transport: "nvme",
            bytes: 1_920_383_410_176,
            rotational: false,
        }],
        post_secs: (70, 110),
    },
    Model {
        manufacturer: "Supermicro",
        product: "SYS-1029P-WTR",
        bios: ("American Megatrends Inc.", "3.4", "11/02/2020"),
        serial: |r| format!("S{}X{}", letters(r, b"0123456789", 6), letters(r, b"0123456789", 7)),
        cpu: ("Intel(R) Xeon(R) Silver 4210 CPU @ 2.20GHz", 10),
        dimm_slots: &["P1-DIMMA1", "P1-DIMMB1", "P1-DIMMD1", "P1-DIMME1", "P2-DIMMA1", "P2-DIMMB1"],
        dimm: ("Micron Technology", "36ASF2G72PZ-2G6E1", 2666),
        dimm_gib: 16,
        dimms: 6,
        nic: ("i40e", [0xac, 0x1f, 0x6b], 10_000, 0x8086, 0x37d2),
        disks: &[
            DiskModel { count: 1, model: "INTEL SSDSC2KB240G8", transport: "sata", bytes: 240 * GB + 57_409_536, rotational: false },
            DiskModel { count: 2, model: "ST4000NM0035-1V4107", transport: "sata", bytes: 4_000_787_030_016, rotational: true },
        ],
        post_secs: (55, 80),
    },
];

impl Hardware {
    /// Machine `number` (from 1) of the rack with this seed.
    pub fn draw(rack_seed: u64, number: usize) -> Self {
        // The multiplier of PCG64 spreads neighbouring numbers over all bits.
        let seed = rack_seed ^ (number as u64).wrapping_mul(0x2360_ed05_1fc6_5da4);
        let r = &mut StdRng::seed_from_u64(seed);
        let model = &MODELS[r.random_range(0..MODELS.len())];
        // Over every 8 machines: 4 UEFI PXE, 1 UEFI HTTP, 2 vendor ROM BIOS, 1 iPXE ROM BIOS: 63 % UEFI, and each kind
        // is there even in a small rack.
        let rom = match number % 8 {
            1 | 3 | 4 | 6 => Rom::EfiPxe,
            0 => Rom::EfiHttp,
            2 | 7 => Rom::BiosPxe,
            _ => Rom::BiosIpxe,
        };
        let bmc = if number % 6 == 5 { BmcFront::Ipmi } else { BmcFront::Redfish };
        let uuid = SystemUuid(uuid::Builder::from_random_bytes(r.random()).into_uuid());
        let serial_text = (model.serial)(r);
        let serial: Serial = serial_text.parse().unwrap_or_else(|_| unreachable_serial(uuid.0));
        let boot_mac = mac(model.nic.1, r);
        let secs = |r: &mut StdRng, from, to| Duration::from_millis(r.random_range(from * 1000..to * 1000));
        let tempo = Tempo {
            power: secs(r, 2, 5),
            post: secs(r, model.post_secs.0, model.post_secs.1),
            kernel: secs(r, 8, 14),
            probe: secs(r, 2, 6),
            write: secs(r, 35, 60),
            system: secs(r, 20, 40),
        };
        let inventory = inventory(model, r, number, rom, uuid, &serial, boot_mac);
        Self { number, rom, bmc, boot_mac, uuid, serial, tempo, inventory }
    }

    /// Model name, as the BMC tells it.
    pub fn product(&self) -> &str {
        self.inventory.system.product.as_deref().unwrap_or("unknown")
    }

    pub fn manufacturer(&self) -> &str {
        self.inventory.system.manufacturer.as_deref().unwrap_or("unknown")
    }
}

/// A drawn serial of one repeated character could look like a filler; the UUID's text never does.
fn unreachable_serial(uuid: Uuid) -> Serial {
    let text = format!("SIM-{uuid}");
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a serial"))
}

fn inventory(model: &Model, r: &mut StdRng, number: usize, rom: Rom, uuid: SystemUuid, serial: &Serial, boot_mac: Mac) -> Inventory {
    let (cpu_model, cores) = model.cpu;
    let cpus = (0..2).map(|n| Cpu { socket: format!("CPU{}", n + 1), model: cpu_model.into(), cores, threads: cores * 2 });
    let (dimm_maker, part, speed) = model.dimm;
    let dimms: Vec<Dimm> = model
        .dimm_slots
        .iter()
        .take(model.dimms as usize)
        .map(|slot| Dimm {
            slot: (*slot).into(),
            size_bytes: model.dimm_gib << 30,
            serial: letters(r, b"0123456789ABCDEF", 8).parse().ok(),
            part_number: Some(part.into()),
            manufacturer: Some(dimm_maker.into()),
            speed_mts: Some(speed),
        })
        .collect();
    let (driver, oui, speed, vendor, device) = model.nic;
    let second_mac = mac(oui, r);
    let nic = |port: u8, mac: Mac| Nic {
        name: format!("eno{}", port + 1),
        mac,
        speed_mbps: Some(speed),
        carrier: true,
        driver: Some(driver.into()),
        pci_address: Some(format!("0000:19:00.{port}")),
        lldp: Some(LldpNeighbour {
            chassis_id: format!("44:4c:a8:12:0{}:00", port + 1),
            port_id: format!("Ethernet{number}/{}", port + 1),
            system_name: Some(if port == 0 { "tor-r12-a".into() } else { "tor-r12-b".into() }),
            port_description: Some(format!("{} port {}", serial, port + 1)),
        }),
    };
    let nics = vec![nic(0, boot_mac), nic(1, second_mac)];
    let disks = disks(model, r);
    let mut pci: Vec<PciDevice> = nics
        .iter()
        .filter_map(|n| n.pci_address.clone())
        .map(|address| PciDevice { address, vendor, device, class: 0x02_0000, driver: Some(driver.into()) })
        .collect();
    let nvmes = disks.iter().filter(|d| d.transport == "nvme").count();
    pci.extend((0..nvmes).map(|n| PciDevice {
        address: format!("0000:{:02x}:00.0", 0x65 + n),
        vendor: 0x144d,
        device: 0xa824,
        class: 0x01_0802,
        driver: Some("nvme".into()),
    }));
    Inventory {
        system: SystemInfo {
            manufacturer: Some(model.manufacturer.into()),
            product: Some(model.product.into()),
            serial: Some(serial.clone()),
            uuid: Some(uuid),
            sku: None,
            board_serial: letters(r, b"0123456789ABCDEFGHJKLMNPQRSTUVWXYZ", 14).parse().ok(),
            chassis_serial: Some(serial.clone()),
            asset_tag: None,
        },
        firmware: FirmwareInfo {
            kind: Some(rom.firmware()),
            vendor: Some(model.bios.0.into()),
            version: Some(model.bios.1.into()),
            date: Some(model.bios.2.into()),
            secure_boot: (rom.firmware() == FirmwareKind::Uefi).then_some(false),
        },
        arch: Some(Arch::X86_64),
        cpus: cpus.collect(),
        memory_bytes: dimms.iter().map(|d| d.size_bytes).sum(),
        dimms,
        disks,
        nics,
        pci,
        bmc: None,
        kernel: "6.1.0-simulated".into(),
        agent_version: format!("{} (simulated)", env!("CARGO_PKG_VERSION")),
    }
}

fn disks(model: &Model, r: &mut StdRng) -> Vec<Disk> {
    let mut out = Vec::new();
    let (mut sd, mut nvme) = (0u8, 0u8);
    for kind in model.disks {
        for _ in 0..kind.count {
            let name = if kind.transport == "nvme" {
                nvme += 1;
                format!("nvme{}n1", nvme - 1)
            } else {
                sd += 1;
                format!("sd{}", char::from(b'a' + sd - 1))
            };
            let wwn = match kind.transport {
                "nvme" => format!("eui.{}", letters(r, b"0123456789abcdef", 32)),
                _ => format!("naa.5{}", letters(r, b"0123456789abcdef", 15)),
            };
            let hours = r.random_range(400..38_000);
            out.push(Disk {
                name,
                model: Some(kind.model.into()),
                serial: letters(r, b"0123456789ABCDEFGHJKLMNPQRSTUVWXYZ", 14).parse().ok(),
                wwn: Some(wwn),
                size_bytes: kind.bytes,
                logical_block_bytes: 512,
                rotational: kind.rotational,
                removable: false,
                read_only: false,
                transport: kind.transport.into(),
                smart: Some(Smart {
                    healthy: Some(true),
                    temperature_celsius: Some(r.random_range(24..41)),
                    power_on_hours: Some(hours),
                    percent_used: (!kind.rotational).then(|| u32::try_from(hours / 1500).unwrap_or(0)),
                    media_errors: Some(0),
                }),
            });
        }
    }
    out
}

fn letters(r: &mut StdRng, from: &[u8], count: usize) -> String {
    (0..count).map(|_| char::from(from[r.random_range(0..from.len())])).collect()
}

fn mac(oui: [u8; 3], r: &mut StdRng) -> Mac {
    let [a, b, c] = oui;
    let [d, e, f]: [u8; 3] = r.random();
    Mac([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_seed_gives_the_same_machine_and_another_seed_another() {
        assert_eq!(Hardware::draw(7, 3).inventory, Hardware::draw(7, 3).inventory);
        assert_ne!(Hardware::draw(7, 3).serial, Hardware::draw(8, 3).serial);
    }

    #[test]
    fn a_thousand_machines_are_a_thousand_identities() {
        let rack: Vec<_> = (1..=1000).map(|n| Hardware::draw(1, n)).collect();
        let count = |f: fn(&Hardware) -> String| rack.iter().map(f).collect::<BTreeSet<_>>().len();
        assert_eq!(count(|h| h.serial.to_string()), 1000);
        assert_eq!(count(|h| h.uuid.to_string()), 1000);
        assert_eq!(count(|h| h.boot_mac.to_string()), 1000);
        let macs: BTreeSet<_> = rack.iter().flat_map(|h| h.inventory.nics.iter().map(|n| n.mac)).collect();
        assert_eq!(macs.len(), 2000);
    }

    #[test]
    fn every_disk_can_be_named_and_nothing_is_cut_by_the_servers_caps() {
        for number in 1..=50 {
            let mut inventory = Hardware::draw(1, number).inventory;
            assert!(inventory.disks.iter().all(|d| crate::domain::inventory::DiskRef::to(d).is_some()));
            assert_eq!(inventory.cap(), [""; 0]);
        }
    }

    #[test]
    fn about_two_thirds_of_a_rack_are_uefi() {
        let uefi = (1..=24).filter(|n| Hardware::draw(1, *n).rom.firmware() == FirmwareKind::Uefi).count();
        assert_eq!(uefi, 15); // 63 %
    }
}
