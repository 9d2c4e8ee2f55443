//! What we read from Redfish JSON. Pure, lenient per field: a wrong type in one field costs that field, not the answer.

use serde_json::Value;

use crate::bmc::redfish::quirks;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};

/// Longest text taken from a BMC for one field.
const TEXT_CAP: usize = 256;
/// Deepest nesting of an answer.
const DEPTH_CAP: usize = 64;
/// Messages of one error answer that are shown.
const MESSAGE_CAP: usize = 3;

/// Cleans untrusted text: no control characters, no blanks around it, capped. `None` if nothing is left.
pub fn clean(text: &str) -> Option<String> {
    clean_to(text, TEXT_CAP)
}

/// As [`clean`], with another cap.
pub fn clean_to(text: &str, cap: usize) -> Option<String> {
    let out: String = text.trim().chars().filter(|c| !c.is_control()).take(cap).collect();
    let out = out.trim();
    (!out.is_empty()).then(|| out.to_owned())
}

/// A text field; numbers are accepted as text (seen: serial numbers and versions sent as JSON numbers).
pub fn text(value: &Value, field: &str) -> Option<String> {
    match value.get(field)? {
        Value::String(s) => clean(s),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// The `@odata.id` behind a chain of fields.
pub fn link<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |v, field| v.get(field))?.get("@odata.id")?.as_str()
}

/// The first link of an array behind a chain of fields.
pub fn link_of_first<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |v, field| v.get(field))?.as_array()?.first()?.get("@odata.id")?.as_str()
}

/// The serial number as the machine itself shows it in SMBIOS.
pub fn serial(system: &Value) -> Option<String> {
    let field = text(system, "Manufacturer").and_then(|m| quirks::serial_field(&m));
    field.and_then(|f| text(system, f)).or_else(|| text(system, "SerialNumber"))
}

/// Parses an answer's body. A byte order mark before the JSON is tolerated (sent by some firmware).
pub fn parse(body: &[u8]) -> Result<Value, String> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let shown = body.trim_ascii_start();
    if shown.starts_with(b"<") {
        return Err("a web page instead of JSON".into());
    }
    // serde_json stops at 128 levels, so measuring afterwards cannot overflow the stack.
    let value: Value = serde_json::from_slice(body).map_err(|e| format!("broken JSON ({e})"))?;
    if depth(&value) > DEPTH_CAP {
        return Err(format!("JSON nested deeper than {DEPTH_CAP} levels"));
    }
    Ok(value)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// `ComputerSystem.PowerState` (DSP2046).
pub fn power_state(system: &Value) -> Result<PowerState, String> {
    match system.get("PowerState").and_then(Value::as_str) {
        Some("On" | "Paused") => Ok(PowerState::On),
        Some("Off") => Ok(PowerState::Off),
        Some("PoweringOn" | "PoweringOff") => Ok(PowerState::Changing),
        Some(other) => Err(format!("the power state {:?}", clean(other).unwrap_or_default())),
        None => Err("a system without a power state".into()),
    }
}

/// Where and how the system is reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetAction {
    pub target: String,
    pub action_info: Option<String>,
    /// `None` if the system does not list them itself.
    pub allowed: Option<Vec<String>>,
}

pub fn reset_action(system: &Value) -> Option<ResetAction> {
    let action = system.get("Actions")?.get("#ComputerSystem.Reset")?;
    Some(ResetAction {
        target: action.get("target")?.as_str()?.to_owned(),
        action_info: action.get("@Redfish.ActionInfo").and_then(Value::as_str).map(str::to_owned),
        allowed: allowable(action, "ResetType@Redfish.AllowableValues"),
    })
}

/// `AllowableValues` of `ResetType` in an ActionInfo resource (DSP0266, section 9.5.4.2).
pub fn action_info_allowed(info: &Value) -> Option<Vec<String>> {
    let parameters = info.get("Parameters")?.as_array()?;
    let reset_type = parameters.iter().find(|p| p.get("Name").and_then(Value::as_str) == Some("ResetType"))?;
    allowable(reset_type, "AllowableValues")
}

/// A list of allowed values; `None` where there is none.
pub fn allowable(value: &Value, field: &str) -> Option<Vec<String>> {
    let values: Vec<_> = value.get(field)?.as_array()?.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    (!values.is_empty()).then_some(values)
}

/// How an action is done with what a system allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResetPlan {
    One(&'static str),
    /// Power off, see it off, power on.
    OffThenOn(&'static str, &'static str),
}

