//! At the command line, letters whose messages lie apart are like others.

use mesh_core::{Fault, dead_letter::LetterState, operate::letters, subject::CLAIM_STREAM};
use mesh_tests::TestBroker;
use serde_json::Value;

use crate::{
    claims::{
        MAX_PAYLOAD, by_ada, consume, foreign, messages, nothing_lies_apart, one_letter, order_of, publish,
        start_keeper,
    },
    command_line::Operator,
    shop::{consumer, orders},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_apart_is_shown_mended_taken_out_put_back_and_replayed() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let keeper = start_keeper(&broker).await;
    let (_a, seen) = consume(&broker, 1, || Fault::invalid("not today")).await;
    let event = order_of(MAX_PAYLOAD - 200);
    publish(&broker, "1", &event).await;
    let id = one_letter(&broker, LetterState::Open).await.letter.id;
    let operator = Operator::at(&broker, "operator");
    let shown = operator.json(0, &["dead-letter", "show", &id]).await;
    assert_eq!(shown["payload"]["placedOn"], event.placed_on);
    assert!(shown["headers"].as_array().unwrap().iter().any(|header| header["name"] == "tenant"));

    let edit = ["dead-letter", "edit", &id, "--set", "currency=EUR", "--why", "ticket 17"];
    let edited = operator.json(0, &edit).await;
    assert_eq!((&edited[0]["changes"][0]["after"], &edited[0]["written"]), (&"EUR".into(), &true.into()));
    let shown = operator.json(0, &["dead-letter", "show", &id]).await;
    assert_eq!((&shown["payload"]["currency"], &shown["payload"]["orderId"]), (&"EUR".into(), &"1".into()));
    assert_eq!(shown["history"][1]["changes"][0]["path"], "currency", "told against the bytes as they came");

    let dry = operator.json(0, &["dead-letter", "replay", &id, "--dry-run"]).await;
    assert_eq!((&dry["mended"], &dry["edits"][0]["changes"][0]["after"]), (&1.into(), &"EUR".into()));

    // Taken out with its bytes; these are lost; put back, it is as it was.
    let file = operator.home.path().join("letters.ndjson").display().to_string();
    assert!(operator.run(&["dead-letter", "export", "--to", &file]).await.status.success());
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((line["payload"]["currency"].as_str(), line["apart"].as_array().unwrap().len()), (Some("EUR"), 2));
    foreign(&broker, "operator").await.get_stream(CLAIM_STREAM).await.unwrap().purge().await.unwrap();
    let shown = operator.json(0, &["dead-letter", "show", &id]).await;
    assert!(shown["payload"].as_str().unwrap().contains("MESH-0031"), "{}", shown["payload"]);
    let ended = operator.run(&edit).await;
    assert!(String::from_utf8_lossy(&ended.stderr).contains("MESH-0031"), "{ended:?}");
    let dry = operator.json(0, &["dead-letter", "replay", &id, "--dry-run"]).await;
    let note = dry["edits"][0]["changes"][0]["note"].as_str().unwrap();
    assert!(dry["mended"] == 1 && note.contains("not shown") && note.contains("MESH-0031"), "{dry}");
    let counts = operator.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!((&counts["imported"], &counts["skipped"]), (&0.into(), &1.into()));
    let shown = operator.json(0, &["dead-letter", "show", &id]).await;
    assert_eq!(shown["payload"]["placedOn"], event.placed_on);

    // And into another mesh.
    let there = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let other = Operator::at(&there, "operator");
    assert_eq!(other.json(0, &["dead-letter", "import", &file]).await["imported"], 1);
    let shown = other.json(0, &["dead-letter", "show", &id]).await;
    assert_eq!(
        (&shown["payload"]["currency"], &shown["payload"]["placedOn"]),
        (&"EUR".into(), &event.placed_on.as_str().into())
    );
    let text = std::fs::read_to_string(&file).unwrap();
    let damaged = operator.home.path().join("damaged.ndjson").display().to_string();
    let mut line: Value = serde_json::from_str(&text).unwrap();
    line["apart"][0] = "AAAA".into();
    std::fs::write(&damaged, format!("{line}\n")).unwrap();
    let ended = other.run(&["dead-letter", "import", &damaged]).await;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(2) && said.contains("damaged.ndjson:1: "), "{said}");

    let mesh = broker.connect("operator").await.unwrap();
    let letter = letters::find(mesh.bus(), &id).await.unwrap();
    letters::replay(mesh.bus(), &letter, &by_ada()).await.unwrap();
    one_letter(&broker, LetterState::Resolved).await;
    let seen = seen.lock().await;
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[1].1.currency.as_str(), &seen[1].1.placed_on), ("EUR", &event.placed_on));
    nothing_lies_apart(&broker).await;
    assert_eq!(messages(&broker, "mesh1-lane-a").await, 0);
    let shown = operator.json(0, &["dead-letter", "show", &id]).await;
    assert!(shown["payload"].as_str().unwrap().contains("taken away"), "{}", shown["payload"]);
    keeper.stop().await;
}
