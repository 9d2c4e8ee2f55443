//! Which BMC is asked in which dialect, how often and by how many at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::bmc::driver::Driver;
use crate::bmc::ipmi::{Console, Ipmi};
use crate::bmc::limit::{LoginGuard, Pace};
use crate::bmc::redfish::{Redfish, Service};
use crate::bmc::{Answer, Bmc, BmcAccess, BmcError, BootSet, Scope, Timing};
use crate::clock;
use crate::domain::bmc::{BmcAddress, BmcIdentity, BmcProtocol};
use crate::domain::bmc_features::{
    Account, BiosAttribute, BmcNetwork, BootOption, BootProgress, FirmwareItem, FirmwareSource, Found, LedState, MediaSlot, Support,
    TaskSeen, TaskState, UpdateBegun,
};
use crate::domain::hardware_log::{LogCursor, LogNews};
use crate::domain::id::{MachineId, Sha256};
use crate::domain::part::Part;
use crate::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState, ResetType};
use crate::domain::secret::Secret;
use crate::domain::sensor::Sensor;
use crate::domain::time::Timestamp;

/// Calls to one BMC at the same time. A call is a sequence of requests, so this is also the cap of requests in flight.
const CALLS_PER_BMC: usize = 2;
/// IPMI over LAN (IPMI v2.0, 13.1.2: the primary RMCP port).
const IPMI_PORT: u16 = 623;

#[derive(Clone, Debug)]
pub struct BmcSettings {
    pub timing: Timing,
    /// Between two writes to one BMC.
    pub write_gap: Duration,
    /// Calls under way in the whole fleet.
    pub calls_at_once: usize,
    /// Rest after two refused logins with the same credentials.
    pub login_pause: Duration,
    /// Where IPMI is spoken by BMCs whose address does not say.
    pub ipmi_port: u16,
    pub scope: Scope,
}

impl Default for BmcSettings {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            write_gap: Duration::from_millis(200),
            calls_at_once: 256,
            login_pause: Duration::from_secs(15 * 60),
            ipmi_port: IPMI_PORT,
            scope: Scope::OneMachine,
        }
    }
}

/// All BMCs. A cheap handle; sessions and counts are shared by its clones.
///
/// Redfish is asked first where the address leaves it open (or what worked last), IPMI only when Redfish is not there,
/// not reachable or silent, and never after a refused login: the account is the same.
#[derive(Clone)]
pub struct Bmcs {
    inner: Arc<Inner>,
}

struct Inner {
    settings: BmcSettings,
    fleet: Semaphore,
    bmcs: Mutex<HashMap<Endpoint, Arc<Entry>>>,
}

/// Machines behind one endpoint share its limits and its session.
#[derive(PartialEq, Eq, Hash)]
struct Endpoint {
    host: String,
    port: Option<u16>,
}

struct Entry {
    calls: Semaphore,
    /// One at a time until the credentials have worked, so that two calls cannot both spend a login.
    unproven: Semaphore,
    pace: Arc<Pace>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    guard: LoginGuard,
    worked: Option<BmcProtocol>,
    redfish: Option<Kept<Service>>,
    ipmi: Option<Kept<Ipmi>>,
}

/// A client and what it was made for.
struct Kept<C> {
    user: String,
    password: Secret<String>,
    tls: bool,
    pin: Option<Sha256>,
    client: Arc<C>,
}

impl<C> Kept<C> {
    fn fits(&self, access: &BmcAccess) -> bool {
        self.user == access.user && self.password == access.password && self.tls == access.address.tls
    }
}

/// Whether the other dialect may do it after a timeout, when the first may or may not have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterTimeout {
    TryOther,
    Stop,
}

impl Bmcs {
    pub fn new(settings: BmcSettings) -> Self {
        let fleet = Semaphore::new(settings.calls_at_once.max(1));
        Self { inner: Arc::new(Inner { settings, fleet, bmcs: Mutex::default() }) }
    }

