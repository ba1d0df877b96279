//! Contracts read from descriptors, and JSON that fits or does not.

use std::sync::LazyLock;

use proptest::prelude::*;
use prost::Message;
use prost_reflect::DynamicMessage;
use protox::{
    Compiler, Error,
    file::{File, FileResolver, GoogleFileResolver},
};

use super::*;

const CONTRACT: &str = r#"
syntax = "proto3";
package depot.v1;
import "google/protobuf/timestamp.proto";
import "mesh/v1/options.proto";

message Packed {
  option (mesh.v1.event) = { producer: "depot", key: "number" };
  int64 number = 1;
  repeated Line lines = 2;
  map<string, Line> by_place = 3;
  Speed speed = 4;
  google.protobuf.Timestamp at = 5;
  string phone_number = 6 [(mesh.v1.data_class) = DATA_CLASS_PERSONAL];
  oneof how { bool by_hand = 7; bytes by_code = 8; }
  repeated double weights = 9;
}
message Line { string sku = 1; uint32 quantity = 2; Packed of = 3; }
enum Speed { SPEED_UNSPECIFIED = 0; SPEED_EXPRESS = 1; }

service Depot {
  rpc Pack(Line) returns (Packed) { option (mesh.v1.operation) = { repeat: REPEAT_LOOK_UP, key: "sku" }; }
  rpc Count(Line) returns (Line) { option idempotency_level = NO_SIDE_EFFECTS; }
  rpc Burn(Line) returns (Line);
}
"#;

/// The contract under test, then what Mesh and Google carry.
struct Sources(&'static str);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        let mesh = mesh_proto::SOURCES.iter().find(|(path, _)| *path == name);
        match (name, mesh) {
            ("depot.proto", _) => File::from_source(name, self.0),
            (_, Some((path, text))) => File::from_source(path, text),
            _ => GoogleFileResolver::new().open_file(name),
        }
    }
}

