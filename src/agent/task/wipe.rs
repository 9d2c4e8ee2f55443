//! Wipes whole disks and proves it by reading every block back.
//!
//! All disks of the order are found before the first is touched: one that does not match stops the whole order. Disks
//! are wiped beside each other, since a server may have 24.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::json;

use crate::agent::link::Progress;
use crate::agent::task::TaskError;
use crate::agent::task::disk::Devices;
use crate::agent::task::target::{Buffer, Target, is_zero};
use crate::domain::inventory::Disk;
use crate::wire::agent::{WipeDisks, WipeEvidence, WipedDisk};

/// Zeroed in one call; between two calls a withdrawn task stops.
const STRIDE: u64 = 64 << 20;
/// Read back in one call.
const READ: usize = 4 << 20;

/// What was done to one disk.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Wiped {
    pub method: &'static str,
    pub bytes: u64,
    pub read_back_bytes: u64,
    /// Ranges that did not read as zeros after the device's own zeroing and were overwritten.
    pub overwritten_again: u64,
}

/// Wipes the disks of the order; evidence is one object per disk.
///
/// # Errors
/// `refused` for an empty list; as [`Devices::open`] (a disk named twice is in use the second time), before any is touched; `write`, `read_back`,
/// `cancelled`, with the disks that were already done named in the sentence.
pub fn wipe_disks(devices: &Devices, order: &WipeDisks, progress: &Progress) -> Result<serde_json::Value, TaskError> {
    if order.disks.is_empty() {
        return Err(TaskError::for_good("refused", "the order names no disk; nothing was wiped"));
    }
    let mut opened: Vec<(Target, Disk)> = Vec::new();
    for meant in &order.disks {
        let (target, disk) = devices.open(meant)?;
        opened.push((target, disk));
    }
    let total: u64 = opened.iter().map(|(target, _)| target.size_bytes()).sum();
    let tally = Tally { progress, total: total * 2, done: AtomicU64::new(0) };
    let results: Vec<(&Disk, u64, Result<Wiped, TaskError>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = opened
            .iter()
            .map(|(target, disk)| {
                let tally = &tally;
                scope.spawn(move || {
                    let began = Instant::now();
                    let wiped = wipe(target, tally);
                    (disk, began.elapsed().as_secs(), wiped)
                })
            })
            .collect();
        workers
            .into_iter()
            .zip(&opened)
            .map(|(worker, (_, disk))| {
                worker.join().unwrap_or_else(|_| (disk, 0, Err(TaskError::for_now("internal", "the wiping thread died"))))
            })
            .collect()
    });
    let mut evidence = Vec::new();
    let mut failed: Option<TaskError> = None;
    for (disk, secs, result) in results {
        match result {
            Ok(wiped) => evidence.push(WipedDisk {
                disk: disk.name.clone(),
                serial: disk.serial.clone(),
                wwn: disk.wwn.clone(),
                size_bytes: disk.size_bytes,
                method: wiped.method.to_owned(),
                bytes_zeroed: wiped.bytes,
                bytes_read_back: wiped.read_back_bytes,
                overwritten_again: wiped.overwritten_again,
                seconds: secs,
            }),
            Err(e) => failed = Some(TaskError { message: format!("{}: {e}", disk.name), ..e }),
        }
    }
    match failed {
        Some(e) if evidence.is_empty() => Err(e),
        Some(e) => {
            let done: Vec<_> = evidence.iter().map(|wiped| wiped.disk.as_str()).collect();
            Err(TaskError { message: format!("{e} (wiped and read back: {})", done.join(", ")), ..e })
        }
        None => Ok(json!(WipeEvidence { disks: evidence })),
    }
}

struct Tally<'a> {
    progress: &'a Progress,
    total: u64,
    done: AtomicU64,
}

impl Tally<'_> {
    fn add(&self, phase: &str, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.report(phase, done, self.total);
    }

    fn check(&self) -> Result<(), TaskError> {
        if self.progress.is_cancelled() { Err(TaskError::cancelled()) } else { Ok(()) }
    }
}

fn wipe(target: &Target, tally: &Tally<'_>) -> Result<Wiped, TaskError> {
    let size = target.size_bytes();
    let write_error = |at: u64, e: &std::io::Error| TaskError::for_good("write", format!("the disk failed to zero near byte {at}: {e}"));
    let mut at = 0;
    while at < size {
        tally.check()?;
        let len = STRIDE.min(size - at);
        target.zero(at, len).map_err(|e| write_error(at, &e))?;
        tally.add("wipe", len);
        at += len;
    }
    target.sync().map_err(|e| write_error(size, &e))?;
    target.drop_cache().map_err(|e| write_error(size, &e))?;

    let mut buffer = Buffer::new(READ);
    let mut overwritten_again = 0;
    at = 0;
    while at < size {
        tally.check()?;
        let len = usize::try_from((size - at).min(READ as u64)).unwrap_or(READ);
        let bytes = &mut buffer.as_mut_slice()[..len];
        let read_error = |e: std::io::Error| TaskError::for_good("read_back", format!("the disk failed to read back near byte {at}: {e}"));
        target.read_at(bytes, at).map_err(read_error)?;
        if !is_zero(bytes) {
            // The device's own zeroing did not do what it said. Overwrite, and look once more.
            target.write_zeros(at, len as u64).and_then(|()| target.sync()).map_err(|e| write_error(at, &e))?;
            target.read_at(bytes, at).map_err(read_error)?;
            if !is_zero(bytes) {
                return Err(TaskError::for_good(
                    "read_back",
                    format!("the disk keeps old data near byte {at} after it was overwritten with zeros"),
                ));
            }
            overwritten_again += 1;
        }
        tally.add("read_back", len as u64);
        at += len as u64;
    }
    Ok(Wiped { method: target.zeroing().as_str(), bytes: size, read_back_bytes: size, overwritten_again })
}
