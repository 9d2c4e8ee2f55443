//! What a person asks of a machine: forms, pages that ask before something is lost, and the posts behind them.
//!
//! The ladder: what harms nothing acts at once; what disrupts asks on a page of its own; what may destroy data wants the
//! machine's name typed.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::app::machines::MachineFilter;
use crate::app::view::MachineDetail;
use crate::app::{AppError, error};
use crate::domain::id::{MachineId, Name};
use crate::domain::inventory::{DiskRef, Inventory};
use crate::domain::machine::{DeploySpec, Lifecycle, Verb};
use crate::domain::power::PowerAction;
use crate::http::error::Problem;
use crate::http::ui::Ui;
use crate::http::ui::assets::{HREFS, Hrefs};
use crate::http::ui::machine::find;
use crate::http::ui::page::refusal;
use crate::http::ui::shell::{self, Frame, PageError, Person, User, sentence};
use crate::http::ui::text::{Text, decimal_bytes};
use crate::http::ui::words;

type Answer = Result<Response, Response>;

#[derive(Deserialize)]
pub struct Sent {
    #[serde(default)]
    csrf: String,
    /// The machine's name, typed to confirm.
    #[serde(default)]
    typed: String,
    #[serde(default)]
    action: String,
    /// Machines of a form that is about several, separated by commas.
    #[serde(default)]
    ids: String,
}

fn done(id: MachineId, verb: Verb) -> Response {
    Redirect::to(&format!("/machines/{id}?said={verb}")).into_response()
}

fn failed(error: AppError, person: &Person) -> Response {
    PageError::app(error, person).into_response()
}

/// `POST /machines/{machine}/accept`.
///
/// # Errors
/// The app's, as a page.
pub async fn accept(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    headers: HeaderMap,
    axum::Form(sent): axum::Form<Sent>,
) -> Answer {
    person.check(&sent.csrf, &headers).map_err(IntoResponse::into_response)?;
    let id = find(&ui, &person, &machine, "").await?;
    ui.app.accept(&person.actor, id).await.map_err(|e| failed(e, &person))?;
    Ok(done(id, Verb::Accept))
}

/// `POST /machines/{machine}/retry`.
///
/// # Errors
/// The app's, as a page.
pub async fn retry(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    headers: HeaderMap,
    axum::Form(sent): axum::Form<Sent>,
) -> Answer {
    person.check(&sent.csrf, &headers).map_err(IntoResponse::into_response)?;
    let id = find(&ui, &person, &machine, "").await?;
    ui.app.retry(&person.actor, id).await.map_err(|e| failed(e, &person))?;
    Ok(done(id, Verb::Retry))
}

#[derive(Template)]
#[template(path = "ui/confirm.html")]
struct ConfirmPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    csrf: &'a str,
    id: MachineId,
    name: Text,
    title: &'static str,
    means: &'static str,
    /// What is at stake, line by line.
    stakes: Vec<Text>,
    post: String,
    button: &'static str,
    action: Option<PowerAction>,
    /// The name must be typed.
    type_name: bool,
    error: Option<Text>,
    refused: Option<Text>,
}

/// What a confirmation is about.
#[derive(Clone, Copy)]
struct Ask {
    verb: Verb,
    title: &'static str,
    button: &'static str,
    type_name: bool,
    action: Option<PowerAction>,
}

const RELEASE: Ask = Ask { verb: Verb::Release, title: "Release and wipe", button: "Wipe its disks", type_name: true, action: None };
const ABORT: Ask = Ask { verb: Verb::Abort, title: "Give up the work", button: "Give it up", type_name: false, action: None };
const FORGET: Ask = Ask { verb: Verb::Forget, title: "Forget", button: "Drop the record", type_name: true, action: None };

fn power_ask(action: PowerAction) -> Ask {
    Ask {
        verb: Verb::Power,
        title: words::power_action(action).0,
        button: words::power_action(action).0,
        type_name: false,
        action: Some(action),
    }
}

