//! `retry` and `isolate_by`: what a file says is what is read, and what is wrong is said with its place.

use std::time::Duration;

use super::{
    VendorFile, load,
    tests::{STRIPE, environment, pool},
};
use crate::{
    config::{Problems, duration},
    policy::{budget::BudgetRule, retry::RetryRule},
};

/// The shop's file with `retry` at the top and with lines of the operation.
fn with(top: &str, operation: &str) -> Result<VendorFile, Problems> {
    let text = STRIPE.replacen("operations:\n", &format!("{top}operations:\n"), 1);
    let text = text.replacen("    request:\n", &format!("{operation}    request:\n"), 1);
    load("stripe.yaml", &text, &environment(), &pool())
}

fn rule(top: &str, operation: &str) -> RetryRule {
    let file = with(top, operation).unwrap_or_else(|problems| panic!("{problems}"));
    file.operations[0].retry.clone()
}

fn time(text: &str) -> Duration {
    duration::parse(text).unwrap()
}

#[test]
fn what_is_not_said_is_the_default_of_every_consumer() {
    assert_eq!(rule("", ""), RetryRule::default());
    assert_eq!(with("", "").unwrap().retry_budget, BudgetRule::default());
    assert_eq!(rule("retry: {}\n", "    retry: {}\n"), RetryRule::default());
}

#[test]
fn what_the_operation_says_replaces_what_the_vendor_says_key_by_key() {
    let vendors = "retry: {attempts: 8, first_delay: 2s, longest_delay: 2m, max_age: 12h}\n";
    let of = |max_attempts, base, cap, max_age| RetryRule {
        max_attempts,
        base: time(base),
        cap: time(cap),
        max_age: time(max_age),
    };
    for (operation, expected) in [
        ("", of(8, "2s", "2m", "12h")),
        ("    retry: {attempts: 1}\n", of(1, "2s", "2m", "12h")),
        ("    retry: {first_delay: 1ms, max_age: 1h}\n", of(8, "1ms", "2m", "1h")),
        ("    retry: {longest_delay: 24h, attempts: 1000}\n", of(1000, "2s", "24h", "12h")),
    ] {
        assert_eq!(rule(vendors, operation), expected, "{operation}");
    }
}

#[test]
fn a_default_gives_way_to_what_is_said() {
    assert_eq!(rule("retry: {longest_delay: 100ms}\n", "").base, time("100ms"));
    assert_eq!(rule("retry: {first_delay: 5m}\n", "").cap, time("5m"));
}

#[test]
fn work_is_not_tried_when_the_vendor_may_have_forgotten_its_key() {
    let short = STRIPE.replacen("retention: 24h", "retention: 1h", 1);
    let file = load("stripe.yaml", &short, &environment(), &pool()).unwrap();
    assert_eq!(file.operations[0].retry.max_age, time("1h"), "no longer than the key is remembered");
    let operation = "    retry: {max_age: 2d}\n";
    for (problems, line) in
        [(with("", operation).unwrap_err(), 10), (with("retry: {max_age: 2d}\n", "").unwrap_err(), 8)]
    {
        let said = problems.to_string();
        assert!(said.starts_with(&format!("stripe.yaml:{line}:")), "{said}");
        for part in ["retry.max_age is 2d", "the key of shop.payments.v1.Payments/Charge after 24h", "could act twice"]
        {
            assert!(said.contains(part), "{said}");
        }
    }
}

#[test]
fn the_budget_is_the_vendors() {
    let budget = with("retry: {budget: {share: 0.05, burst: 20}}\n", "").unwrap().retry_budget;
    assert_eq!(budget, BudgetRule { share: 0.05, burst: 20.0, ..BudgetRule::default() });
    assert_eq!(with("retry: {budget: {share: 1, per_second: 0}}\n", "").unwrap().retry_budget.share, 1.0);
}

