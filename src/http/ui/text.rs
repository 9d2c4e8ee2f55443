//! Text on its way to a page: untrusted text made harmless, sizes and times as people say them.
//!
//! Escaping is askama's work (every template is `.html`); this module takes care of what escaping leaves: control
//! characters, and the Unicode marks that reorder or hide text ("Trojan source", CVE-2021-42574).

use std::fmt;

use askama::filters::HtmlSafe;

use crate::domain::time::{Timestamp, spoken};

/// Text from outside, cut to a length and without characters that act instead of being seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(String);

/// Longest text that a page shows in one place. Agent log lines are the longest we expect; the store caps them higher.
const MAX_TEXT: usize = 2000;

impl Text {
    pub fn new(untrusted: &str) -> Self {
        let mut out = String::with_capacity(untrusted.len().min(MAX_TEXT * 4));
        for (i, c) in untrusted.chars().enumerate() {
            if i == MAX_TEXT {
                out.push('…');
                break;
            }
            if is_acting(c) { out.push('\u{fffd}') } else { out.push(c) }
        }
        Self(out)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<T: fmt::Display> From<&T> for Text {
    fn from(value: &T) -> Self {
        Self::new(&value.to_string())
    }
}

/// Control characters (but not line feed and tab), direction marks and overrides, zero-width characters, line and
/// paragraph separators, tags.
fn is_acting(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{061c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    }
}

/// Bytes in the unit people use for them: decimal for disks and files.
pub fn decimal_bytes(n: u64) -> String {
    scaled(n, 1000, ["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Bytes in binary units: for memory.
pub fn binary_bytes(n: u64) -> String {
    scaled(n, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn scaled(n: u64, base: u64, units: [&str; 6]) -> String {
    let mut unit = 0;
    let mut scale = 1_u64;
    while unit < 5 && n / scale >= base {
        scale *= base;
        unit += 1;
    }
    let whole = n / scale;
    let tenth = (n % scale) / (scale / 10).max(1);
    if unit == 0 || whole >= 100 || tenth == 0 {
        format!("{whole} {}", units[unit])
    } else {
        format!("{whole}.{} {}", tenth.min(9), units[unit])
    }
}

/// `2026-11-24 13:44:57 UTC`, for titles and for pages without JavaScript.
pub fn absolute(t: Timestamp) -> String {
    let text = t.to_string();
    match text.split_once('T') {
        Some((day, clock)) => format!("{day} {} UTC", clock.get(..8).unwrap_or(clock)),
        None => text,
    }
}

/// A `<time>` that shows how long ago a moment was. Written without its text, which [`stamp`] fills in when the page is
/// sent: so the same markup compares equal from one moment to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ago(pub Timestamp);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"<time datetime="{0}" title="{1}" data-ago="{2}"></time>"#, self.0, absolute(self.0), self.0.0)
    }
}
impl HtmlSafe for Ago {}

/// A `<time>` that counts down to a moment, for what is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until(pub Timestamp);

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"<time datetime="{0}" title="{1}" data-left="{2}"></time>"#, self.0, absolute(self.0), self.0.0)
    }
}
impl HtmlSafe for Until {}

/// Fills the relative times of [`Ago`] and [`Until`] into finished HTML. The marks cannot come from untrusted text:
/// its `<` and `"` are escaped.
pub fn stamp(html: &str, now: Timestamp) -> String {
    const END: &str = "\"></time>";
    let mut out = String::with_capacity(html.len() + html.len() / 16);
    let mut rest = html;
    while let Some(at) = rest.find(END) {
        let (head, tail) = rest.split_at(at);
        out.push_str(head);
        out.push_str("\">");
        if let Some((mark, micros)) = head.rsplit_once('"').and_then(|(mark, n)| n.parse::<i64>().ok().map(|n| (mark, Timestamp(n)))) {
            if mark.ends_with("data-ago=") {
                out.push_str(&spoken(now.since(micros)));
            } else if mark.ends_with("data-left=") {
                out.push_str(&left(micros, now));
            }
        }
        out.push_str("</time>");
        rest = &tail[END.len()..];
    }
    out.push_str(rest);
    out
}

/// `about 6 min left`; coarse on purpose, it is an estimate.
fn left(t: Timestamp, now: Timestamp) -> String {
    let secs = t.since(now).as_secs();
    match secs {
        0 => "any moment now".to_owned(),
        1..=10 => "a few seconds left".to_owned(),
        11..=89 => format!("about {} s left", secs.div_ceil(10) * 10),
        90..=5399 => format!("about {} min left", (secs + 30) / 60),
        _ => format!("about {} h left", (secs + 1800) / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_would_reorder_or_hide_a_line_is_made_visible() {
        assert_eq!(Text::new("a\u{202e}b\u{200b}c\u{1b}[31m\0").as_str(), "a\u{fffd}b\u{fffd}c\u{fffd}[31m\u{fffd}");
        assert_eq!(Text::new("Schöne Grüße, 機械\n").as_str(), "Schöne Grüße, 機械\n");
    }

    #[test]
    fn a_text_without_end_is_cut() {
        assert_eq!(Text::new(&"x".repeat(100_000)).as_str().chars().count(), MAX_TEXT + 1);
    }

    #[test]
    fn sizes_read_as_on_the_label() {
        assert_eq!(decimal_bytes(0), "0 B");
        assert_eq!(decimal_bytes(999), "999 B");
        assert_eq!(decimal_bytes(1_920_383_410_176), "1.9 TB");
        assert_eq!(binary_bytes(34_359_738_368), "32 GiB");
        assert_eq!(decimal_bytes(u64::MAX), "18446 PB");
    }

    #[test]
    fn relative_times_are_filled_in_when_the_page_is_sent() {
        let html = format!("since {} and {} x", Ago(Timestamp(0)), Until(Timestamp(600_000_000)));
        let out = stamp(&html, Timestamp(252_000_000));
        assert!(out.contains(">4 min 12 s</time>"), "{out}");
        assert!(out.contains(">about 6 min left</time> x"), "{out}");
    }

    #[test]
    fn escaped_text_that_looks_like_a_time_mark_stays_text() {
        let html = "&quot;data-ago=&quot;5&quot;&gt;&lt;/time&gt; <b title=\"5\"></b>";
        assert_eq!(stamp(html, Timestamp(0)), html);
    }
}
