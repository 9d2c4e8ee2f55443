//! The BMC itself and small things of the board: network, clock, restart, locator LED.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bmc::BmcError;
use crate::bmc::redfish::Redfish;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::view::{action_info_allowed, allowable};
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::clock;
use crate::domain::bmc_features::{BmcNetwork, Found, LedState};

impl Redfish {
    /// The manager of this machine.
    async fn manager(&self, walk: &mut Walk<'_>) -> Result<Resource, BmcError> {
        let layout = self.layout(walk).await?;
        let (_, system) = self.system().await?;
        let linked = crate::bmc::redfish::view::link_of_first(&system.body, &["Links", "ManagedBy"]).map(str::to_owned);
        for path in linked.iter().chain(&layout.managers) {
            if let Some(manager) = walk.get(path).await? {
                return Ok(manager);
            }
        }
        Err(self.http().unsupported("a description of itself (no Manager)"))
    }

    pub(super) async fn read_network(&self) -> Result<Found<BmcNetwork>, BmcError> {
        let mut walk = Walk::new(self.http());
        let layout = self.layout(&mut walk).await?;
        let mut items = Vec::new();
        for manager in &layout.managers {
            let Some(manager) = walk.get(manager).await? else { continue };
            for interface in walk.follow_members(&manager.body, "EthernetInterfaces").await? {
                items.push(interface_of(&mut walk.reader(&interface)));
            }
        }
        Ok(walk.found(items))
    }

    pub(super) async fn read_clock(&self) -> Result<Option<i64>, BmcError> {
        let mut walk = Walk::new(self.http());
        let manager = self.manager(&mut walk).await?;
        // Asked again for its own sake: the walk may have read it some requests ago.
        let now = self.http().get(&manager.path).await?;
        let time = Reader::new(&now.body, &manager.path, &mut walk.odd).time("DateTime");
        Ok(time.map(|t| t.unix_secs() - clock::now().unix_secs()))
    }

    pub(super) async fn restart_bmc(&self) -> Result<(), BmcError> {
        let manager = self.manager(&mut Walk::new(self.http())).await?;
        let action = manager.body.pointer("/Actions/#Manager.Reset");
        let target = action.and_then(|a| a.get("target")).and_then(Value::as_str);
        let (Some(action), Some(target)) = (action, target) else {
            return Err(self.http().unsupported("resetting itself (no Manager.Reset)"));
        };
        let allowed = match (allowable(action, "ResetType@Redfish.AllowableValues"), action.get("@Redfish.ActionInfo")) {
            (None, Some(Value::String(info))) => action_info_allowed(&self.http().get(info).await?.body),
            (allowed, _) => allowed,
        };
        let bodies: Vec<Value> = match &allowed {
            Some(allowed) => {
                let pick = ["GracefulRestart", "ForceRestart"].into_iter().find(|w| allowed.iter().any(|a| a == w));
                let kind = pick.ok_or_else(|| self.http().unsupported(format!("restarting itself (it allows {})", allowed.join(", "))))?;
                vec![json!({"ResetType": kind})]
            }
            // Nothing listed: the parameter is optional (DSP2046), and an X10 knows none.
            None => vec![json!({"ResetType": "GracefulRestart"}), json!({})],
        };
        let mut refusal = None;
        for body in bodies {
            let reply = self.http().send(Method::POST, target, &body, None).await?;
            if reply.status.is_success() {
                return Ok(());
            }
            let next = reply.status == StatusCode::BAD_REQUEST;
            refusal = Some(self.http().failed(target, &reply));
            if !next {
                break;
            }
        }
        Err(refusal.unwrap_or_else(|| self.http().unsupported("resetting itself")))
    }

    /// Who shows and takes the locator LED: the system or one of its chassis.
    async fn led_holder(&self) -> Result<(Resource, LedState), BmcError> {
        let mut walk = Walk::new(self.http());
        let layout = self.layout(&mut walk).await?;
        for path in std::iter::once(&layout.system).chain(&layout.chassis) {
            let Some(holder) = walk.get(path).await? else { continue };
            if let Some(state) = led(&holder.body) {
                return Ok((holder, state));
            }
        }
        Err(self.http().unsupported("a locator LED (no LocationIndicatorActive or IndicatorLED)"))
    }

    pub(super) async fn read_led(&self) -> Result<LedState, BmcError> {
        Ok(self.led_holder().await?.1)
    }

    pub(super) async fn write_led(&self, state: LedState) -> Result<(), BmcError> {
        let (holder, _) = self.led_holder().await?;
        let mut refusal = None;
        for body in led_bodies(&holder.body, state) {
            let etag = self.http().get(&holder.path).await?.etag();
            let reply = self.patch(&holder.path, &body, etag).await?;
            if !reply.status.is_success() {
                refusal = Some(self.http().failed(&holder.path, &reply));
                continue;
            }
            let shown = led(&self.http().get(&holder.path).await?.body);
            // A BMC that has one word for lit and blinking shows either.
            let done = shown == Some(state) || (state != LedState::Off && shown.is_some_and(|s| s != LedState::Off));
            return if done {
                Ok(())
            } else {
                Err(BmcError::NotEffective {
                    address: self.http().address().to_owned(),
                    what: format!("locator LED {state}"),
                    evidence: format!("it shows {}", shown.map_or_else(|| "nothing".to_owned(), |s| s.to_string())),
                })
            };
        }
        Err(refusal.unwrap_or_else(|| self.http().unsupported("setting its locator LED")))
    }
}

