//! Login sessions (DSP0266, section 13.3.4).

use std::time::{Duration, Instant};

use crate::clock;
use crate::sim::bmc::accounts::Account;

pub const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

/// One login.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: u64,
    token: String,
    pub user: String,
    pub account: u32,
    used: Instant,
}

#[derive(Debug)]
pub struct Sessions {
    list: Vec<Session>,
    last_id: u64,
    cap: usize,
    /// `SessionService.SessionTimeout`.
    pub idle: Duration,
}

impl Sessions {
    pub fn new(cap: usize) -> Self {
        Self { list: Vec::new(), last_id: 0, cap, idle: Duration::from_secs(1800) }
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn clear(&mut self) {
        self.list.clear();
    }

    fn expire(&mut self) {
        let idle = self.idle;
        self.list.retain(|s| s.used.elapsed() < idle);
    }

    /// A new session with its token; `None` when the table is full.
    pub fn open(&mut self, account: &Account) -> Option<(Session, String)> {
        self.expire();
        if self.list.len() >= self.cap {
            return None;
        }
        self.last_id += 1;
        let token = clock::fresh_token();
        let session =
            Session { id: self.last_id, token: token.clone(), user: account.name.clone(), account: account.id, used: Instant::now() };
        self.list.push(session.clone());
        Some((session, token))
    }

    /// The session of a token; it is used now.
    pub fn use_token(&mut self, token: &str) -> Option<Session> {
        self.expire();
        let session = self.list.iter_mut().find(|s| s.token == token)?;
        session.used = Instant::now();
        Some(session.clone())
    }

    pub fn find(&self, id: &str) -> Option<&Session> {
        let id: u64 = id.parse().ok()?;
        self.list.iter().find(|s| s.id == id)
    }

    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.list.iter().map(|s| s.id)
    }

    pub fn close(&mut self, id: u64) {
        self.list.retain(|s| s.id != id);
    }

    /// An account is gone or disabled: so are its sessions.
    pub fn close_of(&mut self, account: u32) {
        self.list.retain(|s| s.account != account);
    }
}
