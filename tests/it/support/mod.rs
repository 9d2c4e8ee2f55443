//! What several tests need: both store engines, and values to fill them with.

pub mod engines;

/// Says that a test, or a part of one, cannot run here. With `HOSTLER_TEST_REQUIRE` (as `tests/run` sets it) that is a
/// failure: a test that is skipped unseen proves nothing.
pub fn skipped(what: &str) {
    assert!(std::env::var_os("HOSTLER_TEST_REQUIRE").is_none(), "{what}");
    println!("skipped: {what}");
}
