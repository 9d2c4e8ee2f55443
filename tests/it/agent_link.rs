//! The agent's link against a server that answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hostler::agent::link::{Ending, Hands, Link, LinkError, Outbox, Pace, Progress};
use hostler::domain::id::{MachineId, TaskId};
use hostler::domain::inventory::Inventory;
use hostler::wire::agent::{Hello, LogBatch, Order, ProgressReply, Refusal, Task, TaskProgress, TaskResult, Welcome};
use serde_json::json;
use uuid::Uuid;

/// What the server was told, and what it answers next.
#[derive(Default)]
struct Book {
    hellos: Vec<Hello>,
    /// Refusals before the first welcome.
    hello_answers: VecDeque<StatusCode>,
    tasks: VecDeque<Task>,
    /// What the poll says when no task is left.
    when_idle: Option<StatusCode>,
    results: Vec<(TaskId, TaskResult)>,
    result_answers: VecDeque<StatusCode>,
    progress: Vec<TaskProgress>,
    cancel: bool,
    /// What progress is answered with, if not as it should be.
    when_told: Option<StatusCode>,
    logs: Vec<String>,
    inventories: Vec<Inventory>,
}

type Shared = Arc<Mutex<Book>>;

async fn hello(State(book): State<Shared>, Json(hello): Json<Hello>) -> Response {
    let mut book = book.lock().unwrap();
    book.hellos.push(hello);
    match book.hello_answers.pop_front() {
        Some(status) => (status, Json(Refusal { error: "the nonce was used".into() })).into_response(),
        None => Json(Welcome { machine: MachineId(Uuid::nil()), name: "m1".parse().unwrap(), token: "t".into() }).into_response(),
    }
}

async fn task(State(book): State<Shared>) -> Response {
    let mut book = book.lock().unwrap();
    match (book.tasks.pop_front(), book.when_idle) {
        (Some(task), _) => Json(task).into_response(),
        (None, status) => status.unwrap_or(StatusCode::UNAUTHORIZED).into_response(),
    }
}

async fn result(State(book): State<Shared>, Path(id): Path<Uuid>, Json(result): Json<TaskResult>) -> StatusCode {
    let mut book = book.lock().unwrap();
    book.results.push((TaskId(id), result));
    book.result_answers.pop_front().unwrap_or(StatusCode::NO_CONTENT)
}

async fn progress(State(book): State<Shared>, Path(_): Path<Uuid>, Json(progress): Json<TaskProgress>) -> Response {
    let mut book = book.lock().unwrap();
    book.progress.push(progress);
    match book.when_told {
        Some(status) => status.into_response(),
        None => Json(ProgressReply { cancel: book.cancel }).into_response(),
    }
}

async fn log(State(book): State<Shared>, Json(batch): Json<LogBatch>) -> StatusCode {
    book.lock().unwrap().logs.extend(batch.lines.into_iter().map(|line| line.text));
    StatusCode::NO_CONTENT
}

async fn inventory(State(book): State<Shared>, Json(inventory): Json<Inventory>) -> StatusCode {
    book.lock().unwrap().inventories.push(inventory);
    StatusCode::NO_CONTENT
}

async fn serve(book: Book) -> (String, Shared) {
    let book: Shared = Arc::new(Mutex::new(book));
    let app = Router::new()
        .route("/agent/v1/hello", post(hello))
        .route("/agent/v1/task", get(task))
        .route("/agent/v1/task/{id}/result", post(result))
        .route("/agent/v1/task/{id}/progress", post(progress))
        .route("/agent/v1/log", post(log))
        .route("/agent/v1/inventory", post(inventory))
        .with_state(Arc::clone(&book));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), book)
}

/// Hands that count what they do; told to, they work until they are cancelled.
struct Counting {
    done: Vec<Order>,
    until_cancelled: bool,
    outbox: Outbox,
}

