//! `hostler bmc`: questions to one BMC without a running service.

mod probe;
mod problems;
mod text;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::bmc::{BmcAccess, BmcError, BmcSettings, Bmcs, Scope};
use crate::cli::{CliError, Global, Result, output};
use crate::clock;
use crate::domain::bmc::BmcAddress;
use crate::domain::id::{MachineId, Sha256};
use crate::domain::secret::Secret;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// What a BMC is, what it can do, what it says and what is wrong with it
    Probe(ProbeArgs),
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  hostler bmc probe 10.0.0.5 --user root --password-file pw\n  hostler bmc probe https://10.0.0.5 --user root --password-file - --json >bmc.json\n  hostler bmc probe ipmi://10.0.0.5 --user ADMIN --password-file pw"
)]
pub(super) struct ProbeArgs {
    /// 10.0.0.5, https://10.0.0.5:8000/redfish/v1/Systems/ID, http://127.0.0.1:9000 or ipmi://10.0.0.5:623
    #[arg(value_name = "ADDRESS")]
    address: BmcAddress,
    /// User of the BMC [default: none, for trees that are open]
    #[arg(long, value_name = "NAME", default_value = "")]
    user: String,
    /// File with the password; - reads it from stdin
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// SHA-256 of the certificate's public key that the BMC must show [default: whatever it shows, which is printed]
    #[arg(long, value_name = "HEX")]
    pin: Option<Sha256>,
}

pub(super) fn run(global: &Global, verb: Verb) -> Result<()> {
    let Verb::Probe(args) = verb;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed { what: format!("cannot start: {e}"), hint: String::new() })?;
    runtime.block_on(probe_one(global, args))
}

async fn probe_one(global: &Global, args: ProbeArgs) -> Result<()> {
    let password = match &args.password_file {
        Some(file) => read_password(file)?,
        None if args.user.is_empty() => String::new(),
        None => {
            let what = format!("the password of {} is not given", args.user);
            return Err(CliError::Usage { what, hint: "add --password-file FILE, or - to read it from stdin".into() });
        }
    };
    let access = BmcAccess { address: args.address, user: args.user, password: Secret::new(password), tls_pin: args.pin, prefer: None };
    let bmcs = Bmcs::new(BmcSettings { scope: Scope::Everything, ..BmcSettings::default() });
    let machine = MachineId(clock::fresh_uuid());
    let report = probe::read(&bmcs, machine, &access).await;
    bmcs.close_all().await;
    let report = report.map_err(|e| failed(&e))?;
    if global.json {
        output::json(&report);
    } else {
        text::print(&report);
    }
    match report.failed.len() {
        0 => Ok(()),
        failed => Err(CliError::Partial { failed, all: probe::AREAS }),
    }
}

fn read_password(file: &Path) -> Result<String> {
    if file.as_os_str() == "-" {
        return crate::cli::token::ask_once("BMC password: ");
    }
    let text = std::fs::read_to_string(file)
        .map_err(|e| CliError::Usage { what: format!("cannot read {}: {e}", file.display()), hint: String::new() })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A BMC that cannot be probed at all.
fn failed(error: &BmcError) -> CliError {
    let (what, hint) = (error.to_string(), probe_remedy(error).to_owned());
    match error {
        BmcError::Unreachable { .. } | BmcError::Timeout { .. } => CliError::BmcUnreachable { what, hint },
        BmcError::Unauthorized { .. } | BmcError::Paused { .. } | BmcError::CertificateChanged { .. } => {
            CliError::NotAllowed { what, hint }
        }
        BmcError::Nonsense { .. }
        | BmcError::Refused { .. }
        | BmcError::Busy { .. }
        | BmcError::Unsupported { .. }
        | BmcError::NotEffective { .. } => CliError::Failed { what, hint },
    }
}

/// What can be done about it where there is no machine record.
fn probe_remedy(error: &BmcError) -> &'static str {
    match error {
        BmcError::Unauthorized { .. } | BmcError::Paused { .. } => "check --user and --password-file; two more tries may lock the account",
        BmcError::Unreachable { .. } | BmcError::Timeout { .. } => "check the address, the cable and the management network",
        BmcError::CertificateChanged { .. } => "compare the key with the one printed at first contact; without --pin any key is taken",
        BmcError::Unsupported { .. } => "if it speaks IPMI only, write the address as ipmi://HOST",
        BmcError::Nonsense { .. } | BmcError::Refused { .. } | BmcError::Busy { .. } | BmcError::NotEffective { .. } => "",
    }
}
