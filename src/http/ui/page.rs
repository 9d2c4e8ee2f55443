//! The machine page: one template a section, so that a live update sends only the sections that changed.

use std::time::Duration;

use askama::Template;

use crate::app::view::{BmcView, BootView, EventView, LogLineView, MachineDetail, MachineView, RunView, StepView};
use crate::domain::access::{Actor, Role};
use crate::domain::boot::BootStage;
use crate::domain::machine::{Lifecycle, Verb};
use crate::domain::power::PowerAction;
use crate::domain::time::{Timestamp, spoken};
use crate::domain::work::{RunState, StepState};
use crate::http::ui::bar::Bar;
use crate::http::ui::hardware::Hardware;
use crate::http::ui::row::power_class;
use crate::http::ui::shell::sentence;
use crate::http::ui::text::{Ago, Text, Until, absolute, decimal_bytes};
use crate::http::ui::words::{self, Group, Tone};

/// One part of the page: its element id and its HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub id: &'static str,
    pub html: String,
}

/// Renders every section of a machine's page for one person.
///
/// # Errors
/// askama's, when a template cannot be written.
pub fn sections(detail: &MachineDetail, actor: &Actor, csrf: &str, now: Timestamp) -> askama::Result<Vec<Section>> {
    let m = &detail.machine;
    let run = detail.current_run.as_ref();
    let shown = run.or_else(|| detail.runs.first());
    let of = |id, html: askama::Result<String>| Ok::<_, askama::Error>(Section { id, html: html? });
    Ok(vec![
        of("sec-head", Head::of(m, detail.bmc.as_ref()).render())?,
        of("sec-now", Now::of(m, run, now).render())?,
        of("sec-verbs", Verbs::of(m, detail.bmc.as_ref(), actor, csrf).render())?,
        of("sec-run", RunSection::of(shown, &detail.runs).render())?,
        of("sec-boots", Boots { boots: detail.boots.iter().enumerate().map(|(i, b)| BootLines::of(b, i == 0, now)).collect() }.render())?,
        of("sec-events", Events { events: detail.events.iter().rev().map(EventLine::of).collect() }.render())?,
        of("sec-log", Log { lines: detail.agent_log.iter().map(LogLine::of).collect() }.render())?,
        of("sec-hardware", Hardware::of(detail).render())?,
        of("sec-bmc", Bmc::of(detail.bmc.as_ref()).render())?,
    ])
}

#[derive(Template)]
#[template(path = "ui/machine/head.html")]
struct Head {
    name: Text,
    tone: Tone,
    state: &'static str,
    lifecycle: String,
    place: Option<Text>,
    serial: Option<Text>,
    product: Option<Text>,
    power: &'static str,
    power_class: &'static str,
    power_at: Option<Ago>,
    seen: Option<Ago>,
}

impl Head {
    fn of(m: &MachineView, bmc: Option<&BmcView>) -> Self {
        let product = m.hardware.as_ref().and_then(|h| match (&h.manufacturer, &h.product) {
            (Some(a), Some(b)) => Some(Text::new(&format!("{a} {b}"))),
            (None, Some(one)) | (Some(one), None) => Some(Text::new(one)),
            (None, None) => None,
        });
        Self {
            name: Text::from(&m.name),
            tone: Group::of(m).tone(),
            state: words::state_word(m),
            lifecycle: m.lifecycle.to_string(),
            place: m.place.as_ref().map(Text::from),
            serial: m.serial.as_ref().map(Text::from),
            product,
            power: words::power_word(m.power),
            power_class: power_class(m.power),
            power_at: bmc.and_then(|b| b.power_seen_at).map(Ago),
            seen: m.last_seen_at.map(Ago),
        }
    }
}

#[derive(Template)]
#[template(path = "ui/machine/now.html")]
struct Now {
    tone: Tone,
    doing: Text,
    since: Ago,
    usual: Option<String>,
    note: Option<Text>,
    progress: Option<String>,
    bar: Option<Bar>,
    left: Option<Until>,
    estimate: bool,
    gives_up: Option<Until>,
    slow: Option<String>,
    fault: Option<(Text, Text, Text)>,
    hold: Option<Text>,
    next: String,
}

