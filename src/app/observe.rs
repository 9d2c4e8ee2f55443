//! What BMCs said, as people and programs read it: every value with its quality, its age and where it came from.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::{App, AppError, Result, need};
use crate::clock;
use crate::decide::parts::KnownPart;
use crate::decide::polling::{PollSettings, is_stale};
pub use crate::decide::quality::Level;
use crate::decide::quality::{aged, level};
use crate::domain::access::{Actor, Role};
use crate::domain::bmc_features::{BiosAttribute, Capability, FirmwareItem, Oddity, Support};
use crate::domain::hardware_log::LogSeverity;
use crate::domain::id::{MachineId, Serial, Sha256};
use crate::domain::part::{PartFacts, PartKind, PartState};
use crate::domain::poll::{PollKind, PollState};
use crate::domain::reading::{KnownSensor, Latest, Point, Quality, Sample};
use crate::domain::sensor::{Health, SensorKind, Thresholds, Unit};
use crate::domain::time::Timestamp;
use crate::store::hardware_log::LogFilter;
use crate::store::sheets::{Sheet, Traffic, hour_of};

/// Samples at full resolution in one answer span at most this.
const MAX_RAW: Duration = Duration::from_secs(8 * 86_400);
const MAX_ROLLED: Duration = Duration::from_secs(100 * 86_400);
const SAMPLES_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// A sensor's history beside its value: this long.
pub const SPARK_SPAN: Duration = Duration::from_secs(2 * 3600);
const PART_EVENTS: u32 = 50;

/// How asking for one kind of thing goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PollView {
    pub kind: PollKind,
    /// The last good answer; absent when there was none yet.
    pub last_ok_at: Option<Timestamp>,
    /// Seconds between two polls: longer than configured where the BMC is slow or its answers are costly.
    pub interval_secs: u64,
    /// No good answer for three intervals: what is shown is old.
    pub stale: bool,
    /// The BMC does not offer this.
    pub unsupported: bool,
    /// Failed polls in a row, and why the last one failed.
    pub failures: u32,
    pub fault: Option<String>,
    pub next_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SensorView {
    /// Names the sensor within its machine, for its samples.
    pub number: u32,
    /// The BMC's: a URI or an SDR.
    pub id: String,
    pub name: String,
    pub kind: SensorKind,
    pub unit: Unit,
    pub context: Option<String>,
    /// The last good value; look at `quality` before believing that it is so now.
    pub value: Option<f64>,
    /// Asserted states of a discrete sensor.
    pub words: Vec<String>,
    pub quality: Quality,
    /// When the value was read.
    pub at: Option<Timestamp>,
    /// When the BMC last named the sensor.
    pub named_at: Option<Timestamp>,
    /// Where the value stands among its limits; absent when there are none, or nothing is known now.
    pub level: Option<Level>,
    /// The BMC's own judgement.
    pub health: Option<Health>,
    #[schema(value_type = Object)]
    pub thresholds: Thresholds,
    /// Why the quality is not good.
    pub why: Option<String>,
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SensorsView {
    pub poll: PollView,
    pub items: Vec<SensorView>,
}

/// One sample, or the rollup of five minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleView {
    pub at: Timestamp,
    /// The value, or the mean of the five minutes; absent when the BMC gave none.
    pub value: Option<f64>,
    /// A value that was not believed is not good.
    pub quality: Quality,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// Good values in the five minutes.
    pub count: Option<u32>,
}

