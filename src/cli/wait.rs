//! `--wait`: follows runs to their end, with bars on a terminal and one line per step change in a pipe, on stderr.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::app::view::{MachineDetail, MachineView, RunBrief};
use crate::cli::client::Client;
use crate::cli::machine::end_of;
use crate::cli::{CliError, Result, output};
use crate::domain::id::MachineId;
use crate::domain::machine::Lifecycle;
use crate::domain::time::spoken;
use crate::domain::work::RunState;

const LOOK_EVERY: Duration = Duration::from_millis(700);
/// A service that restarts is waited for this long.
const GONE_FOR: Duration = Duration::from_secs(60);

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    State(Lifecycle),
    /// The end of the run that is current now.
    Run,
}

/// Waits until every machine reached its goal.
///
/// # Errors
/// `Failed` (one machine) or `Partial` when runs failed, `WaitOver` at the limit, `Interrupted` at Ctrl-C.
pub(super) async fn until(client: &Client, machines: &[MachineView], goal: Goal, limit: Duration) -> Result<Vec<MachineView>> {
    let mut shown = Shown::new(machines);
    let watched = watch(client, machines, goal, &mut shown);
    let names = machines.iter().map(|m| m.name.to_string()).collect::<Vec<_>>().join(" ");
    let result = tokio::select! {
        result = tokio::time::timeout(limit, watched) => match result {
            Ok(result) => result,
            Err(_) => Err(CliError::WaitOver {
                what: format!("not done within {}; the work goes on", spoken(limit)),
                hint: format!("look at it with: hostler machine why {names}"),
            }),
        },
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted { hint: format!("hostler machine show {names}") }),
    };
    shown.end();
    result
}

async fn watch(client: &Client, machines: &[MachineView], goal: Goal, shown: &mut Shown) -> Result<Vec<MachineView>> {
    let mut left: Vec<MachineId> = machines.iter().map(|m| m.id).collect();
    let mut done = Vec::new();
    let mut failed = Vec::new();
    let mut reached_at = Instant::now();
    while !left.is_empty() {
        let mut still = Vec::new();
        for id in left {
            let detail: MachineDetail = match client.get(&["machines", &id.to_string()], &[]).await {
                Ok(detail) => detail,
                Err(CliError::Unreachable { url, why }) if reached_at.elapsed() < GONE_FOR => {
                    shown.say(&format!("{url} does not answer ({why}); trying again"));
                    still.push(id);
                    continue;
                }
                Err(e) => return Err(e),
            };
            reached_at = Instant::now();
            let m = detail.machine;
            shown.update(&m);
            match verdict(&m, goal) {
                Verdict::Working => still.push(id),
                Verdict::Done => {
                    shown.finish(&m, &format!("{} is {}", m.name, m.lifecycle));
                    done.push(m);
                }
                Verdict::Failed => {
                    let (what, hint) = match &m.fault {
                        Some(fault) => (fault.what.clone(), fault.remedy.clone()),
                        None => (format!("{} is {} now: {}", m.name, m.lifecycle, m.state.sentence), String::new()),
                    };
                    shown.finish(&m, &format!("{} failed: {what}", m.name));
                    failed.push((what, hint));
                }
            }
        }
        left = still;
        if !left.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    match (failed.pop(), machines.len()) {
        (None, _) => Ok(done),
        (Some((what, hint)), 1) => Err(CliError::Failed { what, hint }),
        (Some(_), all) => Err(CliError::Partial { failed: failed.len() + 1, all }),
    }
}

enum Verdict {
    Working,
    Done,
    Failed,
}

fn verdict(m: &MachineView, goal: Goal) -> Verdict {
    let run_state = m.run.as_ref().map(|r| r.state);
    match run_state {
        Some(RunState::Failed | RunState::Aborted) => return Verdict::Failed,
        Some(RunState::Running) => return Verdict::Working,
        Some(RunState::Done) | None => {}
    }
    let wanted = match (goal, &m.run) {
        (Goal::State(state), _) => m.lifecycle == state,
        (Goal::Run, Some(run)) => m.lifecycle == end_of(run.kind),
        (Goal::Run, None) => matches!(m.lifecycle, Lifecycle::Ready | Lifecycle::Active),
    };
    if wanted {
        Verdict::Done
    } else if m.want == "nothing" && m.run.is_none() {
        // Someone aborted it, or took it out of use: nothing will happen any more.
        Verdict::Failed
    } else {
        Verdict::Working
    }
}

/// What the person sees of it.
struct Shown {
    bars: Option<(MultiProgress, HashMap<MachineId, ProgressBar>)>,
    last: HashMap<MachineId, String>,
}

impl Shown {
    fn new(machines: &[MachineView]) -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let style =
                ProgressStyle::with_template("{prefix:20} {bar:30} {pos:>3}%  {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            let bars = machines
                .iter()
                .map(|m| {
                    let bar = all.add(ProgressBar::new(100).with_style(style.clone()).with_prefix(m.name.to_string()));
                    bar.enable_steady_tick(Duration::from_millis(250));
                    (m.id, bar)
                })
                .collect();
            (all, bars)
        });
        Self { bars, last: HashMap::new() }
    }

    fn update(&mut self, m: &MachineView) {
        if let Some((_, bars)) = &self.bars {
            if let Some(bar) = bars.get(&m.id) {
                bar.set_position(m.run.as_ref().map_or(0, |r| u64::from(r.percent)));
                let left = m
                    .run
                    .as_ref()
                    .and_then(|r| r.eta_secs)
                    .map(|s| format!("{} left; ", spoken(Duration::from_secs(s))))
                    .unwrap_or_default();
                bar.set_message(format!("{left}{}", output::plain(&m.state.sentence)));
            }
            return;
        }
        // A line per step change, not per sentence: sentences count seconds.
        let step = m.run.as_ref().map_or_else(|| m.lifecycle.to_string(), step_of);
        if self.last.get(&m.id) != Some(&step) {
            eprintln!("{}: {step}", m.name);
            self.last.insert(m.id, step);
        }
    }

    fn say(&self, text: &str) {
        match &self.bars {
            Some((all, _)) => {
                if all.println(text).is_err() {
                    eprintln!("{text}");
                }
            }
            None => eprintln!("{text}"),
        }
    }

    fn finish(&self, m: &MachineView, text: &str) {
        match self.bars.as_ref().and_then(|(_, bars)| bars.get(&m.id)) {
            Some(bar) => bar.finish_with_message(output::plain(text)),
            None => eprintln!("{}", output::plain(text)),
        }
    }

    fn end(&self) {
        if let Some((_, bars)) = &self.bars {
            for bar in bars.values().filter(|b| !b.is_finished()) {
                bar.abandon();
            }
        }
    }
}

fn step_of(run: &RunBrief) -> String {
    match run.step {
        Some(step) => format!("{} {}/{} {step}", run.kind, run.step_number, run.steps),
        None => format!("{} {}", run.kind, run.state),
    }
}
