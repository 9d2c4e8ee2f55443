//! OS images as the catalogue knows them.

use serde::{Deserialize, Serialize};

use crate::domain::boot::Arch;
use crate::domain::id::{Name, Sha256};
use crate::domain::power::{FirmwareKind, text_form};
use crate::domain::time::Timestamp;

/// How the bytes of an image file are packed. `Qcow2` is converted to `RawZst` at import: the agent writes streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ImageFormat {
    #[serde(rename = "raw")]
    Raw,
    #[serde(rename = "raw.zst")]
    RawZst,
    #[serde(rename = "raw.gz")]
    RawGz,
}
text_form!(ImageFormat { Raw = "raw", RawZst = "raw.zst", RawGz = "raw.gz" });

/// One image that can be deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub name: Name,
    pub arch: Arch,
    pub format: ImageFormat,
    /// Bytes of the file as served.
    pub size_bytes: u64,
    /// Digest of the file as served; also its name in the artifact store.
    pub sha256: Sha256,
    /// Bytes on disk once unpacked: a target disk must be at least this large.
    pub raw_size_bytes: u64,
    /// Digest of the unpacked bytes: what must stand on the disk.
    pub raw_sha256: Sha256,
    pub boots_on: Vec<FirmwareKind>,
    /// The account that cloud-init gives the SSH keys to.
    pub default_user: String,
    pub imported_at: Timestamp,
}
