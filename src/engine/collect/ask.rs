//! One poll: the exchange with the BMC and what its answer means, beside what was known before.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bmc::{Answer, BmcAccess, BmcError, tallied};
use crate::clock;
use crate::decide::parts::{Compared, KnownPart, Walk, compare};
use crate::decide::polling::{IPMI_COMMANDS_PER_REQUEST, PollEnd, intervals, is_stale, next_due, note};
use crate::decide::quality::{Taken, take};
use crate::domain::bmc_features::{BiosAttribute, FirmwareItem, Found, Oddity, Support};
use crate::domain::event::Severity;
use crate::domain::hardware_log::{LogCursor, LogNews};
use crate::domain::id::MachineId;
use crate::domain::machine::Machine;
use crate::domain::poll::{PollKind, PollState};
use crate::domain::power::PowerState;
use crate::domain::reading::{KnownSensor, Latest};
use crate::domain::time::{Timestamp, spoken};
use crate::engine::collect::count::Outcome;
use crate::engine::collect::record::{Finding, Polled, Said};
use crate::engine::collect::{Collector, POLL_LIMIT, jitter};
use crate::engine::steps::StepError;
use crate::store::StoreError;
use crate::store::events::EventFilter;
use crate::store::hardware_log::LogMark;
use crate::store::polls::{Contact, PollClaim};
use crate::store::sheets::{Sheet, Traffic};

/// After a login was refused, or a certificate changed, nothing is asked for this long: a person must act, and another try may
/// lock the account.
const BARRED_FOR: Duration = Duration::from_secs(15 * 60);
/// A power command by hand explains a change of power for this long (a system may take its time to shut down).
const EXPLAINED_FOR: Duration = Duration::from_secs(10 * 60);

/// What was known before the BMC is asked, as far as the answer is compared with it.
struct Before {
    machine: Machine,
    states: BTreeMap<PollKind, PollState>,
}

/// An answer of a BMC as it came.
enum Heard {
    Power(PowerState),
    Sensors(Found<crate::domain::sensor::Sensor>),
    Logs(Vec<(LogMark, LogNews)>),
    Parts(Found<crate::domain::part::Part>),
    Firmware(Found<FirmwareItem>),
    Bios(Found<BiosAttribute>),
    Capabilities(Vec<Support>),
}

impl Heard {
    fn power(&self) -> Option<PowerState> {
        match self {
            Self::Power(power) => Some(*power),
            Self::Sensors(_) | Self::Logs(_) | Self::Parts(_) | Self::Firmware(_) | Self::Bios(_) | Self::Capabilities(_) => None,
        }
    }
}

impl Collector {
    /// Serves one claim. `None` when there is nothing to ask: the machine or its BMC is gone.
    pub(super) async fn ask(&self, claim: PollClaim) -> Result<Option<Polled>, StoreError> {
        let store = &self.engine.store;
        let Some(machine) = store.machine(claim.machine).await? else { return self.end_polling(claim.machine).await };
        let Some(status) = machine.bmc.clone() else { return self.end_polling(claim.machine).await };
        let before = Before { states: store.polls(claim.machine).await?, machine };
        let now = clock::now();
        let kind = due_kind(&claim, &before.states);
        let access = match self.engine.bmc_access(claim.machine, &status).await {
            Ok(Some(access)) => access,
            Ok(None) => return self.end_polling(claim.machine).await,
            Err(StepError::Store(e)) => return Err(e),
            Err(StepError::Fault { what, .. }) => {
                let failed = Failed { fault: what, end: PollEnd::Barred { until: now.plus(BARRED_FOR) } };
                return Ok(Some(self.polled(claim, kind, &before, Err(failed), Sent::default()).await?));
            }
        };
        // A pause that was stored, also by another replica.
        if let Some(until) = status.paused_until.filter(|until| *until > now) {
            let fault = format!(
                "the BMC at {} refused our login {} times; it is not asked before the pause is over",
                status.address, status.auth_failures
            );
            return Ok(Some(
                self.polled(claim, kind, &before, Err(Failed { fault, end: PollEnd::Barred { until } }), Sent::default()).await?,
            ));
        }
        let began = tokio::time::Instant::now();
        let exchange = tokio::time::timeout(POLL_LIMIT, self.exchange(kind, claim.machine, &access));
        let (outcome, requests, commands) = tallied(exchange).await;
        let (all_requests, all_commands) = self.engine.bmcs.take_traffic(&access.address);
        let sent = Sent { requests, commands, all_requests, all_commands, took: began.elapsed() };
        let cut_off = |_| Err(BmcError::Timeout { address: access.address.to_string(), after: POLL_LIMIT }.into());
        let heard = match outcome.unwrap_or_else(cut_off) {
            Ok(answer) => Ok(answer),
            Err(ExchangeError::Store(e)) => return Err(e),
            Err(ExchangeError::Bmc(e)) => Err(failed(&e, clock::now())),
        };
        Ok(Some(self.polled(claim, kind, &before, heard, sent).await?))
    }

