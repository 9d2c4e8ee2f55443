//! The ramdisk agent's work on files, captured trees and loop devices. Run with
//! `cargo test --no-default-features --features agent --lib --test agent`; loop devices need root, and are skipped, said so,
//! where there are none.

mod probe;
mod write;
