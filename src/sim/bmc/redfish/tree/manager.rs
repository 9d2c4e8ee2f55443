//! The BMC itself: clock, network, virtual drives.

use serde_json::{Value, json};

use crate::sim::bmc::redfish::tree::{READ_PATCH, Resource, View, enabled, link, put, put_some, stamp};

impl View<'_> {
    pub(super) fn manager_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let body = match rest {
            [] => return Some(Resource { body: self.manager(path), allow: READ_PATCH }),
            ["NetworkProtocol"] => return Some(Resource { body: self.protocols(path), allow: READ_PATCH }),
            ["EthernetInterfaces"] => return Some(self.collection(path, "EthernetInterface", vec![format!("{path}/1")])),
            ["EthernetInterfaces", "1"] => self.interface(path),
            ["VirtualMedia", rest @ ..] if !self.is_modern() => return self.media_part(path, rest),
            ["LogServices", rest @ ..] => return self.logs_part(path, rest),
            ["ResetActionInfo"] => self.resource(path, "ActionInfo", "ResetActionInfo", "Reset Action Info", json!({
                "Parameters": [{"Name": "ResetType", "Required": false, "DataType": "String", "AllowableValues": ["GracefulRestart", "ForceRestart"]}],
            })),
            _ => return None,
        };
        Some(Resource::read_only(body))
    }

    fn manager(&self, path: &str) -> Value {
        let dialect = self.dialect();
        let bmc = self.board.components.iter().find(|c| c.id == "BMC");
        let mut body = self.resource(
            path,
            "Manager",
            dialect.manager,
            "Manager",
            json!({
                "ManagerType": "BMC",
                "UUID": self.identity.uuid,
                "ServiceEntryPointUUID": self.identity.uuid,
                "Model": dialect.manager_model,
                "FirmwareVersion": bmc.map(|c| c.version.as_str()),
                "DateTime": self.stamp(self.now),
                "DateTimeLocalOffset": "+00:00",
                "Status": if bmc.is_some_and(|c| c.torn) { json!({"State": "Enabled", "Health": "Critical"}) } else { enabled() },
                "SerialConsole": {"ServiceEnabled": true, "MaxConcurrentSessions": 1, "ConnectTypesSupported": ["IPMI"]},
                "NetworkProtocol": link(&format!("{path}/NetworkProtocol")),
                "EthernetInterfaces": link(&format!("{path}/EthernetInterfaces")),
                "LogServices": link(&format!("{path}/LogServices")),
                "Links": {
                    "ManagerForServers": [link(&dialect.system_path())],
                    "ManagerForChassis": [link(&dialect.chassis_path())],
                    "ManagerInChassis": link(&dialect.chassis_path()),
                },
                "Actions": {"#Manager.Reset": {
                    "target": format!("{path}/Actions/Manager.Reset"),
                    "ResetType@Redfish.AllowableValues": ["GracefulRestart", "ForceRestart"],
                    "@Redfish.ActionInfo": format!("{path}/ResetActionInfo"),
                }},
            }),
        );
        if self.is_modern() {
            put(
                &mut body,
                json!({
                    "Manufacturer": self.identity.manufacturer,
                    "LastResetTime": stamp(self.board.clock(self.board.started_at)),
                    "TimeZoneName": "UTC",
                }),
            );
        } else {
            put(&mut body, json!({"VirtualMedia": link(&format!("{path}/VirtualMedia"))}));
        }
        body
    }

    fn protocols(&self, path: &str) -> Value {
        let https = if self.tls { json!({"ProtocolEnabled": true, "Port": self.port}) } else { json!({"ProtocolEnabled": false}) };
        let http = if self.tls { json!({"ProtocolEnabled": false}) } else { json!({"ProtocolEnabled": true, "Port": self.port}) };
        self.resource(
            path,
            "ManagerNetworkProtocol",
            "NetworkProtocol",
            "Manager Network Protocol",
            json!({
                "HostName": format!("bmc-{}", self.identity.serial.to_lowercase()),
                "FQDN": format!("bmc-{}.example.net", self.identity.serial.to_lowercase()),
                "Status": enabled(),
                "HTTP": http,
                "HTTPS": https,
                "IPMI": {"ProtocolEnabled": true, "Port": 623},
                "NTP": {"ProtocolEnabled": !self.board.ntp_servers.is_empty(), "NTPServers": self.board.ntp_servers},
            }),
        )
    }

    fn interface(&self, path: &str) -> Value {
        let [.., a, b, c] = self.identity.uuid.0.into_bytes();
        let mac = format!("d0:94:66:{a:02x}:{b:02x}:{c:02x}");
        let address = format!("10.77.{}.{}", b, c.max(2));
        let mut body = self.resource(
            path,
            "EthernetInterface",
            "1",
            "Manager Ethernet Interface",
            json!({
                "Status": enabled(), "InterfaceEnabled": true, "MACAddress": mac, "PermanentMACAddress": mac, "LinkStatus": "LinkUp",
                "SpeedMbps": 1000, "FullDuplex": true, "AutoNeg": true, "HostName": format!("bmc-{}", self.identity.serial.to_lowercase()),
                "IPv4Addresses": [{"Address": address, "SubnetMask": "255.255.0.0", "Gateway": "10.77.0.1", "AddressOrigin": "DHCP"}],
                "DHCPv4": {"DHCPEnabled": true}, "NameServers": ["10.77.0.1"],
            }),
        );
        put_some(&mut body, "VLAN", Some(json!({"VLANEnable": false})));
        body
    }

    /// Virtual drives: of the manager in old trees, of the system since Manager 1.15.
    pub(super) fn media_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        match rest {
            [] => Some(self.collection(path, "VirtualMedia", self.board.media.iter().map(|m| format!("{path}/{}", m.id)).collect())),
            [id] => self.media(path, id).map(Resource::read_only),
            _ => None,
        }
    }

    fn media(&self, path: &str, id: &str) -> Option<Value> {
        let media = self.board.media.iter().find(|m| m.id == id)?;
        let name = media.image.as_deref().and_then(|i| i.rsplit('/').next());
        let mut body = self.resource(
            path,
            "VirtualMedia",
            id,
            &format!("Virtual {}", media.kinds.join(", ")),
            json!({
                "MediaTypes": media.kinds, "Image": media.image, "ImageName": name, "Inserted": media.image.is_some(),
                "WriteProtected": media.write_protected, "ConnectedVia": if media.image.is_some() { "URI" } else { "NotConnected" },
                "Actions": {
                    "#VirtualMedia.InsertMedia": {"target": format!("{path}/Actions/VirtualMedia.InsertMedia")},
                    "#VirtualMedia.EjectMedia": {"target": format!("{path}/Actions/VirtualMedia.EjectMedia")},
                },
            }),
        );
        if self.is_modern() {
            put(
                &mut body,
                json!({"Status": enabled(), "TransferProtocolType": media.image.as_ref().map(|_| "HTTP"), "TransferMethod": media.image.as_ref().map(|_| "Stream")}),
            );
        }
        Some(body)
    }
}
