//! The computer system: boot, processors, memory, BIOS, virtual drives of the BMC hang elsewhere.

use serde_json::{Value, json};

use crate::domain::part::PartKind;
use crate::sim::bmc::board::parts::{BoardPart, Condition};
use crate::sim::bmc::redfish::tree::{
    READ_PATCH, Resource, View, labels, link, mode_word, ordinal, place, power_word, put, put_some, status, target_word,
};

/// `ResetType`s offered.
pub const RESETS: [&str; 8] = ["On", "ForceOn", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "PowerCycle", "Nmi"];

impl View<'_> {
    pub(super) fn system_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let of = |kind| self.board.of_kind(kind).map(|p| format!("{path}/{}", p.id)).collect();
        let one = |kind, id: &str| self.board.of_kind(kind).find(|p| p.id == id);
        let body = match rest {
            [] => return Some(Resource { body: self.system(path), allow: READ_PATCH }),
            ["Processors"] => return Some(self.collection(path, "Processor", of(PartKind::Cpu))),
            ["Processors", id] => self.processor(path, one(PartKind::Cpu, id)?),
            ["Memory"] => return Some(self.collection(path, "Memory", of(PartKind::Dimm))),
            ["Memory", id] => self.dimm(path, one(PartKind::Dimm, id)?),
            ["Memory", id, "MemoryMetrics"] => self.dimm_metrics(path, one(PartKind::Dimm, id).filter(|p| p.is_there())?),
            ["Storage", rest @ ..] => return self.storage_part(path, rest),
            ["SimpleStorage", rest @ ..] if !self.is_modern() => return self.simple_storage_part(path, rest),
            ["EthernetInterfaces", rest @ ..] => return self.system_interfaces(path, rest),
            ["Bios"] => self.bios(path),
            ["Bios", "Settings"] => return Some(Resource { body: self.bios_settings(path), allow: READ_PATCH }),
            ["BootOptions"] => {
                return Some(self.collection(
                    path,
                    "BootOption",
                    self.board.boot_options.iter().map(|o| format!("{path}/{}", o.reference)).collect(),
                ));
            }
            ["BootOptions", id] => {
                let option = self.board.boot_options.iter().find(|o| o.reference == *id)?;
                self.resource(
                    path,
                    "BootOption",
                    id,
                    &option.name,
                    json!({
                        "BootOptionReference": option.reference, "DisplayName": option.name, "UefiDevicePath": option.path,
                        "BootOptionEnabled": true, "Alias": option.alias,
                    }),
                )
            }
            ["SecureBoot"] => self.resource(
                path,
                "SecureBoot",
                "SecureBoot",
                "UEFI Secure Boot",
                json!({
                    "SecureBootEnable": false, "SecureBootCurrentBoot": "Disabled", "SecureBootMode": "UserMode",
                }),
            ),
            ["LogServices", rest @ ..] => return self.logs_part(path, rest),
            ["VirtualMedia", rest @ ..] if self.is_modern() => return self.media_part(path, rest),
            ["ResetActionInfo"] => self.reset_info(path),
            _ => return None,
        };
        Some(Resource::read_only(body))
    }

    fn system(&self, path: &str) -> Value {
        let (dialect, board, id) = (self.dialect(), self.board, self.identity);
        let (serial, sku) = if dialect.serial_is_sku {
            (format!("CN{}", &board_serial(&id.serial)), Some(id.serial.clone()))
        } else {
            (id.serial.clone(), None)
        };
        let cpus: Vec<&BoardPart> = board.of_kind(PartKind::Cpu).filter(|p| p.is_there()).collect();
        let dimms: Vec<&BoardPart> = board.of_kind(PartKind::Dimm).filter(|p| p.is_there()).collect();
        let gib: u64 = dimms.iter().filter_map(|p| p.facts.capacity_bytes).sum::<u64>() >> 30;
        let worst = |parts: &[&BoardPart]| {
            let has = |c| parts.iter().any(|p| p.condition == c);
            if has(Condition::Failed) {
                "Critical"
            } else if has(Condition::Failing) {
                "Warning"
            } else {
                "OK"
            }
        };
        let bios = board.components.iter().find(|c| c.id == "BIOS").map_or("", |c| c.version.as_str());
        let mut body = self.resource(path, "ComputerSystem", dialect.system, "System", json!({
            "SystemType": "Physical",
            "Manufacturer": id.manufacturer,
            "Model": id.model,
            "SerialNumber": serial,
            "PartNumber": "0VJ4K2A00",
            "UUID": id.uuid,
            "AssetTag": board.asset_tag,
            "BiosVersion": bios,
            "PowerState": power_word(self.host.power),
            "Status": {"State": if self.host.is_on() { "Enabled" } else { "StandbyOffline" }, "Health": board.rollup(), "HealthRollup": board.rollup()},
            "IndicatorLED": if board.led { "Blinking" } else { "Off" },
            "ProcessorSummary": {"Count": cpus.len(), "Model": cpus.first().map(|p| p.model.as_str())},
            "MemorySummary": {"TotalSystemMemoryGiB": gib, "MemoryMirroring": "None"},
            "Processors": link(&format!("{path}/Processors")),
            "Memory": link(&format!("{path}/Memory")),
            "Storage": link(&format!("{path}/Storage")),
            "EthernetInterfaces": link(&format!("{path}/EthernetInterfaces")),
            "Bios": link(&format!("{path}/Bios")),
            "SecureBoot": link(&format!("{path}/SecureBoot")),
            "LogServices": link(&format!("{path}/LogServices")),
            "Boot": self.boot(path),
            "Links": {"ManagedBy": [link(&dialect.manager_path())], "Chassis": [link(&dialect.chassis_path())]},
            "Actions": {"#ComputerSystem.Reset": {
                "target": format!("{path}/Actions/ComputerSystem.Reset"),
                "ResetType@Redfish.AllowableValues": RESETS,
                "@Redfish.ActionInfo": format!("{path}/ResetActionInfo"),
            }},
        }));
        put_some(&mut body, "SKU", sku);
        if self.is_modern() {
            put(
                &mut body,
                json!({
                    "LocationIndicatorActive": board.led,
                    "VirtualMedia": link(&format!("{path}/VirtualMedia")),
                    "BootProgress": {"LastState": self.host.progress},
                    "PowerRestorePolicy": "LastState",
                }),
            );
            body["ProcessorSummary"]["CoreCount"] = json!(cpus.iter().filter_map(|p| p.facts.cores).sum::<u32>());
            body["ProcessorSummary"]["LogicalProcessorCount"] = json!(cpus.iter().filter_map(|p| p.facts.threads).sum::<u32>());
            if let Some(fields) = body.as_object_mut() {
                // Deprecated since ComputerSystem 1.14.
                fields.remove("IndicatorLED");
            }
        } else {
            put(&mut body, json!({"SimpleStorage": link(&format!("{path}/SimpleStorage"))}));
            body["ProcessorSummary"]["Status"] = json!({"State": "Enabled", "Health": worst(&cpus), "HealthRollup": worst(&cpus)});
            body["MemorySummary"]["Status"] = json!({"State": "Enabled", "Health": worst(&dimms), "HealthRollup": worst(&dimms)});
        }
        body
    }

    fn boot(&self, path: &str) -> Value {
        let (target, enabled) = match self.boot {
            None => ("None", "Disabled"),
            Some(b) => (target_word(b.device), if b.once { "Once" } else { "Continuous" }),
        };
        let mode = self.boot.map_or("UEFI", |b| mode_word(b.firmware));
        json!({
            "BootSourceOverrideEnabled": enabled,
            "BootSourceOverrideTarget": target,
            "BootSourceOverrideMode": mode,
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd"],
            "BootSourceOverrideMode@Redfish.AllowableValues": ["UEFI", "Legacy"],
            "BootSourceOverrideEnabled@Redfish.AllowableValues": ["Disabled", "Once", "Continuous"],
            "BootOrder": self.board.boot_order,
            "BootOptions": link(&format!("{path}/BootOptions")),
        })
    }

    fn reset_info(&self, path: &str) -> Value {
        self.resource(
            path,
            "ActionInfo",
            "ResetActionInfo",
            "Reset Action Info",
            json!({
                "Parameters": [{"Name": "ResetType", "Required": true, "DataType": "String", "AllowableValues": RESETS}],
            }),
        )
    }

    fn processor(&self, path: &str, part: &BoardPart) -> Value {
        let mut body = self.resource(path, "Processor", &part.id, &part.name, json!({"Status": status(part), "Socket": part.place}));
        if !part.is_there() {
            return body;
        }
        put(
            &mut body,
            json!({
                "Manufacturer": part.manufacturer, "Model": part.model,
                "ProcessorType": "CPU", "ProcessorArchitecture": "x86", "InstructionSet": "x86-64",
                "TotalCores": part.facts.cores, "TotalThreads": part.facts.threads, "MaxSpeedMHz": part.facts.speed_mhz,
            }),
        );
        if self.is_modern() {
            put(
                &mut body,
                json!({
                    "SerialNumber": part.serial, "PartNumber": part.part_number, "Location": place(part, "Socket"), "LocationIndicatorActive": false,
                }),
            );
        }
        body
    }

    fn dimm(&self, path: &str, part: &BoardPart) -> Value {
        let mut body = self.resource(path, "Memory", &part.id, &part.name, json!({"Status": status(part), "DeviceLocator": part.place}));
        if !part.is_there() {
            return body;
        }
        put(&mut body, labels(part));
        if let Some(fields) = body.as_object_mut()
            && !self.is_modern()
        {
            fields.remove("Model");
        }
        put(
            &mut body,
            json!({
                "MemoryType": "DRAM", "MemoryDeviceType": "DDR4", "BaseModuleType": "RDIMM", "ErrorCorrection": "MultiBitECC",
                "CapacityMiB": part.facts.capacity_bytes.map(|b| b >> 20), "OperatingSpeedMhz": part.facts.speed_mhz,
                "RankCount": 2, "DataWidthBits": 64, "BusWidthBits": 72,
                "MemoryLocation": {"Socket": 1, "MemoryController": 0, "Channel": ordinal(&part.place), "Slot": ordinal(&part.place)},
                "Metrics": link(&format!("{path}/MemoryMetrics")),
            }),
        );
        if self.is_modern() {
            put(&mut body, json!({"Location": place(part, "Slot"), "Enabled": part.condition != Condition::Failed}));
        }
        body
    }

    fn dimm_metrics(&self, path: &str, part: &BoardPart) -> Value {
        let (ce, ue) = (part.facts.correctable_errors.unwrap_or(0), part.facts.uncorrectable_errors.unwrap_or(0));
        let mut body = self.resource(
            path,
            "MemoryMetrics",
            "MemoryMetrics",
            &format!("{} Metrics", part.name),
            json!({
                "HealthData": {"AlarmTrips": {
                    "CorrectableECCError": part.condition == Condition::Failing, "UncorrectableECCError": ue > 0,
                    "AddressParityError": false, "Temperature": false, "SpareBlock": false,
                }},
            }),
        );
        if self.is_modern() {
            put(
                &mut body,
                json!({
                    "CurrentPeriod": {"CorrectableECCErrorCount": ce, "UncorrectableECCErrorCount": ue},
                    "LifeTime": {"CorrectableECCErrorCount": ce, "UncorrectableECCErrorCount": ue},
                }),
            );
        }
        body
    }

    fn bios(&self, path: &str) -> Value {
        let settings = format!("{path}/Settings");
        let mut body = self.resource(path, "Bios", "Bios", "BIOS Settings", json!({
            "AttributeRegistry": self.registry_name(),
            "Attributes": self.board.settings.now,
            "@Redfish.Settings": {"@odata.type": "#Settings.v1_3_5.Settings", "SettingsObject": link(&settings), "SupportedApplyTimes": ["OnReset"]},
            "Actions": {"#Bios.ResetBios": {"target": format!("{path}/Actions/Bios.ResetBios")}},
        }));
        if self.is_modern() {
            put(&mut body, json!({"ResetBiosToDefaultsPending": false}));
        }
        body
    }

    fn bios_settings(&self, path: &str) -> Value {
        self.resource(
            path,
            "Bios",
            "Settings",
            "BIOS Settings after the next boot",
            json!({
                "AttributeRegistry": self.registry_name(),
                "Attributes": self.board.settings.pending,
            }),
        )
    }
}

/// Dell's `SerialNumber` is the system board's; it begins with the country it was made in.
fn board_serial(tag: &str) -> String {
    format!("70163{tag}0A5")
}
