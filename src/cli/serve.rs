//! `hostler serve`, `check-config`, `migrate`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{CliError, Global, Result, output};
use crate::server::compose;
use crate::server::config::{Config, Overrides};
use crate::server::shutdown::Ended;
use crate::server::state::StateDir;
use crate::server::telemetry;
use crate::sim::demo::{self, DemoArgs};
use crate::store::Store;

#[derive(Args)]
pub(super) struct ConfigArgs {
    /// Configuration file [default: STATE/hostler.toml, else /etc/hostler/hostler.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  hostler serve\n  hostler serve --state /srv/hostler --listen 0.0.0.0:8080\n  hostler serve --interface eth1 --dhcp proxy"
)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address and port of pages and API [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Interface of the provisioning network; nothing is served there until it is named
    #[arg(long, value_name = "NAME", visible_alias = "netboot-interface")]
    interface: Option<String>,
    /// DHCP on that interface
    #[arg(long, value_parser = ["off", "proxy", "authoritative"])]
    dhcp: Option<String>,
    /// Addresses that authoritative DHCP gives away
    #[arg(long, value_name = "FIRST-LAST", value_parser = parse_range)]
    dhcp_range: Option<(String, String)>,
    /// Address and port of the listener for machines that boot [default: the interface's address, port 8081]
    #[arg(long, value_name = "ADDRESS:PORT")]
    netboot_listen: Option<String>,
}

/// `10.0.0.100-10.0.0.199`.
fn parse_range(text: &str) -> std::result::Result<(String, String), String> {
    let (first, last) = text.split_once('-').ok_or("write it as FIRST-LAST, for example 10.0.0.100-10.0.0.199")?;
    for end in [first, last] {
        end.parse::<std::net::Ipv4Addr>().map_err(|_| format!("{end:?} is not an IPv4 address"))?;
    }
    Ok((first.to_owned(), last.to_owned()))
}

fn load(global: &Global, args: &ConfigArgs, flags: &[(&str, &Option<String>)]) -> Result<Config> {
    let mut settings: Vec<(String, String)> =
        flags.iter().filter_map(|(key, value)| Some(((*key).to_owned(), (*value).clone()?))).collect();
    if let Some(state) = &global.state {
        settings.push(("state".to_owned(), state.display().to_string()));
    }
    let overrides = Overrides { file: args.config.clone(), settings };
    Config::load(&overrides, std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
        .map_err(|e| CliError::Usage { what: e.to_string(), hint: String::new() })
}

pub(super) fn failed(e: &dyn std::error::Error) -> CliError {
    let mut what = e.to_string();
    let mut source = e.source();
    while let Some(inner) = source {
        what.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    CliError::Failed { what, hint: String::new() }
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| failed(&e))
}

pub(super) fn serve(global: &Global, args: &ServeArgs) -> Result<()> {
    let (first, last) = args.dhcp_range.clone().unzip();
    let config = load(
        global,
        &args.config,
        &[
            ("listen", &args.listen),
            ("netboot.interface", &args.interface),
            ("netboot.dhcp", &args.dhcp),
            ("netboot.range_start", &first),
            ("netboot.range_end", &last),
            ("netboot.listen", &args.netboot_listen),
        ],
    )?;
    telemetry::start(&config.log)
        .map_err(|what| CliError::Usage { what, hint: "write for example: info,hostler::bmc=debug".to_owned() })?;
    runtime()?.block_on(async {
        let service = compose::start(&config).await.map_err(|e| failed(&e))?;
        if let Some(password) = &service.first_password {
            output::line(&format!("First start. Log in at {} as admin with the password:", service.url));
            output::line("");
            output::line(&format!("    {}", password.expose()));
            output::line("");
            output::line("It is shown this once; hostler user password admin sets another.");
        }
        match service.run(std::future::pending()).await {
            Ended::InOrder => Ok(()),
            Ended::Badly(what) => Err(CliError::Failed { what, hint: "the log above says more".to_owned() }),
        }
    })
}

pub(super) fn demo(args: &DemoArgs) -> Result<()> {
    runtime()?.block_on(demo::run(args)).map_err(|e| failed(&e))
}

pub(super) fn check_config(global: &Global, args: &ConfigArgs) -> Result<()> {
    let config = load(global, args, &[])?;
    output::facts(&[
        ("state", config.state.display().to_string()),
        ("listen", config.listen.to_string()),
        ("database", if config.database.is_some() { "PostgreSQL".to_owned() } else { "SQLite in the state directory".to_owned() }),
        ("interface", output::or_dash(config.netboot.interface.clone())),
        ("dhcp", format!("{:?}", config.netboot.dhcp).to_lowercase()),
    ]);
    Ok(())
}

pub(super) fn migrate(global: &Global, args: &ConfigArgs) -> Result<()> {
    let config = load(global, args, &[])?;
    runtime()?.block_on(async {
        let _state = StateDir::take(&config.state).map_err(|e| failed(&e))?;
        let store = Store::open(&config.store()).await.map_err(|e| failed(&e))?;
        store.close().await;
        output::line(&format!("the database is at migration {}", crate::store::open::newest_migration()));
        Ok(())
    })
}
