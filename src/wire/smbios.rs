//! SMBIOS structures (DMTF DSP0134 3.7): who made the machine, and what is plugged into it.

use crate::domain::id::{Serial, SystemUuid};
use crate::domain::inventory::{Cpu, Dimm, SystemInfo};

/// What the table said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Smbios {
    pub system: SystemInfo,
    pub bios_vendor: Option<String>,
    pub bios_version: Option<String>,
    pub bios_date: Option<String>,
    pub cpus: Vec<Cpu>,
    pub dimms: Vec<Dimm>,
}

/// One structure: its formatted area, header included, and its strings.
struct Structure<'a> {
    kind: u8,
    area: &'a [u8],
    strings: Vec<&'a [u8]>,
}

impl Structure<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.area.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte(at)?, self.byte(at + 1)?]))
    }

    fn dword(&self, at: usize) -> Option<u32> {
        Some(u32::from(self.word(at)?) | u32::from(self.word(at + 2)?) << 16)
    }

    /// The string whose number stands at `at`, trimmed; `None` for number 0, beyond the end, or empty text.
    fn text(&self, at: usize) -> Option<String> {
        let number = usize::from(self.byte(at)?);
        let bytes = self.strings.get(number.checked_sub(1)?)?;
        let text: String = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn serial(&self, at: usize) -> Option<Serial> {
        self.text(at)?.parse().ok()
    }
}

/// Reads a structure table (`/sys/firmware/dmi/tables/DMI`). Stops at what is not sound and keeps what came before.
pub fn parse(table: &[u8]) -> Smbios {
    let mut out = Smbios::default();
    let mut rest = table;
    while let Some((structure, after)) = next_structure(rest) {
        rest = after;
        match structure.kind {
            0 => {
                out.bios_vendor = structure.text(0x04);
                out.bios_version = structure.text(0x05);
                out.bios_date = structure.text(0x08);
            }
            1 => read_system(&structure, &mut out.system),
            2 if out.system.board_serial.is_none() => out.system.board_serial = structure.serial(0x07),
            3 if out.system.chassis_serial.is_none() => {
                out.system.chassis_serial = structure.serial(0x07);
                out.system.asset_tag = structure.text(0x08);
            }
            4 => out.cpus.extend(read_cpu(&structure)),
            17 => out.dimms.extend(read_dimm(&structure)),
            127 => break,
            _ => {}
        }
    }
    out
}

fn next_structure(rest: &[u8]) -> Option<(Structure<'_>, &[u8])> {
    let (kind, len) = (*rest.first()?, usize::from(*rest.get(1)?));
    if len < 4 {
        return None;
    }
    let area = rest.get(..len)?;
    let mut after = &rest[len..];
    let mut strings = Vec::new();
    // Strings end with a zero each, the set with one more; a structure without strings has two zeros (6.1.3).
    if after.first() == Some(&0) {
        return Some((Structure { kind, area, strings }, after.get(2..).unwrap_or_default()));
    }
    loop {
        let end = after.iter().position(|byte| *byte == 0)?;
        if end == 0 {
            return Some((Structure { kind, area, strings }, &after[1..]));
        }
        strings.push(&after[..end]);
        after = &after[end + 1..];
    }
}

fn read_system(s: &Structure<'_>, system: &mut SystemInfo) {
    system.manufacturer = s.text(0x04);
    system.product = s.text(0x05);
    system.serial = s.serial(0x07);
    system.sku = s.text(0x19);
    system.uuid = s
        .area
        .get(0x08..0x18)
        .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
        .map(SystemUuid::from_smbios_bytes)
        .filter(|uuid| uuid.is_usable());
}

fn read_cpu(s: &Structure<'_>) -> Option<Cpu> {
    // Type 3 is a central processor; status bit 6 says that the socket is populated.
    if s.byte(0x05)? != 3 || s.byte(0x18)? & 0x40 == 0 {
        return None;
    }
    let count = |small: usize, wide: usize| match s.byte(small) {
        Some(0xff) => s.word(wide).map_or(0xff, u32::from),
        Some(n) => u32::from(n),
        None => 0,
    };
    Some(Cpu {
        socket: s.text(0x04).unwrap_or_default(),
        model: s.text(0x10).unwrap_or_default(),
        cores: count(0x23, 0x2a),
        threads: count(0x25, 0x2e),
    })
}

fn read_dimm(s: &Structure<'_>) -> Option<Dimm> {
    let size_bytes = match s.word(0x0c)? {
        0 | 0xffff => return None, // empty slot, or unknown
        0x7fff => u64::from(s.dword(0x1c)? & 0x7fff_ffff) << 20,
        kib if kib & 0x8000 != 0 => u64::from(kib & 0x7fff) << 10,
        mib => u64::from(mib) << 20,
    };
    let speed = |at: usize| s.word(at).filter(|n| *n != 0 && *n != 0xffff).map(u32::from);
    Some(Dimm {
        slot: s.text(0x10).unwrap_or_default(),
        size_bytes,
        serial: s.serial(0x18),
        part_number: s.text(0x1a),
        manufacturer: s.text(0x17),
        // What it runs at, or else what it could.
        speed_mts: speed(0x20).or_else(|| speed(0x15)),
    })
}
