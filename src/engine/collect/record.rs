//! Writes what polls brought: many outcomes in one commit, each only if its claim still holds.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock;
use crate::decide::parts::{Compared, KnownPart, PartChange};
use crate::decide::quality::Taken;
use crate::domain::bmc::BmcAddress;
use crate::domain::bmc_features::{BiosAttribute, FirmwareItem, Oddity, Support};
use crate::domain::event::{NewEvent, Severity};
use crate::domain::hardware_log::{LogEntry, LogNews, LogSeverity};
use crate::domain::id::{EventId, MachineId, uuid_v7};
use crate::domain::poll::{PollKind, PollState};
use crate::domain::sensor::Health;
use crate::domain::time::Timestamp;
use crate::engine::collect::Collector;
use crate::store::hardware_log::LogMark;
use crate::store::polls::{Contact, PollClaim};
use crate::store::sheets::{Sheet, Traffic, hour_of};
use crate::store::{StoreError, Tx};

/// Outcomes in one commit.
const BATCH: usize = 64;
/// Log entries of one poll that become events of the machine; the rest is in its log.
const EVENTS_PER_POLL: usize = 20;

/// A line for the event log.
pub(super) struct Said {
    kind: &'static str,
    severity: Severity,
    text: String,
}

impl Said {
    pub(super) fn new(kind: &'static str, severity: Severity, text: String) -> Self {
        Self { kind, severity, text }
    }
}

/// What a poll found, judged.
pub(super) enum Finding {
    /// It failed, or there is nothing to write.
    Nothing,
    Power {
        changed: bool,
    },
    Sensors(Box<Taken>),
    Logs {
        news: Vec<(LogMark, LogNews)>,
        /// Entries from before are historical.
        first_contact: Timestamp,
        name: String,
    },
    Parts {
        before: Vec<KnownPart>,
        compared: Compared,
        oddities: Vec<Oddity>,
    },
    Firmware(Vec<FirmwareItem>),
    Bios(Vec<BiosAttribute>),
    Capabilities(Vec<Support>),
}

/// One poll's outcome, ready to be written.
pub(super) struct Polled {
    pub claim: PollClaim,
    /// Of this lane.
    pub states: BTreeMap<PollKind, PollState>,
    pub due: Timestamp,
    pub now: Timestamp,
    pub contact: Option<Contact>,
    /// Why it failed, and at which address.
    pub fault: Option<(String, BmcAddress)>,
    /// Refused logins in a row and until when we pause.
    pub logins: Option<(u32, Option<Timestamp>)>,
    pub traffic: Traffic,
    pub finding: Finding,
    pub said: Vec<Said>,
}

impl Collector {
    pub(super) async fn write_outcomes(self, mut queue: mpsc::Receiver<Polled>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            if let Err(e) = self.write_batch(&batch).await {
                // One that cannot be written must not take the others along.
                tracing::warn!(
                    error = &e as &dyn std::error::Error,
                    outcomes = batch.len(),
                    "polls are written one by one, because together they could not be"
                );
                for polled in &batch {
                    if let Err(e) = self.write_batch(std::slice::from_ref(polled)).await {
                        tracing::error!(machine = %polled.claim.machine, error = &e as &dyn std::error::Error, "a poll could not be recorded; its claim runs out and it is tried again");
                    }
                }
            }
            batch.clear();
        }
    }

    pub(super) async fn write_batch(&self, batch: &[Polled]) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin().await?;
        for polled in batch {
            write(&mut tx, polled).await?;
        }
        tx.commit().await
    }
}

async fn write(tx: &mut Tx, p: &Polled) -> Result<(), StoreError> {
    let machine = p.claim.machine;
    if !tx.finish_poll(&p.claim, p.due, &p.states).await? {
        return Ok(());
    }
    tx.add_traffic(machine, hour_of(p.now), p.traffic).await?;
    if let Some(contact) = &p.contact {
        tx.note_contact(machine, contact).await?;
    }
    if let Some((fault, address)) = &p.fault {
        let (failures, paused_until) = p.logins.unwrap_or_default();
        tx.note_no_contact(machine, address, fault, failures, paused_until).await?;
        tx.touch(Some(machine));
    }
    for said in &p.said {
        event(tx, machine, said.kind, said.severity, said.text.clone(), p.now).await?;
    }
    match &p.finding {
        Finding::Nothing => {}
        Finding::Power { changed } => {
            if *changed {
                tx.touch(Some(machine));
            }
        }
        Finding::Sensors(taken) => write_sensors(tx, machine, taken, p.now).await?,
        Finding::Logs { news, first_contact, name } => {
            for (mark, news) in news {
                write_log(tx, machine, name, mark, news, *first_contact, p.now).await?;
            }
        }
        Finding::Parts { before, compared, oddities } => {
            tx.put_parts(machine, before, &compared.known).await?;
            tx.put_sheet(machine, Sheet::Oddities, p.now, oddities).await?;
            for change in &compared.changes {
                write_part_change(tx, machine, change, p.now).await?;
            }
        }
        Finding::Firmware(items) => tx.put_sheet(machine, Sheet::Firmware, p.now, items).await?,
        Finding::Bios(items) => tx.put_sheet(machine, Sheet::Bios, p.now, items).await?,
        Finding::Capabilities(items) => tx.put_sheet(machine, Sheet::Capabilities, p.now, items).await?,
    }
    Ok(())
}

