//! The system event log (IPMI v2.0, section 31): what is new in it, and clearing it without losing an entry.
//!
//! Ids start again after a clear and wrap in a ring, so an entry is known by its content (defect C4). An epoch is the erase
//! time that Get SEL Info tells, with the content of the first entry read in it.

use std::collections::HashSet;
use std::sync::PoisonError;

use sha2::Digest;
use tokio::time::Instant;

use crate::bmc::BmcError;
use crate::bmc::ipmi::Ipmi;
use crate::bmc::ipmi::session::Repeat;
use crate::domain::hardware_log::{LogCursor, LogEntry, LogNews};
use crate::domain::id::Sha256;
use crate::wire::ipmi::{self, completion};
use crate::wire::sdr::SensorRecord;
use crate::wire::sel::{self, Info, Record};

/// The only log of IPMI.
pub const SEL: &str = "sel";
/// Entries of one call; the cursor goes on from there at the next.
const NEWS_CAP: usize = 4096;
/// Contents kept in a cursor (see [`LogCursor::seen`]).
const SEEN_CAP: usize = 64;
/// Ids are 16 bits: a chain cannot be longer.
const CHAIN_CAP: usize = 0xffff;
/// Completion code of Get SEL Entry and Clear SEL while an erase is under way (31.5).
const ERASE_IN_PROGRESS: u8 = 0x81;

/// One entry and the id of the next.
pub struct FetchedEntry {
    pub next: u16,
    pub record: Record,
}

fn content(record: &Record) -> Sha256 {
    Sha256(sha2::Sha256::digest(record.content()).into())
}

/// `erase time - beginning of the first entry's content`.
fn epoch(erased: u32, first: Option<&Record>) -> String {
    let first = first.map(|r| content(r).to_string().chars().take(16).collect::<String>());
    format!("{erased:08x}-{}", first.unwrap_or_default())
}

/// The epoch with another erase time: for logs whose BMC moved it without clearing.
fn moved(epoch_was: &str, erased: u32) -> String {
    format!("{erased:08x}-{}", epoch_was.split_once('-').map_or("", |(_, first)| first))
}

fn id_text(id: u16) -> String {
    format!("{id:04x}")
}

/// Where the unread part of `log` begins: after the entry that the cursor saw last.
///
/// `None` when that entry is not there. Equal contents are no proof, since clocks that were never set give the same entry
/// again: entries before it must be those seen before it, or its time must be a real one; both where the erase time moved.
fn unread_from(log: &[Record], cursor: &LogCursor, same_erase: bool) -> Option<usize> {
    let newest = cursor.seen.first()?;
    let run = |end: usize| log[..end].iter().rev().zip(&cursor.seen).take_while(|(r, seen)| content(r) == **seen).count();
    let (end, length) = (1..=log.len())
        .filter(|end| content(&log[end - 1]) == *newest)
        .map(|end| (end, run(end)))
        // The longest agreement; among equals the entry under the id we know, then the later one.
        .max_by_key(|(end, length)| (*length, id_text(log[end - 1].id) == cursor.last_id, *end))?;
    let whole = length == cursor.seen.len().min(end);
    let timed = log[end - 1].at().is_some();
    let same = if same_erase { whole || timed } else { whole && timed };
    same.then_some(end)
}

impl Ipmi {
    pub(super) fn require_sel(&self, log: &str) -> Result<(), BmcError> {
        if log == SEL { Ok(()) } else { Err(self.unsupported(format!("a log {log:?}; over IPMI there is only {SEL:?}"))) }
    }

    pub(super) async fn sel_info(&self) -> Result<Info, BmcError> {
        Info::read(&self.read(ipmi::SEL_INFO, &[]).await?).ok_or_else(|| self.nonsense("log information that ends early"))
    }

