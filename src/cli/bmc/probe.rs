//! Everything one BMC says, as one document.
//!
//! The JSON of `hostler bmc probe --json`; `schema` names its version, fields are only added to it. Everything found carries the
//! `source` it was read at: a Redfish URI (with a JSON pointer for a member of an array) or an IPMI record.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bmc::{Answer, BmcAccess, BmcError, Bmcs};
use crate::cli::bmc::problems::{self, Problem};
use crate::clock;
use crate::domain::bmc::{BmcAddress, BmcIdentity, BmcProtocol};
use crate::domain::bmc_features::{
    Account, BiosAttribute, BmcNetwork, BootOption, BootProgress, FirmwareItem, Found, LedState, MediaSlot, Oddity, Support,
};
use crate::domain::hardware_log::{LogCursor, LogEntry};
use crate::domain::id::{MachineId, Sha256};
use crate::domain::part::Part;
use crate::domain::power::PowerState;
use crate::domain::sensor::Sensor;
use crate::domain::time::Timestamp;

pub const SCHEMA: &str = "hostler.bmc-probe.v1";
/// Areas that are read: each may fail alone.
pub const AREAS: usize = 15;
/// After that no further area is begun. The slowest BMC recorded takes 250 requests of 2 s.
const READ_FOR: Duration = Duration::from_secs(1200);

#[derive(Serialize)]
pub struct Report {
    pub schema: &'static str,
    pub address: String,
    pub protocol: BmcProtocol,
    /// SHA-256 of the certificate's public key; none without TLS.
    pub tls_pin: Option<Sha256>,
    pub read_at: Timestamp,
    pub took_secs: f64,
    pub identity: BmcIdentity,
    pub power: Option<PowerState>,
    pub boot_progress: Option<BootProgress>,
    /// Seconds by which the BMC's clock is ahead of ours.
    pub clock_offset_secs: Option<i64>,
    pub locator_led: Option<LedState>,
    pub capabilities: Vec<Support>,
    pub parts: Vec<Part>,
    pub sensors: Vec<Sensor>,
    pub firmware: Vec<FirmwareItem>,
    pub logs: Vec<Log>,
    pub bios: Vec<BiosAttribute>,
    pub accounts: Vec<Account>,
    pub boot_order: Vec<BootOption>,
    pub media: Vec<MediaSlot>,
    pub network: Vec<BmcNetwork>,
    /// Seen and not understood.
    pub not_understood: Vec<Noted>,
    /// Linked or listed and not readable.
    pub unread: Vec<Noted>,
    /// Links that a vendor keeps below `Oem`: of no standard, so named and not followed.
    pub oem_links: Vec<Noted>,
    /// What this BMC does not offer, and why we think so.
    pub not_offered: Vec<Failure>,
    /// What it offers and could not be read.
    pub failed: Vec<Failure>,
    /// What is wrong with this BMC or its machine, worst first.
    pub problems: Vec<Problem>,
}

#[derive(Serialize)]
pub struct Log {
    pub source: String,
    pub used: Option<u32>,
    pub total: Option<u32>,
    /// Older entries than these are kept by the BMC and were not read.
    pub is_cut: bool,
    /// Oldest first.
    pub entries: Vec<LogEntry>,
}

#[derive(Serialize)]
pub struct Noted {
    pub area: &'static str,
    #[serde(flatten)]
    pub oddity: Oddity,
}

#[derive(Serialize)]
pub struct Failure {
    pub area: &'static str,
    /// Stable word for programs.
    pub code: &'static str,
    pub why: String,
}

