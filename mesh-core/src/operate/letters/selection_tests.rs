//! What selections mean, letter by letter.

use prost::Message as _;
use prost_reflect::DescriptorPool;

use super::*;
use crate::{
    contract::Catalog,
    dead_letter::{Facts, LetterState},
    proto::v1,
};

const CONTRACT: &str = r#"
syntax = "proto3";
package t.v1;
message Line { string sku = 1; uint32 quantity = 2; }
message Bill {
  string bill_id = 1;
  int64 amount_cents = 2;
  uint64 big = 3;
  repeated Line lines = 4;
  map<string, string> tags = 5;
  optional string note = 6;
}
enum Size { SMALL = 0; LARGE = 1; }
message Parcel { string parcel_id = 1; int64 weight = 2; Size size = 3; }
message Letter { string weight = 1; uint32 pages = 2; double price = 3; }
message Reply {}
service Bills { rpc Pay(Bill) returns (Reply); rpc Send(Parcel) returns (Reply); rpc Post(Letter) returns (Reply); }
"#;

fn catalog() -> Catalog {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.proto"), CONTRACT).unwrap();
    let set = protox::compile(["t.proto"], [folder.path()]).unwrap();
    let set = set.encode_to_vec();
    let catalog = Catalog::new([crate::proto::DESCRIPTORS, set.as_slice()]).unwrap();
    assert!(DescriptorPool::decode(set.as_slice()).is_ok());
    catalog
}

const BILL: &str = r#"{"billId":"7","amountCents":"9007199254740993","big":"18446744073709551615",
    "lines":[{"sku":"A","quantity":2},{"sku":"B","quantity":9}],"tags":{"tier":"gold"}}"#;

fn letter() -> Letter {
    let payload = catalog().from_json("t.v1.Bill", BILL).unwrap().encode_to_vec();
    let fault = v1::Fault {
        code: v1::Code::Unavailable.into(),
        effect: v1::Effect::Unknown.into(),
        reason: "MESH-0107".into(),
        message: "order 17 failed".into(),
        origin: Some(v1::Origin { vendor: "stripe".into(), vendor_code: "api_error".into(), ..Default::default() }),
        ..Default::default()
    };
    let inner = v1::DeadLetter {
        id: "ab".repeat(16),
        service: "payments".into(),
        consumer: "pay".into(),
        message_type: "t.v1.Bills/Pay".into(),
        payload: payload.into(),
        headers: vec![v1::Header { name: "ce-type".into(), value: "bill".into() }],
        fault: Some(fault),
        captured_at_ms: 1_767_323_045_000,
        caller: "till".into(),
        ..Default::default()
    };
    Letter { letter: inner, state: LetterState::Open, history: Vec::new(), last_sequence: 1, region: "local".into() }
}

fn ask(condition: &str) -> Answer {
    let selection = Selection { condition: Some(condition.into()), ..Selection::default() };
    selection.compile(&catalog()).unwrap().ask(&letter())
}

#[test]
fn conditions_see_the_letter_its_headers_and_the_typed_payload() {
    for condition in [
        "letter.reason == 'MESH-0107' && letter.code == 'UNAVAILABLE' && letter.effect == 'UNKNOWN'",
        "letter.vendor == 'stripe' && letter.vendor_code.startsWith('api')",
        "letter.type.endsWith('Bills/Pay') && letter.service == 'payments' && letter.consumer == 'pay'",
        "letter.generation == 0 && letter.state == 'open' && !letter.parked && letter.key == ''",
        "letter.captured > timestamp('2026-01-02T03:04:04Z') && letter.captured < timestamp('2026-01-02T03:04:06Z')",
        "letter.captured + duration('1h') < timestamp('2026-01-02T05:00:00+00:00')",
        "letter.message.matches('order [0-9]+') && letter.caller == 'till'",
        "header['CE-Type'] == 'bill'",
        "payload.bill_id == '7'",
        "payload.amount_cents == 9007199254740993 && payload.amount_cents != 9007199254740992",
        "payload.big == 18446744073709551615u",
        "payload.lines.exists(line, line.sku == 'B' && line.quantity > 5u)",
        "payload.tags.tier in ['gold', 'silver'] && 'tier' in payload.tags && payload.tags['tier'] != ''",
        "payload.lines.map(l, l.sku) == ['A', 'B'] && payload.lines.filter(l, l.quantity == 2).size() == 1",
        "(letter.parked ? payload.bill_id : '7') == '7' && string(payload.amount_cents) != '' && payload.bill_id != null",
        "letter.captured.getFullYear() == 2026 && letter.captured - duration('1h') < letter.captured",
        "!has(payload.note) && has(payload.bill_id)",
        "'open' == letter.state",
    ] {
        assert_eq!(ask(condition), Answer::Yes, "{condition}");
    }
    for condition in ["payload.amount_cents > 9007199254740993", "header['absent'] == 'x'", "payload.tags.absent == ''"]
    {
        assert_eq!(ask(condition), Answer::No, "{condition}");
    }
}