    /// Get SEL Entry (31.5), whole entries only, so no reservation is needed. `None` when there is no such entry.
    pub(super) async fn sel_entry(&self, id: u16) -> Result<Option<FetchedEntry>, BmcError> {
        let [low, high] = id.to_le_bytes();
        let (code, data) = self.raw(ipmi::GET_SEL_ENTRY, &[0, 0, low, high, 0, 0xff], Repeat::Yes).await?;
        match (code, data.as_slice()) {
            (completion::OK, [n0, n1, record @ ..]) => match Record::read(record) {
                Some(record) => Ok(Some(FetchedEntry { next: u16::from_le_bytes([*n0, *n1]), record })),
                None => Err(self.nonsense("a log entry that ends early")),
            },
            (completion::OK, _) => Err(self.nonsense("a log entry without a successor")),
            (ERASE_IN_PROGRESS, _) => Err(self.busy("its event log is being erased")),
            (completion::NODE_BUSY | completion::TIMEOUT | completion::PRIVILEGE, _) => {
                self.judge(ipmi::GET_SEL_ENTRY, code)?;
                Ok(None)
            }
            // Not present, out of range, invalid field: BMCs say each of an id that is gone.
            _ => Ok(None),
        }
    }

    /// Entries from `id` on, at most `cap`. A chain that comes back to itself ends there.
    async fn chain(&self, mut id: u16, cap: usize) -> Result<Vec<Record>, BmcError> {
        // An id that came before closes a circle, and so does "first" as a successor.
        let (mut out, mut visited) = (Vec::new(), HashSet::from([sel::FIRST]));
        while out.len() < cap && id != sel::LAST && (out.is_empty() || visited.insert(id)) {
            let Some(FetchedEntry { next, record }) = self.sel_entry(id).await? else { break };
            if out.is_empty() {
                // It may have been asked for by another id than its own.
                visited.extend([id, record.id]);
            }
            out.push(record);
            id = next;
        }
        Ok(out)
    }

    /// What came since the cursor. Two small requests when nothing did.
    pub(super) async fn sel_news(&self, cursor: &LogCursor) -> Result<LogNews, BmcError> {
        let info = self.sel_info().await?;
        let first_read = cursor.epoch.is_empty();
        let same_erase = cursor.epoch.starts_with(&format!("{:08x}-", info.erased));
        let by_us = *self.cleared_by_us.lock().unwrap_or_else(PoisonError::into_inner) == Some(info.erased);
        let changed = |was_other: bool| (was_other, was_other && !by_us);
        if info.entries == 0 {
            let (new_epoch, may_have_lost) = changed(!(first_read || same_erase && cursor.seen.is_empty()));
            let cursor = LogCursor { epoch: epoch(info.erased, None), ..LogCursor::default() };
            return Ok(LogNews { entries: Vec::new(), cursor, new_epoch, may_have_lost, fill: info.fill(), not_understood: Vec::new() });
        }
        if same_erase && let Some(next) = self.after(cursor).await? {
            let news = self.chain(next, NEWS_CAP).await?;
            let cursor = advanced(cursor, cursor.epoch.clone(), &news);
            return Ok(self.news(news, cursor, (false, false), &info).await);
        }
        let mut log = self.chain(sel::FIRST, if first_read { NEWS_CAP } else { CHAIN_CAP }).await?;
        if first_read || (same_erase && cursor.seen.is_empty()) {
            log.truncate(NEWS_CAP);
            let cursor = advanced(&LogCursor::default(), epoch(info.erased, log.first()), &log);
            return Ok(self.news(log, cursor, (false, false), &info).await);
        }
        match unread_from(&log, cursor, same_erase) {
            Some(from) => {
                let mut news = log.split_off(from);
                news.truncate(NEWS_CAP);
                let cursor = advanced(cursor, moved(&cursor.epoch, info.erased), &news);
                Ok(self.news(news, cursor, (false, false), &info).await)
            }
            None => {
                let epoch = epoch(info.erased, log.first());
                log.truncate(NEWS_CAP);
                let cursor = advanced(&LogCursor::default(), epoch, &log);
                Ok(self.news(log, cursor, changed(true), &info).await)
            }
        }
    }

