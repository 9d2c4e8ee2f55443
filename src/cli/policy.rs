//! `hostler policy`: checks and compares repair policies. Works on files alone, without a service.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use crate::cli::{CliError, Global, Result, output};
use crate::decide::policy::DEFAULT;
use crate::decide::policy::diff::{Kind, diff};
use crate::decide::policy::lint::lint;
use crate::decide::policy::parse::{self, PolicyFile};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Read a policy file and say what is wrong with it, by line
    #[command(after_help = "Example:\n  hostler policy show > site.toml\n  hostler policy lint site.toml")]
    Lint {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Say what is different between two policy files
    Diff {
        #[arg(value_name = "OLD")]
        old: PathBuf,
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
    /// Print the policy that ships
    Show,
}

pub(super) fn run(global: &Global, verb: &Verb) -> Result<()> {
    match verb {
        Verb::Lint { file } => check(global, file),
        Verb::Diff { old, new } => compare(global, old, new),
        Verb::Show => {
            output::line(DEFAULT.trim_end());
            Ok(())
        }
    }
}

/// Reads a policy file, or says every flaw of it.
pub(super) fn load(path: &Path) -> Result<PolicyFile> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| CliError::Usage { what: format!("cannot read {}: {e}", path.display()), hint: String::new() })?;
    parse::read(&text).map_err(|bad| {
        for flaw in &bad.0 {
            eprintln!("{}:{}: {}", path.display(), flaw.line, output::plain(&flaw.what));
        }
        CliError::Failed { what: format!("{} is not a policy: {} flaws", path.display(), bad.0.len()), hint: String::new() }
    })
}

fn check(global: &Global, path: &Path) -> Result<()> {
    let file = load(path)?;
    let found = lint(&file, None);
    if global.json {
        let found: Vec<_> = found.iter().map(|f| json!({ "lint": f.lint.to_string(), "line": f.line, "what": f.what })).collect();
        output::json(&json!({ "file": path.display().to_string(), "version": file.policy.version, "findings": found }));
    } else {
        for f in &found {
            output::line(&format!("{}:{}: {} {}", path.display(), f.line, f.lint, output::plain(&f.what)));
        }
    }
    if !found.is_empty() {
        let hint = "a policy with findings is not activated".to_owned();
        return Err(CliError::Failed { what: format!("{} findings", found.len()), hint });
    }
    if !global.json {
        let p = &file.policy;
        output::line(&format!(
            "version {}: {} rules, {} ladders, {} pools; no findings",
            p.version,
            p.rules.len(),
            p.ladders.len(),
            p.pools.len()
        ));
    }
    Ok(())
}

fn compare(global: &Global, old: &Path, new: &Path) -> Result<()> {
    let (a, b) = (load(old)?.policy, load(new)?.policy);
    let changes = diff(&a, &b);
    let word = |k: Kind| match k {
        Kind::Added => "added",
        Kind::Removed => "removed",
        Kind::Changed => "changed",
    };
    if global.json {
        let list: Vec<_> = changes
            .iter()
            .map(|c| {
                let fields: Vec<_> = c.fields.iter().map(|(f, a, b)| json!({ "field": f, "old": a, "new": b })).collect();
                json!({ "change": word(c.kind), "what": c.what, "fields": fields })
            })
            .collect();
        output::json(&json!({ "old": a.version, "new": b.version, "comment": b.comment, "changes": list }));
        return Ok(());
    }
    output::line(&format!("version {} -> {}: {}", a.version, b.version, output::plain(&b.comment)));
    for c in &changes {
        output::line(&format!("{} {}", word(c.kind), output::plain(&c.what)));
        for (field, a, b) in &c.fields {
            output::line(&format!("  {field}: {} -> {}", output::plain(a), output::plain(b)));
        }
    }
    if changes.is_empty() {
        output::line("no difference");
    }
    Ok(())
}
