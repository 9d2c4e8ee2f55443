//! The machine list and its cache: rows are rendered once for everyone who looks, and each remembers the version at which
//! it last changed, so a stream sends what is new since the version its page has.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::app::machines::MachineFilter;
use crate::app::{App, AppError};
use crate::clock;
use crate::domain::access::Actor;
use crate::domain::time::Timestamp;
use crate::http::ui::Ui;
use crate::http::ui::assets::{HREFS, Hrefs};
use crate::http::ui::row::{Filter, Row};
use crate::http::ui::shell::{self, Flash, Frame, PageError, Person, User};
use crate::http::ui::text::{Text, Until};
use crate::http::ui::words::{Group, Tone};

/// Rows on one page.
pub const PAGE: usize = 100;
/// Removed rows remembered; a page that is further behind loads anew.
const REMOVED_KEPT: usize = 1000;
/// Every stream together reads the list at most this often.
pub const FRESH: Duration = Duration::from_millis(300);

pub struct CachedRow {
    pub row: Row,
    pub html: String,
    /// Version of the list at which this row last changed.
    pub changed: u64,
}

/// The list at one moment.
pub struct Snapshot {
    /// Of this process: versions of another one mean nothing here.
    pub instance: String,
    pub version: u64,
    /// In the order of the page.
    pub rows: Vec<Arc<CachedRow>>,
    /// Rows that went away, with the version at which they did.
    pub removed: VecDeque<(u64, String)>,
    /// A page older than this cannot be brought up to date.
    pub floor: u64,
    pub counts: Vec<(Group, usize)>,
    at: Timestamp,
}

impl Snapshot {
    /// What a page is told to say when it connects.
    pub fn mark(&self) -> String {
        format!("{}-{}", self.instance, self.version)
    }

    /// The version that a page with this mark has; `None` when it must load anew.
    pub fn version_of(&self, mark: &str) -> Option<u64> {
        let version = mark.strip_prefix(&self.instance)?.strip_prefix('-')?.parse().ok()?;
        (version >= self.floor && version <= self.version).then_some(version)
    }

    pub fn filtered(&self, filter: &Filter) -> Vec<&Arc<CachedRow>> {
        self.rows.iter().filter(|r| filter.matches(&r.row)).collect()
    }
}

/// One for the whole process.
pub struct ListCache {
    instance: String,
    now: tokio::sync::Mutex<Option<Arc<Snapshot>>>,
}

impl ListCache {
    pub fn new() -> Self {
        Self { instance: hex::encode(clock::random::<4>()), now: tokio::sync::Mutex::new(None) }
    }

    /// The list, at most `age` old. Whoever comes while it is read waits for the same reading.
    ///
    /// # Errors
    /// The app's.
    pub async fn snapshot(&self, app: &App, actor: &Actor, age: Duration) -> Result<Arc<Snapshot>, AppError> {
        let mut slot = self.now.lock().await;
        if let Some(snapshot) = slot.as_ref().filter(|s| clock::now().since(s.at) < age) {
            return Ok(snapshot.clone());
        }
        let machines = app.machines(actor, &MachineFilter::default(), None, usize::MAX).await?.items;
        let now = clock::now();
        let rows = machines.iter().map(|m| Row::of(m, now)).collect();
        let next = Arc::new(next(slot.as_deref(), &self.instance, rows, now)?);
        *slot = Some(next.clone());
        Ok(next)
    }
}

/// The expected end as told before, as long as it is not off by a fifth of what is left: an estimate that wavers is no change
/// of the row.
fn steady(told: Option<Until>, new: Option<Until>, now: Timestamp) -> Option<Until> {
    match (told, new) {
        (Some(told), Some(new)) => {
            let off = told.0.0.abs_diff(new.0.0);
            let left = new.0.0.saturating_sub(now.0).max(0).unsigned_abs();
            Some(if off <= (left / 5).max(10_000_000) { told } else { new })
        }
        (None, new) | (_, new @ None) => new,
    }
}

