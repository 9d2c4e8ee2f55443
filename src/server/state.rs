//! The state directory: private, used by one service at a time, with the key, the local token and the address file.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::domain::secret::Secret;

const LOCK: &str = "lock";
const TOKEN: &str = "admin.token";
const URL: &str = "url";
const REPLICA: &str = "replica";

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("another hostler uses the state directory {}; stop it, or give this one its own --state directory", path.display())]
    InUse { path: PathBuf },
}

/// The state directory, held by this process until it ends.
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory when it is not there (mode 0700) and takes it for this process.
    ///
    /// # Errors
    /// `InUse`, `Io`.
    pub fn take(path: &Path) -> Result<Self, StateError> {
        let fail = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { doing, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail("make the state directory", path))?;
        let lock_path = path.join(LOCK);
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path).map_err(fail("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(StateError::Io { doing: "lock", path: lock_path, source }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn key_file(&self) -> PathBuf {
        self.path.join("key")
    }

    /// Boot files: loaders, kernel, ramdisk.
    pub fn boot_dir(&self) -> PathBuf {
        self.path.join("boot")
    }

    pub fn artifact_dir(&self) -> PathBuf {
        self.path.join("artifacts")
    }

    /// The lasting name of this state directory's service: made at the first start. It tells the claims of a process that
    /// was killed, which the next one may drop at once, from those of other replicas.
    ///
    /// # Errors
    /// `Io`.
    pub fn replica(&self) -> Result<String, StateError> {
        let path = self.path.join(REPLICA);
        if let Some(name) = read_line(&path) {
            return Ok(name);
        }
        let name = crate::clock::fresh_uuid().to_string();
        write_private(&path, &name)?;
        Ok(name)
    }

    /// Writes the token of the local command line, mode 0600.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_token(&self, token: &Secret<String>) -> Result<(), StateError> {
        write_private(&self.path.join(TOKEN), token.expose())
    }

    /// Writes where the service answers, for the local command line.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_url(&self, url: &str) -> Result<(), StateError> {
        write_private(&self.path.join(URL), url)
    }
}

/// The local token, if this user can read it.
pub fn local_token(state: &Path) -> Option<Secret<String>> {
    read_line(&state.join(TOKEN)).map(Secret::new)
}

/// Where the service of this state directory answers, or answered last.
pub fn local_url(state: &Path) -> Option<String> {
    read_line(&state.join(URL))
}

fn read_line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

/// Whole or not at all: a complete file takes the name.
fn write_private(path: &Path, text: &str) -> Result<(), StateError> {
    let fail = |doing| move |source| StateError::Io { doing, path: path.to_owned(), source };
    let temporary = path.with_extension(format!("tmp-{}", crate::clock::fresh_uuid()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(fail("create"))?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(fail("protect"))?;
    writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(fail("write"))?;
    std::fs::rename(&temporary, path).map_err(fail("rename"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_private_and_serves_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/state");
        let held = StateDir::take(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(StateDir::take(&path), Err(StateError::InUse { .. })));
        drop(held);
        assert!(StateDir::take(&path).is_ok());
    }

    #[test]
    fn a_state_directory_keeps_its_replica_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::take(dir.path()).unwrap().replica().unwrap();
        assert_eq!(StateDir::take(dir.path()).unwrap().replica().unwrap(), first);
    }

    #[test]
    fn the_local_token_can_be_read_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::take(dir.path()).unwrap();
        state.write_token(&Secret::new("one".to_owned())).unwrap();
        state.write_token(&Secret::new("two".to_owned())).unwrap();
        assert_eq!(local_token(dir.path()).unwrap().expose(), "two");
        assert_eq!(std::fs::metadata(dir.path().join(TOKEN)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(local_url(dir.path()), None);
    }
}
