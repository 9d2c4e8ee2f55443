//! The pages as a browser without JavaScript meets them, their live streams, and hostile texts in them.

mod observed;
mod seed;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt;
use hostler::app::{App, Parts, Settings};
use hostler::artifact::Artifacts;
use hostler::bmc::{BmcSettings, Bmcs};
use hostler::domain::machine::Lifecycle;
use hostler::domain::secret::Secret;
use hostler::engine::{Engine, EngineSettings};
use hostler::secret::Sealer;
use hostler::store::{Store, StoreConfig};
use tower::ServiceExt;

struct Site {
    router: Router,
    rack: seed::Rack,
    password: String,
    _dir: tempfile::TempDir,
}

/// A browser's memory: its cookies.
#[derive(Default, Clone)]
struct Jar(Vec<(String, String)>);

struct Page {
    status: StatusCode,
    location: Option<String>,
    headers: axum::http::HeaderMap,
    text: String,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::Sqlite { path: dir.path().join("hostler.db") }).await.unwrap();
        let rack = seed::rack(store.clone()).await;
        let sealer = Sealer::from_key(&Secret::new([7; 32]));
        let settings = EngineSettings { owner: "test".to_owned(), netboot_url: "http://127.0.0.1:1".to_owned(), power_off_ready: true };
        let engine = Engine::new(store.clone(), Bmcs::new(BmcSettings::default()), sealer.clone(), settings);
        let artifacts = Artifacts::open(&dir.path().join("artifacts")).unwrap();
        let app = App::new(Parts { store, sealer, engine, artifacts, settings: Settings::default() });
        let password = app.first_user().await.unwrap().unwrap().expose().clone();
        Self { router: hostler::http::main_router(&app), rack, password, _dir: dir }
    }

    async fn send(&self, jar: &mut Jar, request: Request<Body>) -> Response {
        let response = self.router.clone().oneshot(request).await.unwrap();
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap().to_owned();
            jar.0.retain(|(n, _)| n != name);
            if !value.is_empty() {
                jar.0.push((name.to_owned(), value));
            }
        }
        response
    }

    async fn get(&self, jar: &mut Jar, path: &str) -> Page {
        let request = Request::get(path).header(header::COOKIE, jar.header()).body(Body::empty()).unwrap();
        page(self.send(jar, request).await).await
    }

    async fn post(&self, jar: &mut Jar, path: &str, fields: &[(&str, &str)]) -> Page {
        let body = fields.iter().map(|(k, v)| format!("{k}={}", encoded(v))).collect::<Vec<_>>().join("&");
        let request = Request::post(path)
            .header(header::COOKIE, jar.header())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(body))
            .unwrap();
        page(self.send(jar, request).await).await
    }

    /// Logs in as the first administrator.
    async fn logged_in(&self) -> Jar {
        let mut jar = Jar::default();
        let form = self.get(&mut jar, "/login").await;
        let answer = self.post(&mut jar, "/login", &[("csrf", &csrf(&form.text)), ("user", "admin"), ("password", &self.password)]).await;
        assert_eq!((answer.status, answer.location.as_deref()), (StatusCode::SEE_OTHER, Some("/machines")));
        jar
    }

    fn id(&self, u: usize) -> String {
        self.rack.machines[u - 1].id.to_string()
    }
}

impl Jar {
    fn header(&self) -> String {
        self.0.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ")
    }
}

