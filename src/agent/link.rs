//! The agent's side of the agent protocol (`wire::agent`): hello, long-poll, progress, result, log.
//!
//! The agent only dials out, and only to the server it was booted from: no redirects, no proxies, paths are joined to
//! the one origin. What an order does is up to [`Hands`]; real ones touch disks, the simulated rack's only count.
//!
//! Waits: hello is tried for [`Pace::hello_for`]; a task's result and the next poll for [`Pace::lost_after`] without
//! one answer from the server. After that the caller should restart the machine, which boots the ramdisk anew.

mod outbox;
mod progress;

use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock;
use crate::domain::id::TaskId;
use crate::domain::inventory::Inventory;
use crate::wire::agent::{Hello, Order, PROTOCOL, ProgressReply, Refusal, Task, TaskResult, Welcome};

pub use outbox::Outbox;
pub use progress::Progress;

/// An answer larger than this is not from our server: a task carries at most a cloud-init seed.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// What executes orders.
pub trait Hands: Send {
    /// Reads the machine.
    fn inventory(&mut self) -> impl Future<Output = Inventory> + Send;

    /// Carries out one order, reporting through `progress` and stopping at a safe point once it says so.
    ///
    /// `Reboot`, `PowerOff` and `RebootToDisk` only prepare here: the machine stops after the result was accepted,
    /// when [`Link::run`] returns the [`Ending`].
    fn execute(&mut self, order: &Order, progress: Progress) -> impl Future<Output = TaskResult> + Send;

    /// A sentence for whoever stands before the machine's console.
    fn say(&mut self, _text: &str) {}
}

/// Why the link ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Ordered, or the server no longer knows this boot (401): restart.
    Reboot,
    PowerOff,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{0:?} is not a server address; it is written http://ADDRESS:PORT")]
    BadServer(String),
    #[error("cannot set up the HTTP client: {}", chain(.0))]
    Client(reqwest::Error),
    #[error("the server refused this boot: {0}")]
    Refused(String),
    #[error("the server answered {status} to {request}, which this agent does not understand: {body}")]
    Nonsense { request: String, status: u16, body: String },
    #[error("no answer from {server} for {} s; the last try: {last}", .for_how_long.as_secs())]
    Lost { server: String, for_how_long: Duration, last: String },
}

/// How long the link waits for what.
#[derive(Clone, Debug)]
pub struct Pace {
    /// One long-poll; the protocol allows up to 30 s.
    pub poll_wait_secs: u32,
    /// First wait after a failed request; doubles up to `retry_cap`, each with up to half of it added by chance so that
    /// a rack does not come back in step.
    pub retry_first: Duration,
    pub retry_cap: Duration,
    pub hello_for: Duration,
    pub lost_after: Duration,
    /// How often progress is posted while it changes; unchanged it is posted every tenth time as a sign of life.
    pub progress_every: Duration,
    pub log_every: Duration,
    /// A request other than the long-poll, from connect to the last byte.
    pub request_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll_wait_secs: 25,
            retry_first: Duration::from_secs(1),
            retry_cap: Duration::from_secs(15),
            hello_for: Duration::from_secs(10 * 60),
            // As long as the token of the welcome is good.
            lost_after: Duration::from_secs(24 * 3600),
            progress_every: Duration::from_secs(1),
            log_every: Duration::from_secs(2),
            request_timeout: Duration::from_secs(15),
        }
    }
}

/// One boot's connection to the server.
pub struct Link {
    http: reqwest::Client,
    origin: String,
    nonce: String,
    session: Uuid,
    pace: Pace,
    outbox: Outbox,
    /// Held while the outbox is emptied, so that "sent" means sent by whoever asks.
    sending: tokio::sync::Mutex<()>,
}

/// The answer to one request, or why there was none worth having.
enum Answer {
    Good(StatusCode, Vec<u8>),
    /// 4xx: asking again will not help.
    No(StatusCode, String),
    /// No connection, timeout, 408, 429 or 5xx.
    Later(String),
}

impl Link {
    /// A link to `server` (`http://10.0.0.1:8081`, the command line's `hostler.server`) for the boot with `nonce`.
    ///
    /// # Errors
    /// `BadServer`, `Client`.
    pub fn new(server: &str, nonce: &str, pace: Pace) -> Result<Self, LinkError> {
        Self::with_client(http_client()?, server, nonce, pace)
    }

