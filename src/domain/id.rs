//! Identifiers. Parsed at the edge, never carried as bare strings.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::time::Timestamp;

/// A UUIDv7 (RFC 9562, section 5.7) from a moment and 10 random bytes, both handed in.
pub fn uuid_v7(now: Timestamp, random: [u8; 10]) -> Uuid {
    let millis = u64::try_from(now.0 / 1000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(s).map(Self)
            }
        }
    )+};
}

ids! {
    /// A server we manage.
    MachineId,
    /// One execution of a recipe.
    RunId,
    /// One step of a run.
    StepId,
    /// One order to the agent.
    TaskId,
    /// One boot of a machine, from its first packet on.
    BootId,
    /// One entry of the event log. Ordered by time.
    EventId,
    /// A person or a program that may log in.
    UserId,
    /// An API token (its row, not its secret).
    TokenId,
    /// One cause on one component of a machine.
    CaseId,
    /// One cause outside many machines.
    IncidentId,
    /// One thing told to alert targets. Ordered by time.
    NoticeId,
    /// Somebody who is told.
    TargetId,
    /// A firmware campaign.
    CampaignId,
}

/// An Ethernet address. Text form is lower case with colons; parses `-`, `.`, `:` and bare hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a MAC address: {0:?}; write it as aa:bb:cc:dd:ee:ff")]
pub struct BadMac(pub String);

impl std::str::FromStr for Mac {
    type Err = BadMac;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || BadMac(s.chars().take(40).collect());
        let hex: String = s.trim().chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
        if hex.len() != 12 || !hex.is_ascii() {
            return Err(bad());
        }
        let mut out = [0; 6];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[i * 2..i * 2 + 2], 16).map_err(|_| bad())?;
        }
        if out == [0; 6] || out == [0xff; 6] {
            return Err(bad());
        }
        Ok(Self(out))
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The SMBIOS system UUID (DSP0134, type 1), in the text order that `dmidecode` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemUuid(pub Uuid);

impl SystemUuid {
    /// From the 16 bytes of DHCP option 97 (after its type byte) or of the SMBIOS table: the first three fields are
    /// little-endian there (DSP0134 7.2.1; seen from EDK2 and iPXE alike).
    pub fn from_smbios_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes_le(bytes))
    }

    /// Whether the value can tell machines apart: vendors ship all-zero, all-one and a few well-known fillers.
    pub fn is_usable(self) -> bool {
        const FILLERS: [u128; 4] = [
            0x03000200_0400_0500_0006_000700080009, // AMI default, seen on many white boxes
            0xfefefefe_fefe_fefe_fefe_fefefefefefe,
            0x12345678_1234_5678_90ab_cddeefaabbcc, // Intel reference BIOS
            0x00020003_0004_0005_0006_000700080009, // the AMI default with its fields swapped
        ];
        !self.0.is_nil() && !self.0.is_max() && !FILLERS.contains(&self.0.as_u128())
    }
}

impl std::fmt::Display for SystemUuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for SystemUuid {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(s).map(Self)
    }
}

/// A manufacturer's serial number: trimmed, 1 to 128 printable characters, and not a vendor's filler text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(String);

impl Serial {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a serial number: {0:?}")]
pub struct BadSerial(pub String);

impl std::str::FromStr for Serial {
    type Err = BadSerial;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // Fillers seen in SMBIOS tables in the field; equal "serials" on different machines must not join them.
        const FILLERS: [&str; 12] = [
            "to be filled by o.e.m.",
            "to be filled by o.e.m",
            "default string",
            "system serial number",
            "not specified",
            "none",
            "n/a",
            "unknown",
            "0",
            "0123456789",
            "123456789",
            "empty",
        ];
        let t = s.trim();
        let bad = || BadSerial(s.chars().take(40).collect());
        if t.is_empty() || t.chars().count() > 128 || t.chars().any(char::is_control) {
            return Err(bad());
        }
        if FILLERS.contains(&t.to_ascii_lowercase().as_str()) || t.chars().all(|c| matches!(c, '0' | '.' | '-' | ' ' | 'x' | 'X')) {
            return Err(bad());
        }
        Ok(Self(t.to_owned()))
    }
}

impl TryFrom<String> for Serial {
    type Error = BadSerial;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Serial> for String {
    fn from(s: Serial) -> Self {
        s.0
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that is also a DNS label (RFC 1123): 1-63 of `a-z 0-9 -`, no hyphen at the ends.
/// Used for machines (their hostname), images, pools and racks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest name to any text: lower-cased, other characters as single hyphens. `None` if nothing is left.
    pub fn nearest(text: &str) -> Option<Self> {
        let mut out = String::new();
        for c in text.chars() {
            if c.is_ascii_alphanumeric() {
                out.push(c.to_ascii_lowercase());
            } else if !out.is_empty() && !out.ends_with('-') {
                out.push('-');
            }
            if out.len() == 63 {
                break;
            }
        }
        out.trim_end_matches('-').parse().ok()
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a name: {0:?}; use 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'")]
pub struct BadName(pub String);

impl std::str::FromStr for Name {
    type Err = BadName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let fits = (1..=63).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.starts_with('-')
            && !s.ends_with('-');
        if fits { Ok(Self(s.to_owned())) } else { Err(BadName(s.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Name> for String {
    fn from(s: Name) -> Self {
        s.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256 digest. Text form is 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a sha256: {0:?}; it is 64 hex digits")]
pub struct BadSha256(pub String);

impl std::str::FromStr for Sha256 {
    type Err = BadSha256;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut out = [0; 32];
        hex::decode_to_slice(s.trim(), &mut out).map_err(|_| BadSha256(s.chars().take(80).collect()))?;
        Ok(Self(out))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_in_every_usual_spelling() {
        let want = Mac([0x52, 0x54, 0, 0x77, 0, 1]);
        for text in ["52:54:00:77:00:01", "52-54-00-77-00-01", "5254.0077.0001", "525400770001", " 52:54:00:77:00:01 "] {
            assert_eq!(text.parse::<Mac>(), Ok(want), "{text}");
        }
        for text in ["", "52:54:00:77:00", "zz:54:00:77:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "52:54:00:77:00:0é"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn option_97_bytes_give_the_uuid_that_dmidecode_prints() {
        let bytes = [0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x47, 0x99, 0, 0x52, 0x54, 0, 0x77, 0, 1];
        assert_eq!(SystemUuid::from_smbios_bytes(bytes).to_string(), "11223344-5566-4788-9900-525400770001");
    }

    #[test]
    fn filler_serials_and_uuids_are_not_identity() {
        for text in ["To Be Filled By O.E.M.", "Default string", "0000000", "", "  ", "None"] {
            assert!(text.parse::<Serial>().is_err(), "{text}");
        }
        assert_eq!(" LAB0001 ".parse::<Serial>().unwrap().as_str(), "LAB0001");
        assert!(!SystemUuid(Uuid::nil()).is_usable());
        assert!(!"03000200-0400-0500-0006-000700080009".parse::<SystemUuid>().unwrap().is_usable());
    }

    #[test]
    fn the_nearest_name_to_hostile_text_is_a_dns_label() {
        assert_eq!(Name::nearest("Rack 12 / U07").unwrap().as_str(), "rack-12-u07");
        assert_eq!(Name::nearest("<script>").unwrap().as_str(), "script");
        assert_eq!(Name::nearest("---"), None);
        assert!("-a".parse::<Name>().is_err() && "A".parse::<Name>().is_err() && "a b".parse::<Name>().is_err());
    }
}