async fn page(response: Response) -> Page {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 4 << 20).await.unwrap();
    Page {
        status: parts.status,
        location: parts.headers.get(header::LOCATION).map(|v| v.to_str().unwrap().to_owned()),
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// The CSRF token of the first form on a page.
fn csrf(html: &str) -> String {
    html.split("name=\"csrf\" value=\"").nth(1).and_then(|t| t.split('"').next()).expect("a form with a token").to_owned()
}

/// Messages of a live stream, until `want` is found in one; bounded.
async fn stream_until(response: Response, want: &str) -> String {
    let mut body = response.into_body().into_data_stream();
    let mut heard = String::new();
    let found = tokio::time::timeout(Duration::from_secs(20), async {
        while let Some(chunk) = body.next().await {
            heard.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
            if heard.contains(want) {
                return true;
            }
        }
        false
    })
    .await;
    assert_eq!(found, Ok(true), "{want:?} was not heard, but: {heard}");
    heard
}

#[tokio::test]
async fn without_a_login_every_page_leads_to_the_login_and_back() {
    let site = Site::new().await;
    let mut jar = Jar::default();
    for path in ["/machines", "/images", "/boots", "/machines/x/release"] {
        let answer = site.get(&mut jar, path).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{path}");
        assert_eq!(answer.location.unwrap(), format!("/login?next={}", path.replace('/', "%2F")));
    }
    assert_eq!(site.get(&mut jar, "/ui/events?page=machines").await.status, StatusCode::UNAUTHORIZED);
    let form = site.get(&mut jar, "/login?next=%2Fimages").await;
    let answer = site
        .post(&mut jar, "/login", &[("csrf", &csrf(&form.text)), ("next", "/images"), ("user", "admin"), ("password", &site.password)])
        .await;
    assert_eq!(answer.location.as_deref(), Some("/images"));
    assert_eq!(site.get(&mut jar, "/images").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_wrong_password_is_said_and_a_login_form_from_elsewhere_is_refused() {
    let site = Site::new().await;
    let mut jar = Jar::default();
    let form = site.get(&mut jar, "/login").await;
    let token = csrf(&form.text);
    let wrong = site.post(&mut jar, "/login", &[("csrf", &token), ("user", "admin<i>"), ("password", "guess")]).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert!(wrong.text.contains("Wrong user or password") && wrong.text.contains("admin&#60;i&#62;"), "{}", wrong.text);
    let mut empty = Jar::default();
    let forged = site.post(&mut empty, "/login", &[("csrf", &token), ("user", "admin"), ("password", &site.password)]).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    assert!(!empty.0.iter().any(|(n, _)| n == "hostler_session"));
}

#[tokio::test]
async fn the_list_shows_every_machine_with_state_place_and_work_problems_first() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let list = site.get(&mut jar, "/machines").await;
    assert_eq!(list.status, StatusCode::OK);
    assert_eq!(list.text.matches("<tr id=\"m-").count(), 24);
    let first = list.text.split("<tr id=\"m-").nth(1).unwrap();
    assert!(first.contains("r12-u21") && first.contains("Retry it"), "{first}");
    for word in [
        "r12/U19",
        "Installing: writing the image",
        "On the packing list, not seen yet",
        "Runs debian-12",
        "(usually",
        "<svg class=\"bar\"",
    ] {
        assert!(list.text.contains(word), "{word}");
    }
    assert!(list.text.len() < 100_000, "{} bytes", list.text.len());
    let some = site.get(&mut jar, "/machines?q=state:expected").await;
    assert_eq!(some.text.matches("<tr id=\"m-").count(), 3);
    let by_mac = site.get(&mut jar, "/machines?q=5254-0012-0007").await;
    assert_eq!(by_mac.text.matches("<tr id=\"m-").count(), 0);
    let by_mac = site.get(&mut jar, "/machines?q=52-54-00-12-00-07").await;
    assert_eq!(by_mac.text.matches("<tr id=\"m-").count(), 1);
}

#[tokio::test]
async fn a_machine_page_tells_what_it_does_and_what_one_may_ask() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let html = site.get(&mut jar, &format!("/machines/{}", site.id(19))).await.text;
    for word in [
        "Installing: writing the image",
        "60 %, 1.9 GB of 3.2 GB",
        "Next by itself: restart from disk",
        "Write the image",
        "Agent said hello",
        "HST7K19Q",
        "S64GNE1901",
        "sw12a port Eth1/19",
        "DIMM_B3",
        "written 1.9 GB, 214 MB/s",
        "10.12.0.19",
        "Give up",
        "is being deployed",
    ] {
        assert!(html.contains(word), "{word}");
    }
    let failed = site.get(&mut jar, &format!("/machines/{}", site.id(21))).await.text;
    assert!(failed.contains("other bytes on its disk") && failed.contains("Retry"), "{failed}");
    // Any name of it leads to its lasting address.
    let by_serial = site.get(&mut jar, "/machines/HST7K19Q").await;
    assert_eq!((by_serial.status, by_serial.location.unwrap()), (StatusCode::PERMANENT_REDIRECT, format!("/machines/{}", site.id(19))));
    let none = site.get(&mut jar, "/machines/nowhere").await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    assert!(none.text.contains("<h1>Not here</h1>"));
}

#[tokio::test]
async fn a_form_works_only_with_the_sessions_own_token() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let path = format!("/machines/{}", site.id(12));
    let token = csrf(&site.get(&mut jar, &path).await.text);
    for bad in ["", "0000", &"a".repeat(64)] {
        assert_eq!(site.post(&mut jar, &format!("{path}/accept"), &[("csrf", bad)]).await.status, StatusCode::FORBIDDEN);
    }
    let answer = site.post(&mut jar, &format!("{path}/accept"), &[("csrf", &token)]).await;
    assert_eq!((answer.status, answer.location.unwrap()), (StatusCode::SEE_OTHER, format!("{path}?said=accept")));
    let m = site.rack.store.machine(site.rack.machines[11].id).await.unwrap().unwrap();
    assert_eq!(m.want, hostler::domain::machine::Want::Enroll);
}

