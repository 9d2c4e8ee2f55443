//! BIOS settings: what they are, what they may be, and what waits for the next boot.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What a setting may be.
#[derive(Clone, Copy, Debug)]
pub enum Allowed {
    /// Enumeration, by its names.
    OneOf(&'static [&'static str]),
    Integer {
        from: i64,
        to: i64,
    },
    Text {
        longest: usize,
    },
    Switch,
}

/// One setting of the firmware, as the attribute registry describes it.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    pub name: &'static str,
    pub display: &'static str,
    pub menu: &'static str,
    pub allowed: Allowed,
    pub read_only: bool,
}

const ON_OFF: Allowed = Allowed::OneOf(&["Enabled", "Disabled"]);

const fn attribute(name: &'static str, display: &'static str, menu: &'static str, allowed: Allowed) -> Attribute {
    Attribute { name, display, menu, allowed, read_only: false }
}

pub const ATTRIBUTES: [Attribute; 16] = [
    attribute("BootMode", "Boot Mode", "Boot Settings", Allowed::OneOf(&["Uefi", "Bios"])),
    attribute("BootRetry", "Boot Sequence Retry", "Boot Settings", ON_OFF),
    attribute("BootRetryDelay", "Delay between Boot Retries", "Boot Settings", Allowed::Integer { from: 0, to: 240 }),
    attribute("PxeBoot", "Network Boot", "Network Settings", ON_OFF),
    attribute("HttpBoot", "HTTP Boot", "Network Settings", ON_OFF),
    attribute("LogicalProc", "Logical Processor", "Processor Settings", ON_OFF),
    attribute("ProcVirtualization", "Virtualization Technology", "Processor Settings", ON_OFF),
    attribute("ProcX2Apic", "x2APIC Mode", "Processor Settings", ON_OFF),
    attribute("SriovGlobalEnable", "SR-IOV", "Integrated Devices", ON_OFF),
    attribute("SysProfile", "System Profile", "Power", Allowed::OneOf(&["PerfOptimized", "PerfPerWatt", "DenseConfig", "Custom"])),
    attribute("AcPwrRcvry", "AC Power Recovery", "Power", Allowed::OneOf(&["Last", "On", "Off"])),
    attribute("MemPatrolScrub", "Memory Patrol Scrub", "Memory Settings", Allowed::OneOf(&["Standard", "Extended", "Disabled"])),
    attribute("SerialConsole", "Serial Console", "Serial Communication", Allowed::Switch),
    attribute("SerialBaud", "Baud Rate", "Serial Communication", Allowed::OneOf(&["9600", "57600", "115200"])),
    attribute("AssetTag", "Asset Tag", "Miscellaneous", Allowed::Text { longest: 63 }),
    Attribute {
        name: "SystemServiceTag",
        display: "Serial Number",
        menu: "Miscellaneous",
        allowed: Allowed::Text { longest: 63 },
        read_only: true,
    },
];

impl Attribute {
    /// Whether it may be set to `value`; `Err` names what is wrong, in the words of the Base registry's message ids.
    pub fn check(&self, value: &Value) -> Result<(), &'static str> {
        if self.read_only {
            return Err("PropertyNotWritable");
        }
        match (self.allowed, value) {
            (Allowed::OneOf(names), Value::String(s)) => names.contains(&s.as_str()).then_some(()).ok_or("PropertyValueNotInList"),
            (Allowed::Integer { from, to }, Value::Number(n)) => {
                n.as_i64().is_some_and(|n| (from..=to).contains(&n)).then_some(()).ok_or("PropertyValueOutOfRange")
            }
            (Allowed::Text { longest }, Value::String(s)) => (s.len() <= longest).then_some(()).ok_or("PropertyValueFormatError"),
            (Allowed::Switch, Value::Bool(_)) => Ok(()),
            (Allowed::OneOf(_) | Allowed::Integer { .. } | Allowed::Text { .. } | Allowed::Switch, _) => Err("PropertyValueTypeError"),
        }
    }
}

/// Values now and after the next boot.
#[derive(Clone, Debug)]
pub struct Settings {
    pub now: BTreeMap<&'static str, Value>,
    pub pending: BTreeMap<&'static str, Value>,
    defaults: BTreeMap<&'static str, Value>,
}

impl Settings {
    pub fn new(is_uefi: bool, serial: &str) -> Self {
        let value = |a: &Attribute| match (a.name, a.allowed) {
            ("BootMode", _) => json!(if is_uefi { "Uefi" } else { "Bios" }),
            ("SystemServiceTag", _) => json!(serial),
            ("SysProfile", _) => json!("PerfPerWatt"),
            ("SerialBaud", _) => json!("115200"),
            ("BootRetryDelay", _) => json!(30),
            (_, Allowed::OneOf(names)) => json!(names.first()),
            (_, Allowed::Integer { from, .. }) => json!(from),
            (_, Allowed::Text { .. }) => json!(""),
            (_, Allowed::Switch) => json!(true),
        };
        let now: BTreeMap<_, _> = ATTRIBUTES.iter().map(|a| (a.name, value(a))).collect();
        Self { defaults: now.clone(), now, pending: BTreeMap::new() }
    }

    /// Stages values that were checked; one that is set already waits for nothing.
    pub fn stage(&mut self, values: Vec<(&'static str, Value)>) {
        for (name, value) in values {
            if self.now.get(name) == Some(&value) {
                self.pending.remove(name);
            } else {
                self.pending.insert(name, value);
            }
        }
    }

    /// Stages what the machine left the factory with.
    pub fn stage_defaults(&mut self) {
        self.pending =
            self.defaults.iter().filter(|(name, value)| self.now.get(*name) != Some(value)).map(|(n, v)| (*n, v.clone())).collect();
    }

    /// The machine boots. Says which settings changed.
    pub fn boot(&mut self) -> Vec<&'static str> {
        let changed: Vec<_> = self.pending.keys().copied().collect();
        self.now.append(&mut self.pending);
        changed
    }
}