#[test]
fn a_target_is_named_by_the_request() {
    assert!(with("", "    isolate_by: request.customer_id\n").unwrap().operations[0].isolate_by.is_some());
    let said = with("", "    isolate_by: request.customer\n").unwrap_err().to_string();
    assert!(
        said.starts_with("stripe.yaml:10:25: ") && said.contains("ChargeRequest has no field \"customer\""),
        "{said}"
    );
    let said = with("", "    isolate_by: key\n").unwrap_err().to_string();
    assert!(said.contains("unknown name \"key\""), "{said}");
}

/// The value stands in `retry` at the top, at line 8; what is wrong is the second text.
#[test]
fn what_is_wrong_is_said_with_its_place_and_its_path() {
    for (given, at, said) in [
        ("{attempts: 0}", "0", "retry.attempts is 0, expected a whole number from 1 (no retry) to 1000"),
        ("{attempts: 1001}", "1001", "retry.attempts is 1001"),
        ("{attempts: -1}", "-1", "retry.attempts is -1"),
        ("{attempts: 2.5}", "2.5", "retry.attempts is 2.5"),
        ("{attempts: many}", "many", "retry.attempts is text"),
        ("{atempts: 2}", "atempts", "unknown key \"atempts\" (did you mean \"attempts\"?)"),
        ("{first_delay: 0s}", "0s", "retry.first_delay is 0ms, expected 1ms to 24h"),
        ("{first_delay: 5}", "5", "retry.first_delay: not a duration"),
        ("{longest_delay: 25h}", "25h", "retry.longest_delay is 25h, expected 1ms to 24h"),
        ("{max_age: 999ms}", "999ms", "retry.max_age is 999ms, expected 1s to 30d"),
        ("{max_age: 31d}", "31d", "retry.max_age is 31d, expected 1s to 30d"),
        ("{first_delay: 2s, longest_delay: 1s}", "2s", "retry.first_delay is 2s, longer than retry.longest_delay, 1s"),
        ("{budget: 0.2}", "0.2", "a number, expected a mapping: share, per_second, burst"),
        ("{budget: {share: 1.5}}", "1.5", "retry.budget.share is 1.5, expected a number from 0 to 1"),
        ("{budget: {share: .nan}}", ".nan", "non-finite float"),
        ("{budget: {per_second: -1}}", "-1", "retry.budget.per_second is -1, expected a number from 0 to 10000"),
        ("{budget: {burst: 0}}", "0", "retry.budget.burst is 0, expected a number from 1 to 100000"),
        ("{budget: {brust: 5}}", "brust", "did you mean \"burst\"?"),
        ("5", "5", "a number, expected a mapping: attempts, first_delay"),
    ] {
        let top = format!("retry: {given}\n");
        let column = top.find(at).unwrap() + 1;
        let problems = with(&top, "").unwrap_err();
        assert_eq!(problems.0.len(), 1, "{given}: {problems}");
        let line = problems.to_string();
        assert!(line.starts_with(&format!("stripe.yaml:8:{column}: ")) && line.contains(said), "{given}: {line}");
    }
}

#[test]
fn an_operations_errors_name_the_operation() {
    let path = "operations.shop.payments.v1.Payments/Charge.retry";
    for (given, at, said) in [
        ("{attempts: 0}", "0", format!("{path}.attempts is 0")),
        ("{max_age: soon}", "soon", format!("{path}.max_age: not a duration")),
        ("{longest_delay: 1s}", "1s", "retry.first_delay is 2s, longer than retry.longest_delay, 1s".to_owned()),
        ("{budget: {share: 0.1}}", "{share", "expected it under \"retry\" at the top".to_owned()),
    ] {
        let operation = format!("    retry: {given}\n");
        let place = format!("stripe.yaml:11:{}: ", operation.find(at).unwrap() + 1);
        let problems = with("retry: {first_delay: 2s}\n", &operation).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{given}: {problems}");
        let line = problems.to_string();
        assert!(line.starts_with(&place) && line.contains(&said), "{given}: {line}, not {place}");
    }
}
