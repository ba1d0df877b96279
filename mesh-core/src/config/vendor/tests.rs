//! Wrong files, and what is said about them.

use std::{path::PathBuf, time::Duration};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    config::{Kind, Problems},
    fault::{Fault, Reason},
};

/// The shop's contracts, compiled here.
pub(crate) fn pool() -> DescriptorPool {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let files = ["shop/payments/v1/payments.proto", "shop/notifications/v1/notifications.proto"];
    let mut compiler = protox::Compiler::new([root.join("shop/proto"), root.join("mesh/proto")]).unwrap();
    compiler.include_imports(true).open_files(files).unwrap();
    compiler.descriptor_pool()
}

pub(crate) const STRIPE: &str = include_str!("../../../../services/shop/vendors/stripe.yaml");
pub(crate) const COURIER: &str = include_str!("../../../../services/shop/vendors/courier.yaml");

pub(crate) fn environment() -> Environment {
    Environment::from_iter([("STRIPE_API_KEY", "sk_test_1"), ("COURIER_AUTH_TOKEN", "pk_test_1")])
}

fn problems(text: &str) -> Problems {
    load("stripe.yaml", text, &environment(), &pool()).unwrap_err()
}

#[test]
fn the_shops_files_load() {
    let stripe = load("stripe.yaml", STRIPE, &environment(), &pool()).unwrap();
    assert_eq!(stripe.base_url.as_str(), "https://api.stripe.com");
    let charge = &stripe.operations[0];
    assert_eq!(charge.info.full_name(), "shop.payments.v1.Payments/Charge");
    assert_eq!(charge.info.repeat, crate::contract::Repeat::Keyed);
    assert_eq!((charge.timeout, charge.quota.as_str()), (Duration::from_secs(20), "stripe"));
    assert_eq!(charge.idempotency.as_ref().unwrap().retention, Duration::from_secs(86_400));
    assert_eq!(load("courier.yaml", COURIER, &environment(), &pool()).unwrap().operations.len(), 1);
}

#[test]
fn the_environment_moves_the_base_url() {
    let environment = Environment::from_iter([("STRIPE_BASE_URL", "http://127.0.0.1:9"), ("STRIPE_API_KEY", "k")]);
    let stripe = load("stripe.yaml", STRIPE, &environment, &pool()).unwrap();
    assert_eq!((stripe.base_url.as_str(), stripe.base_url.port()), ("http://127.0.0.1:9", 9));
}

/// Replaces `from` in the shop's file, and expects one problem at the line where it stood.
#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (from, to, column, said) in [
        ("vendor: stripe", "vendro: stripe", 1, "unknown key \"vendro\" (did you mean \"vendor\"?)"),
        ("vendor: stripe", "vendor: Stripe Inc", 9, "not a name"),
        ("vendor: stripe", "vendor: [stripe]", 9, "a list, expected the vendor's name"),
        ("timeout: 20s", "timeout: 20", 10, "not a duration"),
        ("timeout: 20s", "timeout: soon", 10, "not a duration"),
        ("base_url: ${STRIPE_BASE_URL:-https://api.stripe.com}", "base_url: ${NO_SUCH}", 11, "NO_SUCH is not set"),
        ("${STRIPE_BASE_URL:-https://api.stripe.com}", "http://api.stripe.com", 11, "expected https"),
        ("Payments/Charge:", "Payments/Chagre:", 3, "did you mean \"shop.payments.v1.Payments/Charge\"?"),
        ("      method: POST", "      method: PSOT", 15, "unknown method \"PSOT\" (did you mean \"POST\"?)"),
        ("      method: POST", "      metod: POST", 7, "unknown key \"metod\" (did you mean \"method\"?)"),
        ("path: /v1/charges", "path: v1/charges", 13, "not a path"),
        ("path: /v1/charges", "path: /v1/{secret.api_key}", 18, "unknown name \"secret\""),
        ("{secret.api_key}", "{secret.api_kye}", 40, "declares no \"api_kye\" (did you mean \"api_key\"?)"),
        ("amount: request.amount_cents", "amount: request.amount", 25, "ChargeRequest has no field \"amount\""),
        ("amount: request.amount_cents", "amount: request.amount_cents +", 39, "not a CEL expression"),
        ("amount: request.amount_cents", "amount: reqest.amount_cents", 17, "unknown name \"reqest\""),
        ("amount: request.amount_cents", "amount: {a: 1}", 17, "a mapping, expected an expression"),
        ("      value: key", "      value: key + string(attempt)", 27, "unknown name \"attempt\""),
        ("      header: Idempotency-Key", "      header: Content-Length", 15, "not the name of a header"),
        ("retention: 24h", "retention: 24 hours", 18, "not a duration"),
        ("        is: declined", "        is: decline", 13, "unknown meaning \"decline\" (did you mean \"declined\"?)"),
        ("when: status == 402", "when: stauts == 402", 15, "unknown name \"stauts\" (did you mean \"status\"?)"),
        ("charge_id: body.id", "charge: body.id", 7, "ChargeReply has no field \"charge\""),
        ("request_id: headers", "request-id: headers", 5, "unknown key \"request-id\" (did you mean \"request_id\"?)"),
        ("  api_key: STRIPE_API_KEY", "  api_key: NOT_SET", 12, "expected it in the variable NOT_SET"),
    ] {
        assert!(STRIPE.contains(from), "{from}");
        let line =
            STRIPE[..STRIPE.find(from).unwrap()].lines().count() + usize::from(from.starts_with(['v', 't', 'b', ' ']));
        let found = problems(&STRIPE.replacen(from, to, 1));
        let hit = found.0.iter().find(|problem| problem.what.contains(said));
        let hit = hit.unwrap_or_else(|| panic!("{to}: {found}"));
        assert_eq!(hit.place.column, column, "{to}: {found}");
        assert!(hit.place.line.abs_diff(line) <= 1, "{to}: {found}, not line {line}");
        assert!(hit.to_string().starts_with(&format!("stripe.yaml:{}:{column}: ", hit.place.line)));
    }
}

