//! Who may do what: every route with every role, sessions, CSRF.

use hostler::domain::access::Role;
use hostler::domain::secret::Secret;
use hostler::http::auth::{Access, ROUTES, SESSION_COOKIE};
use reqwest::{Method, StatusCode};

use super::kit::{Api, problem};
use crate::support::engines::both;

const ROLES: [Role; 4] = [Role::Viewer, Role::Tech, Role::Operator, Role::Admin];

fn path_of(template: &str) -> String {
    let uuid = "01900000-0000-7000-8000-000000000000";
    // All tokens here are the administrator's: the path that sets its password must be as closed to them as any other.
    template
        .replace("{machine}", "nope")
        .replace("{run}", uuid)
        .replace("{token}", uuid)
        .replace("{image}", "nope")
        .replace("{user}", "admin")
}

#[tokio::test]
async fn every_route_is_closed_to_strangers_and_to_roles_below_its_own() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let mut tokens = Vec::new();
        for role in ROLES {
            tokens.push((role, api.token(role).await));
        }
        for (method, template, access) in ROUTES {
            let method: Method = method.parse().unwrap();
            let path = path_of(template);
            let stranger = api.http.request(method.clone(), format!("{}{path}", api.url)).send().await.unwrap();
            match access {
                Access::Open => assert!(stranger.status().is_success(), "{method} {path}"),
                Access::From(_) | Access::SessionOrFrom(_) => drop(problem(stranger, 401, "unauthenticated").await),
            }
            for bad in ["x", "hostler_0000000000000000000000000000000000000000000000000000000000000000", "-1"] {
                let response = api.request(method.clone(), &path, bad).send().await.unwrap();
                if *access != Access::Open {
                    problem(response, 401, "bad_token").await;
                }
            }
            for (role, token) in &tokens {
                let response = api.request(method.clone(), &path, token).send().await.unwrap();
                let status = response.status();
                match access {
                    Access::From(needed) | Access::SessionOrFrom(needed) if role < needed => {
                        problem(response, 403, "forbidden").await;
                    }
                    Access::Open | Access::From(_) | Access::SessionOrFrom(_) => {
                        assert!(
                            !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
                            "{role} {method} {path}: {status} on {}",
                            on.name
                        );
                        assert!(!status.is_server_error(), "{role} {method} {path}: {status} on {}", on.name);
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_method_outside_the_table_is_refused_and_says_which_there_are() {
    for on in both().await.into_iter().take(1) {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Admin).await;
        let response = api.request(Method::PATCH, "/api/v1/machines/nope", &token).send().await.unwrap();
        assert_eq!(response.headers()["allow"], "GET,HEAD,DELETE");
        problem(response, 405, "method_not_allowed").await;
    }
}

#[tokio::test]
async fn a_role_below_does_not_do_it_through_the_use_case_either() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let id = "01900000-0000-7000-8000-000000000000".parse().unwrap();
        let viewer = api.actor(Role::Viewer);
        assert!(api.app.accept(&viewer, id).await.unwrap_err().to_string().contains("role tech"));
        assert!(api.app.release(&viewer, id).await.unwrap_err().to_string().contains("role operator"));
        assert!(api.app.forget(&api.actor(Role::Tech), id).await.unwrap_err().to_string().contains("role operator"));
        assert!(api.app.tokens(&api.actor(Role::Operator)).await.is_err());
        assert!(api.app.set_password(&api.actor(Role::Operator), "someone", None, Secret::new("long enough".into())).await.is_err());
    }
}

#[tokio::test]
async fn a_browser_session_changes_things_only_with_its_csrf_token_from_our_own_pages() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let session = api.app.login("admin", api.password.clone(), [127, 0, 0, 1].into(), None).await.unwrap();
        let cookie = format!("{SESSION_COOKIE}={}", session.token.expose());
        let ask = |method: Method, path: &str| api.http.request(method, format!("{}{path}", api.url)).header("cookie", &cookie);
        let me: serde_json::Value = ask(Method::GET, "/api/v1/me").send().await.unwrap().json().await.unwrap();
        assert_eq!((me["name"].as_str(), me["via"].as_str()), (Some("admin"), Some("session")));
        let act = "/api/v1/machines/nope/accept";
        problem(ask(Method::POST, act).send().await.unwrap(), 403, "csrf").await;
        problem(ask(Method::POST, act).header("x-csrf-token", "0".repeat(64)).send().await.unwrap(), 403, "csrf").await;
        let right = ask(Method::POST, act).header("x-csrf-token", &session.csrf);
        problem(right.try_clone().unwrap().header("sec-fetch-site", "cross-site").send().await.unwrap(), 403, "csrf").await;
        problem(right.header("sec-fetch-site", "same-origin").send().await.unwrap(), 404, "not_found").await;

        // A new login takes the old session's place; a logout ends one on the server.
        let next = api.app.login("admin", api.password.clone(), [127, 0, 0, 1].into(), Some(session.token.expose())).await.unwrap();
        assert!(next.token != session.token && next.csrf != session.csrf);
        problem(ask(Method::GET, "/api/v1/me").send().await.unwrap(), 401, "unauthenticated").await;
        api.app.logout(next.token.expose()).await.unwrap();
        assert!(api.app.session(next.token.expose()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_are_told_the_same_and_slowed_down() {
    for on in both().await.into_iter().take(1) {
        let api = Api::on(&on.store).await;
        let from = [192, 0, 2, 7].into();
        let wrong = api.app.login("admin", Secret::new("wrong".into()), from, None).await.err().unwrap();
        let unknown = api.app.login("nobody", Secret::new("wrong".into()), from, None).await.err().unwrap();
        assert_eq!((wrong.code(), wrong.to_string()), (unknown.code(), unknown.to_string()));
        let mut codes = Vec::new();
        for _ in 0..10 {
            codes.push(api.app.login("admin", Secret::new("wrong".into()), from, None).await.err().unwrap().code());
        }
        assert_eq!(codes.last(), Some(&"login_paused"), "{codes:?}");
        // Someone else is not locked out by that.
        assert!(api.app.login("admin", api.password.clone(), [192, 0, 2, 8].into(), None).await.is_ok());
    }
}

#[tokio::test]
async fn a_token_below_admin_does_not_set_its_owners_password() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let stolen = Secret::new("mine from now on".to_owned());
        for role in [Role::Viewer, Role::Tech, Role::Operator] {
            let body = serde_json::json!({ "password": stolen.expose(), "current_password": api.password.expose() });
            let token = api.token(role).await;
            let response = api.request(Method::PUT, "/api/v1/users/admin/password", &token).json(&body).send().await.unwrap();
            problem(response, 403, "forbidden").await;
            assert!(api.app.set_password(&api.actor(role), "admin", Some(api.password.clone()), stolen.clone()).await.is_err());
        }
        assert!(api.app.login("admin", stolen, [127, 0, 0, 1].into(), None).await.is_err(), "{}", on.name);
        assert!(api.app.login("admin", api.password.clone(), [127, 0, 0, 1].into(), None).await.is_ok(), "{}", on.name);
    }
}

#[tokio::test]
async fn ones_own_password_is_set_in_a_session_and_with_the_current_one() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let first = Secret::new("first and good".to_owned());
        api.app.create_user(&api.admin, "kim", Role::Viewer, first.clone()).await.unwrap();
        let kim = api.app.login("kim", first.clone(), [127, 0, 0, 1].into(), None).await.unwrap();
        let set = async |user: &str, body: serde_json::Value| {
            let url = format!("{}/api/v1/users/{user}/password", api.url);
            let cookie = format!("{SESSION_COOKIE}={}", kim.token.expose());
            api.http.put(url).header("cookie", cookie).header("x-csrf-token", &kim.csrf).json(&body).send().await.unwrap()
        };
        problem(set("kim", serde_json::json!({ "password": "second and good" })).await, 422, "invalid").await;
        let wrong = serde_json::json!({ "password": "second and good", "current_password": "not the first" });
        problem(set("kim", wrong).await, 422, "invalid").await;
        let right = serde_json::json!({ "password": "second and good", "current_password": first.expose() });
        problem(set("admin", right.clone()).await, 403, "forbidden").await;
        assert_eq!(set("kim", right).await.status(), StatusCode::NO_CONTENT, "{}", on.name);
        assert!(api.app.login("kim", first, [127, 0, 0, 1].into(), None).await.is_err());
        assert!(api.app.login("kim", Secret::new("second and good".into()), [127, 0, 0, 1].into(), None).await.is_ok());
    }
}

#[tokio::test]
async fn a_new_password_ends_the_sessions_of_its_user_and_a_revoked_token_is_useless_at_once() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let session = api.app.login("admin", api.password.clone(), [127, 0, 0, 1].into(), None).await.unwrap();
        api.app.set_password(&api.admin, "admin", None, Secret::new("another good one".into())).await.unwrap();
        assert!(api.app.session(session.token.expose()).await.unwrap().is_none());
        assert!(api.app.login("admin", api.password.clone(), [127, 0, 0, 1].into(), None).await.is_err());

        let (secret, token) = api.app.create_token(&api.admin, "ci", Role::Viewer, None).await.unwrap();
        assert_eq!(api.get("/api/v1/me", secret.expose()).await.status(), 200);
        api.app.revoke_token(&api.admin, token.id).await.unwrap();
        problem(api.get("/api/v1/me", secret.expose()).await, 401, "bad_token").await;
    }
}
