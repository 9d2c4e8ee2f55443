//! Log entries to observations: the code of an event, what it is about, and whether it is history.

use std::time::Duration;

use crate::decide::observe::Read;
use crate::decide::observe::part::component_of;
use crate::domain::hardware_log::{IpmiEvent, LogEntry};
use crate::domain::observation::{Anchor, Component, Family, LoggedEvent, Observation, Quality, Signal, Value};
use crate::domain::part::Part;
use crate::domain::time::Timestamp;

/// A BMC that lost its battery counts from 1970, some from 2000: such a time says nothing.
const EARLIEST: Timestamp = Timestamp(1_262_304_000_000_000); // 2010-01-01
/// A clock this far ahead of ours says nothing either.
const AHEAD: Duration = Duration::from_secs(86_400);

/// What one entry says; `None` if it carries no code that a rule could name. `parts`: the machine's, so that an entry about
/// one of them is anchored to its serial.
pub fn observe(entry: &LogEntry, parts: &[Part], read: &Read<'_>) -> Option<Observation> {
    let (code, family) = match (entry.message_id.as_deref().and_then(message_code), entry.ipmi) {
        // A vendor's own id says more than the SEL record it was made from.
        (Some((code, Some(family))), _) => (code, family),
        (_, Some(ipmi)) => (ipmi_code(ipmi), ipmi_family(ipmi)),
        (Some((code, None)), None) => (code, Family::Report),
        (None, None) => return None,
    };
    let known = entry.origin.as_ref().and_then(|o| parts.iter().find(|p| p.source == *o || p.name == *o || p.place.as_ref() == Some(o)));
    let component = known.map(component_of).filter(|c| c.family == family).unwrap_or_else(|| Component {
        family,
        anchor: match &entry.origin {
            Some(origin) => Anchor::Source(origin.clone()),
            None => Anchor::Machine,
        },
        name: entry.origin.clone().unwrap_or_else(|| family.to_string()),
        place: None,
    });
    let event = LoggedEvent {
        code,
        direction: entry.direction,
        log: entry.log.clone(),
        epoch: read.epoch.to_owned(),
        record: entry.id.clone(),
        content: entry.content,
    };
    let mut seen = read.see(&component, Signal::Health, Value::Event(Box::new(event)), &entry.source);
    seen.evidence = entry.content;
    seen.observed_at = entry.at.filter(|at| *at >= EARLIEST && *at <= read.at.plus(AHEAD));
    // By our clock, as far as the offset is known.
    let ours = seen.observed_at.map(|at| Timestamp(at.0.saturating_sub(read.clock_offset_secs.unwrap_or(0).saturating_mul(1_000_000))));
    if ours.is_some_and(|at| at < read.first_contact) {
        seen.quality = Quality::Historical;
    }
    Some(seen)
}

/// `ipmi:TT/OO`; generic event types other than thresholds on analogue sensors carry their type: `ipmi:TT/GG:OO`.
pub fn ipmi_code(e: IpmiEvent) -> String {
    let analogue_threshold = e.event_type == 0x01 && (0x01..=0x04).contains(&e.sensor_type);
    if e.event_type == 0x6f || analogue_threshold {
        format!("ipmi:{:02x}/{:02x}", e.sensor_type, e.offset)
    } else {
        format!("ipmi:{:02x}/{:02x}:{:02x}", e.sensor_type, e.event_type, e.offset)
    }
}

/// The family of an IPMI sensor type (IPMI v2.0, table 42-3).
fn ipmi_family(e: IpmiEvent) -> Family {
    match (e.sensor_type, e.offset) {
        // A processor that tripped is heat; memory that is too hot as well.
        (0x07, 0x01) | (0x0c, 0x0a) => Family::Temperature,
        (0x01, _) => Family::Temperature,
        (0x02 | 0x03, _) => Family::Voltage,
        (0x04, _) => Family::Fan,
        (0x05, _) => Family::Chassis,
        (0x07, _) => Family::Cpu,
        (0x08 | 0x09, _) => Family::PowerSupply,
        (0x0c, _) => Family::Memory,
        // Logging of corrected memory errors was switched off: too many of them.
        (0x10, 0x00 | 0x06) => Family::Memory,
        (0x10, _) => Family::Log,
        (0x0d, 0x05 | 0x06 | 0x08) => Family::Raid,
        (0x0d, _) => Family::Drive,
        (0x0f, _) => Family::Cpu,
        (0x13, _) => Family::Pcie,
        (0x1e, _) => Family::Boot,
        (0x20, _) => Family::System,
        (0x23, _) => Family::Watchdog,
        (0x27, _) => Family::Network,
        (0x28, _) => Family::Bmc,
        (0x29, _) => Family::Battery,
        (0x2b, _) => Family::Firmware,
        _ => Family::Report,
    }
}

