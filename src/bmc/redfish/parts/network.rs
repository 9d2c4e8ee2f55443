//! Network adapters with ports and transceivers, PCIe devices, and the interfaces of trees that have neither.

use crate::bmc::BmcError;
use crate::bmc::redfish::parts::List;
use crate::bmc::redfish::parts::compute::{pcie_errors, pcie_link};
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::walk::{Resource, Walk, tidy};
use crate::domain::part::{Part, PartKind, PartState};

/// The adapters in a field of a chassis.
pub async fn adapters(walk: &mut Walk<'_>, holder: &Resource, field: &str, list: &mut List) -> Result<(), BmcError> {
    for adapter in walk.follow_members(&holder.body, field).await? {
        add_adapter(walk, &adapter, list).await?;
    }
    Ok(())
}

async fn add_adapter(walk: &mut Walk<'_>, adapter: &Resource, list: &mut List) -> Result<(), BmcError> {
    if list.has(&adapter.path) {
        return Ok(());
    }
    let part = adapter_part(&mut walk.reader(adapter));
    let is_there = part.state != PartState::Absent;
    list.add(part);
    // `Ports` replaced `NetworkPorts` in 1.5; iDRAC 9 has the older ones, others have both for the same ports.
    let mut ports = walk.follow_members(&adapter.body, "Ports").await?;
    if ports.is_empty() {
        ports = walk.follow_members(&adapter.body, "NetworkPorts").await?;
    }
    let mut without_mac = Vec::new();
    for port in ports {
        if !list.has(&port.path) {
            add_port(walk, &port, list).await?;
            let mac = list.parts.iter().find(|p| p.source == port.path).and_then(|p| p.facts.mac);
            // Two ports with one first MAC (seen: a ConnectX-5 in a DL360): the second one's is another.
            if mac.is_none_or(|mac| !list.macs.insert(mac)) {
                without_mac.push(port.path);
            }
        }
    }
    if is_there && !without_mac.is_empty() {
        macs_of_functions(walk, adapter, &without_mac, list).await?;
    }
    Ok(())
}

/// Ports that do not show a MAC of their own: the functions on them do.
async fn macs_of_functions(walk: &mut Walk<'_>, adapter: &Resource, ports: &[String], list: &mut List) -> Result<(), BmcError> {
    for function in walk.follow_members(&adapter.body, "NetworkDeviceFunctions").await? {
        let mut r = walk.reader(&function);
        let links = r.inside("Links").and_then(|l| l.link("PhysicalPortAssignment").map(str::to_owned));
        let port = links.or_else(|| r.link("PhysicalPortAssignment").map(str::to_owned));
        let port = port.or_else(|| r.links("AssignablePhysicalPorts").first().map(|p| (*p).to_owned()));
        let Some(mut ethernet) = r.inside("Ethernet") else { continue };
        let mac = ethernet.mac("PermanentMACAddress").or_else(|| ethernet.mac("MACAddress"));
        let Some(mac) = mac else { continue };
        let port = port.map(|p| tidy(&p)).filter(|p| ports.contains(p));
        if list.macs.insert(mac)
            && let Some(part) = list.parts.iter_mut().find(|p| Some(&p.source) == port.as_ref())
        {
            part.facts.mac = Some(mac);
        }
    }
    Ok(())
}

/// Adapters that only the system's `NetworkInterfaces` lead to, then ports known only as interfaces of the system: all of them in
/// trees before NetworkAdapters, else those whose MAC no port shows.
pub async fn of_system(walk: &mut Walk<'_>, system: &Resource, list: &mut List) -> Result<(), BmcError> {
    for interface in walk.follow_members(&system.body, "NetworkInterfaces").await? {
        let adapter = walk.reader(&interface).inside("Links").and_then(|l| l.link("NetworkAdapter").map(str::to_owned));
        if let Some(link) = adapter.filter(|l| !list.has(&tidy(l)))
            && let Some(adapter) = walk.get(&link).await?
        {
            add_adapter(walk, &adapter, list).await?;
        }
    }
    let has_ports = list.parts.iter().any(|p| p.kind == PartKind::NetworkPort && !is_interface(&p.source));
    for interface in walk.follow_members(&system.body, "EthernetInterfaces").await? {
        let mut r = walk.reader(&interface);
        let mut part = r.part(PartKind::NetworkPort);
        part.facts.mac = r.mac("PermanentMACAddress").or_else(|| r.mac("MACAddress"));
        part.facts.link = r.text("LinkStatus");
        part.facts.speed_mbps = r.count("SpeedMbps").filter(|n| *n > 0);
        // Beside ports that show no MAC it cannot be told which of them this is.
        let is_new = match part.facts.mac {
            Some(mac) => !list.macs.contains(&mac) && (!has_ports || !list.macs.is_empty()),
            None => !has_ports,
        };
        if is_new {
            list.add(part);
        }
    }
    Ok(())
}

