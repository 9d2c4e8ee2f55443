//! Configuration: file, then environment (`HOSTLER__SECTION__KEY`), then flags; later wins. An unknown key is an error that
//! says which key was meant.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::polling::PollSettings;
use crate::domain::id::Mac;
use crate::domain::secret::Secret;
use crate::engine::collect::CollectSettings;
use crate::store::StoreConfig;
use crate::store::retention::Keep;

/// Where the pages and the API are served unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
/// TCP port of the listener for machines that boot.
pub const DEFAULT_NETBOOT_PORT: u16 = 8081;
const FILE_IN_STATE: &str = "hostler.toml";
const SYSTEM_FILE: &str = "/etc/hostler/hostler.toml";
const ENV_PREFIX: &str = "HOSTLER__";

/// Every key there is, for the check of unknown ones. `tests::the_list_of_keys_is_whole` holds it to the structs.
const KEYS: &[&str] = &[
    "listen",
    "state",
    "database",
    "ready_power_off",
    "collect.enabled",
    "collect.power_secs",
    "collect.sensors_secs",
    "collect.logs_secs",
    "collect.parts_secs",
    "collect.sheet_secs",
    "collect.requests_per_minute",
    "collect.at_once",
    "collect.samples_days",
    "collect.rollups_days",
    "keep.runs_days",
    "keep.events_days",
    "keep.audit_days",
    "keep.boots_days",
    "log.format",
    "log.level",
    "netboot.interface",
    "netboot.listen",
    "netboot.url",
    "netboot.server_address",
    "netboot.dhcp",
    "netboot.range_start",
    "netboot.range_end",
    "netboot.router",
    "netboot.dns",
    "netboot.lease_secs",
    "netboot.reservations",
    "netboot.subnets",
    "netboot.dhcp_port",
    "netboot.pxe_port",
    "netboot.tftp_port",
    "netboot.discover",
];

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not TOML: {why}", path.display())]
    Syntax { path: PathBuf, why: String },
    #[error("{from}: there is no setting {key:?}{}", suggestion.as_ref().map(|s| format!("; did you mean {s:?}?")).unwrap_or_default())]
    Unknown { from: String, key: String, suggestion: Option<String> },
    #[error("{from}: {why}")]
    Value { from: String, why: String },
    #[error("{0}")]
    Together(String),
}

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port of the pages and the API.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The state directory: database, key, boot files, images.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// `postgres://user:password@host/database`; a SQLite file in the state directory when absent.
    #[serde(default, deserialize_with = "secret")]
    pub database: Option<Secret<String>>,
    /// Power ready machines off where a BMC can wake them again.
    #[serde(default = "yes")]
    pub ready_power_off: bool,
    #[serde(default)]
    pub log: LogConfig,
    #[serde(default)]
    pub netboot: NetbootConfig,
    #[serde(default)]
    pub collect: CollectConfig,
    #[serde(default)]
    pub keep: KeepConfig,
}

/// How long what happened is kept. Runs that a machine is at are kept always.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepConfig {
    pub runs_days: u32,
    pub events_days: u32,
    /// Who did what: at least as long as events.
    pub audit_days: u32,
    /// Boot timelines.
    pub boots_days: u32,
}

impl Default for KeepConfig {
    fn default() -> Self {
        Self { runs_days: 180, events_days: 365, audit_days: 1095, boots_days: 90 }
    }
}

impl KeepConfig {
    pub fn settings(&self) -> Keep {
        let days = |n: u32| Duration::from_secs(u64::from(n) * 86_400);
        Keep {
            runs: days(self.runs_days),
            events: days(self.events_days),
            audit: days(self.audit_days),
            boots: days(self.boots_days),
            ..Keep::default()
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (key, value) in [
            ("runs_days", self.runs_days),
            ("events_days", self.events_days),
            ("audit_days", self.audit_days),
            ("boots_days", self.boots_days),
        ] {
            if !(1..=36_500).contains(&value) {
                return Err(ConfigError::Together(format!("keep.{key} must be between 1 and 36500")));
            }
        }
        if self.audit_days < self.events_days {
            return Err(ConfigError::Together(
                "keep.audit_days is less than keep.events_days; the audit log outlives the events".to_owned(),
            ));
        }
        Ok(())
    }
}

/// How BMCs are polled. An interval is what is wanted: a BMC that is slow, or whose answers take many requests, is asked less
/// often, so that it gets no more than `requests_per_minute` on average.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollectConfig {
    pub enabled: bool,
    pub power_secs: u32,
    pub sensors_secs: u32,
    pub logs_secs: u32,
    pub parts_secs: u32,
    /// Firmware, BIOS settings and capabilities.
    pub sheet_secs: u32,
    /// At each BMC, on average.
    pub requests_per_minute: f64,
    /// Polls under way at the same time, over all BMCs.
    pub at_once: u32,
    pub samples_days: u32,
    /// Five-minute rollups.
    pub rollups_days: u32,
}

