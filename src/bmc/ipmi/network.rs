//! The BMC itself: its LAN settings (IPMI v2.0, 23.2), its clock, its restart, and commands typed by experts.

use std::net::Ipv4Addr;

use crate::bmc::BmcError;
use crate::bmc::ipmi::Ipmi;
use crate::bmc::ipmi::session::{Repeat, SessionError};
use crate::clock;
use crate::domain::bmc_features::{BmcNetwork, Found};
use crate::domain::id::Mac;
use crate::wire::ipmi::{self, Command, completion};

/// Channels that may be LANs (6.3: 1 to 11 are for vendors to assign).
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=11;
/// Channel medium types (table 6-3): 802.3 LAN, other LAN.
const LAN_MEDIA: [u8; 2] = [4, 5];
/// LAN parameters (table 23-4).
const ADDRESS: u8 = 3;
const SOURCE: u8 = 4;
const MAC: u8 = 5;
const NETMASK: u8 = 6;
const GATEWAY: u8 = 12;
const VLAN: u8 = 20;
/// Bytes of a raw request's data: what fits an IPMI message over LAN.
const RAW_CAP: usize = 255;

impl Ipmi {
    /// One row for each LAN channel (22.24).
    pub(super) async fn lan_settings(&self) -> Result<Found<BmcNetwork>, BmcError> {
        let mut found = Found::default();
        for channel in CHANNELS {
            let (code, info) = self.raw(ipmi::GET_CHANNEL_INFO, &[channel], Repeat::Yes).await?;
            let medium = info.get(1).map(|m| m & 0x7f);
            if code == completion::OK && medium.is_some_and(|m| LAN_MEDIA.contains(&m)) {
                found.items.push(self.lan(channel).await?);
            } else if code == completion::INVALID_COMMAND {
                // Without channel information channel 1 is the LAN of nearly every board.
                found.items.push(self.lan(1).await?);
                break;
            }
        }
        Ok(found)
    }

    async fn lan(&self, channel: u8) -> Result<BmcNetwork, BmcError> {
        let address = |bytes: Option<Vec<u8>>| {
            let four = bytes?.first_chunk::<4>().copied()?;
            Some(Ipv4Addr::from(four)).filter(|a| !a.is_unspecified()).map(|a| a.to_string())
        };
        let mac = self.lan_parameter(channel, MAC).await?.and_then(|b| b.first_chunk::<6>().copied()).map(Mac);
        let origin = self.lan_parameter(channel, SOURCE).await?.and_then(|b| b.first().map(|s| s & 0x0f)).map(|source| match source {
            0 => "unspecified".to_owned(),
            1 => "static".to_owned(),
            2 => "dhcp".to_owned(),
            3 => "BIOS".to_owned(),
            other => format!("source {other}"),
        });
        let vlan = self.lan_parameter(channel, VLAN).await?.and_then(|b| b.first_chunk::<2>().map(|v| u16::from_le_bytes(*v)));
        Ok(BmcNetwork {
            source: format!("channel:{channel}"),
            name: format!("LAN channel {channel}"),
            mac,
            address: address(self.lan_parameter(channel, ADDRESS).await?),
            netmask: address(self.lan_parameter(channel, NETMASK).await?),
            gateway: address(self.lan_parameter(channel, GATEWAY).await?),
            origin,
            // Bit 15 switches it on.
            vlan: vlan.filter(|v| v & 0x8000 != 0).map(|v| v & 0x0fff),
        })
    }

    /// A parameter's bytes after its revision; `None` where the BMC does not have it.
    async fn lan_parameter(&self, channel: u8, parameter: u8) -> Result<Option<Vec<u8>>, BmcError> {
        let (code, data) = self.raw(ipmi::GET_LAN, &[channel, parameter, 0, 0], Repeat::Yes).await?;
        Ok(if code == completion::OK { data.get(1..).map(<[u8]>::to_vec) } else { None })
    }

    /// Get SEL Time (31.10) against our clock. A clock that was never set counts from the BMC's start and shows as far behind.
    pub(super) async fn clock_ahead(&self) -> Result<Option<i64>, BmcError> {
        let data = self.read(ipmi::GET_SEL_TIME, &[]).await?;
        let Some(secs) = data.first_chunk::<4>().map(|t| u32::from_le_bytes(*t)) else {
            return Err(self.nonsense("a clock reading that ends early"));
        };
        // 37.1: unspecified.
        Ok((secs != u32::MAX).then(|| i64::from(secs) - clock::now().unix_secs()))
    }

    /// Cold reset (20.2), warm where there is none (20.3). The session ends with it.
    pub(super) async fn restart(&self) -> Result<(), BmcError> {
        let done = match self.write(ipmi::COLD_RESET, &[], Repeat::No).await {
            Err(BmcError::Unsupported { .. }) => self.write(ipmi::WARM_RESET, &[], Repeat::No).await,
            // Some are gone before they answer (20.2 lets them).
            Err(BmcError::Timeout { .. }) => Ok(()),
            other => other,
        };
        if done.is_ok() {
            self.drop_session();
        }
        done
    }

    /// `netfn cmd data…` in hex; the answer's data in hex, without the completion code. One that is not OK is an error.
    pub(super) async fn run_raw(&self, what: &str) -> Result<String, BmcError> {
        let refused =
            |why: &str| self.error(SessionError::Refused(format!("{why}; write NETFN COMMAND DATA... in hex, for example \"06 01\"")));
        let bytes: Vec<u8> = what
            .split_whitespace()
            .map(|word| u8::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16))
            .collect::<Result<_, _>>()
            .map_err(|_| refused("this is not a list of bytes"))?;
        let [netfn, number, data @ ..] = bytes.as_slice() else {
            return Err(refused("a raw request needs a network function and a command"));
        };
        if netfn % 2 != 0 || *netfn > 0x3e || data.len() > RAW_CAP {
            return Err(refused("network functions of requests are even and at most 3e, and data has at most 255 bytes"));
        }
        // The session's own commands would pull the rug from under us.
        let command = Command::find(*netfn, *number).unwrap_or(Command { netfn: *netfn, number: *number, name: "as typed" });
        if [ipmi::CLOSE_SESSION, ipmi::SET_PRIVILEGE].contains(&command) {
            return Err(refused("the session's own commands are not for typing"));
        }
        let (code, answer) = self.raw(command, data, Repeat::No).await?;
        self.judge(command, code)?;
        Ok(answer.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "))
    }
}
