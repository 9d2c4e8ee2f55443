//! SMART basics from the bytes that NVMe and ATA devices answer.

use crate::domain::inventory::Smart;

/// The NVMe SMART / Health Information log page (NVM Express Base 2.0, figure 207).
pub fn nvme(log: &[u8; 512]) -> Smart {
    let wide = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&log[at..at + 16]);
        u64::try_from(u128::from_le_bytes(bytes)).unwrap_or(u64::MAX)
    };
    let kelvin = i32::from(u16::from_le_bytes([log[1], log[2]]));
    Smart {
        healthy: Some(log[0] == 0),
        temperature_celsius: (kelvin > 0).then_some(kelvin - 273),
        power_on_hours: Some(wide(128)),
        percent_used: Some(u32::from(log[5])),
        media_errors: Some(wide(160)),
    }
}

/// ATA SMART READ DATA: 30 attributes of 12 bytes from byte 2 (ACS-3; the attributes themselves are the vendors' custom).
/// `None` if the checksum is wrong or nothing is in it.
pub fn ata(data: &[u8; 512]) -> Option<Smart> {
    let sum = data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if sum != 0 || data.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut smart = Smart::default();
    for attribute in data[2..362].chunks_exact(12) {
        let value = attribute[3];
        let raw = u64::from(u32::from_le_bytes([attribute[5], attribute[6], attribute[7], attribute[8]]));
        match attribute[0] {
            9 => smart.power_on_hours = Some(raw),
            // Only the low byte: the others hold minimum and maximum on many drives.
            194 if raw & 0xff != 0 => smart.temperature_celsius = Some(i32::from(attribute[5])),
            190 if raw & 0xff != 0 => smart.temperature_celsius = smart.temperature_celsius.or(Some(i32::from(attribute[5]))),
            // Reported uncorrectable errors, or else offline uncorrectable sectors.
            187 => smart.media_errors = Some(raw),
            198 => smart.media_errors = smart.media_errors.or(Some(raw)),
            // Normalised life left: wear levelling count, SSD life left, media wear-out indicator.
            177 | 231 | 233 if (1..=100).contains(&value) => smart.percent_used = smart.percent_used.or(Some(100 - u32::from(value))),
            _ => {}
        }
    }
    Some(smart)
}

/// The answer of ATA SMART RETURN STATUS out of a SCSI sense block (SAT-4 section 12.2.2.7): cylinder registers 4F/C2 mean
/// healthy, F4/2C mean that a threshold is exceeded. `None` if the bridge does not carry them.
pub fn ata_status(sense: &[u8]) -> Option<bool> {
    let (mid, high) = match sense.first()? & 0x7f {
        // Descriptor format, ATA status return descriptor 09h.
        0x72 if sense.get(8) == Some(&0x09) => (*sense.get(17)?, *sense.get(19)?),
        // Fixed format.
        0x70 => (*sense.get(10)?, *sense.get(11)?),
        _ => return None,
    };
    match (mid, high) {
        (0x4f, 0xc2) => Some(true),
        (0xf4, 0x2c) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nvme_log_gives_all_basics() {
        let mut log = [0; 512];
        log[1..3].copy_from_slice(&323_u16.to_le_bytes());
        log[5] = 7;
        log[128..130].copy_from_slice(&1234_u16.to_le_bytes());
        log[160] = 3;
        let want = Smart {
            healthy: Some(true),
            temperature_celsius: Some(50),
            power_on_hours: Some(1234),
            percent_used: Some(7),
            media_errors: Some(3),
        };
        assert_eq!(nvme(&log), want);
        log[0] = 4;
        assert_eq!(nvme(&log).healthy, Some(false));
    }

    #[test]
    fn ata_attributes_are_read_only_with_a_right_checksum() {
        let mut data = [0; 512];
        data[2..14].copy_from_slice(&[9, 0x32, 0, 99, 99, 0x10, 0x27, 0, 0, 0, 0, 0]);
        data[14..26].copy_from_slice(&[194, 0x22, 0, 69, 60, 31, 0, 19, 0, 40, 0, 0]);
        data[26..38].copy_from_slice(&[231, 0x33, 0, 92, 92, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ata(&data), None);
        let sum = data.iter().fold(0_u8, |s, b| s.wrapping_add(*b));
        data[511] = sum.wrapping_neg();
        let want =
            Smart { healthy: None, temperature_celsius: Some(31), power_on_hours: Some(10_000), percent_used: Some(8), media_errors: None };
        assert_eq!(ata(&data), Some(want));
        assert_eq!(ata(&[0; 512]), None);
    }

    #[test]
    fn a_drive_past_its_threshold_is_not_healthy() {
        let mut sense = [0; 32];
        sense[0] = 0x72;
        sense[8] = 9;
        (sense[17], sense[19]) = (0xf4, 0x2c);
        assert_eq!(ata_status(&sense), Some(false));
        (sense[17], sense[19]) = (0x4f, 0xc2);
        assert_eq!(ata_status(&sense), Some(true));
        assert_eq!(ata_status(&[]), None);
        assert_eq!(ata_status(&[0x70]), None);
    }
}
