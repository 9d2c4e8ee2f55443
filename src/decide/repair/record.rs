//! The record of a decision, from its inputs, so that the same inputs give the same bytes.

use crate::decide::gate::Answer;
use crate::decide::repair::{Decision, Facts, Next};
use crate::domain::case::Case;
use crate::domain::decision::{DECISION_VERSION, DecisionRecord, Outcome, digest_of};
use crate::domain::policy::Mode;

/// Makes the record. `after`: the case as it stands now; `answer`: the gate's, if it was asked.
pub fn record(
    facts: &Facts,
    decision: &Decision,
    answer: Option<&Answer>,
    after: &Case,
    policy_version: u64,
    engine: &str,
) -> DecisionRecord {
    let case = &facts.case;
    let mut why = decision.why.clone();
    let (gate, outcome) = match (&decision.next, answer) {
        (Next::Ask(action), Some(a)) => {
            let outcome = match &a.result {
                Ok(permit) => Outcome::Permitted(action.rung, permit.record().nonce),
                Err(refusal) => {
                    why.push(format!("It was {refusal}."));
                    let waits = refusal.check == crate::domain::permit::Check::Approval && facts.pool.mode == Mode::Recommend;
                    if waits { Outcome::Recommended(action.rung) } else { Outcome::Refused(action.rung, refusal.clone()) }
                }
            };
            (a.passed.clone(), outcome)
        }
        (Next::Shadow(rung), _) => (vec![], Outcome::Shadow(*rung)),
        (Next::Nothing | Next::Become(_) | Next::Step(_) | Next::Ask(_) | Next::End(_) | Next::ToHands, _) => (vec![], Outcome::Noted),
    };
    DecisionRecord {
        version: DECISION_VERSION,
        machine: case.machine,
        case: case.id,
        at: facts.now,
        engine: engine.to_owned(),
        policy_version,
        rule: case.rule.clone(),
        from: case.state.name().to_owned(),
        to: after.state.name().to_owned(),
        why,
        evidence: case.evidence.clone(),
        rejected: decision.rejected.clone(),
        gate,
        outcome,
        inputs: digest_of(facts),
    }
}