    async fn end_polling(&self, machine: MachineId) -> Result<Option<Polled>, StoreError> {
        let mut tx = self.engine.store.begin().await?;
        tx.delete_polls(machine).await?;
        tx.commit().await?;
        Ok(None)
    }

    async fn exchange(&self, kind: PollKind, id: MachineId, access: &BmcAccess) -> Result<Answer<Heard>, ExchangeError> {
        let bmcs = &self.engine.bmcs;
        Ok(match kind {
            PollKind::Power => map(bmcs.power(id, access).await?, Heard::Power),
            PollKind::Sensors => map(bmcs.sensors(id, access).await?, Heard::Sensors),
            PollKind::Parts => map(bmcs.parts(id, access).await?, Heard::Parts),
            PollKind::Firmware => map(bmcs.firmware(id, access).await?, Heard::Firmware),
            PollKind::Bios => map(bmcs.bios(id, access).await?, Heard::Bios),
            PollKind::Capabilities => map(bmcs.supports(id, access).await?, Heard::Capabilities),
            PollKind::Logs => {
                let logs = bmcs.logs(id, access).await?;
                let marks = self.engine.store.log_marks(id).await?;
                let mut news = Vec::new();
                for log in &logs.value {
                    let mark = marks.iter().find(|m| m.log == *log).cloned().unwrap_or_else(|| LogMark {
                        log: log.clone(),
                        epoch: 0,
                        cursor: LogCursor::default(),
                        read_at: Timestamp::default(),
                        fill: None,
                    });
                    let read = bmcs.log_news(id, access, log, &mark.cursor).await?;
                    news.push((mark, read.value));
                }
                map(logs, |_| Heard::Logs(news))
            }
        })
    }

