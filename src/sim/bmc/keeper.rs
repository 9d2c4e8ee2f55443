//! What a BMC does by itself: it forgets its sessions when it restarts, and looks at its sensors and updates while something
//! goes on there. A BMC where nothing goes on costs nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::sim::bmc::shared::Shared;
use crate::sim::bmc::{ipmi, redfish};

/// How often a restless board is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub async fn run(shared: Arc<Shared>, redfish: Option<Arc<redfish::Front>>, ipmi: Option<Arc<ipmi::Front>>) {
    loop {
        if shared.must_forget() {
            if let Some(front) = &redfish {
                front.forget_sessions();
            }
            if let Some(front) = &ipmi {
                front.forget_sessions();
            }
        }
        if let Some(until) = shared.away_until()
            && Instant::now() < until
        {
            tokio::time::sleep_until(until.into()).await;
        }
        if shared.is_back() {
            shared.power_is_back();
            shared.board().started(clock::now());
        }
        let watched = shared.events.receiver_count() > 0;
        let restless = shared.has_board() && (watched || shared.board().is_restless(clock::now()));
        if restless {
            // Looked at already: `board` settles it.
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shared.restarts.notified() => {}
            }
        } else {
            tokio::select! {
                () = shared.wake.notified() => {}
                () = shared.restarts.notified() => {}
            }
        }
    }
}