fn stakes(ask: Ask, d: &MachineDetail) -> Vec<Text> {
    let m = &d.machine;
    let mut out = Vec::new();
    match ask.verb {
        Verb::Release => {
            out.extend(m.image.as_ref().map(|i| Text::new(&format!("Its system, {i}, and everything on it is lost."))));
            let empty = Inventory::default();
            for disk in d.inventory.as_ref().unwrap_or(&empty).fixed_disks() {
                let serial = disk.serial.as_ref().map_or_else(|| disk.wwn.clone().unwrap_or_default(), ToString::to_string);
                out.push(Text::new(&format!("Disk {} ({}, {serial}) is wiped and read back.", disk.name, decimal_bytes(disk.size_bytes))));
            }
        }
        Verb::Abort => {
            out.push(Text::new("The step at hand is stopped at its next safe point."));
            if !d.written_disks.is_empty() {
                out.push(Text::new("Its disks may hold part of a system: it stays out of use until it is released, which wipes them."));
            }
        }
        Verb::Forget => {
            out.push(Text::new("Its runs, boots, inventory and BMC account are dropped; its events stay in the log."));
            for disk in &d.written_disks {
                out.push(Text::new(&format!("Not wiped: {disk}")));
            }
        }
        Verb::Power => out.extend(m.image.as_ref().map(|i| Text::new(&format!("It runs {i}; whatever works there is interrupted.")))),
        Verb::Accept | Verb::Deploy | Verb::Retry => {}
    }
    out
}

async fn confirm(ui: &Ui, person: &Person, id: MachineId, ask: Ask, error: Option<&str>) -> Answer {
    let detail = ui.app.machine(&person.actor, id).await.map_err(|e| failed(e, person))?;
    let frame = Frame::of(person, "machines");
    let page = ConfirmPage {
        assets: &HREFS,
        user: frame.user,
        at: frame.at,
        csrf: &person.csrf,
        id,
        name: Text::from(&detail.machine.name),
        title: ask.title,
        means: ask.action.map_or(words::verb_means(ask.verb), |a| words::power_action(a).1),
        stakes: stakes(ask, &detail),
        post: format!("/machines/{id}/{}", ask.verb),
        button: ask.button,
        action: ask.action,
        type_name: ask.type_name,
        error: error.map(Text::new),
        refused: refusal(&detail.machine, &person.actor, ask.verb),
    };
    let status = if error.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok(shell::page_with(status, &page))
}

/// Checks the form and, where asked for, the typed name. `Err` is the answer to give.
async fn confirmed(ui: &Ui, person: &Person, machine: &str, headers: &HeaderMap, sent: &Sent, ask: Ask) -> Result<MachineId, Response> {
    person.check(&sent.csrf, headers).map_err(IntoResponse::into_response)?;
    let id = find(ui, person, machine, "").await?;
    if ask.type_name {
        let detail = ui.app.machine(&person.actor, id).await.map_err(|e| failed(e, person))?;
        if sent.typed.trim() != detail.machine.name.as_str() {
            let wrong = format!("Type the machine's name, {}, to confirm.", detail.machine.name);
            return Err(confirm(ui, person, id, ask, Some(&wrong)).await.unwrap_or_else(|e| e));
        }
    }
    Ok(id)
}

/// `GET /machines/{machine}/release`.
///
/// # Errors
/// The app's, as a page.
pub async fn ask_release(State(ui): State<Ui>, person: Person, Path(machine): Path<String>) -> Answer {
    let id = find(&ui, &person, &machine, "/release").await?;
    confirm(&ui, &person, id, RELEASE, None).await
}

/// `POST /machines/{machine}/release`.
///
/// # Errors
/// The app's, as a page.
pub async fn release(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    headers: HeaderMap,
    axum::Form(sent): axum::Form<Sent>,
) -> Answer {
    let id = confirmed(&ui, &person, &machine, &headers, &sent, RELEASE).await?;
    ui.app.release(&person.actor, id).await.map_err(|e| failed(e, &person))?;
    Ok(done(id, Verb::Release))
}

/// `GET /machines/{machine}/abort`.
///
/// # Errors
/// The app's, as a page.
pub async fn ask_abort(State(ui): State<Ui>, person: Person, Path(machine): Path<String>) -> Answer {
    let id = find(&ui, &person, &machine, "/abort").await?;
    confirm(&ui, &person, id, ABORT, None).await
}

