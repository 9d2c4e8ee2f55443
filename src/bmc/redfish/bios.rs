//! BIOS settings: what is, what is pending, what may be, and staging of new values.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::bmc::BmcError;
use crate::bmc::redfish::Redfish;
use crate::bmc::redfish::layout::link;
use crate::bmc::redfish::read::Reader;
use crate::bmc::redfish::view::clean_to;
use crate::bmc::redfish::walk::{Resource, Walk};
use crate::domain::bmc_features::{BiosAttribute, Found};

/// Settings read at most; an R750 has 455.
const ATTRIBUTE_CAP: usize = 5_000;
const VALUE_CAP: usize = 1_024;

/// What the attribute registry says of one setting.
#[derive(Clone, Debug, Default)]
struct Entry {
    display_name: Option<String>,
    kind: Option<String>,
    allowed: Vec<String>,
    read_only: Option<bool>,
}

impl Redfish {
    async fn bios_resource(&self, walk: &mut Walk<'_>) -> Result<Resource, BmcError> {
        let (_, system) = self.system().await?;
        if link(&system.body, "Bios").is_none() {
            return Err(self.http().unsupported("BIOS settings (its system links no Bios)"));
        }
        let path = self.system_path().await?;
        // The system first, so that a link in other letters is found below it.
        walk.get(&path).await?;
        match walk.follow(&system.body, "Bios").await? {
            Some(bios) => Ok(bios),
            None => {
                let why = walk.unread.first().map(|u| u.what.clone()).unwrap_or_default();
                Err(self.http().nonsense(format!("BIOS settings that cannot be read: {why}")))
            }
        }
    }

    pub(super) async fn read_bios(&self) -> Result<Found<BiosAttribute>, BmcError> {
        let mut walk = Walk::new(self.http());
        let bios = self.bios_resource(&mut walk).await?;
        let pending = match settings_link(&bios.body) {
            Some(settings) => walk.get(&settings).await?,
            None => None,
        };
        let registry = self.registry(&mut walk, &bios).await?;
        let mut r = walk.reader(&bios);
        let values = r.inside("Attributes").and_then(|a| a.body.as_object().cloned()).unwrap_or_default();
        let pending = pending.as_ref().and_then(|p| p.body.get("Attributes")?.as_object());
        let mut items = Vec::new();
        for (name, value) in values.iter().filter(|(n, _)| !n.contains('@')).take(ATTRIBUTE_CAP) {
            let entry = registry.get(name).cloned().unwrap_or_default();
            let now = as_text(value);
            let next = pending.and_then(|p| as_text(p.get(name)?)).filter(|next| now.as_ref() != Some(next));
            items.push(BiosAttribute {
                name: clean_to(name, 256).unwrap_or_default(),
                value: now,
                pending: next,
                display_name: entry.display_name,
                kind: entry.kind,
                allowed: entry.allowed,
                read_only: entry.read_only,
                source: bios.path.clone(),
            });
        }
        Ok(walk.found(items))
    }

    /// The attribute registry by the name that the settings give. An iDRAC 9 names `BiosAttributeRegistry.v1_0_3` and serves
    /// `…v1_0_0`: the name without its version is enough.
    async fn registry(&self, walk: &mut Walk<'_>, bios: &Resource) -> Result<HashMap<String, Entry>, BmcError> {
        let Some(wanted) = walk.reader(bios).text("AttributeRegistry") else { return Ok(HashMap::new()) };
        let root = walk.root().await?;
        let Some(registries) = link(&root.body, "Registries") else { return Ok(HashMap::new()) };
        let Some(page) = walk.page(&registries).await? else { return Ok(HashMap::new()) };
        let paths: Vec<String> = page
            .members
            .into_iter()
            .map(|m| match m {
                crate::bmc::redfish::walk::Member::Inlined(resource) => resource.path,
                crate::bmc::redfish::walk::Member::Link(link) => link,
            })
            .collect();
        let tail = |p: &str| p.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let stem = |n: &str| n.to_ascii_lowercase().split(".v").next().unwrap_or_default().to_owned();
        let (name, name_stem) = (wanted.to_ascii_lowercase(), stem(&wanted));
        let best = paths.iter().find(|p| tail(p) == name).or_else(|| paths.iter().find(|p| stem(&tail(p)) == name_stem));
        let Some(file) = best else {
            crate::bmc::redfish::read::note(&mut walk.unread, &bios.path, format!("its attribute registry {wanted} is not served"));
            return Ok(HashMap::new());
        };
        let Some(file) = walk.get(file).await? else { return Ok(HashMap::new()) };
        let locations = walk.reader(&file).list("Location");
        let uri = |l: &&Value| l.get("Uri").and_then(crate::bmc::redfish::read::link_of).map(str::to_owned);
        let english = locations.iter().find(|l| l.get("Language").and_then(Value::as_str).is_some_and(|l| l.starts_with("en")));
        let Some(uri) = english.and_then(uri).or_else(|| locations.iter().find_map(uri)) else { return Ok(HashMap::new()) };
        let Some(registry) = walk.get(&uri).await? else { return Ok(HashMap::new()) };
        Ok(entries(&mut walk.reader(&registry)))
    }

