//! Sensors: their readings by the records of the repository (IPMI v2.0, 35.14), power by DCMI, the watchdog, and how far the
//! machine's firmware came.

use std::sync::PoisonError;

use crate::bmc::BmcError;
use crate::bmc::ipmi::Ipmi;
use crate::bmc::ipmi::log::FetchedEntry;
use crate::bmc::ipmi::session::Repeat;
use crate::domain::bmc_features::{BootProgress, Found};
use crate::domain::sensor::{Reading, Sensor, SensorKind, Thresholds, Unit};
use crate::wire::ipmi::{self, GROUP_DCMI, completion};
use crate::wire::ipmi_event::{self, FIRMWARE_PROGRESS, OS_BOOT};
use crate::wire::sdr::{self, Content, SensorRecord};
use crate::wire::sel;
use crate::wire::sensor_value::{Analog, Curve, Factors};

impl Ipmi {
    /// Every sensor that has a record and can be read. One that does not answer is there as unavailable (defect C1).
    pub(super) async fn read_sensors(&self) -> Result<Found<Sensor>, BmcError> {
        let repository = self.repository().await?;
        let mut found = Found {
            items: Vec::with_capacity(repository.sensors.len()),
            not_understood: repository.not_understood.clone(),
            ..Found::default()
        };
        for record in repository.sensors.iter().filter(|s| s.content != Content::EventOnly) {
            let (reading, answer) = self.read_sensor(record).await?;
            let limits = repository.limits.get(&record.key);
            found.items.push(Sensor {
                id: record.key.to_string(),
                name: record.name.clone(),
                kind: record.kind(),
                unit: record.unit(),
                health: record.health(&answer, &reading),
                reading,
                thresholds: analog(record).zip(limits).map(|(a, raw)| a.thresholds(raw)).unwrap_or_default(),
                range: analog(record).map_or((None, None), Analog::range),
                context: Some(ipmi_event::entity(record.entity, record.instance)),
                hysteresis: analog(record).and_then(Analog::hysteresis),
                source: record.key.to_string(),
            });
        }
        found.items.extend(self.dcmi_power().await?);
        found.items.extend(self.watchdog().await?);
        Ok(found)
    }

    /// One reading, with the answer's bytes for the BMC's own judgement.
    pub(super) async fn read_sensor(&self, record: &SensorRecord) -> Result<(Reading, Vec<u8>), BmcError> {
        let unavailable = |why: String| (Reading::Unavailable { why }, Vec::new());
        if record.key.owner != sdr::BMC {
            return Ok(unavailable(format!(
                "it belongs to the controller at {:#04x} behind the BMC, which is not asked",
                record.key.owner
            )));
        }
        let key = record.key;
        let (code, answer) = self.raw_at(key.lun, ipmi::SENSOR_READING, &[key.number], Repeat::Yes).await?;
        match code {
            completion::OK => {}
            completion::NOT_PRESENT => return Ok(unavailable("the BMC says that it is not present".to_owned())),
            code => return Ok(unavailable(format!("the BMC refuses to read it: {}", ipmi::code_words(code)))),
        }
        let factors = match (&record.content, answer.first()) {
            (Content::Analog(a), Some(raw)) if a.curve == Curve::NonLinear => match self.factors_at(record, a, *raw).await? {
                Some(factors) => Some(factors),
                None => return Ok(unavailable("the BMC does not give the factors of a non-linear sensor".to_owned())),
            },
            _ => None,
        };
        Ok((record.reading(&answer, factors.as_ref()), answer))
    }

    /// Get Sensor Reading Factors (35.5): next reading, then six bytes as in the record.
    async fn factors_at(&self, record: &SensorRecord, analog: &Analog, raw: u8) -> Result<Option<Factors>, BmcError> {
        let (code, data) = self.raw_at(record.key.lun, ipmi::SENSOR_FACTORS, &[record.key.number, raw], Repeat::Yes).await?;
        let six = data.get(1..).and_then(|d| d.first_chunk::<6>());
        Ok(six.filter(|_| code == completion::OK).map(|six| Factors::read(analog.factors.format, six)))
    }

    /// Whether the BMC speaks DCMI (DCMI v1.5, 6.1.1); asked once.
    pub(super) async fn speaks_dcmi(&self) -> Result<bool, BmcError> {
        let known = *self.has_dcmi.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known {
            return Ok(known);
        }
        let (code, data) = self.raw(ipmi::DCMI_CAPABILITIES, &[GROUP_DCMI, 1], Repeat::Yes).await?;
        let speaks = code == completion::OK && data.first() == Some(&GROUP_DCMI);
        *self.has_dcmi.lock().unwrap_or_else(PoisonError::into_inner) = Some(speaks);
        Ok(speaks)
    }

