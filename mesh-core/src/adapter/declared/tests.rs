//! The shop's two vendors: golden requests, and what their answers mean.

use std::time::{Duration, SystemTime};

use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use prost_reflect::DynamicMessage;

use crate::{
    adapter::{Declared, Vendor as _},
    clock::Deadline,
    config::{
        Environment,
        vendor::{
            self,
            tests::{COURIER, STRIPE, environment, pool},
        },
    },
    contract::{Context, Facts},
    envelope::TraceContext,
    fault::{Code, Effect, Fault, Reason},
    http::{Answer, BodyLost, Request},
};

pub(crate) fn context(key: &str, deadline: Option<Deadline>) -> Context {
    Context::new(Facts {
        message_id: "shop-payments/shop.payments.v1.ChargeRequest/7".into(),
        caller: "shop-payments".into(),
        idempotency_key: key.into(),
        attempt: 1,
        deadline,
        trace: TraceContext::from_ids(1, 2, true).unwrap(),
        fence: None,
        is_call: false,
    })
}

pub(crate) fn message(name: &str, json: &str) -> DynamicMessage {
    let descriptor = pool().get_message_by_name(name).unwrap();
    DynamicMessage::deserialize(descriptor, &mut serde_json::Deserializer::from_str(json)).unwrap()
}

pub(crate) fn charge() -> DynamicMessage {
    let json = r#"{"order_id": "7", "customer_id": "c 1", "amount_cents": "1999", "currency": "USD"}"#;
    message("shop.payments.v1.ChargeRequest", json)
}

fn declared(file: &str, text: &str) -> Declared {
    Declared::new(vendor::load(file, text, &environment(), &pool()).unwrap()).unwrap()
}

fn stripe() -> Declared {
    declared("stripe.yaml", STRIPE)
}

/// The request as it is written to the wire, but for the headers that hyper adds.
fn bytes(request: &Request) -> String {
    let mut lines: Vec<_> =
        request.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    format!("{} {}\n{}\n\n{}", request.method, request.url, lines.join("\n"), String::from_utf8_lossy(&request.body))
}

#[test]
fn stripes_golden_request() {
    let request = stripe().request(0, &context("shop/charge/7", None), &charge()).unwrap();
    assert_eq!(
        bytes(&request),
        "POST https://api.stripe.com/v1/charges\n\
         accept: application/json\n\
         authorization: Bearer sk_test_1\n\
         content-type: application/x-www-form-urlencoded\n\
         idempotency-key: shop/charge/7\n\
         stripe-version: 2025-09-30.clover\n\
         user-agent: mesh/0.1.0\n\n\
         amount=1999&currency=usd&metadata[order]=7&metadata[customer]=c+1"
    );
    assert!(request.headers["authorization"].is_sensitive());
}

#[test]
fn couriers_golden_request() {
    let json =
        r#"{"order_id": "7", "to": "a@b.example", "template": "placed", "data": {"total": "19.99", "order": "7\""}}"#;
    let message = message("shop.notifications.v1.SendRequest", json);
    let request = declared("courier.yaml", COURIER).request(0, &context("k", None), &message).unwrap();
    assert_eq!(
        bytes(&request),
        "POST https://api.courier.com/send\n\
         accept: application/json\n\
         authorization: Bearer pk_test_1\n\
         content-type: application/json\n\
         idempotency-key: k\n\
         user-agent: mesh/0.1.0\n\n\
         {\"message\":{\"to\":{\"email\":\"a@b.example\"},\"template\":\"placed\",\"data\":{\"order\":\"7\\\"\",\"total\":\"19.99\"}}}"
    );
}

