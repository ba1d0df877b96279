//! The stand-in vendors over real HTTP, on a clock moved by hand.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use support::Sim;

const FORM: &str = "amount=1177&currency=usd&metadata[order]=1";

fn message(order: &str) -> String {
    json!({"message": {"to": {"email": "a@example.com"}, "template": "t", "data": {"order": order}}}).to_string()
}

#[tokio::test]
async fn credentials_are_checked() {
    let sim = Sim::start().await;
    // `Basic` carries the key as the user, with an empty password.
    let table = [
        (None, 401, 401),
        (Some("Bearer sk_test_mesh"), 400, 401),
        (Some("bearer sk_test_mesh"), 400, 401),
        (Some("Basic c2tfdGVzdF9tZXNoOg=="), 400, 401),
        (Some("Bearer pk_test_mesh"), 401, 400),
        (Some("Basic cGtfdGVzdF9tZXNoOg=="), 401, 401),
        (Some("Bearer sk_test_mesh2"), 401, 401),
        (Some("sk_test_mesh"), 401, 401),
    ];
    for (authorization, stripe, courier) in table {
        let headers: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
        for (path, status) in [("/v1/charges", stripe), ("/send", courier)] {
            let answer = sim.try_call(Method::POST, path, &headers, "").await.unwrap();
            assert_eq!(answer.status, status, "{authorization:?} {path}");
        }
    }
    assert_eq!(sim.counts("stripe", ["calls", "unauthenticated", "refused", "effects"]).await, [8, 5, 3, 0]);
    assert_eq!(sim.counts("courier", ["calls", "unauthenticated", "refused", "effects"]).await, [8, 7, 1, 0]);
}

#[tokio::test]
async fn a_charge_is_made_once_under_its_key_and_replayed() {
    let sim = Sim::start().await;
    let form = "amount=1177&currency=USD&metadata[order]=7&metadata[note]=%22a%22&description=CDs";
    let first = sim.charge("k", form).await.unwrap();
    assert_eq!(first.status, 200);
    assert!(first.header("request-id").unwrap().starts_with("req_"));
    assert_eq!(first.header("idempotent-replayed"), None);
    let charge = first.json();
    assert!(charge["id"].as_str().unwrap().starts_with("ch_"));
    let shown = ["object", "amount", "currency", "status", "description", "metadata"].map(|name| charge[name].clone());
    let metadata = json!({"order": "7", "note": "\"a\""});
    assert_eq!(Value::from(shown.to_vec()), json!(["charge", 1177, "usd", "succeeded", "CDs", metadata]));

    let other_order_of_params = "description=CDs&metadata[note]=%22a%22&metadata[order]=7&currency=USD&amount=1177";
    let again = sim.charge("k", other_order_of_params).await.unwrap();
    assert_eq!((again.status, &again.text, again.header("idempotent-replayed")), (200, &first.text, Some("true")));
    assert_ne!(again.header("request-id"), first.header("request-id"));

    let names = ["calls", "effects", "distinct_keys", "replayed", "duplicates"];
    assert_eq!(sim.counts("stripe", names).await, [2, 1, 1, 1, 0]);
    let id = charge["id"].as_str().unwrap();
    assert_eq!(sim.get(&format!("/v1/charges/{id}")).await.text, first.text);
    assert_eq!(sim.get("/v1/charges?metadata[order]=7").await.json()["data"], json!([charge]));
    assert_eq!(sim.get("/v1/charges?metadata%5Border%5D=8").await.json()["data"], json!([]));
    assert_eq!(sim.get("/v1/charges/ch_none").await.status, 404);
}