fn is_interface(source: &str) -> bool {
    source.contains("/EthernetInterfaces/")
}

fn adapter_part(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::NetworkAdapter);
    if matches!(part.name.as_str(), "NetworkAdapter" | "Network Adapter") {
        part.name = part.model.clone().or_else(|| r.text("Id")).unwrap_or(part.name);
    }
    let controllers = r.list("Controllers");
    for controller in controllers.into_iter().take(8) {
        let mut c = Reader::new(controller, r.source, r.odd);
        part.firmware = part.firmware.or_else(|| c.text("FirmwarePackageVersion"));
        part.place = part.place.or_else(|| c.place());
        if let Some(mut pcie) = c.inside("PCIeInterface") {
            pcie_link(&mut pcie, &mut part);
        }
    }
    part
}

async fn add_port(walk: &mut Walk<'_>, port: &Resource, list: &mut List) -> Result<(), BmcError> {
    let (mut part, transceiver) = port_part(&mut walk.reader(port));
    let mut lanes = Vec::new();
    if part.state != PartState::Absent
        && let Some(metrics) = walk.follow(&port.body, "Metrics").await?
    {
        let mut r = walk.reader(&metrics);
        r.metrics_into(&mut part.facts.metrics);
        if let Some(mut errors) = r.inside("PCIeErrors") {
            pcie_errors(&mut errors, &mut part);
        }
        lanes = r.list("Transceivers").into_iter().cloned().collect();
    }
    list.add(part);
    if let Some(mut transceiver) = transceiver {
        for (i, lane) in lanes.iter().enumerate().take(16) {
            let mut values = std::collections::BTreeMap::new();
            Reader::new(lane, &metrics_source(&port.path), &mut walk.odd).metrics_into(&mut values);
            let number = if lanes.len() > 1 { format!("{i}.") } else { String::new() };
            transceiver.facts.metrics.extend(values.into_iter().map(|(name, value)| (format!("{number}{name}"), value)));
        }
        list.add(transceiver);
    }
    Ok(())
}

fn metrics_source(port: &str) -> String {
    format!("{port}/Metrics")
}

/// A `Port` or a legacy `NetworkPort`, and what is plugged into it.
fn port_part(r: &mut Reader) -> (Part, Option<Part>) {
    let mut part = r.part(PartKind::NetworkPort);
    if matches!(part.name.as_str(), "Port" | "Network Port" | "NetworkPort") {
        part.name = format!("Port {}", r.first_text(&["PortId", "PhysicalPortNumber", "Id"]).unwrap_or_default());
    }
    part.facts.link = r.first_text(&["LinkStatus", "LinkState"]);
    let gbps = r.number("CurrentSpeedGbps").map(|g| g * 1000.0).or_else(|| r.number("CurrentLinkSpeedMbps"));
    part.facts.speed_mbps = gbps.filter(|m| (0.0..1e9).contains(m) && *m > 0.0).map(|m| m.round() as u64);
    part.facts.mac = first_mac(r);
    if r.flag("SignalDetected") == Some(false) && part.facts.link.as_deref() == Some("LinkUp") {
        part.facts.alarms.push("SignalDetected: false".into());
    }
    let source = format!("{}#/SFP", r.source);
    let sfp = match r.inside("SFP") {
        Some(sfp) => {
            let mut s = Reader::new(sfp.body, &source, sfp.odd);
            let mut transceiver = s.part(PartKind::Transceiver);
            transceiver.name = s.text("Type").unwrap_or_else(|| "SFP".into());
            let said = transceiver.serial.is_some() || transceiver.part_number.is_some() || transceiver.state != PartState::NotSaid;
            (said && transceiver.state != PartState::Absent).then_some(transceiver)
        }
        None => None,
    };
    if let Some(sfp) = sfp {
        return (part.clone(), Some(Part { place: Some(part.name), ..sfp }));
    }
    (part, None)
}

fn first_mac(r: &mut Reader) -> Option<crate::domain::id::Mac> {
    let mut words = r.words("AssociatedNetworkAddresses");
    for holder in ["Ethernet", "InfiniBand"] {
        if let Some(mut inner) = r.inside(holder) {
            words.extend(inner.words("AssociatedMACAddresses"));
        }
    }
    words.iter().find_map(|w| w.parse().ok())
}

