//! A sparkline: a sensor's last hours as a small SVG, drawn here so that it needs no script and no inline style.

use std::fmt;

use askama::filters::HtmlSafe;

use crate::domain::reading::Sample;
use crate::domain::time::Timestamp;

const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 26.0;
const EDGE: f64 = 2.0;
/// Columns into which samples are gathered; more cannot be seen at this width.
const COLUMNS: usize = 60;

/// Lines, one for each stretch without a gap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spark {
    lines: Vec<String>,
    /// The last hours in words.
    label: String,
}

impl Spark {
    /// `unit` is the symbol behind numbers. Gaps, where the BMC gave no value that can be believed, stay gaps.
    pub fn of(samples: &[Sample], from: Timestamp, to: Timestamp, unit: &str) -> Option<Self> {
        let span = to.since(from).as_secs_f64();
        let values: Vec<(f64, f64)> =
            samples.iter().filter_map(|s| Some((s.at.since(from).as_secs_f64() / span, s.point.good()?))).collect();
        let low = values.iter().map(|v| v.1).fold(f64::INFINITY, f64::min);
        let high = values.iter().map(|v| v.1).fold(f64::NEG_INFINITY, f64::max);
        if values.is_empty() || !span.is_normal() || !low.is_finite() || !high.is_finite() {
            return None;
        }
        let mut columns: Vec<Option<(f64, u32)>> = vec![None; COLUMNS];
        for (x, value) in &values {
            let at = ((x * COLUMNS as f64) as usize).min(COLUMNS - 1);
            let (sum, count) = columns[at].unwrap_or((0.0, 0));
            columns[at] = Some((sum + value, count + 1));
        }
        // What does not change is a line in the middle, not noise.
        let height = |value: f64| {
            let part = if high > low { (value - low) / (high - low) } else { 0.5 };
            HEIGHT - EDGE - part * (HEIGHT - 2.0 * EDGE)
        };
        let widest_gap = widest_usual_gap(&columns);
        let (mut lines, mut line, mut last) = (Vec::new(), String::new(), 0);
        for (index, column) in columns.iter().enumerate() {
            let Some((sum, count)) = column else { continue };
            if !line.is_empty() && index - last > widest_gap {
                lines.push(std::mem::take(&mut line));
            }
            let x = (index as f64 + 0.5) * WIDTH / COLUMNS as f64;
            line.push_str(&format!("{}{x:.1} {:.1}", if line.is_empty() { "M" } else { "L" }, height(sum / f64::from(*count))));
            last = index;
        }
        // A lone point is a short stroke.
        lines.push(line);
        let lines = lines.into_iter().map(|l| if l.contains('L') { l } else { format!("{l}h2") }).collect();
        let label = format!("Last {} h: {} to {}{unit}", (span / 3600.0).round(), short(low), short(high));
        Some(Self { lines, label })
    }
}

/// Polls may be further apart than columns are wide: up to three times the usual distance is no gap.
fn widest_usual_gap(columns: &[Option<(f64, u32)>]) -> usize {
    let filled: Vec<usize> = columns.iter().enumerate().filter(|(_, c)| c.is_some()).map(|(i, _)| i).collect();
    let mut steps: Vec<usize> = filled.windows(2).map(|w| w[1] - w[0]).collect();
    steps.sort_unstable();
    steps.get(steps.len() / 2).copied().unwrap_or(1) * 3
}

/// A reading with as many digits as it deserves.
pub fn short(value: f64) -> String {
    let text = if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else if value.abs() >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

impl fmt::Display for Spark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only numbers and our own words.
        write!(f, r#"<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{0}"><title>{0}</title>"#, self.label)?;
        for line in &self.lines {
            write!(f, r#"<path d="{line}"/>"#)?;
        }
        f.write_str("</svg>")
    }
}
impl HtmlSafe for Spark {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::reading::Point;

    fn at(minute: i64, point: Point) -> Sample {
        Sample { at: Timestamp(minute * 60_000_000), point }
    }

    const END: Timestamp = Timestamp(120 * 60_000_000);

    #[test]
    fn a_gap_stays_a_gap() {
        let samples: Vec<Sample> =
            (0..120).map(|m| at(m, if (40..80).contains(&m) { Point::Absent } else { Point::Good(20.0 + (m % 3) as f64) })).collect();
        let spark = Spark::of(&samples, Timestamp(0), END, " °C").unwrap();
        assert_eq!(spark.lines.len(), 2);
        assert_eq!(spark.label, "Last 2 h: 20 to 22 °C");
    }

    #[test]
    fn nothing_to_draw_draws_nothing_and_what_is_constant_is_a_flat_line() {
        assert_eq!(Spark::of(&[], Timestamp(0), END, ""), None);
        assert_eq!(Spark::of(&[at(1, Point::Implausible(9e9))], Timestamp(0), END, ""), None);
        let flat: Vec<Sample> = (0..120).map(|m| at(m, Point::Good(12.06))).collect();
        let drawn = Spark::of(&flat, Timestamp(0), END, " V").unwrap().to_string();
        assert!(drawn.contains("M1.0 13.0L3.0 13.0") && !drawn.contains("NaN"), "{drawn}");
    }

    #[test]
    fn polls_that_are_far_apart_are_still_one_line() {
        let seldom: Vec<Sample> = (0..12).map(|m| at(m * 10, Point::Good(m as f64))).collect();
        assert_eq!(Spark::of(&seldom, Timestamp(0), END, "").unwrap().lines.len(), 1);
    }

    #[test]
    fn readings_are_as_long_as_they_deserve() {
        assert_eq!([short(12.06), short(45.0), short(5400.0), short(310.25), short(0.0)], ["12.06", "45", "5400", "310.2", "0"]);
    }
}
