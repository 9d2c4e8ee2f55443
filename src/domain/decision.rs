//! The record of a decision about a case: what was looked at, what was decided and why. Append-only, each record naming the
//! digest of the one before it, so that a change or a gap shows.

use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::domain::case::Evidence;
use crate::domain::id::{CaseId, MachineId, Sha256};
use crate::domain::permit::{Passed, Refusal};
use crate::domain::policy::Rung;
use crate::domain::time::Timestamp;

/// Stored form of [`DecisionRecord`].
pub const DECISION_VERSION: u8 = 1;

/// A rung that was not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub rung: Rung,
    pub because: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The state of the case changed, or nothing did; nothing was asked of the gate.
    Noted,
    /// Recorded only: the pool's mode is `observe`.
    Shadow(Rung),
    /// Waits for a person's click.
    Recommended(Rung),
    Refused(Rung, Refusal),
    Permitted(Rung, uuid::Uuid),
}

/// One decision. "Nothing" and refusals are decisions too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    pub version: u8,
    pub machine: MachineId,
    pub case: CaseId,
    pub at: Timestamp,
    /// Version of the program that decided.
    pub engine: String,
    pub policy_version: u64,
    pub rule: String,
    pub from: String,
    pub to: String,
    /// Whole sentences, in order, that a person can read.
    pub why: Vec<String>,
    pub evidence: Vec<Evidence>,
    pub rejected: Vec<Rejected>,
    pub gate: Vec<Passed>,
    pub outcome: Outcome,
    /// Digest of the stored inputs: deciding on them again gives this record.
    pub inputs: Sha256,
}

/// A record in its chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub number: u64,
    pub previous: Sha256,
    pub record: DecisionRecord,
    /// SHA-256 over number, previous and record.
    pub digest: Sha256,
}

/// What the first link of a chain names as its predecessor.
pub const CHAIN_START: Sha256 = Sha256([0; 32]);

/// SHA-256 of a value's JSON. Struct fields are written in their order and maps are sorted, so equal values give equal bytes.
pub fn digest_of(value: &impl Serialize) -> Sha256 {
    let mut hasher = sha2::Sha256::new();
    // Writing into a hasher cannot fail, and the types here have no map with other than text keys: if they ever do, the
    // digest becomes that of the error and no stored one equals it.
    match serde_json::to_vec(value) {
        Ok(bytes) => hasher.update(&bytes),
        Err(e) => hasher.update(format!("not JSON: {e}").as_bytes()),
    }
    Sha256(hasher.finalize().into())
}

impl Link {
    /// The link that follows `last`.
    pub fn after(last: Option<&Self>, record: DecisionRecord) -> Self {
        let (number, previous) = last.map_or((0, CHAIN_START), |l| (l.number + 1, l.digest));
        let digest = digest_of(&(number, previous, &record));
        Self { number, previous, record, digest }
    }
}

/// Where a chain is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("record {number} was changed: its digest is not that of its content")]
    Changed { number: u64 },
    #[error("between records {after} and {number} something is missing or was put in")]
    Gap { after: u64, number: u64 },
    #[error("the chain begins with record {number}: earlier ones are missing")]
    NoStart { number: u64 },
}

/// Checks a whole chain, oldest first.
///
/// # Errors
/// The first place where it is broken. A chain cut off at its end cannot be told from a shorter one: compare the last digest
/// with one kept elsewhere.
pub fn verify_chain(links: &[Link]) -> Result<(), Broken> {
    let mut before: Option<&Link> = None;
    for link in links {
        if digest_of(&(link.number, link.previous, &link.record)) != link.digest {
            return Err(Broken::Changed { number: link.number });
        }
        match before {
            None if link.number != 0 || link.previous != CHAIN_START => return Err(Broken::NoStart { number: link.number }),
            Some(b) if link.number != b.number + 1 || link.previous != b.digest => {
                return Err(Broken::Gap { after: b.number, number: link.number });
            }
            None | Some(_) => {}
        }
        before = Some(link);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn record(n: u128) -> DecisionRecord {
        DecisionRecord {
            version: DECISION_VERSION,
            machine: MachineId(Uuid::from_u128(1)),
            case: CaseId(Uuid::from_u128(n)),
            at: Timestamp(n as i64),
            engine: "0".into(),
            policy_version: 1,
            rule: "r".into(),
            from: "suspect".into(),
            to: "confirmed".into(),
            why: vec!["Because.".into()],
            evidence: vec![],
            rejected: vec![],
            gate: vec![],
            outcome: Outcome::Noted,
            inputs: CHAIN_START,
        }
    }

    fn chain(n: u128) -> Vec<Link> {
        let mut links: Vec<Link> = Vec::new();
        for i in 0..n {
            links.push(Link::after(links.last(), record(i)));
        }
        links
    }

    #[test]
    fn a_chain_that_nobody_touched_verifies_also_after_being_stored() {
        let links = chain(5);
        assert_eq!(verify_chain(&links), Ok(()));
        let stored: Vec<Link> = serde_json::from_str(&serde_json::to_string(&links).unwrap()).unwrap();
        assert_eq!(verify_chain(&stored), Ok(()));
        assert_eq!(verify_chain(&[]), Ok(()));
    }

    #[test]
    fn a_changed_a_missing_and_an_added_record_show() {
        let mut changed = chain(5);
        changed[2].record.why[0] = "Another reason.".into();
        assert_eq!(verify_chain(&changed), Err(Broken::Changed { number: 2 }));
        let mut missing = chain(5);
        missing.remove(2);
        assert_eq!(verify_chain(&missing), Err(Broken::Gap { after: 1, number: 3 }));
        assert_eq!(verify_chain(&chain(5)[1..]), Err(Broken::NoStart { number: 1 }));
        let mut forged = chain(5);
        forged[3] = Link::after(Some(&forged[1]), record(9));
        forged[3].number = 3;
        assert!(verify_chain(&forged).is_err());
    }
}
