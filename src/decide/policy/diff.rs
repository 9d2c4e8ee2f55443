//! What is different between two policies, in sentences.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::policy::Policy;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Added,
    Removed,
    Changed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    /// `rule psu-failed`, `pool web`, …
    pub what: String,
    /// For a change: each field with its old and new value.
    pub fields: Vec<(String, String, String)>,
}

/// Every difference but the version and its comment, grouped by what it is about.
pub fn diff(old: &Policy, new: &Policy) -> Vec<Change> {
    let mut out = Vec::new();
    for (what, a, b) in
        [("default mode", old.mode.to_string(), new.mode.to_string()), ("freshness", old.freshness.to_string(), new.freshness.to_string())]
    {
        if a != b {
            out.push(Change { kind: Kind::Changed, what: what.to_owned(), fields: vec![(what.to_owned(), a, b)] });
        }
    }
    each("pool", &old.pools, &new.pools, &mut out);
    each("selector", &old.selectors, &new.selectors, &mut out);
    let rules = |p: &Policy| p.rules.iter().map(|r| (r.id.clone(), r.clone())).collect::<BTreeMap<_, _>>();
    each("rule", &rules(old), &rules(new), &mut out);
    let ladders = |p: &Policy| p.ladders.iter().map(|l| (l.id.clone(), l.clone())).collect::<BTreeMap<_, _>>();
    each("ladder", &ladders(old), &ladders(new), &mut out);
    out
}

fn each<T: Serialize + PartialEq>(noun: &str, old: &BTreeMap<String, T>, new: &BTreeMap<String, T>, out: &mut Vec<Change>) {
    for (name, a) in old {
        let what = format!("{noun} {name}");
        match new.get(name) {
            None => out.push(Change { kind: Kind::Removed, what, fields: vec![] }),
            Some(b) if a != b => out.push(Change { kind: Kind::Changed, what, fields: fields(a, b) }),
            Some(_) => {}
        }
    }
    for name in new.keys().filter(|n| !old.contains_key(*n)) {
        out.push(Change { kind: Kind::Added, what: format!("{noun} {name}"), fields: vec![] });
    }
}

/// The fields that differ, by the names they are stored under. Lists are compared member by member.
fn fields<T: Serialize>(a: &T, b: &T) -> Vec<(String, String, String)> {
    let mut out = Vec::new();
    match (serde_json::to_value(a), serde_json::to_value(b)) {
        (Ok(a), Ok(b)) => walk("", &a, &b, &mut out),
        // Types with text keys only always become JSON.
        (Err(e), _) | (_, Err(e)) => out.push(("all".to_owned(), String::new(), e.to_string())),
    }
    out
}

fn walk(path: &str, a: &serde_json::Value, b: &serde_json::Value, out: &mut Vec<(String, String, String)>) {
    use serde_json::Value;
    let under = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys().filter(|k| !x.contains_key(*k))) {
                walk(&under(key), x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null), out);
            }
        }
        (Value::Array(x), Value::Array(y)) => {
            for n in 0..x.len().max(y.len()) {
                walk(&under(&(n + 1).to_string()), x.get(n).unwrap_or(&Value::Null), y.get(n).unwrap_or(&Value::Null), out);
            }
        }
        _ if a != b => out.push((path.to_owned(), shown(a), shown(b))),
        _ => {}
    }
}

fn shown(v: &serde_json::Value) -> String {
    match v {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::policy::default_policy;
    use crate::domain::policy::{Mode, PoolPolicy, Span};

    #[test]
    fn a_policy_does_not_differ_from_itself() {
        let p = default_policy().unwrap();
        assert_eq!(diff(&p, &p), vec![]);
    }

    #[test]
    fn every_difference_is_told_with_old_and_new() {
        let old = default_policy().unwrap();
        let mut new = old.clone();
        new.mode = Mode::Enforce;
        new.pools.insert("web".into(), PoolPolicy::default());
        new.rules.retain(|r| r.id != "reported");
        new.ladders.iter_mut().find(|l| l.id == "psu").unwrap().probation = Span::secs(3600);
        let changes = diff(&old, &new);
        let told: Vec<(Kind, &str)> = changes.iter().map(|c| (c.kind, c.what.as_str())).collect();
        assert_eq!(
            told,
            [(Kind::Changed, "default mode"), (Kind::Added, "pool web"), (Kind::Removed, "rule reported"), (Kind::Changed, "ladder psu")]
        );
        assert_eq!(changes[3].fields, [("probation".to_owned(), "1d".to_owned(), "1h".to_owned())]);
    }
}
