//! Walking a Redfish tree within one call: links followed once each, collections page by page, expanded where the BMC offers
//! it, and a resource that cannot be read costs that resource only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::Value;

use crate::bmc::BmcError;
use crate::bmc::redfish::http::{Http, Reply};
use crate::bmc::redfish::read::{self, Reader};
use crate::bmc::redfish::view;
use crate::domain::bmc_features::{Found, Oddity};

/// Pages of one collection that are read; a link seen before ends the reading earlier (the DMTF mockup loops for ever).
pub const PAGE_CAP: usize = 200;
/// Members of one collection that are read.
pub const MEMBER_CAP: usize = 10_000;
/// Requests of one walk. A DL360 with 32 DIMM slots read one by one needs about 120.
const REQUEST_CAP: usize = 4_000;
/// Bytes of one walk: an R750 read link by link sends 3 MB, a log of 5,000 entries 8 MB. JSON takes about ten times that in memory.
const BYTE_CAP: usize = 48 << 20;
/// Links below `Oem` that are named.
const OEM_CAP: usize = 300;
/// Busy answers in a row after which the BMC and not the resource is taken to be the reason.
const BUSY_CAP: usize = 3;

/// A resource that was read.
#[derive(Clone, Debug)]
pub struct Resource {
    pub path: String,
    pub body: Arc<Value>,
}

/// One page of a collection.
pub struct Page {
    pub body: Arc<Value>,
    pub members: Vec<Member>,
    pub next: Option<String>,
}

/// A member of a collection: its content where the BMC sent it along, else where to get it.
pub enum Member {
    Inlined(Resource),
    Link(String),
}

/// One walk. `odd` and `unread` collect what becomes of [`Found`].
pub struct Walk<'a> {
    pub http: &'a Http,
    seen: HashMap<String, Option<Resource>>,
    requests: usize,
    bytes: usize,
    busy_in_a_row: usize,
    /// Links below `Oem`: of no standard, so named and not followed.
    oem: Vec<Oddity>,
    pub odd: Vec<Oddity>,
    pub unread: Vec<Oddity>,
}

impl<'a> Walk<'a> {
    pub fn new(http: &'a Http) -> Self {
        Self { http, seen: HashMap::new(), requests: 0, bytes: 0, busy_in_a_row: 0, oem: Vec::new(), odd: Vec::new(), unread: Vec::new() }
    }

    pub fn found<T>(self, items: Vec<T>) -> Found<T> {
        Found { items, not_understood: self.odd, unread: self.unread, oem_links: self.oem }
    }

