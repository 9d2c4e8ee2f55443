//! `/api/v1/events`: the event log as a stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream;
use tokio::sync::broadcast::error::RecvError;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::app::events::Follower;
use crate::app::view::EventView;
use crate::domain::id::EventId;
use crate::http::api::TheApp;
use crate::http::auth::Caller;
use crate::http::error::{Problem, Result};

/// Even without a hint the log is read this often: another replica may have written.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Hints within this time lead to one look.
const GATHER: Duration = Duration::from_millis(50);
/// A browser that lost the stream comes back after this.
const RETRY: Duration = Duration::from_secs(2);

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Events as they happen (server-sent events; the data of each is one EventView). `Last-Event-ID` replays what was missed.
#[utoipa::path(get, path = "/events", tag = "events",
    params(("Last-Event-ID" = Option<EventId>, Header, description = "replay what came after this event")),
    responses((status = OK, body = EventView, content_type = "text/event-stream"), (status = "4XX", body = Problem)))]
async fn events(
    State(app): TheApp,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    let after = match headers.get("last-event-id").map(|v| v.to_str().unwrap_or_default().trim().parse::<EventId>()) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => {
            return Err(Problem::new(axum::http::StatusCode::BAD_REQUEST, "bad_event_id", "Last-Event-ID is not the id of an event"));
        }
    };
    // Subscribe before the first look, so that nothing falls between.
    let hints = app.changes();
    let follower = app.follow_events(&caller.actor, after)?;
    let stream = stream::unfold(
        (follower, hints, Vec::<EventView>::new().into_iter(), true),
        |(mut follower, mut hints, mut batch, first)| async move {
            let mut first = first;
            loop {
                if let Some(event) = batch.next() {
                    return Some((Ok(sse(&event)), (follower, hints, batch, false)));
                }
                if !first {
                    match tokio::time::timeout(LOOK_EVERY, hints.recv()).await {
                        Ok(Ok(_) | Err(RecvError::Lagged(_))) => tokio::time::sleep(GATHER).await,
                        Ok(Err(RecvError::Closed)) => return None,
                        Err(_) => {}
                    }
                }
                first = false;
                batch = look(&mut follower).await?.into_iter();
            }
        },
    );
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// `None` ends the stream: the reader comes back with `Last-Event-ID`.
async fn look(follower: &mut Follower) -> Option<Vec<EventView>> {
    match follower.next().await {
        Ok(events) => Some(events),
        Err(e) => {
            tracing::warn!(error = &e as &dyn std::error::Error, "an event stream ends: the log cannot be read");
            None
        }
    }
}

fn sse(event: &EventView) -> Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    Event::default().id(event.id.to_string()).event("event").retry(RETRY).data(data)
}
