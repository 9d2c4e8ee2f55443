//! `hostler netboot`: the files that machines boot from.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::{CliError, Global, Result, output};
use crate::netboot::boot_files;
use crate::server::config::default_state;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Copy iPXE from Debian's package, and kernel and ramdisk from pxe/build, into the state directory
    Setup(SetupArgs),
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  hostler netboot setup --pxe target/pxe\n  hostler netboot setup --state /srv/hostler --pxe target/pxe"
)]
pub(super) struct SetupArgs {
    /// Directory that pxe/build wrote kernel and ramdisk to
    #[arg(long, value_name = "DIR")]
    pxe: Option<PathBuf>,
    /// Where iPXE is taken from
    #[arg(long, value_name = "DIR", default_value = boot_files::IPXE_DIR)]
    ipxe: PathBuf,
}

pub(super) fn run(global: &Global, verb: &Verb) -> Result<()> {
    let Verb::Setup(args) = verb;
    let boot_dir = global.state.clone().unwrap_or_else(default_state).join("boot");
    let files = boot_files::set_up(&boot_dir, &args.ipxe, args.pxe.as_deref()).map_err(|e| failed(&e))?;
    for file in &files {
        output::line(&format!("{}  {:>10} bytes  {}", file.sha256, file.size, shown(&boot_dir, &file.name)));
    }
    if !boot_files::has_ramdisk(&boot_dir) {
        output::line("There is no ramdisk yet: run pxe/build OUT, then hostler netboot setup --pxe OUT.");
    }
    output::line("A running service takes them up when it is restarted.");
    Ok(())
}

fn shown(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn failed(e: &dyn std::error::Error) -> CliError {
    let what = match e.source() {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    };
    CliError::Failed { what, hint: String::new() }
}
