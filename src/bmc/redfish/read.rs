//! Fields of one Redfish resource, read leniently: null, missing and wrongly typed fields cost that field and nothing else,
//! and what was there but could not be understood is noted.

use serde_json::Value;

use crate::bmc::redfish::view::{clean, clean_to};
use crate::domain::bmc_features::Oddity;
use crate::domain::id::{Mac, Serial};
use crate::domain::part::{Part, PartFacts, PartKind, PartState};
use crate::domain::sensor::Health;
use crate::domain::time::Timestamp;

/// Oddities kept of one call; a tree that is odd everywhere needs no more to be seen as such.
const ODDITY_CAP: usize = 500;
/// Entries of one array that are read.
const LIST_CAP: usize = 2_000;
/// Texts that firmware writes where it has no value.
const NO_VALUE: [&str; 9] = ["", "n/a", "na", "none", "null", "unknown", "-", "--", "not available"];

/// `Resource.State` (DSP2046), in its own letters; firmware has been seen to use others.
const STATES: [&str; 13] = [
    "Enabled",
    "Disabled",
    "StandbyOffline",
    "StandbySpare",
    "InTest",
    "Starting",
    "Absent",
    "UnavailableOffline",
    "Deferring",
    "Quiesced",
    "Updating",
    "Qualified",
    "Degraded",
];

/// Notes something seen and not understood.
pub fn note(odd: &mut Vec<Oddity>, source: &str, what: impl Into<String>) {
    let oddity = Oddity { source: clean(source).unwrap_or_default(), what: clean(&what.into()).unwrap_or_default() };
    if odd.len() < ODDITY_CAP && !odd.contains(&oddity) {
        odd.push(oddity);
    }
}

/// One resource, or an object within one.
pub struct Reader<'a, 'o> {
    pub body: &'a Value,
    /// URI of the resource.
    pub source: &'a str,
    pub odd: &'o mut Vec<Oddity>,
}

impl<'a, 'o> Reader<'a, 'o> {
    pub fn new(body: &'a Value, source: &'a str, odd: &'o mut Vec<Oddity>) -> Self {
        Self { body, source, odd }
    }