/// Reads a BMC, area by area. Only a BMC that cannot be identified at all is an error.
pub async fn read(bmcs: &Bmcs, machine: MachineId, access: &BmcAccess) -> Result<Report, BmcError> {
    let begun = Instant::now();
    let identity = bmcs.identity(machine, access).await?;
    // The key seen now is the one that every further connection must show, and the protocol that answered is the one that is
    // described: a report mixed of two would be of neither.
    let address = BmcAddress { protocol: Some(identity.protocol), ..access.address.clone() };
    let access = &BmcAccess { address, tls_pin: identity.tls_pin.or(access.tls_pin), ..access.clone() };
    let mut notes = Notes::default();
    let power = notes.take("power", within(begun, access, bmcs.power(machine, access)).await);
    let boot_progress = notes.take("boot_progress", within(begun, access, bmcs.boot_progress(machine, access)).await).flatten();
    let clock_offset_secs = notes.take("clock", within(begun, access, bmcs.clock_offset(machine, access)).await).flatten();
    let locator_led = notes.take("locator_led", within(begun, access, bmcs.locator_led(machine, access)).await);
    let capabilities = notes.take("capabilities", within(begun, access, bmcs.supports(machine, access)).await).unwrap_or_default();
    let parts = notes.take_found("parts", within(begun, access, bmcs.parts(machine, access)).await);
    let sensors = notes.take_found("sensors", within(begun, access, bmcs.sensors(machine, access)).await);
    let firmware = notes.take_found("firmware", within(begun, access, bmcs.firmware(machine, access)).await);
    let bios = notes.take_found("bios", within(begun, access, bmcs.bios(machine, access)).await);
    let accounts = notes.take_found("accounts", within(begun, access, bmcs.accounts(machine, access)).await);
    let boot_order = notes.take_found("boot_order", within(begun, access, bmcs.boot_order(machine, access)).await);
    let media = notes.take_found("media", within(begun, access, bmcs.media(machine, access)).await);
    let network = notes.take_found("network", within(begun, access, bmcs.network(machine, access)).await);
    let mut logs = Vec::new();
    for source in notes.take("logs", within(begun, access, bmcs.logs(machine, access)).await).unwrap_or_default() {
        let Some(news) = notes.take("log", within(begun, access, bmcs.log_news(machine, access, &source, &LogCursor::default())).await)
        else {
            continue;
        };
        notes.not_understood.extend(news.not_understood.into_iter().map(|oddity| Noted { area: "logs", oddity }));
        let (used, total) = news.fill.unzip();
        logs.push(Log { source, used, total, is_cut: news.may_have_lost, entries: news.entries });
    }
    let mut report = Report {
        schema: SCHEMA,
        address: access.address.to_string(),
        protocol: identity.protocol,
        tls_pin: identity.tls_pin,
        read_at: clock::now(),
        took_secs: (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        identity: identity.value,
        power,
        boot_progress,
        clock_offset_secs,
        locator_led,
        capabilities,
        parts,
        sensors,
        firmware,
        logs,
        bios,
        accounts,
        boot_order,
        media,
        network,
        not_understood: notes.not_understood,
        unread: notes.unread,
        oem_links: notes.oem_links,
        not_offered: notes.not_offered,
        failed: notes.failed,
        problems: Vec::new(),
    };
    report.problems = problems::find(&report);
    Ok(report)
}

/// Asks, unless the time for all of it is over.
async fn within<T>(begun: Instant, access: &BmcAccess, ask: impl Future<Output = Result<T, BmcError>>) -> Result<T, BmcError> {
    let left = READ_FOR.saturating_sub(begun.elapsed());
    match tokio::time::timeout(left, ask).await {
        Ok(answer) => answer,
        Err(_) => Err(BmcError::Timeout { address: access.address.to_string(), after: READ_FOR }),
    }
}

#[derive(Default)]
struct Notes {
    not_understood: Vec<Noted>,
    unread: Vec<Noted>,
    oem_links: Vec<Noted>,
    not_offered: Vec<Failure>,
    failed: Vec<Failure>,
}

impl Notes {
    fn take<T>(&mut self, area: &'static str, answer: Result<Answer<T>, BmcError>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer.value),
            Err(error) => {
                let failure = Failure { area, code: error.code(), why: error.to_string() };
                match error {
                    BmcError::Unsupported { .. } => self.not_offered.push(failure),
                    BmcError::Unauthorized { .. }
                    | BmcError::Paused { .. }
                    | BmcError::Unreachable { .. }
                    | BmcError::Timeout { .. }
                    | BmcError::Nonsense { .. }
                    | BmcError::Refused { .. }
                    | BmcError::Busy { .. }
                    | BmcError::CertificateChanged { .. }
                    | BmcError::NotEffective { .. } => self.failed.push(failure),
                }
                None
            }
        }
    }

    fn take_found<T>(&mut self, area: &'static str, answer: Result<Answer<Found<T>>, BmcError>) -> Vec<T> {
        let Some(found) = self.take(area, answer) else { return Vec::new() };
        self.not_understood.extend(found.not_understood.into_iter().map(|oddity| Noted { area, oddity }));
        self.unread.extend(found.unread.into_iter().map(|oddity| Noted { area, oddity }));
        for oddity in found.oem_links {
            // Resources that several areas read are named once.
            if !self.oem_links.iter().any(|known| known.oddity == oddity) {
                self.oem_links.push(Noted { area, oddity });
            }
        }
        found.items
    }
}