impl Default for CollectConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            power_secs: 70,
            sensors_secs: 60,
            logs_secs: 300,
            parts_secs: 300,
            sheet_secs: 6 * 3600,
            requests_per_minute: 3.0,
            at_once: 192,
            samples_days: 7,
            rollups_days: 90,
        }
    }
}

impl CollectConfig {
    pub fn settings(&self) -> CollectSettings {
        let secs = |n: u32| Duration::from_secs(u64::from(n));
        CollectSettings {
            polls: PollSettings {
                power: secs(self.power_secs),
                sensors: secs(self.sensors_secs),
                logs: secs(self.logs_secs),
                parts: secs(self.parts_secs),
                sheet: secs(self.sheet_secs),
                budget_per_minute: self.requests_per_minute,
            },
            at_once: usize::try_from(self.at_once).unwrap_or(1),
            keep_samples: secs(self.samples_days) * 86_400,
            keep_rollups: secs(self.rollups_days) * 86_400,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let say = |text: String| Err(ConfigError::Together(text));
        for (key, value) in [
            ("power_secs", self.power_secs),
            ("sensors_secs", self.sensors_secs),
            ("logs_secs", self.logs_secs),
            ("parts_secs", self.parts_secs),
            ("sheet_secs", self.sheet_secs),
        ] {
            if !(1..=7 * 86_400).contains(&value) {
                return say(format!("collect.{key} must be between 1 and 604800 (7 days)"));
            }
        }
        if !(0.1..=10_000.0).contains(&self.requests_per_minute) {
            return say("collect.requests_per_minute must be between 0.1 and 10000; 3 is kind to weak BMCs".to_owned());
        }
        if !(1..=4096).contains(&self.at_once) {
            return say("collect.at_once must be between 1 and 4096".to_owned());
        }
        if !(1..=400).contains(&self.samples_days) || !(1..=4000).contains(&self.rollups_days) {
            return say("collect.samples_days must be between 1 and 400, collect.rollups_days between 1 and 4000".to_owned());
        }
        if self.rollups_days < self.samples_days {
            return say(
                "collect.rollups_days is less than collect.samples_days; rollups are what remains when samples are dropped".to_owned()
            );
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or per module: `info,hostler::bmc=debug`.
    pub level: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people on a terminal, JSON lines elsewhere under a supervisor.
    #[default]
    Auto,
    Human,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DhcpMode {
    /// Answers nothing.
    #[default]
    Off,
    /// Boot information only, beside a DHCP server that gives addresses.
    Proxy,
    /// Addresses and boot information.
    Authoritative,
}

/// An address that always goes to the same machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    pub mac: Mac,
    pub address: Ipv4Addr,
}

/// A network behind a DHCP relay agent, in which addresses are given away too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RelayedSubnet {
    pub network: Ipv4Addr,
    pub prefix: u8,
    pub range_start: Ipv4Addr,
    pub range_end: Ipv4Addr,
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
}

/// The provisioning network. Nothing is served there until `interface` or `listen` is given, no DHCP until `dhcp` is.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetbootConfig {
    /// Network interface whose machines boot from here.
    pub interface: Option<String>,
    /// Address and port of the HTTP listener for machines; the interface's address and port 8081 when absent.
    pub listen: Option<SocketAddr>,
    /// What machines are told to fetch from, when it is not simply the listener's address: `http://10.0.0.1:8081`.
    pub url: Option<String>,
    /// What machines are told to be the DHCP and TFTP server, when it is not the interface's address: behind address translation.
    pub server_address: Option<Ipv4Addr>,
    pub dhcp: DhcpMode,
    pub range_start: Option<Ipv4Addr>,
    pub range_end: Option<Ipv4Addr>,
    pub router: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub lease_secs: u32,
    pub reservations: Vec<Reservation>,
    pub subnets: Vec<RelayedSubnet>,
    pub dhcp_port: u16,
    /// Second port of proxyDHCP (PXE boot server discovery).
    pub pxe_port: u16,
    pub tftp_port: u16,
    /// Lead unknown machines into the ramdisk, which touches no disk.
    pub discover: bool,
}

impl Default for NetbootConfig {
    fn default() -> Self {
        Self {
            interface: None,
            listen: None,
            url: None,
            server_address: None,
            dhcp: DhcpMode::Off,
            range_start: None,
            range_end: None,
            router: None,
            dns: Vec::new(),
            lease_secs: 3600,
            reservations: Vec::new(),
            subnets: Vec::new(),
            dhcp_port: 67,
            pxe_port: 4011,
            tftp_port: 69,
            discover: true,
        }
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn secret<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Secret<String>>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(Secret::new))
}

fn yes() -> bool {
    true
}

/// `/var/lib/hostler` for root, else `$XDG_STATE_HOME/hostler` or `~/.local/state/hostler`.
pub fn default_state() -> PathBuf {
    let home = || std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute());
    let xdg = || std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    if is_root() {
        return PathBuf::from("/var/lib/hostler");
    }
    xdg().or_else(|| home().map(|h| h.join(".local/state"))).unwrap_or_else(|| PathBuf::from(".")).join("hostler")
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// What the command line says; it wins over everything.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub file: Option<PathBuf>,
    /// Key and TOML value or plain text.
    pub settings: Vec<(String, String)>,
}

