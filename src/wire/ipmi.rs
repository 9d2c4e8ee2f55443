//! IPMI messages and the commands we use, as bytes. Sections are those of the IPMI specification v2.0, revision 1.1.
//! Sensor records are in `sdr`, log records in `sel`, inventory areas in `fru`, words for events in `ipmi_event`.
//!
//! Device ids and completion codes are read with `ipmi-rs-core`; see `docs/adr/0005-ipmi-client.md`.

pub use ipmi_rs_core::app::DeviceId;
use ipmi_rs_core::connection::CompletionErrorCode;

use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};

/// Our address as remote console software (5.5, table 5-4) and the BMC's.
const CONSOLE: u8 = 0x81;
const BMC: u8 = 0x20;

pub const NETFN_CHASSIS: u8 = 0x00;
pub const NETFN_SENSOR: u8 = 0x04;
pub const NETFN_APP: u8 = 0x06;
pub const NETFN_STORAGE: u8 = 0x0a;
pub const NETFN_TRANSPORT: u8 = 0x0c;
/// Group extension (5.1, table 5-1): the first data byte names the group; [`GROUP_DCMI`] is the one we use.
pub const NETFN_GROUP: u8 = 0x2c;
pub const GROUP_DCMI: u8 = 0xdc;

/// A command by network function and number (appendix G).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    pub netfn: u8,
    pub number: u8,
    pub name: &'static str,
}

macro_rules! commands {
    ($($const:ident = $netfn:ident $number:literal $name:literal;)+) => {
        $(pub const $const: Command = Command { netfn: $netfn, number: $number, name: $name };)+
        const COMMANDS: &[Command] = &[$($const),+];
    };
}

commands! {
    GET_DEVICE_ID = NETFN_APP 0x01 "Get Device ID";
    COLD_RESET = NETFN_APP 0x02 "Cold Reset";
    WARM_RESET = NETFN_APP 0x03 "Warm Reset";
    GET_WATCHDOG = NETFN_APP 0x25 "Get Watchdog Timer";
    GET_SYSTEM_GUID = NETFN_APP 0x37 "Get System GUID";
    GET_CHANNEL_AUTH = NETFN_APP 0x38 "Get Channel Authentication Capabilities";
    SET_PRIVILEGE = NETFN_APP 0x3b "Set Session Privilege Level";
    CLOSE_SESSION = NETFN_APP 0x3c "Close Session";
    GET_CHANNEL_INFO = NETFN_APP 0x42 "Get Channel Info";
    SET_USER_ACCESS = NETFN_APP 0x43 "Set User Access";
    GET_USER_ACCESS = NETFN_APP 0x44 "Get User Access";
    SET_USER_NAME = NETFN_APP 0x45 "Set User Name";
    GET_USER_NAME = NETFN_APP 0x46 "Get User Name";
    SET_USER_PASSWORD = NETFN_APP 0x47 "Set User Password";
    ACTIVATE_PAYLOAD = NETFN_APP 0x48 "Activate Payload";
    DEACTIVATE_PAYLOAD = NETFN_APP 0x49 "Deactivate Payload";
    GET_CIPHER_SUITES = NETFN_APP 0x54 "Get Channel Cipher Suites";
    CHASSIS_STATUS = NETFN_CHASSIS 0x01 "Get Chassis Status";
    CHASSIS_CONTROL = NETFN_CHASSIS 0x02 "Chassis Control";
    CHASSIS_IDENTIFY = NETFN_CHASSIS 0x04 "Chassis Identify";
    SET_BOOT_OPTIONS = NETFN_CHASSIS 0x08 "Set System Boot Options";
    GET_BOOT_OPTIONS = NETFN_CHASSIS 0x09 "Get System Boot Options";
    FRU_AREA = NETFN_STORAGE 0x10 "Get FRU Inventory Area Info";
    READ_FRU = NETFN_STORAGE 0x11 "Read FRU Data";
    SDR_REPOSITORY_INFO = NETFN_STORAGE 0x20 "Get SDR Repository Info";
    RESERVE_SDR_REPOSITORY = NETFN_STORAGE 0x22 "Reserve SDR Repository";
    GET_SDR = NETFN_STORAGE 0x23 "Get SDR";
    SEL_INFO = NETFN_STORAGE 0x40 "Get SEL Info";
    RESERVE_SEL = NETFN_STORAGE 0x42 "Reserve SEL";
    GET_SEL_ENTRY = NETFN_STORAGE 0x43 "Get SEL Entry";
    ADD_SEL_ENTRY = NETFN_STORAGE 0x44 "Add SEL Entry";
    CLEAR_SEL = NETFN_STORAGE 0x47 "Clear SEL";
    GET_SEL_TIME = NETFN_STORAGE 0x48 "Get SEL Time";
    SET_SEL_TIME = NETFN_STORAGE 0x49 "Set SEL Time";
    DEVICE_SDR_INFO = NETFN_SENSOR 0x20 "Get Device SDR Info";
    GET_DEVICE_SDR = NETFN_SENSOR 0x21 "Get Device SDR";
    RESERVE_DEVICE_SDRS = NETFN_SENSOR 0x22 "Reserve Device SDR Repository";
    SENSOR_FACTORS = NETFN_SENSOR 0x23 "Get Sensor Reading Factors";
    SENSOR_THRESHOLDS = NETFN_SENSOR 0x27 "Get Sensor Thresholds";
    SENSOR_READING = NETFN_SENSOR 0x2d "Get Sensor Reading";
    GET_LAN = NETFN_TRANSPORT 0x02 "Get LAN Configuration Parameters";
    GET_SOL = NETFN_TRANSPORT 0x22 "Get SOL Configuration Parameters";
    DCMI_CAPABILITIES = NETFN_GROUP 0x01 "Get DCMI Capabilities Info";
    DCMI_POWER = NETFN_GROUP 0x02 "Get Power Reading";
}

