//! OpenAPI schemas of the vocabulary, so that `domain` stays free of the API's library.

use std::borrow::Cow;

use utoipa::openapi::schema::{ArrayBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::decide::quality::Level;
use crate::domain::access::{ActorVia, Role};
use crate::domain::bmc::{BmcAddress, BmcIdentity, BmcProtocol};
use crate::domain::bmc_features::Capability;
use crate::domain::boot::{Arch, BootStage, ClientArch};
use crate::domain::event::Severity;
use crate::domain::hardware_log::LogSeverity;
use crate::domain::id::{BootId, EventId, Mac, MachineId, Name, RunId, Serial, Sha256, StepId, SystemUuid, TokenId, UserId};
use crate::domain::image::ImageFormat;
use crate::domain::inventory::{DiskRef, Inventory};
use crate::domain::machine::{BootIntent, Fault, Hardware, Hold, Lifecycle, Verb};
use crate::domain::part::PartKind;
use crate::domain::place::{Place, RackName};
use crate::domain::poll::PollKind;
use crate::domain::power::{FirmwareKind, PowerAction, PowerState};
use crate::domain::reading::Quality;
use crate::domain::sensor::{Health, SensorKind, Unit};
use crate::domain::time::Timestamp;
use crate::domain::work::{RunKind, RunState, StepKind, StepState};

fn text(describe: &str, format: Option<SchemaFormat>, pattern: Option<&str>) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).format(format).pattern(pattern).description(Some(describe)).build().into()
}

macro_rules! schemas {
    ($($name:ident => $schema:expr),+ $(,)?) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema
            }
        }
        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    )+};
}

/// A closed list of words, each of which the type itself must be able to read.
macro_rules! words {
    ($($name:ident: $($word:literal)+;)+) => {
        $(
            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    ObjectBuilder::new().schema_type(Type::String).enum_values(Some([$($word),+])).build().into()
                }
            }
            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    Cow::Borrowed(stringify!($name))
                }
            }
        )+

        #[cfg(test)]
        #[test]
        fn every_word_of_the_document_is_a_word_of_the_vocabulary() {
            $($(
                let value: $name = $word.parse().unwrap();
                assert_eq!(serde_json::to_value(value).unwrap(), $word);
            )+)+
        }
    };
}

fn uuid(describe: &str) -> RefOr<Schema> {
    text(describe, Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)), None)
}

schemas! {
    MachineId => uuid("a machine"),
    RunId => uuid("a run"),
    StepId => uuid("a step of a run"),
    BootId => uuid("a boot"),
    EventId => uuid("an event; ids grow with time"),
    UserId => uuid("a user"),
    TokenId => uuid("an API token"),
    SystemUuid => uuid("SMBIOS system UUID"),
    Timestamp => text("RFC 3339, UTC, microseconds", Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)), None),
    Mac => text("Ethernet address, lower case with colons", None, Some("^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")),
    Serial => text("manufacturer's serial number", None, None),
    Name => text("a DNS label: 1 to 63 of a-z, 0-9 and -", None, Some("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")),
    RackName => text("rack name as on its door", None, None),
    Sha256 => text("SHA-256, hex", None, Some("^[0-9a-f]{64}$")),
    BmcAddress => text("10.0.0.5, https://10.0.0.5:8000/redfish/v1/Systems/ID or ipmi://10.0.0.5:623", None, None),
    Unit => text("unit of a reading: celsius, volt, ampere, watt, joule, rpm, percent, litre_per_minute, pascal, hertz, second, none", None, None),
    Inventory => object("the agent's inventory: system, firmware, cpus, dimms, disks, nics, pci, bmc", &[]),
    BmcIdentity => object("what the BMC says of itself and its machine", &["protocol", "manufacturer", "model", "serial", "uuid", "asset_tag", "bmc_firmware", "bios_version"]),
    DiskRef => disk_ref(),
    Place => place(),
    Fault => object("why a run cannot go on by itself", &["code", "what", "remedy", "at", "run"]),
    Hold => object("automation leaves the machine alone until it ends", &["owner", "reason", "until"]),
    Hardware => hardware(),
}

