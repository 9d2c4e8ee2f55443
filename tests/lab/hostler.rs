//! The program under test: the real `hostler`, started, killed and asked from within the test's world as a person would.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::Res;
use crate::net::{BRIDGE, SERVER, Site, World};
use crate::proc::{Proc, output, wait_for};

const BUILT: &str = env!("CARGO_BIN_EXE_hostler");
const LISTEN: &str = "127.0.0.1:8080";

pub struct Hostler<'w> {
    world: &'w World,
    program: PathBuf,
    state: PathBuf,
    args: Vec<String>,
    service: Proc,
}

impl<'w> Hostler<'w> {
    /// Sets the boot files up and starts the service; returns when it answers.
    pub fn start(world: &'w World, site: Site) -> Res<Self> {
        // A link of our own: a build while the test runs must not change the program under test.
        let program = world.dir.join("hostler");
        fs::hard_link(BUILT, &program).or_else(|_| fs::copy(BUILT, &program).map(drop)).map_err(|e| format!("{BUILT}: {e}"))?;
        let state = world.dir.join("state");
        let shown = state.display().to_string();
        let pxe = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pxe");
        output(world.command(&program).args(["netboot", "setup", "--state", &shown, "--pxe", &pxe.display().to_string()]))?;
        let dhcp = match site {
            Site::Router => "dhcp = \"authoritative\"\nrange_start = \"10.77.0.100\"\nrange_end = \"10.77.0.199\"\n",
            Site::DhcpServer => "dhcp = \"proxy\"\n",
        };
        let config = world.dir.join("hostler.toml");
        let text = format!("listen = \"{LISTEN}\"\n\n[netboot]\ninterface = \"{BRIDGE}\"\nlisten = \"{SERVER}:8081\"\n{dhcp}");
        fs::write(&config, text).map_err(|e| format!("{}: {e}", config.display()))?;
        let args: Vec<String> = ["serve", "--state", &shown, "--config", &config.display().to_string()].map(str::to_owned).into();
        let service = Self::spawn(world, &program, &args)?;
        let mut hostler = Self { world, program, state, args, service };
        hostler.wait_until_it_answers()?;
        Ok(hostler)
    }

    fn spawn(world: &World, program: &Path, args: &[String]) -> Res<Proc> {
        let mut command = world.command(program);
        command.args(args).env("HOSTLER__LOG__LEVEL", "info,hostler=debug").env("NO_COLOR", "1");
        Proc::start("hostler serve", &mut command, &world.out.join("hostler.log"))
    }

    fn wait_until_it_answers(&mut self) -> Res<()> {
        wait_for("hostler serve to answer", Duration::from_secs(60), || {
            self.service.check()?;
            Ok(self.cli(&["machine", "list"]).ok().map(drop))
        })
    }

    /// SIGKILL: no time to tidy up. Then a new process on the same state directory.
    pub fn kill_and_restart(&mut self) -> Res<()> {
        self.service.kill();
        self.service = Self::spawn(self.world, &self.program, &self.args)?;
        self.wait_until_it_answers()
    }

    /// `hostler ARGS --json` as a user of this computer with the state directory's token; the answer's JSON.
    pub fn cli(&self, args: &[&str]) -> Res<Value> {
        let mut command = self.world.command(&self.program);
        command.args(args).arg("--json").arg("--state").arg(&self.state);
        let text = output(&mut command)?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        // With --wait, progress may come before: the answer is the last document.
        let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let mut last = Value::Null;
        for document in &mut documents {
            last = document.map_err(|e| format!("hostler {}: not JSON: {e}\n{text}", args.join(" ")))?;
        }
        Ok(last)
    }

    pub fn machine(&self, name: &str) -> Res<Value> {
        self.cli(&["machine", "show", name])
    }

    /// Waits until `probe` says yes to the machine's JSON; keeps what was shown last as `machine.json`.
    pub fn wait_machine<T>(&mut self, name: &str, what: &str, limit: Duration, mut probe: impl FnMut(&Value) -> Res<Option<T>>) -> Res<T> {
        let mut last = Value::Null;
        let done = wait_for(what, limit, || {
            self.service.check()?;
            last = self.machine(name)?;
            probe(&last)
        });
        self.keep(&last);
        done.map_err(|e| format!("{e}\nit last said: {}\nnext: {}", last["why"], last["state"]["next"]))
    }

    /// Keeps a machine's timeline as test output.
    pub fn keep(&self, machine: &Value) {
        let text = serde_json::to_string_pretty(machine).unwrap_or_default();
        fs::write(self.world.out.join("machine.json"), text).ok();
        fs::write(self.world.out.join("timeline.txt"), timeline(machine)).ok();
    }
}

/// The boots and steps of a machine as lines for a reader: seconds since the first, what happened.
fn timeline(machine: &Value) -> String {
    let micros = |v: &Value| v.as_i64().or_else(|| v.as_str().and_then(parse_rfc3339_micros));
    let mut lines: Vec<(i64, String)> = Vec::new();
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    for boot in list(&machine["boots"]) {
        for mark in list(&boot["marks"]) {
            if let Some(at) = micros(&mark["first_at"]) {
                lines.push((at, format!("boot  {} x{} {}", text(&mark["stage"]), mark["count"], text(&mark["note"]))));
            }
        }
    }
    for run in list(&machine["runs"]) {
        for step in list(&run["steps"]) {
            for (key, word) in [("started_at", "begins"), ("ended_at", "ends")] {
                if let Some(at) = micros(&step[key]) {
                    lines.push((
                        at,
                        format!(
                            "run   {} {} {word}: {} {}",
                            text(&run["kind"]),
                            text(&step["kind"]),
                            text(&step["state"]),
                            text(&step["note"])
                        ),
                    ));
                }
            }
        }
    }
    for event in list(&machine["events"]) {
        if let Some(at) = micros(&event["at"]) {
            lines.push((at, format!("event {} {}", text(&event["kind"]), text(&event["text"]))));
        }
    }
    lines.sort();
    let first = lines.first().map_or(0, |(at, _)| *at);
    lines.iter().map(|(at, line)| format!("{:9.2} {line}\n", (at - first) as f64 / 1e6)).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn parse_rfc3339_micros(text: &str) -> Option<i64> {
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1000).ok()
}
