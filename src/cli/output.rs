//! What the command line prints: data to stdout, everything else to stderr; tables also in a pipe, without colour.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use crate::cli::{CliError, Result};
use crate::domain::time::{Timestamp, spoken};

/// Prints a line of data. A closed pipe ends the program quietly, as it ends `head`'s other end.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        std::process::exit(0);
    }
}

pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(e) => eprintln!("hostler: cannot print: {e}"),
    }
}

/// Rows under upper-case heads, columns two spaces apart, nothing cut.
pub fn table(heads: &[&str], rows: Vec<Vec<String>>) {
    let mut lines: Vec<Vec<String>> = vec![heads.iter().map(|h| h.to_uppercase()).collect()];
    lines.extend(rows.into_iter().map(|row| row.iter().map(|cell| plain(cell)).collect()));
    let mut widths = vec![0; heads.len()];
    for row in &lines {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &lines {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        line(cells.join("  ").trim_end());
    }
}

/// Name and value pairs, aligned.
pub fn facts(pairs: &[(&str, String)]) {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    for (name, value) in pairs {
        if !value.is_empty() {
            line(&format!("{:width$} {}", format!("{name}:"), plain(value)));
        }
    }
}

/// Text from machines on one line, without control characters: an escape sequence in a serial number must not reach the
/// terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_bidi(c) { ' ' } else { c }).collect()
}

/// Directional overrides (Unicode UAX #9), which make text read as other text.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// `4 min 12 s ago`.
pub fn ago(at: Timestamp) -> String {
    format!("{} ago", spoken(crate::clock::now().since(at)))
}

pub fn bytes(n: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if n >= size {
            let tenths = u128::from(n) * 10 / u128::from(size);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{n} B")
}

/// `30m`, `90s`, `2h`, `1h30m`, or plain seconds.
pub fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration; write 90s, 30m or 1h30m");
    let mut secs: u64 = 0;
    let mut number = String::new();
    for c in text.trim().chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let factor = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let n: u64 = number.parse().map_err(|_| bad())?;
        secs = n.checked_mul(factor).and_then(|n| secs.checked_add(n)).ok_or_else(bad)?;
        number.clear();
    }
    if !number.is_empty() {
        secs = number.parse::<u64>().ok().and_then(|n| secs.checked_add(n)).ok_or_else(bad)?;
    }
    if secs == 0 { Err(bad()) } else { Ok(Duration::from_secs(secs)) }
}

/// Asks before an act that loses something. Without a terminal `--yes` must be given.
pub fn confirm(yes: bool, question: &str) -> Result<()> {
    use std::io::IsTerminal;
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(CliError::Usage {
            what: format!("{question} There is no terminal to ask on."),
            hint: "add --yes to go ahead".to_owned(),
        });
    }
    eprint!("{question} Type yes to go ahead: ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && answer.trim().eq_ignore_ascii_case("yes") {
        return Ok(());
    }
    Err(CliError::Failed { what: "nothing was done".to_owned(), hint: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("45"), Ok(Duration::from_secs(45)));
        for bad in ["", "x", "m", "5x", "-5s", "99999999999999999999h", "0s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(plain("a\x1b[31mb\r\n\u{202e}c"), "a [31mb   c");
    }

    #[test]
    fn sizes_are_said_in_binary_units() {
        assert_eq!((bytes(512), bytes(1536), bytes(3 << 40)), ("512 B".to_owned(), "1.5 KiB".to_owned(), "3.0 TiB".to_owned()));
    }
}
