//! Whatever is sent, the answer is a problem with a code, never a page, a panic or a 500.

use hostler::domain::access::Role;
use reqwest::{Method, header};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kit::{Api, problem};
use crate::support::engines::both;

#[tokio::test]
async fn every_bad_request_is_a_problem() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Admin).await;
        let post = |path: &str| api.request(Method::POST, path, &token);
        let json_body = |path: &str, body: String| post(path).header(header::CONTENT_TYPE, "application/json").body(body);

        problem(api.get("/api/v1/nothing", &token).await, 404, "no_such_path").await;
        problem(api.get("/api/v1/machines/%ff", &token).await, 400, "bad_path").await;
        problem(api.get("/api/v1/machines/%00", &token).await, 400, "bad_path").await;
        problem(api.get("/api/v1/machines?search=a%00b", &token).await, 400, "bad_query").await;
        problem(api.post("/api/v1/tokens", &token, &json!({"name": "a\u{0}b", "role": "viewer"})).await, 422, "invalid").await;
        let user = json!({"name": "a\u{0}b", "role": "viewer", "password": "long enough"});
        problem(api.post("/api/v1/users", &token, &user).await, 422, "invalid").await;
        problem(post("/api/v1/racks/import").body("serial,name\nA\u{0}B,x\n").send().await.unwrap(), 422, "invalid").await;
        problem(api.get("/api/v1/runs/not-a-uuid", &token).await, 400, "bad_path").await;
        problem(api.get("/api/v1/machines?limit=many", &token).await, 400, "bad_query").await;
        problem(api.get("/api/v1/machines?colour=red", &token).await, 400, "bad_query").await;
        problem(api.get("/api/v1/machines?state=happy", &token).await, 400, "bad_query").await;
        problem(json_body("/api/v1/tokens", "{".into()).send().await.unwrap(), 400, "not_json").await;
        problem(post("/api/v1/tokens").body("x").send().await.unwrap(), 415, "unsupported_media_type").await;
        problem(api.post("/api/v1/tokens", &token, &json!({"name": "x", "role": "viewer", "admin": true})).await, 422, "invalid").await;
        problem(api.post("/api/v1/tokens", &token, &json!({"name": "x", "role": "god"})).await, 422, "invalid").await;
        problem(api.post("/api/v1/tokens", &token, &json!({"name": "", "role": "viewer"})).await, 422, "invalid").await;
        problem(json_body("/api/v1/machines/nope/deploy", "[".repeat(100_000)).send().await.unwrap(), 422, "invalid").await;
        problem(json_body("/api/v1/tokens", format!("\"{}\"", "x".repeat(3 << 20))).send().await.unwrap(), 413, "too_large").await;
        problem(post("/api/v1/racks/import").body(vec![0xff, 0xfe, 0x00]).send().await.unwrap(), 400, "not_text").await;
        problem(post("/api/v1/images?name=UPPER").body("x").send().await.unwrap(), 400, "bad_query").await;
        problem(post("/api/v1/images?name=x").body("this is not a disk").send().await.unwrap(), 422, "invalid").await;
        problem(post("/api/v1/images?name=x").send().await.unwrap(), 422, "invalid").await;
        let event = api.request(Method::GET, "/api/v1/events", &token).header("last-event-id", "yesterday").send().await.unwrap();
        problem(event, 400, "bad_event_id").await;
        let file = json!({"path": "/etc/passwd", "name": "x"});
        problem(api.post("/api/v1/images/from-file", &token, &file).await, 409, "not_local").await;
        problem(api.post("/api/v1/users", &token, &json!({"name": "kim", "role": "viewer", "password": "short"})).await, 422, "invalid")
            .await;
    }
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let mut stream = tokio::net::TcpStream::connect(api.url.trim_start_matches("http://")).await.unwrap();
        let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
        // The service may close before all of it is written.
        drop(stream.write_all(head.as_bytes()).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let line = String::from_utf8_lossy(&answer);
        assert!(line.is_empty() || line.starts_with("HTTP/1.1 431"), "{line}");
        assert_eq!(api.http.get(format!("{}/healthz", api.url)).send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn every_answer_carries_the_safe_headers() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        for path in ["/healthz", "/api/v1/nothing", "/api/v1/machines"] {
            let response = api.http.get(format!("{}{path}", api.url)).send().await.unwrap();
            let csp = response.headers()["content-security-policy"].to_str().unwrap();
            assert!(csp.contains("frame-ancestors 'none'") && !csp.contains("unsafe"), "{csp}");
            assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        }
    }
}