impl Now {
    fn of(m: &MachineView, run: Option<&RunView>, now: Timestamp) -> Self {
        let running = run.filter(|r| r.state == RunState::Running);
        let step = running.and_then(words::current_step);
        let usual = step.map(words::usual);
        let since = step.and_then(|s| s.started_at);
        let slow = match (usual, since) {
            (Some((usual, true)), Some(since)) if words::is_slow(since, usual, now) => {
                Some(format!("Slower than usual: most take {}.", spoken(usual)))
            }
            _ => None,
        };
        let tone = match Group::of(m).tone() {
            Tone::Working if slow.is_some() => Tone::Warn,
            tone => tone,
        };
        Self {
            tone,
            doing: Text::new(&words::doing(m)),
            since: Ago(since
                .or_else(|| m.fault.as_ref().map(|f| f.at))
                .or_else(|| m.first_seen_at.filter(|_| m.lifecycle == Lifecycle::Discovered))
                .unwrap_or(m.lifecycle_since)),
            usual: usual.map(|(u, measured)| words::usually(u, measured)),
            note: step.map(|s| Text::new(&s.note)).filter(|n| !n.is_empty()),
            progress: step.and_then(counted),
            bar: run.filter(|r| matches!(r.state, RunState::Running | RunState::Failed)).map(Bar::of),
            left: running.and_then(|r| words::expected_end(r, now)).map(Until),
            estimate: running
                .is_some_and(|r| r.steps.iter().any(|s| matches!(s.state, StepState::Pending | StepState::Running) && !words::usual(s).1)),
            gives_up: step.and_then(|s| s.gives_up_at).map(Until),
            slow,
            fault: m.fault.as_ref().map(|f| (Text::new(&sentence(&f.what)), Text::new(&sentence(&f.remedy)), Text::new(&f.code))),
            hold: m.hold.as_ref().map(|h| {
                let until = h.until.map(|t| format!(" until {}", absolute(t))).unwrap_or_default();
                Text::new(&format!("Held by {}{until}: {}", h.owner, h.reason))
            }),
            next: words::next_by_itself(m, run),
        }
    }
}

/// `61 %, 640 MB of 1.1 GB`.
fn counted(step: &StepView) -> Option<String> {
    let p = step.progress.filter(|p| p.total > 0)?;
    // Small totals are counts of disks or files, not bytes.
    if p.total < 4096 {
        Some(format!("{} %, {} of {}", p.percent, p.done, p.total))
    } else {
        Some(format!("{} %, {} of {}", p.percent, decimal_bytes(p.done), decimal_bytes(p.total)))
    }
}

/// A button: what it does, or why it cannot.
struct Button {
    word: &'static str,
    means: &'static str,
    href: String,
    /// Asks on a page of its own first; else the button acts at once.
    asks: bool,
    class: &'static str,
    refused: Option<Text>,
    /// Hidden field `action` of the power form.
    action: Option<PowerAction>,
}

#[derive(Template)]
#[template(path = "ui/machine/verbs.html")]
struct Verbs {
    csrf: String,
    buttons: Vec<Button>,
    power: Vec<Button>,
    power_refused: Option<Text>,
    refused: Vec<Button>,
}

/// The role that a verb needs, as `app::machines` asks for it.
pub fn role_for(verb: Verb) -> Role {
    match verb {
        Verb::Accept | Verb::Power => Role::Tech,
        Verb::Deploy | Verb::Release | Verb::Retry | Verb::Abort | Verb::Forget => Role::Operator,
    }
}

/// Why this person may not ask this of this machine now.
pub fn refusal(m: &MachineView, actor: &Actor, verb: Verb) -> Option<Text> {
    let needed = role_for(verb);
    if actor.role < needed {
        return Some(Text::new(&format!("needs the role {needed}, yours is {}", actor.role)));
    }
    let view = m.verbs.iter().find(|v| v.verb == verb)?;
    if view.allowed { None } else { Some(Text::new(view.reason.as_deref().unwrap_or("not possible now"))) }
}

impl Verbs {
    fn of(m: &MachineView, bmc: Option<&BmcView>, actor: &Actor, csrf: &str) -> Self {
        let order = [Verb::Accept, Verb::Retry, Verb::Deploy, Verb::Abort, Verb::Release, Verb::Forget];
        let all = order.map(|verb| {
            let class = match verb {
                Verb::Accept | Verb::Retry => "primary",
                Verb::Deploy => {
                    if m.lifecycle == Lifecycle::Ready {
                        "primary"
                    } else {
                        ""
                    }
                }
                Verb::Release | Verb::Abort | Verb::Forget => "danger",
                Verb::Power => "",
            };
            Button {
                word: words::verb_word(verb),
                means: words::verb_means(verb),
                href: format!("/machines/{}/{verb}", m.id),
                asks: !matches!(verb, Verb::Accept | Verb::Retry),
                class,
                refused: refusal(m, actor, verb),
                action: None,
            }
        });
        let (buttons, refused) = all.into_iter().partition(|b| b.refused.is_none());
        let power_refused = match bmc {
            None => Some(Text::new("no BMC is known for this machine")),
            Some(_) => refusal(m, actor, Verb::Power),
        };
        let power = words::POWER_ACTIONS
            .into_iter()
            .map(|action| {
                let (word, means, asks) = words::power_action(action);
                Button {
                    word,
                    means,
                    href: format!("/machines/{}/power", m.id),
                    asks,
                    class: if asks { "" } else { "plain" },
                    refused: None,
                    action: Some(action),
                }
            })
            .collect();
        Self { csrf: csrf.to_owned(), buttons, power, power_refused, refused }
    }
}