words! {
    Lifecycle: "discovered" "enrolling" "ready" "deploying" "active" "releasing" "repairing" "quarantined" "retiring" "retired";
    Verb: "accept" "deploy" "release" "retry" "abort" "power" "forget";
    RunKind: "enroll" "deploy" "release";
    RunState: "running" "failed" "done" "aborted";
    StepKind: "contact_bmc" "check_target" "boot_ramdisk" "wait_agent" "inventory" "write_image" "boot_disk" "wait_system" "wipe_disks" "power_off";
    StepState: "pending" "running" "done" "failed" "skipped";
    PowerState: "on" "off" "changing";
    PowerAction: "on" "off" "soft" "cycle" "reset";
    FirmwareKind: "bios" "uefi";
    Arch: "x86_64" "aarch64";
    BootIntent: "ramdisk" "local_disk";
    BmcProtocol: "redfish" "ipmi";
    ImageFormat: "raw" "raw.zst" "raw.gz";
    Role: "viewer" "tech" "operator" "admin";
    ActorVia: "session" "token" "local";
    Severity: "info" "warning" "error";
    SensorKind: "temperature" "voltage" "current" "power" "energy" "fan" "humidity" "flow" "pressure" "share" "discrete" "other";
    Health: "ok" "warning" "critical";
    Quality: "good" "stale" "unavailable" "implausible" "historical";
    Level: "normal" "caution" "critical" "fatal";
    PollKind: "power" "sensors" "logs" "parts" "firmware" "bios" "capabilities";
    LogSeverity: "info" "warning" "critical";
    PartKind: "power_supply" "fan" "dimm" "cpu" "gpu" "drive" "storage_controller" "volume" "network_adapter" "network_port" "pcie_device"
        "battery" "leak_detector" "transceiver" "baseboard" "chassis" "bmc" "system" "redundancy" "other";
    Capability: "power" "power_cycle" "soft_off" "boot_once" "boot_order" "boot_progress" "sensors" "parts" "logs" "clear_log" "events"
        "firmware_inventory" "firmware_update" "bios_settings" "accounts" "virtual_media" "locator_led" "bmc_reset" "serial_console" "fru"
        "power_reading" "bmc_network";
    ClientArch: "bios" "uefi_x64" "uefi_x64_http" "uefi_arm64" "uefi_arm64_http";
    BootStage: "dhcp_discover" "dhcp_offer" "dhcp_other" "dhcp_request" "dhcp_ack" "loader_start" "loader_done" "loader_stalled" "script"
        "kernel" "ramdisk" "agent" "local_disk" "system";
}

/// An object whose named fields may be strings or null; others may be added later.
fn object(describe: &str, fields: &[&str]) -> RefOr<Schema> {
    let mut object = ObjectBuilder::new().schema_type(Type::Object).description(Some(describe));
    for field in fields {
        object = object.property(*field, nullable_text());
    }
    object.build().into()
}

fn nullable_text() -> Schema {
    use utoipa::openapi::schema::SchemaType;
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null])).build().into()
}

fn whole(describe: &str) -> Schema {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).description(Some(describe)).build().into()
}

fn disk_ref() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("names one disk: all identifiers given must match"))
        .property("serial", nullable_text())
        .property("wwn", nullable_text())
        .property("size_bytes", whole("bytes"))
        .property("name_hint", text("kernel name when planned; never used to find the disk", None, None))
        .required("size_bytes")
        .required("name_hint")
        .build()
        .into()
}

fn place() -> RefOr<Schema> {
    use utoipa::openapi::schema::SchemaType;
    let u: Schema = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::Null]))
        .description(Some("lowest U position, 1 is the bottom"))
        .build()
        .into();
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("rack", RefOr::<Schema>::Ref(Ref::from_schema_name("RackName")))
        .property("u", u)
        .required("rack")
        .build()
        .into()
}

fn hardware() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("the gist of the last inventory"))
        .property("manufacturer", nullable_text())
        .property("product", nullable_text())
        .property("cpu", nullable_text())
        .property("threads", whole("hardware threads"))
        .property("memory_bytes", whole("bytes"))
        .property("disks", whole("fixed disks"))
        .property("disk_bytes", whole("bytes of all fixed disks"))
        .property("nics", whole("network ports"))
        .property("part_serials", ArrayBuilder::new().items(text("a board's, chassis' or disk's serial", None, None)))
        .property("at", text("when it was read", Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)), None))
        .build()
        .into()
}