    /// The id after the cursor's last entry, if that is still there and the same.
    async fn after(&self, cursor: &LogCursor) -> Result<Option<u16>, BmcError> {
        let (Ok(id), Some(newest)) = (u16::from_str_radix(&cursor.last_id, 16), cursor.seen.first()) else { return Ok(None) };
        let entry = self.sel_entry(id).await?;
        Ok(entry.filter(|e| content(&e.record) == *newest).map(|e| e.next))
    }

    async fn news(&self, records: Vec<Record>, cursor: LogCursor, (new_epoch, may_have_lost): (bool, bool), info: &Info) -> LogNews {
        // Names are worth a request only when there is something to name; without records the numbers tell.
        let repository = if records.is_empty() { None } else { self.repository().await.ok() };
        let sensors = repository.as_ref().map_or(&[][..], |r| r.sensors.as_slice());
        let entries = records.iter().map(|r| entry(r, sensors.iter().find(|s| r.is_from(s)))).collect();
        LogNews { entries, cursor, new_epoch, may_have_lost, fill: info.fill(), not_understood: Vec::new() }
    }

    /// Clears the log if `read_to` is all there is (defect C7). The reservation is taken before the log is looked at, and the
    /// BMC drops it when an entry comes (31.4), so that one cannot vanish between the look and the clear.
    pub(super) async fn clear_sel(&self, read_to: &LogCursor) -> Result<(), BmcError> {
        let (code, data) = self.raw(ipmi::RESERVE_SEL, &[], Repeat::Yes).await?;
        let Some([r0, r1]) = data.first_chunk::<2>().copied().filter(|_| code == completion::OK) else {
            return Err(self.unsupported("clearing its log without losing entries (it gives no reservation)".to_owned()));
        };
        let info = self.sel_info().await?;
        if info.entries == 0 {
            return Ok(());
        }
        let newest = self.sel_entry(sel::LAST).await?;
        let is_read = newest.is_some_and(|e| read_to.seen.first() == Some(&content(&e.record)) && read_to.last_id == id_text(e.record.id));
        if !is_read || !read_to.epoch.starts_with(&format!("{:08x}-", info.erased)) {
            return Err(self.busy("entries came to its event log that were not read yet; nothing was cleared"));
        }
        self.pace.before_write().await;
        let (code, _) = self.raw(ipmi::CLEAR_SEL, &[r0, r1, b'C', b'L', b'R', 0xaa], Repeat::No).await?;
        if code == completion::RESERVATION {
            return Err(self.busy("an entry came to its event log just now; nothing was cleared"));
        }
        self.judge(ipmi::CLEAR_SEL, code)?;
        let end = Instant::now() + self.timing.settle;
        loop {
            // 00h asks how far the erase is; 1 is done (31.9).
            let (code, data) = self.raw(ipmi::CLEAR_SEL, &[r0, r1, b'C', b'L', b'R', 0x00], Repeat::Yes).await?;
            let done = code == completion::OK && data.first().is_some_and(|progress| progress & 0x0f == 1);
            let info = self.sel_info().await?;
            // Some drop the reservation with the log and refuse the question: then the log itself tells.
            if done || (code != completion::OK && info.erased != 0 && !read_to.epoch.starts_with(&format!("{:08x}-", info.erased))) {
                *self.cleared_by_us.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.erased);
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(BmcError::NotEffective {
                    address: self.address.clone(),
                    what: "clearing the event log".to_owned(),
                    evidence: format!("{} s later it has {} entries", self.timing.settle.as_secs(), info.entries),
                });
            }
            tokio::time::sleep(self.timing.poll).await;
        }
    }
}

/// The cursor after `news`, which begins where `cursor` ended.
fn advanced(cursor: &LogCursor, epoch: String, news: &[Record]) -> LogCursor {
    let seen = news.iter().rev().map(content).chain(cursor.seen.iter().copied()).take(SEEN_CAP).collect();
    LogCursor { epoch, seen, last_id: news.last().map_or_else(|| cursor.last_id.clone(), |r| id_text(r.id)) }
}