#[tokio::test]
async fn nothing_is_wiped_or_dropped_before_the_name_is_typed() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let id = site.rack.machines[0].id;
    for verb in ["release", "forget"] {
        let path = format!("/machines/{id}/{verb}");
        let ask = site.get(&mut jar, &path).await;
        assert!(ask.text.contains("to confirm"), "{}", ask.text);
        let answer = site.post(&mut jar, &path, &[("csrf", &csrf(&ask.text)), ("typed", "r12-u02")]).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let m = site.rack.store.machine(id).await.unwrap().unwrap();
    assert_eq!((m.lifecycle, m.want), (Lifecycle::Active, hostler::domain::machine::Want::Nothing));
    let ask = site.get(&mut jar, &format!("/machines/{id}/release")).await;
    assert!(ask.text.contains("S64GNE0101"));
    let answer = site.post(&mut jar, &format!("/machines/{id}/release"), &[("csrf", &csrf(&ask.text)), ("typed", "r12-u01")]).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    assert_eq!(site.rack.store.machine(id).await.unwrap().unwrap().want, hostler::domain::machine::Want::Release);
}

#[tokio::test]
async fn a_deployment_is_asked_for_by_a_form_that_keeps_what_was_typed() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let id = site.rack.machines[4].id;
    let path = format!("/machines/{id}/deploy");
    let form = site.get(&mut jar, &path).await;
    assert!(form.text.contains("<option value=\"debian-12\"") && form.text.contains("<option value=\"S64GNE0501\""));
    let token = csrf(&form.text);
    let bad = site
        .post(
            &mut jar,
            &path,
            &[("csrf", &token), ("image", "debian-12"), ("ssh_keys", "not a key </textarea><script>"), ("hostname", "web-1")],
        )
        .await;
    assert_eq!(bad.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        bad.text.contains("not a key &#60;/textarea&#62;")
            && bad.text.contains("value=\"web-1\"")
            && !bad.text.contains("</textarea><script>")
    );
    let fields = [
        ("csrf", token.as_str()),
        ("image", "debian-12"),
        ("hostname", "web-1"),
        ("ssh_keys", "ssh-ed25519 AAAAC3Nza kim@desk\r\n"),
        ("user_data", "#cloud-config\r\na: 1\r\n"),
        ("disk", "S64GNE0501"),
    ];
    let answer = site.post(&mut jar, &path, &fields).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    let hostler::domain::machine::Want::Deploy(spec) = site.rack.store.machine(id).await.unwrap().unwrap().want else {
        panic!("no deployment is wanted")
    };
    assert_eq!(spec.hostname.unwrap().as_str(), "web-1");
    assert_eq!(spec.user_data.as_deref(), Some("#cloud-config\na: 1\n"));
    assert_eq!(spec.disk.unwrap().serial.unwrap().as_str(), "S64GNE0501");
}

#[tokio::test]
async fn the_lists_stream_sends_only_rows_that_changed_since_the_page() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let list = site.get(&mut jar, "/machines").await;
    let since = list.text.split("&amp;since=").nth(1).and_then(|t| t.split('"').next()).unwrap().to_owned();
    let request = Request::get(format!("/ui/events?page=machines&n=1&since={since}"))
        .header(header::COOKIE, jar.header())
        .body(Body::empty())
        .unwrap();
    let response = site.send(&mut jar, request).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    site.rack.change(site.rack.machines[5].id, |m| m.lifecycle = Lifecycle::Quarantined).await;
    let heard = stream_until(response, "Quarantined").await;
    assert_eq!(heard.matches("<tr id=").count(), 1, "{heard}");
    assert!(heard.contains(&format!("<hx-partial hx-target=\"#m-{}\" hx-swap=\"outerMorph\">", site.id(6))));
    let mark = heard.lines().find_map(|l| l.strip_prefix("id: ")).unwrap().to_owned();
    // Back after a break: what happened meanwhile, and nothing else.
    site.rack.change(site.rack.machines[6].id, |m| m.lifecycle = Lifecycle::Quarantined).await;
    let request = Request::get("/ui/events?page=machines&n=1&since=")
        .header(header::COOKIE, jar.header())
        .header("Last-Event-ID", mark)
        .body(Body::empty())
        .unwrap();
    let heard = stream_until(site.send(&mut jar, request).await, "Quarantined").await;
    assert!(heard.contains(&site.id(7)) && !heard.contains(&site.id(6)), "{heard}");
    // A mark of another process: the page loads anew.
    let request =
        Request::get("/ui/events?page=machines&n=1&since=00000000-5").header(header::COOKIE, jar.header()).body(Body::empty()).unwrap();
    stream_until(site.send(&mut jar, request).await, "event: anew").await;
}

