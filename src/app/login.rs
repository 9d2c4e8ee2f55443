//! Passwords and browser sessions: argon2id on a bounded number of threads, back-off per account and address, one answer
//! for every kind of wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::app::{App, AppError, Deed, Result};
use crate::clock;
use crate::domain::access::{Actor, ActorVia};
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::store::access::{Session, User};

/// OWASP password storage cheat sheet: argon2id with 19 MiB, 2 passes, 1 lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Hashes at once: 2 x 19 MiB and about two cores at most, whatever the flood.
const HASHES_AT_ONCE: usize = 2;
/// A login waits at most this long for its turn to be hashed.
const TURN_AFTER: Duration = Duration::from_secs(10);
/// Wrong tries before the first wait, per account and address.
const FREE_TRIES: u32 = 5;
/// Wrong tries before the first wait, per address over all accounts.
const FREE_TRIES_ADDRESS: u32 = 20;
/// Waits double from 1 s up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// A key is forgotten this long after its last wrong try.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Keys kept; a flood from more addresses than this makes room by forgetting the oldest.
const MAX_KEYS: usize = 10_000;
/// Longer passwords are refused before they are hashed.
const MAX_PASSWORD: usize = 1024;
const MIN_PASSWORD: usize = 10;

/// A session ends this long after its last use.
pub const SESSION_IDLE: Duration = Duration::from_secs(30 * 60);
/// A session ends this long after its login, used or not.
pub const SESSION_ABSOLUTE: Duration = Duration::from_secs(12 * 3600);
/// Use of a session is written down at most this often.
const SESSION_NOTE_EVERY: Duration = Duration::from_secs(60);

/// A new session: the cookie's secret and the token that mutating requests must repeat.
pub struct NewSession {
    pub token: Secret<String>,
    pub csrf: String,
    pub actor: Actor,
}

/// Counts wrong tries and bounds the hashing.
pub struct Limiter {
    tries: Mutex<HashMap<String, Tries>>,
    turns: Semaphore,
}

#[derive(Clone, Copy)]
struct Tries {
    wrong: u32,
    last: Timestamp,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { tries: Mutex::default(), turns: Semaphore::new(HASHES_AT_ONCE) }
    }
}

impl Limiter {
    /// How long this key must wait still. A wrong try is booked at once and taken back by [`Limiter::forget`]: tries sent
    /// at the same time count all.
    fn begin(&self, key: &str, free: u32, now: Timestamp) -> std::result::Result<(), Duration> {
        let mut tries = self.tries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if tries.len() >= MAX_KEYS {
            tries.retain(|_, t| now.since(t.last) < FORGET_AFTER);
            if tries.len() >= MAX_KEYS
                && let Some(oldest) = tries.iter().min_by_key(|(_, t)| t.last).map(|(k, _)| k.clone())
            {
                tries.remove(&oldest);
            }
        }
        let entry = tries.entry(key.to_owned()).or_insert(Tries { wrong: 0, last: now });
        if now.since(entry.last) >= FORGET_AFTER {
            entry.wrong = 0;
        }
        let wait = wait_after(entry.wrong, free);
        let waited = now.since(entry.last);
        if waited < wait {
            return Err(wait - waited);
        }
        entry.wrong = entry.wrong.saturating_add(1);
        entry.last = now;
        Ok(())
    }

    fn forget(&self, key: &str) {
        self.tries.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
    }
}

/// 0 for the free tries, then 1, 2, 4 … s.
fn wait_after(wrong: u32, free: u32) -> Duration {
    match wrong.checked_sub(free) {
        None => Duration::ZERO,
        Some(beyond) => Duration::from_secs(1 << beyond.min(10)).min(LONGEST_WAIT),
    }
}

