//! The text that comes out, read line by line.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::fault::{Code, Effect, Fault, Reason};

/// A sample: its name, its labels, its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads one sample by the grammar of OpenMetrics, strictly.
fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(name.starts_with("mesh_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value_on) = rest.split_once("=\"").unwrap();
            let (value, after) = quoted(value_on);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = &value_on[after..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    (name.to_owned(), labels, rest.strip_prefix(' ').unwrap().parse().unwrap())
}

/// A value up to its closing quote, and where what follows begins.
fn quoted(text: &str) -> (String, usize) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, at + 1),
            '\\' => value.push(match chars.next().unwrap().1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                c => panic!("\\{c} is no escape"),
            }),
            c => value.push(c),
        }
    }
    panic!("no closing quote in {text}")
}

fn samples(metrics: &Metrics) -> Vec<Sample> {
    let text = metrics.encode();
    assert!(text.ends_with("# EOF\n"));
    text.lines()
        .filter(|line| match line.strip_prefix("# ") {
            Some(comment) => {
                let word = comment.split(' ').next().unwrap();
                assert!(["HELP", "TYPE", "UNIT", "EOF"].contains(&word), "{line}");
                false
            }
            None => true,
        })
        .map(sample)
        .collect()
}

fn value(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    samples(metrics).into_iter().find(|(n, l, _)| n == name && *l == wanted).map(|(_, _, v)| v)
}

fn fault(code: Code, reason: Reason) -> Fault {
    Fault::new(code, Effect::None, reason, "test")
}

#[test]
fn everything_is_counted_under_its_name() {
    let metrics = Metrics::new();
    let publisher = metrics.publisher("shop.v1.OrderPlaced");
    let unconfirmed = fault(Code::Unavailable, Reason::PublishUnconfirmed);
    publisher.published(Ok(()));
    publisher.clone().published(Ok(()));
    publisher.published(Err(&unconfirmed));
    let operation = metrics.operation("shop.v1.Payments/Charge");
    operation.called(Ok(()), Duration::from_millis(3));
    operation.called(Err(&unconfirmed), Duration::from_secs(90));
    operation.call_retried(true);
    operation.call_retried(false);
    operation.call_retried(false);
    operation.served(Ok(()), Duration::from_millis(1));
    operation.enqueued(Ok(()));
    let vendor = metrics.vendor("stripe", "charge");
    vendor.called(402, Duration::from_millis(40));
    vendor.called(0, Duration::from_secs(5));
    vendor.called(999, Duration::from_secs(5));
    metrics.denied("publish");
    metrics.deletion_not_believed("mesh1-lane-a");
    metrics.copies_stored_anew("mesh1-lane-a", 3);
    metrics.reconnected();

    let message = ("message", "shop.v1.OrderPlaced");
    let op = ("operation", "shop.v1.Payments/Charge");
    let stripe = [("vendor", "stripe"), ("operation", "charge")];
    for (name, labels, expected) in [
        ("mesh_published_total", vec![message, ("result", "ok")], 2.0),
        ("mesh_published_total", vec![message, ("result", "MESH-0014")], 1.0),
        ("mesh_calls_total", vec![op, ("code", "OK")], 1.0),
        ("mesh_calls_total", vec![op, ("code", "UNAVAILABLE")], 1.0),
        ("mesh_call_retries_total", vec![op, ("what", "made")], 1.0),
        ("mesh_call_retries_total", vec![op, ("what", "budget_spent")], 2.0),
        ("mesh_served_total", vec![op, ("code", "OK")], 1.0),
        ("mesh_enqueued_total", vec![op, ("result", "ok")], 1.0),
        ("mesh_call_duration_seconds_count", vec![op], 2.0),
        ("mesh_call_duration_seconds_sum", vec![op], 90.003),
        ("mesh_call_duration_seconds_bucket", vec![op, ("le", "0.0025")], 0.0),
        ("mesh_call_duration_seconds_bucket", vec![op, ("le", "0.005")], 1.0),
        ("mesh_call_duration_seconds_bucket", vec![op, ("le", "60.0")], 1.0),
        ("mesh_call_duration_seconds_bucket", vec![op, ("le", "+Inf")], 2.0),
        ("mesh_vendor_calls_total", [&stripe[..], &[("status", "402")]].concat(), 1.0),
        ("mesh_vendor_calls_total", [&stripe[..], &[("status", "none")]].concat(), 1.0),
        ("mesh_vendor_calls_total", [&stripe[..], &[("status", "999")]].concat(), 1.0),
        ("mesh_vendor_call_duration_seconds_count", stripe.to_vec(), 3.0),
        ("mesh_denied_total", vec![("what", "publish")], 1.0),
        ("mesh_deletions_not_believed_total", vec![("stream", "mesh1-lane-a")], 1.0),
        ("mesh_copies_stored_anew_total", vec![("stream", "mesh1-lane-a")], 3.0),
        ("mesh_reconnects_total", vec![], 1.0),
    ] {
        assert_eq!(value(&metrics, name, &labels), Some(expected), "{name} {labels:?}\n{}", metrics.encode());
    }
}