impl Hands for Counting {
    async fn inventory(&mut self) -> Inventory {
        Inventory { kernel: "test".into(), ..Inventory::default() }
    }

    async fn execute(&mut self, order: &Order, progress: Progress) -> TaskResult {
        self.done.push(order.clone());
        if self.until_cancelled {
            progress.report("write", 5, 10);
            progress.cancelled().await;
            return TaskResult::Failed { code: "cancelled".into(), message: "withdrawn".into(), retry: false };
        }
        if matches!(order, Order::Inventory) {
            self.outbox.log(1.0, "info", "read everything again");
            self.outbox.inventory(Inventory { kernel: "again".into(), ..Inventory::default() });
        }
        TaskResult::Ok { evidence: json!({}) }
    }
}

fn quick() -> Pace {
    let ms = Duration::from_millis;
    Pace {
        poll_wait_secs: 0,
        retry_first: ms(1),
        retry_cap: ms(5),
        hello_for: ms(2000),
        lost_after: ms(2000),
        progress_every: ms(5),
        log_every: ms(1),
        request_timeout: ms(2000),
    }
}

async fn run(book: Book, until_cancelled: bool) -> (Result<Ending, LinkError>, Vec<Order>, Shared) {
    let (server, book) = serve(book).await;
    let link = Link::new(&server, "n1", quick()).unwrap();
    let mut hands = Counting { done: Vec::new(), until_cancelled, outbox: link.outbox() };
    let ending = tokio::time::timeout(Duration::from_secs(20), link.run(&mut hands)).await.expect("the link ends within 20 s");
    (ending, hands.done, book)
}

fn order(number: u128, fence: i64, order: Order) -> Task {
    Task { id: TaskId(Uuid::from_u128(number)), fence, order }
}

#[tokio::test]
async fn hello_is_retried_as_the_same_session_until_the_server_answers() {
    let hello_answers = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY].into();
    let (ending, _, book) = run(Book { hello_answers, ..Book::default() }, false).await;
    assert_eq!(ending.unwrap(), Ending::Reboot);
    let book = book.lock().unwrap();
    assert_eq!(book.hellos.len(), 3);
    assert!(book.hellos.iter().all(|hello| hello.session == book.hellos[0].session && hello.nonce == "n1"));
}

#[tokio::test]
async fn a_refused_boot_ends_at_once_with_the_servers_reason() {
    let (ending, _, book) = run(Book { hello_answers: [StatusCode::FORBIDDEN].into(), ..Book::default() }, false).await;
    assert!(matches!(ending, Err(LinkError::Refused(reason)) if reason == "the nonce was used"));
    assert_eq!(book.lock().unwrap().hellos.len(), 1);
}

#[tokio::test]
async fn an_agent_that_the_server_no_longer_knows_restarts() {
    let (ending, done, _) = run(Book::default(), false).await;
    assert_eq!((ending.unwrap(), done.len()), (Ending::Reboot, 0));
}

#[tokio::test]
async fn the_machine_stops_only_after_the_result_was_accepted() {
    let result_answers = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::INTERNAL_SERVER_ERROR].into();
    let tasks = [order(1, 1, Order::PowerOff)].into();
    let (ending, done, book) = run(Book { tasks, result_answers, ..Book::default() }, false).await;
    assert_eq!((ending.unwrap(), done), (Ending::PowerOff, vec![Order::PowerOff]));
    assert_eq!(book.lock().unwrap().results.len(), 3);
}

#[tokio::test]
async fn a_task_that_is_given_twice_is_done_once_and_answered_twice() {
    let tasks = [order(1, 1, Order::Inventory), order(1, 2, Order::Inventory)].into();
    let (_, done, book) = run(Book { tasks, ..Book::default() }, false).await;
    assert_eq!(done.len(), 1);
    assert_eq!(book.lock().unwrap().results.len(), 2);
}