    /// Makes of an outcome what is to be written.
    async fn polled(
        &self,
        claim: PollClaim,
        kind: PollKind,
        before: &Before,
        heard: Result<Answer<Heard>, Failed>,
        sent: Sent,
    ) -> Result<Polled, StoreError> {
        let (now, m) = (clock::now(), &before.machine);
        let settings = &self.settings.polls;
        let (end, fault) = match &heard {
            Ok(_) => (PollEnd::Ok, None),
            Err(f) => (f.end, Some(f.fault.clone())),
        };
        let mut states = before.states.clone();
        let mut said = Vec::new();
        let was_silent = states.get(&kind).is_some_and(|s| s.silence_said);
        {
            let state = states.entry(kind).or_default();
            let requests = sent.requests as f64 + sent.commands as f64 / IPMI_COMMANDS_PER_REQUEST;
            note(state, end, fault.clone(), requests, sent.took, now);
        }
        let every = intervals(settings, &states);
        for (kind, interval) in &every {
            if let Some(state) = states.get_mut(kind) {
                state.interval_secs = interval.as_secs().max(1);
            }
        }
        let interval = every.get(&kind).copied().unwrap_or(settings.wanted(kind));
        let others_hear = states.get(&PollKind::Power).is_none_or(|p| p.failures == 0);
        let mut due = now;
        if let Some(state) = states.get_mut(&kind) {
            due = next_due(kind, end, interval, state.failures, jitter(), now);
            state.due_at = due;
            if was_silent && end == PollEnd::Ok {
                said.push(Said::new("bmc.heard", Severity::Info, format!("The BMC of {} answers again about {}.", m.name, kind.noun())));
            }
            let silent = state.last_ok_at.is_some() && state.failures > 0 && is_stale(state, interval, now);
            // One dead BMC is one line, not seven.
            if silent && !state.silence_said && (kind == PollKind::Power || others_hear) {
                state.silence_said = true;
                let since = state.last_ok_at.map_or_else(String::new, |at| spoken(now.since(at)));
                let why = state.fault.clone().unwrap_or_default();
                said.push(Said::new(
                    "bmc.silent",
                    Severity::Warning,
                    format!(
                        "The BMC of {} has said nothing about {} for {since}; what is shown of that is old. {why}",
                        m.name,
                        kind.noun()
                    ),
                ));
            }
        }
        if matches!(end, PollEnd::Barred { .. }) || heard.as_ref().is_err_and(|f| f.end == PollEnd::Failed) && kind == PollKind::Power {
            // Whoever does not answer about power answers nothing else: the rest of the lane waits too.
            for other in PollKind::ALL.into_iter().filter(|k| k.lane() == claim.lane && *k != kind) {
                let state = states.entry(other).or_default();
                state.due_at = state.due_at.max(due);
            }
        }
        let contact = match (&heard, &m.bmc) {
            (Ok(answer), Some(status)) => Some(Contact {
                address: status.address.clone(),
                at: now,
                protocol: answer.protocol,
                tls_pin: answer.tls_pin,
                power: answer.value.power(),
            }),
            (Ok(_), None) | (Err(_), _) => None,
        };
        let finding = match heard {
            Ok(answer) => self.finding(answer.value, before, &mut said, now).await?,
            Err(_) => Finding::Nothing,
        };
        states.retain(|kind, _| kind.lane() == claim.lane);
        let next = PollKind::ALL
            .into_iter()
            .filter(|k| k.lane() == claim.lane)
            .map(|k| states.get(&k).map_or(now, |s| s.due_at))
            .min()
            .unwrap_or(due);
        let outcome = match end {
            PollEnd::Ok => Outcome::Ok,
            PollEnd::Unsupported => Outcome::Unsupported,
            PollEnd::Failed => Outcome::Failed,
            PollEnd::Barred { .. } => Outcome::Barred,
        };
        let took = Some(sent.took).filter(|t| !t.is_zero());
        self.engine.counters.add(kind, outcome, took, sent.all_requests, sent.all_commands);
        let failures = u64::from(matches!(end, PollEnd::Failed | PollEnd::Barred { .. }));
        let traffic = Traffic { requests: sent.all_requests, commands: sent.all_commands, polls: 1, failures };
        let address = m.bmc.as_ref().map(|b| b.address.clone());
        // What is not offered is no trouble with the BMC.
        let fault = fault.filter(|_| end != PollEnd::Unsupported).zip(address);
        let logins = fault.as_ref().map(|(_, address)| self.engine.bmcs.login_failures(address));
        Ok(Polled { claim, states, due: next, now, contact, fault, logins, traffic, finding, said })
    }