    /// A field that has a value.
    fn field(&self, name: &str) -> Option<&'a Value> {
        self.body.get(name).filter(|v| !v.is_null())
    }

    pub fn has(&self, name: &str) -> bool {
        self.field(name).is_some()
    }

    pub fn odd(&mut self, what: impl Into<String>) {
        note(self.odd, self.source, what);
    }

    fn wrong_type(&mut self, name: &str, wanted: &str, value: &Value) {
        self.odd(format!("{name} is not {wanted}: {}", shown(value)));
    }

    /// A text; numbers are taken as text (serial numbers and versions are sent as numbers by some).
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.long_text(name, 256)
    }

    pub fn long_text(&mut self, name: &str, cap: usize) -> Option<String> {
        match self.field(name)? {
            Value::String(s) => clean_to(s, cap),
            Value::Number(n) => Some(n.to_string()),
            other => {
                self.wrong_type(name, "a text", other);
                None
            }
        }
    }

    /// The first of these fields that has a text.
    pub fn first_text(&mut self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|n| self.text(n))
    }

    /// A number; a number written as text is taken (sushy-tools sends `"0"` in Thermal).
    pub fn number(&mut self, name: &str) -> Option<f64> {
        match self.field(name)? {
            Value::Number(n) => n.as_f64().filter(|n| n.is_finite()),
            Value::String(s) if NO_VALUE.contains(&s.trim().to_ascii_lowercase().as_str()) => None,
            other => {
                let parsed = other.as_str().and_then(|s| s.trim().parse::<f64>().ok()).filter(|n| n.is_finite());
                if parsed.is_none() {
                    self.wrong_type(name, "a number", other);
                }
                parsed
            }
        }
    }

    /// A count: whole and not negative.
    pub fn count(&mut self, name: &str) -> Option<u64> {
        let number = self.number(name)?;
        if (0.0..=9e15).contains(&number) {
            // In range and rounded, so nothing is lost but a fraction.
            return Some(number.round() as u64);
        }
        self.odd(format!("{name} is not a count: {number}"));
        None
    }

    pub fn small_count(&mut self, name: &str) -> Option<u32> {
        self.count(name).and_then(|n| u32::try_from(n).ok())
    }

    pub fn flag(&mut self, name: &str) -> Option<bool> {
        match self.field(name)? {
            Value::Bool(b) => Some(*b),
            Value::String(s) if s.eq_ignore_ascii_case("true") => Some(true),
            Value::String(s) if s.eq_ignore_ascii_case("false") => Some(false),
            other => {
                self.wrong_type(name, "true or false", other);
                None
            }
        }
    }

    /// A time with a zone (DSP0266, 7.5); one without is taken as UTC, the zero value of unset clocks as none.
    pub fn time(&mut self, name: &str) -> Option<Timestamp> {
        let text = self.text(name)?;
        if text.starts_with("0000-00-00") || NO_VALUE.contains(&text.to_ascii_lowercase().as_str()) {
            return None;
        }
        let time = read_time(&text);
        if time.is_none() {
            self.odd(format!("{name} is not a time: {text:?}"));
        }
        time
    }

    /// Seconds of an ISO 8601 duration (`PT1H2M3.5S`) or of a plain number.
    pub fn duration_secs(&mut self, name: &str) -> Option<f64> {
        let text = match self.field(name)? {
            Value::Number(n) => return n.as_f64(),
            Value::String(s) => s.trim().to_owned(),
            other => {
                self.wrong_type(name, "a duration", other);
                return None;
            }
        };
        let secs = read_duration(&text);
        if secs.is_none() {
            self.odd(format!("{name} is not a duration: {text:?}"));
        }
        secs
    }

    pub fn mac(&mut self, name: &str) -> Option<Mac> {
        // All zero and empty are what ports without an address show; no oddity.
        self.text(name)?.parse().ok()
    }

    pub fn serial(&mut self, name: &str) -> Option<Serial> {
        self.text(name)?.parse().ok()
    }

    /// The object in a field.
    pub fn inside<'i>(&'i mut self, name: &str) -> Option<Reader<'a, 'i>> {
        let value = self.field(name)?;
        if value.is_object() {
            return Some(Reader { body: value, source: self.source, odd: self.odd });
        }
        self.wrong_type(name, "an object", value);
        None
    }

    /// The entries of an array, without nulls.
    pub fn list(&mut self, name: &str) -> Vec<&'a Value> {
        match self.field(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => items.iter().filter(|v| !v.is_null()).take(LIST_CAP).collect(),
            Some(other) => {
                self.wrong_type(name, "a list", other);
                Vec::new()
            }
        }
    }

    /// Texts of an array, or one text where the standard wants an array.
    pub fn words(&mut self, name: &str) -> Vec<String> {
        match self.field(name) {
            Some(Value::String(s)) => clean(s).into_iter().collect(),
            _ => self.list(name).into_iter().filter_map(|v| v.as_str().and_then(clean)).collect(),
        }
    }

    /// The `@odata.id` in a field; some firmware writes the bare path.
    pub fn link(&self, name: &str) -> Option<&'a str> {
        link_of(self.field(name)?)
    }

    /// The links of an array; a single link is a list of one.
    pub fn links(&self, name: &str) -> Vec<&'a str> {
        match self.field(name) {
            Some(Value::Array(items)) => items.iter().filter_map(link_of).take(LIST_CAP).collect(),
            Some(one) => link_of(one).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn health_word(&mut self, name: &str) -> Option<Health> {
        let word = self.text(name)?;
        match word.to_ascii_lowercase().as_str() {
            "ok" | "good" | "normal" | "healthy" => Some(Health::Ok),
            "warning" | "degraded" | "minor" => Some(Health::Warning),
            "critical" | "failed" | "fatal" | "major" => Some(Health::Critical),
            "unknown" | "none" | "n/a" | "null" | "absent" | "not available" | "" => None,
            _ => {
                self.odd(format!("{name} {word:?} is no health we know"));
                None
            }
        }
    }

    /// `Status` (DSP0268, 4.3.6). A text instead of an object is read as the health, as iLO 4 and sushy-tools write it.
    pub fn status(&mut self) -> Status {
        if let Some(Value::String(_)) = self.field("Status") {
            let health = self.health_word("Status");
            return Status { health, ..Status::default() };
        }
        let Some(mut status) = self.inside("Status") else { return Status::default() };
        let state = match status.text("State") {
            None => PartState::NotSaid,
            Some(word) => match STATES.iter().find(|known| known.eq_ignore_ascii_case(&word)) {
                Some(&"Enabled") => PartState::Present,
                Some(&"Absent") => PartState::Absent,
                Some(known @ (&"UnavailableOffline" | &"Degraded")) => PartState::Unavailable((*known).to_owned()),
                Some(known) => PartState::Idle((*known).to_owned()),
                None if NO_VALUE.contains(&word.to_ascii_lowercase().as_str()) => PartState::NotSaid,
                None => {
                    status.odd(format!("Status.State {word:?} is no state we know"));
                    PartState::Unavailable(word)
                }
            },
        };
        // `HealthRollUp` was the name in drafts of 1.0 and is still sent.
        let rollup = if status.has("HealthRollup") { "HealthRollup" } else { "HealthRollUp" };
        let (health, rollup) = (status.health_word("Health"), status.health_word(rollup));
        let conditions = status.list("Conditions");
        let alarms = conditions.into_iter().take(8).filter_map(condition).collect();
        // "OK" about an empty place says nothing about a part (iLO 5: 20 empty DIMM slots of a DL360, all "OK").
        let health = health.filter(|_| state != PartState::Absent);
        Status { state, health, rollup, alarms }
    }

    /// Slot or bay as a technician reads it.
    pub fn place(&mut self) -> Option<String> {
        for field in ["Location", "PhysicalLocation"] {
            let from = match self.field(field) {
                Some(Value::Array(items)) => items.iter().find(|v| v.is_object()),
                other => other.filter(|v| v.is_object()),
            };
            let Some(location) = from else { continue };
            if let Some(label) = location.get("PartLocation").and_then(|p| p.get("ServiceLabel")).and_then(Value::as_str).and_then(clean) {
                return Some(label);
            }
            if let Some(info) =
                location.get("Info").and_then(Value::as_str).and_then(clean).filter(|i| i.chars().any(char::is_alphanumeric))
            {
                return Some(info);
            }
            let part = location.get("PartLocation");
            let ordinal = part.and_then(|p| p.get("LocationOrdinalValue")).and_then(Value::as_u64);
            let kind = part.and_then(|p| p.get("LocationType")).and_then(Value::as_str).and_then(clean);
            if let Some(ordinal) = ordinal {
                return Some(format!("{} {ordinal}", kind.unwrap_or_else(|| "place".into())));
            }
        }
        // Before there was an object for it, `Location` was a text (HPE's own resources, some of Redfish 1.0).
        let text = self.field("Location").and_then(Value::as_str).and_then(clean);
        text.or_else(|| self.first_text(&["DeviceLocator", "Socket"]))
    }

    /// The firmware of a part; HPE's own resources wrap it as `{"Current": {"VersionString"}}`.
    fn version(&mut self) -> Option<String> {
        if self.field("FirmwareVersion").is_some_and(Value::is_object) {
            return self.inside("FirmwareVersion")?.inside("Current")?.text("VersionString");
        }
        self.first_text(&["FirmwareVersion", "FirmwareRevision", "Revision"])
    }

    /// A part with what all kinds have in common.
    pub fn part(&mut self, kind: PartKind) -> Part {
        let status = self.status();
        let name = self.first_text(&["Name", "MemberId", "Id"]).unwrap_or_else(|| kind.to_string());
        Part {
            kind,
            source: clean_to(self.source, 1024).unwrap_or_default(),
            name,
            place: self.place(),
            manufacturer: self.text("Manufacturer"),
            model: self.text("Model"),
            part_number: self.text("PartNumber"),
            serial: self.serial("SerialNumber"),
            firmware: self.version(),
            state: status.state,
            health: status.health,
            facts: PartFacts { health_rollup: status.rollup, alarms: status.alarms, ..PartFacts::default() },
        }
    }

    /// Every number in this object and one level below, under its own name; for counters whose list differs by vendor.
    pub fn metrics_into(&self, into: &mut std::collections::BTreeMap<String, f64>) {
        let Some(fields) = self.body.as_object() else { return };
        for (name, value) in fields {
            match value {
                Value::Number(n) => keep(into, name, n.as_f64()),
                Value::Object(inner) => {
                    // An excerpt of a sensor (DSP2046, excerpts): its reading is the value.
                    if let Some(reading) = inner.get("Reading") {
                        keep(into, name, reading.as_f64());
                        continue;
                    }
                    for (inner_name, inner_value) in inner {
                        if let Value::Number(n) = inner_value {
                            keep(into, &format!("{name}.{inner_name}"), n.as_f64());
                        }
                    }
                }
                Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
            }
        }
    }
}

