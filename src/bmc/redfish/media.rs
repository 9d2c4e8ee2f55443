//! Virtual drives: eject what is in, insert, read back.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bmc::BmcError;
use crate::bmc::redfish::Redfish;
use crate::bmc::redfish::http::Reply;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::walk::Walk;
use crate::domain::bmc_features::{Found, MediaSlot};

impl Redfish {
    pub(super) async fn read_media(&self) -> Result<Found<MediaSlot>, BmcError> {
        let mut walk = Walk::new(self.http());
        let layout = self.layout(&mut walk).await?;
        let mut items: Vec<MediaSlot> = Vec::new();
        let mut is_offered = false;
        // Newer trees have them below the system and, deprecated, below the manager: the same drives.
        for holders in [&layout.systems, &layout.managers] {
            for holder in holders {
                let Some(holder) = walk.get(holder).await? else { continue };
                is_offered |= holder.body.get("VirtualMedia").is_some();
                for member in walk.follow_members(&holder.body, "VirtualMedia").await? {
                    items.push(slot(&mut walk.reader(&member)));
                }
            }
            if !items.is_empty() {
                break;
            }
        }
        if items.is_empty() && !is_offered {
            return Err(self.http().unsupported("virtual media (no VirtualMedia below system or manager)"));
        }
        Ok(walk.found(items))
    }

    pub(super) async fn insert(&self, slot: &str, url: &str) -> Result<(), BmcError> {
        self.eject(slot).await?;
        let reply = self.http().get(slot).await?;
        let (body, etag) = (&reply.body, reply.etag());
        let answer = match target(body, "#VirtualMedia.InsertMedia") {
            Some(action) => {
                let first = self.http().send(Method::POST, action, &json!({"Image": url}), None).await?;
                // Optional by the standard, wanted by some (DSP2046 1.2 made them so).
                if first.status == StatusCode::BAD_REQUEST {
                    let full = json!({"Image": url, "Inserted": true, "WriteProtected": true});
                    self.http().send(Method::POST, action, &full, None).await?
                } else {
                    first
                }
            }
            // Before the action there was only the property (iLO 4, first Lenovo XCC).
            None => self.patch(slot, &json!({"Image": url, "Inserted": true}), etag).await?,
        };
        if !answer.status.is_success() {
            return Err(self.http().failed(slot, &answer));
        }
        self.wait_media(slot, "inserting virtual media", |body| is_inserted(body) && image(body).as_deref() == Some(url)).await
    }

    pub(super) async fn eject(&self, slot: &str) -> Result<(), BmcError> {
        let reply = self.http().get(slot).await?;
        if !is_inserted(&reply.body) && image(&reply.body).is_none() {
            return Ok(());
        }
        let answer: Reply = match target(&reply.body, "#VirtualMedia.EjectMedia") {
            Some(action) => self.http().send(Method::POST, action, &json!({}), None).await?,
            None => self.patch(slot, &json!({"Image": null, "Inserted": false}), reply.etag()).await?,
        };
        let gone = |body: &Value| !is_inserted(body);
        // 400 and 409 to "eject" when it is out already, or nearly.
        if !answer.status.is_success() {
            let now = self.http().get(slot).await?;
            return if gone(&now.body) { Ok(()) } else { Err(self.http().failed(slot, &answer)) };
        }
        self.wait_media(slot, "ejecting virtual media", gone).await
    }

    async fn wait_media(&self, slot: &str, what: &str, enough: impl Fn(&Value) -> bool) -> Result<(), BmcError> {
        let end = tokio::time::Instant::now() + self.timing.settle;
        loop {
            let body = self.http().get(slot).await?.body;
            if enough(&body) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                let shown = image(&body).unwrap_or_else(|| "no image".into());
                return Err(BmcError::NotEffective {
                    address: self.http().address().to_owned(),
                    what: what.into(),
                    evidence: format!("{slot} shows {shown}, {}", if is_inserted(&body) { "inserted" } else { "not inserted" }),
                });
            }
            tokio::time::sleep(self.timing.poll).await;
        }
    }
}

fn target<'a>(body: &'a Value, action: &str) -> Option<&'a str> {
    body.get("Actions")?.get(action)?.get("target")?.as_str()
}

fn is_inserted(body: &Value) -> bool {
    body.get("Inserted") == Some(&Value::Bool(true))
}

fn image(body: &Value) -> Option<String> {
    body.get("Image").and_then(Value::as_str).filter(|i| !i.is_empty()).map(str::to_owned)
}

fn slot(r: &mut Reader) -> MediaSlot {
    MediaSlot {
        source: r.source.to_owned(),
        name: r.first_text(&["Name", "Id"]).unwrap_or_default(),
        kinds: r.words("MediaTypes"),
        image: r.long_text("Image", 1024),
        inserted: r.flag("Inserted"),
    }
}
