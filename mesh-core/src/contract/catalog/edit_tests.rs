//! Editing a message by path and by JSON, with a contract that is older than the message.

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor};

use super::{Catalog, carry_over, set, visible};

const OLD: &str = r#"
syntax = "proto3";
package t.v1;
enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; }
message Line { string sku = 1; uint32 quantity = 2; }
message Bill {
  string bill_id = 1;
  int64 amount_cents = 2;
  repeated Line lines = 3;
  Line extra = 4;
  map<string, Line> by_name = 5;
  map<int32, string> notes = 6;
  repeated string tags = 7;
  Colour colour = 8;
  bool paid = 9;
  double rate = 10;
  bytes raw = 11;
  oneof way { string card = 12; string iban = 13; }
}
"#;

/// A newer version: each message has fields that the older does not know.
fn newer() -> String {
    OLD.replace("uint32 quantity = 2; }", "uint32 quantity = 2; string gift_for = 100; fixed64 serial = 101; }")
        .replace("string bill_id = 1;", "string bill_id = 1; repeated Line later = 90; sint64 points = 91;")
}

fn catalog(contract: &str) -> Catalog {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.proto"), contract).unwrap();
    Catalog::new([protox::compile(["t.proto"], [folder.path()]).unwrap().encode_to_vec().as_slice()]).unwrap()
}

fn read(catalog: &Catalog, json: &str) -> DynamicMessage {
    catalog.from_json("t.v1.Bill", json).unwrap()
}

fn nothing(_: &FieldDescriptor) -> bool {
    false
}

const FULL: &str = r#"{"billId":"7","amountCents":"5","points":"-9","later":[{"sku":"L","giftFor":"x"}],
    "lines":[{"sku":"A","quantity":1,"giftFor":"Ada","serial":"1"},{"sku":"B","quantity":2,"giftFor":"Bob","serial":"2"}],
    "extra":{"sku":"E","giftFor":"Eve"},"byName":{"k":{"sku":"K","giftFor":"Kim"}}}"#;