impl Command {
    pub fn find(netfn: u8, number: u8) -> Option<Self> {
        COMMANDS.iter().copied().find(|c| c.netfn == netfn && c.number == number)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    #[error("an IPMI message that is too short")]
    Short,
    #[error("an IPMI message with a wrong checksum")]
    Checksum,
    #[error("an IPMI message that is not for us")]
    Address,
}

/// A request as the BMC sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub netfn: u8,
    /// Logical unit of the BMC (7.2): where SDRs say that a sensor sits.
    pub lun: u8,
    pub command: u8,
    /// rqSeq, 6 bits.
    pub sequence: u8,
    pub data: Vec<u8>,
}

/// The answer to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's network function (even).
    pub netfn: u8,
    pub command: u8,
    pub sequence: u8,
    pub completion: u8,
    pub data: Vec<u8>,
}

/// Two's complement checksum (13.8).
pub fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg()
}

fn write(to: u8, netfn_lun: u8, from: u8, sequence: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![to, netfn_lun];
    out.push(checksum(&out));
    out.extend_from_slice(&[from, sequence << 2]);
    out.extend_from_slice(rest);
    out.push(checksum(out.get(3..).unwrap_or_default()));
    out
}

/// Splits a message into address, netFn with LUN, sequence and the bytes after; both checksums are checked.
fn read(b: &[u8]) -> Result<(u8, u8, u8, &[u8]), BadMessage> {
    let [to, netfn, _, _, sequence, rest @ .., _] = b else { return Err(BadMessage::Short) };
    let (head, body) = b.split_at_checked(3).ok_or(BadMessage::Short)?;
    // A sum that includes its checksum is zero.
    if checksum(head) != 0 || checksum(body) != 0 {
        return Err(BadMessage::Checksum);
    }
    Ok((*to, *netfn, sequence >> 2, rest))
}

impl Request {
    pub fn write(&self) -> Vec<u8> {
        write(BMC, self.netfn << 2 | self.lun & 3, CONSOLE, self.sequence & 0x3f, &[&[self.command], self.data.as_slice()].concat())
    }

    pub fn read(bytes: &[u8]) -> Result<Self, BadMessage> {
        let (to, netfn_lun, sequence, rest) = read(bytes)?;
        let (netfn, lun) = (netfn_lun >> 2, netfn_lun & 3);
        let (command, data) = rest.split_first().ok_or(BadMessage::Short)?;
        if to != BMC || netfn % 2 != 0 {
            return Err(BadMessage::Address);
        }
        Ok(Self { netfn, lun, command: *command, sequence, data: data.to_vec() })
    }
}

