//! The Stripe-like vendor: form-encoded charges, and answers in its shape.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, header};
use serde_json::json;
use url::form_urlencoded;

use crate::answer::{self, Reply};
use crate::book::{Effect, Outcome, Rule, Wish};
use crate::desk::{Manners, Refused, Verdict};

/// Longest body that is read, in bytes.
pub(crate) const BODY_LIMIT: usize = 1 << 20;
/// Largest amount of one charge, in minor units.
const LARGEST_AMOUNT: i64 = 99_999_999;
/// Cards that the bank declines.
const DECLINED_SOURCES: [&str; 2] = ["tok_chargeDeclined", "tok_chargeDeclinedInsufficientFunds"];
/// Parameters of a charge; others are refused.
const PARAMS: [&str; 16] = [
    "amount",
    "application_fee_amount",
    "capture",
    "currency",
    "customer",
    "description",
    "expand",
    "metadata",
    "on_behalf_of",
    "radar_options",
    "receipt_email",
    "shipping",
    "source",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_group",
];

pub(crate) const MANNERS: Manners = Manners { compares_params: true, stores_refusals: false };

static NOT_A_FORM: Rule =
    rule("", "Invalid request: the body must be a form (Content-Type: application/x-www-form-urlencoded).");
static MISSING: Rule = rule("parameter_missing", "Missing required param.");
static UNKNOWN: Rule = rule("parameter_unknown", "Received unknown parameter.");
static NO_INTEGER: Rule = rule("parameter_invalid_integer", "Invalid positive integer.");
static TOO_SMALL: Rule = rule("amount_too_small", "Amount must be greater than or equal to the minimum charge amount.");
static TOO_LARGE: Rule = rule("amount_too_large", "Amount must be no more than 999,999.99.");
static NO_CURRENCY: Rule = rule("", "Invalid currency: it must be three letters.");
static BODY_TOO_LARGE: Rule = Rule { status: 413, code: "", param: "", message: "The request's body is too large." };

const fn rule(code: &'static str, message: &'static str) -> Rule {
    Rule { status: 400, code, param: "", message }
}

fn refused(rule: &'static Rule, param: &str) -> Refused {
    Refused { rule, param: Some(param.to_owned()) }
}