#[tokio::test]
async fn a_task_with_a_lower_fence_than_one_seen_is_refused() {
    let tasks = [order(1, 7, Order::Inventory), order(2, 6, Order::PowerOff)].into();
    let (ending, done, book) = run(Book { tasks, ..Book::default() }, false).await;
    assert_eq!(ending.unwrap(), Ending::Reboot);
    assert_eq!(done, vec![Order::Inventory]);
    let book = book.lock().unwrap();
    assert!(matches!(&book.results[1].1, TaskResult::Failed { code, retry: false, .. } if code == "fence"));
}

#[tokio::test]
async fn a_withdrawn_task_is_told_by_the_answer_to_its_progress() {
    let tasks = [order(1, 1, Order::Reboot)].into();
    let (ending, _, book) = run(Book { tasks, cancel: true, ..Book::default() }, true).await;
    // The failed reboot does not restart the machine; the 401 afterwards does.
    assert_eq!(ending.unwrap(), Ending::Reboot);
    let book = book.lock().unwrap();
    assert_eq!(book.progress[0], TaskProgress { phase: "write".into(), done: 5, total: 10 });
    assert!(matches!(&book.results[0].1, TaskResult::Failed { code, .. } if code == "cancelled"));
}

#[tokio::test]
async fn an_agent_whose_machine_was_forgotten_stops_what_it_does() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND, StatusCode::GONE] {
        let tasks = [order(1, 1, Order::PowerOff)].into();
        // The hands work until they are cancelled: without that this never ends.
        let (ending, _, book) = run(Book { tasks, when_told: Some(status), ..Book::default() }, true).await;
        assert_eq!(ending.unwrap(), Ending::Reboot, "{status}");
        assert!(matches!(&book.lock().unwrap().results[0].1, TaskResult::Failed { code, .. } if code == "cancelled"), "{status}");
    }
}

#[tokio::test]
async fn a_server_in_trouble_cancels_nothing() {
    let tasks = [order(1, 1, Order::PowerOff)].into();
    let (server, book) = serve(Book { tasks, when_told: Some(StatusCode::INTERNAL_SERVER_ERROR), ..Book::default() }).await;
    let link = Link::new(&server, "n1", quick()).unwrap();
    let mut hands = Counting { done: Vec::new(), until_cancelled: true, outbox: link.outbox() };
    let told = async {
        while book.lock().unwrap().progress.len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ending = link.run(&mut hands) => panic!("{ending:?}"),
        told = tokio::time::timeout(Duration::from_secs(20), told) => told.expect("progress is told again"),
    }
}

#[tokio::test]
async fn log_and_inventory_of_a_task_are_there_before_its_result() {
    let tasks = [order(1, 1, Order::Inventory), order(2, 2, Order::Reboot)].into();
    let (_, _, book) = run(Book { tasks, ..Book::default() }, false).await;
    let book = book.lock().unwrap();
    assert_eq!(book.inventories.len(), 1);
    assert_eq!(book.inventories[0].kernel, "again");
    assert_eq!(book.logs, ["read everything again"]);
}

#[tokio::test]
async fn a_server_that_is_gone_for_too_long_is_given_up() {
    let pace = Pace { hello_for: Duration::from_millis(20), ..quick() };
    // Nothing listens on port 1 of a loopback address nobody uses.
    let link = Link::new("http://127.77.0.1:1", "n", pace).unwrap();
    let mut hands = Counting { done: Vec::new(), until_cancelled: false, outbox: link.outbox() };
    assert!(matches!(link.run(&mut hands).await, Err(LinkError::Lost { .. })));
}

#[test]
fn only_a_plain_origin_is_a_server() {
    for server in ["https://10.0.0.1", "http://10.0.0.1/path", "10.0.0.1:80", "http://user@10.0.0.1", ""] {
        assert!(matches!(Link::new(server, "n", quick()), Err(LinkError::BadServer(_))), "{server}");
    }
}
