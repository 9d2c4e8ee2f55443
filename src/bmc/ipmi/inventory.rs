//! What the machine is made of: FRU inventories (IPMI v2.0, section 34), parts that only their sensors tell of, and the BMC's
//! own firmware.

use crate::bmc::BmcError;
use crate::bmc::ipmi::Ipmi;
use crate::bmc::ipmi::session::Repeat;
use crate::domain::bmc::{BmcIdentity, BmcProtocol};
use crate::domain::bmc_features::{FirmwareItem, Found, Oddity};
use crate::domain::part::{Part, PartFacts, PartKind, PartState};
use crate::domain::sensor::{Health, Reading};
use crate::wire::fru::{self, Fru};
use crate::wire::ipmi::{self, DeviceId, completion};
use crate::wire::ipmi_event::{self, BATTERY, DRIVE_SLOT, MEMORY, POWER_SUPPLY, PROCESSOR};
use crate::wire::sdr::{self, FruLocator, SensorRecord};

/// Bytes of a FRU that are read; chassis, board and product areas are within the first few hundred.
const FRU_CAP: usize = 4096;
/// Bytes asked for in one Read FRU Data; smaller ones after a BMC that cannot.
const CHUNKS: [u8; 4] = [64, 32, 16, 8];

/// A FRU as far as it could be read.
enum FruRead {
    Read(Box<Fru>),
    /// Not there: an empty slot answers so.
    Absent,
    Unreadable(String),
}

impl Ipmi {
    pub(super) async fn read_identity(&self) -> Result<BmcIdentity, BmcError> {
        let device = self.read(ipmi::GET_DEVICE_ID, &[]).await?;
        let (code, guid) = self.raw(ipmi::GET_SYSTEM_GUID, &[], Repeat::Yes).await?;
        let uuid = if code == completion::OK { ipmi::guid_text(&guid) } else { None };
        let fru = match self.fru(0).await? {
            FruRead::Read(fru) => fru,
            FruRead::Absent | FruRead::Unreadable(_) => Box::default(),
        };
        Ok(BmcIdentity {
            source: Some("ipmi:device".to_owned()),
            protocol: Some(BmcProtocol::Ipmi),
            manufacturer: fru.manufacturer().cloned(),
            model: fru.model().cloned(),
            serial: fru.system_serial().cloned(),
            uuid,
            asset_tag: fru.asset_tag().cloned(),
            bmc_firmware: ipmi::firmware_version(&device),
            bios_version: None,
        })
    }

    /// The BMC's firmware; IPMI tells of no other (20.1).
    pub(super) async fn own_firmware(&self) -> Result<Found<FirmwareItem>, BmcError> {
        let data = self.read(ipmi::GET_DEVICE_ID, &[]).await?;
        let id = DeviceId::from_data(&data).ok_or_else(|| self.nonsense("a device id that ends early"))?;
        let item = FirmwareItem {
            source: "ipmi:device".to_owned(),
            name: "BMC".to_owned(),
            version: ipmi::firmware_version(&data),
            updateable: None,
            software_id: Some(format!("manufacturer {} product {}", id.manufacturer_id, id.product_id)),
            related: Vec::new(),
            health: None,
            in_use: Some(true),
        };
        Ok(Found { items: vec![item], ..Found::default() })
    }

