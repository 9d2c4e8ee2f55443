//! What is inside a machine, for its page.

use askama::Template;

use crate::app::view::MachineDetail;
use crate::domain::inventory::{Disk, Inventory, Smart};
use crate::http::ui::text::{Ago, Text, binary_bytes, decimal_bytes};

#[derive(Template)]
#[template(path = "ui/machine/hardware.html")]
pub struct Hardware {
    at: Option<Ago>,
    gist: String,
    facts: Vec<(&'static str, Text)>,
    macs: Vec<String>,
    cpus: Vec<(Text, Text, String)>,
    dimms: Vec<DimmLine>,
    disks: Vec<DiskLine>,
    nics: Vec<NicLine>,
    pci: usize,
}

struct DimmLine {
    slot: Text,
    size: String,
    serial: Text,
    part: Text,
    speed: String,
}

struct DiskLine {
    name: Text,
    size: String,
    kind: &'static str,
    transport: Text,
    model: Text,
    serial: Text,
    written: bool,
    health: Option<String>,
    ill: bool,
}

struct NicLine {
    name: Text,
    mac: String,
    speed: String,
    up: bool,
    driver: Text,
    lldp: Option<Text>,
}

fn text(value: Option<impl std::fmt::Display>) -> Text {
    value.map(|v| Text::new(&v.to_string())).unwrap_or_default()
}

impl Hardware {
    pub fn of(detail: &MachineDetail) -> Self {
        let m = &detail.machine;
        let empty = Inventory::default();
        let inv = detail.inventory.as_ref().unwrap_or(&empty);
        let many = |n: u32, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let gist = match &m.hardware {
            Some(h) => {
                let disks = format!("{} ({})", many(h.disks, "disk"), decimal_bytes(h.disk_bytes));
                [many(h.threads, "thread"), format!("{} memory", binary_bytes(h.memory_bytes)), disks, many(h.nics, "NIC")].join(", ")
            }
            None => String::new(),
        };
        let mut facts = Vec::new();
        let mut fact = |word, value: Option<String>| {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                facts.push((word, Text::new(&value)));
            }
        };
        fact("System UUID", m.uuid.map(|u| u.to_string()));
        fact("Architecture", m.arch.map(|a| a.to_string()));
        fact(
            "Boots in",
            m.firmware.map(|f| match f {
                crate::domain::power::FirmwareKind::Bios => "BIOS mode".to_owned(),
                crate::domain::power::FirmwareKind::Uefi => "UEFI mode".to_owned(),
            }),
        );
        fact(
            "Firmware",
            Some(
                [&inv.firmware.vendor, &inv.firmware.version, &inv.firmware.date]
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
        );
        fact("Secure boot", inv.firmware.secure_boot.map(|s| if s { "on" } else { "off" }.to_owned()));
        fact("Board serial", inv.system.board_serial.as_ref().map(ToString::to_string));
        fact("Chassis serial", inv.system.chassis_serial.as_ref().map(ToString::to_string));
        fact("Asset tag", inv.system.asset_tag.clone());
        fact("Image on disk", m.image.as_ref().map(ToString::to_string));
        fact("Agent", Some(inv.agent_version.clone()));
        fact("Ramdisk kernel", Some(inv.kernel.clone()));
        Self {
            at: detail.inventory_at.map(Ago),
            gist,
            facts,
            macs: m.macs.iter().map(ToString::to_string).collect(),
            cpus: inv
                .cpus
                .iter()
                .map(|c| (Text::new(&c.socket), Text::new(&c.model), format!("{} cores, {} threads", c.cores, c.threads)))
                .collect(),
            dimms: inv
                .dimms
                .iter()
                .map(|d| DimmLine {
                    slot: Text::new(&d.slot),
                    size: if d.size_bytes == 0 { "empty".to_owned() } else { binary_bytes(d.size_bytes) },
                    serial: text(d.serial.as_ref()),
                    part: text(d.part_number.as_ref()),
                    speed: d.speed_mts.map(|s| format!("{s} MT/s")).unwrap_or_default(),
                })
                .collect(),
            disks: inv.disks.iter().map(|d| DiskLine::of(d, detail.written_disks.iter().any(|w| w.matches(d)))).collect(),
            nics: inv
                .nics
                .iter()
                .map(|n| NicLine {
                    name: Text::new(&n.name),
                    mac: n.mac.to_string(),
                    speed: match n.speed_mbps {
                        Some(mbps) if mbps >= 1000 && mbps % 1000 == 0 => format!("{} Gbit/s", mbps / 1000),
                        Some(mbps) => format!("{mbps} Mbit/s"),
                        None => String::new(),
                    },
                    up: n.carrier,
                    driver: text(n.driver.as_ref()),
                    lldp: n
                        .lldp
                        .as_ref()
                        .map(|l| Text::new(&format!("{} port {}", l.system_name.as_deref().unwrap_or(&l.chassis_id), l.port_id))),
                })
                .collect(),
            pci: inv.pci.len(),
        }
    }

    fn is_known(&self) -> bool {
        self.at.is_some()
    }
}

impl DiskLine {
    fn of(d: &Disk, written: bool) -> Self {
        let ill = d.smart.as_ref().is_some_and(|s| s.healthy == Some(false));
        Self {
            name: Text::new(&d.name),
            size: decimal_bytes(d.size_bytes),
            kind: match (d.removable, d.rotational) {
                (true, _) => "removable",
                (false, true) => "hard disk",
                (false, false) => "solid state",
            },
            transport: Text::new(&d.transport),
            model: text(d.model.as_ref()),
            serial: d.serial.as_ref().map(Text::from).or_else(|| d.wwn.as_deref().map(Text::new)).unwrap_or_default(),
            written,
            health: d.smart.as_ref().map(smart_words).filter(|w| !w.is_empty()),
            ill,
        }
    }
}

fn smart_words(s: &Smart) -> String {
    let mut words = Vec::new();
    words.extend(s.healthy.map(|h| if h { "SMART good" } else { "SMART failing" }.to_owned()));
    words.extend(s.percent_used.map(|p| format!("{p} % worn")));
    words.extend(s.temperature_celsius.map(|t| format!("{t} °C")));
    words.extend(s.power_on_hours.map(|h| format!("{h} h on")));
    words.extend(s.media_errors.filter(|n| *n > 0).map(|n| format!("{n} media errors")));
    words.join(", ")
}
