//! Images: what can be deployed. The bytes lie in the artifact store, the catalogue rows in the database.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use utoipa::ToSchema;

use crate::app::{App, AppError, Result, need};
use crate::artifact::{ImportError, ImportSpec};
use crate::clock;
use crate::domain::access::{Actor, ActorVia, Role};
use crate::domain::boot::Arch;
use crate::domain::id::{Name, Sha256};
use crate::domain::image::{Image, ImageFormat};
use crate::domain::machine::{Machine, Want};
use crate::domain::power::FirmwareKind;
use crate::domain::time::Timestamp;

/// The account Debian's cloud images give the SSH keys to.
pub const DEFAULT_USER: &str = "debian";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    pub name: Name,
    pub arch: Arch,
    pub format: ImageFormat,
    /// Bytes of the file as served.
    pub size_bytes: u64,
    pub sha256: Sha256,
    /// Bytes on disk once unpacked: a disk must be at least this large.
    pub raw_size_bytes: u64,
    pub raw_sha256: Sha256,
    pub boots_on: Vec<FirmwareKind>,
    /// The account that cloud-init gives the SSH keys to.
    pub default_user: String,
    pub imported_at: Timestamp,
    /// Machines that run it.
    pub machines: usize,
}

/// What the importer says and the file cannot.
#[derive(Clone, Debug)]
pub struct NewImage {
    pub name: Name,
    pub arch: Arch,
    pub sha256: Option<Sha256>,
    pub default_user: String,
    /// Absent: as its partition table says.
    pub boots_on: Option<Vec<FirmwareKind>>,
}

impl From<ImportError> for AppError {
    fn from(e: ImportError) -> Self {
        match e {
            ImportError::NoSpace { .. } => Self::DiskFull,
            ImportError::Receive { .. } | ImportError::Cancelled => Self::invalid(chain(&e), "send the image again"),
            ImportError::Open { .. } => Self::invalid(chain(&e), "the service must be able to read the file; or upload it"),
            e if e.is_fault_of_image() => Self::invalid(chain(&e), "the image was not taken; get or build it again and import that"),
            e => Self::Internal(chain(&e)),
        }
    }
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut source = e.source();
    while let Some(inner) = source {
        out.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    out
}

impl App {
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn images(&self, actor: &Actor) -> Result<Vec<ImageView>> {
        need(actor, Role::Viewer)?;
        let machines = self.store().machines().await?;
        Ok(self.store().images().await?.into_iter().map(|i| view(i, &machines)).collect())
    }

    /// # Errors
    /// `NotFound`, `Forbidden`.
    pub async fn image(&self, actor: &Actor, name: &Name) -> Result<ImageView> {
        need(actor, Role::Viewer)?;
        let image = self.store().image(name).await?.ok_or_else(|| AppError::NotFound { what: "image", text: name.to_string() })?;
        Ok(view(image, &self.store().machines().await?))
    }

    /// Imports the bytes of a stream.
    ///
    /// # Errors
    /// `Invalid` with what is wrong with the image, `Refused` while a machine gets the image of that name, `DiskFull`.
    pub async fn import_image(&self, actor: &Actor, new: NewImage, bytes: impl AsyncRead + Unpin) -> Result<ImageView> {
        let spec = self.import_spec(actor, new).await?;
        let image = self.inner.artifacts.import_stream(bytes, spec, clock::now()).await?;
        self.keep_image(actor, image).await
    }

    /// Imports a file of the service's own computer. For its administrator only: the path is read with the service's
    /// rights.
    ///
    /// # Errors
    /// As [`App::import_image`]; `Forbidden` for everyone who does not hold the local token.
    pub async fn import_image_file(&self, actor: &Actor, new: NewImage, path: &Path) -> Result<ImageView> {
        need(actor, Role::Admin)?;
        if actor.via != ActorVia::Local {
            return Err(AppError::Refused {
                code: "not_local",
                what: "a path on the server is read only for the local command line".to_owned(),
                hint: "upload the file instead".to_owned(),
            });
        }
        if !path.is_absolute() {
            return Err(AppError::invalid(format!("{} is not an absolute path", path.display()), "write the path from / on"));
        }
        let spec = self.import_spec(actor, new).await?;
        let image = self.inner.artifacts.import_file(path, spec, clock::now()).await?;
        self.keep_image(actor, image).await
    }