    /// One FRU: area information (34.1), then as much as its areas need (34.2).
    async fn fru(&self, id: u8) -> Result<FruRead, BmcError> {
        let (code, info) = self.raw(ipmi::FRU_AREA, &[id], Repeat::Yes).await?;
        let [low, high, access, ..] = info.as_slice() else {
            return Ok(match code {
                completion::OK => FruRead::Unreadable("its area information ends early".to_owned()),
                completion::NOT_PRESENT => FruRead::Absent,
                code => FruRead::Unreadable(ipmi::code_words(code)),
            });
        };
        // Bit 0: offsets and counts are in words of two bytes.
        let word = usize::from(access & 1) + 1;
        let size = usize::from(u16::from_le_bytes([*low, *high])).min(FRU_CAP);
        let mut chunks = CHUNKS.into_iter();
        let mut chunk = usize::from(chunks.next().unwrap_or(8));
        let mut bytes: Vec<u8> = Vec::new();
        while bytes.len() < size.min(fru::wanted(&bytes)) {
            let count = chunk.min((size - bytes.len()).next_multiple_of(word)) / word;
            let [low, high] = u16::try_from(bytes.len() / word).unwrap_or(u16::MAX).to_le_bytes();
            let (code, data) = self.raw(ipmi::READ_FRU, &[id, low, high, u8::try_from(count).unwrap_or(8)], Repeat::Yes).await?;
            match (code, data.as_slice()) {
                (completion::OK, [returned, data @ ..]) if *returned > 0 && !data.is_empty() => {
                    bytes.extend(data.iter().take(usize::from(*returned) * word));
                    // An odd length would shift the offset in words.
                    bytes.truncate(bytes.len() / word * word);
                }
                (completion::NOT_PRESENT, _) => return Ok(FruRead::Absent),
                // 0x81: the device is busy (34.2). Others: this much cannot be given.
                (0x81, _) => return Ok(FruRead::Unreadable("the device is busy".to_owned())),
                (code, _) => match chunks.next() {
                    Some(smaller) => chunk = usize::from(smaller),
                    None if bytes.is_empty() => return Ok(FruRead::Unreadable(ipmi::code_words(code))),
                    None => break,
                },
            }
        }
        Ok(match fru::read(&bytes) {
            Some(fru) => FruRead::Read(Box::new(fru)),
            None => FruRead::Unreadable("it holds no FRU information (blank or of another format)".to_owned()),
        })
    }

    /// Chassis and baseboard from FRU 0, one part for each other FRU, then parts that only a sensor tells of. Sensors of the
    /// same entity add presence and health.
    pub(super) async fn read_parts(&self) -> Result<Found<Part>, BmcError> {
        let mut found = Found::default();
        match self.fru(0).await? {
            FruRead::Read(fru) => {
                found.not_understood.extend(flaws("fru:0", &fru));
                found.items.extend(system_parts(&fru));
            }
            FruRead::Absent => {}
            FruRead::Unreadable(why) => found.unread.push(Oddity { source: "fru:0".to_owned(), what: why }),
        }
        let repository = match self.repository().await {
            Ok(repository) => Some(repository),
            Err(BmcError::Unsupported { .. }) => None,
            Err(other) => return Err(other),
        };
        let (frus, sensors) = repository.as_ref().map_or((&[][..], &[][..]), |r| (r.frus.as_slice(), r.sensors.as_slice()));
        for locator in frus.iter().filter(|l| l.logical && l.owner == sdr::BMC && l.id != 0) {
            let source = format!("fru:{}", locator.id);
            match self.fru(locator.id).await? {
                FruRead::Read(fru) => {
                    found.not_understood.extend(flaws(&source, &fru));
                    found.items.push(fru_part(locator, &source, &fru));
                }
                FruRead::Absent => found.items.push(Part { state: PartState::Absent, ..fru_part(locator, &source, &Fru::default()) }),
                FruRead::Unreadable(why) => found.unread.push(Oddity { source, what: why }),
            }
        }
        for sensor in sensors.iter().filter(|s| part_of(s).is_some() && s.key.owner == sdr::BMC) {
            let (reading, answer) = self.read_sensor(sensor).await?;
            let health = sensor.health(&answer, &reading);
            add_sensor(&mut found.items, sensor, &reading, health);
        }
        found.items.push(self.bmc_part().await?);
        Ok(found)
    }

    async fn bmc_part(&self) -> Result<Part, BmcError> {
        let data = self.read(ipmi::GET_DEVICE_ID, &[]).await?;
        Ok(Part { firmware: ipmi::firmware_version(&data), state: PartState::Present, ..bare(PartKind::Bmc, "ipmi:device", "BMC") })
    }
}

