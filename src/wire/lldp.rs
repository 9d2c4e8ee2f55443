//! LLDP frames (IEEE 802.1AB-2016 section 8), as far as they say which switch port a cable ends in.

use crate::domain::inventory::LldpNeighbour;

/// LLDP's EtherType and its nearest-bridge group address.
pub const ETHERTYPE: u16 = 0x88cc;
pub const GROUP: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e];

/// Reads a frame from its destination address on. `None` if it is not LLDP or lacks chassis or port.
pub fn parse_frame(frame: &[u8]) -> Option<LldpNeighbour> {
    let mut at = 12;
    // A switch may tag it (802.1Q).
    if frame.get(at..at + 2)? == [0x81, 0x00] {
        at += 4;
    }
    if frame.get(at..at + 2)? != ETHERTYPE.to_be_bytes() {
        return None;
    }
    parse_tlvs(frame.get(at + 2..)?)
}

fn parse_tlvs(mut rest: &[u8]) -> Option<LldpNeighbour> {
    let mut found = LldpNeighbour::default();
    while let [a, b, after @ ..] = rest {
        let kind = a >> 1;
        let len = usize::from(a & 1) << 8 | usize::from(*b);
        let value = after.get(..len)?;
        rest = &after[len..];
        match kind {
            0 => break,
            1 => found.chassis_id = identifier(value, &[4], 5)?,
            2 => found.port_id = identifier(value, &[3], 4)?,
            4 => found.port_description = text(value),
            5 => found.system_name = text(value),
            _ => {}
        }
    }
    (!found.chassis_id.is_empty() && !found.port_id.is_empty()).then_some(found)
}

/// A chassis or port ID: a subtype byte, then a MAC, a network address, or text (tables 8-2 and 8-3).
fn identifier(value: &[u8], mac_subtypes: &[u8], address_subtype: u8) -> Option<String> {
    let (subtype, id) = value.split_first()?;
    if mac_subtypes.contains(subtype) && id.len() == 6 {
        let parts: Vec<_> = id.iter().map(|b| format!("{b:02x}")).collect();
        return Some(parts.join(":"));
    }
    if *subtype == address_subtype
        && let [1, a, b, c, d] = id
    {
        return Some(format!("{a}.{b}.{c}.{d}"));
    }
    text(id)
}

/// Printable text; what is not becomes a dot. `None` if nothing is left.
fn text(value: &[u8]) -> Option<String> {
    let text: String =
        String::from_utf8_lossy(value).trim_matches(['\0', ' ']).chars().map(|c| if c.is_control() { '.' } else { c }).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![kind << 1 | u8::from(value.len() > 255), (value.len() & 0xff) as u8];
        out.extend(value);
        out
    }

    fn frame(tlvs: &[Vec<u8>]) -> Vec<u8> {
        let mut out = [&GROUP[..], &[2, 0, 0, 0, 0, 1], &ETHERTYPE.to_be_bytes()].concat();
        out.extend(tlvs.concat());
        out
    }

    #[test]
    fn a_switch_tells_its_name_and_port() {
        let bytes = frame(&[
            tlv(1, &[4, 0x52, 0x54, 0, 1, 2, 3]),
            tlv(2, b"\x05Ethernet1/7"),
            tlv(3, &[0, 120]),
            tlv(5, b"leaf-03"),
            tlv(4, b"to rack 12"),
            tlv(0, b""),
        ]);
        let found = parse_frame(&bytes).unwrap();
        assert_eq!(found.chassis_id, "52:54:00:01:02:03");
        assert_eq!(found.port_id, "Ethernet1/7");
        assert_eq!(found.system_name.as_deref(), Some("leaf-03"));
        assert_eq!(found.port_description.as_deref(), Some("to rack 12"));
    }

    #[test]
    fn a_frame_cut_anywhere_is_none_or_whole_and_never_a_panic() {
        let bytes = frame(&[tlv(1, &[4, 1, 2, 3, 4, 5, 6]), tlv(2, b"\x05p1"), tlv(127, &[0; 300]), tlv(0, b"")]);
        for end in 0..bytes.len() {
            if let Some(found) = parse_frame(&bytes[..end]) {
                assert_eq!(found.port_id, "p1");
            }
        }
        assert_eq!(parse_frame(&frame(&[tlv(1, &[4]), tlv(2, b"\x05p1")])), None);
        assert_eq!(parse_frame(&[0xff; 60]), None);
    }
}
