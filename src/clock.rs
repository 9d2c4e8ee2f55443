//! The one place that reads the wall clock and the random source. Shells (level 3 and up, agent) call it and hand the
//! values down as arguments; `domain`, `wire` and `decide` never import it.

use std::time::Duration;

use rand::RngCore;
use uuid::Uuid;

use crate::domain::id::uuid_v7;
use crate::domain::time::Timestamp;

/// Now, UTC.
pub fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the place that owns the clock")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// `N` bytes from the operating system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::rng().fill_bytes(&mut out);
    out
}

/// A new time-ordered id.
pub fn fresh_uuid() -> Uuid {
    uuid_v7(now(), random())
}

/// 256 random bits as 64 hex digits: tokens, nonces, session keys.
pub fn fresh_token() -> String {
    hex::encode(random::<32>())
}