/// Metrics of one part that are kept.
const METRIC_CAP: usize = 64;

fn keep(into: &mut std::collections::BTreeMap<String, f64>, name: &str, value: Option<f64>) {
    let name = clean(name).unwrap_or_default();
    if let Some(value) = value.filter(|v| v.is_finite())
        && !name.contains('@')
        && into.len() < METRIC_CAP
    {
        into.insert(name, value);
    }
}

/// What `Status` says.
pub struct Status {
    pub state: PartState,
    pub health: Option<Health>,
    pub rollup: Option<Health>,
    pub alarms: Vec<String>,
}

impl Default for Status {
    fn default() -> Self {
        Self { state: PartState::NotSaid, health: None, rollup: None, alarms: Vec::new() }
    }
}

/// One entry of `Status.Conditions` as a line.
fn condition(value: &Value) -> Option<String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).and_then(clean);
    let severity = text("Severity").filter(|s| s != "OK")?;
    Some(format!("{severity}: {}", text("Message").or_else(|| text("MessageId"))?))
}

pub fn link_of(value: &Value) -> Option<&str> {
    let link = value.get("@odata.id").and_then(Value::as_str).or_else(|| value.as_str().filter(|s| s.starts_with('/')))?;
    (!link.is_empty()).then_some(link)
}