/// The code of a Redfish MessageId and its family where the id names one. The registry and its version are left out:
/// `IDRAC.2.8.MEM0001` and `MEM0001` are one code.
fn message_code(id: &str) -> Option<(String, Option<Family>)> {
    let parts: Vec<&str> = id.split('.').collect();
    let last = *parts.last()?;
    if last.is_empty() || last.len() > 80 || !last.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let registry = parts.first().copied().unwrap_or_default().to_ascii_lowercase();
    // Dell: three or four letters and digits, for example MEM0701.
    let letters = last.bytes().take_while(u8::is_ascii_uppercase).count();
    let digits = last.len() - letters;
    if (3..=4).contains(&letters) && (3..=4).contains(&digits) && last.bytes().skip(letters).all(|b| b.is_ascii_digit()) {
        let family = match &last[..letters] {
            "MEM" => Some(Family::Memory),
            "CPU" => Some(Family::Cpu),
            "PSU" | "RDU" => Some(Family::PowerSupply),
            "FAN" => Some(Family::Fan),
            "TMP" => Some(Family::Temperature),
            "PDR" => Some(Family::Drive),
            "VDR" => Some(Family::Raid),
            "NIC" => Some(Family::Network),
            "PCI" => Some(Family::Pcie),
            _ => None,
        };
        return Some((format!("dell:{last}"), family));
    }
    if last.starts_with("FQX") {
        return Some((format!("lenovo:{last}"), None));
    }
    let vendor = if registry.starts_with("ilo") { "hpe" } else { "redfish" };
    Some((format!("{vendor}:{last}"), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::observe::tests::read;
    use crate::domain::hardware_log::{LogDirection, LogSeverity};
    use crate::domain::id::Sha256;

    fn entry(message_id: Option<&str>, ipmi: Option<(u8, u8, u8)>) -> LogEntry {
        LogEntry {
            log: "sel".into(),
            id: "17".into(),
            at: Some(Timestamp(1_790_000_000_000_000)),
            severity: LogSeverity::Critical,
            direction: LogDirection::Asserted,
            message: "x".into(),
            message_id: message_id.map(str::to_owned),
            message_args: vec![],
            ipmi: ipmi.map(|(sensor_type, event_type, offset)| IpmiEvent {
                sensor_type,
                sensor_number: 1,
                event_type,
                offset,
                data2: 0,
                data3: 0,
            }),
            origin: None,
            content: Sha256([1; 32]),
            source: "sel".into(),
        }
    }

    fn code(e: &LogEntry) -> (String, Family) {
        let o = observe(e, &[], &read(1_790_000_100)).unwrap();
        let Value::Event(event) = o.value else { panic!() };
        (event.code, o.component.family)
    }

    #[test]
    fn the_offsets_of_the_table_become_codes() {
        for (ipmi, want, family) in [
            ((0x0c, 0x6f, 0x05), "ipmi:0c/05", Family::Memory),
            ((0x08, 0x6f, 0x01), "ipmi:08/01", Family::PowerSupply),
            ((0x04, 0x01, 0x02), "ipmi:04/02", Family::Fan),
            ((0x01, 0x01, 0x09), "ipmi:01/09", Family::Temperature),
            ((0x09, 0x0b, 0x01), "ipmi:09/0b:01", Family::PowerSupply),
            ((0x07, 0x6f, 0x01), "ipmi:07/01", Family::Temperature),
            ((0x07, 0x6f, 0x0b), "ipmi:07/0b", Family::Cpu),
            ((0x10, 0x6f, 0x00), "ipmi:10/00", Family::Memory),
            ((0x10, 0x6f, 0x04), "ipmi:10/04", Family::Log),
            ((0x13, 0x6f, 0x0a), "ipmi:13/0a", Family::Pcie),
            // A threshold event on a discrete kind of sensor is not the sensor-specific offset of the same number.
            ((0x0c, 0x01, 0x05), "ipmi:0c/01:05", Family::Memory),
        ] {
            assert_eq!(code(&entry(None, Some(ipmi))), (want.to_owned(), family));
        }
    }

    #[test]
    fn a_message_id_is_known_with_and_without_its_registry() {
        assert_eq!(code(&entry(Some("MEM0701"), None)), ("dell:MEM0701".into(), Family::Memory));
        assert_eq!(code(&entry(Some("IDRAC.2.8.MEM0001"), Some((0x0c, 0x6f, 0x01)))), ("dell:MEM0001".into(), Family::Memory));
        assert_eq!(code(&entry(Some("iLOEvents.3.0.FanFailed"), None)).0, "hpe:FanFailed");
        // Unknown words fall back to the machine-readable half.
        assert_eq!(code(&entry(Some("OpenBMC.0.1.Something"), Some((0x08, 0x6f, 0x03)))).0, "ipmi:08/03");
        assert!(observe(&entry(None, None), &[], &read(0)).is_none());
        assert!(observe(&entry(Some("a b\n"), None), &[], &read(0)).is_none());
    }

    #[test]
    fn what_happened_before_we_knew_the_machine_is_history_but_a_clock_of_1970_proves_nothing() {
        let mut e = entry(None, Some((0x0c, 0x6f, 0x01)));
        let late = Read { first_contact: Timestamp(1_795_000_000_000_000), ..read(1_795_000_100) };
        assert_eq!(observe(&e, &[], &late).unwrap().quality, Quality::Historical);
        e.at = Some(Timestamp(60_000_000));
        let seen = observe(&e, &[], &late).unwrap();
        assert_eq!((seen.quality, seen.observed_at), (Quality::Good, None));
        e.at = None;
        assert_eq!(observe(&e, &[], &late).unwrap().quality, Quality::Good);
    }

    #[test]
    fn a_known_clock_offset_is_taken_out_before_history_is_judged() {
        let e = entry(None, Some((0x0c, 0x6f, 0x01)));
        // The device is an hour behind; by our clock the event is after first contact.
        let r = Read { first_contact: Timestamp(1_790_000_100_000_000), clock_offset_secs: Some(-3600), ..read(1_790_003_700) };
        assert_eq!(observe(&e, &[], &r).unwrap().quality, Quality::Good);
    }
}