    /// A reader of a resource that notes its oddities here.
    pub fn reader<'r>(&mut self, resource: &'r Resource) -> Reader<'r, '_> {
        Reader::new(&resource.body, &resource.path, &mut self.odd)
    }

    fn note_unread(&mut self, path: &str, why: impl Into<String>) {
        read::note(&mut self.unread, path, why);
    }

    /// The service root, as a resource.
    pub async fn root(&mut self) -> Result<Resource, BmcError> {
        Ok(Resource { path: "/redfish/v1".into(), body: self.http.root().await? })
    }

    /// The resource behind a link, read once per walk. `None` if it is not there or not understood, which is noted.
    /// Only what concerns the whole BMC (silence, a refused login) is an error.
    pub async fn get(&mut self, link: &str) -> Result<Option<Resource>, BmcError> {
        let (path, fragment) = match link.split_once('#') {
            Some((path, fragment)) => (path, Some(fragment)),
            None => (link, None),
        };
        let path = tidy(path);
        let whole = match self.seen.get(&path) {
            Some(known) => known.clone(),
            None => {
                let resource = self.fetch(&path).await?;
                self.seen.insert(path.clone(), resource.clone());
                resource
            }
        };
        let (Some(whole), Some(fragment)) = (whole.clone(), fragment) else { return Ok(whole) };
        // A JSON pointer (RFC 6901); iLO 5 leaves out its first slash.
        let pointer = format!("/{}", fragment.trim_start_matches('/'));
        match whole.body.pointer(&pointer) {
            Some(part) => Ok(Some(Resource { path: format!("{path}#{pointer}"), body: Arc::new(part.clone()) })),
            None => {
                self.note_unread(link, "the link points into a resource at something that is not there");
                Ok(None)
            }
        }
    }

    /// As [`Walk::get`] for the link in a field; `None` without the link.
    pub async fn follow(&mut self, from: &Value, field: &str) -> Result<Option<Resource>, BmcError> {
        match from.get(field).and_then(read::link_of) {
            Some(link) => self.get(link).await,
            None => Ok(None),
        }
    }

    /// The members of the collection in a field; none without the field.
    pub async fn follow_members(&mut self, from: &Value, field: &str) -> Result<Vec<Resource>, BmcError> {
        match from.get(field) {
            Some(Value::Array(links)) => {
                // Older schemas (1.0) write arrays of links where newer ones have a collection.
                let links: Vec<String> = links.iter().filter_map(read::link_of).map(str::to_owned).collect();
                self.get_all(&links).await
            }
            Some(value) => match read::link_of(value) {
                Some(link) => self.members(link).await,
                None => Ok(Vec::new()),
            },
            None => Ok(Vec::new()),
        }
    }

    /// The entries of an array: objects within the resource, or links to others.
    pub async fn entries(&mut self, resource: &Resource, field: &str) -> Result<Vec<Resource>, BmcError> {
        let entries: Vec<Value> = self.reader(resource).list(field).into_iter().cloned().collect();
        let mut out = Vec::new();
        for (i, entry) in entries.into_iter().enumerate() {
            let elsewhere = read::link_of(&entry).filter(|_| entry.as_object().is_none_or(|o| o.len() == 1));
            match elsewhere.map(str::to_owned) {
                Some(link) => out.extend(self.get(&link).await?),
                None => {
                    let path = crate::bmc::redfish::sensors::element_path(&resource.path, field, i, &entry);
                    out.push(Resource { path, body: Arc::new(entry) });
                }
            }
        }
        Ok(out)
    }

    pub async fn get_all(&mut self, links: &[String]) -> Result<Vec<Resource>, BmcError> {
        let mut out = Vec::new();
        for link in links.iter().take(MEMBER_CAP) {
            out.extend(self.get(link).await?);
        }
        Ok(out)
    }

    /// Whether this walk has read the path before.
    pub fn has_read(&self, link: &str) -> bool {
        self.seen.contains_key(&tidy(link))
    }

    /// Whether this walk has asked for as much as it may; says so once.
    fn is_spent(&mut self) -> bool {
        if self.requests >= REQUEST_CAP {
            self.note_unread("/redfish/v1", format!("the reading stopped after {REQUEST_CAP} requests"));
            return true;
        }
        if self.bytes >= BYTE_CAP {
            self.note_unread("/redfish/v1", format!("the reading stopped after {} MiB", BYTE_CAP >> 20));
            return true;
        }
        false
    }

    async fn fetch(&mut self, path: &str) -> Result<Option<Resource>, BmcError> {
        if self.is_spent() {
            return Ok(None);
        }
        self.requests += 1;
        let mut answer = self.http.get_any(path).await;
        if matches!(&answer, Ok(reply) if reply.status == StatusCode::NOT_FOUND)
            && let Some(other) = self.other_case(path)
        {
            self.requests += 1;
            answer = self.http.get_any(&other).await;
        }
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => return self.judge(path, error).map(|()| None),
        };
        self.bytes += reply.bytes;
        if !reply.status.is_success() {
            let why = match reply.status {
                StatusCode::NOT_FOUND | StatusCode::GONE => {
                    self.busy_in_a_row = 0;
                    self.note_unread(path, format!("it is linked and not there (HTTP {})", reply.status.as_u16()));
                    return Ok(None);
                }
                _ => self.http.failed(path, &reply),
            };
            return self.judge(path, why).map(|()| None);
        }
        self.busy_in_a_row = 0;
        Ok(self.object(path, reply))
    }

    /// iLO 5 links to `/redfish/v1/systems/1/bios` below `/redfish/v1/Systems/1`, and answers in either case. Behind a front
    /// that does tell cases apart, the spelling of what was read before is tried.
    fn other_case(&self, path: &str) -> Option<String> {
        let parents = self.seen.iter().filter(|(_, r)| r.is_some()).map(|(known, _)| known.as_str());
        let best = parents
            .filter(|known| {
                let head = path.get(..known.len()).unwrap_or_default();
                known.len() < path.len() && head != *known && head.eq_ignore_ascii_case(known) && path[known.len()..].starts_with('/')
            })
            .max_by_key(|known| known.len())?;
        Some(format!("{best}{}", &path[best.len()..]))
    }

    /// The body of a good answer, if it is a resource. Some firmware answers 200 with an error in it.
    fn object(&mut self, path: &str, reply: Reply) -> Option<Resource> {
        let Some(fields) = reply.body.as_object() else {
            self.note_unread(path, "the answer is not an object");
            return None;
        };
        if fields.contains_key("error") && !fields.contains_key("@odata.id") {
            let said = reply.complaint().sentence;
            self.note_unread(path, format!("HTTP {} with an error inside: {said}", reply.status.as_u16()));
            return None;
        }
        let mut links = Vec::new();
        oem_links(&reply.body, "Oem", false, &mut links);
        for (name, link) in links {
            if self.oem.len() < OEM_CAP {
                read::note(&mut self.oem, path, format!("{name} links to {link}"));
            }
        }
        Some(Resource { path: path.to_owned(), body: Arc::new(reply.body) })
    }

    /// Whether an error is about this one resource (noted) or about the BMC (handed up).
    fn judge(&mut self, path: &str, error: BmcError) -> Result<(), BmcError> {
        let why = match &error {
            BmcError::Nonsense { what, .. } | BmcError::Unsupported { what, .. } => what.clone(),
            BmcError::Refused { reason, .. } => reason.clone(),
            BmcError::Busy { reason, .. } if self.busy_in_a_row + 1 < BUSY_CAP => {
                self.busy_in_a_row += 1;
                reason.clone()
            }
            BmcError::Busy { .. }
            | BmcError::Unauthorized { .. }
            | BmcError::Paused { .. }
            | BmcError::Unreachable { .. }
            | BmcError::Timeout { .. }
            | BmcError::CertificateChanged { .. }
            | BmcError::NotEffective { .. } => return Err(error),
        };
        self.note_unread(path, why);
        Ok(())
    }

    /// All members of a collection with their contents.
    pub async fn members(&mut self, collection: &str) -> Result<Vec<Resource>, BmcError> {
        let mut out: Vec<Resource> = Vec::new();
        let mut taken = HashSet::new();
        let (mut pages, mut next) = (HashSet::new(), Some(tidy(collection)));
        let (mut said, mut listed) = (None, 0);
        while let Some(at) = next.take() {
            if pages.len() >= PAGE_CAP || !pages.insert(at.clone()) {
                self.note_unread(collection, "its pages link in a circle or never end");
                break;
            }
            let Some(page) = self.page(&at).await? else { break };
            said = said.or_else(|| page.body.get("Members@odata.count").and_then(Value::as_u64));
            for member in page.members {
                listed += 1;
                let resource = match member {
                    Member::Inlined(resource) => Some(resource),
                    Member::Link(link) if !taken.contains(&tidy(&link)) => self.get(&link).await?,
                    Member::Link(_) => None,
                };
                if let Some(resource) = resource
                    && out.len() < MEMBER_CAP
                    && taken.insert(resource.path.clone())
                {
                    self.seen.insert(resource.path.clone(), Some(resource.clone()));
                    out.push(resource);
                }
            }
            next = page.next;
        }
        if let Some(said) = said
            && said > listed
            && !pages.is_empty()
        {
            self.note_unread(collection, format!("it says {said} members and lists {listed}"));
        }
        Ok(out)
    }

    /// One page of a collection, expanded where offered. `None` if it cannot be read, which is noted.
    pub async fn page(&mut self, path: &str) -> Result<Option<Page>, BmcError> {
        let expand = if path.contains('?') { None } else { self.http.expand().await? };
        let mut is_refused = false;
        if let Some(query) = expand.filter(|_| !self.is_spent()) {
            self.requests += 1;
            match self.http.get_any(&format!("{path}{query}")).await {
                Ok(reply) if reply.status.is_success() && reply.body.get("Members").is_some() => {
                    self.bytes += reply.bytes;
                    let page = self.read_page(path, Arc::new(reply.body));
                    let inlined = page.members.iter().filter(|m| matches!(m, Member::Inlined(_))).count();
                    self.http.expand_seen(inlined == page.members.len(), page.members.is_empty());
                    return Ok(Some(page));
                }
                Ok(reply) => is_refused = reply.status != StatusCode::SERVICE_UNAVAILABLE,
                Err(BmcError::Busy { .. }) => {}
                Err(BmcError::Nonsense { .. } | BmcError::Refused { .. } | BmcError::Unsupported { .. }) => is_refused = true,
                Err(error) => return Err(error),
            }
        }
        // The plain question tells whether it was the query that was refused, or the collection that is not there.
        let Some(resource) = self.get(path).await? else { return Ok(None) };
        if is_refused {
            self.http.expand_seen(false, false);
        }
        Ok(Some(self.read_page(path, resource.body)))
    }

    fn read_page(&mut self, path: &str, body: Arc<Value>) -> Page {
        let mut members = Vec::new();
        match body.get("Members") {
            Some(Value::Array(items)) => {
                for item in items.iter().filter(|v| !v.is_null()) {
                    match (read::link_of(item), is_content(item)) {
                        (Some(link), true) => {
                            members.push(Member::Inlined(Resource { path: tidy(link), body: Arc::new(item.clone()) }));
                        }
                        (Some(link), false) => members.push(Member::Link(link.to_owned())),
                        (None, _) => read::note(&mut self.odd, path, "a member without a link"),
                    }
                }
            }
            None | Some(Value::Null) if body.get("Members@odata.count").and_then(Value::as_u64).unwrap_or(0) == 0 => {}
            _ => read::note(&mut self.odd, path, "a collection whose Members are not a list"),
        }
        let next = ["Members@odata.nextLink", "@odata.nextLink"].iter().find_map(|n| body.get(*n));
        let next = next.and_then(|n| read::link_of(n).or_else(|| n.as_str())).filter(|n| !n.is_empty()).map(str::to_owned);
        Page { body, members, next }
    }
}

/// The links below `Oem` of a resource, by name. Values, and links that lead back up (`Links` of the standard), are not among them.
fn oem_links(value: &Value, name: &str, inside: bool, out: &mut Vec<(String, String)>) {
    if out.len() >= OEM_CAP {
        return;
    }
    match value {
        Value::Object(fields) => {
            if let (true, Some(link)) = (inside, read::link_of(value)) {
                out.push((name.to_owned(), link.to_owned()));
            }
            for (field, inner) in fields.iter().filter(|(_, v)| v.is_object() || v.is_array()) {
                let inside = inside || field == "Oem";
                if inside {
                    oem_links(inner, &format!("{name}.{field}").replace("Oem.Oem", "Oem"), true, out);
                }
            }
        }
        Value::Array(items) => items.iter().filter(|i| i.is_object()).for_each(|i| oem_links(i, name, inside, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a member is more than a link.
fn is_content(member: &Value) -> bool {
    member.get("Id").is_some() || member.get("@odata.type").is_some() && member.as_object().is_some_and(|o| o.len() > 3)
}

/// One spelling for one resource.
pub fn tidy(path: &str) -> String {
    let path = path.trim();
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/".into() } else { view::clean_to(trimmed, 2048).unwrap_or_default() }
}