#[test]
fn every_problem_is_said_at_once_and_in_order() {
    let text =
        STRIPE.replace("timeout: 20s", "timeout: 20").replace("is: declined", "is: no").replace("method: POST", "");
    let found = problems(&text);
    assert_eq!(found.0.len(), 3, "{found}");
    assert!(found.0.windows(2).all(|pair| pair[0].place <= pair[1].place), "{found}");
}

#[test]
fn a_keyed_operation_needs_a_key() {
    let start = STRIPE.find("    idempotency:").unwrap();
    let end = STRIPE.find("    answers:").unwrap();
    let found = problems(&format!("{}{}", &STRIPE[..start], &STRIPE[end..]));
    assert!(found.to_string().contains("no \"idempotency\" sends one"), "{found}");
}

#[test]
fn text_that_is_no_yaml_has_a_place_too() {
    for text in ["vendor: [", "vendor: a\nvendor: b\n", "\tvendor: a", "- a\n- b", "", "vendor: &a [*a]"] {
        let found = problems(text);
        assert!(found.to_string().starts_with("stripe.yaml:"), "{text}: {found}");
    }
}

#[test]
fn a_missing_secret_is_its_own_reason() {
    let found = load("stripe.yaml", STRIPE, &Environment::default(), &pool()).unwrap_err();
    assert!(found.0.iter().all(|problem| problem.kind == Kind::SecretMissing), "{found}");
    let fault = Fault::from(found);
    assert_eq!(fault.reason(), Reason::SecretMissing);
    assert!(fault.message().contains("STRIPE_API_KEY") && fault.message().contains("stripe.yaml:6:12"), "{fault}");
    assert_eq!(Fault::from(problems("vendor: 1")).reason(), Reason::InvalidFile);
}

#[test]
fn debug_shows_no_secret() {
    let stripe = load("stripe.yaml", STRIPE, &environment(), &pool()).unwrap();
    assert!(!format!("{stripe:?}").contains("sk_test_1"));
}

/// The published schema names the same keys as the reader.
#[test]
fn the_schema_is_in_step() {
    let schema: Value = serde_json::from_str(include_str!("../../../../docs/vendor-file.schema.json")).unwrap();
    let keys = |pointer: &str| -> Vec<String> {
        let at = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
        assert_eq!(at["additionalProperties"], Value::Bool(false), "{pointer}");
        let mut keys: Vec<_> = at["properties"].as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    for (pointer, known) in [
        ("", read::KEYS),
        ("/$defs/operation", operation::KEYS),
        ("/$defs/request", request::KEYS),
        ("/$defs/idempotency", request::IDEMPOTENCY_KEYS),
        ("/$defs/answer", answers::RULE_KEYS),
        ("/$defs/error", answers::ERROR_KEYS),
        ("/properties/retry", retry::KEYS),
        ("/properties/retry/properties/budget", retry::BUDGET_KEYS),
        ("/$defs/retry", &retry::KEYS[..4]),
    ] {
        let mut known: Vec<_> = known.iter().map(|key| (*key).to_owned()).collect();
        known.sort();
        assert_eq!(keys(pointer), known, "{pointer}");
    }
    let verdicts: Vec<_> = Verdict::ALL.iter().map(|(name, _)| Value::from(*name)).collect();
    assert_eq!(schema.pointer("/$defs/answer/properties/is/enum").unwrap(), &Value::from(verdicts));
    let methods = schema.pointer("/$defs/request/properties/method/enum").unwrap();
    assert_eq!(methods, &Value::from(request::METHODS.to_vec()));
}

/// Every key of the file is explained.
#[test]
fn the_manual_names_every_key() {
    let manual = include_str!("../../../../docs/adapters.md");
    let keys = [
        read::KEYS,
        operation::KEYS,
        retry::KEYS,
        retry::BUDGET_KEYS,
        request::KEYS,
        request::IDEMPOTENCY_KEYS,
        answers::RULE_KEYS,
        answers::ERROR_KEYS,
    ];
    for key in keys.concat() {
        assert!(manual.contains(&format!("`{key}`")), "docs/adapters.md does not name `{key}`");
    }
    for (name, _) in Verdict::ALL {
        assert!(manual.contains(&format!("`{name}`")), "docs/adapters.md does not name `{name}`");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A file with a piece cut out or repeated is read or refused, with places that lie in the file.
    #[test]
    fn damaged_files_never_panic(at in 0usize..1600, length in 0usize..40, twice: bool) {
        static POOL: std::sync::LazyLock<DescriptorPool> = std::sync::LazyLock::new(pool);
        let (at, end) = (at.min(STRIPE.len()), (at + length).min(STRIPE.len()));
        let text = format!("{}{}", &STRIPE[..if twice { end } else { at }], &STRIPE[if twice { at } else { end }..]);
        if let Err(problems) = load("f", &text, &environment(), &*POOL) {
            prop_assert!(!problems.0.is_empty());
            prop_assert!(problems.0.iter().all(|problem| problem.place.line <= text.lines().count() + 1), "{problems}");
        }
    }
}