/// Reads a charge. Gives a stand-in of its parameters as well, the same for any order of them.
pub(crate) fn parse(headers: &HeaderMap, body: Option<&[u8]>, min_amount: i64) -> (u64, Result<Wish, Refused>) {
    let Some(body) = body else { return (0, Err(refused(&BODY_TOO_LARGE, ""))) };
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    if !is_form {
        return (answer::fingerprint([body]), Err(refused(&NOT_A_FORM, "")));
    }
    let pairs: BTreeMap<_, _> = form_urlencoded::parse(body).collect();
    let params = answer::fingerprint(pairs.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
    (params, charge(&pairs, min_amount))
}

type Pairs<'a> = BTreeMap<std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>>;

fn charge(pairs: &Pairs<'_>, min_amount: i64) -> Result<Wish, Refused> {
    for name in pairs.keys() {
        let top = name.split('[').next().unwrap_or(name);
        if !PARAMS.contains(&top) {
            return Err(refused(&UNKNOWN, name));
        }
    }
    let currency = currency(pairs.get("currency"))?;
    let source = pairs.get("source").map_or("", AsRef::as_ref);
    let metadata: BTreeMap<&str, &str> =
        pairs.iter().filter_map(|(name, value)| Some((metadata_name(name)?, value.as_ref()))).collect();
    Ok(Wish {
        order: metadata.get("order").map(|order| (*order).to_owned()),
        amount: amount(pairs.get("amount"), min_amount)?,
        currency,
        rest: rest(&metadata, pairs.get("description").map(AsRef::as_ref)),
        declined: DECLINED_SOURCES.contains(&source),
    })
}

fn metadata_name(name: &str) -> Option<&str> {
    name.strip_prefix("metadata[")?.strip_suffix(']')
}

fn amount(text: Option<&std::borrow::Cow<'_, str>>, min_amount: i64) -> Result<i64, Refused> {
    let text = text.ok_or_else(|| refused(&MISSING, "amount"))?;
    let amount: i64 = text.parse().map_err(|_| refused(&NO_INTEGER, "amount"))?;
    match amount {
        ..0 => Err(refused(&NO_INTEGER, "amount")),
        small if small < min_amount => Err(refused(&TOO_SMALL, "amount")),
        large if large > LARGEST_AMOUNT => Err(refused(&TOO_LARGE, "amount")),
        fine => Ok(fine),
    }
}

fn currency(text: Option<&std::borrow::Cow<'_, str>>) -> Result<[u8; 3], Refused> {
    let text = text.ok_or_else(|| refused(&MISSING, "currency"))?.to_ascii_lowercase();
    match <[u8; 3]>::try_from(text.as_bytes()) {
        Ok(letters) if letters.iter().all(u8::is_ascii_lowercase) => Ok(letters),
        _ => Err(refused(&NO_CURRENCY, "currency")),
    }
}

/// What the answer repeats beyond amount, currency and order: nothing to remember for the plainest charge.
/// The metadata stand here only if they hold more than the order.
fn rest(metadata: &BTreeMap<&str, &str>, description: Option<&str>) -> Option<Box<str>> {
    let plain = metadata.keys().all(|name| *name == "order");
    match (plain, description) {
        (true, None) => None,
        (true, Some(_)) => Some(format!("\"description\":{}", json!(description)).into()),
        (false, _) => Some(format!("\"description\":{},\"metadata\":{}", json!(description), json!(metadata)).into()),
    }
}

/// The members that follow the charge's own, from what [`rest`] left to remember.
fn members(effect: &Effect) -> String {
    let rest = effect.rest.as_deref().unwrap_or("\"description\":null");
    // A description ends as a string or null, metadata with their brace.
    if rest.ends_with('}') {
        return rest.to_owned();
    }
    let metadata = effect.order.as_deref().map_or_else(|| json!({}), |order| json!({ "order": order }));
    format!("{rest},\"metadata\":{metadata}")
}

/// The id of the effect at `index` in the book's life `life`.
pub(crate) fn id(life: u32, index: u32) -> String {
    format!("ch_sim{life:08x}{index:013x}")
}

/// The index in `id`, if it is of this life.
pub(crate) fn index(life: u32, id: &str) -> Option<u32> {
    let rest = id.strip_prefix("ch_sim")?;
    let (of_life, index) = rest.split_at_checked(8)?;
    (u32::from_str_radix(of_life, 16).ok()? == life).then_some(())?;
    u32::from_str_radix(index, 16).ok()
}

/// A charge as the vendor shows it; always the same text for the same charge.
pub(crate) fn shown(id: &str, effect: &Effect) -> String {
    let currency = std::str::from_utf8(&effect.currency).unwrap_or("");
    let rest = members(effect);
    format!(
        "{{\"id\":\"{id}\",\"object\":\"charge\",\"amount\":{},\"captured\":true,\"created\":{},\
         \"currency\":\"{currency}\",\"livemode\":false,\"paid\":true,\"status\":\"succeeded\",{rest}}}",
        effect.amount, effect.created_s
    )
}

/// A list of charges, as a look-up is answered.
pub(crate) fn list(charges: &[String]) -> Reply {
    let data = charges.join(",");
    answer::json(200, format!("{{\"object\":\"list\",\"url\":\"/v1/charges\",\"has_more\":false,\"data\":[{data}]}}"))
}

/// The answer that says `verdict`; `charge` is the effect's text where there is one.
pub(crate) fn render(verdict: &Verdict, charge: Option<String>) -> Reply {
    match verdict {
        Verdict::Unauthenticated => unauthenticated(),
        Verdict::Unavailable => error(503, "api_error", "", "", "The service is unavailable for the moment."),
        Verdict::Throttled(wait_s) => throttled(*wait_s),
        Verdict::Mismatch => error(
            400,
            "idempotency_error",
            "",
            "",
            "Keys for idempotent requests can only be used with the same parameters they were first used with.",
        ),
        Verdict::InFlight => error(
            409,
            "invalid_request_error",
            "idempotency_key_in_use",
            "",
            "There is currently another in-progress request using this Idempotent Key.",
        ),
        Verdict::Refused(Refused { rule, param }) => refusal(rule, param.as_deref()),
        Verdict::Ended { outcome, replayed, .. } => {
            let mut reply = ended(*outcome, charge);
            if *replayed {
                reply.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
            }
            reply
        }
    }
}

/// The answer for a charge or path that doesn't exist.
pub(crate) fn missing(message: &str) -> Reply {
    error(404, "invalid_request_error", "resource_missing", "id", message)
}

fn ended(outcome: Outcome, charge: Option<String>) -> Reply {
    match (outcome, charge) {
        (Outcome::Done, Some(charge)) => answer::json(200, charge),
        (Outcome::Declined, _) => answer::value(
            402,
            &json!({"error": {
                "type": "card_error", "code": "card_declined", "decline_code": "generic_decline",
                "message": "Your card was declined.",
            }}),
        ),
        (Outcome::Refused(rule), _) => refusal(rule, None),
        (Outcome::Done | Outcome::Failed, _) => error(500, "api_error", "", "", "An error occurred on our side."),
    }
}

fn refusal(rule: &Rule, param: Option<&str>) -> Reply {
    error(rule.status, "invalid_request_error", rule.code, param.unwrap_or(rule.param), rule.message)
}

fn unauthenticated() -> Reply {
    let mut reply = error(401, "invalid_request_error", "", "", "Invalid API Key provided, or none.");
    reply.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Stripe\""));
    reply
}

fn throttled(wait_s: u64) -> Reply {
    let mut reply = error(429, "invalid_request_error", "rate_limit", "", "Too many requests.");
    if wait_s > 0 {
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
    }
    reply.headers_mut().insert("stripe-rate-limited-reason", HeaderValue::from_static("global-rate"));
    reply
}

fn error(status: u16, kind: &str, code: &str, param: &str, message: &str) -> Reply {
    let mut error = json!({"type": kind, "message": message});
    for (name, text) in [("code", code), ("param", param)] {
        if !text.is_empty() {
            error[name] = text.into();
        }
    }
    answer::value(status, &json!({ "error": error }))
}