fn hasher() -> Result<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|e| AppError::Internal(format!("argon2 parameters: {e}")))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Hashes a password; about 20 ms of one core in a release build.
pub(crate) fn hash_password(password: &Secret<String>) -> Result<String> {
    let salt: [u8; 16] = clock::random();
    let hash: PasswordHash = hasher()?
        .hash_password_with_salt(password.expose().as_bytes(), &salt)
        .map_err(|e| AppError::Internal(format!("cannot hash a password: {e}")))?;
    Ok(hash.to_string())
}

fn verify(password: &Secret<String>, stored: &str) -> bool {
    let Ok(hash) = PasswordHash::new(stored) else { return false };
    hasher().is_ok_and(|h| h.verify_password(password.expose().as_bytes(), &hash).is_ok())
}

/// What an unknown user's password is compared with, so that the answer takes as long.
fn nobody() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| hash_password(&Secret::new(clock::fresh_token())).unwrap_or_default())
}

/// Whether a new password is acceptable.
///
/// # Errors
/// `Invalid`.
pub fn check_new_password(password: &Secret<String>) -> Result<()> {
    let length = password.expose().chars().count();
    if length < MIN_PASSWORD || password.expose().len() > MAX_PASSWORD {
        return Err(AppError::invalid(
            format!("a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters; this one has {length}"),
            "choose a longer one",
        ));
    }
    Ok(())
}

impl App {
    /// Logs a person in. `from` is the address the request came from.
    ///
    /// # Errors
    /// `BadLogin` for a wrong user or password alike; `LoginPaused` after too many wrong tries.
    pub async fn login(&self, name: &str, password: Secret<String>, from: IpAddr, old_session: Option<&str>) -> Result<NewSession> {
        let limiter = &self.inner.logins;
        let name: String = name.trim().chars().take(200).collect();
        let account = format!("{from} {name}");
        let address = from.to_string();
        let now = clock::now();
        for (key, free) in [(&account, FREE_TRIES), (&address, FREE_TRIES_ADDRESS)] {
            limiter.begin(key, free, now).map_err(|wait| AppError::LoginPaused { wait_secs: wait.as_secs().max(1) })?;
        }
        if password.expose().len() > MAX_PASSWORD {
            return Err(AppError::BadLogin);
        }
        let user = self.store().user_by_name(&name).await?;
        let stored = user.as_ref().map(|u| u.password_hash.clone());
        let right = self
            .hashing(move || match &stored {
                Some(stored) => verify(&password, stored),
                None => verify(&password, nobody()),
            })
            .await?;
        let user = match user {
            Some(user) if right => user,
            Some(_) | None => {
                tracing::warn!(user = %name, %from, "a login failed");
                return Err(AppError::BadLogin);
            }
        };
        limiter.forget(&account);
        limiter.forget(&address);
        let now = clock::now();
        let actor = Actor { user: user.id, name: user.name, role: user.role, via: ActorVia::Session };
        let (token, csrf) = (clock::fresh_token(), clock::fresh_token());
        let mut tx = self.store().begin().await?;
        if let Some(old) = old_session {
            tx.delete_session(old).await?;
        }
        tx.insert_session(&token, actor.user, &csrf, now, now.plus(SESSION_IDLE)).await?;
        let deed = Deed {
            actor: &actor,
            at: now,
            kind: "user.login",
            machine: None,
            run: None,
            object: actor.name.clone(),
            detail: serde_json::json!({ "from": address }),
            text: format!("{} logged in from {from}.", actor.name),
        };
        deed.record(&mut tx).await?;
        tx.commit().await?;
        Ok(NewSession { token: Secret::new(token), csrf, actor })
    }

    /// Whether a person who is logged in knows the password of the account. Wrong tries are slowed down like logins.
    ///
    /// # Errors
    /// `Invalid` for a wrong one, `LoginPaused`.
    pub(crate) async fn check_own_password(&self, user: &User, current: Secret<String>) -> Result<()> {
        let limiter = &self.inner.logins;
        let key = format!("own password of {}", user.name);
        limiter.begin(&key, FREE_TRIES, clock::now()).map_err(|wait| AppError::LoginPaused { wait_secs: wait.as_secs().max(1) })?;
        let stored = user.password_hash.clone();
        let right = current.expose().len() <= MAX_PASSWORD && self.hashing(move || verify(&current, &stored)).await?;
        if !right {
            return Err(AppError::invalid("the current password is wrong", "type the password that you log in with now"));
        }
        limiter.forget(&key);
        Ok(())
    }