/// `LocationIndicatorActive` (1.13 and later), else `IndicatorLED`.
pub fn led(body: &Value) -> Option<LedState> {
    let active = body.get("LocationIndicatorActive").and_then(Value::as_bool);
    let word = body.get("IndicatorLED").and_then(Value::as_str);
    match (active, word) {
        (_, Some("Blinking")) => Some(LedState::Blinking),
        (Some(true), _) => Some(LedState::On),
        (Some(false), _) => Some(LedState::Off),
        (None, Some("Lit")) => Some(LedState::On),
        (None, Some("Off")) => Some(LedState::Off),
        (None, Some(_) | None) => None,
    }
}

/// What to write, best first.
fn led_bodies(body: &Value, state: LedState) -> Vec<Value> {
    let mut out = Vec::new();
    let has = |name: &str| body.get(name).is_some_and(|v| !v.is_null());
    if has("IndicatorLED") && (state == LedState::Blinking || !has("LocationIndicatorActive")) {
        let words: &[&str] = match state {
            // iDRAC 9 knows `Blinking` and `Off` of a locator; `Lit` is its usual light.
            LedState::On => &["Lit", "Blinking"],
            LedState::Blinking => &["Blinking", "Lit"],
            LedState::Off => &["Off", "Lit"],
        };
        let count = if state == LedState::Off { 1 } else { 2 };
        out.extend(words.iter().take(count).map(|w| json!({"IndicatorLED": w})));
    }
    if has("LocationIndicatorActive") {
        out.push(json!({"LocationIndicatorActive": state != LedState::Off}));
    }
    out
}

fn interface_of(r: &mut Reader) -> BmcNetwork {
    let mut network = BmcNetwork {
        source: r.source.to_owned(),
        name: r.first_text(&["Id", "Name"]).unwrap_or_default(),
        mac: r.mac("MACAddress").or_else(|| r.mac("PermanentMACAddress")),
        ..BmcNetwork::default()
    };
    for (field, mask) in [("IPv4Addresses", "SubnetMask"), ("IPv6Addresses", "PrefixLength")] {
        let addresses = r.list(field);
        for address in addresses {
            let mut a = Reader::new(address, r.source, r.odd);
            let Some(text) = a.text("Address").filter(|t| t != "0.0.0.0" && t != "::" && !t.starts_with("fe80")) else { continue };
            network.address = Some(text);
            network.netmask = a.text(mask);
            network.gateway = a.text("Gateway").filter(|g| g != "0.0.0.0");
            network.origin = a.text("AddressOrigin").map(|o| o.to_ascii_lowercase());
            break;
        }
        if network.address.is_some() {
            break;
        }
    }
    if network.gateway.is_none() {
        network.gateway = r.text("IPv6DefaultGateway").filter(|_| network.address.as_deref().is_some_and(|a| a.contains(':')));
    }
    if let Some(mut vlan) = r.inside("VLAN") {
        let enabled = vlan.flag("VLANEnable") == Some(true);
        network.vlan = vlan.count("VLANId").filter(|_| enabled).and_then(|v| u16::try_from(v).ok());
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_led_is_read_and_written_in_both_words() {
        assert_eq!(led(&json!({"LocationIndicatorActive": false, "IndicatorLED": "Off"})), Some(LedState::Off));
        assert_eq!(led(&json!({"IndicatorLED": "Blinking"})), Some(LedState::Blinking));
        assert_eq!(led(&json!({"IndicatorLED": null})), None);
        let both = json!({"LocationIndicatorActive": false, "IndicatorLED": "Off"});
        assert_eq!(led_bodies(&both, LedState::On), [json!({"LocationIndicatorActive": true})]);
        assert_eq!(led_bodies(&json!({"IndicatorLED": "Off"}), LedState::Off), [json!({"IndicatorLED": "Off"})]);
    }

    #[test]
    fn an_interface_shows_its_first_real_address() {
        let body = json!({"Id": "1", "MACAddress": "AC:1F:6B:18:A2:41", "VLAN": {"VLANEnable": false, "VLANId": 0},
            "IPv4Addresses": [{"Address": "0.0.0.0"}, {"Address": "192.168.254.120", "SubnetMask": "255.255.255.0", "AddressOrigin": "Static", "Gateway": "192.168.254.100"}]});
        let network = interface_of(&mut Reader::new(&body, "/e", &mut Vec::new()));
        assert_eq!((network.address.as_deref(), network.origin.as_deref(), network.vlan), (Some("192.168.254.120"), Some("static"), None));
    }
}
