//! The simulated rack: product code that serves the demo, the tests and load runs. It speaks the real protocols and can be
//! told to fail.

pub mod bmc;
