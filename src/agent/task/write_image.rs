//! The order `WriteImage`: find the disk, fetch, write, fit the partition table, grow, seed.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use crate::agent::link::Progress;
use crate::agent::sys;
use crate::agent::task::TaskError;
use crate::agent::task::disk::Devices;
use crate::agent::task::download::{self, Download};
use crate::agent::task::grow::{self, Fitted, Growth};
use crate::agent::task::pipeline::{self, Spec};
use crate::agent::task::seed;
use crate::domain::power::FirmwareKind;
use crate::wire::agent::WriteImage;

/// Where the order is carried out.
#[derive(Clone)]
pub struct Site {
    pub devices: Devices,
    pub http: reqwest::Client,
    /// The server the machine was booted from; images come from nowhere else.
    pub origin: String,
    pub firmware: FirmwareKind,
    /// Where the image's root file system may be mounted.
    pub mount_at: PathBuf,
}

/// Carries out the order; the evidence says what was written, how it was checked, and how long each part took.
///
/// # Errors
/// Before the disk is touched: `refused`, `disk_not_found`, `disk_mismatch`, `disk_too_small`, `download`, `truncated`.
/// After: as [`pipeline::write_image`], [`grow::fit`] and [`seed::put_seed`].
pub async fn write_image(site: Site, order: WriteImage, progress: Progress) -> Result<Value, TaskError> {
    if !order.path.starts_with('/') || order.path.contains("..") {
        return Err(TaskError::for_good("refused", format!("{:?} is not a path on the server; nothing was written", order.path)));
    }
    if let Some(expected) = order.firmware.filter(|expected| *expected != site.firmware) {
        let message = format!("the order is for {expected} firmware, this machine was booted by {}; nothing was written", site.firmware);
        return Err(TaskError::for_good("refused", message));
    }
    let disk = site.devices.find(&order.disk)?;
    if disk.size_bytes < order.raw_size_bytes {
        let message = format!("the image needs {} bytes, {} has {}; nothing was written", order.raw_size_bytes, disk.name, disk.size_bytes);
        return Err(TaskError::for_good("disk_too_small", message));
    }
    let url = format!("{}{}", site.origin, order.path);
    let response = download::open(&site.http, &url, order.size_bytes, &progress).await?;
    let source = download::stream(site.http.clone(), url, response, order.size_bytes, progress.clone());
    let worker = tokio::task::spawn_blocking(move || write(&site, &order, source, &progress));
    worker.await.unwrap_or_else(|e| Err(TaskError::for_now("internal", format!("the writing thread died: {e}"))))
}

fn write(site: &Site, order: &WriteImage, source: Download, progress: &Progress) -> Result<Value, TaskError> {
    let spec = Spec {
        format: order.format,
        size_bytes: order.size_bytes,
        sha256: order.sha256,
        raw_size_bytes: order.raw_size_bytes,
        raw_sha256: order.raw_sha256,
    };
    let began = Instant::now();
    let (target, disk) = site.devices.open(&order.disk)?;
    let written = pipeline::write_image(source, &target, &spec, progress)?;
    let block_bytes = target.block_bytes();
    drop(target);
    let write_secs = began.elapsed().as_secs_f64();

    progress.report("grow", 0, 1);
    let path = site.devices.path(&disk);
    let growth = if order.grow { Growth::LastPartition } else { Growth::None };
    let fitted = grow::fit(&path, block_bytes, growth)?;
    reread(&path)?;
    progress.report("seed", 0, 1);
    let (partitions, grown) = match fitted {
        Some(Fitted { partitions, grown }) => (partitions, grown),
        None => (Vec::new(), None),
    };
    let seeded = match &order.seed {
        Some(seed) => Some(seed::put_seed(&site.devices, &disk, &partitions, Some(seed), order.grow, &site.mount_at)?),
        // Without a seed the root file system is only grown, and that the first boot can do as well.
        None if grown.is_some() => seed::put_seed(&site.devices, &disk, &partitions, None, true, &site.mount_at).ok(),
        None => None,
    };
    progress.report("seed", 1, 1);
    Ok(json!({
        "disk": disk.name, "serial": disk.serial, "wwn": disk.wwn, "size_bytes": disk.size_bytes,
        "sha256": order.sha256, "raw_sha256": order.raw_sha256, "written": written,
        "write_secs": round(write_secs), "total_secs": round(began.elapsed().as_secs_f64()),
        "grown": grown.map(|(number, before, after)| json!({ "partition": number, "from_bytes": before, "to_bytes": after })),
        "root": seeded.map(|s| json!({
            "partition": s.partition, "file_system": s.file_system, "grown": s.grown, "note": s.note, "seeded": order.seed.is_some(),
        })),
    }))
}

fn round(secs: f64) -> f64 {
    (secs * 1000.0).round() / 1000.0
}

/// Has the kernel see the new partitions.
fn reread(path: &std::path::Path) -> Result<(), TaskError> {
    let reread = OpenOptions::new().read(true).open(path).and_then(|disk| sys::reread_partitions(&disk));
    reread.map_err(|e| TaskError::for_good("grow", format!("the kernel does not read the new partition table of {}: {e}", path.display())))
}