fn compile(contract: &'static str) -> Vec<u8> {
    let mut compiler = Compiler::with_file_resolver(Sources(contract));
    compiler.include_imports(true).open_file("depot.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

fn catalog() -> &'static Catalog {
    static CATALOG: LazyLock<Catalog> =
        LazyLock::new(|| Catalog::new([mesh_proto::DESCRIPTORS, &compile(CONTRACT)]).unwrap());
    &CATALOG
}

#[test]
fn events_and_operations_are_read_with_their_options() {
    let catalog = catalog();
    let event = catalog.event("depot.v1.Packed").unwrap();
    assert_eq!((event.producer.as_str(), event.key.as_deref()), ("depot", Some("number")));
    assert!(catalog.event("depot.v1.Line").is_none());

    let repeats: Vec<_> = catalog.operations().map(|entry| (entry.info.full_name(), entry.info.repeat)).collect();
    let expected = [("Burn", Repeat::Once), ("Count", Repeat::NoSideEffects), ("Pack", Repeat::LookUp)]
        .map(|(method, repeat)| (format!("depot.v1.Depot/{method}"), repeat));
    let own = ["CountLetters", "GroupLetters", "ListLetters"];
    let own = own.map(|method| (format!("mesh.v1.Keeper/{method}"), Repeat::NoSideEffects));
    assert_eq!(repeats, [expected, own].concat());

    let pack = catalog.operation("depot.v1.Depot.Pack").unwrap();
    assert_eq!((pack.request.full_name(), pack.reply.full_name()), ("depot.v1.Line", "depot.v1.Packed"));
    assert_eq!(catalog.services(), ["depot.v1.Depot", "mesh.v1.Keeper"]);
}

#[test]
fn names_are_everything_that_can_be_asked_for() {
    let names = catalog().names();
    for name in ["depot.v1.Packed", "depot.v1.Depot/Pack", "mesh.v1.DeadLetter"] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
    assert!(!names.iter().any(|name| name.contains("Entry") || name.starts_with("google.")), "{names:?}");
}

#[test]
fn an_unknown_name_brings_the_nearest() {
    let catalog = catalog();
    for (given, expected) in [
        ("depot.v1.Paked", "depot.v1.Packed"),
        ("Packed", "depot.v1.Packed"),
        ("depot.v1.Depot/pack", "depot.v1.Depot/Pack"),
        ("deadletter", "mesh.v1.DeadLetter"),
    ] {
        assert_eq!(catalog.nearest(given).first().map(String::as_str), Some(expected), "{given}");
    }
    assert_eq!(catalog.nearest("zzz"), Vec::<String>::new());
    let error = catalog.from_json("depot.v1.Paked", "{}").unwrap_err();
    assert_eq!(error.to_string(), "no message is called \"depot.v1.Paked\"; did you mean depot.v1.Packed?");
}

#[test]
fn the_same_file_may_stand_in_two_sets_but_not_two_versions_of_it() {
    let ours = compile(CONTRACT);
    assert!(Catalog::new([ours.as_slice(), &ours, mesh_proto::DESCRIPTORS]).is_ok());
    let other = compile("syntax = \"proto3\"; package depot.v1; message Packed { string number = 1; }");
    let error = Catalog::new([ours.as_slice(), &other]).unwrap_err();
    assert_eq!(error, CatalogError::Conflict { file: "depot.proto".into() });
    assert!(matches!(Catalog::new([b"\xff\xff".as_slice()]), Err(CatalogError::Descriptors(_))));
}

#[test]
fn keys_are_text() {
    let catalog = catalog();
    let packed = catalog.from_json("depot.v1.Packed", r#"{"number": "-9007199254740993"}"#).unwrap();
    assert_eq!(key_of(&packed), "-9007199254740993");
    let line = catalog.from_json("depot.v1.Line", r#"{"sku": "a"}"#).unwrap();
    assert_eq!(key_of(&line), "", "not an event");
    assert_eq!(catalog.operation("depot.v1.Depot/Pack").unwrap().key_of(&line), "a");
    assert_eq!(catalog.operation("depot.v1.Depot/Burn").unwrap().key_of(&line), "");
}

#[test]
fn bytes_that_are_no_such_message_are_refused() {
    let error = catalog().to_json("depot.v1.Line", b"\x0a\xff").unwrap_err();
    assert!(error.to_string().starts_with("the 2 bytes are not a depot.v1.Line: "), "{error}");
}

/// JSON, and the exact text of the error.
const WRONG_JSON: &[(&str, &str)] = &[
    (
        r#"{"numbr": 1}"#,
        r#"the JSON is not a depot.v1.Packed: numbr: there is no field "numbr" (line 1, column 8); did you mean number?"#,
    ),
    (
        r#"{"color": 1}"#,
        r#"the JSON is not a depot.v1.Packed: color: there is no field "color" (line 1, column 8); depot.v1.Packed has: number, lines, by_place, speed, at, phone_number, by_hand, by_code, weights"#,
    ),
    (
        r#"{"lines": [{}, {"quantty": 1}]}"#,
        r#"the JSON is not a depot.v1.Packed: lines[1].quantty: there is no field "quantty" (line 1, column 25); did you mean quantity?"#,
    ),
    (
        r#"{"lines": [{}, {}, {"quantity": -1}]}"#,
        r#"the JSON is not a depot.v1.Packed: lines[2].quantity: out of range integral type conversion attempted (line 1, column 34); the contract says uint32"#,
    ),
    (
        r#"{"lines": {"sku": 1}}"#,
        r#"the JSON is not a depot.v1.Packed: lines: invalid type: map, expected a list (line 1, column 11); the contract says a list of depot.v1.Line"#,
    ),
    (
        r#"{"lines": 3}"#,
        r#"the JSON is not a depot.v1.Packed: lines: invalid type: integer `3`, expected a list (line 1, column 11); the contract says a list of depot.v1.Line"#,
    ),
    (
        r#"{"byPlace": {"hall": {"sku": 7}}}"#,
        r#"the JSON is not a depot.v1.Packed: byPlace.hall.sku: invalid type: integer `7`, expected a string (line 1, column 30); the contract says string"#,
    ),
    (
        r#"{"byPlace": []}"#,
        r#"the JSON is not a depot.v1.Packed: byPlace: invalid type: sequence, expected a map (line 1, column 14); the contract says a map to depot.v1.Line"#,
    ),
    (
        r#"{"speed": "FAST"}"#,
        r#"the JSON is not a depot.v1.Packed: speed: there is no value "FAST" (line 1, column 16); depot.v1.Speed has: SPEED_UNSPECIFIED, SPEED_EXPRESS"#,
    ),
    (
        r#"{"speed": true}"#,
        r#"the JSON is not a depot.v1.Packed: speed: invalid type: boolean `true`, expected a string or integer (line 1, column 14); the contract says depot.v1.Speed"#,
    ),
    (
        r#"{"at": "yesterday"}"#,
        r#"the JSON is not a depot.v1.Packed: at: invalid rfc3339 timestamp: invalid date (line 1, column 18); the contract says google.protobuf.Timestamp"#,
    ),
    (
        r#"{"phoneNumber": 4917012345}"#,
        r#"the JSON is not a depot.v1.Packed: phoneNumber: the value does not fit (line 1, column 26); the contract says string"#,
    ),
    (
        r#"{"by_hand": true, "byCode": "AA=="}"#,
        r#"the JSON is not a depot.v1.Packed: multiple fields provided for oneof 'how' (line 1, column 35)"#,
    ),
    (
        r#"{"byCode": "*"}"#,
        r#"the JSON is not a depot.v1.Packed: byCode: invalid base64: Invalid symbol 42, offset 0. (line 1, column 14); the contract says bytes, in base64"#,
    ),
    (
        r#"{"weights": [1, "x"]}"#,
        r#"the JSON is not a depot.v1.Packed: weights[1]: invalid float literal (line 1, column 19); the contract says double"#,
    ),
    (
        r#"{"number": 1.5}"#,
        r#"the JSON is not a depot.v1.Packed: number: expected integer value (line 1, column 14); the contract says int64"#,
    ),
    (
        r#"{"number": 9223372036854775808}"#,
        r#"the JSON is not a depot.v1.Packed: number: out of range integral type conversion attempted (line 1, column 30); the contract says int64"#,
    ),
    (
        r#"{"lines": [{"of": {"number": {}}}]}"#,
        r#"the JSON is not a depot.v1.Packed: lines[0].of.number: invalid type: map, expected a 64-bit signed integer or decimal string (line 1, column 31); the contract says int64"#,
    ),
    (r#"[]"#, r#"the JSON is not a depot.v1.Packed: invalid type: sequence, expected a map (line 1, column 0)"#),
    (r#"{"number": 1"#, r#"the JSON is not a depot.v1.Packed: EOF while parsing an object (line 1, column 12)"#),
    (r#"{"number": 1} 2"#, r#"the JSON is not a depot.v1.Packed: trailing characters (line 1, column 15)"#),
    (r#""#, r#"the JSON is not a depot.v1.Packed: EOF while parsing a value (line 1, column 0)"#),
];

#[test]
fn wrong_json_is_refused_at_its_place() {
    let catalog = catalog();
    let wrong: Vec<_> = WRONG_JSON
        .iter()
        .map(|(json, expected)| (json, expected, catalog.from_json("depot.v1.Packed", json).unwrap_err().to_string()))
        .filter(|(_, expected, actual)| actual != *expected)
        .map(|(json, expected, actual)| format!("{json}\n  expected {expected}\n  shown    {actual}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_json_error_carries_its_parts() {
    let text = "{\n  \"lines\": [{}, {},\n    {\"quantity\": \"many\"}]\n}";
    let CatalogError::Json(error) = catalog().from_json("depot.v1.Packed", text).unwrap_err() else { panic!() };
    assert_eq!((error.path.as_str(), error.line), ("lines[2].quantity", 3));
    assert_eq!(&text.lines().nth(2).unwrap()[..error.column], "    {\"quantity\": \"many\"");
}

fn line() -> impl Strategy<Value = serde_json::Value> {
    ("[a-z]{0,5}", any::<u32>()).prop_map(|(sku, quantity)| serde_json::json!({ "sku": sku, "quantity": quantity }))
}

/// JSON of any shape, with names of the contract and others.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "([a-zäA-Z0-9\"]{0,6}|SPEED_EXPRESS|1972-01-01T10:00:20Z)".prop_map(Into::into),
    ];
    let name = "(number|lines|byPlace|by_place|speed|at|phoneNumber|by_hand|byCode|weights|sku|quantity|of|other)";
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map(name, inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_goes_there_and_back(
        number in any::<i64>(),
        lines in proptest::collection::vec(line(), 0..4),
        weights in proptest::collection::vec(any::<i32>(), 0..4),
    ) {
        let catalog = catalog();
        let json = serde_json::json!({ "number": number, "lines": lines, "weights": weights, "speed": "SPEED_EXPRESS" });
        let message = catalog.from_json("depot.v1.Packed", &json.to_string()).unwrap();
        let bytes = message.encode_to_vec();
        let shown = catalog.to_json("depot.v1.Packed", &bytes).unwrap();
        let again = catalog.from_json("depot.v1.Packed", &shown.to_string()).unwrap();
        prop_assert_eq!(again.encode_to_vec(), bytes);
    }

    #[test]
    fn it_accepts_exactly_what_the_reflection_accepts(json in any_json()) {
        let catalog = catalog();
        let text = json.to_string();
        let descriptor = catalog.message("depot.v1.Packed").unwrap();
        let plain = DynamicMessage::deserialize(descriptor, &mut serde_json::Deserializer::from_str(&text));
        match (catalog.from_json("depot.v1.Packed", &text), plain) {
            (Ok(ours), Ok(plain)) => prop_assert_eq!(ours.encode_to_vec(), plain.encode_to_vec()),
            (Err(CatalogError::Json(error)), Err(_)) => prop_assert!(error.line >= 1, "{}", error),
            (ours, plain) => prop_assert!(false, "{:?} against {:?}", ours, plain),
        }
    }
}