/// A letter that carries this, to `t.v1.Bills/{method}`.
fn letter_of(method: &str, message: &str, json: &str) -> Letter {
    let mut letter = letter();
    letter.letter.message_type = format!("t.v1.Bills/{method}");
    letter.letter.payload = catalog().from_json(message, json).unwrap().encode_to_vec().into();
    letter
}

fn compiled(types: &[&str], condition: &str) -> Result<Selector, crate::fault::Fault> {
    let message_types = types.iter().map(|name| (*name).to_owned()).collect();
    Selection { message_types, condition: Some(condition.into()), ..Selection::default() }.compile(&catalog())
}

#[test]
fn what_can_never_be_equal_is_refused_where_it_stands() {
    for (types, condition, said) in [
        (
            &[][..],
            "payload.amount_cents > '5'",
            "--where:1:22: a number (payload.amount_cents) is compared with a text",
        ),
        (&[], "payload.amount_cents == '5'", "--where:1:22: a number (payload.amount_cents) is compared with a text"),
        (&["Bills/Pay"], "payload.amount_cents != '5'", "--where:1:22: a number"),
        (
            &[],
            "letter.vendor == 'x' || payload.bill_id == 7",
            "--where:1:41: a text (payload.bill_id) is compared with a number",
        ),
        (&[], "5u <= payload.bill_id", "--where:1:4: a number is compared with a text"),
        (&[], "letter.generation == '0'", "--where:1:19: a number (letter.generation) is compared with a text"),
        (&[], "letter.parked == 'true'", "--where:1:15: true or false"),
        (&[], "letter.captured > '2026-01-02'", "--where:1:17: a moment (letter.captured) is compared with a text"),
        (&[], "header['n'] == 5", "--where:1:13: a text is compared with a number"),
        (
            &[],
            "payload.lines.exists(l, l.quantity == '2')",
            "--where:1:36: a number (l.quantity) is compared with a text",
        ),
        (&[], "payload.lines[0].sku == 2", "--where:1:22: a text"),
        (&[], "size(payload.lines) == '2'", "--where:1:21: a number"),
        (&[], "payload.tags.tier == 1", "--where:1:19: a text"),
        (
            &[],
            "payload.amount_cents in ['5', '6']",
            "--where:1:22: a number (payload.amount_cents) is compared with a text",
        ),
        (&["Bills/Send"], "payload.size == 'LARGE'", "--where:1:14: an enum (payload.size) is compared with a text"),
        (
            &[],
            "letter.parked || payload.bill_id",
            "--where:1:15: a text (payload.bill_id) stands where true or false must",
        ),
        (&[], "payload.amount_cents + 1", "--where:1:1: it is a number, and must be true or false"),
        (&["Bills/Pay"], "payload.bill_id", "--where:1:1: it is a text, and must be true or false"),
        (&[], "payload.bill_id ==", "--where:1:19: not a CEL expression: it ends too soon"),
    ] {
        let fault = compiled(types, condition).map(|_| condition).unwrap_err();
        assert!(fault.message().starts_with(said) && fault.message().ends_with('^'), "{}", fault.message());
    }
    let size = compiled(&["Bills/Send"], "payload.size == 'LARGE'").unwrap_err();
    assert!(size.message().contains("SMALL = 0, LARGE = 1"), "{size}");
}