fn bare(kind: PartKind, source: &str, name: &str) -> Part {
    Part {
        kind,
        source: source.to_owned(),
        name: name.to_owned(),
        place: None,
        manufacturer: None,
        model: None,
        part_number: None,
        serial: None,
        firmware: None,
        state: PartState::NotSaid,
        health: None,
        facts: PartFacts::default(),
    }
}

fn flaws<'a>(source: &'a str, fru: &'a Fru) -> impl Iterator<Item = Oddity> + 'a {
    fru.flaws.iter().map(move |what| Oddity { source: source.to_owned(), what: what.clone() })
}

fn serial(text: Option<&String>) -> Option<crate::domain::id::Serial> {
    text.and_then(|t| t.parse().ok())
}

/// Chassis and board of the machine itself.
fn system_parts(fru: &Fru) -> Vec<Part> {
    let mut out = Vec::new();
    if let Some(chassis) = &fru.chassis {
        out.push(Part {
            manufacturer: fru.product.as_ref().and_then(|p| p.manufacturer.clone()),
            part_number: chassis.part_number.clone(),
            serial: serial(chassis.serial.as_ref()),
            state: PartState::Present,
            ..bare(PartKind::Chassis, "fru:0#chassis", "Chassis")
        });
    }
    if let Some(board) = &fru.board {
        out.push(Part {
            manufacturer: board.manufacturer.clone(),
            model: board.name.clone(),
            part_number: board.part_number.clone(),
            serial: serial(board.serial.as_ref()),
            state: PartState::Present,
            ..bare(PartKind::Baseboard, "fru:0#board", "Baseboard")
        });
    }
    out
}

/// What sits at an entity (table 43-13).
fn kind_of(entity: u8) -> PartKind {
    match entity {
        3 | 9 | 65 => PartKind::Cpu,
        4 | 26 => PartKind::Drive,
        7 | 66 => PartKind::Baseboard,
        8 | 32 => PartKind::Dimm,
        10 | 20 => PartKind::PowerSupply,
        11 => PartKind::PcieDevice,
        23 => PartKind::Chassis,
        29 | 30 => PartKind::Fan,
        40 => PartKind::Battery,
        _ => PartKind::Other,
    }
}

/// A FRU of its own: the product area describes a purchased thing, the board area a board; vendors fill either.
fn fru_part(locator: &FruLocator, source: &str, fru: &Fru) -> Part {
    let (product, board) = (fru.product.as_ref(), fru.board.as_ref());
    let place = ipmi_event::entity(locator.entity, locator.instance);
    Part {
        place: Some(place.clone()),
        manufacturer: fru.manufacturer().cloned(),
        model: fru.model().cloned(),
        part_number: product.and_then(|p| p.part_number.clone()).or_else(|| board?.part_number.clone()),
        serial: serial(product.and_then(|p| p.serial.as_ref())).or_else(|| serial(board?.serial.as_ref())),
        firmware: product.and_then(|p| p.version.clone()),
        state: PartState::Present,
        ..bare(kind_of(locator.entity), source, locator.name.as_deref().unwrap_or(&place))
    }
}

/// The kind of part a discrete sensor stands for: its type tells, and the offset that means "there" (table 42-3).
fn part_of(sensor: &SensorRecord) -> Option<(PartKind, u8)> {
    if sensor.event_type != ipmi_event::SENSOR_SPECIFIC {
        return None;
    }
    match sensor.sensor_type {
        PROCESSOR => Some((PartKind::Cpu, 7)),
        POWER_SUPPLY => Some((PartKind::PowerSupply, 0)),
        DRIVE_SLOT => Some((PartKind::Drive, 0)),
        MEMORY => Some((PartKind::Dimm, 6)),
        BATTERY => Some((PartKind::Battery, 2)),
        _ => None,
    }
}

