//! The Courier-like vendor: messages as JSON, accepted now and delivered later.

use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::{self, Reply};
use crate::book::{Outcome, Rule, Wish};
use crate::desk::{Manners, Refused, Verdict};

/// Longest body that is read, in bytes.
pub(crate) const BODY_LIMIT: usize = 6 << 20;

pub(crate) const MANNERS: Manners = Manners { compares_params: false, stores_refusals: true };

static NOT_JSON: Rule = rule("The body must be a JSON object with a `message`.");
static NO_RECIPIENT: Rule = rule("`message.to` must name an email, a phone_number or a user_id.");
static BAD_EMAIL: Rule = rule("`message.to.email` is not an address.");
static NO_CONTENT: Rule = rule("`message` needs a `template` or a `content`.");
static TOO_LARGE: Rule = Rule { status: 413, code: "", param: "", message: "The body is longer than 6 MB." };

const fn rule(message: &'static str) -> Rule {
    Rule { status: 400, code: "", param: "", message }
}

#[derive(Deserialize)]
struct Send {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    to: Option<Value>,
    template: Option<String>,
    content: Option<Value>,
    data: Option<About>,
    metadata: Option<About>,
}

#[derive(Deserialize)]
struct About {
    order: Option<Value>,
}

/// Reads a message. Gives a stand-in of its bytes as well.
pub(crate) fn parse(body: Option<&[u8]>) -> (u64, Result<Wish, Refused>) {
    let Some(body) = body else { return (0, Err(refused(&TOO_LARGE))) };
    (answer::fingerprint([body]), message(body).map_err(refused))
}

fn refused(rule: &'static Rule) -> Refused {
    Refused { rule, param: None }
}

fn message(body: &[u8]) -> Result<Wish, &'static Rule> {
    let Send { message } = serde_json::from_slice(body).map_err(|_| &NOT_JSON)?;
    match &message.to {
        Some(Value::Array(all)) if !all.is_empty() => all.iter().try_for_each(recipient)?,
        Some(one) => recipient(one)?,
        None => return Err(&NO_RECIPIENT),
    }
    if message.template.as_deref().is_none_or(str::is_empty) && message.content.is_none() {
        return Err(&NO_CONTENT);
    }
    let order = [message.data, message.metadata].into_iter().flatten().find_map(|about| about.order);
    Ok(Wish { order: order.and_then(text), ..Wish::default() })
}

fn recipient(to: &Value) -> Result<(), &'static Rule> {
    let named = |name| to.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match named("email") {
        Some(email) => match email.split_once('@') {
            Some((user, host)) if !user.is_empty() && !host.is_empty() && !host.contains('@') => Ok(()),
            _ => Err(&BAD_EMAIL),
        },
        None if named("user_id").or_else(|| named("phone_number")).is_some() => Ok(()),
        None => Err(&NO_RECIPIENT),
    }
}

fn text(order: Value) -> Option<String> {
    match order {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The id of the effect at `index` in the book's life `life`.
pub(crate) fn id(life: u32, index: u32) -> String {
    format!("1-{life:08x}-{index:024x}")
}

/// The answer that says `verdict`; `id` is the effect's where there is one.
pub(crate) fn render(verdict: &Verdict, id: Option<String>) -> Reply {
    match verdict {
        Verdict::Unauthenticated => error(401, "authentication_error", "Unauthorized"),
        Verdict::Unavailable => error(503, "api_error", "Service Unavailable"),
        Verdict::Throttled(wait_s) => throttled(*wait_s),
        Verdict::Mismatch | Verdict::InFlight => error(409, "conflict", "A request with this key is in progress."),
        Verdict::Refused(Refused { rule, .. }) => refusal(rule),
        Verdict::Ended { outcome, replayed, .. } => {
            let mut reply = ended(*outcome, id);
            if *replayed {
                reply.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
            }
            reply
        }
    }
}

fn ended(outcome: Outcome, id: Option<String>) -> Reply {
    match (outcome, id) {
        (Outcome::Done, Some(id)) => answer::value(202, &json!({ "requestId": id })),
        (Outcome::Refused(rule), _) => refusal(rule),
        (Outcome::Done | Outcome::Failed | Outcome::Declined, _) => error(500, "api_error", "Internal Server Error"),
    }
}

fn refusal(rule: &Rule) -> Reply {
    error(rule.status, "invalid_request_error", rule.message)
}

fn throttled(wait_s: u64) -> Reply {
    let mut reply = error(429, "rate_limit_error", "Too Many Requests");
    if wait_s > 0 {
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
    }
    reply
}

fn error(status: u16, kind: &str, message: &str) -> Reply {
    answer::value(status, &json!({"message": message, "type": kind}))
}