#[test]
fn a_value_is_set_by_its_path_and_typed_by_the_contract() {
    let catalog = catalog(OLD);
    let before = r#"{"billId":"7","lines":[{"sku":"A"}],"byName":{"k":{"sku":"K"}},"tags":["a"],"card":"c"}"#;
    for (path, value, json) in [
        ("bill_id", "17", r#""billId":"17""#),
        ("billId", "\"x y\"", r#""billId":"x y""#),
        ("amount_cents", "9007199254740993", r#""amountCents":"9007199254740993""#),
        ("amountCents", "-5", r#""amountCents":"-5""#),
        ("lines[0].quantity", "3", r#""quantity":3"#),
        ("lines[1]", r#"{"sku":"B"}"#, r#"{"sku":"A"},{"sku":"B"}"#),
        ("tags[0]", "b", r#""tags":["b"]"#),
        ("tags", r#"["x","y"]"#, r#""tags":["x","y"]"#),
        ("extra.sku", "E", r#""extra":{"sku":"E"}"#),
        ("by_name.k.quantity", "9", r#""k":{"quantity":9,"sku":"K"}"#),
        ("by_name[\"a.b\"].sku", "AB", r#""a.b":{"sku":"AB"}"#),
        ("notes[\"-3\"]", "three", r#""notes":{"-3":"three"}"#),
        ("colour", "COLOUR_RED", r#""colour":"COLOUR_RED""#),
        ("paid", "true", r#""paid":true"#),
        ("rate", "NaN", r#""rate":"NaN""#),
        ("raw", "YQ==", r#""raw":"YQ==""#),
        ("iban", "DE1", r#""iban":"DE1""#),
    ] {
        let mut message = read(&catalog, before);
        set(&mut message, path, value).unwrap();
        let shown = catalog.to_json("t.v1.Bill", &message.encode_to_vec()).unwrap().to_string();
        assert!(shown.contains(json), "{path}={value}: {shown}");
    }
    let mut message = read(&catalog, before);
    set(&mut message, "bill_id", "null").unwrap();
    set(&mut message, "by_name.k", "null").unwrap();
    set(&mut message, "iban", "DE1").unwrap();
    set(&mut message, "tags[0]", "null").unwrap();
    let json = catalog.to_json("t.v1.Bill", &message.encode_to_vec()).unwrap();
    assert_eq!(json, serde_json::json!({"lines": [{"sku": "A"}], "iban": "DE1"}));
}

#[test]
fn what_does_not_fit_is_said_and_changes_nothing() {
    let catalog = catalog(OLD);
    let before = read(&catalog, r#"{"billId":"7","lines":[{"sku":"A"}]}"#);
    for (path, value, said) in [
        ("bill", "1", "t.v1.Bill has no field \"bill\""),
        ("amount_cents", "much", "amount_cents: "),
        ("paid", "yes", "paid: "),
        ("colour", "COLOUR_BLUE", "there is no value \"COLOUR_BLUE\""),
        ("lines[2].sku", "x", "\"lines\" has 1 elements"),
        ("lines.sku", "x", "\"lines\" is a list"),
        ("bill_id.x", "x", "one value"),
        ("tags", "x", "a list or a map is JSON"),
        ("notes.x", "y", "notes.x: "),
        ("", "x", "is no path"),
        ("lines[x]", "x", "is no path"),
        (".bill_id", "x", "is no path"),
    ] {
        let mut message = before.clone();
        let error = set(&mut message, path, value).unwrap_err();
        assert!(error.to_string().contains(said), "{path}={value}: {error}");
        assert_eq!(message, before);
    }
}

#[test]
fn fields_of_a_newer_contract_are_kept_by_an_edit_with_an_older_one() {
    let (old, new) = (catalog(OLD), catalog(&newer()));
    let sent = read(&new, FULL).encode_to_vec();
    let original = old.decode("t.v1.Bill", &sent).unwrap();

    // By path.
    let mut edited = original.clone();
    set(&mut edited, "lines[1].quantity", "7").unwrap();
    let expected = FULL.replace("\"quantity\":2", "\"quantity\":7");
    assert_eq!(new.decode("t.v1.Bill", &edited.encode_to_vec()).unwrap(), read(&new, &expected));

    // As JSON: an element is changed, two change places.
    let shown = old.to_json("t.v1.Bill", &visible(&original, &nothing).encode_to_vec()).unwrap().to_string();
    assert!(!shown.contains("Ada"), "the older contract does not show them: {shown}");
    for (from, to) in [
        ("\"quantity\":2", "\"quantity\":7"),
        ("\"billId\":\"7\"", "\"billId\":\"8\""),
        ("\"sku\":\"K\"", "\"sku\":\"KK\""),
    ] {
        let changed = shown.replace(from, to);
        assert_ne!(changed, shown);
        let mut edited = read(&old, &changed);
        carry_over(&original, &mut edited, &nothing).unwrap();
        let back = new.decode("t.v1.Bill", &edited.encode_to_vec()).unwrap();
        assert_eq!(back, read(&new, &FULL.replace(from, to)), "{from} to {to}");
    }
    let swapped = r#"{"billId":"7","lines":[{"sku":"B","quantity":2},{"sku":"A","quantity":1}]}"#;
    let mut edited = read(&old, swapped);
    carry_over(&original, &mut edited, &nothing).unwrap();
    let back = new.to_json("t.v1.Bill", &edited.encode_to_vec()).unwrap();
    assert_eq!((&back["lines"][0]["giftFor"], &back["lines"][1]["giftFor"]), (&"Bob".into(), &"Ada".into()));
    assert_eq!(back["points"], "-9");
}

#[test]
fn what_can_not_be_told_apart_is_refused_and_what_was_taken_away_is_gone() {
    let (old, new) = (catalog(OLD), catalog(&newer()));
    let original = old.decode("t.v1.Bill", &read(&new, FULL).encode_to_vec()).unwrap();
    let mut one_left = read(&old, r#"{"lines":[{"sku":"B","quantity":2}]}"#);
    carry_over(&original, &mut one_left, &nothing).unwrap();
    let back = new.to_json("t.v1.Bill", &one_left.encode_to_vec()).unwrap();
    assert_eq!((&back["lines"][0]["giftFor"], back["lines"].as_array().unwrap().len()), (&"Bob".into(), 1));
    let mut one_left_and_changed = read(&old, r#"{"lines":[{"sku":"B","quantity":3}]}"#);
    let error = carry_over(&original, &mut one_left_and_changed, &nothing).unwrap_err();
    assert_eq!(error.path, "lines");
}

#[test]
fn hidden_fields_stay_unless_they_are_set() {
    let catalog = catalog(OLD);
    let original = read(&catalog, r#"{"billId":"7","amountCents":"5","lines":[{"sku":"A","quantity":4}]}"#);
    let hidden = |field: &FieldDescriptor| ["amount_cents", "quantity"].contains(&field.name());
    let shown = visible(&original, &hidden);
    assert_eq!(shown, read(&catalog, r#"{"billId":"7","lines":[{"sku":"A"}]}"#));
    let mut edited = read(&catalog, r#"{"billId":"8","lines":[{"sku":"B"}]}"#);
    carry_over(&original, &mut edited, &hidden).unwrap();
    assert_eq!(edited, read(&catalog, r#"{"billId":"8","amountCents":"5","lines":[{"sku":"B","quantity":4}]}"#));
    let mut edited = read(&catalog, r#"{"amountCents":"6"}"#);
    carry_over(&original, &mut edited, &hidden).unwrap();
    assert_eq!(edited, read(&catalog, r#"{"amountCents":"6"}"#));
}

proptest! {
    /// Whatever a newer program put into fields that nobody here knows comes out byte for byte.
    #[test]
    fn unknown_bytes_stay_as_they_are(name in "[a-z]{0,20}", serial in any::<u64>(), points in any::<i64>(), set_to in "[a-z]{1,9}") {
        let (old, new) = (catalog(OLD), catalog(&newer()));
        let json = serde_json::json!({"billId": "7", "points": points.to_string(),
            "lines": [{"sku": "A", "giftFor": name, "serial": serial.to_string()}]});
        let sent = read(&new, &json.to_string()).encode_to_vec();
        let original = old.decode("t.v1.Bill", &sent).unwrap();
        let mut edited = read(&old, &serde_json::json!({"billId": set_to, "lines": [{"sku": set_to}]}).to_string());
        carry_over(&original, &mut edited, &nothing).unwrap();
        let mut expected = read(&new, &json.to_string());
        set(&mut expected, "bill_id", &set_to).unwrap();
        set(&mut expected, "lines[0].sku", &set_to).unwrap();
        let json = |message: &DynamicMessage| new.to_json("t.v1.Bill", &message.encode_to_vec()).unwrap();
        prop_assert_eq!(json(&edited), json(&expected));
    }
}
