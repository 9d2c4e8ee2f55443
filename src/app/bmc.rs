//! BMCs as people handle them: address and login, power by hand.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::machines::allowed;
use crate::app::view::BmcView;
use crate::app::{App, AppError, Result, need};
use crate::bmc::{Answer, BmcAccess, BmcError};
use crate::clock;
use crate::decide::bmc_identity;
use crate::domain::access::{Actor, Role};
use crate::domain::bmc::{BmcAddress, BmcIdentity, BmcStatus};
use crate::domain::id::MachineId;
use crate::domain::machine::{Machine, Verb};
use crate::domain::power::{PowerAction, PowerState};
use crate::domain::secret::Secret;
use crate::domain::time::spoken;
use crate::engine::steps::{BMC_OF_ANOTHER, BMC_OF_ANOTHER_REMEDY, StepError};
use crate::secret::Place;
use crate::store::StoreError;

/// How long a power command by hand is watched for its effect. A soft power-off takes the system longer; then the answer
/// says that it was accepted and not yet seen.
const WATCH: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// BMC user names are at most 16 bytes in IPMI (v2.0, 22.27) and 32 to 64 in Redfish services.
const MAX_USER: usize = 64;
/// IPMI 2.0 takes 20 bytes; Redfish services more.
const MAX_PASSWORD: usize = 256;

/// What to change of a machine's BMC record. What is absent stays.
#[derive(Clone, Debug, Default)]
pub struct BmcChange {
    pub address: Option<BmcAddress>,
    pub user: Option<String>,
    pub password: Option<Secret<String>>,
    /// Forget the pinned certificate: the next contact pins what it sees.
    pub repin: bool,
}

/// What came of a power command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PowerResult {
    pub action: PowerAction,
    pub before: PowerState,
    /// Read back; accepted is not happened.
    pub after: PowerState,
    /// The BMC showed the effect within the time we watched.
    pub seen: bool,
    /// In a sentence.
    pub evidence: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PowerReading {
    pub power: PowerState,
}

impl From<BmcError> for AppError {
    fn from(e: BmcError) -> Self {
        Self::Bmc { code: e.code(), what: e.to_string(), hint: e.remedy().to_owned() }
    }
}

impl From<StepError> for AppError {
    fn from(e: StepError) -> Self {
        match e {
            StepError::Store(e) => e.into(),
            StepError::Fault { what, remedy, .. } => Self::Bmc { code: "bmc_password_sealed", what, hint: remedy },
        }
    }
}

impl App {
    /// Sets or changes address, user and password of a machine's BMC.
    ///
    /// A changed address needs the password again: a stored password never goes to an address that someone just typed.
    ///
    /// # Errors
    /// `Forbidden` below administrator, `Invalid`, `Refused` when another machine has this BMC.
    pub async fn set_bmc(&self, actor: &Actor, id: MachineId, change: BmcChange) -> Result<BmcView> {
        need(actor, Role::Admin)?;
        let machine = self.existing(id).await?;
        let old = machine.bmc.as_ref();
        let missing = |what: &str| {
            AppError::invalid(
                format!("no BMC is known for {} yet, so its {what} must be given", machine.name),
                "give address, user and password together",
            )
        };
        let address = change.address.clone().or_else(|| old.map(|b| b.address.clone())).ok_or_else(|| missing("address"))?;
        let user = change.user.clone().or_else(|| old.map(|b| b.user.clone())).ok_or_else(|| missing("user"))?;
        check_login(&user, change.password.as_ref())?;
        check_address(&address)?;
        let moved = old.is_some_and(|b| b.address != address);
        if moved && change.password.is_none() {
            return Err(AppError::invalid(
                format!("the BMC address of {} changes, so its password must be given again", machine.name),
                "give the password too: a stored one is not sent to a new address",
            ));
        }
        self.address_is_free(id, &address).await?;
        let sealed = match &change.password {
            Some(password) => self.seal_bmc_password(id, password)?,
            None => self.store().bmc_sealed_password(id).await?.ok_or_else(|| missing("password"))?,
        };
        let now = clock::now();
        let mut tx = self.store().begin().await?;
        tx.put_bmc(id, &address, &user, &sealed).await?;
        if change.repin {
            tx.forget_bmc_pin(id).await?;
        }
        let mut detail = bmc_detail(old, &address, &user, change.password.is_some());
        detail["repin"] = change.repin.into();
        let text = format!("{} set the BMC of {} to {address} as {user}.", actor.name, machine.name);
        self.machine_deed(actor, now, "machine.bmc_set", &machine, detail, text).record(&mut tx).await?;
        tx.make_due(id, now).await?;
        tx.reset_polls(id, now).await?;
        tx.commit().await?;
        Ok(self.existing(id).await?.bmc.ok_or(AppError::Contended)?.into())
    }