    /// Who the BMC says it and its machine are.
    pub async fn identity(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<BmcIdentity>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.identity().await }).await
    }

    /// Chassis power as the BMC sees it.
    pub async fn power(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<PowerState>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.power().await }).await
    }

    /// See [`Bmc::set_power`].
    pub async fn set_power(&self, machine: MachineId, access: &BmcAccess, action: PowerAction) -> Result<Answer<()>, BmcError> {
        let after_timeout = match action {
            PowerAction::On | PowerAction::Off | PowerAction::Soft => AfterTimeout::TryOther,
            PowerAction::Cycle | PowerAction::Reset => AfterTimeout::Stop,
        };
        self.call(machine, access, after_timeout, move |d| async move { d.set_power(action).await }).await
    }

    /// See [`Bmc::set_boot_once`].
    pub async fn set_boot_once(
        &self,
        machine: MachineId,
        access: &BmcAccess,
        device: BootDevice,
        firmware: FirmwareKind,
    ) -> Result<Answer<BootSet>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, move |d| async move { d.set_boot_once(device, firmware).await }).await
    }

    /// See [`Bmc::power_reset`].
    pub async fn power_reset(&self, machine: MachineId, access: &BmcAccess, reset: ResetType) -> Result<Answer<()>, BmcError> {
        self.call(machine, access, AfterTimeout::Stop, move |d| async move { d.power_reset(reset).await }).await
    }

    /// See [`Bmc::supports`].
    pub async fn supports(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Vec<Support>>, BmcError> {
        self.call_within(self.inner.settings.timing.walk, machine, access, AfterTimeout::TryOther, |d| async move { d.supports().await })
            .await
    }

    /// See [`Bmc::boot_progress`].
    pub async fn boot_progress(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Option<BootProgress>>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.boot_progress().await }).await
    }

    /// See [`Bmc::boot_order`].
    pub async fn boot_order(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Found<BootOption>>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.boot_order().await }).await
    }

    /// See [`Bmc::set_boot_order`].
    pub async fn set_boot_order(&self, machine: MachineId, access: &BmcAccess, order: &[String]) -> Result<Answer<()>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.set_boot_order(order).await }).await
    }

    /// See [`Bmc::sensors`].
    pub async fn sensors(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Found<Sensor>>, BmcError> {
        self.call_within(self.inner.settings.timing.walk, machine, access, AfterTimeout::TryOther, |d| async move { d.sensors().await })
            .await
    }

    /// See [`Bmc::parts`].
    pub async fn parts(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Found<Part>>, BmcError> {
        self.call_within(self.inner.settings.timing.walk, machine, access, AfterTimeout::TryOther, |d| async move { d.parts().await }).await
    }

    /// See [`Bmc::logs`].
    pub async fn logs(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Vec<String>>, BmcError> {
        self.call_within(self.inner.settings.timing.walk, machine, access, AfterTimeout::TryOther, |d| async move { d.logs().await }).await
    }

    /// See [`Bmc::log_news`].
    pub async fn log_news(
        &self,
        machine: MachineId,
        access: &BmcAccess,
        log: &str,
        cursor: &LogCursor,
    ) -> Result<Answer<LogNews>, BmcError> {
        self.call_within(self.inner.settings.timing.walk, machine, access, AfterTimeout::TryOther, |d| async move {
            d.log_news(log, cursor).await
        })
        .await
    }

    /// See [`Bmc::clear_log`].
    pub async fn clear_log(&self, machine: MachineId, access: &BmcAccess, log: &str, read_to: &LogCursor) -> Result<Answer<()>, BmcError> {
        self.call_within(self.inner.settings.timing.walk, machine, access, AfterTimeout::TryOther, |d| async move {
            d.clear_log(log, read_to).await
        })
        .await
    }

    /// See [`Bmc::firmware`].
    pub async fn firmware(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Found<FirmwareItem>>, BmcError> {
        self.call_within(self.inner.settings.timing.walk, machine, access, AfterTimeout::TryOther, |d| async move { d.firmware().await })
            .await
    }

    /// See [`Bmc::start_firmware_update`].
    pub async fn start_firmware_update(
        &self,
        machine: MachineId,
        access: &BmcAccess,
        source: &FirmwareSource,
        targets: &[String],
    ) -> Result<Answer<UpdateBegun>, BmcError> {
        self.call_within(self.inner.settings.timing.upload, machine, access, AfterTimeout::Stop, |d| async move {
            d.start_firmware_update(source, targets).await
        })
        .await
    }

    /// See [`Bmc::task`].
    pub async fn task(&self, machine: MachineId, access: &BmcAccess, task: &str) -> Result<Answer<TaskState>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.task(task).await }).await
    }

    /// See [`Bmc::bios`].
    pub async fn bios(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Found<BiosAttribute>>, BmcError> {
        self.call_within(self.inner.settings.timing.walk, machine, access, AfterTimeout::TryOther, |d| async move { d.bios().await }).await
    }

    /// See [`Bmc::set_bios`].
    pub async fn set_bios(&self, machine: MachineId, access: &BmcAccess, settings: &[(String, String)]) -> Result<Answer<()>, BmcError> {
        self.call_within(
            self.inner.settings.timing.walk,
            machine,
            access,
            AfterTimeout::TryOther,
            |d| async move { d.set_bios(settings).await },
        )
        .await
    }

    /// See [`Bmc::accounts`].
    pub async fn accounts(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Found<Account>>, BmcError> {
        self.call_within(self.inner.settings.timing.walk, machine, access, AfterTimeout::TryOther, |d| async move { d.accounts().await })
            .await
    }

    /// See [`Bmc::set_account_password`].
    pub async fn set_account_password(
        &self,
        machine: MachineId,
        access: &BmcAccess,
        account: &str,
        password: &Secret<String>,
    ) -> Result<Answer<()>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.set_account_password(account, password).await }).await
    }

    /// See [`Bmc::put_account`].
    pub async fn put_account(
        &self,
        machine: MachineId,
        access: &BmcAccess,
        name: &str,
        password: &Secret<String>,
        enabled: bool,
    ) -> Result<Answer<Account>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.put_account(name, password, enabled).await }).await
    }

    /// See [`Bmc::delete_account`].
    pub async fn delete_account(&self, machine: MachineId, access: &BmcAccess, account: &str) -> Result<Answer<()>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.delete_account(account).await }).await
    }

    /// See [`Bmc::tasks`].
    pub async fn tasks(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Found<TaskSeen>>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.tasks().await }).await
    }

    /// See [`Bmc::media`].
    pub async fn media(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Found<MediaSlot>>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.media().await }).await
    }

    /// See [`Bmc::insert_media`].
    pub async fn insert_media(&self, machine: MachineId, access: &BmcAccess, slot: &str, url: &str) -> Result<Answer<()>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.insert_media(slot, url).await }).await
    }

    /// See [`Bmc::eject_media`].
    pub async fn eject_media(&self, machine: MachineId, access: &BmcAccess, slot: &str) -> Result<Answer<()>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.eject_media(slot).await }).await
    }

    /// See [`Bmc::locator_led`].
    pub async fn locator_led(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<LedState>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.locator_led().await }).await
    }

    /// See [`Bmc::set_locator_led`].
    pub async fn set_locator_led(
        &self,
        machine: MachineId,
        access: &BmcAccess,
        state: LedState,
        off_after: Option<Duration>,
    ) -> Result<Answer<()>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, move |d| async move { d.set_locator_led(state, off_after).await }).await
    }

    /// See [`Bmc::reset_bmc`].
    pub async fn reset_bmc(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<()>, BmcError> {
        self.call(machine, access, AfterTimeout::Stop, |d| async move { d.reset_bmc().await }).await
    }

    /// See [`Bmc::network`].
    pub async fn network(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Found<BmcNetwork>>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.network().await }).await
    }

    /// See [`Bmc::clock_offset`].
    pub async fn clock_offset(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Option<i64>>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.clock_offset().await }).await
    }

    /// See [`Bmc::read_raw`].
    pub async fn read_raw(&self, machine: MachineId, access: &BmcAccess, what: &str) -> Result<Answer<String>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move { d.read_raw(what).await }).await
    }

    /// HTTP requests and IPMI commands sent to the BMC since the last call.
    pub fn take_traffic(&self, address: &BmcAddress) -> (u64, u64) {
        self.entry(address).pace.meter.take()
    }

    /// The machine's serial console, over IPMI: Redfish has none of its own. See [`Console`].
    pub async fn serial_console(&self, machine: MachineId, access: &BmcAccess) -> Result<Answer<Console>, BmcError> {
        self.call(machine, access, AfterTimeout::TryOther, |d| async move {
            match d.as_ref() {
                Driver::Redfish(d) => Err(d.lacks("a serial console")),
                Driver::Ipmi(d) => d.console().await,
            }
        })
        .await
    }

    /// Refused logins in a row at this BMC and until when it is left alone, to be stored with the machine.
    pub fn login_failures(&self, address: &BmcAddress) -> (u32, Option<Timestamp>) {
        self.entry(address).state().guard.count()
    }

    /// Takes up counts stored for these credentials, after a restart of the service; nothing once there are counts here.
    pub fn restore_login_failures(&self, access: &BmcAccess, failures: u32, paused_until: Option<Timestamp>) {
        self.entry(&access.address).state().guard.restore(&access.user, &access.password, failures, paused_until);
    }

    /// Ends every session; each BMC has 3 s for it.
    pub async fn close_all(&self) {
        let entries: Vec<_> = self.inner.bmcs.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let each = entries.into_iter().map(|entry| async move {
            let (redfish, ipmi) = {
                let mut state = entry.state();
                (state.redfish.take(), state.ipmi.take())
            };
            if let Some(kept) = redfish {
                kept.client.close().await;
            }
            if let Some(kept) = ipmi {
                kept.client.close().await;
            }
        });
        let closing = each.map(|close| timeout(Duration::from_secs(3), close));
        let late = join_all(closing).await.into_iter().filter(Result::is_err).count();
        if late > 0 {
            tracing::info!(late, "Some BMCs did not confirm the end of our session; they drop it after their own timeout");
        }
    }

    fn entry(&self, address: &BmcAddress) -> Arc<Entry> {
        let mut bmcs = self.inner.bmcs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Endpoint { host: address.host.to_ascii_lowercase(), port: address.port };
        Arc::clone(bmcs.entry(key).or_insert_with(|| {
            Arc::new(Entry {
                calls: Semaphore::new(CALLS_PER_BMC),
                unproven: Semaphore::new(1),
                pace: Arc::new(Pace::new(self.inner.settings.write_gap)),
                state: Mutex::default(),
            })
        }))
    }

    async fn call<T, F, Fut>(
        &self,
        machine: MachineId,
        access: &BmcAccess,
        after_timeout: AfterTimeout,
        ask: F,
    ) -> Result<Answer<T>, BmcError>
    where
        F: Fn(Arc<Driver>) -> Fut,
        Fut: Future<Output = Result<T, BmcError>>,
    {
        self.call_within(self.inner.settings.timing.call, machine, access, after_timeout, ask).await
    }

    async fn call_within<T, F, Fut>(
        &self,
        within: Duration,
        machine: MachineId,
        access: &BmcAccess,
        after_timeout: AfterTimeout,
        ask: F,
    ) -> Result<Answer<T>, BmcError>
    where
        F: Fn(Arc<Driver>) -> Fut,
        Fut: Future<Output = Result<T, BmcError>>,
    {
        let address = || access.address.to_string();
        let answer = timeout(within, self.call_unbounded(access, after_timeout, ask)).await;
        let answer = answer.unwrap_or_else(|_| Err(BmcError::Timeout { address: address(), after: within }));
        if let Err(error) = &answer {
            tracing::debug!(%machine, bmc = %access.address, code = error.code(), %error, "A BMC call failed");
        }
        answer
    }

    async fn call_unbounded<T, F, Fut>(&self, access: &BmcAccess, after_timeout: AfterTimeout, ask: F) -> Result<Answer<T>, BmcError>
    where
        F: Fn(Arc<Driver>) -> Fut,
        Fut: Future<Output = Result<T, BmcError>>,
    {
        let entry = self.entry(&access.address);
        let closing = |_| BmcError::Busy { address: access.address.to_string(), reason: "the service is stopping".into() };
        // The BMC's turn first: whoever waits for a slow BMC takes no place from the fleet.
        let _call = entry.calls.acquire().await.map_err(closing)?;
        let proven = entry.state().guard.is_proven(&access.user, &access.password);
        let _alone = if proven { None } else { Some(entry.unproven.acquire().await.map_err(closing)?) };
        let _place = self.inner.fleet.acquire().await.map_err(closing)?;
        entry.may_log_in(access)?;

        let mut first_error: Option<BmcError> = None;
        let worked = entry.state().worked;
        for protocol in protocols(access, worked) {
            let answer = match self.ask(&entry, access, protocol, &ask).await {
                // Asked to pin whatever answers now, so a key learned for an earlier call does not count.
                Err(BmcError::CertificateChanged { .. }) if access.tls_pin.is_none() => {
                    entry.state().redfish = None;
                    self.ask(&entry, access, protocol, &ask).await
                }
                other => other,
            };
            match answer {
                Ok(answer) => {
                    entry.state().worked = Some(protocol);
                    return Ok(answer);
                }
                Err(error @ (BmcError::Unsupported { .. } | BmcError::Unreachable { .. })) => first_error = Some(both(first_error, error)),
                Err(error @ BmcError::Timeout { .. }) if after_timeout == AfterTimeout::TryOther => {
                    first_error = Some(both(first_error, error))
                }
                Err(error) => return Err(error),
            }
        }
        Err(first_error
            .unwrap_or_else(|| BmcError::Unsupported { address: access.address.to_string(), what: "a protocol we speak".into() }))
    }

    async fn ask<T, F, Fut>(&self, entry: &Entry, access: &BmcAccess, protocol: BmcProtocol, ask: &F) -> Result<Answer<T>, BmcError>
    where
        F: Fn(Arc<Driver>) -> Fut,
        Fut: Future<Output = Result<T, BmcError>>,
    {
        let settings = &self.inner.settings;
        match protocol {
            BmcProtocol::Redfish => {
                let service = entry.redfish(access, settings.timing)?;
                let path = access.address.system_path.clone();
                let value = ask(Arc::new(Driver::Redfish(Redfish::new(Arc::clone(&service), path, settings.timing, settings.scope)))).await;
                entry.note_login(access, service.is_logged_in(), value.as_ref().err(), settings.login_pause);
                Ok(Answer { value: value?, protocol, tls_pin: service.pin() })
            }
            BmcProtocol::Ipmi => {
                let port = match access.address.protocol {
                    Some(BmcProtocol::Ipmi) => access.address.port.unwrap_or(settings.ipmi_port),
                    Some(BmcProtocol::Redfish) | None => settings.ipmi_port,
                };
                let client = entry.ipmi(access, port, settings.timing);
                let value = ask(Arc::new(Driver::Ipmi(Arc::clone(&client)))).await;
                entry.note_login(access, client.is_logged_in(), value.as_ref().err(), settings.login_pause);
                Ok(Answer { value: value?, protocol, tls_pin: None })
            }
        }
    }
}

