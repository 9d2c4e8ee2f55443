//! Network adapters, their ports, and the system's interfaces.

use serde_json::json;

use crate::domain::part::PartKind;
use crate::sim::bmc::board::parts::BoardPart;
use crate::sim::bmc::redfish::tree::{Resource, View, labels, link, place, put, status};

impl View<'_> {
    pub(super) fn adapters_part(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let adapter = match rest {
            [] => {
                let members = self.board.of_kind(PartKind::NetworkAdapter).map(|p| format!("{path}/{}", p.id)).collect();
                return Some(self.collection(path, "NetworkAdapter", members));
            }
            [id, ..] => self.board.of_kind(PartKind::NetworkAdapter).find(|p| p.id == *id)?,
        };
        let ports = || self.board.of_kind(PartKind::NetworkPort).filter(|p| p.within.as_deref() == Some(adapter.id.as_str()));
        let body = match rest.get(1..)? {
            [] => {
                let mut body = self.resource(path, "NetworkAdapter", &adapter.id, &adapter.name, json!({
                    "Status": status(adapter), "Location": place(adapter, "Slot"),
                    "Ports": link(&format!("{path}/Ports")), "NetworkDeviceFunctions": link(&format!("{path}/NetworkDeviceFunctions")),
                    "Controllers": [{"FirmwarePackageVersion": adapter.firmware, "ControllerCapabilities": {"NetworkPortCount": ports().count()}}],
                }));
                put(&mut body, labels(adapter));
                body
            }
            ["Ports"] => return Some(self.collection(path, "Port", ports().map(|p| format!("{path}/{}", p.id)).collect())),
            ["Ports", id] => {
                let port = ports().find(|p| p.id == *id)?;
                self.resource(
                    path,
                    "Port",
                    &port.id,
                    &port.name,
                    json!({
                        "Status": status(port), "PortId": port.id, "PortProtocol": "Ethernet", "PortType": "BidirectionalPort",
                        "LinkNetworkTechnology": "Ethernet", "LinkStatus": port.facts.link,
                        "CurrentSpeedGbps": port.facts.speed_mbps.filter(|_| link_is_up(port)).map_or(0.0, |m| m as f64 / 1000.0),
                        "MaxSpeedGbps": port.facts.speed_mbps.map(|m| m as f64 / 1000.0),
                        "SignalDetected": link_is_up(port),
                        "Ethernet": {"AssociatedMACAddresses": port.facts.mac.map(|m| m.to_string()).into_iter().collect::<Vec<_>>()},
                    }),
                )
            }
            ["NetworkDeviceFunctions"] => {
                return Some(self.collection(path, "NetworkDeviceFunction", ports().map(|p| format!("{path}/{}", p.id)).collect()));
            }
            ["NetworkDeviceFunctions", id] => {
                let port = ports().find(|p| p.id == *id)?;
                let mac = port.facts.mac.map(|m| m.to_string());
                self.resource(
                    path,
                    "NetworkDeviceFunction",
                    &port.id,
                    &format!("Function of {}", port.name),
                    json!({
                        "Status": status(port), "NetDevFuncType": "Ethernet", "DeviceEnabled": true,
                        "Ethernet": {"MACAddress": mac, "PermanentMACAddress": mac},
                    }),
                )
            }
            _ => return None,
        };
        Some(Resource::read_only(body))
    }

    pub(super) fn system_interfaces(&self, path: &str, rest: &[&str]) -> Option<Resource> {
        let ports = || self.board.of_kind(PartKind::NetworkPort);
        let id = match rest {
            [] => return Some(self.collection(path, "EthernetInterface", ports().map(|p| format!("{path}/{}", p.id)).collect())),
            [id] => *id,
            _ => return None,
        };
        let port = ports().find(|p| p.id == id)?;
        let mac = port.facts.mac.map(|m| m.to_string());
        Some(Resource::read_only(self.resource(
            path,
            "EthernetInterface",
            &port.id,
            &port.name,
            json!({
                "Status": status(port), "InterfaceEnabled": true, "MACAddress": mac, "PermanentMACAddress": mac,
                "LinkStatus": if link_is_up(port) { "LinkUp" } else { "LinkDown" }, "SpeedMbps": port.facts.speed_mbps, "FullDuplex": true,
            }),
        )))
    }
}

fn link_is_up(port: &BoardPart) -> bool {
    port.facts.link.as_deref() == Some("LinkUp")
}