impl Config {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a value that does not fit, or settings that do not fit together.
    pub fn load(overrides: &Overrides, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let env: Vec<(String, String)> =
            env.filter_map(|(k, v)| Some((k.strip_prefix(ENV_PREFIX)?.to_ascii_lowercase().replace("__", "."), v))).collect();
        let flags = &overrides.settings;
        let mut table = match Self::file(overrides, &env)? {
            Some(path) => read_file(&path)?,
            None => toml::Table::new(),
        };
        for (key, value) in &env {
            put(&mut table, key, value, &format!("the environment variable {ENV_PREFIX}{}", key.to_ascii_uppercase().replace('.', "__")))?;
        }
        for (key, value) in flags {
            put(&mut table, key, value, "the command line")?;
        }
        // The error quotes the value only for what is no secret: `database` is text and cannot fail here.
        let config: Self = table
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError::Value { from: "the configuration".to_owned(), why: e.message().to_owned() })?;
        config.check()?;
        Ok(config)
    }

    /// The file named, else the one in the state directory, else the system's.
    fn file(overrides: &Overrides, env: &[(String, String)]) -> Result<Option<PathBuf>, ConfigError> {
        if let Some(file) = &overrides.file {
            return Ok(Some(file.clone()));
        }
        let state =
            overrides.settings.iter().chain(env).find(|(k, _)| k == "state").map(|(_, v)| PathBuf::from(v)).unwrap_or_else(default_state);
        Ok([state.join(FILE_IN_STATE), PathBuf::from(SYSTEM_FILE)].into_iter().find(|p| p.is_file()))
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.collect.check()?;
        self.keep.check()?;
        let n = &self.netboot;
        let say = |text: &str| Err(ConfigError::Together(text.to_owned()));
        if n.dhcp != DhcpMode::Off && n.interface.is_none() {
            return say("netboot.dhcp is on but netboot.interface is not named; DHCP answers on one named interface only");
        }
        if n.dhcp != DhcpMode::Authoritative && !n.subnets.is_empty() {
            return say("netboot.subnets is for netboot.dhcp = \"authoritative\": no other mode gives addresses");
        }
        if n.dhcp == DhcpMode::Authoritative {
            let (Some(start), Some(end)) = (n.range_start, n.range_end) else {
                return say("netboot.dhcp = \"authoritative\" needs netboot.range_start and netboot.range_end");
            };
            if start > end {
                return say("netboot.range_start is above netboot.range_end");
            }
            if u32::from(end) - u32::from(start) > 65_535 {
                return say("netboot.range_start to range_end is more than 65,536 addresses");
            }
        }
        if !(60..=30 * 24 * 3600).contains(&n.lease_secs) {
            return say("netboot.lease_secs must be between 60 and 2592000 (30 days)");
        }
        if let Some(url) = &n.url
            && !(url.starts_with("http://") && url.len() > 7 && !url.ends_with('/'))
        {
            return say("netboot.url is written like http://10.0.0.1:8081, without a slash at the end; firmware fetches by plain HTTP");
        }
        if let Some(database) = &self.database
            && !database.expose().starts_with("postgres://")
            && !database.expose().starts_with("postgresql://")
        {
            return say("database is written like postgres://user:password@host/database; leave it out for SQLite in the state directory");
        }
        Ok(())
    }

    pub fn store(&self) -> StoreConfig {
        match &self.database {
            Some(url) => StoreConfig::Postgres { url: url.clone() },
            None => StoreConfig::Sqlite { path: self.state.join("hostler.db") },
        }
    }
}

