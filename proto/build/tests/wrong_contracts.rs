//! Contracts that fail the build: each with the exact text that the author is shown.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it can't go on")]

use std::fs;

use mesh_build::{Config, Error};

/// Compiles `text` as `wrong.proto` and gives the error without the folder's name.
fn refusal(text: &str) -> String {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("wrong.proto"), text).unwrap();
    let config = Config::new().file(folder.path().join("wrong.proto")).include(folder.path()).out_dir(out.path());
    let error = config.compile().expect_err("the contract is wrong");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "nothing is written for a wrong contract");
    error.to_string().replace(&format!("{}/", folder.path().display()), "")
}

/// The lines above every row, so that its own lines begin at 4.
const HEAD: &str = "syntax = \"proto3\";\npackage a.v1;\nimport \"mesh/v1/options.proto\";\n";

struct Row {
    name: &'static str,
    text: &'static str,
    expected: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        name: "an event without producer",
        text: "message E {\n  option (mesh.v1.event) = { key: \"id\" };\n  string id = 1;\n}",
        expected: r#"1 problem in the contracts
wrong.proto:5:3: the event `a.v1.E` names no producer
    help: say which service publishes it: option (mesh.v1.event) = { producer: "orders" };"#,
    },
    Row {
        name: "a producer with the wrong sort of dash",
        text: "message E {\n  option (mesh.v1.event) = { producer: \"Order_Desk\" };\n}",
        expected: r#"1 problem in the contracts
wrong.proto:5:3: the event `a.v1.E` has a producer that is no service's name: "Order_Desk"
    help: a service's name has 1 to 63 characters of a-z, 0-9 and '-': "order-desk""#,
    },
    Row {
        name: "a producer that can't be mended",
        text: "message E {\n  option (mesh.v1.event).producer = \"café\";\n}",
        expected: r#"1 problem in the contracts
wrong.proto:5:3: the event `a.v1.E` has a producer that is no service's name: "café"
    help: a service's name has 1 to 63 characters of a-z, 0-9 and '-'"#,
    },
    Row {
        name: "a key that is part of a field's name",
        text: "message E {\n  option (mesh.v1.event).producer = \"a\";\n  option (mesh.v1.event).key = \"customer\";\n  string customer_id = 1;\n}",
        expected: r#"1 problem in the contracts
wrong.proto:6:3: `a.v1.E` has no field `customer` to be its ordering key
    help: did you mean `customer_id`?"#,
    },
    Row {
        name: "a key that is a list",
        text: "message E {\n  option (mesh.v1.event) = { producer: \"a\", key: \"ids\" };\n  repeated string ids = 1;\n}",
        expected: r#"1 problem in the contracts
wrong.proto:5:3: the field `ids` of `a.v1.E` can't be an ordering key
    help: choose a single string, bool, integer or enum field, outside any oneof"#,
    },
    Row {
        name: "a key within a oneof",
        text: "message E {\n  option (mesh.v1.event) = { producer: \"a\", key: \"id\" };\n  oneof o { string id = 1; }\n}",
        expected: r#"1 problem in the contracts
wrong.proto:5:3: the field `id` of `a.v1.E` can't be an ordering key
    help: choose a single string, bool, integer or enum field, outside any oneof"#,
    },
    Row {
        name: "a key that is a double, of an operation",
        text: "message R { double d = 1; }\nservice S {\n  rpc Do(R) returns (R) {\n    option (mesh.v1.operation) = { key: \"d\" };\n  }\n}",
        expected: r#"1 problem in the contracts
wrong.proto:7:5: the field `d` of `a.v1.R` can't be an ordering key
    help: choose a single string, bool, integer or enum field, outside any oneof"#,
    },
    Row {
        name: "a secret, two messages deep, in an event",
        text: "message E {\n  option (mesh.v1.event) = { producer: \"a\" };\n  Middle middle = 1;\n}\nmessage Middle { E again = 1; map<string, Deep> deep = 2; }\nmessage Deep {\n  string token = 1 [(mesh.v1.data_class) = DATA_CLASS_SECRET];\n}",
        expected: r#"1 problem in the contracts
wrong.proto:10:21: the secret `a.v1.Deep.token` would be stored in the event `a.v1.E`
    help: leave it out and pass a reference to it (the name of a secret, an id), or give it the class it really has"#,
    },
    Row {
        name: "a secret in a reply",
        text: "message Q {}\nmessage R { string token = 1 [(mesh.v1.data_class) = DATA_CLASS_SECRET]; }\nservice S { rpc Do(Q) returns (R); }",
        expected: r#"1 problem in the contracts
wrong.proto:5:31: the secret `a.v1.R.token` would be stored in the reply of `a.v1.S/Do` when it is enqueued
    help: leave it out and pass a reference to it (the name of a secret, an id), or give it the class it really has"#,
    },
    Row {
        name: "streams",
        text: "message M {}\nservice S {\n  rpc In(stream M) returns (M);\n  rpc Out(M) returns (stream M);\n}",
        expected: r#"2 problems in the contracts
wrong.proto:6:3: the operation `a.v1.S/In` streams
    help: an operation has one request and one reply: publish events for a stream of facts
wrong.proto:7:3: the operation `a.v1.S/Out` streams
    help: an operation has one request and one reply: publish events for a stream of facts"#,
    },
    Row {
        name: "two words on repeats",
        text: "message M {}\nservice S {\n  rpc Do(M) returns (M) {\n    option idempotency_level = NO_SIDE_EFFECTS;\n    option (mesh.v1.operation) = { repeat: REPEAT_ONCE };\n  }\n}",
        expected: r#"1 problem in the contracts
wrong.proto:8:5: the operation `a.v1.S/Do` says twice what a repeat does: REPEAT_ONCE and idempotency_level = NO_SIDE_EFFECTS
    help: keep one: idempotency_level where a repeat is harmless by itself, mesh.v1.operation.repeat otherwise"#,
    },
    Row {
        name: "a request that has no code of its own",
        text: "import \"google/protobuf/empty.proto\";\nmessage M {}\nservice S {\n  rpc Do(google.protobuf.Empty) returns (M);\n}",
        expected: r#"1 problem in the contracts
wrong.proto:7:3: `google.protobuf.Empty` can't be the request of the operation `a.v1.S/Do`
    help: declare a message of your own, so that it can grow fields: message PingRequest {}"#,
    },
    Row {
        name: "names that meet in Rust",
        text: "message OrderPlaced {}\nmessage Order_Placed {}\nmessage PayClient {}\nservice Pay {\n  rpc GetIt(PayClient) returns (PayClient);\n  rpc Get_it(PayClient) returns (PayClient);\n  rpc New(PayClient) returns (PayClient);\n}",
        expected: r#"4 problems in the contracts
wrong.proto:5:1: the message `a.v1.Order_Placed` and the message `a.v1.OrderPlaced` would both be `a::v1::OrderPlaced` in Rust
    help: rename one of them
wrong.proto:7:1: the service `a.v1.Pay` and the message `a.v1.PayClient` would both be `a::v1::PayClient` in Rust
    help: rename one of them
wrong.proto:9:3: the rpc `a.v1.Pay/Get_it` and the rpc `a.v1.Pay/GetIt` would both be `get_it` in Rust
    help: rename one of them
wrong.proto:10:3: the rpc `a.v1.Pay/New` and the client of `a.v1.Pay` would both be `new` in Rust
    help: rename one of them"#,
    },
    Row {
        name: "a field that hides a generated function",
        text: "message E {\n  option (mesh.v1.event) = { producer: \"a\" };\n  optional string consumer = 1;\n}",
        expected: r#"1 problem in the contracts
wrong.proto:6:3: the field `consumer` of an event would hide the generated function of that name
    help: rename it, for example `consumer_name`"#,
    },
    Row {
        name: "several at once, in the order of their places",
        text: "service S { rpc Do(stream M) returns (M); }\nmessage M { option (mesh.v1.event) = { key: \"x\" }; }",
        expected: r#"3 problems in the contracts
wrong.proto:4:13: the operation `a.v1.S/Do` streams
    help: an operation has one request and one reply: publish events for a stream of facts
wrong.proto:5:13: `a.v1.M` has no field `x` to be its ordering key
    help: it has no field that could be one: leave the key out
wrong.proto:5:13: the event `a.v1.M` names no producer
    help: say which service publishes it: option (mesh.v1.event) = { producer: "orders" };"#,
    },
    Row {
        name: "not a .proto file",
        text: "message M { string a = 1 }",
        expected: "wrong.proto:4:26: expected ';' or '[', but found '}'",
    },
    Row {
        name: "an unknown type",
        text: "message M {\n  Strin a = 1;\n}",
        expected: "wrong.proto:5:3: name 'Strin' is not defined",
    },
    Row {
        name: "a misspelt option",
        text: "message M {\n  option (mesh.v1.evnt) = { producer: \"a\" };\n}",
        expected: "wrong.proto:5:3: 'mesh.v1.evnt' resolves to 'mesh.v1.evnt', which is not defined",
    },
    Row {
        name: "an import that is missing",
        text: "import \"b.proto\";",
        expected: "wrong.proto:4:1: import 'b.proto' not found",
    },
];

#[test]
fn every_wrong_contract_is_refused_at_its_place() {
    let wrong: Vec<String> = ROWS
        .iter()
        .map(|row| (row, refusal(&format!("{HEAD}{}", row.text))))
        .filter(|(row, actual)| row.expected != actual)
        .map(|(row, actual)| format!("== {}\n-- expected\n{}\n-- shown\n{actual}\n", row.name, row.expected))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_without_package_is_refused() {
    assert_eq!(
        refusal("syntax = \"proto3\";\nmessage M {}\n"),
        "1 problem in the contracts\nwrong.proto:1:1: the file names no package, so its contracts would have no full names\n    help: begin it with a package, versioned: package shop.orders.v1;"
    );
}

#[test]
fn a_file_that_is_missing_is_named() {
    let out = tempfile::tempdir().unwrap();
    let config = Config::new().file("proto/none.proto").include("proto").out_dir(out.path());
    let error = config.compile().unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error}");
    assert!(error.to_string().contains("none.proto"), "{error}");
    assert_eq!(format!("{error:?}"), error.to_string(), "main of a build script prints the debug form");
}
