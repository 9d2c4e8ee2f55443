//! Lab tests: Hostler in charge of machines that run real firmware (OVMF, SeaBIOS) behind BMC emulators that are not ours
//! (sushy-tools with libvirt for Redfish, OpenIPMI's ipmi_sim for IPMI), on a network of their own.
//!
//! `cargo test --test lab [-- [--list] [NAME]...]` as root. Each test lives in namespaces of its own (network, mounts,
//! process ids) that end with it, and leaves its consoles, logs and timelines in `target/lab/out/NAME/`.
//! A missing tool skips a test and says which; with `HOSTLER_LAB_REQUIRE=1` (as `tests/run` sets it) that counts as failed.
//!
//! Under TCG a guest's time is not ours: nothing here asserts how long a guest takes, waits are only bounded.

mod cases;
mod hostler;
mod ipmi_bmc;
mod net;
mod proc;
mod redfish_bmc;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;
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
    let chosen: Vec<&cases::Case> =
        cases::ALL.iter().filter(|c| wanted.is_empty() || wanted.iter().any(|w| c.name.contains(w.as_str()))).collect();
    if args.iter().any(|a| a == "--list") {
        for case in cases::ALL {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let require = std::env::var_os("HOSTLER_LAB_REQUIRE").is_some();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in chosen {
        if let Some(missing) = cases::missing_for(case) {
            println!("lab {}: skipped: {missing}", case.name);
            skipped += 1;
            failed += u32::from(require);
            continue;
        }
        println!("lab {}: {}", case.name, case.story);
        let began = Instant::now();
        match run_one(case) {
            Ok(()) => {
                println!("lab {}: passed in {:.0} s", case.name, began.elapsed().as_secs_f64());
                passed += 1;
            }
            Err(why) => {
                println!("lab {}: FAILED after {:.0} s: {why}", case.name, began.elapsed().as_secs_f64());
                println!("lab {}: see {}", case.name, lab_dir().join("out").join(case.name).display());
                failed += 1;
            }
        }
    }
    println!("lab: {passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