/// How fine samples are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// As polled; kept 7 days unless configured otherwise.
    #[default]
    Raw,
    /// Minimum, mean, maximum of five minutes; kept 90 days.
    FiveMinutes,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PartView {
    pub kind: PartKind,
    pub name: String,
    /// Slot or bay as a technician reads it.
    pub place: Option<String>,
    pub manufacturer: Option<String>,
    pub model: Option<String>,
    pub part_number: Option<String>,
    pub serial: Option<Serial>,
    pub firmware: Option<String>,
    /// `present`, `absent`, or the BMC's word.
    pub state: String,
    pub health: Option<Health>,
    /// What only some kinds have.
    #[schema(value_type = Object)]
    pub facts: PartFacts,
    /// Since when this very part is in this place.
    pub since: Timestamp,
    /// Since when the place is empty, or the BMC lists it no more.
    pub gone_at: Option<Timestamp>,
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PartEventView {
    pub at: Timestamp,
    pub kind: String,
    pub text: String,
    pub serial: Option<Serial>,
    pub source: String,
    /// What was read: `/api/v1/evidence/{hash}`.
    pub evidence: Sha256,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PartsView {
    pub poll: PollView,
    pub items: Vec<PartView>,
    /// Newest first.
    pub history: Vec<PartEventView>,
    /// What the BMC shows and Hostler could not read.
    #[schema(value_type = Vec<Object>)]
    pub not_understood: Vec<Oddity>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HardwareLogView {
    pub id: uuid::Uuid,
    pub log: String,
    /// Which life of the log, from clear to clear.
    pub epoch: u64,
    /// The BMC's id of the entry.
    pub entry: String,
    /// By the BMC's clock.
    pub at: Option<Timestamp>,
    pub received_at: Timestamp,
    pub severity: LogSeverity,
    pub message: String,
    pub message_id: Option<String>,
    pub origin: Option<String>,
    /// From before our first contact: says nothing about now.
    pub historical: bool,
    /// The entry as it was read: `/api/v1/evidence/{hash}`.
    pub evidence: Sha256,
}

/// How far one log was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogMarkView {
    pub log: String,
    pub epoch: u64,
    pub read_at: Timestamp,
    /// Used and total entries, where the BMC says.
    pub used: Option<u32>,
    pub total: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogsView {
    pub poll: PollView,
    pub logs: Vec<LogMarkView>,
    /// Newest first.
    pub items: Vec<HardwareLogView>,
    /// Send as `before` for older ones; absent when there are none.
    pub next: Option<uuid::Uuid>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FirmwareView {
    pub poll: PollView,
    #[schema(value_type = Vec<Object>)]
    pub items: Vec<FirmwareItem>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BiosView {
    pub poll: PollView,
    #[schema(value_type = Vec<Object>)]
    pub items: Vec<BiosAttribute>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SupportView {
    pub capability: Capability,
    pub offered: bool,
    /// The resource or command that shows it, in a sentence.
    pub evidence: String,
}

/// What one hour of asking a BMC came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficView {
    /// The hour's beginning.
    pub at: Timestamp,
    /// HTTP requests.
    pub requests: u64,
    /// IPMI commands.
    pub commands: u64,
    pub polls: u64,
    pub failures: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CapabilitiesView {
    pub poll: PollView,
    pub items: Vec<SupportView>,
    /// How each kind of poll goes.
    pub polls: Vec<PollView>,
    /// How much the BMC was asked in the last 24 hours, oldest first.
    pub traffic: Vec<TrafficView>,
}

/// A locator LED that is lit through Hostler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LedView {
    pub lit_at: Timestamp,
    /// When it goes out by itself.
    pub off_at: Timestamp,
    pub actor: String,
}

/// Everything the machine's page shows of its BMC.
#[derive(Clone, Debug)]
pub struct Observed {
    pub sensors: SensorsView,
    /// By sensor number: samples of the last [`SPARK_SPAN`].
    pub sparks: BTreeMap<u32, Vec<Sample>>,
    pub parts: PartsView,
    pub logs: LogsView,
    pub firmware: FirmwareView,
    pub bios: BiosView,
    pub capabilities: CapabilitiesView,
    pub led: Option<LedView>,
}

fn poll_view(settings: &PollSettings, states: &BTreeMap<PollKind, PollState>, kind: PollKind, now: Timestamp) -> PollView {
    let wanted = settings.wanted(kind);
    let unasked = PollState::default();
    let state = states.get(&kind).unwrap_or(&unasked);
    PollView {
        kind,
        last_ok_at: state.last_ok_at,
        interval_secs: state.interval_secs.max(wanted.as_secs()),
        // What was never asked for is not stale; it is not there yet.
        stale: state.last_try_at.is_some() && !state.unsupported && is_stale(state, wanted, now),
        unsupported: state.unsupported,
        failures: state.failures,
        fault: state.fault.clone(),
        next_at: Some(state.due_at).filter(|at| *at > now),
    }
}

fn sensor_view(known: &KnownSensor, latest: Option<&Latest>, interval: Duration, now: Timestamp) -> SensorView {
    let s = &known.sensor;
    let quality = latest.map_or(Quality::Unavailable, |l| aged(l, interval, now));
    let value = latest.and_then(|l| l.value);
    SensorView {
        number: known.number,
        id: s.id.clone(),
        name: s.name.clone(),
        kind: s.kind,
        unit: s.unit,
        context: s.context.clone(),
        value,
        words: latest.map(|l| l.words.clone()).unwrap_or_default(),
        quality,
        at: latest.and_then(|l| l.at),
        named_at: latest.map(|l| l.named_at),
        level: value.filter(|_| quality == Quality::Good).and_then(|v| level(&s.thresholds, v)),
        health: latest.and_then(|l| l.health).filter(|_| quality == Quality::Good),
        thresholds: s.thresholds,
        why: match quality {
            Quality::Stale => Some("the BMC has not named it for three intervals".to_owned()),
            Quality::Good | Quality::Unavailable | Quality::Implausible | Quality::Historical => latest.and_then(|l| l.why.clone()),
        },
        source: s.source.clone(),
    }
}

fn part_view(known: KnownPart) -> PartView {
    let p = known.part;
    PartView {
        kind: p.kind,
        name: p.name,
        place: p.place,
        manufacturer: p.manufacturer,
        model: p.model,
        part_number: p.part_number,
        serial: p.serial,
        firmware: p.firmware,
        state: match p.state {
            PartState::Present => "present".to_owned(),
            PartState::Absent => "absent".to_owned(),
            PartState::Idle(word) | PartState::Unavailable(word) => word,
            PartState::NotSaid => "not said".to_owned(),
        },
        health: p.health,
        facts: p.facts,
        since: known.since,
        gone_at: known.gone_at,
        source: p.source,
    }
}

fn traffic_view(hour: i64, t: Traffic) -> TrafficView {
    TrafficView { at: Timestamp(hour * 3_600_000_000), requests: t.requests, commands: t.commands, polls: t.polls, failures: t.failures }
}

impl App {
    fn poll_settings(&self) -> &PollSettings {
        &self.settings().polls
    }

    async fn poll_of(&self, id: MachineId, kind: PollKind) -> Result<PollView> {
        let states = self.store().polls(id).await?;
        Ok(poll_view(self.poll_settings(), &states, kind, clock::now()))
    }

    /// Sensors with their latest readings, those that are stale or unavailable included.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn sensors(&self, actor: &Actor, id: MachineId) -> Result<SensorsView> {
        need(actor, Role::Viewer)?;
        let now = clock::now();
        let poll = self.poll_of(id, PollKind::Sensors).await?;
        let known: Vec<KnownSensor> = self.store().sheet(id, Sheet::Sensors).await?.map(|(k, _)| k).unwrap_or_default();
        let latest: Vec<Latest> = self.store().sheet(id, Sheet::Readings).await?.map(|(l, _)| l).unwrap_or_default();
        let latest: BTreeMap<u32, Latest> = latest.into_iter().map(|l| (l.number, l)).collect();
        let interval = Duration::from_secs(poll.interval_secs);
        let mut items: Vec<SensorView> = known.iter().map(|k| sensor_view(k, latest.get(&k.number), interval, now)).collect();
        items.sort_by(|a, b| (a.kind, &a.name, a.number).cmp(&(b.kind, &b.name, b.number)));
        Ok(SensorsView { poll, items })
    }

    /// Samples of one sensor, oldest first; the last day when no time is named.
    ///
    /// # Errors
    /// `Forbidden`, `Invalid` for a span that is too long or backwards.
    pub async fn samples(
        &self,
        actor: &Actor,
        id: MachineId,
        sensor: u32,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        resolution: Resolution,
    ) -> Result<Vec<SampleView>> {
        need(actor, Role::Viewer)?;
        let to = to.unwrap_or_else(clock::now);
        let from = from.unwrap_or_else(|| to.minus(SAMPLES_DEFAULT));
        let longest = match resolution {
            Resolution::Raw => MAX_RAW,
            Resolution::FiveMinutes => MAX_ROLLED,
        };
        if from > to || to.since(from) > longest {
            return Err(AppError::invalid(
                format!("samples are read for at most {} days at once, from earlier to later", longest.as_secs() / 86_400),
                "ask for a shorter time, or for resolution=five_minutes",
            ));
        }
        match resolution {
            Resolution::Raw => {
                let mut all = self.store().samples(id, from, to).await?;
                let samples = all.remove(&sensor).unwrap_or_default();
                Ok(samples
                    .into_iter()
                    .map(|s| {
                        let (value, quality) = match s.point {
                            Point::Absent => (None, Quality::Unavailable),
                            Point::Good(v) => (Some(v), Quality::Good),
                            Point::Implausible(v) => (Some(v), Quality::Implausible),
                        };
                        SampleView { at: s.at, value, quality, min: None, max: None, count: None }
                    })
                    .collect())
            }
            Resolution::FiveMinutes => Ok(self
                .store()
                .rollups(id, sensor, from, to)
                .await?
                .into_iter()
                .map(|(at, r)| SampleView {
                    at,
                    value: Some(r.mean),
                    quality: Quality::Good,
                    min: Some(r.min),
                    max: Some(r.max),
                    count: Some(r.count),
                })
                .collect()),
        }
    }

    /// Parts with serials and places, and what happened to them.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn parts(&self, actor: &Actor, id: MachineId) -> Result<PartsView> {
        need(actor, Role::Viewer)?;
        let history = self.store().part_history(id, PART_EVENTS).await?;
        let mut items: Vec<PartView> = self.store().parts(id).await?.into_iter().map(part_view).collect();
        items.sort_by(|a, b| (a.kind, &a.place, &a.name).cmp(&(b.kind, &b.place, &b.name)));
        Ok(PartsView {
            poll: self.poll_of(id, PollKind::Parts).await?,
            items,
            history: history
                .into_iter()
                .map(|e| PartEventView { at: e.at, kind: e.kind, text: e.line, serial: e.serial, source: e.source, evidence: e.evidence })
                .collect(),
            not_understood: self.store().sheet(id, Sheet::Oddities).await?.map(|(o, _)| o).unwrap_or_default(),
        })
    }

    /// Entries of the BMC's logs, newest first.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn hardware_logs(
        &self,
        actor: &Actor,
        id: MachineId,
        at_least: Option<LogSeverity>,
        text: Option<String>,
        before: Option<uuid::Uuid>,
        limit: u32,
    ) -> Result<LogsView> {
        need(actor, Role::Viewer)?;
        let text = text.map(|t| t.trim().chars().take(200).collect::<String>()).filter(|t| !t.is_empty());
        let filter = LogFilter { at_least, text, log: None, before };
        let entries = self.store().hardware_log(id, &filter, limit).await?;
        let next = if entries.len() == limit as usize { entries.last().map(|k| k.id) } else { None };
        let marks = self.store().log_marks(id).await?;
        Ok(LogsView {
            poll: self.poll_of(id, PollKind::Logs).await?,
            logs: marks
                .into_iter()
                .map(|m| LogMarkView {
                    log: m.log,
                    epoch: m.epoch,
                    read_at: m.read_at,
                    used: m.fill.map(|f| f.0),
                    total: m.fill.map(|f| f.1),
                })
                .collect(),
            items: entries
                .into_iter()
                .map(|k| HardwareLogView {
                    id: k.id,
                    log: k.entry.log,
                    epoch: k.epoch,
                    entry: k.entry.id,
                    at: k.entry.at,
                    received_at: k.received_at,
                    severity: k.entry.severity,
                    message: k.entry.message,
                    message_id: k.entry.message_id,
                    origin: k.entry.origin,
                    historical: k.historical,
                    evidence: k.evidence,
                })
                .collect(),
            next,
        })
    }

    /// Firmware by component.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn firmware(&self, actor: &Actor, id: MachineId) -> Result<FirmwareView> {
        need(actor, Role::Viewer)?;
        let items = self.store().sheet(id, Sheet::Firmware).await?.map(|(f, _)| f).unwrap_or_default();
        Ok(FirmwareView { poll: self.poll_of(id, PollKind::Firmware).await?, items })
    }

    /// BIOS settings with what is pending.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn bios(&self, actor: &Actor, id: MachineId) -> Result<BiosView> {
        need(actor, Role::Viewer)?;
        let items = self.store().sheet(id, Sheet::Bios).await?.map(|(b, _)| b).unwrap_or_default();
        Ok(BiosView { poll: self.poll_of(id, PollKind::Bios).await?, items })
    }

    /// What the BMC can do and why not, and how much it is asked.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn capabilities(&self, actor: &Actor, id: MachineId) -> Result<CapabilitiesView> {
        need(actor, Role::Viewer)?;
        let now = clock::now();
        let states = self.store().polls(id).await?;
        let items: Vec<Support> = self.store().sheet(id, Sheet::Capabilities).await?.map(|(s, _)| s).unwrap_or_default();
        let traffic = self.store().traffic(id, hour_of(now) - 23).await?;
        let view = |kind| poll_view(self.poll_settings(), &states, kind, now);
        Ok(CapabilitiesView {
            poll: view(PollKind::Capabilities),
            items: items.into_iter().map(|s| SupportView { capability: s.capability, offered: s.offered, evidence: s.evidence }).collect(),
            polls: if states.is_empty() { Vec::new() } else { PollKind::ALL.into_iter().map(view).collect() },
            traffic: traffic.into_iter().map(|(hour, t)| traffic_view(hour, t)).collect(),
        })
    }

    /// What was read, as it was read.
    ///
    /// # Errors
    /// `Forbidden`, `NotFound`.
    pub async fn evidence(&self, actor: &Actor, hash: Sha256) -> Result<String> {
        need(actor, Role::Viewer)?;
        self.store().evidence(hash).await?.ok_or_else(|| AppError::NotFound { what: "evidence", text: hash.to_string() })
    }

    /// Everything the machine's page shows of its BMC.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn observed(&self, actor: &Actor, id: MachineId, log_lines: u32) -> Result<Observed> {
        let now = clock::now();
        Ok(Observed {
            sensors: self.sensors(actor, id).await?,
            sparks: self.store().samples(id, now.minus(SPARK_SPAN), now).await?,
            parts: self.parts(actor, id).await?,
            logs: self.hardware_logs(actor, id, None, None, None, log_lines).await?,
            firmware: self.firmware(actor, id).await?,
            bios: self.bios(actor, id).await?,
            capabilities: self.capabilities(actor, id).await?,
            led: self.led(id).await?,
        })
    }
}
