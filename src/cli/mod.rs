//! The `hostler` command: the service itself, and a client that speaks the public API only.

mod bmc;
mod client;
mod firmware;
mod hardware;
mod image;
mod image_source;
mod machine;
mod netboot;
mod output;
mod policy;
mod serve;
mod sim;
mod token;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::cli::client::Client;
use crate::http::error::Problem;

/// Exit codes, the same for every verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    NotAllowed = 4,
    /// The state of the machine, or another record, forbids it.
    Conflict = 5,
    /// Some of the batch failed.
    Partial = 6,
    /// The wait ended; the work goes on.
    WaitOver = 7,
    Unreachable = 8,
    Interrupted = 130,
}

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    #[error("the service at {url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("{what}")]
    Usage { what: String, hint: String },
    #[error("{what}")]
    Failed { what: String, hint: String },
    #[error("{what}")]
    BmcUnreachable { what: String, hint: String },
    #[error("{what}")]
    NotAllowed { what: String, hint: String },
    #[error("{what}")]
    WaitOver { what: String, hint: String },
    #[error("interrupted; the work goes on: {hint}")]
    Interrupted { hint: String },
    #[error("{failed} of {all} failed")]
    Partial { failed: usize, all: usize },
}

impl CliError {
    fn exit(&self) -> Exit {
        match self {
            Self::Problem(p) => match p.status {
                404 => Exit::NotFound,
                401 | 403 | 429 => Exit::NotAllowed,
                409 | 412 => Exit::Conflict,
                _ => Exit::Failed,
            },
            Self::Unreachable { .. } | Self::BmcUnreachable { .. } => Exit::Unreachable,
            Self::NotAllowed { .. } => Exit::NotAllowed,
            Self::Usage { .. } => Exit::Usage,
            Self::Failed { .. } => Exit::Failed,
            Self::WaitOver { .. } => Exit::WaitOver,
            Self::Interrupted { .. } => Exit::Interrupted,
            Self::Partial { .. } => Exit::Partial,
        }
    }

    fn hint(&self) -> Option<&str> {
        match self {
            Self::Problem(p) => p.hint.as_deref(),
            Self::Unreachable { .. } => Some("start it with: hostler serve; or name another one with --url or HOSTLER_URL"),
            Self::Usage { hint, .. }
            | Self::Failed { hint, .. }
            | Self::BmcUnreachable { hint, .. }
            | Self::NotAllowed { hint, .. }
            | Self::WaitOver { hint, .. } => Some(hint).filter(|h| !h.is_empty()).map(String::as_str),
            Self::Interrupted { .. } | Self::Partial { .. } => None,
        }
    }

    /// What, each flaw, what to do, and the request's id.
    fn print(&self) {
        eprintln!("hostler: {}", output::plain(&self.to_string()));
        if let Self::Problem(p) = self {
            for flaw in &p.errors {
                let line = flaw.line.map(|n| format!("line {n}: ")).unwrap_or_default();
                let field = flaw.field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default();
                eprintln!("  {line}{field}{}", output::plain(&flaw.message));
            }
        }
        if let Some(hint) = self.hint() {
            eprintln!("  hint: {}", output::plain(hint));
        }
        if let Self::Problem(p) = self
            && let Some(id) = &p.request_id
        {
            eprintln!("  request: {id}");
        }
    }
}

pub type Result<T> = std::result::Result<T, CliError>;

/// Bare-metal provisioning and hardware maintenance.
#[derive(Parser)]
#[command(name = "hostler", version, about, disable_help_subcommand = true, propagate_version = true)]
#[command(
    after_help = "Examples:\n  hostler serve\n  hostler machine list\n  hostler machine deploy r12-u17 --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub --wait"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
