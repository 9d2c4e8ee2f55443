//! What is wrong with a simulated BMC, and what was asked of it.

use std::time::Duration;

/// What is wrong with a BMC now. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub reach: Reach,
    /// Answers are JSON of the wrong shape over Redfish, empty over IPMI.
    pub nonsense: bool,
    /// As many answers from now on end in the middle of their body.
    pub cut_answers: u32,
    /// As many answers from now on are a web page with status 200.
    pub web_pages: u32,
    /// Power and boot commands are accepted and change nothing.
    pub accepts_and_does_nothing: bool,
    /// As many answers from now on are "busy" (503, IPMI completion code 0xc0).
    pub busy_answers: u32,
    /// Before every answer.
    pub delay: Duration,
    /// A boot override for once reads back as continuous (sushy-tools).
    pub boot_stays: bool,
    /// A PATCH without `If-Match` is refused with 428.
    pub demands_etag: bool,
    /// The next answers to this many requests with a good session are 401 (seen from HPE).
    pub forgets_session: u32,
    /// The session table is full of sessions that nobody closed.
    pub sessions_full: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    #[default]
    Normal,
    /// Connections are dropped at once; nothing answers over IPMI.
    Dropped,
    /// Connections are taken and never answered; nothing answers over IPMI.
    Silent,
}

/// What was asked of a BMC since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    /// Power and boot commands.
    pub writes: u64,
    pub logins: u64,
    pub refused_logins: u64,
    pub open_sessions: usize,
    /// Most requests that were in flight at the same time.
    pub most_at_once: u32,
    pub locked: bool,
}