#[tokio::test]
async fn a_charge_shows_what_was_given_however_little() {
    let sim = Sim::start().await;
    let table = [
        ("", json!(null), json!({})),
        ("&metadata[order]=1", json!(null), json!({"order": "1"})),
        ("&metadata[order]=2&description={}", json!("{}"), json!({"order": "2"})),
        ("&metadata[note]=n", json!(null), json!({"note": "n"})),
    ];
    for (more, description, metadata) in table {
        let charge = sim.charge("", &format!("amount=5&currency=eur{more}")).await.unwrap().json();
        assert_eq!((&charge["description"], &charge["metadata"]), (&description, &metadata), "{more}");
    }
}

#[tokio::test]
async fn a_key_with_other_params_is_refused_by_one_and_replayed_by_the_other() {
    let sim = Sim::start().await;
    assert_eq!(sim.charge("k", FORM).await.unwrap().status, 200);
    let other = sim.charge("k", "amount=1178&currency=usd&metadata[order]=1").await.unwrap();
    assert_eq!((other.status, &other.json()["error"]["type"]), (400, &json!("idempotency_error")));
    assert_eq!(sim.counts("stripe", ["mismatched", "effects"]).await, [1, 1]);

    let first = sim.send("k", message("1")).await;
    assert_eq!(first.status, 202);
    assert_eq!(sim.send("k", message("2")).await.text, first.text);
    assert_eq!(sim.counts("courier", ["mismatched", "replayed", "effects"]).await, [1, 1, 1]);
}

