//! The program of the netboot ramdisk: its first process, and the module loader that the kernel calls.

use std::process::ExitCode;

use hostler::agent::{init, modules};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let name = args.first().map_or("", String::as_str);
    if name.rsplit('/').next() == Some("modprobe") {
        return ExitCode::from(modules::modprobe(&modules::root(), args.iter().skip(1).map(String::as_str)));
    }
    if std::process::id() == 1 {
        init::run();
    }
    eprintln!(
        "hostler-agent {}: this is the first process of Hostler's netboot ramdisk (see pxe/build), not a command to run",
        env!("CARGO_PKG_VERSION")
    );
    ExitCode::from(2)
}
