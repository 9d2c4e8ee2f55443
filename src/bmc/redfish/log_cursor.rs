//! What is new in a log that may have been cleared, wrapped or renumbered since it was last read (defect C4). Pure.
//!
//! Ids are not trusted alone: they start again after a clear, are not numbers on some BMCs, and are given anew after a wrap on
//! others. Content is not trusted alone either: an X10 writes the same sentence 40 times in one second. Together they tell.

use sha2::Digest;

use crate::domain::hardware_log::{LogCursor, LogEntry, LogNews};
use crate::domain::id::Sha256;

/// Contents kept in a cursor.
pub const SEEN_CAP: usize = 64;
/// Entries that must match in a row where nothing else (an id, a time) says that they are the same ones.
const RUN: usize = 3;

/// How many of the newest entries are new. `newest_first`: what was read so far. `None`: nothing joins it to the cursor yet.
pub fn joins(cursor: &LogCursor, newest_first: &[&LogEntry]) -> Option<usize> {
    let newest_seen = cursor.seen.first()?;
    // The usual case: the last entry taken is there under its id, unchanged.
    if let Some(at) = newest_first.iter().position(|e| e.id == cursor.last_id && e.content == *newest_seen) {
        return Some(at);
    }
    // Renumbered, or the last entry is gone (resolved faults vanish): the newest entry with a time that was seen.
    if let Some(at) = newest_first.iter().position(|e| e.at.is_some() && cursor.seen.contains(&e.content)) {
        let same = newest_first[at].content;
        let now = newest_first[at..].iter().take_while(|e| e.content == same).count();
        let then = cursor.seen.iter().take_while(|c| **c == same).count();
        // More of the same sentence in the same second than before: the surplus is new.
        let surplus = if same == *newest_seen && then < SEEN_CAP { now.saturating_sub(then) } else { 0 };
        return Some(at + surplus);
    }
    // No times: a run of contents, as long as there can be one.
    let long = |at: usize| cursor.seen.len().min(newest_first.len() - at);
    (0..newest_first.len()).find(|at| {
        let run = long(*at);
        run >= RUN.min(cursor.seen.len())
            && run >= 2
            && newest_first[*at..].iter().zip(&cursor.seen).take(run).all(|(e, c)| e.content == *c)
    })
}

/// The news of one reading. `kept`: oldest first, all that the BMC keeps, or as much of the newest as joins the cursor;
/// `complete` is false when older entries were left out for their number.
pub fn news(cursor: &LogCursor, kept: Vec<LogEntry>, complete: bool) -> LogNews {
    let newest_first: Vec<&LogEntry> = kept.iter().rev().collect();
    let is_first = cursor.epoch.is_empty() && cursor.seen.is_empty();
    let joined = joins(cursor, &newest_first);
    let (fresh, new_epoch, may_have_lost) = match joined {
        Some(fresh) => (fresh, false, false),
        // Never read, or empty when it was read: all is new and nothing can have been missed but what the caps cut.
        None if cursor.seen.is_empty() => (kept.len(), false, !complete),
        None => (kept.len(), true, true),
    };
    let epoch = if is_first || new_epoch { epoch_of(kept.first()) } else { cursor.epoch.clone() };
    let mut seen: Vec<Sha256> = newest_first.iter().take(SEEN_CAP).map(|e| e.content).collect();
    if joined.is_some() {
        // What was read may end where it joined: the older contents are known from the cursor.
        seen = newest_first[..fresh].iter().map(|e| e.content).chain(older(cursor, &newest_first[fresh..])).take(SEEN_CAP).collect();
    }
    let last_id = newest_first.first().map(|e| e.id.clone()).unwrap_or_default();
    let skip = kept.len() - fresh;
    let entries = kept.into_iter().skip(skip).collect();
    LogNews { entries, cursor: LogCursor { epoch, seen, last_id }, new_epoch, may_have_lost, fill: None, not_understood: Vec::new() }
}