struct StepLine {
    number: u32,
    title: &'static str,
    kind: String,
    state: &'static str,
    class: String,
    took: Option<String>,
    since: Option<Ago>,
    usual: String,
    attempts: Option<u32>,
    note: Option<Text>,
    progress: Option<String>,
    evidence: Option<Text>,
}

impl StepLine {
    fn of(s: &StepView) -> Self {
        let (usual, measured) = words::usual(s);
        let evidence = match &s.evidence {
            serde_json::Value::Null => None,
            serde_json::Value::Object(o) if o.is_empty() => None,
            value => serde_json::to_string_pretty(value).ok().map(|t| Text::new(&t)),
        };
        Self {
            number: s.index + 1,
            title: words::step_title(s.kind),
            kind: s.kind.to_string(),
            state: words::step_state_word(s.state),
            class: s.state.to_string(),
            took: s.started_at.zip(s.ended_at).map(|(a, b)| short(b.since(a))),
            since: s.started_at.filter(|_| s.state == StepState::Running).map(Ago),
            usual: words::usually(usual, measured),
            attempts: Some(s.attempts).filter(|n| *n > 1),
            note: Some(Text::new(&s.note)).filter(|n| !n.is_empty()),
            progress: counted(s).filter(|_| s.state == StepState::Running),
            evidence,
        }
    }
}

/// `0.4 s`, `12 s`, `3 min 5 s`.
fn short(d: Duration) -> String {
    if d < Duration::from_secs(10) { format!("{:.1} s", d.as_secs_f64()) } else { spoken(d) }
}

struct PastRun {
    noun: &'static str,
    state: &'static str,
    tone: Tone,
    actor: Text,
    started: Ago,
    took: Option<String>,
}

#[derive(Template)]
#[template(path = "ui/machine/run.html")]
struct RunSection {
    run: Option<RunHead>,
    steps: Vec<StepLine>,
    past: Vec<PastRun>,
}

struct RunHead {
    noun: &'static str,
    state: &'static str,
    tone: Tone,
    id: String,
    actor: Text,
    started: Ago,
    took: Option<String>,
}

fn run_tone(state: RunState) -> Tone {
    match state {
        RunState::Running => Tone::Working,
        RunState::Failed => Tone::Crit,
        RunState::Done => Tone::Ok,
        RunState::Aborted => Tone::Off,
    }
}

impl RunSection {
    fn of(shown: Option<&RunView>, runs: &[RunView]) -> Self {
        let past = runs
            .iter()
            .filter(|r| shown.is_none_or(|s| s.id != r.id))
            .map(|r| PastRun {
                noun: words::run_noun(r.kind),
                state: words::run_state_word(r.state),
                tone: run_tone(r.state),
                actor: Text::new(&r.actor),
                started: Ago(r.started_at),
                took: r.ended_at.map(|e| short(e.since(r.started_at))),
            })
            .collect();
        Self {
            run: shown.map(|r| RunHead {
                noun: words::run_noun(r.kind),
                state: words::run_state_word(r.state),
                tone: run_tone(r.state),
                id: r.id.to_string(),
                actor: Text::new(&r.actor),
                started: Ago(r.started_at),
                took: r.ended_at.map(|e| short(e.since(r.started_at))),
            }),
            steps: shown.map(|r| r.steps.iter().map(StepLine::of).collect()).unwrap_or_default(),
            past,
        }
    }
}

struct Mark {
    offset: String,
    word: &'static str,
    stage: String,
    tone: Tone,
    note: Option<Text>,
    count: Option<u32>,
}

/// One boot as lines of a timeline.
pub struct BootLines {
    id: String,
    mac: String,
    client: Option<&'static str>,
    started: Ago,
    at: String,
    /// How far it came.
    reached: &'static str,
    tone: Tone,
    took: String,
    diagnosis: Option<(Tone, Text)>,
    phases: Option<String>,
    marks: Vec<Mark>,
    open: bool,
}

