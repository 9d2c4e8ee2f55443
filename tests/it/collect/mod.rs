//! What BMCs say, collected: the store's part on both engines, and the collector against simulated and third-party BMCs.

mod live;
mod store;
