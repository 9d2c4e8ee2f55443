//! The BMC's own answers over the in-band interface (IPMI 2.0 sections 20.1 and 23.2).

use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use crate::agent::sys;
use crate::domain::id::Mac;
use crate::domain::inventory::InbandBmc;

const NETFN_APP: u8 = 0x06;
const NETFN_TRANSPORT: u8 = 0x0c;
const GET_DEVICE_ID: u8 = 0x01;
const GET_LAN_CONFIG: u8 = 0x02;
/// A healthy BMC answers over KCS in some 10 ms; a busy one in a second or two.
const LIMIT: Duration = Duration::from_secs(3);
/// Channels that may be the LAN: 1 by convention, but Supermicro and Dell boards were seen with others up to 8.
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=8;

/// What the BMC says of itself; `None` without `/dev/ipmi0` or without an answer.
pub fn read_bmc(dev: &Path) -> Option<InbandBmc> {
    let device = OpenOptions::new().read(true).write(true).open(dev.join("ipmi0")).ok()?;
    let id = sys::ipmi(&device, NETFN_APP, GET_DEVICE_ID, &[], LIMIT).ok()?;
    let mut bmc = parse_device_id(&id)?;
    for channel in CHANNELS {
        let address = parameter(&device, channel, 3).and_then(|data| <[u8; 4]>::try_from(data).ok()).map(Ipv4Addr::from);
        let mac = parameter(&device, channel, 5).and_then(|data| <[u8; 6]>::try_from(data).ok()).map(Mac);
        if let Some(address) = address.filter(|address| !address.is_unspecified()) {
            bmc.address = Some(address);
            bmc.mac = mac;
            break;
        }
    }
    Some(bmc)
}

/// A LAN configuration parameter; `None` on any completion code but 0 (channel is no LAN, parameter not offered).
fn parameter(device: &File, channel: u8, parameter: u8) -> Option<Vec<u8>> {
    let answer = sys::ipmi(device, NETFN_TRANSPORT, GET_LAN_CONFIG, &[channel, parameter, 0, 0], LIMIT).ok()?;
    match answer.as_slice() {
        [0, _revision, data @ ..] => Some(data.to_vec()),
        _ => None,
    }
}

/// Get Device ID, completion code in front: firmware revision major (7 bits) and minor (BCD), manufacturer (3 bytes).
fn parse_device_id(answer: &[u8]) -> Option<InbandBmc> {
    let [0, data @ ..] = answer else {
        return None;
    };
    let (major, minor) = (data.get(2)? & 0x7f, *data.get(3)?);
    let maker = data.get(6..9)?;
    Some(InbandBmc {
        address: None,
        mac: None,
        firmware: Some(format!("{major}.{minor:02x}")),
        manufacturer_id: Some(u32::from(maker[0]) | u32::from(maker[1]) << 8 | u32::from(maker[2] & 0x0f) << 16),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_names_firmware_and_maker() {
        // OpenIPMI's simulator, captured: firmware 3.02, IPMI 2.0, manufacturer 0x001291.
        let answer = [0, 0x20, 0x00, 0x03, 0x02, 0x02, 0x9f, 0x91, 0x12, 0x00, 0x02, 0x0f, 0, 0, 0, 0];
        let bmc = parse_device_id(&answer).unwrap();
        assert_eq!((bmc.firmware.as_deref(), bmc.manufacturer_id), (Some("3.02"), Some(0x1291)));
        assert_eq!(parse_device_id(&[0xc1]), None);
        assert_eq!(parse_device_id(&[0, 0x20]), None);
        assert_eq!(parse_device_id(&[]), None);
    }
}
