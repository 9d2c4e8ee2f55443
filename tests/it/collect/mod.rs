//! What BMCs say, collected: the store's part on both engines, and the collector against simulated and third-party BMCs.

mod faces;
pub mod live;
pub mod seed;
mod store;