fn read_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), why: e.to_string() })?;
    let from = path.display().to_string();
    for (key, value) in &table {
        match value {
            toml::Value::Table(section) => section.keys().try_for_each(|k| known(&format!("{key}.{k}"), &from))?,
            _ => known(key, &from)?,
        }
    }
    Ok(table)
}

/// Sets `section.key` from text: a TOML value where it reads as one, else the text itself.
fn put(table: &mut toml::Table, key: &str, text: &str, from: &str) -> Result<(), ConfigError> {
    known(key, from)?;
    let value = format!("v = {text}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let value = match value {
        // 127.0.0.1 reads as no TOML value, but a bare number for a text key would: those keys are named.
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_)
            if matches!(key, "netboot.interface" | "state" | "log.level") =>
        {
            toml::Value::String(text.to_owned())
        }
        other => other,
    };
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((section, key)) => {
            let section = table.entry(section.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let Some(section) = section.as_table_mut() else {
                return Err(ConfigError::Value {
                    from: from.to_owned(),
                    why: format!("{key} belongs into a section, but the file has a value there"),
                });
            };
            section.insert(key.to_owned(), value);
        }
    }
    Ok(())
}

fn known(key: &str, from: &str) -> Result<(), ConfigError> {
    if KEYS.contains(&key) {
        return Ok(());
    }
    let nearest = KEYS
        .iter()
        .map(|k| (strsim::damerau_levenshtein(key, k), *k))
        .chain(KEYS.iter().filter_map(|k| Some((strsim::damerau_levenshtein(key, k.split_once('.')?.1), *k))))
        .min();
    let suggestion = nearest.filter(|(distance, _)| *distance <= 3).map(|(_, k)| k.to_owned());
    Err(ConfigError::Unknown { from: from.to_owned(), key: key.to_owned(), suggestion })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hostler.toml");
        std::fs::write(&path, file).unwrap();
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        Config::load(&Overrides { file: Some(path), settings: own(flags) }, own(env).into_iter())
    }

    #[test]
    fn without_settings_it_listens_on_loopback_only_and_answers_no_dhcp() {
        let config = load("", &[], &[]).unwrap();
        assert!(config.listen.ip().is_loopback());
        assert_eq!((config.netboot.dhcp, config.netboot.interface, config.netboot.listen), (DhcpMode::Off, None, None));
        assert_eq!(config.listen.to_string(), DEFAULT_LISTEN);
    }

    #[test]
    fn flags_win_over_environment_and_environment_over_the_file() {
        let config = load(
            "listen = \"127.0.0.1:1\"\n[netboot]\ntftp_port = 1069\ndhcp_port = 1067",
            &[("HOSTLER__LISTEN", "127.0.0.1:2"), ("HOSTLER__NETBOOT__DHCP_PORT", "2067"), ("HOSTLER_URL", "x")],
            &[("listen", "127.0.0.1:3")],
        )
        .unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!((config.netboot.tftp_port, config.netboot.dhcp_port), (1069, 2067));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_says_what_was_meant() {
        let error = load("[netboot]\ninterfase = \"eth1\"", &[], &[]).unwrap_err().to_string();
        assert!(error.contains("did you mean \"netboot.interface\"?"), "{error}");
        let error = load("", &[("HOSTLER__LISTNE", "x")], &[]).unwrap_err().to_string();
        assert!(error.contains("HOSTLER__LISTNE") && error.contains("\"listen\""), "{error}");
        let error = load("colour = 1", &[], &[]).unwrap_err().to_string();
        assert!(error.contains("\"colour\"") && !error.contains("mean"), "{error}");
    }

    #[test]
    fn dhcp_without_a_named_interface_is_refused() {
        assert!(matches!(load("[netboot]\ndhcp = \"proxy\"", &[], &[]), Err(ConfigError::Together(_))));
        assert!(load("[netboot]\ndhcp = \"proxy\"\ninterface = \"eth1\"", &[], &[]).is_ok());
        assert!(load("[netboot]\ndhcp = \"authoritative\"\ninterface = \"eth1\"", &[], &[]).is_err());
        assert!(
            load(
                "[netboot]\ndhcp = \"authoritative\"\ninterface = \"eth1\"\nrange_start = \"10.0.0.9\"\nrange_end = \"10.0.0.5\"",
                &[],
                &[]
            )
            .is_err()
        );
    }

    #[test]
    fn reservations_and_lists_are_read() {
        let config = load(
            "[netboot]\ndns = [\"10.0.0.1\"]\n[[netboot.reservations]]\nmac = \"52:54:00:77:00:01\"\naddress = \"10.0.0.7\"",
            &[],
            &[],
        )
        .unwrap();
        assert_eq!(config.netboot.reservations[0].address, Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(config.netboot.dns.len(), 1);
    }

    #[test]
    fn subnets_behind_relays_need_the_mode_that_gives_addresses() {
        let subnet = "[[netboot.subnets]]\nnetwork = \"10.1.0.0\"\nprefix = 24\nrange_start = \"10.1.0.100\"\nrange_end = \"10.1.0.199\"";
        let whole = format!(
            "[netboot]\ndhcp = \"authoritative\"\ninterface = \"eth1\"\nrange_start = \"10.0.0.5\"\nrange_end = \"10.0.0.9\"\n{subnet}"
        );
        assert_eq!(load(&whole, &[], &[]).unwrap().netboot.subnets[0].prefix, 24);
        let proxy = format!("[netboot]\ndhcp = \"proxy\"\ninterface = \"eth1\"\n{subnet}");
        assert!(matches!(load(&proxy, &[], &[]), Err(ConfigError::Together(_))));
    }

    #[test]
    fn the_database_password_is_not_shown() {
        let config = load("database = \"postgres://u:hunter2@h/d\"", &[], &[]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let error = load("database = \"mysql://u:hunter2@h/d\"", &[], &[]).unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn polling_is_on_by_default_and_its_settings_are_checked() {
        let config = load("", &[], &[]).unwrap();
        assert!(config.collect.enabled);
        assert_eq!(config.collect.settings(), CollectSettings::default());
        assert_eq!(config.keep.settings(), Keep::default());
        assert!(load("[keep]\naudit_days = 30", &[], &[]).is_err(), "the audit log outlives the events");
        let config = load("[collect]\nsensors_secs = 30", &[("HOSTLER__COLLECT__REQUESTS_PER_MINUTE", "6")], &[]).unwrap();
        assert_eq!((config.collect.sensors_secs, config.collect.requests_per_minute), (30, 6.0));
        for bad in ["power_secs = 0", "requests_per_minute = 0", "at_once = 100000", "rollups_days = 3", "sensor_secs = 5"] {
            assert!(load(&format!("[collect]\n{bad}"), &[], &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_list_of_keys_is_whole() {
        let default = serde_json::to_value(NetbootConfig::default()).unwrap();
        let mut keys: Vec<String> = default.as_object().unwrap().keys().map(|k| format!("netboot.{k}")).collect();
        let collect = serde_json::to_value(CollectConfig::default()).unwrap();
        keys.extend(collect.as_object().unwrap().keys().map(|k| format!("collect.{k}")));
        let keep = serde_json::to_value(KeepConfig::default()).unwrap();
        keys.extend(keep.as_object().unwrap().keys().map(|k| format!("keep.{k}")));
        keys.extend(serde_json::to_value(LogConfig::default()).unwrap().as_object().unwrap().keys().map(|k| format!("log.{k}")));
        keys.extend(["listen", "state", "database", "ready_power_off"].map(str::to_owned));
        keys.sort();
        let mut listed: Vec<&str> = KEYS.to_vec();
        listed.sort_unstable();
        assert_eq!(keys, listed);
    }
}
