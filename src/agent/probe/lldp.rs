//! Listens for the switches at the other ends of the cables.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::agent::probe::disk::short_text;
use crate::agent::sys;
use crate::domain::inventory::LldpNeighbour;
use crate::wire::lldp::{ETHERTYPE, GROUP, parse_frame};

/// A switch speaks every 30 s (msgTxInterval, 802.1AB 9.2.5.7); a little more than one round.
pub const LISTEN_FOR: Duration = Duration::from_secs(33);

/// The neighbour on `interface`, or `None` if no switch spoke within `limit`.
pub fn hear(sys_root: &Path, interface: &str, limit: Duration) -> Option<LldpNeighbour> {
    let index: u32 = short_text(&sys_root.join("class/net").join(interface).join("ifindex"))?.parse().ok()?;
    let until = Instant::now() + limit;
    let mut frame = [0; 2048];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return None;
        }
        let socket = sys::multicast_listener(index, ETHERTYPE, GROUP, left).ok()?;
        let n = nix::sys::socket::recv(socket.as_raw_fd(), &mut frame, nix::sys::socket::MsgFlags::empty()).ok()?;
        if let Some(found) = parse_frame(&frame[..n]) {
            return Some(found);
        }
    }
}
