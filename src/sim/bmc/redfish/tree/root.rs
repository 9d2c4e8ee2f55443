//! Service root, OData documents and registries.

use serde_json::{Value, json};

use crate::sim::bmc::board::dialect::Generation;
use crate::sim::bmc::board::settings::{ATTRIBUTES, Allowed};
use crate::sim::bmc::redfish::sessions::SESSIONS;
use crate::sim::bmc::redfish::tree::versions::VERSIONS;
use crate::sim::bmc::redfish::tree::{ROOT, Resource, View, link, put};

pub const METADATA: &str = "/redfish/v1/$metadata";
/// The name of the attribute registry in `Bios.AttributeRegistry`.
const BIOS_REGISTRY: &str = "BiosAttributeRegistry.v1_0_0";

impl View<'_> {
    pub(super) fn root(&self) -> Value {
        let dialect = self.dialect();
        let child = |name: &str| link(&format!("{ROOT}/{name}"));
        let mut body = self.resource(
            "/redfish/v1/",
            "ServiceRoot",
            "RootService",
            "Root Service",
            json!({
                "RedfishVersion": dialect.redfish,
                "UUID": self.identity.uuid,
                "Systems": child("Systems"),
                "Chassis": child("Chassis"),
                "Managers": child("Managers"),
                "UpdateService": child("UpdateService"),
                "Tasks": child("TaskService"),
                "EventService": child("EventService"),
                "AccountService": child("AccountService"),
                "Registries": child("Registries"),
                "Links": {},
            }),
        );
        if self.is_modern() {
            put(
                &mut body,
                json!({
                    "Vendor": self.identity.manufacturer,
                    "Product": dialect.manager_model,
                    "ServiceIdentification": self.identity.serial,
                    "TelemetryService": child("TelemetryService"),
                    "ProtocolFeaturesSupported": {
                        "ExpandQuery": {"ExpandAll": true, "Levels": true, "Links": true, "NoLinks": true, "MaxLevels": 3},
                        "SelectQuery": true, "OnlyMemberQuery": true, "FilterQuery": false, "ExcerptQuery": false,
                        "DeepOperations": {"DeepPATCH": false, "DeepPOST": false},
                    },
                }),
            );
        }
        if self.sessions {
            put(&mut body, json!({"SessionService": child("SessionService"), "Links": {"Sessions": link(SESSIONS)}}));
        }
        body
    }

    pub(super) fn registry_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let file = |id: &str, name: &str, registry: &str, location: Value| {
            self.resource(path, "MessageRegistryFile", id, name, json!({"Registry": registry, "Languages": ["en"], "Location": [location]}))
        };
        let published = |id: &str, registry: &str, file_name: &str| {
            let uri = format!("https://redfish.dmtf.org/registries/{file_name}.json");
            file(id, &format!("{id} Message Registry File"), registry, json!({"Language": "en", "PublicationUri": uri}))
        };
        let body = match rest {
            [] => {
                return Some(
                    self.collection(
                        path,
                        "MessageRegistryFile",
                        ["Base", "BiosAttributeRegistry", "ResourceEvent", "SensorEvent", "Update"]
                            .iter()
                            .map(|id| format!("{path}/{id}"))
                            .collect(),
                    ),
                );
            }
            ["Base"] => published("Base", "Base.1.17", "Base.1.17.0"),
            ["ResourceEvent"] => published("ResourceEvent", "ResourceEvent.1.3", "ResourceEvent.1.3.0"),
            ["SensorEvent"] => published("SensorEvent", "SensorEvent.1.0", "SensorEvent.1.0.0"),
            ["Update"] => published("Update", "Update.1.1", "Update.1.1.0"),
            ["BiosAttributeRegistry"] => {
                let uri = format!("{path}/BiosAttributeRegistry.json");
                file("BiosAttributeRegistry", "BIOS Attribute Registry File", BIOS_REGISTRY, json!({"Language": "en", "Uri": uri}))
            }
            ["BiosAttributeRegistry", "BiosAttributeRegistry.json"] => self.attributes(path),
            _ => return None,
        };
        Some(Resource::read_only(body))
    }

    pub(super) fn registry_name(&self) -> &'static str {
        BIOS_REGISTRY
    }

    fn attributes(&self, path: &str) -> Value {
        let attributes: Vec<Value> = ATTRIBUTES
            .iter()
            .map(|a| {
                let mut out = json!({
                    "AttributeName": a.name, "DisplayName": a.display, "MenuPath": format!("./{}", a.menu.replace(' ', "")),
                    "ReadOnly": a.read_only, "ResetRequired": !a.read_only, "Immutable": a.read_only, "Hidden": false, "WriteOnly": false,
                });
                put(
                    &mut out,
                    match a.allowed {
                        Allowed::OneOf(names) => {
                            let values: Vec<Value> = names.iter().map(|n| json!({"ValueName": n, "ValueDisplayName": n})).collect();
                            json!({"Type": "Enumeration", "Value": values})
                        }
                        Allowed::Integer { from, to } => {
                            json!({"Type": "Integer", "LowerBound": from, "UpperBound": to, "ScalarIncrement": 1})
                        }
                        Allowed::Text { longest } => json!({"Type": "String", "MinLength": 0, "MaxLength": longest}),
                        Allowed::Switch => json!({"Type": "Boolean"}),
                    },
                );
                out
            })
            .collect();
        self.resource(path, "AttributeRegistry", BIOS_REGISTRY, "BIOS Attribute Registry", json!({
            "Description": "What the BIOS settings are and may be.",
            "Language": "en",
            "OwningEntity": self.identity.manufacturer,
            "RegistryVersion": "1.0.0",
            "SupportedSystems": [{"ProductName": self.identity.model, "SystemId": self.identity.model.replace(|c: char| !c.is_ascii_alphanumeric(), ""), "FirmwareVersion": "1.0.0"}],
            "RegistryEntries": {"Attributes": attributes},
        }))
    }
}