/// PCIe devices that a system or a chassis lists.
pub async fn pcie(walk: &mut Walk<'_>, holder: &Resource, list: &mut List) -> Result<(), BmcError> {
    let mut devices = walk.follow_members(&holder.body, "PCIeDevices").await?;
    let linked: Vec<String> = match walk.reader(holder).inside("Links") {
        Some(links) => links.links("PCIeDevices").into_iter().map(str::to_owned).collect(),
        None => Vec::new(),
    };
    devices.extend(walk.get_all(&linked).await?);
    for device in devices {
        // iDRAC 9 serves one device below the system and below the chassis.
        let twin = list.parts.iter().any(|p| p.kind == PartKind::PcieDevice && same_device(&p.source, &device.path));
        if twin || list.has(&device.path) {
            continue;
        }
        let mut part = pcie_part(&mut walk.reader(&device));
        for field in ["Metrics", "PCIeMetrics"] {
            if let Some(metrics) = walk.follow(&device.body, field).await? {
                let mut r = walk.reader(&metrics);
                match r.inside("PCIeErrors") {
                    Some(mut errors) => pcie_errors(&mut errors, &mut part),
                    None => r.metrics_into(&mut part.facts.metrics),
                }
            }
        }
        list.add(part);
    }
    Ok(())
}

/// Whether two paths name one device below its system and below its chassis: `…/PCIeDevices/23-0` of each.
fn same_device(a: &str, b: &str) -> bool {
    let tail = |p: &str| p.rsplit_once("/PCIeDevices/").map(|(head, id)| (head.contains("/Systems/"), id.to_owned()));
    match (tail(a), tail(b)) {
        (Some((a_system, a_id)), Some((b_system, b_id))) => a_system != b_system && a_id == b_id,
        _ => false,
    }
}

fn pcie_part(r: &mut Reader) -> Part {
    let mut part = r.part(PartKind::PcieDevice);
    if let Some(mut interface) = r.inside("PCIeInterface") {
        pcie_link(&mut interface, &mut part);
    }
    if let Some(mut slot) = r.inside("Slot") {
        part.place = part.place.or_else(|| slot.place());
        part.facts.lanes_max = part.facts.lanes_max.or(slot.small_count("Lanes"));
    }
    part
}

/// The switches of a fabric.
pub async fn switches(walk: &mut Walk<'_>, fabric: &str, list: &mut List) -> Result<(), BmcError> {
    let Some(fabric) = walk.get(fabric).await? else { return Ok(()) };
    for switch in walk.follow_members(&fabric.body, "Switches").await? {
        let mut part = walk.reader(&switch).part(PartKind::Other);
        if let Some(metrics) = walk.follow(&switch.body, "Metrics").await? {
            let mut r = walk.reader(&metrics);
            if let Some(mut errors) = r.inside("PCIeErrors") {
                pcie_errors(&mut errors, &mut part);
            }
        }
        list.add(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_below_system_and_chassis_is_one_device() {
        assert!(same_device("/redfish/v1/Systems/1/PCIeDevices/23-0", "/redfish/v1/Chassis/1/PCIeDevices/23-0"));
        assert!(!same_device("/redfish/v1/Chassis/1/PCIeDevices/0", "/redfish/v1/Chassis/2/PCIeDevices/0"), "two chassis, two devices");
        assert!(!same_device("/redfish/v1/Systems/1/PCIeDevices/23-0", "/redfish/v1/Chassis/1/PCIeDevices/23-1"));
    }

    #[test]
    fn a_port_without_a_name_of_its_own_is_called_by_its_number() {
        let body = serde_json::json!({"Name": "Port", "PortId": "2", "LinkStatus": "LinkUp", "CurrentSpeedGbps": 25.0,
            "Ethernet": {"AssociatedMACAddresses": ["", "88:E9:A4:6B:A8:AC"]}, "SFP": {"SerialNumber": "APF1", "Type": "SFP28", "Status": {"State": "Enabled"}}});
        let (port, sfp) = port_part(&mut Reader::new(&body, "/p", &mut Vec::new()));
        assert_eq!((port.name.as_str(), port.facts.speed_mbps), ("Port 2", Some(25_000)));
        assert_eq!(port.facts.mac.unwrap().to_string(), "88:e9:a4:6b:a8:ac");
        let sfp = sfp.unwrap();
        assert_eq!((sfp.kind, sfp.serial.unwrap().as_str(), sfp.place.as_deref()), (PartKind::Transceiver, "APF1", Some("Port 2")));
    }
}
