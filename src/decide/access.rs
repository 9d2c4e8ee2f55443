//! What may be asked of a machine right now, and why not. One function for page, API and CLI.

use crate::domain::machine::{Lifecycle, Machine, Verb};
use crate::domain::work::{Run, RunState};

/// Why a verb is not possible now, and what would make it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub why: String,
    pub hint: String,
}

fn no(why: impl Into<String>, hint: impl Into<String>) -> Result<(), Reason> {
    Err(Reason { why: why.into(), hint: hint.into() })
}

/// Whether `verb` may be asked of `machine`, whose current run is `run`.
pub fn can(machine: &Machine, run: Option<&Run>, verb: Verb) -> Result<(), Reason> {
    let name = &machine.name;
    if let Some(hold) = &machine.hold
        && !matches!(verb, Verb::Forget)
    {
        return no(format!("{name} is held by {}: {}", hold.owner, hold.reason), "ask the holder to end the hold");
    }
    let run_state = run.map(|r| r.state);
    match verb {
        Verb::Accept => match machine.lifecycle {
            Lifecycle::Discovered => Ok(()),
            state => no(format!("{name} was accepted before, it is {state}"), "nothing to do"),
        },
        Verb::Deploy => match machine.lifecycle {
            Lifecycle::Ready => Ok(()),
            Lifecycle::Discovered => no(format!("{name} was not accepted yet"), format!("hostler machine accept {name}")),
            Lifecycle::Active => {
                no(format!("{name} runs a system already"), format!("hostler machine release {name} first; that wipes its disks"))
            }
            state => no(format!("{name} is {state}"), "wait until it is ready"),
        },
        Verb::Release => match machine.lifecycle {
            Lifecycle::Active | Lifecycle::Quarantined => Ok(()),
            Lifecycle::Deploying if run_state == Some(RunState::Failed) => Ok(()),
            Lifecycle::Deploying => no(format!("{name} is being deployed"), format!("hostler machine abort {name} first")),
            Lifecycle::Releasing => no(format!("{name} is being released already"), "wait, or retry the failed step"),
            state => no(format!("{name} is {state}: there is no system on it to release"), "nothing to do"),
        },
        Verb::Retry => match run_state {
            Some(RunState::Failed) => Ok(()),
            Some(RunState::Running) => no(format!("the run of {name} has not failed, it is working"), "wait, or abort it"),
            Some(RunState::Done | RunState::Aborted) | None => no(format!("{name} has no failed run"), "nothing to do"),
        },
        Verb::Abort => match run_state {
            Some(RunState::Running | RunState::Failed) => Ok(()),
            Some(RunState::Done | RunState::Aborted) | None => no(format!("{name} has no run to abort"), "nothing to do"),
        },
        Verb::Power => match (&machine.bmc, run_state) {
            (None, _) => {
                no(format!("no BMC is known for {name}"), format!("hostler machine bmc {name} --address A --user U --password-file F"))
            }
            (Some(_), Some(RunState::Running)) => {
                no(format!("a run is working on {name}"), format!("wait, or hostler machine abort {name}"))
            }
            (Some(_), _) => Ok(()),
        },
        // Dropping a record touches nothing on the machine. What a run has begun there must be stopped first: without the
        // record nobody could.
        Verb::Forget => match run_state {
            Some(RunState::Running) => no(format!("a run is working on {name}"), format!("hostler machine abort {name} first")),
            Some(RunState::Failed | RunState::Done | RunState::Aborted) | None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::discovery::tests::machine;
    use crate::domain::id::RunId;
    use crate::domain::machine::Hold;
    use crate::domain::time::Timestamp;
    use crate::domain::work::RunKind;

    #[test]
    fn every_state_has_a_way_out() {
        let mut run = Run {
            id: RunId(uuid::Uuid::from_u128(1)),
            machine: machine(1, None, None, &[]).id,
            kind: RunKind::Enroll,
            state: RunState::Running,
            started_at: Timestamp(0),
            ended_at: None,
            actor: "kim".into(),
            steps: vec![],
        };
        for state in Lifecycle::ALL {
            let mut m = machine(1, None, None, &[]);
            m.lifecycle = state;
            let way_out = |run: Option<&Run>| Verb::ALL.into_iter().any(|v| can(&m, run, v).is_ok());
            assert!(way_out(None), "{state}");
            for run_state in [RunState::Running, RunState::Failed, RunState::Done, RunState::Aborted] {
                run.state = run_state;
                assert!(way_out(Some(&run)), "{state} {run_state}");
            }
        }
    }

    #[test]
    fn a_machine_that_a_run_works_on_is_aborted_before_it_is_forgotten() {
        let mut m = machine(1, None, None, &[]);
        m.lifecycle = Lifecycle::Releasing;
        let mut run = Run {
            id: RunId(uuid::Uuid::from_u128(1)),
            machine: m.id,
            kind: RunKind::Release,
            state: RunState::Running,
            started_at: Timestamp(0),
            ended_at: None,
            actor: "kim".into(),
            steps: vec![],
        };
        let reason = can(&m, Some(&run), Verb::Forget).unwrap_err();
        assert!(reason.hint.contains("hostler machine abort m1"), "{reason:?}");
        assert_eq!(can(&m, Some(&run), Verb::Abort), Ok(()), "the way out");
        for state in [RunState::Failed, RunState::Done, RunState::Aborted] {
            run.state = state;
            assert_eq!(can(&m, Some(&run), Verb::Forget), Ok(()), "{state}");
        }
    }

    #[test]
    fn a_machine_that_was_never_accepted_cannot_be_deployed_or_released() {
        let m = machine(1, None, None, &[]);
        assert!(can(&m, None, Verb::Deploy).is_err());
        assert!(can(&m, None, Verb::Release).is_err());
        assert_eq!(can(&m, None, Verb::Accept), Ok(()));
    }

    #[test]
    fn an_active_machine_is_not_deployed_over() {
        let mut m = machine(1, None, None, &[]);
        m.lifecycle = Lifecycle::Active;
        assert!(can(&m, None, Verb::Deploy).is_err());
        assert_eq!(can(&m, None, Verb::Release), Ok(()));
    }

    #[test]
    fn a_held_machine_is_left_alone() {
        let mut m = machine(1, None, None, &[]);
        m.lifecycle = Lifecycle::Active;
        m.hold = Some(Hold { owner: "kim".into(), reason: "swapping a fan".into(), until: None });
        for verb in Verb::ALL.into_iter().filter(|v| *v != Verb::Forget) {
            assert!(can(&m, None, verb).is_err(), "{verb}");
        }
    }
}