/// The OData service document.
pub fn odata(view: &View<'_>) -> Value {
    let root = view.root();
    let mut value = vec![json!({"name": "Service", "kind": "Singleton", "url": "/redfish/v1/"})];
    if let Some(fields) = root.as_object() {
        value.extend(fields.iter().filter_map(|(name, target)| {
            let url = target.get("@odata.id")?.as_str()?;
            Some(json!({"name": name, "kind": "Singleton", "url": url}))
        }));
    }
    json!({"@odata.context": METADATA, "value": value})
}

/// The OData metadata document: which schemas the tree uses, at which versions.
pub fn metadata(generation: Generation) -> String {
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<edmx:Edmx xmlns:edmx=\"http://docs.oasis-open.org/odata/ns/edmx\" Version=\"4.0\">\n",
    );
    let mut reference = |schema: &str, namespaces: &[String]| {
        out.push_str(&format!("  <edmx:Reference Uri=\"http://redfish.dmtf.org/schemas/v1/{schema}_v1.xml\">\n"));
        for namespace in namespaces {
            out.push_str(&format!("    <edmx:Include Namespace=\"{namespace}\"/>\n"));
        }
        out.push_str("  </edmx:Reference>\n");
    };
    for (schema, modern, legacy) in VERSIONS {
        let version = match generation {
            Generation::Modern => modern,
            Generation::Legacy => legacy,
        };
        reference(schema, &[schema.to_owned(), format!("{schema}.{version}")]);
    }
    for of in [
        "BootOption",
        "Chassis",
        "ComputerSystem",
        "Drive",
        "EthernetInterface",
        "EventDestination",
        "Fan",
        "LogEntry",
        "LogService",
        "ManagerAccount",
        "Manager",
        "Memory",
        "MessageRegistryFile",
        "MetricReportDefinition",
        "MetricReport",
        "NetworkAdapter",
        "NetworkDeviceFunction",
        "PCIeDevice",
        "Port",
        "PowerSupply",
        "Processor",
        "Role",
        "Sensor",
        "Session",
        "SimpleStorage",
        "SoftwareInventory",
        "StorageController",
        "Storage",
        "Task",
        "VirtualMedia",
        "Volume",
    ] {
        reference(&format!("{of}Collection"), &[format!("{of}Collection")]);
    }
    let version = match generation {
        Generation::Modern => "v1_16_1",
        Generation::Legacy => "v1_3_1",
    };
    out.push_str(&format!(
        "  <edmx:DataServices>\n    <Schema xmlns=\"http://docs.oasis-open.org/odata/ns/edm\" Namespace=\"Service\">\n      \
         <EntityContainer Name=\"Service\" Extends=\"ServiceRoot.{version}.ServiceContainer\"/>\n    </Schema>\n  </edmx:DataServices>\n</edmx:Edmx>\n"
    ));
    out
}