#[test]
fn numbers_of_all_kinds_are_compared_by_their_value() {
    let bill = letter();
    let letter = letter_of("Post", "t.v1.Letter", r#"{"weight":"9","pages":3,"price":2.5}"#);
    for (letter, condition) in [
        (&letter, "payload.pages == 3 && payload.pages == 3u && payload.pages == 3.0"),
        (&letter, "payload.pages > 2 && payload.pages < 3.5 && payload.pages >= 3u && payload.pages > -1"),
        (&letter, "payload.price > 2 && payload.price < 3u && payload.price != 2"),
        (&letter, "payload.pages in [1, 3]"),
        (&bill, "payload.big > 0 && payload.big > -1.5 && payload.big != 1"),
        (&bill, "payload.amount_cents > 1.5 && payload.amount_cents > 1u"),
        (&bill, "dyn(payload.amount_cents) != 'x'"),
    ] {
        assert_eq!(compiled(&[], condition).unwrap().ask(letter), Answer::Yes, "{condition}");
    }
}

#[test]
fn a_letter_whose_type_does_not_fit_a_comparison_is_not_judged() {
    let parcel = letter_of("Send", "t.v1.Parcel", r#"{"weight":"9"}"#);
    let letter = letter_of("Post", "t.v1.Letter", r#"{"weight":"9"}"#);
    for condition in ["payload.weight == 9", "payload.weight != 8", "payload.weight in [8, 9]", "payload.weight >= 9"] {
        let selector = compiled(&[], condition).unwrap();
        assert_eq!(selector.ask(&parcel), Answer::Yes, "{condition}");
        let Answer::Unclear(why) = selector.ask(&letter) else { panic!("{condition}: it is judged") };
        assert!(why.starts_with("--where:1:16: in t.v1.Letter a text (payload.weight)"), "{condition}: {why}");
        assert_eq!(selector.ask(&self::letter()), Answer::No, "it has no weight");
    }
    let guarded = compiled(&[], "letter.type.endsWith('/Send') && payload.weight == 9").unwrap();
    assert_eq!((guarded.ask(&parcel), guarded.ask(&letter)), (Answer::Yes, Answer::No));
    let unclear = ask("1 / (payload.amount_cents - payload.amount_cents) == 1");
    assert_eq!(unclear, Answer::Unclear("--where:1:1: division by zero".into()));
}

#[test]
fn a_wrong_condition_is_shown_with_its_place_below_it() {
    for (types, condition, said) in [
        (
            &[][..],
            "letter.reson == 'x'",
            "--where:1:8: \"letter\" has no \"reson\" (did you mean \"reason\"?)\nletter.reson == 'x'\n       ^",
        ),
        (
            &[],
            "'x' == lettr.reason",
            "--where:1:8: unknown name \"lettr\" (did you mean \"letter\"?)\n'x' == lettr.reason\n       ^",
        ),
        (
            &[],
            "payload.amount_cent > 5",
            "--where:1:9: \"payload\" has no \"amount_cent\" (did you mean \"amount_cents\"?)\npayload.amount_cent > 5\n        ^",
        ),
        (
            &["Bills/Send"],
            "payload.amount_cents > 5",
            "--where:1:9: the message t.v1.Parcel has no field \"amount_cents\"",
        ),
        (&[], "letter.reason ==\n 'x' &&", "--where:1:"),
    ] {
        let message_types = types.iter().map(|name| (*name).to_owned()).collect();
        let selection = Selection { message_types, condition: Some(condition.into()), ..Selection::default() };
        let fault = selection.compile(&catalog()).unwrap_err();
        assert!(fault.message().starts_with(said), "{}", fault.message());
        assert!(fault.message().ends_with('^'), "{}", fault.message());
    }
}

#[test]
fn what_is_known_without_the_payload_is_asked_first() {
    let letter = letter();
    let facts = Facts::of(&letter);
    let by_facts = |selection: Selection| selection.compile(&catalog()).unwrap().by_facts(&facts);
    let condition = |text: &str| Selection { condition: Some(text.into()), ..Selection::default() };
    assert_eq!(by_facts(condition("letter.vendor == 'stripe'")), Answer::Yes);
    assert_eq!(by_facts(condition("payload.bill_id == '7'")), Answer::Ask);
    let other = Selection { vendors: vec!["other".into()], ..condition("payload.bill_id == '7'") };
    assert_eq!(by_facts(other), Answer::No, "nobody reads its payload");
    let header = Selection { headers: vec![("a".into(), "b".into())], ..Selection::default() };
    assert_eq!(by_facts(header), Answer::Ask);
}

#[test]
fn a_selector_may_be_asked_from_any_task() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    shared(&Selector::default());
}

#[test]
fn each_part_of_a_selection_narrows_it() {
    let letter = letter();
    let fingerprint = Facts::of(&letter).fingerprint;
    let all = Selection::default();
    let strings = |text: &str| vec![text.to_owned()];
    let fit = [
        all.clone(),
        Selection { service: Some("payments".parse().unwrap()), consumer: Some("pay".parse().unwrap()), ..all.clone() },
        Selection { states: vec![LetterState::Held, LetterState::Open], ..all.clone() },
        Selection { message_types: strings("Bills/Pay"), codes: strings("UNAVAILABLE"), ..all.clone() },
        Selection { reasons: vec!["MESH-0001".into(), "MESH-0107".into()], ..all.clone() },
        Selection { vendors: strings("stripe"), vendor_codes: strings("api_error"), ..all.clone() },
        Selection { fingerprints: vec![fingerprint], ids: vec!["ab".repeat(16)], ..all.clone() },
        Selection { since_ms: Some(1_767_323_045_000), until_ms: Some(1_767_323_045_001), ..all.clone() },
        Selection { headers: vec![("Ce-Type".into(), "bill".into())], ..all.clone() },
    ];
    let other = [
        Selection { service: Some("payment".parse().unwrap()), ..all.clone() },
        Selection { states: vec![LetterState::Held], ..all.clone() },
        Selection { parked: true, ..all.clone() },
        Selection { message_types: strings("s/Pay"), ..all.clone() },
        Selection { ids: strings("ab"), ..all.clone() },
        Selection { since_ms: Some(1_767_323_045_001), ..all.clone() },
        Selection { until_ms: Some(1_767_323_045_000), ..all.clone() },
        Selection { headers: vec![("ce-type".into(), "Bill".into())], ..all.clone() },
    ];
    for (selections, answer) in [(&fit[..], Answer::Yes), (&other, Answer::No)] {
        for selection in selections {
            // What was kept or sent means the same.
            let kept: Selection = serde_json::from_str(&serde_json::to_string(selection).unwrap()).unwrap();
            assert_eq!(&kept, selection);
            assert_eq!(kept.compile(&catalog()).unwrap().ask(&letter), answer, "{selection:?}");
        }
    }
}

#[test]
fn a_selection_names_the_subjects_that_it_reads_and_refuses_what_it_does_not_know() {
    assert_eq!(Selector::default().subject(), "mesh1.dead.*.*.*.*");
    let selection = Selection { consumer: Some("charge".parse().unwrap()), ..Selection::default() };
    assert_eq!(selection.compile(&catalog()).unwrap().subject(), "mesh1.dead.*.*.charge.*");
    assert!(Selection::default().is_everything() && !selection.is_everything());
    assert!(serde_json::from_str::<Selection>(r#"{"newer":["x"]}"#).is_err());
    assert!(serde_json::from_str::<Selection>(r#"{"service":"No Name"}"#).is_err());
}

#[test]
fn like_failures_are_one_group_whatever_their_order() {
    let of = |id: &str, at: i64, message: &str, state: LetterState| {
        let mut letter = letter();
        letter.letter.id = id.into();
        letter.letter.captured_at_ms = at;
        letter.letter.consumer = if at % 2 == 0 { "pay" } else { "refund" }.into();
        letter.state = state;
        letter.letter.fault.as_mut().unwrap().message = message.into();
        letter
    };
    let mut letters = [
        of("a", 4, "order 17 failed", LetterState::Open),
        of("b", 9, "order 'x' failed", LetterState::Held),
        of("c", 2, "order 3 failed", LetterState::Open),
        of("d", 1, "no such customer", LetterState::Open),
    ];
    for _ in 0..letters.len() {
        letters.rotate_left(1);
        let mut groups = Groups::default();
        letters.iter().for_each(|letter| groups.add(&Facts::of(letter)));
        let groups = groups.into_sorted();
        assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [3, 1]);
        let first = &groups[0];
        assert_eq!((first.said.as_str(), first.example.as_str()), ("order # failed", "b"));
        assert_eq!((first.first_ms, first.last_ms), (2, 9));
        assert_eq!(first.states, [(LetterState::Open, 2), (LetterState::Held, 1)].into());
        assert_eq!(first.consumers, ["payments/pay".to_owned(), "payments/refund".to_owned()].into());
    }
}