    /// As [`Link::new`], over a client made by [`http_client`]: a thousand simulated machines share one.
    ///
    /// # Errors
    /// `BadServer`.
    pub fn with_client(http: reqwest::Client, server: &str, nonce: &str, pace: Pace) -> Result<Self, LinkError> {
        let bad = || LinkError::BadServer(server.chars().take(200).collect());
        let url = reqwest::Url::parse(server).map_err(|_| bad())?;
        if url.scheme() != "http" || url.path() != "/" || url.host_str().is_none() || !url.username().is_empty() {
            return Err(bad());
        }
        let origin = url.origin().ascii_serialization();
        Ok(Self {
            http,
            origin,
            nonce: nonce.to_owned(),
            session: Uuid::from_bytes(clock::random()),
            pace,
            outbox: Outbox::default(),
            sending: tokio::sync::Mutex::default(),
        })
    }

    /// Where log lines and later inventories are put to be sent.
    pub fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// The server this link speaks to, without a slash at the end.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The client to fetch images with.
    pub fn http(&self) -> reqwest::Client {
        self.http.clone()
    }

    /// Says hello, then takes and executes tasks until one of them ends the boot.
    ///
    /// # Errors
    /// `Refused` (403 at hello: the nonce is unknown, used or too old), `Nonsense` (another program answers there),
    /// `Lost`. In each case a restart is all that is left.
    pub async fn run<H: Hands>(&self, hands: &mut H) -> Result<Ending, LinkError> {
        let inventory = hands.inventory().await;
        let welcome = self.hello(hands, inventory).await?;
        hands.say(&format!("This machine is {}. Connected to {}.", welcome.name, self.origin));
        let token = welcome.token.as_str();
        let ending = tokio::select! {
            ending = self.work(hands, token) => ending,
            never = self.deliver(token) => match never {},
        };
        // What is still unsaid, once and briefly: it tells why the machine stops.
        if tokio::time::timeout(Duration::from_secs(3), self.send_outbox(token)).await.is_err() {
            hands.say("The last log lines could not be sent.");
        }
        ending
    }

    async fn hello<H: Hands>(&self, hands: &mut H, inventory: Inventory) -> Result<Welcome, LinkError> {
        let hello = Hello { protocol: PROTOCOL, nonce: self.nonce.clone(), session: self.session, inventory };
        let mut tries = Tries::new(self, self.pace.hello_for);
        loop {
            match self.ask(self.http.post(self.url("/agent/v1/hello")).json(&hello)).await {
                Answer::Good(status, body) => {
                    return serde_json::from_slice(&body).map_err(|_| nonsense("hello", status, &String::from_utf8_lossy(&body)));
                }
                Answer::No(StatusCode::FORBIDDEN, body) => {
                    let reason = serde_json::from_str::<Refusal>(&body).map_or(body, |refusal| refusal.error);
                    return Err(LinkError::Refused(reason));
                }
                Answer::No(status, body) => return Err(nonsense("hello", status, &body)),
                Answer::Later(why) => {
                    hands.say(&format!("No answer from {} yet ({why}); trying again.", self.origin));
                    tries.wait(why).await?;
                }
            }
        }
    }

    /// Polls and executes. Returns when a task ended the boot, or the server disowned it.
    async fn work<H: Hands>(&self, hands: &mut H, token: &str) -> Result<Ending, LinkError> {
        let mut highest_fence = i64::MIN;
        let mut last: Option<(TaskId, TaskResult)> = None;
        let mut tries = Tries::new(self, self.pace.lost_after);
        hands.say("Waiting for a task.");
        loop {
            let task = match self.poll(token).await {
                Answer::Good(StatusCode::NO_CONTENT, _) => {
                    tries = Tries::new(self, self.pace.lost_after);
                    continue;
                }
                Answer::Good(status, body) => match serde_json::from_slice::<Task>(&body) {
                    Ok(task) => task,
                    Err(e) => return Err(nonsense("the poll for a task", status, &e.to_string())),
                },
                Answer::No(StatusCode::UNAUTHORIZED, _) => {
                    hands.say("The server no longer knows this boot; restarting.");
                    return Ok(Ending::Reboot);
                }
                Answer::No(status, body) => {
                    tries.wait(format!("{status}: {body}")).await?;
                    continue;
                }
                Answer::Later(why) => {
                    if tries.failed == 0 {
                        hands.say(&format!("Lost the server ({why}); trying again."));
                    }
                    tries.wait(why).await?;
                    continue;
                }
            };
            tries = Tries::new(self, self.pace.lost_after);
            let result = match &last {
                // Our answer was lost on the way: the same task must not be done twice.
                Some((id, result)) if *id == task.id => result.clone(),
                _ if task.fence < highest_fence => stale(&task, highest_fence),
                _ => {
                    highest_fence = task.fence;
                    hands.say(&format!("Task: {}.", spoken(&task.order)));
                    self.execute(hands, token, &task).await
                }
            };
            if let TaskResult::Failed { code, message, .. } = &result {
                hands.say(&format!("Failed ({code}): {message}"));
            }
            // A fresh inventory and the log of the work come before the word that it is done.
            self.send_outbox(token).await;
            match self.hand_in(token, task.id, &result).await? {
                HandedIn::Accepted => {}
                HandedIn::Withdrawn => {
                    last = Some((task.id, result));
                    continue;
                }
                HandedIn::Disowned => return Ok(Ending::Reboot),
            }
            let done = matches!(result, TaskResult::Ok { .. });
            last = Some((task.id, result));
            match task.order {
                Order::Reboot | Order::RebootToDisk { .. } if done => {
                    hands.say("Restarting, as ordered.");
                    return Ok(Ending::Reboot);
                }
                Order::PowerOff if done => {
                    hands.say("Powering off, as ordered.");
                    return Ok(Ending::PowerOff);
                }
                Order::Inventory
                | Order::WriteImage(_)
                | Order::WipeDisks(_)
                | Order::Reboot
                | Order::RebootToDisk { .. }
                | Order::PowerOff => {
                    hands.say("Waiting for the next task.");
                }
            }
        }
    }