    /// Refuses an address that another machine's BMC has.
    async fn address_is_free(&self, id: MachineId, address: &BmcAddress) -> Result<()> {
        let holders = self.store().machines_by_evidence(None, None, &[], Some(address)).await?;
        match holders.iter().find(|m| m.id != id) {
            None => Ok(()),
            Some(other) => Err(AppError::Refused {
                code: "bmc_taken",
                what: format!("the BMC at {address} belongs to {}", other.name),
                hint: format!("correct the address, or change that of {} first", other.name),
            }),
        }
    }

    pub(crate) fn seal_bmc_password(&self, id: MachineId, password: &Secret<String>) -> Result<String> {
        let row = id.to_string();
        self.sealer().seal(password, bmc_place(&row)).map_err(|e| AppError::Internal(e.to_string()))
    }

    /// Asks the BMC for the power state now.
    ///
    /// # Errors
    /// `Refused` without a BMC, `Bmc` when it does not answer well.
    pub async fn read_power(&self, actor: &Actor, id: MachineId) -> Result<PowerReading> {
        need(actor, Role::Tech)?;
        let machine = self.existing(id).await?;
        let access = self.bmc_access(&machine).await?;
        let power = self.look(id, &access).await?;
        Ok(PowerReading { power })
    }

    /// Changes power through the BMC and watches a few seconds for the effect.
    ///
    /// # Errors
    /// `Refused` without a BMC or while a run works on the machine, `Bmc` when the BMC fails.
    pub async fn power(&self, actor: &Actor, id: MachineId, action: PowerAction) -> Result<PowerResult> {
        need(actor, Role::Tech)?;
        let machine = self.existing(id).await?;
        let run = match machine.current_run {
            Some(run) => self.store().run(run).await?,
            None => None,
        };
        allowed(&machine, run.as_ref(), Verb::Power)?;
        let access = self.bmc_access(&machine).await?;
        if machine.bmc.as_ref().is_some_and(|b| b.identity == BmcIdentity::default()) {
            self.identify(&machine, &access).await?;
        }
        let before = self.look(id, &access).await?;
        // Written before the command goes out: whoever reads the log later knows who pressed the button.
        let now = clock::now();
        let mut tx = self.store().begin().await?;
        let text = format!("{} asked the BMC of {} for power {action}; it was {before}.", actor.name, machine.name);
        self.machine_deed(actor, now, "machine.power_asked", &machine, serde_json::json!({ "action": action, "before": before }), text)
            .record(&mut tx)
            .await?;
        tx.commit().await?;
        let began = tokio::time::Instant::now();
        let answer = self.inner.engine.bmcs.set_power(id, &access, action).await;
        self.noted(id, &access, answer).await?;
        let (mut after, mut seen) = (before, false);
        while !seen && began.elapsed() < WATCH {
            after = self.look(id, &access).await?;
            seen = match action {
                PowerAction::On => after == PowerState::On,
                PowerAction::Off | PowerAction::Soft => after == PowerState::Off,
                // Off and on again within a look: that it is on is all the BMC can show.
                PowerAction::Cycle | PowerAction::Reset => after == PowerState::On,
            };
            if !seen {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        let took = spoken(began.elapsed());
        let evidence = if seen {
            format!("the BMC accepted power {action} and shows power {after} after {took}")
        } else {
            format!("the BMC accepted power {action}, but shows power {after} still after {took}; a system that shuts down takes longer")
        };
        Ok(PowerResult { action, before, after, seen, evidence })
    }

    /// Asks the BMC who it is before the first command goes to its address; refuses one that belongs to another machine.
    async fn identify(&self, machine: &Machine, access: &BmcAccess) -> Result<()> {
        let answer = self.inner.engine.bmcs.identity(machine.id, access).await;
        let identity = self.noted(machine.id, access, answer).await?;
        bmc_identity::fits(&identity, machine).map_err(|why| AppError::Bmc {
            code: BMC_OF_ANOTHER,
            what: format!("the BMC at {} {why}", access.address),
            hint: BMC_OF_ANOTHER_REMEDY.to_owned(),
        })?;
        self.inner.engine.note_bmc(machine.id, &access.address, |status, _| status.identity = identity).await?;
        Ok(())
    }

    async fn look(&self, id: MachineId, access: &BmcAccess) -> Result<PowerState> {
        let answer = self.inner.engine.bmcs.power(id, access).await;
        let power = self.noted(id, access, answer).await?;
        self.inner
            .engine
            .note_bmc(id, &access.address, |status, now| {
                status.power = Some(power);
                status.power_seen_at = Some(now);
            })
            .await?;
        Ok(power)
    }

    /// Records how an exchange went before its answer is used.
    pub(crate) async fn noted<T>(&self, id: MachineId, access: &BmcAccess, answer: std::result::Result<Answer<T>, BmcError>) -> Result<T> {
        match answer {
            Ok(Answer { value, protocol, tls_pin }) => {
                self.inner
                    .engine
                    .note_bmc(id, &access.address, |status, now| {
                        status.protocol = Some(protocol);
                        status.tls_pin = status.tls_pin.or(tls_pin);
                        status.last_ok_at = Some(now);
                        status.fault = None;
                        status.auth_failures = 0;
                        status.paused_until = None;
                    })
                    .await?;
                Ok(value)
            }
            Err(e) => {
                self.inner.engine.note_bmc_failure(id, &access.address, &e).await?;
                Err(e.into())
            }
        }
    }

    pub(crate) async fn bmc_access(&self, machine: &Machine) -> Result<BmcAccess> {
        let none = || AppError::Refused {
            code: "no_bmc",
            what: format!("no BMC is known for {}", machine.name),
            hint: format!("hostler machine bmc {} --address A --user U --password-file F", machine.name),
        };
        let status: &BmcStatus = machine.bmc.as_ref().ok_or_else(none)?;
        self.inner.engine.bmc_access(machine.id, status).await?.ok_or_else(none)
    }

    pub(crate) async fn existing(&self, id: MachineId) -> Result<Machine> {
        match self.store().machine(id).await {
            Ok(Some(machine)) => Ok(machine),
            Ok(None) => Err(AppError::NotFound { what: "machine", text: id.to_string() }),
            Err(StoreError::Conflict) => Err(AppError::Contended),
            Err(e) => Err(e.into()),
        }
    }
}

/// What a change of a BMC record was, for the audit log. Never the password.
pub(crate) fn bmc_detail(old: Option<&BmcStatus>, address: &BmcAddress, user: &str, password_changed: bool) -> serde_json::Value {
    serde_json::json!({
        "address": address,
        "address_before": old.map(|b| &b.address),
        "user": user,
        "user_before": old.map(|b| &b.user),
        "password_changed": password_changed,
    })
}

/// Where a BMC password lies; part of what is authenticated.
pub(crate) fn bmc_place(row: &str) -> Place<'_> {
    Place { table: "bmcs", row, column: "password" }
}

/// Bounds of a BMC login.
///
/// # Errors
/// `Invalid`.
pub(crate) fn check_login(user: &str, password: Option<&Secret<String>>) -> Result<()> {
    if user.is_empty() || user.len() > MAX_USER || user.chars().any(char::is_control) {
        return Err(AppError::invalid(format!("a BMC user has 1 to {MAX_USER} printable characters"), "correct the user"));
    }
    if password.is_some_and(|p| p.expose().is_empty() || p.expose().len() > MAX_PASSWORD || p.expose().chars().any(char::is_control)) {
        return Err(AppError::invalid(format!("a BMC password has 1 to {MAX_PASSWORD} printable characters"), "correct the password"));
    }
    Ok(())
}

/// Refuses addresses behind which no BMC can be, but something that must not be asked: the metadata service of clouds,
/// multicast, "any".
///
/// # Errors
/// `Invalid`.
pub(crate) fn check_address(address: &BmcAddress) -> Result<()> {
    let Ok(ip) = address.host.parse::<std::net::IpAddr>() else { return Ok(()) };
    let ip = ip.to_canonical();
    let bad = ip.is_unspecified()
        || ip.is_multicast()
        || matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast() || v4.octets() == [169, 254, 169, 254]);
    if bad { Err(AppError::invalid(format!("{address} cannot be the address of a BMC"), "correct the address")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bmc_is_looked_for_where_none_can_be() {
        for bad in ["169.254.169.254", "0.0.0.0", "255.255.255.255", "224.0.0.1", "http://[::ffff:169.254.169.254]", "::"] {
            assert!(check_address(&bad.parse().unwrap()).is_err(), "{bad}");
        }
        for good in ["10.0.0.5", "https://127.0.0.1:8000", "bmc-1.example", "fd00::5"] {
            assert!(check_address(&good.parse().unwrap()).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_login_has_bounds() {
        assert!(check_login("admin", Some(&Secret::new("x y".to_owned()))).is_ok());
        assert!(check_login("", None).is_err());
        assert!(check_login("a\nb", None).is_err());
        assert!(check_login("admin", Some(&Secret::new(String::new()))).is_err());
    }
}
