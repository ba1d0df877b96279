//! Which keys are blocked, at the command line.

use std::sync::Arc;

use mesh_core::Fault;
use mesh_tests::{eventually, person};
use serde_json::{Value, json};

use crate::{
    command_line::Operator,
    ordered::{Log, Verdict, broker, done, process, publish, settings},
};

#[tokio::test(flavor = "multi_thread")]
async fn blocked_names_the_key_what_blocks_it_and_how_much_waits_behind_it() {
    let broker = broker().await;
    let operator = Operator::at(&broker, "operator");
    let none = operator.json(0, &["dead-letter", "blocked"]).await;
    assert_eq!(none, json!([]));
    let log = Log::of(3);
    let verdict: Verdict =
        Arc::new(|event, _| if event.order_id == "1" { Err(Fault::invalid("not this one")) } else { Ok(()) });
    let mesh = process(&broker, &log, &verdict, settings()).await;
    publish(&broker, 3, 1..=30).await;
    eventually("the other keys", || async { (done(&log) == 20).then_some(()) }).await;
    let letter = eventually("the letter", || async { operator.letters().await.pop() }).await;
    let letter = letter["id"].as_str().unwrap();

    let blocked = async |words: &[&str]| operator.json(0, &[&["dead-letter", "blocked"], words].concat()).await;
    let found = eventually("nine followers", || async {
        let found = blocked(&["--reveal"]).await;
        (found[0]["followers"] == 9).then_some(found)
    })
    .await;
    let [of_key] = &found.as_array().unwrap()[..] else { panic!("{found}") };
    let said = ["key", "service", "consumer", "state", "letter", "messageId"].map(|name| &of_key[name]);
    let message_id = "orders/shop.orders.v1.OrderPlaced/1";
    assert_eq!(said, ["c1", "mail", "work", "letter", letter, message_id]);
    assert!(of_key["sinceMs"].as_i64().unwrap() > 0);
    let hidden = |found: &Value| (found.as_array().unwrap().len(), found[0]["key"].clone());
    assert_eq!(hidden(&blocked(&["--consumer", "mail/work"]).await), (1, json!("***")), "a key may be personal");
    assert_eq!(blocked(&["--consumer", "mail/other"]).await, json!([]));

    // For a person: a table, and what to do next.
    let page = operator.run(&["dead-letter", "blocked", "--reveal"]).await;
    let (table, remark) = (String::from_utf8_lossy(&page.stdout), String::from_utf8_lossy(&page.stderr));
    let rows: Vec<_> = table.lines().filter(|line| line.contains("mail/work")).collect();
    assert_eq!(rows.len(), 1, "{table}");
    for part in ["c1", &format!("letter {}", &letter[..8]), "9"] {
        assert!(rows[0].contains(part), "no {part:?} in {table}");
    }
    assert!(remark.contains(&format!("next: mesh dead-letter show {}", &letter[..8])), "{remark}");

    // Given up: those behind it go on, and nothing is blocked.
    operator.json(0, &["dead-letter", "discard", letter, "--why", "given up", "--yes"]).await;
    let shown = operator.json(0, &["dead-letter", "show", letter]).await;
    assert_eq!(shown["history"][1]["by"], person("ada"));
    eventually("those behind it", || async { (done(&log) == 29).then_some(()) }).await;
    eventually("no blocked key", || async { (blocked(&[]).await == json!([])).then_some(()) }).await;
    let page = operator.run(&["dead-letter", "blocked"]).await;
    assert!(page.status.success() && String::from_utf8_lossy(&page.stderr).contains("no key is blocked"), "{page:?}");
    mesh.drain().await;
}
