//! The parts of a simulated machine as its BMC lists them, made from what the agent would find and a seed for what only
//! the BMC sees (fans, power supplies, riser cards).

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::domain::inventory::{Disk, Inventory, Nic};
use crate::domain::part::{PartFacts, PartKind};

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Working,
    /// Works, and says that it will not for long.
    Failing,
    Failed,
    /// The place is empty.
    Removed,
}

/// One part. Its texts are what the maker's BMC would say.
#[derive(Clone, Debug)]
pub struct BoardPart {
    pub kind: PartKind,
    /// Last segment of its URI.
    pub id: String,
    /// Id of the storage subsystem or adapter it belongs to.
    pub within: Option<String>,
    pub name: String,
    /// The label a technician reads at the slot.
    pub place: String,
    pub manufacturer: String,
    pub model: String,
    pub part_number: String,
    pub serial: String,
    pub firmware: Option<String>,
    pub condition: Condition,
    pub facts: PartFacts,
}

impl BoardPart {
    pub fn is_there(&self) -> bool {
        self.condition != Condition::Removed
    }

    /// Redfish `Status.Health`; `None` for an empty place.
    pub fn health(&self) -> Option<&'static str> {
        match self.condition {
            Condition::Working => Some("OK"),
            Condition::Failing => Some("Warning"),
            Condition::Failed => Some("Critical"),
            Condition::Removed => None,
        }
    }
}

fn letters(r: &mut StdRng, count: usize) -> String {
    const FROM: &[u8] = b"0123456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    (0..count).map(|_| char::from(FROM[r.random_range(0..FROM.len())])).collect()
}

/// A serial for a part that takes another's place.
pub fn fresh_serial(seed: u64, nth: u64) -> String {
    letters(&mut StdRng::seed_from_u64(seed ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 12)
}

fn segment(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).collect()
}

/// What every kind of part starts from.
fn part(kind: PartKind, id: String, name: String, place: String) -> BoardPart {
    BoardPart {
        kind,
        id,
        within: None,
        name,
        place,
        manufacturer: String::new(),
        model: String::new(),
        part_number: String::new(),
        serial: String::new(),
        firmware: None,
        condition: Condition::Working,
        facts: PartFacts::default(),
    }
}

/// All parts, in the order in which a BMC would list them.
pub fn draw(inventory: &Inventory, seed: u64) -> Vec<BoardPart> {
    let r = &mut StdRng::seed_from_u64(seed ^ 0x0070_6172_7473);
    let mut out = Vec::new();
    out.extend(cpus(inventory, r));
    out.extend(dimms(inventory));
    out.extend(power(r));
    out.extend((1..=6).map(|n| BoardPart {
        model: "40x40x56 dual rotor".into(),
        manufacturer: "Delta".into(),
        part_number: "GFM0412SS".into(),
        serial: letters(r, 11),
        ..part(PartKind::Fan, format!("Fan{n}"), format!("Fan {n}"), format!("Fan {n}"))
    }));
    out.extend(storage(&inventory.disks, r));
    out.extend(adapter(&inventory.nics, r));
    let coin = part(PartKind::Battery, "CMOS".into(), "System Board CMOS Battery".into(), "System Board".into());
    out.push(BoardPart {
        manufacturer: "Panasonic".into(),
        model: "CR2032".into(),
        part_number: "CR2032".into(),
        serial: letters(r, 8),
        ..coin
    });
    out
}

fn cpus(inventory: &Inventory, r: &mut StdRng) -> Vec<BoardPart> {
    let one = |(n, cpu): (usize, &crate::domain::inventory::Cpu)| BoardPart {
        manufacturer: if cpu.model.contains("AMD") { "AMD".into() } else { "Intel(R) Corporation".into() },
        model: cpu.model.clone(),
        part_number: "CD8068904572601".into(),
        serial: letters(r, 16),
        facts: PartFacts {
            cores: Some(cpu.cores),
            threads: Some(cpu.threads),
            speed_mhz: cpu
                .model
                .split("@ ")
                .nth(1)
                .and_then(|s| s.trim_end_matches("GHz").parse::<f64>().ok())
                .map(|g| (g * 1000.0) as u32),
            correctable_errors: Some(0),
            uncorrectable_errors: Some(0),
            ..PartFacts::default()
        },
        ..part(PartKind::Cpu, format!("CPU{}", n + 1), format!("Processor {}", n + 1), cpu.socket.clone())
    };
    inventory.cpus.iter().enumerate().map(one).collect()
}

fn dimms(inventory: &Inventory) -> Vec<BoardPart> {
    let one = |(n, dimm): (usize, &crate::domain::inventory::Dimm)| BoardPart {
        manufacturer: dimm.manufacturer.clone().unwrap_or_default(),
        model: dimm.part_number.clone().unwrap_or_default(),
        part_number: dimm.part_number.clone().unwrap_or_default(),
        serial: dimm.serial.as_ref().map(ToString::to_string).unwrap_or_else(|| format!("{n:08X}")),
        facts: PartFacts {
            capacity_bytes: Some(dimm.size_bytes),
            speed_mhz: dimm.speed_mts,
            correctable_errors: Some(0),
            uncorrectable_errors: Some(0),
            ..PartFacts::default()
        },
        ..part(PartKind::Dimm, format!("DIMM{}", segment(&dimm.slot)), format!("DIMM {}", dimm.slot), dimm.slot.clone())
    };
    inventory.dimms.iter().enumerate().map(one).collect()
}

