//! Query parameters (DSP0266, section 7.3): `$expand`, `$select`, `$top`, `$skip`, `only`.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::sim::bmc::redfish::reply::{self, Message};
use crate::sim::bmc::redfish::tree::Resource;

/// As deep as `$levels` goes.
const MAX_LEVELS: u32 = 3;
/// Resources in one expanded answer.
const EXPAND_CAP: usize = 500;
/// Members of a log in one answer without `$top`; the rest is behind `Members@odata.nextLink`.
pub const PAGE: usize = 50;

/// Which references `$expand` follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expand {
    /// `*`: all.
    All,
    /// `.`: all but those in `Links`.
    NoLinks,
    /// `~`: those in `Links` only.
    Links,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    expand: Option<(Expand, u32)>,
    select: Vec<String>,
    top: Option<usize>,
    skip: usize,
    only: bool,
    /// Long lists come whole.
    whole: bool,
}

fn refuse(id: &'static str, name: &str, value: &str) -> Box<Response> {
    let text = format!("The value '{value}' for the query parameter {name} is not one that it can have.");
    Box::new(reply::complaints(StatusCode::BAD_REQUEST, &[Message { args: vec![value.into(), name.into()], ..Message::new(id, text) }]))
}

impl Query {
    /// Reads the part behind `?`. Unknown parameters are ignored, unknown ones that begin with `$` are refused with 501.
    pub fn read(text: &str, is_modern: bool) -> Result<Self, Box<Response>> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name), decode(value));
            let number = || value.parse::<usize>().map_err(|_| refuse("QueryParameterValueTypeError", &name, &value));
            match name.as_str() {
                "$expand" if is_modern => {
                    query.expand = Some(expand(&value).ok_or_else(|| refuse("QueryParameterValueFormatError", &name, &value))?)
                }
                "$select" if is_modern => {
                    if value.is_empty() {
                        return Err(refuse("QueryParameterValueFormatError", &name, &value));
                    }
                    query.select = value.split(',').map(str::to_owned).collect();
                }
                "$top" => query.top = Some(number()?),
                "$skip" => query.skip = number()?,
                "only" if is_modern && value.is_empty() => query.only = true,
                "only" if is_modern => return Err(refuse("QueryParameterValueFormatError", &name, &value)),
                other if other.starts_with('$') => {
                    let text = format!("The service does not support the query parameter {other}.");
                    let message = Message { args: vec![other.to_owned()], ..Message::new("QueryParameterUnsupported", text) };
                    return Err(Box::new(reply::complaints(StatusCode::NOT_IMPLEMENTED, &[message])));
                }
                _ => {}
            }
        }
        Ok(query)
    }

    /// Lists are given whole unless the client asks for a part: a recorded tree has its own pages.
    pub fn unpaged(self) -> Self {
        Self { whole: true, ..self }
    }

    /// The resource as this query wants it. `find` gives other resources of the tree.
    pub fn apply(&self, mut resource: Resource, find: &dyn Fn(&str) -> Option<Resource>) -> Resource {
        self.page(&mut resource.body);
        if self.only
            && let Some([one]) = resource.body.get("Members").and_then(Value::as_array).map(Vec::as_slice)
            && let Some(member) = one.get("@odata.id").and_then(Value::as_str).and_then(find)
        {
            resource = member;
        }
        if let Some((kind, levels)) = self.expand {
            let own = resource.body.get("@odata.id").and_then(Value::as_str).unwrap_or_default().to_owned();
            let mut left = EXPAND_CAP;
            expand_in(&mut resource.body, &own, kind, levels, false, find, &mut left);
        }
        if !self.select.is_empty()
            && let Some(fields) = resource.body.as_object_mut()
        {
            let wanted: Vec<&str> = self.select.iter().map(|s| s.split('/').next().unwrap_or(s)).collect();
            fields.retain(|name, _| name.starts_with("@odata.") || wanted.contains(&name.as_str()));
        }
        resource
    }

    fn page(&self, body: &mut Value) {
        let path = body.get("@odata.id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let long = !self.whole && path.ends_with("/Entries");
        let Some(fields) = body.as_object_mut() else { return };
        let Some(members) = fields.get_mut("Members").and_then(Value::as_array_mut) else { return };
        let top = match (self.top, long) {
            (Some(top), _) => top,
            (None, true) => PAGE,
            (None, false) => usize::MAX,
        };
        let total = members.len();
        members.drain(..self.skip.min(total));
        members.truncate(top);
        let end = self.skip.saturating_add(top);
        if top > 0 && end < total {
            fields.insert(
                "Members@odata.nextLink".into(),
                json!(format!("{path}?$skip={end}{}", self.top.map(|t| format!("&$top={t}")).unwrap_or_default())),
            );
        }
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                std::str::from_utf8(&digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok()).unwrap_or(b'%')
            }
            other => other,
        };
        out.push(byte);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn expand(value: &str) -> Option<(Expand, u32)> {
    let (kind, levels) = match value.split_once('(') {
        None => (value, 1),
        Some((kind, rest)) => (kind, rest.strip_suffix(')')?.strip_prefix("$levels=")?.parse().ok()?),
    };
    let kind = match kind {
        "*" => Expand::All,
        "." => Expand::NoLinks,
        "~" => Expand::Links,
        _ => return None,
    };
    (levels >= 1).then_some((kind, levels.min(MAX_LEVELS)))
}

