//! The segmented progress bar: one segment a step, as wide as its share of the usual time. Drawn as SVG with attributes
//! only, since the content security policy forbids inline styles.

use std::fmt;

use askama::filters::HtmlSafe;

use crate::app::view::{RunBrief, RunView};
use crate::domain::time::Timestamp;
use crate::domain::work::{RunState, StepState};
use crate::http::ui::words;

const WIDTH: u32 = 1000;
const GAP: u32 = 8;
/// No segment is narrower: a step of a second must still be seen.
const NARROWEST: u32 = 22;

#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    segments: Vec<Segment>,
    /// The bar as a sentence, for those who do not see it.
    label: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Segment {
    x: u32,
    width: u32,
    state: StepState,
    fill: Fill,
}

#[derive(Clone, Debug, PartialEq)]
enum Fill {
    None,
    Whole,
    /// Counted: this much of the width.
    Part(u32),
    /// Not counted: grows with the clock, in the browser, up to nine tenths of the usual time.
    Clock {
        since: Timestamp,
        usual_millis: u128,
    },
}

impl Bar {
    /// The bar of a machine page: segments by usual time.
    pub fn of(run: &RunView) -> Self {
        let weights: Vec<f64> = run.steps.iter().map(|s| words::usual(s).0.as_secs_f64()).collect();
        let mut segments = laid_out(&weights);
        for (segment, step) in segments.iter_mut().zip(&run.steps) {
            segment.state = step.state;
            segment.fill = match step.state {
                StepState::Pending | StepState::Skipped => Fill::None,
                StepState::Done | StepState::Failed => Fill::Whole,
                StepState::Running => match (step.progress.filter(|p| p.total > 0), step.started_at) {
                    (Some(p), _) => Fill::Part(segment.width * u32::from(p.percent.min(100)) / 100),
                    (None, Some(since)) => Fill::Clock { since, usual_millis: words::usual(step).0.as_millis() },
                    (None, None) => Fill::None,
                },
            };
        }
        let label = match words::current_step(run) {
            Some(step) if run.state != RunState::Done => {
                let percent = step.progress.map(|p| format!(", {} %", p.percent)).unwrap_or_default();
                format!("Step {} of {}: {}{percent}", step.index + 1, run.steps.len(), words::step_title(step.kind))
            }
            Some(_) | None => format!("All {} steps {}", run.steps.len(), words::run_state_word(run.state)),
        };
        Self { segments, label }
    }

    /// The bar of a list row: equal segments.
    pub fn brief(run: &RunBrief, since: Timestamp, usual_secs: Option<u64>) -> Self {
        let mut segments = laid_out(&vec![1.0; usize::try_from(run.steps.clamp(1, 30)).unwrap_or(1)]);
        let current = run.step_number.saturating_sub(1);
        // What the run's per cent leave over for the running step.
        let part = (u32::from(run.percent) * run.steps).saturating_sub(current * 100).min(100);
        for (index, segment) in (0_u32..).zip(&mut segments) {
            (segment.state, segment.fill) = match index.cmp(&current) {
                std::cmp::Ordering::Less => (StepState::Done, Fill::Whole),
                std::cmp::Ordering::Greater => (StepState::Pending, Fill::None),
                std::cmp::Ordering::Equal if run.state == RunState::Failed => (StepState::Failed, Fill::Whole),
                std::cmp::Ordering::Equal => match (part, usual_secs) {
                    (0, Some(secs)) => (StepState::Running, Fill::Clock { since, usual_millis: u128::from(secs.max(1)) * 1000 }),
                    (part, _) => (StepState::Running, Fill::Part(segment.width * part / 100)),
                },
            };
        }
        let step = run.step.map(|s| format!(": {}", words::step_title(s))).unwrap_or_default();
        Self { segments, label: format!("Step {} of {}{step}", run.step_number, run.steps) }
    }
}

/// Segments side by side over the whole width, by weight but none too narrow to be seen.
fn laid_out(weights: &[f64]) -> Vec<Segment> {
    let count = u32::try_from(weights.len()).unwrap_or(1).clamp(1, 30);
    let sum: f64 = weights.iter().sum::<f64>().max(0.001);
    let free = WIDTH.saturating_sub(count * NARROWEST + (count - 1) * GAP);
    let mut x = 0;
    weights
        .iter()
        .map(|weight| {
            let width = NARROWEST + (f64::from(free) * weight / sum) as u32;
            let segment = Segment { x, width, state: StepState::Pending, fill: Fill::None };
            x += width + GAP;
            segment
        })
        .collect()
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The label holds only our own words.
        write!(f, r#"<svg class="bar" viewBox="0 0 {WIDTH} 10" preserveAspectRatio="none" role="img" aria-label="{}">"#, self.label)?;
        for s in &self.segments {
            write!(f, r#"<rect class="seg {}" x="{}" width="{}" height="10"/>"#, s.state, s.x, s.width)?;
            match &s.fill {
                Fill::None => {}
                Fill::Whole => write!(f, r#"<rect class="fill {}" x="{}" width="{}" height="10"/>"#, s.state, s.x, s.width)?,
                Fill::Part(w) => write!(f, r#"<rect class="fill {}" x="{}" width="{w}" height="10"/>"#, s.state, s.x)?,
                Fill::Clock { since, usual_millis } => {
                    write!(
                        f,
                        r#"<rect class="fill {}" x="{}" width="0" height="10" data-grow="{}" data-since="{}" data-usual="{usual_millis}"/>"#,
                        s.state, s.x, s.width, since.0
                    )?;
                }
            }
        }
        f.write_str("</svg>")
    }
}
impl HtmlSafe for Bar {}
