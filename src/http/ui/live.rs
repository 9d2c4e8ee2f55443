//! Live updates: one stream a page, of rendered fragments. A message replaces what is shown by what is, so nothing is
//! queued for a slow client: it is asked for the newest state when it has read the last one. Each message carries the
//! mark of that state; a client that comes back with it gets what changed since.

use std::collections::{HashSet, hash_map::DefaultHasher};
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio::time::Instant;

use crate::app::AppError;
use crate::app::view::MachineDetail;
use crate::clock;
use crate::domain::access::Actor;
use crate::domain::id::MachineId;
use crate::http::auth;
use crate::http::ui::Ui;
use crate::http::ui::list::{FRESH, PAGE, Summary};
use crate::http::ui::observed;
use crate::http::ui::page::{self, Section};
use crate::http::ui::row::Filter;
use crate::http::ui::strays;
use crate::http::ui::text::stamp;

/// Changes within this time go out together: at most about two messages a second.
const COALESCE: Duration = Duration::from_millis(450);
/// A page hears something this often, so that it can tell a quiet service from a lost one.
const BEAT: Duration = Duration::from_secs(5);
/// Without any hint the page is compared this often: what depends on the clock alone, hints that were lost.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);
/// Whether the session still stands is asked this often.
const ASK_SESSION: Duration = Duration::from_secs(60);
/// A stream ends after this time; the browser comes back at once and goes on where it was.
const LONGEST: Duration = Duration::from_secs(15 * 60);

#[derive(Deserialize)]
pub struct StreamQuery {
    page: String,
    #[serde(default)]
    q: String,
    #[serde(default)]
    n: usize,
    id: Option<MachineId>,
    #[serde(default)]
    since: String,
}

/// What a stream follows, and what its client has.
enum Topic {
    Machines { q: String, filter: Filter, number: usize, shown: Option<HashSet<String>>, version: Option<u64>, mark: String, summary: u64 },
    Machine { id: MachineId, has: Vec<u64> },
    Strays { has: u64 },
}

struct Stream {
    ui: Ui,
    headers: HeaderMap,
    actor: Actor,
    csrf: String,
    topic: Topic,
    changes: broadcast::Receiver<crate::app::Change>,
    began: Instant,
    asked: Instant,
    looked: Option<Instant>,
    beat: Instant,
    over: bool,
    _place: OwnedSemaphorePermit,
}