impl Entry {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_log_in(&self, access: &BmcAccess) -> Result<(), BmcError> {
        self.state().guard.may_try(&access.user, &access.password, clock::now()).map_err(|paused| BmcError::Paused {
            address: access.address.to_string(),
            failures: paused.failures,
            wait: paused.wait,
        })
    }

    fn note_login(&self, access: &BmcAccess, logged_in: bool, error: Option<&BmcError>, pause: Duration) {
        let mut state = self.state();
        match error {
            Some(BmcError::Unauthorized { .. }) => {
                state.guard.refused(&access.user, &access.password, clock::now(), pause);
                (state.redfish, state.ipmi) = (None, None);
            }
            Some(_) | None if logged_in => state.guard.accepted(&access.user, &access.password),
            Some(_) | None => {}
        }
    }

    /// The kept Redfish service, or a new one when credentials or pin changed. The old session is left to the BMC's
    /// timeout: it belongs to credentials that are no longer ours.
    fn redfish(&self, access: &BmcAccess, timing: Timing) -> Result<Arc<Service>, BmcError> {
        let mut state = self.state();
        if let Some(kept) = &state.redfish {
            let held_to = kept.pin.or_else(|| kept.client.pin());
            if kept.fits(access) && (access.tls_pin.is_none() || access.tls_pin == held_to) {
                return Ok(Arc::clone(&kept.client));
            }
        }
        let client = Arc::new(Service::new(access, timing, Arc::clone(&self.pace))?);
        state.redfish = Some(Kept {
            user: access.user.clone(),
            password: access.password.clone(),
            tls: access.address.tls,
            pin: access.tls_pin,
            client: Arc::clone(&client),
        });
        Ok(client)
    }