/// `POST /machines/{machine}/abort`.
///
/// # Errors
/// The app's, as a page.
pub async fn abort(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    headers: HeaderMap,
    axum::Form(sent): axum::Form<Sent>,
) -> Answer {
    let id = confirmed(&ui, &person, &machine, &headers, &sent, ABORT).await?;
    ui.app.abort(&person.actor, id).await.map_err(|e| failed(e, &person))?;
    Ok(done(id, Verb::Abort))
}

/// `GET /machines/{machine}/forget`.
///
/// # Errors
/// The app's, as a page.
pub async fn ask_forget(State(ui): State<Ui>, person: Person, Path(machine): Path<String>) -> Answer {
    let id = find(&ui, &person, &machine, "/forget").await?;
    confirm(&ui, &person, id, FORGET, None).await
}

/// `POST /machines/{machine}/forget`.
///
/// # Errors
/// The app's, as a page.
pub async fn forget(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    headers: HeaderMap,
    axum::Form(sent): axum::Form<Sent>,
) -> Answer {
    let id = confirmed(&ui, &person, &machine, &headers, &sent, FORGET).await?;
    ui.app.forget(&person.actor, id).await.map_err(|e| failed(e, &person))?;
    Ok(Redirect::to("/machines?said=forgotten").into_response())
}

fn power_action(text: &str, person: &Person) -> Result<PowerAction, Response> {
    text.parse::<PowerAction>().map_err(|e| {
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", format!("the power action {e}"));
        PageError::of(problem, Some(person)).into_response()
    })
}

#[derive(Deserialize)]
pub struct PowerQuery {
    #[serde(default)]
    action: String,
}

/// `GET /machines/{machine}/power?action=off`.
///
/// # Errors
/// The app's, as a page.
pub async fn ask_power(State(ui): State<Ui>, person: Person, Path(machine): Path<String>, Query(query): Query<PowerQuery>) -> Answer {
    let id = find(&ui, &person, &machine, "").await?;
    let action = power_action(&query.action, &person)?;
    confirm(&ui, &person, id, power_ask(action), None).await
}

/// `POST /machines/{machine}/power`.
///
/// # Errors
/// The app's, as a page.
pub async fn power(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    headers: HeaderMap,
    axum::Form(sent): axum::Form<Sent>,
) -> Answer {
    let action = power_action(&sent.action, &person)?;
    let id = confirmed(&ui, &person, &machine, &headers, &sent, power_ask(action)).await?;
    let result = ui.app.power(&person.actor, id, action).await.map_err(|e| failed(e, &person))?;
    let said = if result.seen { "power" } else { "power-unseen" };
    Ok(Redirect::to(&format!("/machines/{id}?said={said}")).into_response())
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct DeployForm {
    csrf: String,
    image: String,
    hostname: String,
    ssh_keys: String,
    user_data: String,
    network_config: String,
    disk: String,
}

struct ImageChoice {
    name: Text,
    about: String,
    /// Why it cannot boot here.
    unfit: Option<String>,
    chosen: bool,
}

struct DiskChoice {
    value: Text,
    about: Text,
    nameless: bool,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "ui/deploy.html")]
struct DeployPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    csrf: &'a str,
    id: MachineId,
    name: Text,
    refused: Option<Text>,
    error: Option<(Text, Option<Text>)>,
    images: Vec<ImageChoice>,
    disks: Vec<DiskChoice>,
    form: DeployTexts,
}

/// What was typed, to be shown again.
struct DeployTexts {
    hostname: Text,
    ssh_keys: String,
    user_data: String,
    network_config: String,
}