/// Puts resources in the place of references to them. `own` is the resource's own path: it is not put into itself.
fn expand_in(
    value: &mut Value,
    own: &str,
    kind: Expand,
    levels: u32,
    in_links: bool,
    find: &dyn Fn(&str) -> Option<Resource>,
    left: &mut usize,
) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|v| expand_in(v, own, kind, levels, in_links, find, left)),
        Value::Object(fields) => {
            if let Some(target) = reference(fields) {
                let follow = match kind {
                    Expand::All => true,
                    Expand::NoLinks => !in_links,
                    Expand::Links => in_links,
                };
                if !follow || target == own || *left == 0 {
                    return;
                }
                let Some(mut found) = find(&target) else { return };
                *left -= 1;
                if levels > 1 {
                    expand_in(&mut found.body, &target, kind, levels - 1, false, find, left);
                }
                *value = found.body;
                return;
            }
            for (name, inner) in fields.iter_mut() {
                if name != "Actions" && name != "Oem" {
                    expand_in(inner, own, kind, levels, in_links || name == "Links", find, left);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The target of an object that is nothing but a reference.
fn reference(fields: &Map<String, Value>) -> Option<String> {
    if fields.len() != 1 {
        return None;
    }
    let target = fields.get("@odata.id")?.as_str()?;
    (!target.contains('#')).then(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str) -> Option<Resource> {
        let body = match path {
            "/a" => json!({"@odata.id": "/a", "Members": [{"@odata.id": "/a/1"}, {"@odata.id": "/a/2"}], "Members@odata.count": 2}),
            "/a/1" => json!({"@odata.id": "/a/1", "Id": "1", "Links": {"Up": {"@odata.id": "/a"}}, "More": {"@odata.id": "/b"}}),
            "/a/2" => json!({"@odata.id": "/a/2", "Id": "2"}),
            "/b" => json!({"@odata.id": "/b", "Id": "b"}),
            _ => return None,
        };
        Some(Resource { body, allow: "GET" })
    }

    fn ask(path: &str, query: &str) -> Value {
        Query::read(query, true).expect("a good query").apply(tree(path).expect("there"), &tree).body
    }

    #[test]
    fn expansion_follows_what_it_names_as_deep_as_it_says() {
        let one = ask("/a", "$expand=.($levels=1)");
        assert_eq!(one.pointer("/Members/0/Id"), Some(&json!("1")));
        assert_eq!(one.pointer("/Members/0/More/Id"), None);
        let two = ask("/a", "%24expand=.($levels=2)");
        assert_eq!(two.pointer("/Members/0/More/Id"), Some(&json!("b")));
        assert_eq!(two.pointer("/Members/0/Links/Up/Members"), None, "`.` leaves links alone");
        assert!(ask("/a/1", "$expand=~").pointer("/Links/Up/Members").is_some());
    }

    #[test]
    fn pages_selection_and_only_are_as_asked() {
        let page = ask("/a", "$top=1");
        assert_eq!((page["Members"].as_array().map(Vec::len), &page["Members@odata.count"]), (Some(1), &json!(2)));
        assert_eq!(page["Members@odata.nextLink"], json!("/a?$skip=1&$top=1"));
        assert_eq!(ask("/a", "$skip=1")["Members"], json!([{"@odata.id": "/a/2"}]));
        assert_eq!(ask("/b", "$select=Name"), json!({"@odata.id": "/b"}));
        assert!(Query::read("$filter=x", true).is_err());
        assert!(Query::read("$expand=.", false).is_err(), "an old BMC has no $expand");
        assert!(Query::read("rfpvfoobar=1", true).is_ok());
    }
}