    /// The session of a cookie, kept alive by its use; `None` when it ended.
    ///
    /// # Errors
    /// The store's.
    pub async fn session(&self, token: &str) -> Result<Option<Session>> {
        let now = clock::now();
        let Some(session) = self.store().session(token, now).await? else { return Ok(None) };
        let end = session.created_at.plus(SESSION_ABSOLUTE);
        if now >= end {
            return Ok(None);
        }
        if now.since(session.last_seen_at) >= SESSION_NOTE_EVERY {
            let mut tx = self.store().begin().await?;
            tx.extend_session(token, now, now.plus(SESSION_IDLE).min(end)).await?;
            tx.commit().await?;
        }
        Ok(Some(session))
    }

    /// Ends a session on the server's side.
    ///
    /// # Errors
    /// The store's.
    pub async fn logout(&self, token: &str) -> Result<()> {
        let mut tx = self.store().begin().await?;
        tx.delete_session(token).await?;
        Ok(tx.commit().await?)
    }

    /// Runs one hash computation when its turn comes.
    pub(crate) async fn hashing<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let turn = tokio::time::timeout(TURN_AFTER, self.inner.logins.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(AppError::LoginPaused { wait_secs: TURN_AFTER.as_secs() }) };
        tokio::task::spawn_blocking(work).await.map_err(|e| AppError::Internal(format!("the hashing thread ended: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_thousand_tries_in_a_row_at_most_twenty_are_hashed() {
        let limiter = Limiter::default();
        // 1,000 tries at ten a second.
        let hashed = (0..1000).filter(|i| limiter.begin("1.2.3.4 admin", FREE_TRIES, Timestamp(i * 100_000)).is_ok()).count();
        assert!((FREE_TRIES as usize..=20).contains(&hashed), "{hashed}");
    }

    #[test]
    fn waiting_as_told_gives_another_try_and_an_hour_gives_all_of_them() {
        let limiter = Limiter::default();
        let mut now = Timestamp(0);
        for _ in 0..FREE_TRIES {
            assert!(limiter.begin("k", FREE_TRIES, now).is_ok());
        }
        let wait = limiter.begin("k", FREE_TRIES, now).unwrap_err();
        assert_eq!(wait, Duration::from_secs(1));
        now = now.plus(wait);
        assert!(limiter.begin("k", FREE_TRIES, now).is_ok());
        assert_eq!(limiter.begin("k", FREE_TRIES, now), Err(Duration::from_secs(2)));
        now = now.plus(FORGET_AFTER);
        for _ in 0..FREE_TRIES {
            assert!(limiter.begin("k", FREE_TRIES, now).is_ok());
        }
    }

    #[test]
    fn the_table_of_tries_does_not_grow_without_bound() {
        let limiter = Limiter::default();
        for i in 0..MAX_KEYS + 50 {
            assert!(limiter.begin(&i.to_string(), FREE_TRIES, Timestamp(i64::try_from(i).unwrap())).is_ok());
        }
        assert!(limiter.tries.lock().unwrap().len() <= MAX_KEYS);
    }

    #[test]
    fn a_password_is_right_only_for_its_own_hash_and_is_salted() {
        let password = Secret::new("correct horse".to_owned());
        let one = hash_password(&password).unwrap();
        let two = hash_password(&password).unwrap();
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && one != two);
        assert!(verify(&password, &one) && verify(&password, &two));
        assert!(!verify(&Secret::new("wrong horse".to_owned()), &one));
        assert!(!verify(&password, nobody()) && !verify(&password, "") && !verify(&password, "-1"));
    }
}
