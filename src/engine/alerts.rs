//! What machines and their runs have to tell: the notices that reconcile and the use cases put into the outbox.

use crate::clock;
use crate::domain::id::{NoticeId, RunId};
use crate::domain::machine::{Fault, Machine};
use crate::domain::notice::{Notice, NoticeKind, Severity, Subject};
use crate::domain::time::Timestamp;
use crate::domain::work::Run;
use crate::store::{StoreError, Tx};

/// A run cannot go on by itself.
pub fn run_failed(m: &Machine, run: &Run, fault: &Fault, now: Timestamp) -> Notice {
    notice(Subject::Run(run.id), m, NoticeKind::Opened, "run.failed", now).saying(
        Severity::Error,
        format!("The {} run of {} failed", run.kind, m.name),
        [sentence(&fault.what), sentence(&fault.remedy)],
    )
}

/// A machine is out of use until a person releases it.
pub fn quarantined(m: &Machine, fault: &Fault, now: Timestamp) -> Notice {
    notice(Subject::Machine(m.id), m, NoticeKind::Opened, "machine.quarantined", now).saying(
        Severity::Error,
        format!("{} is out of use", m.name),
        [sentence(&fault.what), sentence(&fault.remedy)],
    )
}

/// Says that a person lets a failed run go on, if its failure was told.
///
/// # Errors
/// The store's.
pub async fn run_retried(tx: &mut Tx, m: &Machine, run: RunId, text: &str, now: Timestamp) -> Result<(), StoreError> {
    let subject = Subject::Run(run);
    if tx.is_open(subject).await? {
        let notice = notice(subject, m, NoticeKind::Updated, "run.retried", now).saying(Severity::Error, text, [text.to_owned()]);
        tx.put_notice(&notice).await?;
    }
    Ok(())
}

/// Closes what was told about a run, if anything was.
///
/// # Errors
/// The store's.
pub async fn close_run(tx: &mut Tx, m: &Machine, run: RunId, text: &str, now: Timestamp) -> Result<(), StoreError> {
    close(tx, m, Subject::Run(run), "run.closed", text, now).await
}

/// Closes what was told about a machine and its run, if anything was.
///
/// # Errors
/// The store's.
pub async fn close_all(tx: &mut Tx, m: &Machine, run: Option<RunId>, text: &str, now: Timestamp) -> Result<(), StoreError> {
    if let Some(run) = run {
        close_run(tx, m, run, text, now).await?;
    }
    close(tx, m, Subject::Machine(m.id), "machine.closed", text, now).await
}

async fn close(tx: &mut Tx, m: &Machine, subject: Subject, event: &str, text: &str, now: Timestamp) -> Result<(), StoreError> {
    let notice = notice(subject, m, NoticeKind::Closed, event, now).saying(Severity::Info, text, [text.to_owned()]);
    tx.put_notice(&notice).await.map(|_put| ())
}

fn notice(subject: Subject, m: &Machine, kind: NoticeKind, event: &str, now: Timestamp) -> Notice {
    Notice::about(NoticeId(clock::fresh_uuid()), subject, m, kind, event, now)
}

/// Faults are kept as middles of sentences.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str().trim_end_matches('.')),
        None => String::new(),
    }
}