impl Response {
    pub fn write(&self) -> Vec<u8> {
        write(CONSOLE, (self.netfn | 1) << 2, BMC, self.sequence & 0x3f, &[&[self.command, self.completion], self.data.as_slice()].concat())
    }

    pub fn read(bytes: &[u8]) -> Result<Self, BadMessage> {
        let (to, netfn_lun, sequence, rest) = read(bytes)?;
        let netfn = netfn_lun >> 2;
        let [command, completion, data @ ..] = rest else { return Err(BadMessage::Short) };
        if to != CONSOLE || netfn % 2 != 1 {
            return Err(BadMessage::Address);
        }
        Ok(Self { netfn: netfn & !1, command: *command, sequence, completion: *completion, data: data.to_vec() })
    }
}

/// Completion codes (5.2, table 5-2) we send or act on.
pub mod completion {
    pub const OK: u8 = 0x00;
    /// Command-specific: parameter not supported (28.12, 28.13).
    pub const PARAMETER_NOT_SUPPORTED: u8 = 0x80;
    pub const NODE_BUSY: u8 = 0xc0;
    pub const INVALID_COMMAND: u8 = 0xc1;
    pub const TIMEOUT: u8 = 0xc3;
    pub const LENGTH_INVALID: u8 = 0xc7;
    pub const TOO_LONG: u8 = 0xc8;
    pub const OUT_OF_RANGE: u8 = 0xc9;
    pub const RESERVATION: u8 = 0xc5;
    pub const CANNOT_RETURN: u8 = 0xca;
    pub const NOT_PRESENT: u8 = 0xcb;
    pub const INVALID_FIELD: u8 = 0xcc;
    pub const PRIVILEGE: u8 = 0xd4;
    pub const NOT_FOR_THIS_SENSOR: u8 = 0xcd;
    pub const NOT_IN_THIS_STATE: u8 = 0xd5;
    pub const UNSPECIFIED: u8 = 0xff;
}

/// What a completion code that is not OK means for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command is not there.
    Missing,
    Busy(String),
    Refused(String),
}

/// A completion code in words.
pub fn code_words(code: u8) -> String {
    match CompletionErrorCode::try_from(code) {
        Ok(CompletionErrorCode::InsufficientPrivilege) => "the user's privilege does not allow it (completion code 0xd4)".to_owned(),
        Ok(CompletionErrorCode::CannotExecuteCommandInCurrentState) => {
            "not possible in the present state (completion code 0xd5)".to_owned()
        }
        Ok(other) => format!("{other:?} (completion code {code:#04x})"),
        Err(()) => format!("completion code {code:#04x}"),
    }
}

pub fn failure(code: u8) -> Failure {
    let words = code_words(code);
    match CompletionErrorCode::try_from(code) {
        Ok(CompletionErrorCode::InvalidCommand | CompletionErrorCode::InvalidCommandForLun | CompletionErrorCode::SubFunctionDisabled) => {
            Failure::Missing
        }
        Ok(
            CompletionErrorCode::NodeBusy
            | CompletionErrorCode::ProcessingTimeout
            | CompletionErrorCode::OutOfSpace
            | CompletionErrorCode::ResponseUnavailable { .. }
            | CompletionErrorCode::CannotExecuteDuplicateRequest,
        ) => Failure::Busy(words),
        _ => Failure::Refused(words),
    }
}

/// Longest text taken from a BMC, in characters.
const TEXT_CAP: usize = 256;

/// Text as SDRs (43.15) and FRUs (FRU definition, section 13) carry it: `kind` are the two upper bits of its type/length byte.
/// Control characters are dropped; `None` when nothing readable is left.
pub fn text(kind: u8, bytes: &[u8]) -> Option<String> {
    match kind {
        0b11 => printable(bytes.iter().map(|b| char::from(*b))),
        0b10 => printable(six_bit(bytes)),
        0b01 => printable(bytes.iter().flat_map(|b| [b >> 4, b & 0x0f]).map(|n| char::from(b"0123456789 -.:,_"[usize::from(n & 0x0f)]))),
        // UTF-16, little-endian in the SDRs that have it.
        _ => printable(char::decode_utf16(bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b))).filter_map(Result::ok)),
    }
}