    /// Stages settings for the next boot and reads them back.
    pub(super) async fn stage_bios(&self, settings: &[(String, String)]) -> Result<(), BmcError> {
        let mut walk = Walk::new(self.http());
        let bios = self.bios_resource(&mut walk).await?;
        let attributes = bios.body.get("Attributes").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut wanted = Map::new();
        for (name, text) in settings {
            let Some(now) = attributes.get(name) else {
                return Err(self.http().refused(format!("there is no BIOS setting {name:?}")));
            };
            let value = typed(now, text)
                .ok_or_else(|| self.http().refused(format!("the BIOS setting {name} takes {}, not {text:?}", kind_of(now))))?;
            wanted.insert(name.clone(), value);
        }
        let path = settings_link(&bios.body).unwrap_or_else(|| bios.path.clone());
        let before = self.http().get(&path).await?;
        let mut body = json!({"Attributes": wanted});
        if applies_on_reset(&bios.body)
            && let Some(fields) = body.as_object_mut()
        {
            let apply = json!({"@odata.type": "#Settings.v1_1_0.PreferredApplyTime", "ApplyTime": "OnReset"});
            fields.insert("@Redfish.SettingsApplyTime".into(), apply);
        }
        let reply = self.patch(&path, &body, before.etag()).await?;
        if !reply.status.is_success() {
            return Err(self.http().failed(&path, &reply));
        }
        let staged = self.http().get(&path).await?.body;
        let now = self.http().get(&bios.path).await?.body;
        let shows = |body: &Value, name: &str, value: &Value| body.get("Attributes").and_then(|a| a.get(name)) == Some(value);
        let missing: Vec<&String> =
            wanted.iter().filter(|(name, value)| !shows(&staged, name, value) && !shows(&now, name, value)).map(|(name, _)| name).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(BmcError::NotEffective {
            address: self.http().address().to_owned(),
            what: "new BIOS settings".into(),
            evidence: format!("{path} does not show {}", missing.into_iter().cloned().collect::<Vec<_>>().join(", ")),
        })
    }
}

/// Where new values are written (DSP0266, 9.10: `@Redfish.Settings`).
pub fn settings_link(bios: &Value) -> Option<String> {
    link(bios.get("@Redfish.Settings")?, "SettingsObject")
}

/// Whether the service wants to be told when to apply. Those that list no times have one, and some refuse the annotation.
fn applies_on_reset(bios: &Value) -> bool {
    let times = bios.pointer("/@Redfish.Settings/SupportedApplyTimes").and_then(Value::as_array);
    times.is_some_and(|t| t.iter().any(|t| t.as_str() == Some("OnReset")))
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(clean_to(s, VALUE_CAP).unwrap_or_default()),
        other => clean_to(&other.to_string(), VALUE_CAP),
    }
}

/// A text as the type that the setting has now.
fn typed(now: &Value, text: &str) -> Option<Value> {
    match now {
        Value::Bool(_) => text.parse::<bool>().ok().map(Value::Bool),
        Value::Number(_) => serde_json::from_str::<serde_json::Number>(text).ok().map(Value::Number),
        Value::String(_) | Value::Null => Some(Value::from(text)),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) | Value::Null => "a text",
        Value::Array(_) | Value::Object(_) => "a structure that is not written here",
    }
}

/// `RegistryEntries.Attributes` (DSP2046, AttributeRegistry).
fn entries(r: &mut Reader) -> HashMap<String, Entry> {
    let mut out = HashMap::new();
    let Some(mut holder) = r.inside("RegistryEntries") else { return out };
    for attribute in holder.list("Attributes") {
        let mut a = Reader::new(attribute, holder.source, holder.odd);
        let Some(name) = a.text("AttributeName") else { continue };
        let allowed = a.list("Value").into_iter().filter_map(|v| v.get("ValueName")).filter_map(as_text).collect();
        let entry = Entry { display_name: a.text("DisplayName"), kind: a.text("Type"), allowed, read_only: a.flag("ReadOnly") };
        out.insert(name, entry);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_written_in_the_type_it_has() {
        assert_eq!(typed(&json!(3), "4"), Some(json!(4)));
        assert_eq!(typed(&json!(true), "false"), Some(json!(false)));
        assert_eq!(typed(&json!("Enabled"), "4"), Some(json!("4")));
        assert_eq!((typed(&json!(3), "four"), typed(&json!(true), "yes"), typed(&json!([1]), "1")), (None, None, None));
    }
}
