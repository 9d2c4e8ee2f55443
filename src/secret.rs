//! Sealed secrets: BMC passwords as they lie in the store.
//!
//! XChaCha20-Poly1305 under one key that lives beside the database as `STATE/key` (mode 0600, made at first start). The
//! associated data names the place (table, row, column), so a sealed value copied to another row does not open there.
//! Text form `v1:` + base64(nonce || ciphertext || tag). A database backup without the key file holds no passwords.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

use crate::domain::secret::Secret;

/// XChaCha20-Poly1305 key, bytes (RFC 8439, section 2.8).
const KEY_BYTES: usize = 32;
/// XChaCha20 nonce, bytes: long enough to be random without a counter (draft-irtf-cfrg-xchacha-03, section 2.1).
const NONCE_BYTES: usize = 24;
/// Poly1305 tag, bytes.
const TAG_BYTES: usize = 16;
const V1: &str = "v1:";

/// Where a sealed value lies. Part of what is authenticated.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub table: &'a str,
    pub row: &'a str,
    pub column: &'a str,
}

impl Place<'_> {
    /// Length-prefixed, so that no two places share one text.
    fn aad(&self) -> Vec<u8> {
        let mut out = b"hostler v1".to_vec();
        for part in [self.table, self.row, self.column] {
            out.extend_from_slice(&(part.len() as u64).to_le_bytes());
            out.extend_from_slice(part.as_bytes());
        }
        out
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot {doing} the key file {}: {source}", path.display())]
    File { path: PathBuf, doing: &'static str, source: std::io::Error },
    #[error("the key file {} can be read by others (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    LooseMode { path: PathBuf, mode: u32 },
    #[error("{} is not a key file of this program: it should be one line of 64 hex digits; restore it from the backup, or move it away and enter the BMC passwords again", path.display())]
    NotAKey { path: PathBuf },
    #[error("a sealed value is damaged: {0}")]
    Damaged(&'static str),
    #[error(
        "a sealed value does not open with this key: the key file does not belong to this database, or the value was moved from another row; enter the password again"
    )]
    WrongKey,
}

/// Seals and opens. A cheap handle.
#[derive(Clone)]
pub struct Sealer {
    cipher: Arc<XChaCha20Poly1305>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    pub fn from_key(key: &Secret<[u8; KEY_BYTES]>) -> Self {
        Self { cipher: Arc::new(XChaCha20Poly1305::new(&Key::from(*key.expose()))) }
    }

    /// Opens `STATE/key`, making it (and the directory, mode 0700) when neither it nor anything in its place exists.
    ///
    /// # Errors
    /// `LooseMode` if group or others have any right on the file; `NotAKey` if it holds something else; `File` for the rest.
    pub fn open(path: &Path) -> Result<Self, SecretError> {
        match read_key(path) {
            Err(SecretError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                create_key(path)?;
                // Read what is there now: another process may have been first, and then its key counts.
                read_key(path)
            }
            other => other,
        }
        .map(|key| Self::from_key(&key))
    }

    pub fn seal(&self, plain: &Secret<String>, place: Place<'_>) -> Result<String, SecretError> {
        let nonce: [u8; NONCE_BYTES] = crate::clock::random();
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: plain.expose().as_bytes(), aad: &place.aad() })
            .map_err(|_| SecretError::Damaged("it is too long to seal"))?;
        Ok(format!("{V1}{}", BASE64.encode([nonce.as_slice(), &sealed].concat())))
    }

    pub fn unseal(&self, sealed: &str, place: Place<'_>) -> Result<Secret<String>, SecretError> {
        let text = sealed.strip_prefix(V1).ok_or(SecretError::Damaged("it does not begin with v1:"))?;
        let bytes = BASE64.decode(text).map_err(|_| SecretError::Damaged("it is not base64"))?;
        if bytes.len() < NONCE_BYTES + TAG_BYTES {
            return Err(SecretError::Damaged("it is cut short"));
        }
        let (nonce, body) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(SecretError::Damaged("it is cut short"))?;
        let plain =
            self.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: &place.aad() }).map_err(|_| SecretError::WrongKey)?;
        String::from_utf8(plain).map(Secret::new).map_err(|_| SecretError::Damaged("it is not text"))
    }
}