pub(crate) struct Global {
    /// State directory of the service on this computer
    #[arg(long, global = true, value_name = "DIR", env = "HOSTLER__STATE")]
    state: Option<PathBuf>,
    /// Address of the service [default: the one of the state directory, else http://127.0.0.1:8080]
    #[arg(long, global = true, env = "HOSTLER_URL", value_name = "URL")]
    url: Option<String>,
    /// File with the API token [default: the token of the state directory, for a service on this computer]
    #[arg(long, global = true, env = "HOSTLER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the API's JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service
    Serve(serve::ServeArgs),
    /// Run the service with a simulated rack, to look around
    Demo(crate::sim::demo::DemoArgs),
    /// Simulated racks and BMCs, and what can be made to happen to them
    Sim(Box<sim::SimCommand>),
    /// Read the configuration and say what is wrong with it
    CheckConfig(serve::ConfigArgs),
    /// Open the database and bring it up to date
    Migrate(serve::ConfigArgs),
    /// Version of this program
    Version,
    /// Files that machines boot from
    #[command(subcommand)]
    Netboot(netboot::Verb),
    /// One BMC, without a running service
    #[command(subcommand)]
    Bmc(bmc::Verb),
    /// Machines
    #[command(subcommand, visible_alias = "machines")]
    Machine(machine::Verb),
    /// OS images
    #[command(subcommand, visible_alias = "images")]
    Image(image::ImageVerb),
    /// Firmware: what models should run, who does, and campaigns that bring machines there
    #[command(subcommand)]
    Firmware(firmware::Verb),
    /// Racks and packing lists
    #[command(subcommand, visible_alias = "rack")]
    Racks(image::RackVerb),
    /// Repair policies: check and compare files
    #[command(subcommand)]
    Policy(policy::Verb),
    /// API tokens
    #[command(subcommand, visible_alias = "tokens")]
    Token(token::TokenVerb),
    /// Users
    #[command(subcommand, visible_alias = "users")]
    User(token::UserVerb),
}

/// Parses the command line and runs it to its exit code.
pub fn main() -> ExitCode {
    // The first install counts; nothing else in this process installs one before.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("hostler: a TLS provider was installed before");
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to stdout with 0, usage errors to stderr with 2.
            let code = if e.use_stderr() { Exit::Usage } else { Exit::Ok };
            if e.print().is_err() {
                return ExitCode::from(Exit::Failed as u8);
            }
            return ExitCode::from(code as u8);
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::from(Exit::Ok as u8),
        Err(e) => {
            e.print();
            ExitCode::from(e.exit() as u8)
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Demo(args) => serve::demo(&args),
        Command::Sim(command) => sim::run(&cli.global, *command),
        Command::Serve(args) => serve::serve(&cli.global, &args),
        Command::CheckConfig(args) => serve::check_config(&cli.global, &args),
        Command::Migrate(args) => serve::migrate(&cli.global, &args),
        Command::Version => {
            output::line(&format!("hostler {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Command::Netboot(verb) => netboot::run(&cli.global, &verb),
        Command::Bmc(verb) => bmc::run(&cli.global, verb),
        Command::Policy(verb) => policy::run(&cli.global, &verb),
        Command::Machine(verb) => speak(&cli.global, async |client| machine::run(&client, verb).await),
        Command::Image(verb) => speak(&cli.global, async |client| image::run_image(&client, verb).await),
        Command::Firmware(verb) => speak(&cli.global, async |client| firmware::run(&client, verb).await),
        Command::Racks(verb) => speak(&cli.global, async |client| image::run_racks(&client, verb).await),
        Command::Token(verb) => speak(&cli.global, async |client| token::run_token(&client, verb).await),
        Command::User(verb) => speak(&cli.global, async |client| token::run_user(&client, verb).await),
    }
}

/// Runs a client command on a small runtime.
fn speak(global: &Global, command: impl AsyncFnOnce(Client) -> Result<()>) -> Result<()> {
    let client = Client::new(global)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed { what: format!("cannot start: {e}"), hint: String::new() })?;
    runtime.block_on(command(client))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn exit_codes_follow_the_problem() {
        let exit =
            |status: u16| CliError::Problem(Box::new(Problem::new(axum::http::StatusCode::from_u16(status).unwrap(), "x", "y"))).exit();
        assert_eq!(
            (exit(404), exit(401), exit(403), exit(409), exit(422), exit(500)),
            (Exit::NotFound, Exit::NotAllowed, Exit::NotAllowed, Exit::Conflict, Exit::Failed, Exit::Failed)
        );
    }
}