/// A value as evidence in a sentence.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    clean_to(&text, 60).unwrap_or_default()
}

/// RFC 3339, and the spellings seen beside it: no zone (taken as UTC), a blank for the `T`, slashes in the date, a zone without
/// colon, seconds since 1970.
pub fn read_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    if (9..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<i64>().ok().map(|secs| Timestamp(secs * 1_000_000));
    }
    if !text.is_ascii() || text.len() < 19 {
        return None;
    }
    let mut fixed = text.replacen(' ', "T", 1);
    if let (Some(date), Some(rest)) = (fixed.get(..10), fixed.get(10..)) {
        fixed = format!("{}{rest}", date.replace('/', "-"));
    }
    let zone = fixed.get(19..).unwrap_or_default().trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()).to_owned();
    if zone.is_empty() {
        fixed.push('Z');
    } else if zone.len() == 5 && (zone.starts_with('+') || zone.starts_with('-')) {
        fixed.insert(fixed.len() - 2, ':');
    }
    fixed.parse().ok()
}

fn read_duration(text: &str) -> Option<f64> {
    let rest = text.strip_prefix('P')?;
    let (mut secs, mut in_time, mut number) = (0.0, false, String::new());
    for c in rest.chars() {
        match c {
            'T' => in_time = true,
            '0'..='9' | '.' => number.push(c),
            'D' | 'H' | 'M' | 'S' => {
                let n: f64 = number.parse().ok()?;
                let factor = match (c, in_time) {
                    ('D', _) => 86_400.0,
                    ('H', true) => 3_600.0,
                    ('M', true) => 60.0,
                    ('S', true) => 1.0,
                    _ => return None,
                };
                secs += n * factor;
                number.clear();
            }
            _ => return None,
        }
    }
    (number.is_empty() && secs.is_finite()).then_some(secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wrong_type_costs_one_field_and_is_noted() {
        let body = json!({"CapacityMiB": "abc", "Cores": "12", "Name": ["x"], "Empty": "N/A", "Flag": "true", "Gone": null, "Neg": -3});
        let mut odd = Vec::new();
        let mut r = Reader::new(&body, "/x", &mut odd);
        assert_eq!((r.count("CapacityMiB"), r.count("Cores"), r.text("Name"), r.number("Empty")), (None, Some(12), None, None));
        assert_eq!((r.flag("Flag"), r.text("Gone"), r.count("Neg")), (Some(true), None, None));
        assert_eq!(odd.len(), 3, "{odd:?}");
        assert!(odd[0].what.contains("CapacityMiB is not a number: \"abc\""));
    }

    #[test]
    fn an_unknown_state_or_health_is_noted_and_never_healthy() {
        let body = json!({"Status": {"State": "Enbled", "Health": "Fine"}});
        let mut odd = Vec::new();
        let status = Reader::new(&body, "/x", &mut odd).status();
        assert_eq!((status.state, status.health), (PartState::Unavailable("Enbled".into()), None));
        assert_eq!(odd.len(), 2);
    }

    #[test]
    fn states_are_read_in_any_letters() {
        let of = |state: &str, health: &str| {
            let body = json!({"Status": {"State": state, "Health": health, "HealthRollUp": "WARNING"}});
            let mut odd = Vec::new();
            let status = Reader::new(&body, "/x", &mut odd).status();
            (status.state, status.health, status.rollup, odd.len())
        };
        let warned = Some(Health::Warning);
        assert_eq!(of("enabled", "ok"), (PartState::Present, Some(Health::Ok), warned, 0));
        assert_eq!(of("ABSENT", "OK"), (PartState::Absent, None, warned, 0));
        assert_eq!(of("standbyoffline", "Critical"), (PartState::Idle("StandbyOffline".into()), Some(Health::Critical), warned, 0));
        assert_eq!(of("N/A", "N/A"), (PartState::NotSaid, None, warned, 0));
    }

    #[test]
    fn an_empty_place_is_not_a_healthy_part() {
        let body = json!({"Status": {"State": "Absent", "Health": "OK"}});
        let status = Reader::new(&body, "/x", &mut Vec::new()).status();
        assert_eq!((status.state, status.health), (PartState::Absent, None));
    }

    #[test]
    fn times_are_read_in_the_spellings_seen() {
        let want = "2024-06-11T05:13:00Z".parse::<Timestamp>().unwrap();
        for text in
            ["2024-06-11T00:13:00-05:00", "2024-06-11T05:13:00Z", "2024-06-11T05:13:00", "2024-06-11 05:13:00", "2024-06-11T05:13:00+0000"]
        {
            assert_eq!(read_time(text), Some(want), "{text}");
        }
        assert_eq!(read_time("2024/06/11 05:13:00"), Some(want));
        assert_eq!(read_time("1718082780"), Some(want));
        for text in ["", "yesterday", "2024-13-11T05:13:00Z", "ÄÖÜ-06-11T05:13:00", "2024-06-11T05:13:00+é0"] {
            assert_eq!(read_time(text), None, "{text}");
        }
        assert_eq!(
            (read_duration("PT1H2M3.5S"), read_duration("P1DT1S"), read_duration("1 h"), read_duration("P1M")),
            (Some(3723.5), Some(86401.0), None, None)
        );
    }

    fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        let name = prop_oneof![
            Just("Status"),
            Just("State"),
            Just("Health"),
            Just("Location"),
            Just("PartLocation"),
            Just("ServiceLabel"),
            Just("Name"),
            Just("SerialNumber"),
            Just("Conditions"),
            Just("@odata.id"),
            Just("Reading"),
            Just("LocationOrdinalValue"),
            Just("Created"),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|fields| { Value::Object(fields.into_iter().map(|(n, v)| (n.to_owned(), v)).collect()) }),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn no_value_in_any_field_makes_the_reader_panic(body in any_json(), text in ".{0,40}") {
            let mut odd = Vec::new();
            let mut r = Reader::new(&body, "/x", &mut odd);
            let part = r.part(PartKind::Other);
            proptest::prop_assert!(part.name.chars().count() <= 256);
            let mut metrics = std::collections::BTreeMap::new();
            r.metrics_into(&mut metrics);
            drop((r.count("Reading"), r.duration_secs("Created"), r.time("Created"), r.mac("Name"), r.words("Status"), r.links("Status")));
            proptest::prop_assert!(read_duration(&text).is_none_or(f64::is_finite));
            proptest::prop_assert!(read_time(&text).is_none_or(|t| t == t.to_string().parse().unwrap()));
            proptest::prop_assert!(odd.len() <= ODDITY_CAP);
        }
    }
}