/// The one table from our actions to `ResetType`, best first.
///
/// Only what is allowed is sent: sushy-tools 2.2 answers 204 to a `PowerCycle` it does not know, and does nothing.
/// `FullPowerCycle` is left out, it restarts the BMC too. Without `PowerCycle`, off and on again is truer to "cycle" than
/// `ForceRestart`: it can be watched, and changed boot settings take effect.
pub fn plan(action: PowerAction, allowed: Option<&[String]>) -> Option<ResetPlan> {
    let pick = |wanted: &[&'static str]| match allowed {
        Some(allowed) => wanted.iter().copied().find(|w| allowed.iter().any(|a| a == w)),
        // Nothing listed: the first choice is in every version of the schema.
        None => wanted.first().copied(),
    };
    const ON: &[&str] = &["On", "ForceOn", "PushPowerButton"];
    const OFF: &[&str] = &["ForceOff"];
    match action {
        PowerAction::On => pick(ON).map(ResetPlan::One),
        PowerAction::Off => pick(OFF).map(ResetPlan::One),
        PowerAction::Soft => pick(&["GracefulShutdown", "PushPowerButton"]).map(ResetPlan::One),
        PowerAction::Reset => pick(&["ForceRestart"]).map(ResetPlan::One),
        PowerAction::Cycle => {
            let off_on = || Some(ResetPlan::OffThenOn(pick(OFF)?, pick(ON)?));
            match allowed {
                Some(_) => {
                    pick(&["PowerCycle"]).map(ResetPlan::One).or_else(off_on).or_else(|| pick(&["ForceRestart"]).map(ResetPlan::One))
                }
                None => off_on(),
            }
        }
    }
}

/// `ComputerSystem.Boot`, as far as we set it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootOverride {
    pub target: Option<String>,
    pub enabled: Option<String>,
    pub mode: Option<String>,
    pub targets: Option<Vec<String>>,
}

pub fn boot_override(system: &Value) -> Option<BootOverride> {
    let boot = system.get("Boot")?.as_object()?;
    let field = |name: &str| boot.get(name).and_then(Value::as_str).and_then(clean);
    Some(BootOverride {
        target: field("BootSourceOverrideTarget"),
        enabled: field("BootSourceOverrideEnabled"),
        mode: field("BootSourceOverrideMode"),
        targets: allowable(system.get("Boot")?, "BootSourceOverrideTarget@Redfish.AllowableValues"),
    })
}

pub fn boot_mode(firmware: FirmwareKind) -> &'static str {
    match firmware {
        FirmwareKind::Bios => "Legacy",
        FirmwareKind::Uefi => "UEFI",
    }
}

/// `BootSourceOverrideTarget` for a device. A Supermicro X10 (Redfish 1.0.1) has no `BootSourceOverrideMode` and names
/// the firmware in the target instead (`UefiHdd`).
pub fn boot_target(device: BootDevice, firmware: FirmwareKind, boot: &BootOverride) -> Option<&'static str> {
    let wanted: &[&'static str] = match (device, firmware, &boot.mode) {
        (BootDevice::Network, _, _) => &["Pxe"],
        (BootDevice::Disk, FirmwareKind::Uefi, None) => &["UefiHdd", "Hdd"],
        (BootDevice::Disk, _, _) => &["Hdd"],
    };
    match &boot.targets {
        Some(allowed) => wanted.iter().copied().find(|w| allowed.iter().any(|a| a == w)),
        None => wanted.last().copied(),
    }
}

/// What a BMC says about a failed request (DSP0266, section 8.6: `error.@Message.ExtendedInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaint {
    /// `MessageId` without registry and version: `InsufficientPrivilege`.
    pub ids: Vec<String>,
    pub sentence: String,
}

pub fn complaint(body: &Value) -> Complaint {
    let error = body.get("error").unwrap_or(body);
    // Firmware has been seen to send one object where the standard wants a list.
    let infos: Vec<&Value> = match error.get("@Message.ExtendedInfo").or_else(|| body.get("@Message.ExtendedInfo")) {
        Some(Value::Array(list)) => list.iter().collect(),
        Some(one @ Value::Object(_)) => vec![one],
        Some(_) | None => Vec::new(),
    };
    let mut out = Complaint::default();
    let mut said: Vec<String> = Vec::new();
    for info in infos.into_iter().take(MESSAGE_CAP) {
        let id = text(info, "MessageId").or_else(|| text(info, "MessageID")).unwrap_or_default();
        let short = id.rsplit('.').next().unwrap_or_default().to_owned();
        // iLO sends the id alone and keeps the words in its registry.
        if let Some(message) = text(info, "Message").or_else(|| clean(&short)) {
            let message = message.trim_end_matches('.').to_owned();
            if !said.contains(&message) {
                said.push(message);
            }
        }
        if !short.is_empty() {
            out.ids.push(short);
        }
    }
    if said.is_empty() {
        said.extend(text(error, "message").map(|m| m.trim_end_matches('.').to_owned()));
        out.ids.extend(text(error, "code").and_then(|c| c.rsplit('.').next().map(str::to_owned)));
    }
    out.sentence = said.join("; ");
    out
}

impl Complaint {
    pub fn has(&self, ids: &[&str]) -> bool {
        self.ids.iter().any(|id| ids.contains(&id.as_str()))
    }
}

