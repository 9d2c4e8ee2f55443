//! Storage subsystems, their controllers, drives and volumes.

use serde_json::{Value, json};

use crate::domain::part::PartKind;
use crate::sim::bmc::board::parts::{BoardPart, Condition};
use crate::sim::bmc::redfish::tree::{Resource, View, collection, enabled, labels, link, place, put, put_some, status};

impl View<'_> {
    fn subsystems(&self) -> Vec<&str> {
        self.board.of_kind(PartKind::StorageController).filter_map(|p| p.within.as_deref()).collect()
    }

    fn inside(&self, kind: PartKind, subsystem: &str) -> impl Iterator<Item = &BoardPart> {
        self.board.of_kind(kind).filter(move |p| p.within.as_deref() == Some(subsystem))
    }

    pub(super) fn storage_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let subsystem = match rest {
            [] => return Some(self.collection(path, "Storage", self.subsystems().iter().map(|s| format!("{path}/{s}")).collect())),
            [subsystem, ..] => *self.subsystems().iter().find(|s| *s == subsystem)?,
        };
        let body = match rest.get(1..)? {
            [] => self.subsystem(path, subsystem),
            ["Controllers"] if self.is_modern() => {
                let members = self.inside(PartKind::StorageController, subsystem).map(|p| format!("{path}/{}", p.id)).collect();
                return Some(self.collection(path, "StorageController", members));
            }
            ["Controllers", id] if self.is_modern() => {
                self.controller(path, self.inside(PartKind::StorageController, subsystem).find(|p| p.id == *id)?)
            }
            ["Drives", id] => self.drive(path, self.inside(PartKind::Drive, subsystem).find(|p| p.id == *id)?),
            ["Volumes"] => collection(path, "Volume", Vec::new()),
            _ => return None,
        };
        Some(Resource::read_only(body))
    }

    fn subsystem(&self, path: &str, subsystem: &str) -> Value {
        let drives: Vec<Value> = self.inside(PartKind::Drive, subsystem).map(|p| link(&format!("{path}/Drives/{}", p.id))).collect();
        let worst = self.inside(PartKind::Drive, subsystem).filter_map(BoardPart::health).find(|h| *h == "Critical").unwrap_or("OK");
        let mut body = self.resource(
            path,
            "Storage",
            subsystem,
            &format!("{subsystem} Storage"),
            json!({
                "Status": {"State": "Enabled", "Health": "OK", "HealthRollup": worst},
                "Drives@odata.count": drives.len(),
                "Drives": drives,
                "Volumes": link(&format!("{path}/Volumes")),
            }),
        );
        if self.is_modern() {
            put(&mut body, json!({"Controllers": link(&format!("{path}/Controllers"))}));
        } else {
            let controllers: Vec<Value> = self
                .inside(PartKind::StorageController, subsystem)
                .enumerate()
                .map(|(n, part)| {
                    let mut one = json!({
                        "@odata.id": format!("{path}#/StorageControllers/{n}"), "MemberId": n.to_string(), "Name": part.name, "Status": status(part),
                        "FirmwareVersion": part.firmware, "SpeedGbps": 12, "SupportedDeviceProtocols": protocols(subsystem),
                    });
                    put(&mut one, labels(part));
                    one
                })
                .collect();
            put(&mut body, json!({"StorageControllers@odata.count": controllers.len(), "StorageControllers": controllers}));
        }
        body
    }

    fn controller(&self, path: &str, part: &BoardPart) -> Value {
        let subsystem = part.within.as_deref().unwrap_or_default();
        let mut body = self.resource(
            path,
            "StorageController",
            &part.id,
            &part.name,
            json!({
                "Status": status(part), "FirmwareVersion": part.firmware, "SpeedGbps": 12, "SupportedDeviceProtocols": protocols(subsystem),
                "SupportedControllerProtocols": ["PCIe"], "Location": place(part, "Slot"),
                "Links": {"PCIeFunctions": []},
            }),
        );
        put(&mut body, labels(part));
        body
    }

    fn drive(&self, path: &str, part: &BoardPart) -> Value {
        let mut body = self.resource(
            path,
            "Drive",
            &part.id,
            &part.name,
            json!({
                "Status": status(part), "Links": {"Volumes": []},
            }),
        );
        if !part.is_there() {
            return body;
        }
        put(&mut body, labels(part));
        put(
            &mut body,
            json!({
                "CapacityBytes": part.facts.capacity_bytes, "Protocol": part.facts.protocol, "MediaType": part.facts.media,
                "FailurePredicted": part.condition == Condition::Failing, "Revision": part.firmware, "BlockSizeBytes": 512,
                "HotspareType": "None", "EncryptionAbility": "None",
            }),
        );
        put_some(&mut body, "PredictedMediaLifeLeftPercent", part.facts.life_left_percent);
        if self.is_modern() {
            put(&mut body, json!({"PhysicalLocation": place(part, "Bay"), "LocationIndicatorActive": false, "ReadyToRemove": false}));
        } else {
            put(&mut body, json!({"IndicatorLED": "Off", "Location": [{"Info": part.place, "InfoFormat": "Bay"}]}));
        }
        body
    }

    pub(super) fn simple_storage_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let [subsystem] = rest else {
            return rest
                .is_empty()
                .then(|| self.collection(path, "SimpleStorage", self.subsystems().iter().map(|s| format!("{path}/{s}")).collect()));
        };
        let subsystem = *self.subsystems().iter().find(|s| *s == subsystem)?;
        let devices: Vec<Value> = self
            .inside(PartKind::Drive, subsystem)
            .map(|part| {
                let mut one = json!({"Name": part.name, "Status": status(part)});
                if part.is_there() {
                    put(
                        &mut one,
                        json!({"Manufacturer": part.manufacturer, "Model": part.model, "CapacityBytes": part.facts.capacity_bytes}),
                    );
                }
                one
            })
            .collect();
        let body = self.resource(
            path,
            "SimpleStorage",
            subsystem,
            &format!("{subsystem} Simple Storage"),
            json!({
                "Status": enabled(), "Devices": devices,
            }),
        );
        Some(Resource::read_only(body))
    }
}

fn protocols(subsystem: &str) -> &'static [&'static str] {
    if subsystem == "NVMe" { &["NVMe"] } else { &["SAS", "SATA"] }
}
