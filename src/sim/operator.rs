//! The operator of the demo: what a person with the command line would do, over the public API only.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::agent::link::chain;
use crate::app::view::{MachineDetail, MachineView};
use crate::domain::id::{MachineId, Name};
use crate::domain::machine::{Lifecycle, Verb};
use crate::domain::secret::Secret;
use crate::domain::work::{RunState, StepState};

/// Machines that get the image.
pub const DEPLOYED: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// BMCs told to power on at the same time: a rack that starts at once trips its fuse.
const POWER_AT_ONCE: usize = 4;
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// An image of a few hundred megabytes is unpacked and hashed before the answer.
const IMPORT_WITHIN: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("the service does not answer {path}: {why}")]
    Unreachable { path: String, why: String },
    #[error("the service refused {path}: {why}")]
    Refused { path: String, why: String },
    #[error("the service's answer to {path} cannot be read: {why}")]
    Unreadable { path: String, why: String },
    #[error("{image} could not be deployed: {why}")]
    Failed { image: Name, why: String },
}

type Result<T> = std::result::Result<T, OperatorError>;

/// An API client with a voice.
pub struct Operator {
    http: reqwest::Client,
    base: String,
    token: Secret<String>,
    say: Box<dyn Fn(&str) + Send + Sync>,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct CreatedToken {
    secret: String,
}

#[derive(Deserialize)]
struct Problem {
    detail: String,
    hint: Option<String>,
}

impl Operator {
    /// `base` is the service's URL without a slash at the end; `say` is told what is done.
    pub fn new(http: reqwest::Client, base: String, token: Secret<String>, say: Box<dyn Fn(&str) + Send + Sync>) -> Self {
        Self { http, base, token, say }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.base)).bearer_auth(self.token.expose()).timeout(ANSWER_WITHIN)
    }

    async fn call<T: DeserializeOwned>(&self, path: &str, request: RequestBuilder) -> Result<T> {
        let path = || path.to_owned();
        let response = request.send().await.map_err(|e| OperatorError::Unreachable { path: path(), why: chain(&e) })?;
        let status = response.status();
        let body = response.bytes().await.map_err(|e| OperatorError::Unreachable { path: path(), why: chain(&e) })?;
        if !status.is_success() {
            let why = match serde_json::from_slice::<Problem>(&body) {
                Ok(Problem { detail, hint: Some(hint) }) => format!("{detail} ({hint})"),
                Ok(Problem { detail, hint: None }) => detail,
                Err(_) => format!("{status}: {}", String::from_utf8_lossy(&body).chars().take(200).collect::<String>()),
            };
            return Err(OperatorError::Refused { path: path(), why });
        }
        serde_json::from_slice(&body).map_err(|e| OperatorError::Unreadable { path: path(), why: e.to_string() })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(path, self.request(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: serde_json::Value) -> Result<serde_json::Value> {
        let request = self.request(Method::POST, path);
        self.call(path, if body.is_null() { request } else { request.json(&body) }).await
    }

    pub async fn machines(&self) -> Result<Vec<MachineView>> {
        self.get::<List<MachineView>>("/machines?limit=1000").await.map(|l| l.items)
    }

    async fn machine(&self, id: MachineId) -> Result<MachineDetail> {
        self.get(&format!("/machines/{id}")).await
    }

    /// A voice of its own for what follows: an API token with no more rights than it needs.
    pub async fn step_down(&mut self) -> Result<()> {
        let token: CreatedToken = self.post("/tokens", json!({ "name": "demo", "role": "operator" })).await.and_then(|value| {
            serde_json::from_value(value).map_err(|e| OperatorError::Unreadable { path: "/tokens".to_owned(), why: e.to_string() })
        })?;
        self.token = Secret::new(token.secret);
        Ok(())
    }

    /// Announces the rack.
    pub async fn import_packing_list(&self, csv: String) -> Result<()> {
        let path = "/racks/import";
        let request = self.request(Method::POST, path).header("Content-Type", "text/csv").body(csv);
        let _answer: serde_json::Value = self.call(path, request).await?;
        (self.say)("The packing list is imported.");
        Ok(())
    }

    /// Uploads an image.
    pub async fn import_image(&self, name: &Name, bytes: impl Into<reqwest::Body>) -> Result<()> {
        let path = format!("/images?name={name}&boots_on=bios,uefi&default_user=demo");
        let request =
            self.request(Method::POST, &path).header("Content-Type", "application/octet-stream").body(bytes).timeout(IMPORT_WITHIN);
        let _answer: serde_json::Value = self.call(&path, request).await?;
        (self.say)(&format!("The image {name} is imported."));
        Ok(())
    }

    /// Powers everything on through the BMCs. What cannot be powered on is said and left.
    pub async fn power_up(&self) -> Result<()> {
        let machines = self.machines().await?;
        let told = stream::iter(machines)
            .map(|m| async move {
                match self.post(&format!("/machines/{}/power", m.id), json!({ "action": "on" })).await {
                    Ok(_) => true,
                    Err(e) => {
                        (self.say)(&format!("{} cannot be powered on: {}", label(&m), why(&e)));
                        false
                    }
                }
            })
            .buffer_unordered(POWER_AT_ONCE)
            .collect::<Vec<bool>>()
            .await;
        (self.say)(&format!("{} of {} machines were powered on through their BMCs.", told.iter().filter(|ok| **ok).count(), told.len()));
        Ok(())
    }

    /// Accepts machines as their agents appear and deploys what is wished for on the first that are ready. Returns once all
    /// wishes have come true.
    ///
    /// # Errors
    /// Also when a wish cannot come true any more.
    pub async fn accept_and_deploy(&self, wishes: &[Wish<'_>]) -> Result<()> {
        let mut chosen: Vec<BTreeMap<MachineId, Chosen>> = vec![BTreeMap::new(); wishes.len()];
        loop {
            let machines = self.machines().await?;
            for m in &machines {
                // An announced machine, or one of which only DHCP packets were seen, is not yet here.
                let here = m.lifecycle == Lifecycle::Discovered && m.hardware.is_some();
                if here && allowed(m, Verb::Accept) {
                    self.try_post(m, "accept", serde_json::Value::Null).await?;
                }
            }
            let mut all = true;
            for (wish, chosen) in wishes.iter().zip(&mut chosen) {
                all &= self.further(wish, chosen, &machines).await?;
            }
            if all {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes one wish a step further. Returns whether it has come true.
    async fn further(&self, wish: &Wish<'_>, chosen: &mut BTreeMap<MachineId, Chosen>, machines: &[MachineView]) -> Result<bool> {
        let eligible = || machines.iter().filter(|m| (wish.may_take)(&m.name));
        for m in eligible() {
            if let Some(state) = chosen.get_mut(&m.id) {
                self.follow(m, state);
            }
        }
        let failed = chosen.values().filter(|c| **c == Chosen::Failed).count();
        if eligible().count().saturating_sub(failed) < wish.wanted {
            let of = eligible().find(|m| chosen.get(&m.id) == Some(&Chosen::Failed));
            let why = of.map_or_else(|| "there are too few machines".to_owned(), |m| format!("{}: {}", label(m), m.state.sentence));
            return Err(OperatorError::Failed { image: wish.image.clone(), why });
        }
        for m in eligible().filter(|m| m.lifecycle == Lifecycle::Ready && allowed(m, Verb::Deploy)) {
            if chosen.len() - failed < wish.wanted
                && !chosen.contains_key(&m.id)
                && self.try_post(m, "deploy", json!({ "image": wish.image })).await?
            {
                (self.say)(&format!("{} is ready and gets {}.", label(m), wish.image));
                chosen.insert(m.id, Chosen::Deploying);
            }
        }
        Ok(chosen.values().filter(|c| **c == Chosen::Active).count() >= wish.wanted)
    }

    /// Accepts what still turns up, for as long as the demo runs.
    pub async fn go_on_accepting(&self) -> Result<()> {
        loop {
            for m in self.machines().await? {
                if m.lifecycle == Lifecycle::Discovered && m.hardware.is_some() && allowed(&m, Verb::Accept) {
                    self.try_post(&m, "accept", serde_json::Value::Null).await?;
                }
            }
            tokio::time::sleep(LOOK_EVERY * 4).await;
        }
    }

    fn follow(&self, m: &MachineView, state: &mut Chosen) {
        let now = match (m.lifecycle, m.run.as_ref().map(|r| r.state)) {
            (Lifecycle::Active, _) => Chosen::Active,
            (_, Some(RunState::Failed)) => Chosen::Failed,
            _ => Chosen::Deploying,
        };
        if now != *state {
            match now {
                Chosen::Active => (self.say)(&format!("{} runs its system.", label(m))),
                Chosen::Failed => (self.say)(&format!("{}: {}", label(m), m.state.sentence)),
                Chosen::Deploying => {}
            }
            *state = now;
        }
    }

    /// Posts a verb; another actor may have been faster, which is no error.
    async fn try_post(&self, m: &MachineView, verb: &str, body: serde_json::Value) -> Result<bool> {
        match self.post(&format!("/machines/{}/{verb}", m.id), body).await {
            Ok(_) => Ok(true),
            Err(OperatorError::Refused { why, .. }) => {
                tracing::debug!(machine = %m.name, verb, why, "refused");
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// What the rack looks like now.
    pub async fn survey(&self) -> Result<Survey> {
        let machines = self.machines().await?;
        let mut survey = Survey::default();
        for m in &machines {
            *survey.machines.entry(m.lifecycle.to_string()).or_default() += 1;
        }
        let mut durations: BTreeMap<(String, u32, String), Vec<f64>> = BTreeMap::new();
        for m in &machines {
            let detail = self.machine(m.id).await?;
            if m.lifecycle == Lifecycle::Discovered || m.fault.is_some() {
                survey.waiting.insert(label(m), waits_for(&detail));
            }
            for run in detail.runs {
                for step in run.steps.iter().filter(|s| s.state == StepState::Done) {
                    if let (Some(from), Some(to)) = (step.started_at, step.ended_at) {
                        durations
                            .entry((run.kind.to_string(), step.index, step.kind.to_string()))
                            .or_default()
                            .push(to.since(from).as_secs_f64());
                    }
                }
            }
        }
        for ((run, _, step), mut all) in durations {
            all.sort_by(f64::total_cmp);
            let median = (all[all.len() / 2] * 1000.0).round() / 1000.0;
            survey.steps.push(StepTime { run, step, count: all.len(), median_secs: median });
        }
        Ok(survey)
    }
}

/// So many machines should run that image.
pub struct Wish<'a> {
    pub image: &'a Name,
    pub wanted: usize,
    pub may_take: &'a (dyn Fn(&Name) -> bool + Sync),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Deploying,
    Active,
    Failed,
}

/// The rack at one moment, as the summary tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// Machines by lifecycle state.
    pub machines: BTreeMap<String, u32>,
    pub steps: Vec<StepTime>,
    /// Machines that wait for something or somebody, with the sentence that the page shows.
    pub waiting: BTreeMap<String, String>,
}

/// How long one kind of step took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    pub run: String,
    pub step: String,
    pub count: usize,
    pub median_secs: f64,
}

/// What is known of a machine that does not get on: its BMC's fault, where its boot stopped, else the state's sentence.
fn waits_for(m: &MachineDetail) -> String {
    let fault = m.bmc.as_ref().and_then(|b| b.fault.clone());
    let stopped = m.boots.first().and_then(|boot| boot.diagnosis.as_ref()).map(|d| d.text.clone());
    let known: Vec<String> = fault.into_iter().chain(stopped).collect();
    if known.is_empty() { m.machine.state.sentence.clone() } else { known.join("; ") }
}

fn allowed(m: &MachineView, verb: Verb) -> bool {
    m.verbs.iter().any(|v| v.verb == verb && v.allowed)
}

fn label(m: &MachineView) -> String {
    match &m.place {
        Some(place) => format!("{place} {}", m.name),
        None => m.name.to_string(),
    }
}

fn why(e: &OperatorError) -> String {
    match e {
        OperatorError::Refused { why, .. } => why.clone(),
        OperatorError::Unreachable { .. } | OperatorError::Unreadable { .. } | OperatorError::Failed { .. } => e.to_string(),
    }
}
