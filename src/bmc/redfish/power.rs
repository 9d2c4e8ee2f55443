//! Chassis power: what the BMC says of it, and how it is changed so that the change is seen.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use crate::bmc::BmcError;
use crate::bmc::redfish::Redfish;
use crate::bmc::redfish::http::Reply;
use crate::bmc::redfish::view::{self, ResetPlan};
use crate::domain::power::{PowerAction, PowerState, ResetType};

impl Redfish {
    pub(super) async fn read_power(&self) -> Result<PowerState, BmcError> {
        let (_, system) = self.system().await?;
        view::power_state(&system.body).map_err(|what| self.http().nonsense(what))
    }

    /// Reads the power state until `enough` says so or `within` is over; the last state otherwise.
    async fn wait_power(&self, within: Duration, enough: impl Fn(PowerState) -> bool) -> Result<(PowerState, bool), BmcError> {
        let end = Instant::now() + within;
        loop {
            let state = self.read_power().await?;
            if enough(state) {
                return Ok((state, true));
            }
            if Instant::now() >= end {
                return Ok((state, false));
            }
            tokio::time::sleep(self.timing.poll).await;
        }
    }

    /// Sends one `ResetType` and, for on and off, sees it happen.
    async fn reset(&self, target: &str, reset_type: &str, wanted: Option<PowerState>) -> Result<(), BmcError> {
        let reply = self.http().send(Method::POST, target, &json!({"ResetType": reset_type}), None).await?;
        let accepted = reply.status.is_success();
        if !accepted {
            // Some BMCs answer 400 or 409 to "on" when on, or while they are at it: what counts is the machine.
            let already = matches!(reply.status, StatusCode::BAD_REQUEST | StatusCode::CONFLICT)
                && match wanted {
                    Some(wanted) => self.read_power().await? == wanted,
                    None => false,
                };
            return if already { Ok(()) } else { Err(self.http().failed(target, &reply)) };
        }
        let Some(wanted) = wanted else { return Ok(()) };
        let (state, reached) = self.wait_power(self.timing.settle, |s| s == wanted || s == PowerState::Changing).await?;
        if reached {
            return Ok(());
        }
        Err(BmcError::NotEffective {
            address: self.http().address().to_owned(),
            what: format!("ResetType {reset_type}"),
            evidence: format!("{} s later the power is still {state}", self.timing.settle.as_secs()),
        })
    }

    /// Where the system is reset, and with what; `None` where the BMC lists nothing.
    async fn reset_action(&self, system: &Reply) -> Result<(String, Option<Vec<String>>), BmcError> {
        let reset = view::reset_action(&system.body).ok_or_else(|| self.http().unsupported("power control (no ComputerSystem.Reset)"))?;
        let allowed = match (reset.allowed, reset.action_info) {
            (None, Some(info)) => view::action_info_allowed(&self.http().get(&info).await?.body),
            (allowed, _) => allowed,
        };
        Ok((reset.target, allowed))
    }

    pub(super) async fn change_power(&self, action: PowerAction) -> Result<(), BmcError> {
        let (_, system) = self.system().await?;
        let mut state = view::power_state(&system.body).map_err(|what| self.http().nonsense(what))?;
        if state == PowerState::Changing {
            let (settled, reached) = self.wait_power(self.timing.settle, |s| s != PowerState::Changing).await?;
            if !reached {
                return Err(self.http().busy("its power state is changing for longer than expected"));
            }
            state = settled;
        }
        let action = match (action, state) {
            (PowerAction::On, PowerState::On) | (PowerAction::Off | PowerAction::Soft, PowerState::Off) => return Ok(()),
            // A cycle of a machine that is off ends with it on.
            (PowerAction::Cycle, PowerState::Off) => PowerAction::On,
            (PowerAction::Reset, PowerState::Off) => {
                return Err(self.http().refused("the machine is off and cannot be reset; power it on instead"));
            }
            (other, _) => other,
        };
        let (target, allowed) = self.reset_action(&system).await?;
        let plan = view::plan(action, allowed.as_deref()).ok_or_else(|| {
            self.http().unsupported(format!("a way to do power {action} (it allows {})", allowed.unwrap_or_default().join(", ")))
        })?;
        match (plan, action) {
            (ResetPlan::One(kind), PowerAction::On) => self.reset(&target, kind, Some(PowerState::On)).await,
            (ResetPlan::One(kind), PowerAction::Off) => self.reset(&target, kind, Some(PowerState::Off)).await,
            // These end in the state they began in, or in the system's own time: the machine's signs of life are the evidence.
            (ResetPlan::One(kind), PowerAction::Soft | PowerAction::Cycle | PowerAction::Reset) => self.reset(&target, kind, None).await,
            (ResetPlan::OffThenOn(off, on), _) => {
                self.reset(&target, off, Some(PowerState::Off)).await?;
                let (state, is_off) = self.wait_power(self.timing.settle, |s| s == PowerState::Off).await?;
                if !is_off {
                    return Err(BmcError::NotEffective {
                        address: self.http().address().to_owned(),
                        what: format!("ResetType {off}"),
                        evidence: format!("{} s later the power is still {state}", self.timing.settle.as_secs()),
                    });
                }
                self.reset(&target, on, Some(PowerState::On)).await
            }
        }
    }

    /// One reset type as asked.
    pub(super) async fn reset_by_type(&self, reset: ResetType) -> Result<(), BmcError> {
        let (_, system) = self.system().await?;
        let (target, allowed) = self.reset_action(&system).await?;
        let word = reset.to_string();
        if let Some(allowed) = allowed.filter(|a| !a.contains(&word)) {
            return Err(self.http().unsupported(format!("the reset type {word} (it allows {})", allowed.join(", "))));
        }
        let wanted = match reset {
            ResetType::On | ResetType::ForceOn | ResetType::Resume => Some(PowerState::On),
            ResetType::ForceOff => Some(PowerState::Off),
            // These end in the state they began in, or in the system's own time.
            ResetType::GracefulShutdown
            | ResetType::GracefulRestart
            | ResetType::ForceRestart
            | ResetType::Nmi
            | ResetType::PushPowerButton
            | ResetType::PowerCycle
            | ResetType::FullPowerCycle
            | ResetType::Suspend
            | ResetType::Pause => None,
        };
        self.reset(&target, &word, wanted).await
    }
}
