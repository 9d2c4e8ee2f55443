//! What can be made to happen to a simulated machine and its BMC, from the command line, the control API and tests.

use std::time::Duration;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::domain::inventory::Inventory;
use crate::domain::part::PartKind;
use crate::domain::time::Timestamp;
use crate::sim::bmc::board::Board;
use crate::sim::bmc::board::parts::{BoardPart, Condition};
use crate::sim::bmc::shared::Shared;
use crate::sim::bmc::{Faults, Reach};

/// One fault. Times are the machine's: a rack that is ten times faster is through them in a tenth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum Strike {
    /// Wait before every answer
    Slow { millis: u64 },
    /// Answer 503 to the next N requests (IPMI: busy)
    Busy { answers: u32 },
    /// Answer JSON of the wrong shape
    WrongJson,
    /// End the next N answers in the middle of their body
    CutAnswers { answers: u32 },
    /// Answer a web page with status 200 to the next N requests
    WebPages { answers: u32 },
    /// Drop every connection
    Unreachable,
    /// Take connections and never answer
    Silent,
    /// Fill the session table
    SessionsFull,
    /// Refuse the next N requests of good sessions with 401
    ForgetSessions { answers: u32 },
    /// Accept power and boot commands and do nothing
    AcceptsAndDoesNothing,
    /// Refuse every PATCH without If-Match
    DemandsEtag,
    /// Keep a boot override for once for good
    BootStays,
    /// Restart the BMC: it is away for so long and forgets its sessions
    BmcReset { secs: u64 },
    /// Forget all tasks; what they do goes on
    TasksLost,
    /// Change the password of the account, as somebody at the BMC's web page would
    Password { password: String },
    /// Clear the hardware log
    LogCleared,
    /// Fill the hardware log
    LogFull,
    /// Set the BMC's clock
    Clock {
        /// Seconds since 1970
        #[arg(default_value_t = 0)]
        at: i64,
    },
    /// Let a sensor drift to a value, or home again without one
    Drift {
        sensor: String,
        #[arg(allow_negative_numbers = true)]
        to: Option<f64>,
        #[arg(long, default_value_t = 0)]
        secs: u64,
    },
    /// A part says that it will fail
    PartFailing { part: String },
    /// A part fails: a dead fan, supply, drive, DIMM, link
    PartFailed { part: String },
    /// A part is taken out
    PartRemoved { part: String },
    /// Another part, with another serial, is in its place
    PartSwapped { part: String },
    /// A part is well again
    PartRestored { part: String },
    /// ECC errors of a DIMM
    MemoryErrors {
        part: String,
        #[arg(long, default_value_t = 0)]
        correctable: u64,
        #[arg(long, default_value_t = 0)]
        uncorrectable: u64,
    },
    /// The mains go for so long
    PowerLost { secs: u64 },
    /// The next firmware update breaks off in the middle
    UpdateFails,
    /// The system stops where it is
    Hang,
    /// End everything that is wrong
    Mend,
}