    fn ipmi(&self, access: &BmcAccess, port: u16, timing: Timing) -> Arc<Ipmi> {
        let mut state = self.state();
        if let Some(kept) = state.ipmi.as_ref().filter(|kept| kept.fits(access)) {
            return Arc::clone(&kept.client);
        }
        let client = Arc::new(Ipmi::new(access, port, timing, Arc::clone(&self.pace)));
        state.ipmi = Some(Kept {
            user: access.user.clone(),
            password: access.password.clone(),
            tls: access.address.tls,
            pin: None,
            client: Arc::clone(&client),
        });
        client
    }
}

/// The dialects to ask, in order.
fn protocols(access: &BmcAccess, worked: Option<BmcProtocol>) -> Vec<BmcProtocol> {
    match (access.address.protocol, worked.or(access.prefer)) {
        (Some(only), _) => vec![only],
        (None, Some(BmcProtocol::Ipmi)) => vec![BmcProtocol::Ipmi, BmcProtocol::Redfish],
        (None, Some(BmcProtocol::Redfish) | None) => vec![BmcProtocol::Redfish, BmcProtocol::Ipmi],
    }
}

/// One error for two dialects that both failed.
fn both(first: Option<BmcError>, second: BmcError) -> BmcError {
    match (first, second) {
        (None, only) => only,
        (Some(BmcError::Unreachable { address, why: a }), BmcError::Unreachable { why: b, .. }) => {
            BmcError::Unreachable { address, why: if a == b { a } else { format!("{a}; and by the other protocol: {b}") } }
        }
        (Some(BmcError::Unreachable { address, why }), BmcError::Timeout { after, .. }) => {
            BmcError::Unreachable { address, why: format!("{why}; and by the other protocol no answer came within {} s", after.as_secs()) }
        }
        (Some(BmcError::Unsupported { address, what: a }), BmcError::Unsupported { what: b, .. }) => {
            BmcError::Unsupported { address, what: format!("{a}, nor {b}") }
        }
        // What is there but cannot do it says more than what is not there.
        (Some(first @ BmcError::Unsupported { .. }), _) => first,
        (Some(_), second @ BmcError::Unsupported { .. }) => second,
        (Some(first), _) => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(address: &str, prefer: Option<BmcProtocol>) -> BmcAccess {
        BmcAccess { address: address.parse().unwrap(), user: "u".into(), password: Secret::new("p".into()), tls_pin: None, prefer }
    }

    #[test]
    fn an_address_that_names_its_protocol_is_asked_in_no_other() {
        use BmcProtocol::{Ipmi, Redfish};
        assert_eq!(protocols(&access("https://h", Some(Ipmi)), Some(Ipmi)), [Redfish]);
        assert_eq!(protocols(&access("ipmi://h", None), None), [Ipmi]);
        assert_eq!(protocols(&access("h", None), None), [Redfish, Ipmi]);
        assert_eq!(protocols(&access("h", Some(Ipmi)), None), [Ipmi, Redfish]);
        assert_eq!(protocols(&access("h", Some(Ipmi)), Some(Redfish)), [Redfish, Ipmi]);
    }
}
