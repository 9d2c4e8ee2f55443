//! POST: actions and new members of collections.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use crate::clock;
use crate::domain::power::PowerAction;
use crate::sim::bmc::board::firmware::RESTART;
use crate::sim::bmc::redfish::Inner;
use crate::sim::bmc::redfish::accounts::ACCOUNTS;
use crate::sim::bmc::redfish::answer::Request;
use crate::sim::bmc::redfish::events::{SUBSCRIPTIONS, TEST_EVENT};
use crate::sim::bmc::redfish::reply::{Message, complain, complaints, no_content, success};
use crate::sim::bmc::redfish::tree::{MULTIPART, SIMPLE_UPDATE};
use crate::sim::bmc::redfish::write::Patch;

/// The answer to a reset of the BMC goes out before it is away.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// `ResetType`s and what they do. An Nmi does nothing that can be seen from outside.
const RESET_TYPES: [(&str, Option<PowerAction>); 8] = [
    ("On", Some(PowerAction::On)),
    ("ForceOn", Some(PowerAction::On)),
    ("ForceOff", Some(PowerAction::Off)),
    ("GracefulShutdown", Some(PowerAction::Soft)),
    ("GracefulRestart", Some(PowerAction::Reset)),
    ("ForceRestart", Some(PowerAction::Reset)),
    ("PowerCycle", Some(PowerAction::Cycle)),
    ("Nmi", None),
];

impl Inner {
    pub async fn post(self: &Arc<Self>, request: Request<'_>) -> Response {
        let path = request.path.strip_suffix("/Members").unwrap_or(request.path);
        if path == MULTIPART {
            return self.multipart_update(request).await;
        }
        let body = match request.json() {
            Ok(body) => body,
            Err(refusal) => return *refusal,
        };
        match path {
            ACCOUNTS => return self.add_account(body),
            SUBSCRIPTIONS => return self.subscribe(body),
            TEST_EVENT => return self.test_event(body),
            SIMPLE_UPDATE => return self.simple_update(body),
            _ => {}
        }
        let dialect = self.shared.board().dialect;
        let (system, manager) = (dialect.system_path(), dialect.manager_path());
        if path == format!("{system}/Actions/ComputerSystem.Reset") {
            return self.reset(body);
        }
        if path == format!("{manager}/Actions/Manager.Reset") {
            return self.reset_manager(body);
        }
        if path == format!("{system}/Bios/Actions/Bios.ResetBios") {
            self.shared.board().settings.stage_defaults();
            return success();
        }
        if path == format!("{}/Actions/LogService.ClearLog", dialect.log_path(dialect.host_log)) {
            self.shared.board().clear_host_log(clock::now());
            return no_content();
        }
        if path == format!("{}/Actions/LogService.ClearLog", dialect.log_path(dialect.bmc_log)) {
            self.shared.board().clear_bmc_log(clock::now());
            return no_content();
        }
        let home = if dialect.is_modern() { system } else { manager };
        if let Some((id, action)) = path.strip_prefix(&format!("{home}/VirtualMedia/")).and_then(|rest| rest.split_once("/Actions/")) {
            match action {
                "VirtualMedia.InsertMedia" => return self.insert_media(id, body),
                "VirtualMedia.EjectMedia" => return self.eject_media(id),
                _ => {}
            }
        }
        self.refuse_method(request.path)
    }

    fn reset(&self, body: Value) -> Response {
        let mut patch = Patch::new(body);
        let wanted = patch.text("ResetType");
        let wrong = patch.rest();
        if !wrong.is_empty() {
            return complaints(StatusCode::BAD_REQUEST, &wrong);
        }
        let Some(wanted) = wanted else {
            let text = "The action ComputerSystem.Reset requires the parameter ResetType to be present in the request body.";
            return complain(StatusCode::BAD_REQUEST, "ActionParameterMissing", text);
        };
        let Some((_, action)) = RESET_TYPES.iter().find(|(name, _)| *name == wanted) else {
            return complaints(StatusCode::BAD_REQUEST, &[Message::not_in_list(&wanted, "ResetType")]);
        };
        let Some(action) = action else { return no_content() };
        match self.shared.set_power(*action) {
            Ok(()) => no_content(),
            Err(reason) => complain(StatusCode::CONFLICT, "OperationFailed", &reason),
        }
    }

    fn reset_manager(self: &Arc<Self>, body: Value) -> Response {
        let mut patch = Patch::new(body);
        match patch.text("ResetType").as_deref() {
            Some("GracefulRestart" | "ForceRestart") | None => {}
            Some(other) => return complaints(StatusCode::BAD_REQUEST, &[Message::not_in_list(other, "ResetType")]),
        }
        let wrong = patch.rest();
        if !wrong.is_empty() {
            return complaints(StatusCode::BAD_REQUEST, &wrong);
        }
        let (inner, away) = (Arc::clone(self), self.shared.setup.pace.real(RESTART));
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            inner.shared.go_away(away);
        });
        no_content()
    }

    fn insert_media(&self, id: &str, body: Value) -> Response {
        let mut patch = Patch::new(body);
        let (image, protected) = (patch.text("Image"), patch.switch("WriteProtected"));
        for field in ["Inserted", "TransferMethod", "TransferProtocolType", "UserName", "Password", "MediaType"] {
            patch.value(field);
        }
        let wrong = patch.rest();
        if !wrong.is_empty() {
            return complaints(StatusCode::BAD_REQUEST, &wrong);
        }
        let Some(image) = image.filter(|i| !i.is_empty()) else {
            let text = "The action VirtualMedia.InsertMedia requires the parameter Image to be present in the request body.";
            return complain(StatusCode::BAD_REQUEST, "ActionParameterMissing", text);
        };
        let mut board = self.shared.board();
        let Some(media) = board.media.iter_mut().find(|m| m.id == id) else { return self.gone(id) };
        if media.image.is_some() {
            let text = "The change to the requested resource failed because the resource is in use: eject the medium first.";
            return complain(StatusCode::CONFLICT, "ResourceInUse", text);
        }
        media.image = Some(image);
        media.write_protected = protected.unwrap_or(true);
        no_content()
    }

    fn eject_media(&self, id: &str) -> Response {
        let mut board = self.shared.board();
        let Some(media) = board.media.iter_mut().find(|m| m.id == id) else { return self.gone(id) };
        if media.image.take().is_none() {
            let text = "There is no medium in the virtual drive.";
            return complain(StatusCode::BAD_REQUEST, "ActionNotSupported", text);
        }
        no_content()
    }

    fn gone(&self, id: &str) -> Response {
        complain(StatusCode::NOT_FOUND, "ResourceMissingAtURI", &format!("There is no virtual drive {id}."))
    }
}