/// The snapshot after `old`: rows that look the same keep their version.
fn next(old: Option<&Snapshot>, instance: &str, rows: Vec<Row>, at: Timestamp) -> Result<Snapshot, AppError> {
    let before: HashMap<&str, &Arc<CachedRow>> = old.map(|s| s.rows.iter().map(|r| (r.row.id.as_str(), r)).collect()).unwrap_or_default();
    let version = old.map_or(1, |s| s.version + 1);
    let mut removed = old.map(|s| s.removed.clone()).unwrap_or_default();
    let mut floor = old.map_or(0, |s| s.floor);
    let mut out = Vec::with_capacity(rows.len());
    let mut counts: Vec<(Group, usize)> = Group::ALL.into_iter().map(|g| (g, 0)).collect();
    for mut row in rows {
        if let Some(same) = before.get(row.id.as_str()) {
            row.left = steady(same.row.left, row.left, at);
        }
        if let Some(count) = counts.iter_mut().find(|(g, _)| *g == row.group) {
            count.1 += 1;
        }
        let html = row.render().map_err(|e| AppError::Internal(format!("the row of a machine cannot be rendered: {e}")))?;
        let cached = match before.get(row.id.as_str()) {
            Some(same) if same.html == html => Arc::clone(same),
            Some(_) | None => Arc::new(CachedRow { row, html, changed: version }),
        };
        out.push(cached);
    }
    let here: HashSet<&str> = out.iter().map(|r| r.row.id.as_str()).collect();
    for gone in before.keys().filter(|id| !here.contains(*id)) {
        removed.push_back((version, (*gone).to_owned()));
    }
    while removed.len() > REMOVED_KEPT {
        if let Some((version, _)) = removed.pop_front() {
            floor = version;
        }
    }
    out.sort_by(|a, b| a.row.rank.cmp(&b.row.rank));
    Ok(Snapshot { instance: instance.to_owned(), version, rows: out, removed, floor, counts, at })
}

pub struct Tile {
    pub group: Group,
    pub count: usize,
}

#[derive(Template)]
#[template(path = "ui/_summary.html")]
pub struct Summary {
    pub total: usize,
    pub tiles: Vec<Tile>,
    /// The group that the filter asks for.
    pub chosen: String,
    /// Machines that wait to be accepted.
    pub new: usize,
}

impl Summary {
    pub fn of(snapshot: &Snapshot, q: &str) -> Self {
        let chosen = q.trim().strip_prefix("state:").unwrap_or_default().to_owned();
        let new = snapshot.counts.iter().find(|(g, _)| *g == Group::New).map_or(0, |(_, n)| *n);
        Self {
            new,
            total: snapshot.rows.len(),
            tiles: snapshot.counts.iter().map(|(group, count)| Tile { group: *group, count: *count }).collect(),
            chosen,
        }
    }
}

#[derive(Template)]
#[template(path = "ui/machines.html")]
struct ListPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    flash: Option<Flash>,
    summary: String,
    q: Text,
    total: usize,
    rows: Vec<&'a str>,
    page: usize,
    pages: usize,
    since: String,
}

#[derive(Deserialize)]
pub struct ListQuery {
    #[serde(default)]
    q: String,
    #[serde(default)]
    page: usize,
    #[serde(default)]
    said: String,
}

/// `GET /machines`.
///
/// # Errors
/// The app's, as a page.
pub async fn machines(State(ui): State<Ui>, person: Person, Query(query): Query<ListQuery>) -> Result<Response, PageError> {
    let snapshot = ui.list.snapshot(&ui.app, &person.actor, FRESH).await.map_err(|e| PageError::app(e, &person))?;
    let q: String = query.q.chars().take(200).collect();
    let fitting = snapshot.filtered(&Filter::parse(&q));
    let pages = fitting.len().div_ceil(PAGE).max(1);
    let page = query.page.clamp(1, pages);
    let summary = Summary::of(&snapshot, &q)
        .render()
        .map_err(|e| PageError::app(AppError::Internal(format!("the summary cannot be rendered: {e}")), &person))?;
    let flash = (query.said == "forgotten")
        .then(|| Flash { tone: Tone::Ok, text: Text::new("The record was dropped. The machine comes back as new when it is seen again.") });
    let frame = Frame::of(&person, "machines");
    let list = ListPage {
        assets: &HREFS,
        user: frame.user,
        at: frame.at,
        flash,
        summary,
        q: Text::new(&q),
        total: snapshot.rows.len(),
        rows: fitting.iter().skip((page - 1) * PAGE).take(PAGE).map(|r| r.html.as_str()).collect(),
        page,
        pages,
        since: snapshot.mark(),
    };
    Ok(shell::page(&list).into_response())
}