impl BootLines {
    pub fn of(b: &BootView, open: bool, now: Timestamp) -> Self {
        let furthest = b.marks.iter().map(|m| m.stage).max();
        let arrived = furthest.is_some_and(|s| matches!(s, BootStage::Agent | BootStage::LocalDisk | BootStage::System));
        let fresh = now.since(b.last_at) < Duration::from_secs(120);
        let tone = match (&b.diagnosis, arrived, fresh) {
            (Some(d), false, _) => Tone::of_severity(d.severity),
            (_, true, _) => Tone::Ok,
            (None, false, true) => Tone::Working,
            (None, false, false) => Tone::Off,
        };
        let phases: Vec<String> =
            b.phases.iter().map(|p| format!("{} {}", p.name, short(Duration::try_from_secs_f64(p.secs).unwrap_or_default()))).collect();
        let marks = b
            .marks
            .iter()
            .map(|m| Mark {
                offset: format!("+{:.1} s", m.first_at.since(b.started_at).as_secs_f64()),
                word: words::stage_word(m.stage),
                stage: m.stage.to_string(),
                tone: words::stage_tone(m.stage),
                note: Some(Text::new(&m.note)).filter(|n| !n.is_empty()),
                count: Some(m.count).filter(|n| *n > 1),
            })
            .collect();
        Self {
            id: b.id.to_string(),
            mac: b.mac.to_string(),
            client: b.client.map(words::client_word),
            started: Ago(b.started_at),
            at: absolute(b.started_at),
            reached: furthest.map_or("No packet", words::stage_word),
            tone,
            took: short(b.last_at.since(b.started_at)),
            diagnosis: b.diagnosis.as_ref().map(|d| (Tone::of_severity(d.severity), Text::new(&d.text))),
            phases: Some(phases.join(", ")).filter(|p| !p.is_empty()),
            marks,
            open,
        }
    }
}

#[derive(Template)]
#[template(path = "ui/machine/boots.html")]
struct Boots {
    boots: Vec<BootLines>,
}

/// Boots of addresses that belong to no machine.
#[derive(Template)]
#[template(path = "ui/_strays.html")]
pub struct Strays {
    pub boots: Vec<BootLines>,
}

struct EventLine {
    id: String,
    at: Ago,
    tone: Tone,
    severity: String,
    text: Text,
    actor: Text,
    kind: Text,
}

impl EventLine {
    fn of(e: &EventView) -> Self {
        Self {
            id: e.id.to_string(),
            at: Ago(e.at),
            tone: Tone::of_severity(e.severity),
            severity: e.severity.to_string(),
            text: Text::new(&e.text),
            actor: Text::new(&e.actor),
            kind: Text::new(&e.kind),
        }
    }
}

#[derive(Template)]
#[template(path = "ui/machine/events.html")]
struct Events {
    events: Vec<EventLine>,
}

struct LogLine {
    uptime: String,
    class: &'static str,
    text: Text,
}

impl LogLine {
    fn of(l: &LogLineView) -> Self {
        let class = match l.level.as_str() {
            "error" => "crit",
            "warn" => "warn",
            "debug" => "dim",
            _ => "",
        };
        Self { uptime: format!("{:9.3}", l.uptime_secs), class, text: Text::new(&l.text) }
    }
}

#[derive(Template)]
#[template(path = "ui/machine/log.html")]
struct Log {
    lines: Vec<LogLine>,
}

#[derive(Template)]
#[template(path = "ui/machine/bmc.html")]
struct Bmc {
    bmc: Option<BmcLines>,
}

struct BmcLines {
    address: Text,
    user: Text,
    protocol: Option<String>,
    model: Option<Text>,
    firmware: Option<Text>,
    bios: Option<Text>,
    last_ok: Option<Ago>,
    fault: Option<Text>,
    failures: u32,
    paused: Option<Until>,
    pin: Option<String>,
}

impl Bmc {
    fn of(bmc: Option<&BmcView>) -> Self {
        let bmc = bmc.map(|b| BmcLines {
            address: Text::from(&b.address),
            user: Text::new(&b.user),
            protocol: b.protocol.map(|p| match p {
                crate::domain::bmc::BmcProtocol::Redfish => "Redfish".to_owned(),
                crate::domain::bmc::BmcProtocol::Ipmi => "IPMI 2.0".to_owned(),
            }),
            model: join(&b.identity.manufacturer, &b.identity.model),
            firmware: b.identity.bmc_firmware.as_deref().map(Text::new),
            bios: b.identity.bios_version.as_deref().map(Text::new),
            last_ok: b.last_ok_at.map(Ago),
            fault: b.fault.as_deref().map(Text::new),
            failures: b.auth_failures,
            paused: b.paused_until.map(Until),
            pin: b.tls_pin.map(|p| p.to_string()),
        });
        Self { bmc }
    }
}

/// Maker and model in one.
fn join(maker: &Option<String>, model: &Option<String>) -> Option<Text> {
    match (maker, model) {
        (Some(a), Some(b)) => Some(Text::new(&format!("{a} {b}"))),
        (None, Some(one)) | (Some(one), None) => Some(Text::new(one)),
        (None, None) => None,
    }
}
