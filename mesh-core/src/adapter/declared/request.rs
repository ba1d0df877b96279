//! Builds a request from the message.

use ::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use bytes::Bytes;
use cel::common::types::{CelInt, CelString};
use prost_reflect::DynamicMessage;
use secrecy::ExposeSecret as _;

use crate::{
    adapter::{json, text, value::Asking},
    config::{
        Expression, Part, Template, engine,
        record::Record,
        vendor::{BodyPlan, IdempotencyPlan, Json, OperationPlan, VendorFile},
    },
    contract::{Context, vendor_key},
    fault::{Code, Effect, Fault, Origin, Reason},
    http::Request,
};

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("mesh/", env!("CARGO_PKG_VERSION")));

/// What no message changes.
#[derive(Debug)]
pub(super) struct Fixed {
    /// The headers, secrets among them.
    headers: HeaderMap,
    /// The indices of the headers that a message changes.
    varying: Vec<usize>,
    url: Option<Uri>,
}

impl Fixed {
    pub(super) fn new(file: &VendorFile, plan: &OperationPlan) -> Result<Fixed, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, AGENT);
        headers.insert(header::ACCEPT, JSON);
        match plan.request.body {
            BodyPlan::Form(_) => headers.insert(header::CONTENT_TYPE, FORM),
            BodyPlan::Json(_) => headers.insert(header::CONTENT_TYPE, JSON),
            BodyPlan::None => None,
        };
        let message = DynamicMessage::new(plan.input.clone());
        let asking = of_message(file, &message);
        let context = context(&asking);
        let mut varying = Vec::new();
        for (index, (name, template)) in plan.request.headers.iter().enumerate() {
            if ["request", "id", "key", "attempt"].iter().any(|variable| template.names(variable)) {
                varying.push(index);
                continue;
            }
            let mut value = render(template, &context)
                .and_then(|text| header_value(name, &text))
                .map_err(|what| wrong(file, plan, &what))?;
            value.set_sensitive(template.names("secret"));
            headers.insert(name.clone(), value);
        }
        let constant = plan.request.path.constant().filter(|_| plan.request.query.is_empty());
        let url = constant.map(|path| url(file, path)).transpose().map_err(|what| wrong(file, plan, &what))?;
        Ok(Fixed { headers, varying, url })
    }
}

fn context<'v>(asking: &'v Asking<'v>) -> cel::Context<'v, 'v> {
    let mut context = cel::Context::with_env(engine().clone());
    context.set_variable_resolver(asking);
    context
}

/// What can be named of a message alone.
fn of_message<'v>(file: &'v VendorFile, message: &'v DynamicMessage) -> Asking<'v> {
    Asking {
        request: Record::Message(message),
        secret: Record::Secrets(&file.secrets),
        id: "".into(),
        key: "".into(),
        attempt: 0.into(),
    }
}

/// What a message is for. `None`: the file does not say, or names what this message does not have.
pub(super) fn target(file: &VendorFile, plan: &OperationPlan, message: &DynamicMessage) -> Option<String> {
    let asking = of_message(file, message);
    text_of(plan.isolate_by.as_ref()?, &context(&asking)).ok()
}

/// The request of one call.
pub(super) fn build(
    file: &VendorFile,
    plan: &OperationPlan,
    fixed: &Fixed,
    (cx, message): (&Context, &DynamicMessage),
) -> Result<Request, Fault> {
    let asking = Asking {
        request: Record::Message(message),
        secret: Record::Secrets(&file.secrets),
        id: CelString::from(cx.local_id()),
        key: CelString::from(cx.idempotency_key()),
        attempt: CelInt::from(i64::from(cx.attempt())),
    };
    let context = context(&asking);
    let built = || {
        let url = match &fixed.url {
            Some(url) => url.clone(),
            None => varying_url(file, plan, &context)?,
        };
        let headers = headers(plan, fixed, &context)?;
        let body = body(&plan.request.body, &context)?;
        Ok(Request { method: plan.request.method.clone(), url, headers, body })
    };
    built().map_err(|what: String| wrong(file, plan, &what))
}

fn wrong(file: &VendorFile, plan: &OperationPlan, what: &str) -> Fault {
    let message = format!("the request to {} could not be built from the message: {what}", file.vendor);
    let origin = Origin { vendor: file.vendor.clone(), operation: plan.info.full_name(), ..Origin::default() };
    Fault::new(Code::InvalidArgument, Effect::None, Reason::RequestNotBuilt, message).with_origin(origin)
}

