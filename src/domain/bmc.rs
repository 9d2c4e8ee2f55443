//! What we know of a machine's BMC.

use serde::{Deserialize, Serialize};

use crate::domain::power::{PowerState, text_form};
use crate::domain::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BmcProtocol {
    Redfish,
    Ipmi,
}
text_form!(BmcProtocol { Redfish = "redfish", Ipmi = "ipmi" });

/// Where a BMC is reached. Text forms: `10.0.0.5` (Redfish on 443, IPMI on 623 as fall-back),
/// `https://10.0.0.5:8000/redfish/v1/Systems/ID` (one system behind a shared Redfish endpoint),
/// `http://…` (Redfish without TLS; only where the operator wrote it), `ipmi://10.0.0.5:623` (IPMI only).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BmcAddress {
    pub protocol: Option<BmcProtocol>,
    pub tls: bool,
    pub host: String,
    pub port: Option<u16>,
    /// Path of the ComputerSystem when one endpoint serves several.
    pub system_path: Option<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a BMC address: {0:?}; write 10.0.0.5, https://10.0.0.5:8000/redfish/v1/Systems/ID or ipmi://10.0.0.5:623")]
pub struct BadBmcAddress(pub String);

impl std::str::FromStr for BmcAddress {
    type Err = BadBmcAddress;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || BadBmcAddress(s.chars().take(120).collect());
        let t = s.trim();
        let (protocol, tls, rest) = if let Some(rest) = t.strip_prefix("https://") {
            (Some(BmcProtocol::Redfish), true, rest)
        } else if let Some(rest) = t.strip_prefix("http://") {
            (Some(BmcProtocol::Redfish), false, rest)
        } else if let Some(rest) = t.strip_prefix("ipmi://") {
            (Some(BmcProtocol::Ipmi), false, rest)
        } else {
            (None, true, t)
        };
        let (authority, path) = match rest.find('/') {
            Some(i) => (&rest[..i], Some(&rest[i..])),
            None => (rest, None),
        };
        let (host, port) = if let Some(v6) = authority.strip_prefix('[') {
            let (host, tail) = v6.split_once(']').ok_or_else(bad)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            (host, tail.strip_prefix(':'))
        } else {
            match authority.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, Some(port)),
                Some(_) => {
                    authority.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                    (authority, None)
                }
                None => (authority, None),
            }
        };
        let port = port.map(|p| p.parse::<u16>().map_err(|_| bad())).transpose()?;
        let host_ok =
            !host.is_empty() && host.len() <= 253 && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':'));
        if !host_ok || port == Some(0) {
            return Err(bad());
        }
        let system_path = match path.map(|p| p.trim_end_matches('/')) {
            None | Some("" | "/redfish" | "/redfish/v1") => None,
            Some(p)
                if protocol == Some(BmcProtocol::Redfish)
                    && p.starts_with("/redfish/v1/")
                    && !p.contains("..")
                    && !p.contains(['?', '#', '@', '\\', ' ']) =>
            {
                Some(p.to_owned())
            }
            Some(_) => return Err(bad()),
        };
        Ok(Self { protocol, tls, host: host.to_owned(), port, system_path })
    }
}

impl std::fmt::Display for BmcAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.protocol, self.tls) {
            (None, _) => {}
            (Some(BmcProtocol::Redfish), true) => f.write_str("https://")?,
            (Some(BmcProtocol::Redfish), false) => f.write_str("http://")?,
            (Some(BmcProtocol::Ipmi), _) => f.write_str("ipmi://")?,
        }
        if self.host.contains(':') && (self.protocol.is_some() || self.port.is_some()) {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.system_path.as_deref().unwrap_or(""))
    }
}

impl TryFrom<String> for BmcAddress {
    type Error = BadBmcAddress;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<BmcAddress> for String {
    fn from(a: BmcAddress) -> Self {
        a.to_string()
    }
}

/// Who the BMC says it and its machine are. Untrusted text, length-capped by the driver (256 characters a field).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BmcIdentity {
    pub protocol: Option<BmcProtocol>,
    /// Where it was read: the Redfish URI of the system, or `ipmi:device`.
    #[serde(default)]
    pub source: Option<String>,
    pub manufacturer: Option<String>,
    pub model: Option<String>,
    /// The machine's serial (Redfish `SerialNumber`, IPMI FRU product serial).
    pub serial: Option<String>,
    /// The machine's system UUID as text (Redfish `UUID`, IPMI Get System GUID).
    pub uuid: Option<String>,
    pub asset_tag: Option<String>,
    pub bmc_firmware: Option<String>,
    pub bios_version: Option<String>,
}

/// Last known state of a machine's BMC, as stored and shown. No secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BmcStatus {
    pub address: BmcAddress,
    pub user: String,
    /// The protocol that last worked.
    pub protocol: Option<BmcProtocol>,
    pub identity: BmcIdentity,
    pub power: Option<PowerState>,
    pub power_seen_at: Option<Timestamp>,
    pub last_ok_at: Option<Timestamp>,
    /// The last failure as a sentence, cleared by the next success.
    pub fault: Option<String>,
    /// Failed logins in a row; at 2 we stop asking until `paused_until` (lock-out protection).
    pub auth_failures: u32,
    pub paused_until: Option<Timestamp>,
    /// SHA-256 of the certificate's public key, pinned at first contact.
    pub tls_pin: Option<crate::domain::id::Sha256>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bmc_addresses_are_read_and_written_back() {
        for text in [
            "10.0.0.5",
            "10.0.0.5:8443",
            "https://10.77.0.1:8000/redfish/v1/Systems/22334455-6677",
            "http://127.0.0.1:9000",
            "ipmi://10.77.1.4:623",
            "https://[fd77::1]:443",
            "fd77::1",
            "bmc-r12u17.example",
        ] {
            assert_eq!(text.parse::<BmcAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn hostile_bmc_addresses_are_refused() {
        for text in [
            "",
            "https://",
            "10.0.0.5:0",
            "10.0.0.5:99999",
            "https://u:p@h/",
            "https://h/redfish/v1/../../etc",
            "file:///etc/passwd",
            "h h",
            "ipmi://h/redfish/v1/x",
            "https://h/other",
            "a:b:c",
        ] {
            assert!(text.parse::<BmcAddress>().is_err(), "{text}");
        }
    }
}