    async fn finding(&self, heard: Heard, before: &Before, said: &mut Vec<Said>, now: Timestamp) -> Result<Finding, StoreError> {
        let (store, m) = (&self.engine.store, &before.machine);
        Ok(match heard {
            Heard::Power(power) => {
                let old = m.bmc.as_ref().and_then(|b| b.power);
                let changed = old.filter(|old| *old != power && power != PowerState::Changing && *old != PowerState::Changing);
                if let Some(old) = changed
                    && !self.is_explained(m, now).await?
                {
                    let severity = if power == PowerState::Off { Severity::Warning } else { Severity::Info };
                    // C9: a person at the machine may have done it. It is told, never undone.
                    said.push(Said::new(
                        "power.changed",
                        severity,
                        format!(
                            "The power of {} went from {old} to {power}, and nobody asked Hostler for it. It is left as it is.",
                            m.name
                        ),
                    ));
                }
                Finding::Power { changed: changed.is_some() }
            }
            Heard::Sensors(found) => {
                let known: Vec<KnownSensor> = store.sheet(m.id, Sheet::Sensors).await?.map(|(k, _)| k).unwrap_or_default();
                let latest: Vec<Latest> = store.sheet(m.id, Sheet::Readings).await?.map(|(l, _)| l).unwrap_or_default();
                let taken: Taken = take(&known, &latest, found.items, now);
                Finding::Sensors(Box::new(taken))
            }
            Heard::Logs(news) => Finding::Logs { news, first_contact: m.accepted_at.unwrap_or(m.created_at), name: m.name.to_string() },
            Heard::Parts(found) => {
                let known: Vec<KnownPart> = store.parts(m.id).await?;
                let walk = if found.unread.is_empty() { Walk::Whole } else { Walk::Partial };
                let compared: Compared = compare(&known, found.items, walk, now);
                let oddities: Vec<Oddity> = found.not_understood.into_iter().chain(found.unread).take(200).collect();
                Finding::Parts { before: known, compared, oddities }
            }
            Heard::Firmware(found) => {
                let old: Vec<FirmwareItem> = store.sheet(m.id, Sheet::Firmware).await?.map(|(f, _)| f).unwrap_or_default();
                for item in &found.items {
                    let was = old.iter().find(|o| o.source == item.source).and_then(|o| o.version.as_ref());
                    if let (Some(was), Some(is)) = (was, &item.version)
                        && was != is
                    {
                        let text = format!("The firmware {} of {} went from {was} to {is}.", item.name, m.name);
                        said.push(Said::new("firmware.changed", Severity::Info, text));
                    }
                }
                // An answer without a single item says nothing of the ones we know.
                if found.items.is_empty() && !old.is_empty() { Finding::Nothing } else { Finding::Firmware(found.items) }
            }
            Heard::Bios(found) => Finding::Bios(found.items),
            Heard::Capabilities(sheet) => Finding::Capabilities(sheet),
        })
    }

    /// Whether Hostler itself, or someone through it, may have changed the power just now.
    async fn is_explained(&self, m: &Machine, now: Timestamp) -> Result<bool, StoreError> {
        if m.current_run.is_some() {
            return Ok(true);
        }
        let events = self.engine.store.events(EventFilter { machine: Some(m.id), ..EventFilter::default() }, 50).await?;
        Ok(events.iter().any(|e| (e.kind == "machine.power_asked" || e.kind.starts_with("run.")) && now.since(e.at) < EXPLAINED_FOR))
    }
}

/// What an exchange sent: for this poll, and by anyone to this BMC since the last poll.
#[derive(Default)]
struct Sent {
    requests: u64,
    commands: u64,
    all_requests: u64,
    all_commands: u64,
    took: Duration,
}

struct Failed {
    fault: String,
    end: PollEnd,
}

enum ExchangeError {
    Bmc(BmcError),
    Store(StoreError),
}

impl From<BmcError> for ExchangeError {
    fn from(e: BmcError) -> Self {
        Self::Bmc(e)
    }
}

impl From<StoreError> for ExchangeError {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

fn map<A, B>(answer: Answer<A>, into: impl FnOnce(A) -> B) -> Answer<B> {
    Answer { value: into(answer.value), protocol: answer.protocol, tls_pin: answer.tls_pin }
}

fn failed(e: &BmcError, now: Timestamp) -> Failed {
    let end = match e {
        BmcError::Unsupported { .. } => PollEnd::Unsupported,
        BmcError::Paused { wait, .. } => PollEnd::Barred { until: now.plus(*wait) },
        BmcError::Unauthorized { .. } | BmcError::CertificateChanged { .. } => PollEnd::Barred { until: now.plus(BARRED_FOR) },
        BmcError::Unreachable { .. }
        | BmcError::Timeout { .. }
        | BmcError::Nonsense { .. }
        | BmcError::Refused { .. }
        | BmcError::Busy { .. }
        | BmcError::NotEffective { .. } => PollEnd::Failed,
    };
    Failed { fault: e.to_string(), end }
}

/// The kind of this lane that is due longest; what was never asked is due first of all, power before the rest.
fn due_kind(claim: &PollClaim, states: &BTreeMap<PollKind, PollState>) -> PollKind {
    let lane = PollKind::ALL.into_iter().filter(|k| k.lane() == claim.lane);
    lane.min_by_key(|k| states.get(k).map_or(Timestamp::default(), |s| s.due_at)).unwrap_or(PollKind::Power)
}