/// `GET /ui/events?page=machines|machine|boots`. 401 tells the page to go to the login, 503 to come back later.
pub async fn events(State(ui): State<Ui>, Query(query): Query<StreamQuery>, headers: HeaderMap) -> Response {
    let caller = match auth::authenticate(&ui.app, &headers).await {
        Ok(Some(caller)) => caller,
        Ok(None) => return StatusCode::UNAUTHORIZED.into_response(),
        Err(problem) => return problem.into_response(),
    };
    let Ok(place) = ui.streams.clone().try_acquire_owned() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let mark: String = headers.get("last-event-id").and_then(|v| v.to_str().ok()).unwrap_or(&query.since).chars().take(400).collect();
    let topic = match (query.page.as_str(), query.id) {
        ("machines", _) => {
            let q: String = query.q.chars().take(200).collect();
            Topic::Machines { filter: Filter::parse(&q), q, number: query.n.max(1), shown: None, version: None, mark, summary: 0 }
        }
        ("machine", Some(id)) => Topic::Machine { id, has: mark.split('.').map(|h| u64::from_str_radix(h, 16).unwrap_or(0)).collect() },
        ("boots", _) => Topic::Strays { has: u64::from_str_radix(&mark, 16).unwrap_or(0) },
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let now = Instant::now();
    let changes = ui.app.changes();
    let csrf = caller.csrf.unwrap_or_default();
    let stream = Stream {
        ui,
        headers,
        actor: caller.actor,
        csrf,
        topic,
        changes,
        began: now,
        asked: now,
        looked: None,
        beat: now,
        over: false,
        _place: place,
    };
    let messages = stream::unfold(stream, |mut s| async move { s.next().await.map(|event| (Ok::<_, Infallible>(event), s)) });
    let mut response = Sse::new(messages).into_response();
    // nginx and its like hold back what they think is a page.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}

impl Stream {
    /// The next message, when there is one; `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.over || self.began.elapsed() > LONGEST {
                return None;
            }
            if self.asked.elapsed() > ASK_SESSION {
                self.asked = Instant::now();
                if !matches!(auth::authenticate(&self.ui.app, &self.headers).await, Ok(Some(_))) {
                    return None;
                }
            }
            if self.looked.is_none() || self.wait().await {
                self.looked = Some(Instant::now());
                match self.look().await {
                    Ok(Some(event)) => {
                        self.beat = Instant::now();
                        return Some(event);
                    }
                    Ok(None) => {}
                    Err(AppError::NotFound { .. }) => {
                        self.over = true;
                        return Some(Event::default().event("anew").data("gone"));
                    }
                    Err(e) => {
                        // Busy or closing: the page keeps what it has and says that it is not live.
                        tracing::warn!(error = &e as &dyn std::error::Error, "a live page could not be read");
                        return None;
                    }
                }
            }
            if self.beat.elapsed() >= BEAT {
                self.beat = Instant::now();
                return Some(Event::default().event("beat").data("1").retry(Duration::from_secs(2)));
            }
        }
    }

    /// Waits for a change that concerns this page; `false` when it is only time for a beat.
    async fn wait(&mut self) -> bool {
        let last = self.looked.unwrap_or(self.began);
        loop {
            let beat_at = self.beat + BEAT;
            let look_at = last + LOOK_ANYWAY;
            tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(change) => {
                        let ours = match &self.topic {
                            Topic::Machine { id, .. } => change.machine.is_none_or(|m| m == *id),
                            Topic::Machines { .. } | Topic::Strays { .. } => true,
                        };
                        if ours {
                            tokio::time::sleep_until((last + COALESCE).max(Instant::now() + COALESCE / 4)).await;
                            self.changes = self.changes.resubscribe();
                            return true;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        tokio::time::sleep_until(last + COALESCE).await;
                        return true;
                    }
                    Err(broadcast::error::RecvError::Closed) => {
                        self.over = true;
                        return false;
                    }
                },
                () = tokio::time::sleep_until(look_at) => return true,
                () = tokio::time::sleep_until(beat_at) => return false,
            }
        }
    }

    async fn look(&mut self) -> Result<Option<Event>, AppError> {
        let now = clock::now();
        match &mut self.topic {
            Topic::Machines { q, filter, number, shown, version, mark, summary } => {
                let snapshot = self.ui.list.snapshot(&self.ui.app, &self.actor, FRESH).await?;
                let Some(has) = version.or_else(|| snapshot.version_of(mark)) else {
                    self.over = true;
                    return Ok(Some(Event::default().event("anew").data("behind")));
                };
                if shown.is_none() {
                    let fitting = snapshot.filtered(filter);
                    let one_page = fitting.len() <= PAGE && *number == 1;
                    // On one of several pages only its own rows are followed; a single page takes new ones too.
                    *shown = Some(if one_page {
                        HashSet::new()
                    } else {
                        fitting.iter().skip((*number - 1) * PAGE).take(PAGE).map(|r| r.row.id.clone()).collect()
                    });
                }
                let follows = |id: &str| shown.as_ref().is_none_or(|s| s.is_empty() || s.contains(id));
                let mut out = String::new();
                for row in snapshot.rows.iter().filter(|r| r.changed > has && follows(&r.row.id)) {
                    // A row that fits the filter no more is changed where it stands, but not added.
                    let swap = if filter.matches(&row.row) { "outerMorph" } else { "outerMorph add:false" };
                    fragment(&mut out, &format!("m-{}", row.row.id), swap, &row.html);
                }
                for (_, id) in snapshot.removed.iter().filter(|(at, _)| *at > has) {
                    fragment(&mut out, &format!("m-{id}"), "delete", "");
                }
                let html = Summary::of(&snapshot, q).render().map_err(|e| AppError::Internal(e.to_string()))?;
                let hash = hash_of(&html);
                if hash != *summary && (*summary != 0 || has != snapshot.version) {
                    fragment(&mut out, "summary", "outerMorph", &html);
                }
                *summary = hash;
                *version = Some(snapshot.version);
                Ok((!out.is_empty()).then(|| Event::default().id(snapshot.mark()).data(stamp(&out, now))))
            }
            Topic::Machine { id, has } => {
                let sections = sections_of(&self.ui, &self.actor, &self.csrf, *id).await?;
                let hashes: Vec<u64> = sections.iter().map(|s| hash_of(&s.html)).collect();
                let mut out = String::new();
                for (index, section) in sections.iter().enumerate() {
                    if has.get(index) != hashes.get(index) {
                        fragment(&mut out, section.id, "outerMorph", &section.html);
                    }
                }
                *has = hashes;
                Ok((!out.is_empty()).then(|| Event::default().id(mark_of(&sections)).data(stamp(&out, now))))
            }
            Topic::Strays { has } => {
                let html = strays::section(&self.ui, &self.actor).await?;
                let hash = hash_of(&html);
                if hash == *has {
                    return Ok(None);
                }
                *has = hash;
                let mut out = String::new();
                fragment(&mut out, "sec-strays", "outerMorph", &html);
                Ok(Some(Event::default().id(format!("{hash:x}")).data(stamp(&out, now))))
            }
        }
    }
}

/// The sections of a machine page.
///
/// # Errors
/// The app's.
pub async fn sections_of(ui: &Ui, actor: &Actor, csrf: &str, id: MachineId) -> Result<Vec<Section>, AppError> {
    let detail = ui.app.machine(actor, id).await?;
    render(ui, &detail, actor, csrf).await
}

/// Renders every section of a machine's page.
///
/// # Errors
/// The app's.
pub async fn render(ui: &Ui, detail: &MachineDetail, actor: &Actor, csrf: &str) -> Result<Vec<Section>, AppError> {
    let now = clock::now();
    let failed = |e| AppError::Internal(format!("the machine's page cannot be rendered: {e}"));
    let mut sections = page::sections(detail, actor, csrf, now).map_err(failed)?;
    let observed = match detail.bmc {
        Some(_) => Some(ui.app.observed(actor, detail.machine.id, observed::LOG_LINES).await?),
        None => None,
    };
    sections.extend(observed::sections(detail.machine.id, observed.as_ref(), actor, csrf, now).map_err(failed)?);
    Ok(sections)
}

/// What a machine page is told to say when it connects.
pub fn mark_of(sections: &[Section]) -> String {
    sections.iter().map(|s| format!("{:x}", hash_of(&s.html))).collect::<Vec<_>>().join(".")
}

pub fn hash_of(html: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    html.hash(&mut hasher);
    hasher.finish()
}

/// One element to put in the place of the one with its id (`hx-partial` of htmx 4).
fn fragment(out: &mut String, id: &str, swap: &str, html: &str) {
    out.push_str("<hx-partial hx-target=\"#");
    out.push_str(id);
    out.push_str("\" hx-swap=\"");
    out.push_str(swap);
    out.push_str("\">");
    out.push_str(html);
    out.push_str("</hx-partial>");
}

/// Streams at once, over all pages.
pub const STREAMS: usize = 512;

/// Places for streams.
pub fn places() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(STREAMS))
}