fn url(file: &VendorFile, path: &str) -> Result<Uri, String> {
    format!("{}{path}", file.base_url.as_str()).parse().map_err(|e| format!("not a URL: {e}"))
}

fn varying_url(file: &VendorFile, plan: &OperationPlan, context: &cel::Context<'_, '_>) -> Result<Uri, String> {
    let mut path = String::new();
    for part in plan.request.path.parts() {
        match part {
            Part::Text(text) => path.push_str(text),
            Part::Value(expression) => {
                let segment = text_of(expression, context)?;
                // An empty segment, or one of dots, would name another resource.
                if segment.is_empty() || segment.bytes().all(|b| b == b'.') {
                    return Err(format!("{}: {segment:?} is no part of a path", expression.place()));
                }
                text::path_segment(&segment, &mut path);
            }
        }
    }
    let query = pairs(&plan.request.query, context)?;
    if !query.is_empty() {
        path.push('?');
        path.push_str(&query);
    }
    url(file, &path)
}

fn headers(plan: &OperationPlan, fixed: &Fixed, context: &cel::Context<'_, '_>) -> Result<HeaderMap, String> {
    let mut headers = fixed.headers.clone();
    for (name, template) in fixed.varying.iter().map(|index| &plan.request.headers[*index]) {
        let mut value = header_value(name, &render(template, context)?)?;
        value.set_sensitive(template.names("secret"));
        headers.insert(name.clone(), value);
    }
    if let Some(plan) = &plan.idempotency {
        headers.insert(plan.header.clone(), key(plan, context)?);
    }
    Ok(headers)
}

fn header_value(name: &HeaderName, text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text)
        .map_err(|_| format!("the value of the header {name} holds a character that none may hold"))
}

/// The key, at most 255 characters of visible ASCII: another one is replaced by its SHA-256.
fn key(plan: &IdempotencyPlan, context: &cel::Context<'_, '_>) -> Result<HeaderValue, String> {
    let text = text_of(&plan.value, context)?;
    if text.is_empty() {
        return Err(format!("{}: the idempotency key is empty", plan.value.place()));
    }
    let mut key = vendor_key(text);
    if plan.quoted {
        key = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
    }
    header_value(&plan.header, &key)
}

fn render(template: &Template, context: &cel::Context<'_, '_>) -> Result<String, String> {
    let mut out = String::new();
    for part in template.parts() {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Value(expression) => out.push_str(&text_of(expression, context)?),
        }
    }
    Ok(out)
}

fn text_of(expression: &Expression, context: &cel::Context<'_, '_>) -> Result<String, String> {
    let value = expression.evaluate(context)?;
    let text = text::plain(value.as_ref()).map(std::borrow::Cow::into_owned);
    text.ok_or_else(|| {
        format!("{}: a value of the type {}, expected text", expression.place(), value.get_type().name())
    })
}

fn pairs(plan: &[(String, Expression)], context: &cel::Context<'_, '_>) -> Result<String, String> {
    let mut out = String::new();
    for (key, expression) in plan {
        let value = expression.evaluate(context)?;
        text::pair(key, value.as_ref(), &mut out).map_err(|what| format!("{}: {what}", expression.place()))?;
    }
    Ok(out)
}

fn body(plan: &BodyPlan, context: &cel::Context<'_, '_>) -> Result<Bytes, String> {
    match plan {
        BodyPlan::None => Ok(Bytes::new()),
        BodyPlan::Form(plan) => Ok(pairs(plan, context)?.into()),
        BodyPlan::Json(plan) => {
            let mut out = Vec::with_capacity(256);
            tree(plan, context, &mut out)?;
            Ok(out.into())
        }
    }
}

fn tree(plan: &Json, context: &cel::Context<'_, '_>, out: &mut Vec<u8>) -> Result<(), String> {
    match plan {
        Json::Value(expression) => {
            let value = expression.evaluate(context)?;
            json::write(value.as_ref(), out).map_err(|what| format!("{}: {what}", expression.place()))
        }
        Json::List(items) => json::join(b"[]", items.iter(), out, |item, out| tree(item, context, out)),
        Json::Object(entries) => json::join(b"{}", entries.iter(), out, |(key, value), out| {
            json::string(key, out)?;
            out.push(b':');
            tree(value, context, out)
        }),
    }
}

/// Replaces every secret in a text that came from outside: some vendors quote the credential that they refuse.
pub(super) fn redact(file: &VendorFile, text: String) -> String {
    file.secrets
        .values()
        .map(secrecy::SecretString::expose_secret)
        .fold(text, |text, secret| if text.contains(secret) { text.replace(secret, "[secret]") } else { text })
}