#[test]
fn every_int64_is_exact() {
    for cents in [0, 1, 9_007_199_254_740_993, i64::MAX, i64::MIN] {
        let json = format!(r#"{{"amount_cents": "{cents}", "currency": "usd"}}"#);
        let request =
            stripe().request(0, &context("k", None), &message("shop.payments.v1.ChargeRequest", &json)).unwrap();
        assert!(request.body.starts_with(format!("amount={cents}&").as_bytes()), "{cents}");
    }
}

#[test]
fn keys_that_vendors_do_not_take_are_hashed() {
    let key = |key: &str| {
        let request = stripe().request(0, &context(key, None), &charge()).unwrap();
        request.headers["idempotency-key"].to_str().unwrap().to_owned()
    };
    assert_eq!(key(&"k".repeat(255)), "k".repeat(255));
    for strange in ["k".repeat(256), "a b".into(), "é".into(), "a\r\nb".into()] {
        let hashed = key(&strange);
        assert!(hashed.len() == 64 && hashed.bytes().all(|b| b.is_ascii_hexdigit()), "{strange}: {hashed}");
    }
    let fault = stripe().request(0, &context("", None), &charge()).unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::RequestNotBuilt, Effect::None));
}

#[test]
fn paths_queries_and_quoted_keys() {
    let text = STRIPE
        .replace(
            "path: /v1/charges",
            "path: /v1/{request.customer_id}/x\n      query: {order: request.order_id, gone: null}",
        )
        .replace("retention: 24h", "quoted: true");
    let request = declared("stripe.yaml", &text).request(0, &context("k\"", None), &charge()).unwrap();
    assert_eq!(request.url.to_string(), "https://api.stripe.com/v1/c%201/x?order=7");
    assert_eq!(request.headers["idempotency-key"], "\"k\\\"\"");
    for id in ["", ".", ".."] {
        let json = format!(r#"{{"customer_id": "{id}"}}"#);
        let message = message("shop.payments.v1.ChargeRequest", &json);
        let fault = declared("stripe.yaml", &text).request(0, &context("k", None), &message).unwrap_err();
        assert!(fault.message().contains("is no part of a path"), "{fault}");
    }
}

#[test]
fn a_header_takes_no_line_break_from_a_message() {
    let text = STRIPE.replace("Stripe-Version:", "X-Note: \"{request.description}\"\n        Stripe-Version:");
    let message = message("shop.payments.v1.ChargeRequest", r#"{"description": "a\r\nx-evil: 1"}"#);
    let fault = declared("stripe.yaml", &text).request(0, &context("k", None), &message).unwrap_err();
    assert_eq!(fault.reason(), Reason::RequestNotBuilt);
    assert!(!fault.to_string().contains("evil"), "{fault}");
}

fn interpret(
    vendor: &Declared,
    status: u16,
    headers: &[(&'static str, &str)],
    body: &'static str,
) -> Result<Bytes, Fault> {
    let headers = headers.iter().map(|(name, value)| (::http::HeaderName::from_static(name), value.parse().unwrap()));
    let answer = Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::from_iter(headers),
        body: Ok(Bytes::from_static(body.as_bytes())),
        took: Duration::ZERO,
    };
    vendor.interpret(0, &answer, SystemTime::UNIX_EPOCH)
}

#[test]
fn stripes_reply() {
    let reply = interpret(&stripe(), 200, &[], r#"{"id": "ch_1", "status": "succeeded", "amount": 1999}"#).unwrap();
    let descriptor = pool().get_message_by_name("shop.payments.v1.ChargeReply").unwrap();
    let reply = DynamicMessage::decode(descriptor, reply).unwrap();
    assert_eq!(reply.get_field_by_name("charge_id").unwrap().as_str(), Some("ch_1"));
    assert_eq!(reply.get_field_by_name("status").unwrap().as_str(), Some("succeeded"));
}

#[test]
fn couriers_reply() {
    let reply = interpret(&declared("courier.yaml", COURIER), 202, &[], r#"{"requestId": "1-a"}"#).unwrap();
    assert_eq!(reply, Bytes::from_static(b"\n\x031-a"));
}

#[test]
fn stripes_faults() {
    use Code::*;
    use Effect::{None as No, Unknown as May};
    const SMALL: &str =
        r#"{"error":{"type":"invalid_request_error","code":"amount_too_small","message":"Amount too small."}}"#;
    const CARD: &str =
        r#"{"error":{"type":"card_error","code":"card_declined","decline_code":"insufficient_funds","message":"No."}}"#;
    const KEY: &str =
        r#"{"error":{"type":"idempotency_error","message":"Keys can only be used with the same parameters."}}"#;
    for (status, body, code, effect, reason, vendor_code) in [
        (400, SMALL, InvalidArgument, No, Reason::VendorRefused, "amount_too_small"),
        (402, CARD, FailedPrecondition, No, Reason::VendorDeclined, "insufficient_funds"),
        (400, KEY, Internal, No, Reason::VendorStoredError, "idempotency_error"),
        (500, "<html>oops", Internal, May, Reason::VendorFailed, ""),
        (200, "<html>oops", DataLoss, May, Reason::VendorUnreadable, ""),
        (200, "", DataLoss, May, Reason::VendorUnreadable, ""),
        (200, r#"{"id": 5, "status": "x"}"#, DataLoss, May, Reason::VendorUnreadable, ""),
        (200, r#"{"status": "x"}"#, DataLoss, May, Reason::VendorUnreadable, ""),
    ] {
        let fault = interpret(&stripe(), status, &[("request-id", "req_1")], body).unwrap_err();
        assert_eq!((fault.code(), fault.effect(), fault.reason()), (code, effect, reason), "{status} {body}");
        let origin = fault.origin();
        assert_eq!((origin.vendor.as_str(), origin.vendor_code.as_str()), ("stripe", vendor_code), "{status} {body}");
        assert_eq!((origin.http_status, origin.request_id.as_str()), (status, "req_1"));
        assert_eq!(origin.operation, "shop.payments.v1.Payments/Charge");
    }
}

#[test]
fn a_lost_body_is_unknown_where_it_would_have_said_done_and_no_matter_elsewhere() {
    for (status, lost, code) in [
        (200, BodyLost::TooLarge(1), Code::DataLoss),
        (200, BodyLost::Broken, Code::Unavailable),
        (429, BodyLost::Broken, Code::ResourceExhausted),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer { status, headers: HeaderMap::new(), body: Err(lost), took: Duration::ZERO };
        assert_eq!(stripe().interpret(0, &answer, SystemTime::UNIX_EPOCH).unwrap_err().code(), code);
    }
}

#[test]
fn a_vendor_that_quotes_the_credential_does_not_leak_it() {
    let body = r#"{"error":{"code":"sk_test_1","message":"Invalid API Key: sk_test_1\nbye"}}"#;
    let fault = interpret(&stripe(), 401, &[], body).unwrap_err();
    assert_eq!(fault.detail(), "Invalid API Key: [secret] bye");
    assert!(!format!("{fault:?}{fault}").contains("sk_test_1"), "{fault:?}");
}

#[test]
fn throttling_may_be_said_with_200() {
    let text = STRIPE.replace("      - when: status == 402", "      - {when: \"status == 200 && body.errors.exists(e, e.code == 'THROTTLED')\", is: throttled}\n      - when: status == 402");
    let vendor = declared("stripe.yaml", &text);
    let fault = interpret(&vendor, 200, &[("retry-after", "2.0")], r#"{"errors":[{"code":"THROTTLED"}]}"#).unwrap_err();
    assert_eq!((fault.reason(), fault.retry_after()), (Reason::VendorThrottled, Some(Duration::from_secs(2))));
    assert!(interpret(&vendor, 200, &[], r#"{"id":"a","status":"b","errors":[]}"#).is_ok());
}

#[test]
fn secrets_are_needed_to_run_but_never_shown() {
    let missing = vendor::load("stripe.yaml", STRIPE, &Environment::default(), &pool()).unwrap_err();
    assert_eq!(Fault::from(missing).reason(), Reason::SecretMissing);
    let request = stripe().request(0, &context("k", None), &charge()).unwrap();
    assert!(!format!("{request:?}{:?}", stripe()).contains("sk_test_1"));
}