#[tokio::test]
async fn a_key_in_flight_is_409_until_its_answer_is_due() {
    let sim = Sim::start().await;
    sim.turn("stripe", json!({"latency_ms": 60_000})).await;
    {
        let first = sim.charge("k", FORM);
        tokio::pin!(first);
        let acted = sim.until("stripe", "effects", 1);
        tokio::select! {
            _ = &mut first => panic!("answered before its time"),
            () = acted => {}
        }
        let second = sim.charge("k", FORM).await.unwrap();
        assert_eq!((second.status, &second.json()["error"]["code"]), (409, &json!("idempotency_key_in_use")));
        // The client goes; the vendor works on.
    }
    sim.turn("stripe", json!({"latency_ms": 0})).await;
    sim.hand.advance(Duration::from_secs(60));
    let third = sim.charge("k", FORM).await.unwrap();
    assert_eq!((third.status, third.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(sim.counts("stripe", ["effects", "conflicts", "replayed"]).await, [1, 1, 1]);
}

#[tokio::test]
async fn bad_charges_are_refused_and_not_stored() {
    let sim = Sim::start().await;
    let table = [
        ("amount=0&currency=usd", "amount_too_small", "amount"),
        ("amount=-1&currency=usd", "parameter_invalid_integer", "amount"),
        ("amount=1.5&currency=usd", "parameter_invalid_integer", "amount"),
        ("amount=100000000&currency=usd", "amount_too_large", "amount"),
        ("currency=usd", "parameter_missing", "amount"),
        ("amount=5", "parameter_missing", "currency"),
        ("amount=5&currency=usd&foo[bar]=1", "parameter_unknown", "foo[bar]"),
    ];
    for (form, code, param) in table {
        let answer = sim.charge("same", form).await.unwrap();
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["type"]), (400, &json!("invalid_request_error")), "{form}");
        assert_eq!((&error["code"], &error["param"]), (&json!(code), &json!(param)), "{form}");
    }
    let long = "k".repeat(256);
    assert_eq!(sim.charge(&long, FORM).await.unwrap().status, 400);
    assert_eq!(sim.charge("big", &"x".repeat(2 << 20)).await.unwrap().status, 413);
    assert_eq!(sim.counts("stripe", ["refused", "effects", "mismatched"]).await, [9, 0, 0]);

    // What the vendor refuses can be changed, and the same key then goes through.
    assert_eq!(sim.turn("stripe", json!({"min_amount": 0})).await.json()["min_amount"], 0);
    assert_eq!(sim.charge("same", "amount=0&currency=usd").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_declined_card_is_an_answer_and_stored() {
    let sim = Sim::start().await;
    for replayed in [None, Some("true")] {
        let answer = sim.charge("k", &format!("{FORM}&source=tok_chargeDeclined")).await.unwrap();
        assert_eq!((answer.status, answer.header("idempotent-replayed")), (402, replayed));
        assert_eq!(answer.json()["error"]["code"], "card_declined");
    }
    assert_eq!(sim.counts("stripe", ["refused", "effects", "replayed"]).await, [1, 0, 1]);
}

#[tokio::test]
async fn messages_are_checked_and_refusals_stored() {
    let sim = Sim::start().await;
    let table = [
        json!({}),
        json!({"message": {"template": "t"}}),
        json!({"message": {"to": {"email": "nobody"}, "template": "t"}}),
        json!({"message": {"to": [], "template": "t"}}),
        json!({"message": {"to": {"email": "a@b"}}}),
    ];
    for (number, body) in table.iter().enumerate() {
        let answer = sim.send(&number.to_string(), body.to_string()).await;
        assert_eq!((answer.status, &answer.json()["type"]), (400, &json!("invalid_request_error")), "{body}");
    }
    let replayed = sim.send("0", message("1")).await;
    assert_eq!((replayed.status, replayed.header("idempotent-replayed")), (400, Some("true")));
    assert_eq!(sim.send("big", vec![b' '; (6 << 20) + 1]).await.status, 413);
    assert_eq!(sim.counts("courier", ["refused", "effects", "replayed"]).await, [6, 0, 1]);

    let by_metadata = json!({"message": {"to": [{"user_id": "u"}], "content": {}, "metadata": {"order": 5}}});
    assert_eq!(sim.send("m", by_metadata.to_string()).await.status, 202);
    assert_eq!(sim.effects("courier").await[0]["order"], "5");
}

#[tokio::test]
async fn a_throttle_says_when_and_counts_who_does_not_listen() {
    let sim = Sim::start().await;
    sim.turn("stripe", json!({"rate_per_s": 1, "burst": 1, "retry_after_s": 2})).await;
    assert_eq!(sim.charge("a", "amount=1&currency=usd").await.unwrap().status, 200);
    let told = sim.charge("b", FORM).await.unwrap();
    assert_eq!((told.status, told.header("retry-after")), (429, Some("2")));
    assert_eq!(told.header("stripe-rate-limited-reason"), Some("global-rate"));

    let names = ["throttled", "early_retries", "calls_while_throttled", "effects"];
    sim.hand.advance(Duration::from_millis(250));
    assert_eq!(sim.charge("c", FORM).await.unwrap().status, 429, "within the grace: no offence");
    assert_eq!(sim.counts("stripe", names).await, [2, 0, 0, 1]);

    sim.hand.advance(Duration::from_millis(1749));
    assert_eq!(sim.charge("b", FORM).await.unwrap().status, 200, "the bucket has one, but it came a millisecond early");
    assert_eq!(sim.counts("stripe", names).await, [2, 1, 1, 2]);

    sim.hand.advance(Duration::from_millis(251));
    assert_eq!(sim.charge("c", FORM).await.unwrap().status, 429, "in time, and yet the bucket is empty");
    assert_eq!(sim.counts("stripe", names).await, [3, 1, 1, 2]);

    sim.hand.advance(Duration::from_secs(2));
    assert_eq!(sim.charge("c", FORM).await.unwrap().status, 200);
    assert_eq!(sim.counts("stripe", names).await, [3, 1, 1, 3]);
    assert_eq!(sim.counts("courier", names).await, [0, 0, 0, 0], "the other vendor has its own pace");
}

#[tokio::test]
async fn a_throttle_may_keep_silent_about_when() {
    let sim = Sim::start().await;
    sim.turn("courier", json!({"rate_per_s": 0.001, "burst": 1, "retry_after_s": 0})).await;
    assert_eq!(sim.send("a", message("1")).await.status, 202);
    let told = sim.send("b", message("2")).await;
    assert_eq!((told.status, told.header("retry-after")), (429, None));
    sim.hand.advance(Duration::from_secs(1));
    sim.send("b", message("2")).await;
    assert_eq!(sim.counts("courier", ["throttled", "early_retries", "calls_while_throttled"]).await, [2, 0, 0]);
}

#[tokio::test]
async fn a_cut_call_took_effect_and_its_key_replays_the_answer() {
    let sim = Sim::start().await;
    sim.turn("stripe", json!({"cut_after_acting_share": 1})).await;
    assert!(sim.charge("k", FORM).await.is_none(), "the connection ends without an answer");
    assert_eq!(sim.counts("stripe", ["effects", "cut", "replayed"]).await, [1, 1, 0]);
    let again = sim.charge("k", FORM).await.unwrap();
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(sim.counts("stripe", ["effects", "cut", "replayed", "duplicates"]).await, [1, 1, 1, 0]);

    assert!(sim.charge("another key", FORM).await.is_none());
    let names = ["effects", "duplicates", "duplicates_by_key", "duplicates_by_order"];
    assert_eq!(sim.counts("stripe", names).await, [2, 1, 0, 1]);
}

#[tokio::test]
async fn a_share_of_calls_is_throttled_whatever_the_pace() {
    let sim = Sim::start().await;
    sim.turn("stripe", json!({"throttle_share": 1})).await;
    let refused = sim.charge("k", FORM).await.unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    sim.turn("stripe", json!({"throttle_share": 0})).await;
    assert_eq!(sim.charge("another", FORM).await.unwrap().status, 200);
    assert_eq!(sim.counts("stripe", ["throttled", "effects"]).await, [1, 1]);
}

#[tokio::test]
async fn a_500_is_stored_and_a_503_is_not() {
    let sim = Sim::start().await;
    sim.turn("stripe", json!({"fail_503_share": 1})).await;
    assert_eq!(sim.charge("k", FORM).await.unwrap().status, 503);
    sim.turn("stripe", json!({"fail_503_share": 0, "fail_500_share": 1})).await;
    assert_eq!(sim.charge("k", FORM).await.unwrap().status, 500);
    sim.turn("stripe", json!({"fail_500_share": 0})).await;
    let again = sim.charge("k", FORM).await.unwrap();
    assert_eq!((again.status, again.header("idempotent-replayed")), (500, Some("true")));
    assert_eq!(sim.counts("stripe", ["failed", "effects", "replayed"]).await, [2, 0, 1]);

    sim.turn("courier", json!({"fail_500_share": 1, "fail_500_acts": true})).await;
    assert_eq!(sim.send("k", message("1")).await.status, 500);
    assert_eq!(sim.counts("courier", ["failed", "effects", "distinct_keys"]).await, [1, 1, 1]);
}

#[tokio::test]
async fn a_vendor_that_ignores_keys_makes_duplicates_and_they_are_counted() {
    let sim = Sim::start().await;
    sim.turn("courier", json!({"honour_keys": false})).await;
    for (key, order) in [("a", "1"), ("a", "1"), ("a", "2"), ("b", "2"), ("c", "3")] {
        assert_eq!(sim.send(key, message(order)).await.status, 202);
    }
    let names = ["effects", "distinct_keys", "duplicates", "duplicates_by_key", "duplicates_by_order"];
    assert_eq!(sim.counts("courier", names).await, [5, 3, 3, 2, 2]);
    let lines = sim.effects("courier").await;
    let shown: Vec<_> = lines.iter().map(|line| json!([line["key"], line["order"], line["count"]])).collect();
    assert_eq!(Value::from(shown), json!([["a", "1", 2], ["a", "2", 1], ["b", "2", 1], ["c", "3", 1]]));
}

#[tokio::test]
async fn effects_are_listed_whole_and_reset() {
    let sim = Sim::start().await;
    // More than one page.
    for order in 0..1100 {
        let form = format!("amount=5&currency=usd&metadata[order]={order}");
        assert_eq!(sim.charge(&format!("k{order}"), &form).await.unwrap().status, 200);
    }
    let lines = sim.effects("stripe").await;
    let orders: std::collections::BTreeSet<_> = lines.iter().map(|line| line["order"].as_str().unwrap()).collect();
    assert_eq!((lines.len(), orders.len()), (1100, 1100));
    assert_eq!(lines[7]["key"], "k7");
    let before = lines[0]["id"].clone();

    assert_eq!(sim.try_call(Method::DELETE, "/_ledger", &[], "").await.unwrap().status, 200);
    assert!(sim.effects("stripe").await.is_empty());
    assert_eq!(sim.charge("k0", "amount=5&currency=usd").await.unwrap().header("idempotent-replayed"), None);
    let after = sim.effects("stripe").await;
    assert_eq!((after.len(), &after[0]["order"]), (1, &Value::Null));
    assert_ne!(after[0]["id"], before, "ids are not used again");
    assert_eq!(sim.get(&format!("/v1/charges/{}", before.as_str().unwrap())).await.status, 404);
}

#[tokio::test]
async fn a_vendor_may_be_down_or_hang_and_the_other_is_well() {
    let sim = Sim::start().await;
    sim.turn("stripe", json!({"down": true})).await;
    assert!(sim.charge("k", FORM).await.is_none());
    assert_eq!(sim.send("k", message("1")).await.status, 202);

    sim.turn("stripe", json!({"down": false, "hang": true})).await;
    {
        let hanging = sim.charge("k", FORM);
        tokio::pin!(hanging);
        tokio::select! {
            _ = &mut hanging => panic!("a hanging vendor answered"),
            () = sim.until("stripe", "dropped", 2) => {}
        }
    }
    sim.turn("stripe", json!({"hang": false})).await;
    assert_eq!(sim.charge("k", FORM).await.unwrap().status, 200);
    assert_eq!(sim.counts("stripe", ["calls", "dropped", "effects"]).await, [3, 2, 1]);
}

#[tokio::test]
async fn control_changes_what_it_names_and_refuses_the_rest() {
    let sim = Sim::start().await;
    let turned = sim.turn("courier", json!({"rate_per_s": 20, "slow_share": 0.5})).await;
    assert_eq!(turned.status, 200);
    assert_eq!(sim.get("/_control/courier").await.json(), turned.json());
    assert_eq!((&turned.json()["rate_per_s"], &turned.json()["burst"]), (&json!(20.0), &json!(50)));
    for (knobs, word) in [(json!({"rate": 1}), "rate"), (json!({"slow_share": 2}), "slow_share"), (json!([]), "object")]
    {
        let answer = sim.turn("courier", knobs).await;
        assert_eq!(answer.status, 400);
        assert!(answer.text.contains(word), "{}", answer.text);
    }
    assert_eq!(sim.get("/_control/courier").await.json(), turned.json());
    assert_eq!(sim.turn("nobody", json!({})).await.status, 404);
    assert_eq!(sim.get("/_health").await.status, 200);
    assert_eq!(sim.get("/nowhere").await.status, 404);
}

#[tokio::test]
async fn a_taken_port_is_told_with_what_to_do() {
    let first = vendor_sim::bind(vendor_sim::Config::default()).await.unwrap();
    let config = vendor_sim::Config { listen: first.local_addr(), ..Default::default() };
    let error = vendor_sim::bind(config).await.err().expect("the port is taken").to_string();
    assert!(error.contains(&first.local_addr().to_string()) && error.contains("--listen"), "{error}");
}

#[tokio::test]
async fn shutdown_ends_serving_with_connections_open() {
    let server = vendor_sim::bind(vendor_sim::Config::default()).await.unwrap();
    let idle = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), server.serve(async {})).await.expect("serve ends");
    drop(idle);
}