/// Contents older than the new ones: as read now, and from the cursor where the reading ended early.
fn older(cursor: &LogCursor, rest: &[&LogEntry]) -> Vec<Sha256> {
    let now: Vec<Sha256> = rest.iter().map(|e| e.content).collect();
    if now.len() >= SEEN_CAP || now.len() >= cursor.seen.len() {
        return now;
    }
    // The part of the cursor that continues what was read now.
    let from = (0..cursor.seen.len()).find(|from| cursor.seen[*from..].iter().zip(&now).all(|(a, b)| a == b)).unwrap_or(0);
    cursor.seen[from..].to_vec()
}

/// The name of a log's life: the content of the oldest entry kept when it was first read.
fn epoch_of(oldest: Option<&LogEntry>) -> String {
    oldest.map_or_else(|| "empty".to_owned(), |e| format!("{}:{}", e.id, e.content))
}

/// A digest of what does not change in an entry while it is kept. Not its id (renumbered), not its severity (iLO lowers it when an
/// IML entry is repaired).
pub fn content(parts: &[&str]) -> Sha256 {
    let mut hash = sha2::Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Sha256(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::hardware_log::{LogDirection, LogSeverity};
    use crate::domain::time::Timestamp;

    fn entry(id: &str, at: Option<i64>, message: &str) -> LogEntry {
        let time = at.map(|t| t.to_string()).unwrap_or_default();
        LogEntry {
            log: "/log".into(),
            id: id.into(),
            at: at.map(|t| Timestamp(t * 1_000_000)),
            severity: LogSeverity::Info,
            direction: LogDirection::Said,
            message: message.into(),
            message_id: None,
            message_args: Vec::new(),
            ipmi: None,
            origin: None,
            content: content(&[&time, message]),
            source: format!("/log/{id}"),
        }
    }

    fn messages(news: &LogNews) -> Vec<&str> {
        news.entries.iter().map(|e| e.message.as_str()).collect()
    }

    #[test]
    fn c4_a_cleared_log_whose_ids_start_again_loses_nothing() {
        let first = news(&LogCursor::default(), (1..=9).map(|i| entry(&i.to_string(), Some(i), &format!("old {i}"))).collect(), true);
        assert_eq!((first.entries.len(), first.new_epoch, first.may_have_lost), (9, false, false));
        // Cleared: ids restart below the old maximum, which a numeric high-water mark would drop.
        let after = vec![entry("1", Some(20), "log cleared"), entry("2", Some(21), "PSU 1 failed")];
        let second = news(&first.cursor, after.clone(), true);
        assert_eq!(messages(&second), ["log cleared", "PSU 1 failed"]);
        assert!(second.new_epoch && second.may_have_lost && second.cursor.epoch != first.cursor.epoch);
        assert_eq!(messages(&news(&second.cursor, after, true)), Vec::<&str>::new(), "and repeats nothing");
    }

    #[test]
    fn c4_ids_that_are_no_numbers_do_not_repeat_the_log() {
        let log: Vec<_> = (0..200).map(|i| entry(&format!("evt-{:x}", i * 7919), Some(i), &format!("m{i}"))).collect();
        let first = news(&LogCursor::default(), log.clone(), true);
        let mut more = log;
        more.push(entry("evt-zz", Some(900), "new"));
        let second = news(&first.cursor, more.clone(), true);
        assert_eq!((messages(&second), second.new_epoch), (vec!["new"], false));
        assert_eq!(second.cursor.epoch, first.cursor.epoch);
        assert!(news(&second.cursor, more, true).entries.is_empty());
    }

    #[test]
    fn c4_a_wrapped_log_keeps_its_epoch_and_a_log_wrapped_past_us_does_not() {
        let at = |i: i64| entry(&(i % 10).to_string(), Some(i), &format!("m{i}"));
        let first = news(&LogCursor::default(), (0..10).map(at).collect(), true);
        let second = news(&first.cursor, (4..14).map(at).collect(), true);
        assert_eq!((messages(&second), second.new_epoch), (vec!["m10", "m11", "m12", "m13"], false));
        let third = news(&second.cursor, (100..110).map(at).collect(), true);
        assert_eq!((third.entries.len(), third.new_epoch, third.may_have_lost), (10, true, true));
    }

    #[test]
    fn the_same_sentence_many_times_in_one_second_is_counted() {
        let same = |n: usize| (1..=n).map(|i| entry(&i.to_string(), Some(5), "Correctable ECC")).collect::<Vec<_>>();
        let first = news(&LogCursor::default(), same(40), true);
        assert_eq!(news(&first.cursor, same(43), true).entries.len(), 3);
        // Renumbered from the newest on: ids tell nothing, the count does.
        let renumbered = (0..43).map(|i| entry(&(900 - i).to_string(), Some(5), "Correctable ECC")).collect();
        assert_eq!(news(&first.cursor, renumbered, true).entries.len(), 3);
    }

    #[test]
    fn an_entry_that_vanished_or_was_changed_does_not_repeat_the_rest() {
        let first = news(&LogCursor::default(), (1..=5).map(|i| entry(&i.to_string(), Some(i), &format!("fault {i}"))).collect(), true);
        let resolved = (1..=4).map(|i| entry(&i.to_string(), Some(i), &format!("fault {i}"))).collect();
        let second = news(&first.cursor, resolved, true);
        assert!(second.entries.is_empty() && !second.new_epoch);
    }

    #[test]
    fn a_log_without_times_is_joined_by_a_run() {
        let log = |r: std::ops::Range<i32>| r.map(|i| entry(&format!("x{i}"), None, &format!("m{i}"))).collect::<Vec<_>>();
        let first = news(&LogCursor::default(), log(0..8), true);
        let renumbered: Vec<_> = log(0..10).into_iter().enumerate().map(|(i, e)| LogEntry { id: format!("y{i}"), ..e }).collect();
        assert_eq!(messages(&news(&first.cursor, renumbered, true)), ["m8", "m9"]);
        // One sentence alone proves nothing after a clear: better told twice than lost.
        let cleared = news(&first.cursor, vec![entry("1", None, "m7")], true);
        assert_eq!((cleared.entries.len(), cleared.new_epoch), (1, true));
    }

    #[test]
    fn an_empty_log_is_a_life_of_its_own() {
        let empty = news(&LogCursor::default(), Vec::new(), true);
        assert_eq!(empty.cursor.epoch, "empty");
        let filled = news(&empty.cursor, vec![entry("1", Some(1), "a")], true);
        assert_eq!((filled.entries.len(), filled.new_epoch), (1, false));
        let cleared = news(&filled.cursor, Vec::new(), true);
        assert!(cleared.new_epoch && cleared.may_have_lost && cleared.entries.is_empty());
    }

    proptest::proptest! {
        /// Appends, clears, wraps and renumbering in any order: what was appended and is still kept at a reading is told
        /// exactly once.
        #[test]
        fn c4_no_life_of_a_log_loses_or_repeats_an_entry(acts in proptest::collection::vec(0u8..8, 1..80), numeric: bool) {
            let (mut log, mut cursor, mut next, mut ids) = (Vec::<LogEntry>::new(), LogCursor::default(), 0i64, 0i64);
            let mut told = Vec::<String>::new();
            for act in acts {
                match act {
                    0..=4 => {
                        next += 1;
                        ids += 1;
                        let id = if numeric { ids.to_string() } else { format!("e{:x}", ids * 7919) };
                        log.push(entry(&id, Some(next / 3), &format!("m{next}")));
                        if log.len() > 12 {
                            log.remove(0);
                        }
                    }
                    5 => {
                        log.clear();
                        ids = 0;
                    }
                    6 => {
                        for (i, e) in log.iter_mut().enumerate() {
                            e.id = (i + 1).to_string();
                        }
                        ids = i64::try_from(log.len()).unwrap();
                    }
                    _ => {
                        let news = news(&cursor, log.clone(), true);
                        for e in &news.entries {
                            proptest::prop_assert!(!told.contains(&e.message), "{} was told twice", e.message);
                            told.push(e.message.clone());
                        }
                        for e in &log {
                            proptest::prop_assert!(told.contains(&e.message), "{} was lost", e.message);
                        }
                        cursor = news.cursor;
                    }
                }
            }
        }
    }
}