#[test]
fn a_bucket_holds_its_own_bound() {
    let metrics = Metrics::new();
    metrics.operation("o").served(Ok(()), Duration::from_millis(5));
    let at = |le| value(&metrics, "mesh_serving_duration_seconds_bucket", &[("operation", "o"), ("le", le)]);
    assert_eq!((at("0.0025"), at("0.005")), (Some(0.0), Some(1.0)));
}

#[test]
fn deliveries_are_in_flight_until_dropped_and_settled_four_ways() {
    let metrics = Metrics::new();
    let consumer = metrics.consumer("charge");
    let name = ("consumer", "charge");
    let gauge = || value(&metrics, "mesh_in_flight", &[name]);
    let (first, second) = (consumer.begin(), consumer.begin());
    assert_eq!(gauge(), Some(2.0));
    drop(first);
    assert_eq!(gauge(), Some(1.0));
    drop(second);
    assert_eq!(gauge(), Some(0.0));
    for how in [How::Accept, How::Delay, How::DeadLetter, How::Release] {
        consumer.settled(how, Duration::ZERO);
        assert_eq!(value(&metrics, "mesh_settled_total", &[name, ("how", how.as_str())]), Some(1.0));
    }
    for reason in Reason::ALL {
        consumer.dead_letter(*reason);
        assert_eq!(value(&metrics, "mesh_dead_letters_total", &[name, ("reason", reason.code())]), Some(1.0));
    }
}

#[test]
fn every_code_has_a_case_of_its_own() {
    let metrics = Metrics::new();
    let operation = metrics.operation("o");
    for number in 1..=16 {
        let code = Code::try_from(number).unwrap();
        operation.called(Err(&fault(code, Reason::HandlerRefused)), Duration::ZERO);
        let label = code.as_str_name().strip_prefix("CODE_").unwrap();
        assert_eq!(value(&metrics, "mesh_calls_total", &[("operation", "o"), ("code", label)]), Some(1.0), "{label}");
    }
}

#[test]
fn labels_are_escaped() {
    let metrics = Metrics::new();
    let awkward = "a\"b\\c\nd{e},f=\"g\" 1\n# EOF";
    metrics.publisher(awkward).published(Ok(()));
    assert_eq!(value(&metrics, "mesh_published_total", &[("message", awkward), ("result", "ok")]), Some(1.0));
}

#[test]
fn series_over_the_cap_become_other() {
    let metrics = Metrics::with_cap(3);
    for n in 0..10 {
        metrics.publisher(&format!("m{n}")).published(Ok(()));
    }
    metrics.publisher("m0").published(Ok(()));
    let published: Vec<_> = samples(&metrics).into_iter().filter(|(n, _, _)| n == "mesh_published_total").collect();
    assert_eq!(published.len(), 4);
    let of = |message, result| value(&metrics, "mesh_published_total", &[("message", message), ("result", result)]);
    assert_eq!((of("m0", "ok"), of("m3", "ok"), of("other", "other")), (Some(2.0), None, Some(7.0)));
}

#[test]
fn nothing_is_lost_when_many_threads_count() {
    let metrics = Metrics::new();
    let operation = metrics.operation("o");
    std::thread::scope(|threads| {
        for _ in 0..4 {
            let operation = operation.clone();
            threads.spawn(move || (0..1000).for_each(|_| operation.called(Ok(()), Duration::from_millis(1))));
        }
    });
    assert_eq!(value(&metrics, "mesh_calls_total", &[("operation", "o"), ("code", "OK")]), Some(4000.0));
    assert_eq!(value(&metrics, "mesh_call_duration_seconds_sum", &[("operation", "o")]), Some(4.0));
}