#[tokio::test]
async fn a_machines_stream_sends_the_sections_that_changed() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let page = site.get(&mut jar, &format!("/machines/{}", site.id(5))).await;
    let since = page.text.split("&amp;since=").nth(1).and_then(|t| t.split('"').next()).unwrap().to_owned();
    let request = Request::get(format!("/ui/events?page=machine&id={}&since={since}", site.id(5)))
        .header(header::COOKIE, jar.header())
        .body(Body::empty())
        .unwrap();
    let response = site.send(&mut jar, request).await;
    site.rack.event(&site.rack.machines[4], hostler::domain::event::Severity::Info, "A fan was swapped.", 0).await;
    let heard = stream_until(response, "A fan was swapped.").await;
    assert!(heard.contains("hx-target=\"#sec-events\"") && !heard.contains("sec-hardware"), "{heard}");
}

#[tokio::test]
async fn hostile_texts_are_shown_and_do_nothing() {
    let mut site = Site::new().await;
    let m = seed::hostile(&mut site.rack).await;
    let mut jar = site.logged_in().await;
    let query = format!("/machines?q={}", encoded(seed::HOSTILE));
    for path in [
        "/machines".to_owned(),
        format!("/machines/{}", m.id),
        format!("/machines/{}/forget", m.id),
        format!("/machines/{}/deploy", m.id),
        query,
        format!("/machines/{}", encoded("<script>alert(1)</script>")),
    ] {
        let html = site.get(&mut jar, &path).await.text;
        for bad in ["<script>alert", "<img src=x", "<b onmouseover", "<div hx-get", "\u{202e}"] {
            assert!(!html.contains(bad), "{path}: {bad}");
        }
    }
    let html = site.get(&mut jar, &format!("/machines/{}", m.id)).await.text;
    assert!(html.contains("&#60;script&#62;alert(1)"), "{html}");
    let request = Request::get(format!("/ui/events?page=machine&id={}&since=", m.id))
        .header(header::COOKIE, jar.header())
        .body(Body::empty())
        .unwrap();
    let heard = stream_until(site.send(&mut jar, request).await, "sec-bmc").await;
    assert!(!heard.lines().any(|l| l == "id: 7") && !heard.contains("<script>"), "{heard}");
}

#[tokio::test]
async fn pages_carry_a_strict_policy_and_hold_nothing_that_would_break_it() {
    let mut site = Site::new().await;
    seed::hostile(&mut site.rack).await;
    let mut jar = Jar::default();
    let login = site.get(&mut jar, "/login").await;
    let mut jar = site.logged_in().await;
    let mut pages = vec![login];
    for path in [
        "/machines".to_owned(),
        format!("/machines/{}", site.id(19)),
        format!("/machines/{}/deploy", site.id(5)),
        "/images".to_owned(),
        "/boots".to_owned(),
        "/machines/none".to_owned(),
    ] {
        pages.push(site.get(&mut jar, &path).await);
    }
    for page in pages {
        let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");
        assert!(!page.text.contains(" style=\"") && !page.text.contains(" onclick=") && !page.text.contains("<style"));
        assert!(page.text.matches("<script").count() == page.text.matches("<script src=\"/static/").count());
        assert!(page.text.contains("name=\"viewport\"") && page.text.contains("<html lang=\"en\">"));
    }
}