    async fn poll(&self, token: &str) -> Answer {
        let wait = self.pace.poll_wait_secs;
        let request = self.http.get(self.url(&format!("/agent/v1/task?wait_secs={wait}"))).bearer_auth(token);
        self.ask_within(request, self.pace.request_timeout + Duration::from_secs(u64::from(wait))).await
    }

    /// Executes one task while its progress is posted beside it.
    async fn execute<H: Hands>(&self, hands: &mut H, token: &str, task: &Task) -> TaskResult {
        let progress = Progress::default();
        tokio::select! {
            result = hands.execute(&task.order, progress.clone()) => result,
            never = self.post_progress(token, task.id, &progress) => match never {},
        }
    }

    async fn post_progress(&self, token: &str, id: TaskId, progress: &Progress) -> std::convert::Infallible {
        let url = self.url(&format!("/agent/v1/task/{id}/progress"));
        let mut sent = None;
        let mut unchanged = 0;
        loop {
            tokio::time::sleep(self.pace.progress_every).await;
            let now = progress.latest();
            unchanged = if sent.as_ref() == Some(&now) { unchanged + 1 } else { 0 };
            if unchanged % 10 != 0 {
                continue;
            }
            // A lost post is no harm: the next one says more. Only the server's word cancels: that the task was withdrawn, or
            // that it knows the task or this boot no more (the machine was forgotten).
            match self.ask(self.http.post(&url).bearer_auth(token).json(&now)).await {
                Answer::Good(_, body) => {
                    if serde_json::from_slice::<ProgressReply>(&body).is_ok_and(|reply| reply.cancel) {
                        progress.cancel();
                    }
                    sent = Some(now);
                }
                Answer::No(StatusCode::GONE | StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED, _) => progress.cancel(),
                Answer::No(..) | Answer::Later(_) => {}
            }
        }
    }

    /// Posts a result until the server has stored it or says that it does not want it.
    async fn hand_in(&self, token: &str, id: TaskId, result: &TaskResult) -> Result<HandedIn, LinkError> {
        let url = self.url(&format!("/agent/v1/task/{id}/result"));
        let mut tries = Tries::new(self, self.pace.lost_after);
        loop {
            match self.ask(self.http.post(&url).bearer_auth(token).json(result)).await {
                Answer::Good(..) => return Ok(HandedIn::Accepted),
                Answer::No(StatusCode::GONE | StatusCode::NOT_FOUND, _) => return Ok(HandedIn::Withdrawn),
                Answer::No(StatusCode::UNAUTHORIZED, _) => return Ok(HandedIn::Disowned),
                Answer::No(status, body) => tries.wait(format!("{status}: {body}")).await?,
                Answer::Later(why) => tries.wait(why).await?,
            }
        }
    }

    /// Sends what is put in the outbox, in batches, for as long as the link lives.
    async fn deliver(&self, token: &str) -> std::convert::Infallible {
        loop {
            self.outbox.filled().await;
            self.send_outbox(token).await;
            tokio::time::sleep(self.pace.log_every).await;
        }
    }