fn entry(record: &Record, sensor: Option<&SensorRecord>) -> LogEntry {
    let id = id_text(record.id);
    LogEntry {
        log: SEL.to_owned(),
        source: format!("{SEL}:{id}"),
        id,
        at: record.at(),
        severity: record.severity(),
        direction: record.direction(),
        message: record.message(sensor),
        message_id: None,
        message_args: Vec::new(),
        ipmi: record.event(),
        origin: sensor.map(|s| s.name.clone()),
        content: content(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry at `time` about sensor `number`.
    fn record(id: u16, time: u32, number: u8) -> Record {
        let ([i0, i1], [t0, t1, t2, t3]) = (id.to_le_bytes(), time.to_le_bytes());
        Record::read(&[i0, i1, 2, t0, t1, t2, t3, 0x20, 0, 4, 1, number, 1, 0x09, 0, 0]).unwrap()
    }

    const REAL: u32 = 0x6b05_c330;

    fn cursor(log: &[Record]) -> LogCursor {
        advanced(&LogCursor::default(), epoch(7, log.first()), log)
    }

    #[test]
    fn c4_a_cleared_log_whose_ids_start_again_is_all_new() {
        let before: Vec<_> = (1u16..=5).map(|n| record(n, REAL + u32::from(n), 1)).collect();
        let after: Vec<_> = (1u16..=7).map(|n| record(n, REAL + 100 + u32::from(n), 1)).collect();
        for same_erase in [false, true] {
            assert_eq!(unread_from(&after, &cursor(&before), same_erase), None);
        }
    }

    #[test]
    fn a_ring_that_dropped_its_oldest_goes_on_after_the_last_seen() {
        let log: Vec<_> = (1u16..=100).map(|n| record(n, REAL + u32::from(n), 1)).collect();
        let seen = cursor(&log[..80]);
        assert_eq!(unread_from(&log[50..], &seen, true), Some(30));
        assert_eq!(unread_from(&log[50..], &seen, false), Some(30), "a BMC that restarted and moved its erase time");
        assert_eq!(unread_from(&log[80..], &seen, true), None, "wrapped past us");
    }

    #[test]
    fn ids_do_not_matter_where_contents_agree() {
        let log: Vec<_> = (1u16..=9).map(|n| record(n, REAL + u32::from(n), 1)).collect();
        let renumbered: Vec<_> = (1u16..=9).map(|n| record(n + 300, REAL + u32::from(n), 1)).collect();
        assert_eq!(unread_from(&renumbered, &cursor(&log[..4]), true), Some(4));
    }

    #[test]
    fn without_a_clock_equal_entries_of_another_life_are_not_taken_for_the_old_ones() {
        // Never set: seconds since the BMC's start. The same fault logged twice has the same content.
        let (a, b) = (record(1, 40, 1), record(2, 40, 2));
        let seen = cursor(&[a, b]);
        assert_eq!(unread_from(&[record(1, 40, 2)], &seen, false), None);
        assert_eq!(unread_from(&[record(1, 40, 3), record(2, 40, 2)], &seen, true), None, "what came before is something else");
        assert_eq!(unread_from(&[a, b, record(3, 41, 1)], &seen, true), Some(2));
    }

    #[test]
    fn the_same_event_again_and_again_is_counted() {
        let same: Vec<_> = (1u16..=6).map(|n| record(n, REAL, 1)).collect();
        assert_eq!(unread_from(&same, &cursor(&same[..4]), true), Some(4));
    }

    #[test]
    fn a_cursor_keeps_the_newest_contents_newest_first() {
        let log: Vec<_> = (1u16..=100).map(|n| record(n, REAL + u32::from(n), 1)).collect();
        let one = cursor(&log[..98]);
        let two = advanced(&one, one.epoch.clone(), &log[98..]);
        assert_eq!(two.seen.len(), SEEN_CAP);
        assert_eq!((two.seen[0], two.seen[2], two.last_id.as_str()), (content(&log[99]), content(&log[97]), "0064"));
        assert_eq!(advanced(&two, two.epoch.clone(), &[]), two);
        assert_eq!(moved(&two.epoch, 9).split('-').nth(1), two.epoch.split('-').nth(1));
    }
}