fn power(r: &mut StdRng) -> Vec<BoardPart> {
    let one = |n: u32| BoardPart {
        manufacturer: "Delta".into(),
        model: "DPS-800AB-35".into(),
        part_number: "0CMPGM".into(),
        serial: letters(r, 14),
        firmware: Some("00.1B.53".into()),
        facts: PartFacts { capacity_watts: Some(800.0), line_input: Some("Normal".into()), ..PartFacts::default() },
        ..part(PartKind::PowerSupply, format!("PSU{n}"), format!("Power Supply {n}"), format!("PSU {n}"))
    };
    (1..=2).map(one).collect()
}

/// NVMe drives hang in one subsystem, SATA and SAS drives in another, each with its controller.
fn storage(disks: &[Disk], r: &mut StdRng) -> Vec<BoardPart> {
    let mut out = Vec::new();
    for (id, nvme) in [("NVMe", true), ("RAID", false)] {
        let drives: Vec<&Disk> = disks.iter().filter(|d| (d.transport == "nvme") == nvme).collect();
        if drives.is_empty() {
            continue;
        }
        let controller = if nvme {
            ("PCIe switch", "Broadcom", "PEX88048", "4.11.0")
        } else {
            ("Host bus adapter", "Broadcom / LSI", "SAS3408", "16.00.11.00")
        };
        out.push(BoardPart {
            within: Some(id.into()),
            manufacturer: controller.1.into(),
            model: controller.2.into(),
            part_number: "05-50077-00".into(),
            serial: letters(r, 10),
            firmware: Some(controller.3.into()),
            ..part(PartKind::StorageController, format!("{id}.Controller.1"), controller.0.into(), "Slot 3".into())
        });
        let bays = drives.iter().enumerate().map(|(bay, disk)| BoardPart {
            within: Some(id.into()),
            manufacturer: maker(disk.model.as_deref().unwrap_or_default()).into(),
            model: disk.model.clone().unwrap_or_default(),
            part_number: format!("PN-{}", letters(r, 6)),
            serial: disk.serial.as_ref().map(ToString::to_string).unwrap_or_else(|| letters(r, 14)),
            firmware: Some(if nvme { "GDC5602Q".into() } else { "HPG4".into() }),
            facts: PartFacts {
                capacity_bytes: Some(disk.size_bytes),
                protocol: Some(match disk.transport.as_str() {
                    "nvme" => "NVMe".into(),
                    "sas" => "SAS".into(),
                    _ => "SATA".into(),
                }),
                media: Some(if disk.rotational { "HDD".into() } else { "SSD".into() }),
                failure_predicted: Some(false),
                life_left_percent: disk.smart.as_ref().and_then(|s| s.percent_used).map(|used| f64::from(100 - used.min(100))),
                ..PartFacts::default()
            },
            ..part(PartKind::Drive, format!("{id}.Bay.{bay}"), format!("{id} drive in bay {bay}"), format!("Bay {bay}"))
        });
        out.extend(bays.collect::<Vec<_>>());
    }
    out
}

fn maker(model: &str) -> &'static str {
    match model.split([' ', '-']).next().unwrap_or_default() {
        "SAMSUNG" => "Samsung",
        "INTEL" => "Intel",
        "DELLBOSS" | "Dell" => "Dell",
        m if m.starts_with("ST") => "Seagate",
        m if m.starts_with("VK") || m.starts_with("EG") => "HPE",
        _ => "Micron",
    }
}

fn adapter(nics: &[Nic], r: &mut StdRng) -> Vec<BoardPart> {
    let Some(first) = nics.first() else { return Vec::new() };
    let (maker, model) = match first.driver.as_deref() {
        Some("bnxt_en") => ("Broadcom", "BCM57414 NetXtreme-E 25Gb"),
        Some("tg3") => ("Broadcom", "BCM5719 Gigabit Ethernet"),
        Some("ice") => ("Intel", "E810-XXV 25GbE"),
        _ => ("Intel", "X722 10GbE"),
    };
    let mut out = vec![BoardPart {
        manufacturer: maker.into(),
        model: model.into(),
        part_number: "P26269-001".into(),
        serial: letters(r, 10),
        firmware: Some("22.31.6".into()),
        ..part(PartKind::NetworkAdapter, "NIC1".into(), format!("{maker} {model}"), "OCP slot 1".into())
    }];
    out.extend(nics.iter().enumerate().map(|(n, nic)| BoardPart {
        within: Some("NIC1".into()),
        facts: PartFacts {
            link: Some(if nic.carrier { "LinkUp".into() } else { "LinkDown".into() }),
            speed_mbps: nic.speed_mbps.map(u64::from),
            mac: Some(nic.mac),
            ..PartFacts::default()
        },
        ..part(PartKind::NetworkPort, format!("{}", n + 1), format!("Port {}", n + 1), format!("Port {}", n + 1))
    }));
    out
}