/// 6-bit packed ASCII, least significant bits first (FRU definition, 13.3).
fn six_bit(value: &[u8]) -> impl Iterator<Item = char> {
    let bits = value.len() * 8;
    (0..bits / 6).map(move |n| {
        let code = (0..6).fold(0u8, |code, i| {
            let bit = n * 6 + i;
            let set = value.get(bit / 8).is_some_and(|b| b >> (bit % 8) & 1 == 1);
            code | u8::from(set) << i
        });
        char::from(code + 0x20)
    })
}

fn printable(text: impl Iterator<Item = char>) -> Option<String> {
    let text: String = text.filter(|c| !c.is_control()).take(TEXT_CAP).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Get Device ID (20.1) as `major.minor`: the minor part is BCD.
pub fn firmware_version(data: &[u8]) -> Option<String> {
    let id = DeviceId::from_data(data)?;
    Some(format!("{}.{:02}", id.major_fw_revision, id.minor_fw_revision))
}

/// Get System GUID (22.14) as UUID text.
///
/// The spec wants the bytes of a UUID from the least significant on; in the field one meets that, the SMBIOS order (the
/// first three fields little-endian) and the plain order. The order that gives a valid version and variant wins, SMBIOS
/// first; other bytes are read in SMBIOS order.
pub fn guid_text(data: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = data.get(..16)?.try_into().ok()?;
    let mut reversed = bytes;
    reversed.reverse();
    let smbios = uuid::Uuid::from_bytes_le(bytes);
    let valid = |u: &uuid::Uuid| (1..=5).contains(&u.get_version_num()) && u.get_variant() == uuid::Variant::RFC4122;
    let best = [smbios, uuid::Uuid::from_bytes(reversed), uuid::Uuid::from_bytes(bytes)].into_iter().find(valid).unwrap_or(smbios);
    (!best.is_nil() && !best.is_max()).then(|| best.to_string())
}

/// Cipher suite ids in the records of Get Channel Cipher Suites (22.15, table 22-18).
pub fn cipher_suites(records: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = records;
    loop {
        rest = match rest {
            [0xc0, id, tail @ ..] => {
                out.push(*id);
                tail
            }
            // OEM record: id and a 3-byte IANA number.
            [0xc1, _, _, _, _, tail @ ..] => tail,
            [_, tail @ ..] => tail,
            [] => return out,
        };
    }
}

/// Chassis Control (28.3).
pub fn chassis_control(action: PowerAction) -> u8 {
    match action {
        PowerAction::Off => 0,
        PowerAction::On => 1,
        PowerAction::Cycle => 2,
        PowerAction::Reset => 3,
        PowerAction::Soft => 5,
    }
}

pub fn chassis_action(code: u8) -> Option<PowerAction> {
    [PowerAction::Off, PowerAction::On, PowerAction::Cycle, PowerAction::Reset, PowerAction::Soft]
        .into_iter()
        .find(|a| chassis_control(*a) == code & 0x0f)
}

/// Get Chassis Status (28.2): bit 0 of the first byte.
pub fn chassis_power(data: &[u8]) -> Option<PowerState> {
    Some(if data.first()? & 1 == 1 { PowerState::On } else { PowerState::Off })
}

/// Boot flags, parameter 5 of the system boot options (28.13, table 28-14).
pub const PARAMETER_BOOT_FLAGS: u8 = 5;
/// Parameter 3: when the BMC clears the valid bit.
pub const PARAMETER_VALID_CLEARING: u8 = 3;
/// Parameter 4: boot info acknowledge.
pub const PARAMETER_ACKNOWLEDGE: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootFlags {
    pub valid: bool,
    pub persistent: bool,
    pub efi: bool,
    /// Device selector; 0 is no override.
    pub device: u8,
}

pub fn device_selector(device: BootDevice) -> u8 {
    match device {
        BootDevice::Network => 1,
        BootDevice::Disk => 2,
    }
}

impl BootFlags {
    pub fn once(device: BootDevice, firmware: FirmwareKind) -> Self {
        let efi = match firmware {
            FirmwareKind::Uefi => true,
            FirmwareKind::Bios => false,
        };
        Self { valid: true, persistent: false, efi, device: device_selector(device) }
    }

    pub fn write(self) -> [u8; 5] {
        [u8::from(self.valid) << 7 | u8::from(self.persistent) << 6 | u8::from(self.efi) << 5, (self.device & 0x0f) << 2, 0, 0, 0]
    }

    pub fn read(data: &[u8]) -> Option<Self> {
        let (flags, device) = (*data.first()?, *data.get(1)?);
        Some(Self { valid: flags & 0x80 != 0, persistent: flags & 0x40 != 0, efi: flags & 0x20 != 0, device: device >> 2 & 0x0f })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_read_back_as_written_and_damage_is_noticed() {
        let request = Request { netfn: NETFN_APP, lun: 2, command: 0x01, sequence: 9, data: vec![1, 2, 3] };
        assert_eq!(Request::read(&request.write()), Ok(request.clone()));
        // ipmitool's Get Device ID with rqSeq 0.
        assert_eq!(Request { sequence: 0, lun: 0, data: vec![], ..request }.write(), [0x20, 0x18, 0xc8, 0x81, 0x00, 0x01, 0x7e]);
        let response = Response { netfn: NETFN_CHASSIS, command: 1, sequence: 63, completion: 0, data: vec![0x21, 0, 0] };
        assert_eq!(Response::read(&response.write()), Ok(response.clone()));
        let mut bytes = response.write();
        bytes[6] ^= 1;
        assert_eq!(Response::read(&bytes), Err(BadMessage::Checksum));
        assert_eq!(Request::read(&response.write()), Err(BadMessage::Address));
    }

    #[test]
    fn a_guid_is_read_in_the_order_that_makes_sense() {
        let want = "11223344-5566-4788-9900-525400770001";
        let uuid: uuid::Uuid = want.parse().unwrap();
        assert_eq!(guid_text(&uuid.to_bytes_le()).as_deref(), Some(want));
        let mut reversed = *uuid.as_bytes();
        reversed.reverse();
        assert_eq!(guid_text(&reversed).as_deref(), Some(want));
        assert_eq!(guid_text(uuid.as_bytes()).as_deref(), Some(want));
        assert_eq!((guid_text(&[0; 16]), guid_text(&[1; 15])), (None, None));
    }

    #[test]
    fn suites_are_found_among_oem_records() {
        let records = [0xc0, 3, 0x01, 0x41, 0x81, 0xc1, 0x80, 1, 2, 3, 0x01, 0xc0, 17, 0x03, 0x44, 0x81, 0xc0];
        assert_eq!(cipher_suites(&records), [3, 17]);
    }

    #[test]
    fn boot_flags_say_device_firmware_and_once() {
        // Table 28-14: 0xa0 valid + EFI; 0x04 PXE, 0x08 hard disk.
        assert_eq!(BootFlags::once(BootDevice::Network, FirmwareKind::Uefi).write(), [0xa0, 0x04, 0, 0, 0]);
        assert_eq!(BootFlags::once(BootDevice::Disk, FirmwareKind::Bios).write(), [0x80, 0x08, 0, 0, 0]);
        let flags = BootFlags { valid: true, persistent: true, efi: true, device: 2 };
        assert_eq!(BootFlags::read(&flags.write()), Some(flags));
    }

    #[test]
    fn every_encoding_of_text_is_read() {
        assert_eq!(text(0b10, &[0x29, 0xdc, 0xa6]).as_deref(), Some("IPMI"), "the FRU definition's own example (13.3)");
        assert_eq!(text(0b01, &[0x12, 0x3b]).as_deref(), Some("123-"), "BCD plus (13.1)");
        assert_eq!(text(0b11, b"CPU Temp\0\x1b[31m").as_deref(), Some("CPU Temp[31m"), "no control characters");
        assert_eq!(text(0b00, &[b'V', 0, 0xc4, 0]).as_deref(), Some("V\u{c4}"));
        assert_eq!((text(0b11, b"  \0"), text(0b10, &[])), (None, None));
    }

    #[test]
    fn completion_codes_become_words() {
        assert_eq!(failure(0xc1), Failure::Missing);
        assert!(matches!(failure(0xd4), Failure::Refused(w) if w.contains("privilege")));
        assert!(matches!(failure(0xc0), Failure::Busy(_)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop((Request::read(&bytes), Response::read(&bytes), guid_text(&bytes), cipher_suites(&bytes)));
            drop((firmware_version(&bytes), chassis_power(&bytes), BootFlags::read(&bytes), bytes.first().map(|b| failure(*b))));
        }
    }
}