async fn write_sensors(tx: &mut Tx, machine: MachineId, taken: &Taken, now: Timestamp) -> Result<(), StoreError> {
    if taken.redefined {
        tx.put_sheet(machine, Sheet::Sensors, now, &taken.known).await?;
    }
    tx.put_sheet(machine, Sheet::Readings, now, &taken.latest).await?;
    tx.add_samples(machine, now, &taken.points).await?;
    for number in &taken.disbelieved {
        let sensor = taken.known.iter().find(|k| k.number == *number).map(|k| &k.sensor);
        let latest = taken.latest.iter().find(|l| l.number == *number);
        tx.put_evidence(&(sensor, latest), now).await?;
    }
    Ok(())
}

async fn write_log(
    tx: &mut Tx,
    machine: MachineId,
    name: &str,
    mark: &LogMark,
    news: &LogNews,
    first_contact: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let first_read = mark.epoch == 0;
    let epoch = if first_read || news.new_epoch { mark.epoch + 1 } else { mark.epoch };
    // What has no time and was there before we came may be years old.
    let historical = |e: &LogEntry| e.at.map_or(first_read, |at| at < first_contact);
    let id = |n: usize| uuid_v7(now.plus(Duration::from_millis(n as u64)), clock::random());
    let taken = tx.take_log_entries(machine, epoch, &news.entries, historical, now, id).await?;
    tx.put_log_mark(machine, &mark.log, epoch, news, now).await?;
    if !first_read && news.may_have_lost {
        let text = format!("The log {} of the BMC of {name} went on faster than it was read: entries may be lost.", mark.log);
        event(tx, machine, "log.gap", Severity::Warning, text, now).await?;
    }
    // C5: entries are evidence. What is bad and new is told, and the machine is decided on anew.
    let grave: Vec<_> = taken.iter().filter(|k| !k.historical && k.entry.severity > LogSeverity::Info).collect();
    for kept in grave.iter().take(EVENTS_PER_POLL) {
        let severity = match kept.entry.severity {
            LogSeverity::Info => Severity::Info,
            LogSeverity::Warning => Severity::Warning,
            LogSeverity::Critical => Severity::Error,
        };
        let about = kept.entry.origin.as_ref().map(|o| format!(" ({o})")).unwrap_or_default();
        event(tx, machine, "hardware.log", severity, format!("The BMC of {name} logged: {}{about}", kept.entry.message), now).await?;
    }
    if !grave.is_empty() {
        tx.make_due(machine, now).await?;
    }
    if !taken.is_empty() {
        tx.touch(Some(machine));
    }
    Ok(())
}

async fn write_part_change(tx: &mut Tx, machine: MachineId, change: &PartChange, now: Timestamp) -> Result<(), StoreError> {
    let evidence = match change {
        PartChange::Swapped { old, new, .. } => tx.put_evidence(&[old.as_ref(), new], now).await?,
        PartChange::Appeared { part, .. } | PartChange::Gone { part } | PartChange::Health { part, .. } => {
            tx.put_evidence(part, now).await?
        }
    };
    tx.insert_part_event(uuid_v7(now, clock::random()), machine, change, evidence, now).await?;
    let severity = match change {
        PartChange::Gone { .. } => Severity::Warning,
        PartChange::Health { part, .. } => match part.health {
            Some(Health::Critical) => Severity::Error,
            Some(Health::Warning) => Severity::Warning,
            Some(Health::Ok) | None => Severity::Info,
        },
        PartChange::Appeared { .. } | PartChange::Swapped { .. } => Severity::Info,
    };
    event(tx, machine, change.kind(), severity, change.sentence(), now).await?;
    tx.make_due(machine, now).await
}

pub(super) async fn event(
    tx: &mut Tx,
    machine: MachineId,
    kind: &'static str,
    severity: Severity,
    text: String,
    now: Timestamp,
) -> Result<(), StoreError> {
    let event = NewEvent { machine: Some(machine), run: None, kind, severity, text, actor: "system".to_owned() };
    tx.insert_event(EventId(clock::fresh_uuid()), now, &event).await
}