#[tokio::test]
async fn static_files_are_kept_for_good_under_the_address_of_their_bytes() {
    let site = Site::new().await;
    let mut jar = Jar::default();
    let login = site.get(&mut jar, "/login").await;
    let href = login.text.split("rel=\"stylesheet\" href=\"").nth(1).and_then(|t| t.split('"').next()).unwrap().to_owned();
    let style = site.get(&mut jar, &href).await;
    assert!(style.headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    assert_eq!(style.headers[header::CONTENT_TYPE], "text/css; charset=utf-8");
    assert_eq!(site.get(&mut jar, "/static/0/../../etc/passwd").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_path_we_do_not_have_is_a_page_for_a_browser_and_a_problem_for_a_program() {
    let site = Site::new().await;
    for (accept, kind) in [("text/html,*/*;q=0.8", "text/html; charset=utf-8"), ("application/json", "application/problem+json")] {
        let request = Request::get("/nowhere").header(header::ACCEPT, accept).body(Body::empty()).unwrap();
        let answer = page(site.send(&mut Jar::default(), request).await).await;
        assert_eq!((answer.status, answer.headers[header::CONTENT_TYPE].to_str().unwrap()), (StatusCode::NOT_FOUND, kind));
    }
    let request = Request::get("/api/v1/nowhere").header(header::ACCEPT, "text/html").body(Body::empty()).unwrap();
    assert_eq!(page(site.send(&mut Jar::default(), request).await).await.headers[header::CONTENT_TYPE], "application/problem+json");
}

#[tokio::test]
async fn a_logout_ends_the_session_at_the_server() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let stolen = jar.clone();
    let token = csrf(&site.get(&mut jar, "/machines").await.text);
    assert_eq!(site.post(&mut jar, "/logout", &[("csrf", &token)]).await.location.as_deref(), Some("/login"));
    assert_eq!(site.get(&mut stolen.clone(), "/machines").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn every_new_machine_is_accepted_by_one_form_that_shows_them() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    assert!(site.get(&mut jar, "/machines").await.text.contains("Accept 2 new"));
    let ask = site.get(&mut jar, "/accept").await.text;
    assert!(ask.contains("HST7K12Q") && ask.contains("HST7K13Q") && !ask.contains("HST7K14Q"), "{ask}");
    let ids = ask.split("name=\"ids\" value=\"").nth(1).and_then(|t| t.split('"').next()).unwrap().to_owned();
    assert_eq!(site.post(&mut jar, "/accept", &[("csrf", "x"), ("ids", &ids)]).await.status, StatusCode::FORBIDDEN);
    let done = site.post(&mut jar, "/accept", &[("csrf", &csrf(&ask)), ("ids", &ids)]).await;
    assert_eq!(done.location.as_deref(), Some("/machines?said=accepted"));
    for i in [11, 12] {
        let m = site.rack.store.machine(site.rack.machines[i].id).await.unwrap().unwrap();
        assert_eq!(m.want, hostler::domain::machine::Want::Enroll);
    }
}

#[tokio::test]
async fn a_packing_list_is_announced_or_refused_line_by_line() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let token = csrf(&site.get(&mut jar, "/racks/import").await.text);
    let send = async |jar: &mut Jar, csrf: &str, csv: &str| {
        let field = |name: &str, value: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        let body = format!("{}{}--b--\r\n", field("csrf", csrf), field("csv", csv));
        let request = Request::post("/racks/import")
            .header(header::COOKIE, jar.header())
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=b")
            .body(Body::from(body))
            .unwrap();
        page(site.send(jar, request).await).await
    };
    let good = "serial,mac,rack,u\nNEW001,02:00:00:00:00:01,r13,1\n";
    assert_eq!(send(&mut jar, "forged", good).await.status, StatusCode::FORBIDDEN);
    let bad = send(&mut jar, &token, "serial,mac,rack,u\nNEW001,not-a-mac<script>,r13,99\n").await;
    assert_eq!(bad.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        bad.text.contains("Line 2, mac") && bad.text.contains("Nothing was imported") && !bad.text.contains("mac<script>"),
        "{}",
        bad.text
    );
    let done = send(&mut jar, &token, good).await;
    assert!(done.status == StatusCode::OK && done.text.contains("1 machine announced"), "{}", done.text);
    assert!(site.get(&mut jar, "/machines?q=new001").await.text.contains("On the packing list, not seen yet"));
}

#[tokio::test]
async fn power_that_disrupts_is_asked_first() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let id = site.id(1);
    let html = site.get(&mut jar, &format!("/machines/{id}")).await.text;
    assert!(html.contains(&format!("href=\"/machines/{id}/power?action=cycle\"")), "{html}");
    let ask = site.get(&mut jar, &format!("/machines/{id}/power?action=off")).await;
    assert!(ask.text.contains("whatever works there is interrupted") && ask.text.contains("name=\"action\" value=\"off\""));
    assert_eq!(site.get(&mut jar, &format!("/machines/{id}/power?action=explode")).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}
