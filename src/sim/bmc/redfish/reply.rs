//! Answers in the forms of DSP0266: headers, extended errors, annotations.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::sim::bmc::redfish::tree::Resource;

/// The Base message registry that the ids are from.
const REGISTRY: &str = "Base.1.17";

/// One message: key in the Base registry, sentence, what it is about.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: &'static str,
    pub text: String,
    pub args: Vec<String>,
    /// JSON pointer of the property.
    pub about: Option<String>,
}

impl Message {
    pub fn new(id: &'static str, text: impl Into<String>) -> Self {
        Self { id, text: text.into(), args: Vec::new(), about: None }
    }

    fn about(id: &'static str, text: String, args: Vec<String>, pointer: &str) -> Self {
        Self { id, text, args, about: Some(format!("#/{}", pointer.trim_start_matches('/'))) }
    }

    pub fn unknown(property: &str) -> Self {
        let text = format!("The property {property} is not in the list of valid properties for the resource.");
        Self::about("PropertyUnknown", text, vec![property.to_owned()], property)
    }

    pub fn not_writable(property: &str) -> Self {
        let text = format!("The property {property} is a read-only property and cannot be assigned a value.");
        Self::about("PropertyNotWritable", text, vec![property.to_owned()], property)
    }

    pub fn wrong_type(property: &str) -> Self {
        let text = format!("The value provided for the property {property} is not of a type that the property can accept.");
        Self::about("PropertyValueTypeError", text, vec![String::new(), property.to_owned()], property)
    }

    pub fn not_in_list(value: &str, property: &str) -> Self {
        let text = format!("The value '{value}' for the property {property} is not in the list of acceptable values.");
        Self::about("PropertyValueNotInList", text, vec![value.to_owned(), property.to_owned()], property)
    }

    pub fn bad_value(value: &str, property: &str) -> Self {
        let text = format!("The value '{value}' for the property {property} is not a value that it can have.");
        Self::about("PropertyValueFormatError", text, vec![value.to_owned(), property.to_owned()], property)
    }

    pub fn missing(property: &str) -> Self {
        let text = format!("The property {property} is a required property and must be included in the request.");
        Self::about("PropertyMissing", text, vec![property.to_owned()], property)
    }

    pub fn json(&self) -> Value {
        let mut out = json!({
            "@odata.type": "#Message.v1_1_2.Message",
            "MessageId": format!("{REGISTRY}.{}", self.id),
            "Message": self.text,
            "MessageArgs": self.args,
            "MessageSeverity": if self.id == "Success" { "OK" } else { "Warning" },
            "Resolution": "None.",
        });
        if let (Some(about), Some(fields)) = (&self.about, out.as_object_mut()) {
            fields.insert("RelatedProperties".into(), json!([about]));
        }
        out
    }
}

/// JSON with the headers that every answer has.
pub fn json_reply(status: StatusCode, body: &Value) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    set(&mut response, "OData-Version", "4.0");
    set(&mut response, header::CACHE_CONTROL.as_str(), "no-cache");
    response
}

pub fn set(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

pub fn complain(status: StatusCode, id: &'static str, text: &str) -> Response {
    complaints(status, &[Message::new(id, text)])
}

/// An extended error (DSP0266, section 8.6).
pub fn complaints(status: StatusCode, messages: &[Message]) -> Response {
    let (code, text) = match messages {
        [one] => (format!("{REGISTRY}.{}", one.id), one.text.clone()),
        _ => (format!("{REGISTRY}.GeneralError"), "A general error has occurred. See ExtendedInfo for more information.".to_owned()),
    };
    let info: Vec<Value> = messages.iter().map(Message::json).collect();
    json_reply(status, &json!({"error": {"code": code, "message": text, "@Message.ExtendedInfo": info}}))
}

pub fn not_found(path: &str) -> Response {
    complain(StatusCode::NOT_FOUND, "ResourceMissingAtURI", &format!("The resource at the URI {path} was not found."))
}

/// 405 with what is allowed.
pub fn not_allowed(allow: &str) -> Response {
    let mut response = complain(StatusCode::METHOD_NOT_ALLOWED, "OperationNotAllowed", "The HTTP method is not allowed on this resource.");
    set(&mut response, header::ALLOW.as_str(), allow);
    response
}

pub fn no_content() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    set(&mut response, "OData-Version", "4.0");
    set(&mut response, header::CACHE_CONTROL.as_str(), "no-cache");
    response
}

/// 200 with the Success message: the answer to an action.
pub fn success() -> Response {
    let message = Message::new("Success", "The request completed successfully.");
    json_reply(StatusCode::OK, &json!({"@Message.ExtendedInfo": [message.json()]}))
}

/// A weak ETag of a resource: it changes with its content, unless the resource brings its own.
pub fn etag(body: &Value) -> String {
    if let Some(own) = body.get("@odata.etag").and_then(Value::as_str) {
        return own.to_owned();
    }
    // FNV-1a: an ETag needs no secret.
    let hash = body.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("W/\"{hash:016x}\"")
}

/// Whether an `If-Match` or `If-None-Match` header names this ETag.
pub fn names_etag(header: &str, etag: &str) -> bool {
    let bare = |t: &str| t.trim().trim_start_matches("W/").to_owned();
    header.trim() == "*" || header.split(',').any(|one| bare(one) == bare(etag))
}

/// The answer to a GET of this resource.
pub fn resource(resource: Resource) -> Response {
    let Resource { mut body, allow } = resource;
    let etag = etag(&body);
    let schema = body.get("@odata.type").and_then(Value::as_str).and_then(schema_of);
    if let Some(fields) = body.as_object_mut()
        && fields.contains_key("@odata.id")
        && !fields.contains_key("Members")
    {
        fields.insert("@odata.etag".into(), json!(etag));
    }
    let mut response = json_reply(StatusCode::OK, &body);
    set(&mut response, header::ALLOW.as_str(), allow);
    set(&mut response, header::ETAG.as_str(), &etag);
    if let Some(schema) = schema {
        set(&mut response, header::LINK.as_str(), &format!("<http://redfish.dmtf.org/schemas/v1/{schema}.json>; rel=describedby"));
    }
    response
}

/// `#Chassis.v1_25_0.Chassis` is described by `Chassis.v1_25_0`, `#ChassisCollection.ChassisCollection` by `ChassisCollection`.
fn schema_of(kind: &str) -> Option<String> {
    let (schema, _) = kind.strip_prefix('#')?.rsplit_once('.')?;
    Some(schema.to_owned())
}

/// Text that is no JSON.
pub fn text(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    set(&mut response, header::CONTENT_TYPE.as_str(), kind);
    set(&mut response, "OData-Version", "4.0");
    set(&mut response, header::CACHE_CONTROL.as_str(), "no-cache");
    response
}