/// Adds what a sensor says to the part at its entity, or makes one. One sensor for all DIMMs, which never says "present", makes none.
fn add_sensor(parts: &mut Vec<Part>, sensor: &SensorRecord, reading: &Reading, health: Option<Health>) {
    let Some((kind, presence)) = part_of(sensor) else { return };
    let place = ipmi_event::entity(sensor.entity, sensor.instance);
    let (state, alarms) = match reading {
        Reading::States { offsets, words } if offsets >> presence & 1 == 1 => (
            PartState::Present,
            words.iter().filter(|w| **w != ipmi_event::words(sensor.event_type, sensor.sensor_type, presence)).cloned().collect(),
        ),
        // Boards whose sensors have no presence state: asserted faults are all there is.
        Reading::States { words, .. } if !words.is_empty() => (PartState::NotSaid, words.clone()),
        Reading::States { .. } if kind == PartKind::PowerSupply || kind == PartKind::Drive => (PartState::Absent, Vec::new()),
        Reading::States { .. } | Reading::Number { .. } => (PartState::NotSaid, Vec::new()),
        Reading::Unavailable { why } => (PartState::Unavailable(why.clone()), Vec::new()),
    };
    // An empty place has no health.
    let health = if state == PartState::Absent { None } else { health };
    let known = parts.iter_mut().find(|p| p.kind == kind && p.place.as_deref() == Some(place.as_str()));
    match known {
        Some(part) => {
            part.facts.alarms.extend(alarms);
            part.health = part.health.max(health);
            if state == PartState::Absent {
                part.state = state;
            }
        }
        None if kind == PartKind::Dimm && state == PartState::NotSaid => {}
        None => parts.push(Part {
            place: Some(place),
            state,
            health,
            facts: PartFacts { alarms, ..PartFacts::default() },
            ..bare(kind, &sensor.key.to_string(), &sensor.name)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sdr::{Content, SensorKey};

    fn psu(instance: u8) -> SensorRecord {
        SensorRecord {
            key: SensorKey { owner: 0x20, channel: 0, lun: 0, number: instance },
            name: format!("PSU{instance} Status"),
            entity: 10,
            instance,
            sensor_type: POWER_SUPPLY,
            event_type: ipmi_event::SENSOR_SPECIFIC,
            content: Content::Discrete,
        }
    }

    fn states(sensor: &SensorRecord, offsets: u16) -> Reading {
        let [low, high] = offsets.to_le_bytes();
        sensor.reading(&[0, 0xc0, low, high], None)
    }

    #[test]
    fn a_power_supply_has_the_serial_of_its_fru_and_the_health_of_its_sensor() {
        let locator = FruLocator { name: Some("PSU1 FRU".into()), owner: 0x20, logical: true, id: 1, entity: 10, instance: 1 };
        let product = fru::Product { serial: Some("PS-77".into()), manufacturer: Some("Delta".into()), ..fru::Product::default() };
        let mut parts = vec![fru_part(&locator, "fru:1", &Fru { product: Some(product), ..Fru::default() })];
        add_sensor(&mut parts, &psu(1), &states(&psu(1), 0b1001), Some(Health::Critical));
        add_sensor(&mut parts, &psu(2), &states(&psu(2), 0), Some(Health::Ok));
        assert_eq!(parts.len(), 2);
        assert_eq!((parts[0].serial.as_ref().map(|s| s.as_str()), parts[0].health), (Some("PS-77"), Some(Health::Critical)));
        assert_eq!(parts[0].facts.alarms, ["Power Supply input lost (AC/DC)"]);
        assert_eq!((&parts[1].state, parts[1].health, parts[1].place.as_deref()), (&PartState::Absent, None, Some("power supply 2")));
    }

    #[test]
    fn a_sensor_that_is_not_read_leaves_its_part_unknown_and_not_gone() {
        let mut parts = Vec::new();
        add_sensor(&mut parts, &psu(1), &Reading::Unavailable { why: "busy".into() }, None);
        assert_eq!((&parts[0].state, parts[0].health), (&PartState::Unavailable("busy".into()), None));
    }
}