    async fn import_spec(&self, actor: &Actor, new: NewImage) -> Result<ImportSpec> {
        need(actor, Role::Operator)?;
        let user = new.default_user.trim();
        let fits = (1..=32).contains(&user.len())
            && user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && user.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
        if !fits {
            return Err(AppError::invalid(
                format!("{user:?} is not the name of a user account"),
                "use a-z, 0-9, _ and -, for example debian",
            ));
        }
        if new.boots_on.as_ref().is_some_and(Vec::is_empty) {
            return Err(AppError::invalid(
                "an image that boots on nothing cannot be deployed",
                "leave boots_on out, or name bios, uefi or both",
            ));
        }
        self.not_under_way(&new.name).await?;
        Ok(ImportSpec {
            name: new.name,
            arch: new.arch,
            expected_sha256: new.sha256,
            default_user: user.to_owned(),
            boots_on: new.boots_on,
        })
    }

    async fn keep_image(&self, actor: &Actor, image: Image) -> Result<ImageView> {
        // Asked again: the import may have taken minutes.
        self.not_under_way(&image.name).await?;
        let now = clock::now();
        let before = self.store().image(&image.name).await?;
        let mut tx = self.store().begin().await?;
        tx.put_image(&image).await?;
        let mut deed =
            self.deed(actor, now, "image.imported", image.name.as_str(), format!("{} imported the image {}.", actor.name, image.name));
        deed.detail =
            serde_json::json!({ "sha256": image.sha256, "size_bytes": image.size_bytes, "replaced": before.as_ref().map(|b| b.sha256) });
        deed.record(&mut tx).await?;
        tx.commit().await?;
        if let Some(before) = before {
            self.drop_bytes(&before.sha256).await?;
        }
        Ok(view(image, &self.store().machines().await?))
    }

    /// Removes an image. Machines that run it keep running.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Refused` while a machine is getting it.
    pub async fn remove_image(&self, actor: &Actor, name: &Name) -> Result<()> {
        need(actor, Role::Operator)?;
        let image = self.store().image(name).await?.ok_or_else(|| AppError::NotFound { what: "image", text: name.to_string() })?;
        self.not_under_way(name).await?;
        let now = clock::now();
        let mut tx = self.store().begin().await?;
        tx.delete_image(name).await?;
        let mut deed = self.deed(actor, now, "image.removed", name.as_str(), format!("{} removed the image {name}.", actor.name));
        deed.detail = serde_json::json!({ "sha256": image.sha256 });
        deed.record(&mut tx).await?;
        tx.commit().await?;
        self.drop_bytes(&image.sha256).await
    }

    /// Refuses while a machine waits for this image or writes it.
    async fn not_under_way(&self, name: &Name) -> Result<()> {
        let wanted = |m: &Machine| matches!(&m.want, Want::Deploy(spec) if spec.image == *name);
        match self.store().machines().await?.iter().find(|m| wanted(m)) {
            None => Ok(()),
            Some(m) => Err(AppError::Refused {
                code: "image_in_use",
                what: format!("the image {name} is being deployed on {}", m.name),
                hint: format!("wait until {} is active, or give its run up: hostler machine abort {}", m.name, m.name),
            }),
        }
    }

    /// Takes bytes that no image names any more out of the store.
    async fn drop_bytes(&self, sha256: &Sha256) -> Result<()> {
        if self.store().images().await?.iter().any(|i| i.sha256 == *sha256) {
            return Ok(());
        }
        match self.inner.artifacts.remove(sha256).await {
            Ok(_) => Ok(()),
            Err(e) => {
                // The row is gone, which is what was asked; the bytes only cost room.
                tracing::warn!(error = &e as &dyn std::error::Error, %sha256, "the bytes of a removed image could not be deleted");
                Ok(())
            }
        }
    }
}

fn view(i: Image, machines: &[Machine]) -> ImageView {
    let running = machines.iter().filter(|m| m.image.as_ref() == Some(&i.name)).count();
    ImageView {
        name: i.name,
        arch: i.arch,
        format: i.format,
        size_bytes: i.size_bytes,
        sha256: i.sha256,
        raw_size_bytes: i.raw_size_bytes,
        raw_sha256: i.raw_sha256,
        boots_on: i.boots_on,
        default_user: i.default_user,
        imported_at: i.imported_at,
        machines: running,
    }
}
