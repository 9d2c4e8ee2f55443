//! The protocol between the agent in the ramdisk and the service: JSON over HTTP, always dialled by the agent.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /agent/v1/hello` | [`Hello`] | [`Welcome`], or 403 with [`Refusal`] when the boot nonce is unknown, used or too old |
//! | `GET /agent/v1/task?wait_secs=N` (N <= 30) | - | 200 [`Task`], 204 when there is none |
//! | `POST /agent/v1/task/{id}/progress` | [`TaskProgress`] | [`ProgressReply`] |
//! | `POST /agent/v1/task/{id}/result` | [`TaskResult`] | 204; also 204 when the same result was stored before |
//! | `POST /agent/v1/inventory` | [`Inventory`] | 204 |
//! | `POST /agent/v1/log` | [`LogBatch`] | 204 |
//! | `GET /boot/image/{sha256}` | - | the image file, with Range (RFC 9110 section 14) |
//!
//! All but `hello` and the image carry `Authorization: Bearer <token>` from [`Welcome`]. 401 means: say hello again is
//! not possible (the nonce is used up), so stop at the next safe point and reboot. 410 or 404 on a task means: it was
//! withdrawn, drop it.

use serde::{Deserialize, Serialize};

use crate::domain::id::{MachineId, Name, Serial, Sha256, TaskId};
use crate::domain::image::ImageFormat;
use crate::domain::inventory::{DiskRef, Inventory};
use crate::domain::power::FirmwareKind;

/// Protocol version; the service accepts this one and the one before.
pub const PROTOCOL: u32 = 1;

/// Kernel command line words that the boot script sets and the agent reads.
pub const ARG_SERVER: &str = "hostler.server"; // http://10.0.0.1:8081
pub const ARG_NONCE: &str = "hostler.nonce"; // one-time, from the boot script
pub const ARG_BOOTIF: &str = "BOOTIF"; // 01-aa-bb-cc-dd-ee-ff, as PXELINUX and iPXE scripts write it

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// From the kernel command line; good for one hello.
    pub nonce: String,
    /// Random per agent start: a retried hello with the same id gets the same answer.
    pub session: uuid::Uuid,
    pub inventory: Inventory,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    pub machine: MachineId,
    pub name: Name,
    /// Bearer token; good until the machine boots anew or 24 hours passed.
    pub token: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    /// Growing per machine; the agent refuses a task with a lower fence than it has seen.
    pub fence: i64,
    pub order: Order,
}

/// What the agent is told to do. Orders that write carry the disk they mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Read everything again and post it.
    Inventory,
    WriteImage(Box<WriteImage>),
    WipeDisks(WipeDisks),
    /// Make the next boot come from this disk where the agent can (UEFI BootNext/BootOrder), then restart.
    RebootToDisk {
        disk: Option<DiskRef>,
    },
    Reboot,
    PowerOff,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteImage {
    /// Path on the server the agent was booted from, never another host.
    pub path: String,
    pub format: ImageFormat,
    pub size_bytes: u64,
    pub sha256: Sha256,
    pub raw_size_bytes: u64,
    pub raw_sha256: Sha256,
    pub disk: DiskRef,
    /// Grow the last partition and its file system to the end of the disk.
    pub grow: bool,
    pub seed: Option<Seed>,
    pub firmware: Option<FirmwareKind>,
}

/// cloud-init NoCloud seed, written to `/var/lib/cloud/seed/nocloud/` of the root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    pub meta_data: String,
    pub user_data: String,
    /// Ours (phone_home), so that the user's own user-data stays as given.
    pub vendor_data: String,
    pub network_config: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WipeDisks {
    /// Exactly these; an empty list wipes nothing and is an error.
    pub disks: Vec<DiskRef>,
}

/// Evidence of [`Order::WipeDisks`], in [`TaskResult::Ok`]. Fields may be added; what an agent leaves out proves nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WipeEvidence {
    pub disks: Vec<WipedDisk>,
}

/// What was done to one disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WipedDisk {
    /// Kernel name; the disk is known by serial, WWN and size.
    pub disk: String,
    pub serial: Option<Serial>,
    pub wwn: Option<String>,
    pub size_bytes: u64,
    pub method: String,
    pub bytes_zeroed: u64,
    /// Bytes that were read back and are zeros.
    pub bytes_read_back: u64,
    /// Ranges that did not read as zeros after the device's own zeroing and were overwritten.
    pub overwritten_again: u64,
    pub seconds: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskProgress {
    /// Short word for the phase: `write`, `verify`, `grow`, `seed`, `wipe`, `read_back`.
    pub phase: String,
    pub done: u64,
    pub total: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgressReply {
    /// The task was withdrawn: stop at the next safe point and report a failed result with code `cancelled`.
    pub cancel: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum TaskResult {
    Ok {
        evidence: serde_json::Value,
    },
    Failed {
        /// Stable word: `disk_not_found`, `disk_mismatch`, `disk_too_small`, `download`, `hash_mismatch`, `truncated`,
        /// `decompress`, `write`, `read_back`, `grow`, `seed`, `boot_entry`, `fence`, `cancelled`, `refused`, `internal`.
        code: String,
        /// A sentence for a person.
        message: String,
        /// Whether trying again may help (network hiccup) or not (wrong hash).
        retry: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogBatch {
    pub lines: Vec<LogLine>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Seconds since the ramdisk's kernel started: its clock may be wrong.
    pub uptime_secs: f64,
    /// `error`, `warn`, `info`, `debug`.
    pub level: String,
    pub text: String,
}