/// Lets it happen now. `Err` says why it cannot.
pub fn happen(shared: &Shared, strike: &Strike) -> Result<(), String> {
    let now = clock::now();
    let real = |secs: u64| shared.setup.pace.real(Duration::from_secs(secs));
    match strike {
        Strike::Slow { millis } => shared.set_faults(|f| f.delay = Duration::from_millis(*millis)),
        Strike::Busy { answers } => shared.set_faults(|f| f.busy_answers = *answers),
        Strike::WrongJson => shared.set_faults(|f| f.nonsense = true),
        Strike::CutAnswers { answers } => shared.set_faults(|f| f.cut_answers = *answers),
        Strike::WebPages { answers } => shared.set_faults(|f| f.web_pages = *answers),
        Strike::Unreachable => shared.set_faults(|f| f.reach = Reach::Dropped),
        Strike::Silent => shared.set_faults(|f| f.reach = Reach::Silent),
        Strike::SessionsFull => shared.set_faults(|f| f.sessions_full = true),
        Strike::ForgetSessions { answers } => shared.set_faults(|f| f.forgets_session = *answers),
        Strike::AcceptsAndDoesNothing => shared.set_faults(|f| f.accepts_and_does_nothing = true),
        Strike::DemandsEtag => shared.set_faults(|f| f.demands_etag = true),
        Strike::BootStays => shared.set_faults(|f| f.boot_stays = true),
        Strike::BmcReset { secs } => shared.go_away(real(*secs)),
        Strike::TasksLost => shared.board().forget_tasks(),
        Strike::Password { password } => {
            let mut accounts = shared.accounts();
            match accounts.list.iter_mut().find(|a| a.name == shared.setup.user) {
                Some(account) => account.password.clone_from(password),
                None => return Err(format!("the account {} is gone", shared.setup.user)),
            }
        }
        Strike::LogCleared => shared.board().clear_host_log(now),
        Strike::LogFull => shared.board().fill_log(now),
        Strike::Clock { at } => shared.board().set_clock(now, Timestamp(at.saturating_mul(1_000_000))),
        Strike::Drift { sensor, to, secs } => {
            let host = shared.host();
            shared.board().drift(sensor, *to, real(*secs), now, &host)?;
            // Crossings that happened at once are logged at once.
            drop(shared.board());
        }
        Strike::PartFailing { part } => set_condition(shared, part, Condition::Failing)?,
        Strike::PartFailed { part } => set_condition(shared, part, Condition::Failed)?,
        Strike::PartRemoved { part } => set_condition(shared, part, Condition::Removed)?,
        Strike::PartRestored { part } => set_condition(shared, part, Condition::Working)?,
        Strike::PartSwapped { part } => {
            shared.board().swap(part, now)?;
            refit(shared);
        }
        Strike::MemoryErrors { part, correctable, uncorrectable } => {
            shared.board().memory_errors(part, *correctable, *uncorrectable, now)?;
        }
        Strike::PowerLost { secs } => shared.lose_power(real(*secs)),
        Strike::UpdateFails => shared.board().next_update_fails = true,
        Strike::Hang => shared.chassis.hang(),
        Strike::Mend => mend(shared),
    }
    Ok(())
}

fn set_condition(shared: &Shared, part: &str, condition: Condition) -> Result<(), String> {
    shared.board().set_condition(part, condition, clock::now())?;
    refit(shared);
    // A fan that stands crosses its thresholds now.
    drop(shared.board());
    Ok(())
}

fn mend(shared: &Shared) {
    shared.set_faults(|f| *f = Faults::default());
    let (now, host) = (clock::now(), shared.host());
    let mut board = shared.board();
    board.next_update_fails = false;
    board.clock_offset = 0;
    let parts: Vec<String> = board.parts.iter().map(|p| p.id.clone()).collect();
    let sensors: Vec<String> = board.sensors.iter().map(|s| s.id.clone()).collect();
    // They are the board's own ids: none is missing.
    let restored = parts.iter().try_for_each(|id| board.set_condition(id, Condition::Working, now));
    let home = sensors.iter().try_for_each(|id| board.drift(id, None, Duration::ZERO, now, &host));
    drop(board);
    if let Err(why) = restored.and(home) {
        tracing::warn!(why, "A simulated machine could not be mended whole");
    }
    refit(shared);
    drop(shared.board());
}

/// Tells the machine which parts it has now.
fn refit(shared: &Shared) {
    let Some(mut inventory) = shared.chassis.inventory() else { return };
    let board = shared.board();
    fit(&board, &mut inventory);
    drop(board);
    shared.chassis.refit(&inventory);
}

/// The DIMMs and drives as they sit in the board now: `inventory` is as the machine was built.
fn fit(board: &Board, inventory: &mut Inventory) {
    let dimms: Vec<&BoardPart> = board.of_kind(PartKind::Dimm).collect();
    inventory.dimms.retain_mut(|dimm| {
        let Some(part) = dimms.iter().find(|p| p.place == dimm.slot) else { return true };
        dimm.serial = part.serial.parse().ok();
        part.is_there()
    });
    inventory.memory_bytes = inventory.dimms.iter().map(|d| d.size_bytes).sum();
    // Bays are in the order of the disks, NVMe and the others each by themselves.
    let bays = |nvme: bool| board.of_kind(PartKind::Drive).filter(move |p| (p.facts.protocol.as_deref() == Some("NVMe")) == nvme);
    let (mut nvme, mut others) = (bays(true), bays(false));
    inventory.disks.retain_mut(|disk| {
        let part = if disk.transport == "nvme" { nvme.next() } else { others.next() };
        let Some(part) = part else { return true };
        disk.serial = part.serial.parse().ok();
        part.is_there()
    });
}