    /// Get Power Reading (DCMI v1.5, 6.6.1): what the machine draws.
    async fn dcmi_power(&self) -> Result<Option<Sensor>, BmcError> {
        if !self.speaks_dcmi().await? {
            return Ok(None);
        }
        // Mode 1: system power statistics.
        let (code, data) = self.raw(ipmi::DCMI_POWER, &[GROUP_DCMI, 1, 0, 0], Repeat::Yes).await?;
        let reading = match (code, data.as_slice()) {
            (completion::OK, [GROUP_DCMI, low, high, ..]) => match data.get(17) {
                // Bit 6 clear: the measurement is off and the number is old.
                Some(state) if state & 0x40 == 0 => Reading::Unavailable { why: "power measurement is switched off".to_owned() },
                Some(_) => Reading::Number { value: f64::from(u16::from_le_bytes([*low, *high])) },
                None => Reading::Unavailable { why: "the BMC's answer ends early".to_owned() },
            },
            (completion::INVALID_COMMAND, _) => return Ok(None),
            (completion::OK, _) => Reading::Unavailable { why: "the BMC's answer is not DCMI".to_owned() },
            (code, _) => Reading::Unavailable { why: format!("the BMC refuses to read it: {}", ipmi::code_words(code)) },
        };
        Ok(Some(Sensor { kind: SensorKind::Power, unit: Unit::Watt, ..plain_sensor("dcmi:power", "System power", reading) }))
    }

    /// Get Watchdog Timer (27.7). `None` where the BMC has none.
    pub(super) async fn watchdog(&self) -> Result<Option<Sensor>, BmcError> {
        let (code, data) = self.raw(ipmi::GET_WATCHDOG, &[], Repeat::Yes).await?;
        let (completion::OK, Some([timer, action, _, expired, ..])) = (code, data.first_chunk::<8>()) else { return Ok(None) };
        let mut words = vec![if timer & 0x40 != 0 { "running".to_owned() } else { "stopped".to_owned() }];
        let then = match action & 7 {
            0 => None,
            1 => Some("hard reset"),
            2 => Some("power down"),
            3 => Some("power cycle"),
            _ => Some("a reserved action"),
        };
        words.extend(then.map(|then| format!("then {then}")));
        // Bits 1 to 5: BIOS FRB2, BIOS POST, OS load, SMS/OS, OEM.
        let users = ["BIOS FRB2", "BIOS POST", "OS load", "SMS/OS", "OEM"];
        words.extend((1u8..).zip(users).filter(|(n, _)| expired >> n & 1 == 1).map(|(_, user)| format!("expired: {user}")));
        // Table 42-3 has no offsets for "running": the words alone tell.
        Ok(Some(plain_sensor("ipmi:watchdog", "Watchdog timer", Reading::States { words, offsets: 0 })))
    }

    /// From the newest log entry, if it is about firmware progress, else from a sensor of that kind. `Unsupported` without either.
    pub(super) async fn firmware_progress(&self) -> Result<Option<BootProgress>, BmcError> {
        if let Some(FetchedEntry { record, .. }) = self.sel_entry(sel::LAST).await?
            && let Some(event) = record.event().filter(|e| e.sensor_type == FIRMWARE_PROGRESS)
            && let Some(phase) = ipmi_event::firmware_progress(event.offset, event.data2)
        {
            return Ok(Some(BootProgress { state: phase.to_owned(), at: record.at() }));
        }
        let repository = self.repository().await?;
        let mut asked = false;
        for kind in [OS_BOOT, FIRMWARE_PROGRESS] {
            for record in repository.sensors.iter().filter(|s| s.sensor_type == kind && s.content == Content::Discrete) {
                asked = true;
                if let (Reading::States { words, .. }, _) = self.read_sensor(record).await?
                    && let Some(state) = words.last()
                {
                    return Ok(Some(BootProgress { state: state.clone(), at: None }));
                }
            }
        }
        if asked { Ok(None) } else { Err(self.unsupported("boot progress (it has no firmware progress sensor)".to_owned())) }
    }
}

fn analog(record: &SensorRecord) -> Option<&Analog> {
    match &record.content {
        Content::Analog(analog) => Some(analog),
        Content::Discrete | Content::EventOnly | Content::Broken(_) => None,
    }
}

fn plain_sensor(id: &str, name: &str, reading: Reading) -> Sensor {
    Sensor {
        id: id.to_owned(),
        name: name.to_owned(),
        kind: SensorKind::Discrete,
        unit: Unit::None,
        reading,
        thresholds: Thresholds::default(),
        range: (None, None),
        context: None,
        health: None,
        hysteresis: None,
        source: id.to_owned(),
    }
}