fn read_key(path: &Path) -> Result<Secret<[u8; KEY_BYTES]>, SecretError> {
    let fail = |doing| move |source| SecretError::File { path: path.to_owned(), doing, source };
    let file = std::fs::File::open(path).map_err(fail("open"))?;
    let meta = file.metadata().map_err(fail("look at"))?;
    if !meta.is_file() {
        return Err(SecretError::NotAKey { path: path.to_owned() });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(SecretError::LooseMode { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    let mut text = String::new();
    file.take(256).read_to_string(&mut text).map_err(fail("read"))?;
    let mut key = [0; KEY_BYTES];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| SecretError::NotAKey { path: path.to_owned() })?;
    Ok(Secret::new(key))
}

/// Writes a fresh key whole or not at all: a complete, synced temporary file is linked to the name, which fails if the
/// name is taken. A crash leaves at most a stray temporary file, never half a key.
fn create_key(path: &Path) -> Result<(), SecretError> {
    let fail = |doing| move |source| SecretError::File { path: path.to_owned(), doing, source };
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail("make the directory of"))?;
    let temporary = dir.join(format!(".key.{}", crate::clock::fresh_uuid()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(fail("create"))?;
    let written = file
        .set_permissions(std::fs::Permissions::from_mode(0o600))
        .and_then(|()| writeln!(file, "{}", hex::encode(crate::clock::random::<KEY_BYTES>())))
        .and_then(|()| file.sync_all())
        .and_then(|()| match std::fs::hard_link(&temporary, path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        })
        .and_then(|()| std::fs::File::open(dir)?.sync_all())
        .map_err(fail("create"));
    let removed = std::fs::remove_file(&temporary).map_err(fail("remove the temporary copy of"));
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { table: "machines", row: "m1", column: "bmc_password" };

    fn sealer(byte: u8) -> Sealer {
        Sealer::from_key(&Secret::new([byte; KEY_BYTES]))
    }

    #[test]
    fn a_sealed_password_opens_again_in_its_place_and_never_looks_the_same_twice() {
        let password = Secret::new("pässwörd with spaces".to_owned());
        let one = sealer(1).seal(&password, PLACE).unwrap();
        let two = sealer(1).seal(&password, PLACE).unwrap();
        assert!(one.starts_with("v1:") && one != two && !one.contains("pass"));
        assert_eq!(sealer(1).unseal(&one, PLACE).unwrap(), password);
        assert_eq!(sealer(1).unseal(&two, PLACE).unwrap(), password);
    }

    #[test]
    fn the_stored_form_is_pinned() {
        // Written by version 1 with the key 07 07 .. and this place. If this stops opening, add a version.
        let stored = "v1:KXrMo1CFLBhJAopfYC4jPBem677N26cXa9bPLJBSPVoz8vQEDCzsfzw76CRM6g==";
        assert_eq!(sealer(7).unseal(stored, PLACE).unwrap().expose(), "calvin");
    }

    #[test]
    fn a_value_moved_to_another_place_does_not_open() {
        let sealed = sealer(1).seal(&Secret::new("x".to_owned()), PLACE).unwrap();
        for place in [
            Place { row: "m2", ..PLACE },
            Place { column: "user", ..PLACE },
            Place { table: "machine", ..PLACE },
            Place { table: "machinesm", row: "1", ..PLACE },
        ] {
            assert!(matches!(sealer(1).unseal(&sealed, place), Err(SecretError::WrongKey)), "{place:?}");
        }
        assert!(matches!(sealer(2).unseal(&sealed, PLACE), Err(SecretError::WrongKey)));
    }

    #[test]
    fn damage_is_an_error_at_every_length() {
        let sealed = sealer(1).seal(&Secret::new("secret".to_owned()), PLACE).unwrap();
        for end in 0..sealed.len() {
            assert!(sealer(1).unseal(&sealed[..end], PLACE).is_err(), "{end}");
        }
        for bad in ["", "v1:", "v2:AAAA", "v1:!!!!", "hunter2"] {
            assert!(matches!(sealer(1).unseal(bad, PLACE), Err(SecretError::Damaged(_))), "{bad}");
        }
    }

    #[test]
    fn the_key_file_is_made_once_private_and_then_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/key");
        let sealed = Sealer::open(&path).unwrap().seal(&Secret::new("x".to_owned()), PLACE).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(Sealer::open(&path).unwrap().unseal(&sealed, PLACE).unwrap().expose(), "x");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_key_file_others_can_read_is_refused_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        Sealer::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Sealer::open(&path).unwrap_err();
        assert!(matches!(error, SecretError::LooseMode { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_key_file_with_other_contents_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in ["", "hello", "00"] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(Sealer::open(&path), Err(SecretError::NotAKey { .. })), "{text:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
