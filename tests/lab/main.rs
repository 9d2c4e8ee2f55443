//! Lab tests: Hostler in charge of machines that run real firmware (OVMF, SeaBIOS) behind BMC emulators that are not ours
//! (sushy-tools with libvirt for Redfish, OpenIPMI's ipmi_sim for IPMI), on a network of their own.
//!
//! `cargo test --test lab [-- [--list] [NAME]...]` as root. Each test lives in namespaces of its own (network, mounts,
//! process ids) that end with it, and leaves its consoles, logs and timelines in `target/lab/out/NAME/`.
//! A missing tool skips a test and says which; with `HOSTLER_LAB_REQUIRE=1` (as `tests/run` sets it) that counts as failed.
//!
//! Under TCG a guest's time is not ours: nothing here asserts how long a guest takes, waits are only bounded.

mod cases;
mod demo;
mod hostler;
mod ipmi_bmc;
mod net;
mod proc;
mod redfish_bmc;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Everything that goes wrong in the harness is a sentence for the person who reads the test's output.
pub type Res<T> = Result<T, String>;

/// `target/lab`, where the lab keeps what it makes: `venv/`, `out/`, `run/`, and the artifacts that `tests/run` built.
pub fn lab_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/lab")
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().map(String::as_str) == Some("chassis") {
        return ipmi_bmc::chassis_hook(&args[1..]);
    }
    let wanted: Vec<&String> = args.iter().filter(|a| !a.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|w| !cases::ALL.iter().any(|c| c.name.contains(w.as_str()))) {
        eprintln!("lab: no case is named like {unknown:?}; --list shows them");
        return ExitCode::FAILURE;
    }
    let chosen: Vec<&'static cases::Case> =
        cases::ALL.iter().filter(|c| wanted.is_empty() || wanted.iter().any(|w| c.name.contains(w.as_str()))).collect();
    if args.iter().any(|a| a == "--list") {
        for case in cases::ALL {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let require = std::env::var_os("HOSTLER_LAB_REQUIRE").is_some();
    let (passed, failed, skipped) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let queue = Mutex::new(chosen.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let add = |count: &AtomicU32| count.fetch_add(1, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..at_once() {
            scope.spawn(|| {
                while let Some(case) = next() {
                    match run_case(case) {
                        Outcome::Passed => add(&passed),
                        Outcome::Failed => add(&failed),
                        Outcome::Skipped if require => add(&failed),
                        Outcome::Skipped => add(&skipped),
                    };
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("lab: {} passed, {failed} failed, {} skipped", passed.into_inner(), skipped.into_inner());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `HOSTLER_LAB_JOBS`, else two: a machine under test waits as much as it computes.
fn at_once() -> usize {
    std::env::var("HOSTLER_LAB_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(2).max(1)
}

enum Outcome {
    Passed,
    Failed,
    Skipped,
}

fn run_case(case: &'static cases::Case) -> Outcome {
    if let Some(missing) = cases::missing_for(case) {
        println!("lab {}: skipped: {missing}", case.name);
        return Outcome::Skipped;
    }
    println!("lab {}: {}", case.name, case.story);
    let began = Instant::now();
    let ended = run_one(case);
    let secs = began.elapsed().as_secs_f64();
    match ended {
        Ok(()) => {
            println!("lab {}: passed in {secs:.0} s", case.name);
            Outcome::Passed
        }
        Err(why) => {
            println!("lab {}: FAILED after {secs:.0} s: {why}", case.name);
            println!("lab {}: see {}", case.name, lab_dir().join("out").join(case.name).display());
            Outcome::Failed
        }
    }
}

/// On a thread of its own, so that a panic is a failed test and its guards still take everything down.
fn run_one(case: &'static cases::Case) -> Res<()> {
    let thread = std::thread::Builder::new().name(case.name.to_owned()).spawn(move || (case.run)(case));
    let thread = thread.map_err(|e| format!("cannot start a thread: {e}"))?;
    thread.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}