/// Message ids (Base, iLO and iDRAC registries) that mean "not now": the same request may work later.
pub const NOT_NOW: &[&str] = &[
    "ServiceTemporarilyUnavailable",
    "ServiceShuttingDown",
    "ServiceInUnknownState",
    "ResourceInUse",
    "ResourceInStandby",
    "ActionNotSupportedInCurrentState",
    "InvalidOperationForSystemState",
    "UnableToModifyDuringSystemPOST",
    "SYS518",
    "OperationTimeout",
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn only_an_allowed_reset_type_is_chosen() {
        let sushy = words(&["On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "Nmi", "ForceOn"]);
        assert_eq!(plan(PowerAction::Cycle, Some(&sushy)), Some(ResetPlan::OffThenOn("ForceOff", "On")));
        assert_eq!(plan(PowerAction::Reset, Some(&sushy)), Some(ResetPlan::One("ForceRestart")));
        assert_eq!(plan(PowerAction::Soft, Some(&sushy)), Some(ResetPlan::One("GracefulShutdown")));
        let idrac = words(&["On", "ForceOff", "PowerCycle", "PushPowerButton"]);
        assert_eq!(plan(PowerAction::Cycle, Some(&idrac)), Some(ResetPlan::One("PowerCycle")));
        assert_eq!(plan(PowerAction::Reset, Some(&idrac)), None);
        assert_eq!(plan(PowerAction::Cycle, Some(&words(&["ForceRestart"]))), Some(ResetPlan::One("ForceRestart")));
        assert_eq!(plan(PowerAction::On, Some(&words(&["PushPowerButton"]))), Some(ResetPlan::One("PushPowerButton")));
        assert_eq!(plan(PowerAction::On, None), Some(ResetPlan::One("On")));
        assert_eq!(plan(PowerAction::Cycle, None), Some(ResetPlan::OffThenOn("ForceOff", "On")));
    }

    #[test]
    fn a_wrong_type_costs_one_field_only() {
        let system = json!({"Model": 7, "SerialNumber": "  \u{0}AB12\n ", "Manufacturer": null, "UUID": ["x"], "AssetTag": "   "});
        assert_eq!(text(&system, "Model").as_deref(), Some("7"));
        assert_eq!(text(&system, "SerialNumber").as_deref(), Some("AB12"));
        assert_eq!((text(&system, "Manufacturer"), text(&system, "UUID"), text(&system, "AssetTag")), (None, None, None));
        assert_eq!(text(&json!({"Model": "x".repeat(9000)}), "Model").unwrap().len(), TEXT_CAP);
    }

    #[test]
    fn hostile_bodies_are_named_not_believed() {
        assert!(parse(b"<html>").unwrap_err().contains("web page"));
        assert!(parse(b"{\"a\":").unwrap_err().contains("broken JSON"));
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(parse(deep.as_bytes()).unwrap_err().contains("deeper"));
        assert_eq!(parse(b"\xef\xbb\xbf{\"a\":1}").unwrap(), json!({"a": 1}));
        assert!(parse(b"\xff\xfe\x00").is_err());
    }

    #[test]
    fn extended_errors_become_sentences() {
        let body = json!({"error": {"code": "Base.1.8.GeneralError", "message": "A general error has occurred.", "@Message.ExtendedInfo": [
            {"MessageId": "IDRAC.2.7.SYS518", "Message": "iDRAC is currently unable to display any information.", "Resolution": "Retry"},
            {"MessageId": "IDRAC.2.7.SYS518", "Message": "iDRAC is currently unable to display any information."}]}});
        let said = complaint(&body);
        assert_eq!(said.sentence, "iDRAC is currently unable to display any information");
        assert!(said.has(NOT_NOW));
        let ilo = json!({"error": {"@Message.ExtendedInfo": [{"MessageId": "Base.0.10.InsufficientPrivilege"}]}});
        assert_eq!(complaint(&ilo).sentence, "InsufficientPrivilege");
        assert_eq!(complaint(&json!({"error": {"code": "Base.1.0.GeneralError", "message": "Bad."}})).sentence, "Bad");
        assert_eq!(complaint(&json!([1])), Complaint::default());
        assert_eq!(complaint(&json!({"error": {"@Message.ExtendedInfo": {"Message": "one object"}}})).sentence, "one object");
    }

    #[test]
    fn a_thin_tree_names_the_firmware_in_the_target() {
        let thin = BootOverride { targets: Some(words(&["None", "Pxe", "Hdd", "UefiHdd"])), ..BootOverride::default() };
        assert_eq!(boot_target(BootDevice::Disk, FirmwareKind::Uefi, &thin), Some("UefiHdd"));
        assert_eq!(boot_target(BootDevice::Disk, FirmwareKind::Bios, &thin), Some("Hdd"));
        assert_eq!(boot_target(BootDevice::Network, FirmwareKind::Uefi, &thin), Some("Pxe"));
        let usual = BootOverride { mode: Some("UEFI".into()), ..BootOverride::default() };
        assert_eq!(boot_target(BootDevice::Disk, FirmwareKind::Uefi, &usual), Some("Hdd"));
        let none = BootOverride { targets: Some(words(&["Cd"])), ..BootOverride::default() };
        assert_eq!(boot_target(BootDevice::Network, FirmwareKind::Bios, &none), None);
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_the_readers_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            if let Ok(value) = parse(&body) {
                drop((power_state(&value), reset_action(&value), boot_override(&value), complaint(&value), action_info_allowed(&value)));
            }
        }
    }
}
