//! How the service stops: on SIGTERM or SIGINT within bounds; when one of its tasks panics or ends, loudly.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// All tasks together get this long after the stop was asked for. Steps of the engine are rows: what is cut off is
/// taken up again.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// The tasks of the service. Each runs until the stop; one that ends before takes the service down.
pub struct Tasks {
    set: JoinSet<&'static str>,
    stop: CancellationToken,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As asked, everything within its bounds.
    InOrder,
    /// A task panicked or ended by itself, or some did not stop in time.
    Badly(String),
}

impl Default for Tasks {
    fn default() -> Self {
        Self { set: JoinSet::new(), stop: CancellationToken::new() }
    }
}

impl Tasks {
    /// Cancelled when the service is to stop.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs `task` until the stop.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits for a signal, `until`, or the end of a task; then stops all.
    pub async fn run(mut self, until: impl Future<Output = ()>) -> Ended {
        let mut verdict = tokio::select! {
            () = asked_to_stop() => Ended::InOrder,
            () = until => Ended::InOrder,
            ended = self.set.join_next(), if !self.set.is_empty() => Ended::Badly(match ended {
                Some(Ok(name)) => format!("the task {name} ended by itself"),
                Some(Err(e)) => format!("a task failed: {e}"),
                None => "no task runs".to_owned(),
            }),
        };
        if let Ended::Badly(why) = &verdict {
            tracing::error!(why, "stopping, because a part of the service failed");
        }
        self.stop.cancel();
        let drained = tokio::time::timeout(STOP_WITHIN, async {
            let mut failed = None;
            while let Some(ended) = self.set.join_next().await {
                if let Err(e) = ended {
                    failed = Some(e.to_string());
                }
            }
            failed
        })
        .await;
        match drained {
            Ok(None) => {}
            Ok(Some(why)) => verdict = Ended::Badly(format!("a task failed while stopping: {why}")),
            Err(_) => {
                self.set.abort_all();
                verdict = Ended::Badly(format!("some tasks did not stop within {} s", STOP_WITHIN.as_secs()));
            }
        }
        verdict
    }
}

/// SIGTERM or SIGINT.
async fn asked_to_stop() {
    let (term, int) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (term, int) {
        (Ok(mut term), Ok(mut int)) => tokio::select! {
            _ = term.recv() => tracing::info!("asked to stop by SIGTERM"),
            _ = int.recv() => tracing::info!("asked to stop by SIGINT"),
        },
        _ => {
            tracing::warn!("no signal handler could be set; stop the service with SIGKILL");
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_takes_the_service_down() {
        let mut tasks = Tasks::default();
        let stop = tasks.stop();
        tasks.spawn("steady", async move { stop.cancelled().await });
        tasks.spawn("weak", async { panic!("on purpose") });
        assert!(matches!(tasks.run(std::future::pending()).await, Ended::Badly(why) if why.contains("panic")));
    }

    #[tokio::test]
    async fn all_tasks_are_told_to_stop_and_waited_for() {
        let mut tasks = Tasks::default();
        let stop = tasks.stop();
        let (told, was_told) = tokio::sync::oneshot::channel();
        tasks.spawn("steady", async move {
            stop.cancelled().await;
            told.send(()).unwrap();
        });
        assert_eq!(tasks.run(async {}).await, Ended::InOrder);
        was_told.await.unwrap();
    }
}