async fn deploy_page(ui: &Ui, person: &Person, id: MachineId, form: &DeployForm, error: Option<AppError>) -> Answer {
    let detail = ui.app.machine(&person.actor, id).await.map_err(|e| failed(e, person))?;
    let images = ui.app.images(&person.actor).await.map_err(|e| failed(e, person))?;
    let m = &detail.machine;
    let images: Vec<ImageChoice> = images
        .iter()
        .map(|i| {
            let unfit = match (m.arch, m.firmware) {
                (Some(arch), _) if arch != i.arch => Some(format!("for {}, this machine is {arch}", i.arch)),
                (_, Some(fw)) if !i.boots_on.contains(&fw) => Some(format!("does not boot in {fw} mode")),
                (_, _) => None,
            };
            ImageChoice {
                name: Text::from(&i.name),
                about: format!("{}, {} on disk", i.arch, decimal_bytes(i.raw_size_bytes)),
                unfit,
                chosen: i.name.as_str() == form.image,
            }
        })
        .collect();
    let empty = Inventory::default();
    let disks = detail
        .inventory
        .as_ref()
        .unwrap_or(&empty)
        .fixed_disks()
        .map(|d| {
            let value = d.serial.as_ref().map(ToString::to_string).or_else(|| d.wwn.clone()).unwrap_or_default();
            let model = d.model.as_deref().unwrap_or("unknown model");
            DiskChoice {
                about: Text::new(&format!("{} {} {model} {value}", d.name, decimal_bytes(d.size_bytes))),
                nameless: value.is_empty(),
                chosen: !value.is_empty() && value == form.disk,
                value: Text::new(&value),
            }
        })
        .collect();
    let status = match &error {
        Some(AppError::Forbidden { .. }) => StatusCode::FORBIDDEN,
        Some(AppError::Refused { .. }) => StatusCode::CONFLICT,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
        None => StatusCode::OK,
    };
    let frame = Frame::of(person, "machines");
    let page = DeployPage {
        assets: &HREFS,
        user: frame.user,
        at: frame.at,
        csrf: &person.csrf,
        id,
        name: Text::from(&m.name),
        refused: refusal(m, &person.actor, Verb::Deploy),
        error: error.map(|e| (Text::new(&sentence(&e.to_string())), e.hint().map(|h| Text::new(&sentence(&h))))),
        images,
        disks,
        form: DeployTexts {
            hostname: Text::new(&form.hostname),
            ssh_keys: form.ssh_keys.clone(),
            user_data: form.user_data.clone(),
            network_config: form.network_config.clone(),
        },
    };
    Ok(shell::page_with(status, &page))
}

/// `GET /machines/{machine}/deploy`.
///
/// # Errors
/// The app's, as a page.
pub async fn deploy_form(State(ui): State<Ui>, person: Person, Path(machine): Path<String>) -> Answer {
    let id = find(&ui, &person, &machine, "/deploy").await?;
    deploy_page(&ui, &person, id, &DeployForm::default(), None).await
}

/// `POST /machines/{machine}/deploy`.
///
/// # Errors
/// The app's, as a page.
pub async fn deploy(
    State(ui): State<Ui>,
    person: Person,
    Path(machine): Path<String>,
    headers: HeaderMap,
    axum::Form(form): axum::Form<DeployForm>,
) -> Answer {
    person.check(&form.csrf, &headers).map_err(IntoResponse::into_response)?;
    let id = find(&ui, &person, &machine, "").await?;
    let spec = match spec_of(&ui, &person, id, &form).await {
        Ok(spec) => spec,
        Err(e) => return deploy_page(&ui, &person, id, &form, Some(e)).await,
    };
    match ui.app.deploy(&person.actor, id, spec).await {
        Ok(_) => Ok(done(id, Verb::Deploy)),
        Err(
            e @ (AppError::Invalid { .. }
            | AppError::Refused { .. }
            | AppError::NotFound { what: "image", .. }
            | AppError::TooLarge { .. }
            | AppError::Forbidden { .. }),
        ) => deploy_page(&ui, &person, id, &form, Some(e)).await,
        Err(e) => Err(failed(e, &person)),
    }
}