    async fn send_outbox(&self, token: &str) {
        let _turn = self.sending.lock().await;
        if let Some(inventory) = self.outbox.take_inventory() {
            match self.ask(self.http.post(self.url("/agent/v1/inventory")).bearer_auth(token).json(&inventory)).await {
                Answer::Good(..) | Answer::No(..) => {}
                Answer::Later(_) => self.outbox.put_inventory_back(inventory),
            }
        }
        while let Some(batch) = self.outbox.batch() {
            match self.ask(self.http.post(self.url("/agent/v1/log")).bearer_auth(token).json(&batch)).await {
                Answer::Good(..) | Answer::No(..) => self.outbox.sent(&batch),
                Answer::Later(_) => return,
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Answer {
        self.ask_within(request, self.pace.request_timeout).await
    }

    async fn ask_within(&self, request: reqwest::RequestBuilder, limit: Duration) -> Answer {
        let mut response = match request.timeout(limit).send().await {
            Ok(response) => response,
            Err(e) => return Answer::Later(chain(&e)),
        };
        let status = response.status();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(bytes)) if body.len() + bytes.len() <= MAX_ANSWER_BYTES => body.extend_from_slice(&bytes),
                Ok(Some(_)) => return Answer::No(status, format!("an answer of more than {MAX_ANSWER_BYTES} bytes")),
                Ok(None) => break,
                Err(e) => return Answer::Later(chain(&e)),
            }
        }
        let text = || String::from_utf8_lossy(&body).chars().take(300).collect::<String>();
        match status {
            _ if status.is_success() => Answer::Good(status, body),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Answer::Later(format!("{status}: {}", text())),
            _ if status.is_client_error() || status.is_redirection() => Answer::No(status, text()),
            _ => Answer::Later(format!("{status}: {}", text())),
        }
    }
}

enum HandedIn {
    Accepted,
    /// 410, or a task the server does not know: nobody waits for the result.
    Withdrawn,
    Disowned,
}

/// Retries of one request until `limit` has passed since the server last answered.
struct Tries<'a> {
    link: &'a Link,
    began: Instant,
    limit: Duration,
    failed: u32,
}

impl<'a> Tries<'a> {
    fn new(link: &'a Link, limit: Duration) -> Self {
        Self { link, began: Instant::now(), limit, failed: 0 }
    }

    async fn wait(&mut self, why: String) -> Result<(), LinkError> {
        let for_how_long = self.began.elapsed();
        if for_how_long >= self.limit {
            return Err(LinkError::Lost { server: self.link.origin.clone(), for_how_long, last: why });
        }
        let pause = self.link.pace.retry_first.saturating_mul(1 << self.failed.min(10)).min(self.link.pace.retry_cap);
        self.failed += 1;
        let [chance] = clock::random::<1>();
        tokio::time::sleep(pause + pause.mul_f64(f64::from(chance) / 512.0)).await;
        Ok(())
    }
}

/// The HTTP client for links: no proxy, no redirects, so that nothing but the named server is ever spoken to.
///
/// # Errors
/// `Client` if TLS cannot be set up.
pub fn http_client() -> Result<reqwest::Client, LinkError> {
    http_client_builder().build().map_err(LinkError::Client)
}

/// [`http_client`] before it is built: a simulated machine adds how its network reaches the server.
pub fn http_client_builder() -> reqwest::ClientBuilder {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error only says that another thread was faster: its provider is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        // The link is plain HTTP; and a ramdisk has no certificate store, without which the default refuses to start.
        .tls_certs_only([])
        .connect_timeout(Duration::from_secs(5))
        .tcp_keepalive(Duration::from_secs(15))
}

fn nonsense(request: &str, status: StatusCode, body: &str) -> LinkError {
    LinkError::Nonsense { request: request.to_owned(), status: status.as_u16(), body: body.chars().take(300).collect() }
}

fn stale(task: &Task, highest: i64) -> TaskResult {
    TaskResult::Failed {
        code: "fence".into(),
        message: format!(
            "the task carries fence {}, but one with {highest} was already taken: it was given out by a process that lost its claim",
            task.fence
        ),
        retry: false,
    }
}

/// An error with its causes: reqwest's own text ends at "error sending request".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn spoken(order: &Order) -> String {
    match order {
        Order::Inventory => "read the inventory".into(),
        Order::WriteImage(write) => format!("write image {} to {}", write.sha256, write.disk),
        Order::WipeDisks(wipe) => {
            let names: Vec<_> = wipe.disks.iter().map(ToString::to_string).collect();
            format!("wipe {}", names.join(", "))
        }
        Order::RebootToDisk { disk: Some(disk) } => format!("restart from {disk}"),
        Order::RebootToDisk { disk: None } => "restart from disk".into(),
        Order::Reboot => "restart".into(),
        Order::PowerOff => "power off".into(),
    }
}