async fn spec_of(ui: &Ui, person: &Person, id: MachineId, form: &DeployForm) -> error::Result<DeploySpec> {
    let name = |what: &str, text: &str| text.parse::<Name>().map_err(|e| AppError::invalid(format!("the {what} is {e}"), ""));
    let disk = match form.disk.trim() {
        "" => None,
        wanted => {
            let inventory = ui.app.machine(&person.actor, id).await?.inventory.unwrap_or_default();
            let found = inventory
                .fixed_disks()
                .find(|d| d.serial.as_ref().is_some_and(|s| s.as_str() == wanted) || d.wwn.as_deref() == Some(wanted))
                .and_then(DiskRef::to);
            Some(found.ok_or_else(|| AppError::invalid("that disk is not in the inventory any more", "choose another one"))?)
        }
    };
    if form.image.is_empty() {
        return Err(AppError::invalid("no image was chosen", "choose one"));
    }
    // Browsers send CR LF; cloud-init reads LF.
    let text = |t: &str| Some(t.replace("\r\n", "\n")).filter(|t| !t.trim().is_empty());
    Ok(DeploySpec {
        image: name("image", &form.image)?,
        hostname: Some(form.hostname.trim()).filter(|h| !h.is_empty()).map(|h| name("hostname", h)).transpose()?,
        ssh_keys: form.ssh_keys.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect(),
        user_data: text(&form.user_data),
        network_config: text(&form.network_config),
        disk,
    })
}

#[derive(Template)]
#[template(path = "ui/accept.html")]
struct AcceptPage<'a> {
    assets: &'a Hrefs,
    user: Option<User>,
    at: &'static str,
    csrf: &'a str,
    ids: String,
    rows: Vec<NewLine>,
    refused: Option<Text>,
}

struct NewLine {
    id: MachineId,
    name: Text,
    about: Text,
    place: Option<Text>,
}

/// Machines accepted by one form; more take another one.
const ACCEPT_AT_ONCE: usize = 100;

/// `GET /accept`: every machine that waits to be accepted, to be looked over.
///
/// # Errors
/// The app's, as a page.
pub async fn ask_accept(State(ui): State<Ui>, person: Person) -> Answer {
    let filter = MachineFilter { states: vec![Lifecycle::Discovered], ..MachineFilter::default() };
    let found = ui.app.machines(&person.actor, &filter, None, usize::MAX).await.map_err(|e| failed(e, &person))?;
    let waiting: Vec<_> = found.items.into_iter().filter(|m| !m.expected_only).take(ACCEPT_AT_ONCE).collect();
    let needed = crate::http::ui::page::role_for(Verb::Accept);
    let frame = Frame::of(&person, "machines");
    let page = AcceptPage {
        assets: &HREFS,
        user: frame.user,
        at: frame.at,
        csrf: &person.csrf,
        ids: waiting.iter().map(|m| m.id.to_string()).collect::<Vec<_>>().join(","),
        refused: (person.actor.role < needed).then(|| Text::new(&format!("this needs the role {needed}, yours is {}", person.actor.role))),
        rows: waiting
            .iter()
            .map(|m| {
                let serial = m.serial.as_ref().map_or("no serial known".to_owned(), |s| format!("serial {s}"));
                let macs = m.macs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                NewLine {
                    id: m.id,
                    name: Text::from(&m.name),
                    about: Text::new(&format!("{serial}, {macs}")),
                    place: m.place.as_ref().map(Text::from),
                }
            })
            .collect(),
    };
    Ok(shell::page(&page))
}

/// `POST /accept`: exactly the machines that were shown.
///
/// # Errors
/// The app's, as a page; those before the one that failed are accepted.
pub async fn accept_shown(State(ui): State<Ui>, person: Person, headers: HeaderMap, axum::Form(sent): axum::Form<Sent>) -> Answer {
    person.check(&sent.csrf, &headers).map_err(IntoResponse::into_response)?;
    for id in sent.ids.split(',').take(ACCEPT_AT_ONCE).filter_map(|id| id.parse::<MachineId>().ok()) {
        match ui.app.accept(&person.actor, id).await {
            // Accepted or forgotten by someone else meanwhile: that is what was wanted.
            Ok(_) | Err(AppError::Refused { .. } | AppError::NotFound { .. }) => {}
            Err(e) => return Err(failed(e, &person)),
        }
    }
    Ok(Redirect::to("/machines?said=accepted").into_response())
}
