//! What a person is told where nothing is meant by what was typed: what is there instead.

use std::collections::BTreeMap;

use mesh_core::{
    operate::keeper::{KeeperSettings, ask},
    proto::v1,
};
use mesh_tests::{TestBroker, eventually, keeper::Running};

use crate::{
    command_line::Operator,
    letters_cli::{WORKER, charge_letter, refused, some_letters},
    shop::{bank, till},
};

async fn said(operator: &Operator, status: i32, words: &[&str]) -> String {
    let ended = operator.run(words).await;
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(status), "{words:?}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_fits_nothing_is_answered_with_what_there_is() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    some_letters(&broker).await;
    let operator = Operator::at(&broker, "operator");
    let mesh = broker.connect("operator").await.unwrap();
    let keeper = Running::start(&broker, KeeperSettings::default()).await.unwrap();
    eventually("an answer", || async { ask::count(mesh.bus(), v1::LetterQuery::default()).await.ok() }).await;
    let there = format!("(there are letters of: bank/{WORKER})");
    let hold = |filter: &[&'static str]| [&["hold", "--why", "x", "--yes"][..], filter].concat();
    let wrong = "--consumer=payments/charge";
    for (words, parts) in [
        (vec!["list", wrong], [r#"no letter of consumer "payments/charge" "#, &there]),
        (vec!["group", wrong], [r#"no letter of consumer "payments/charge" "#, &there]),
        (vec!["list", "--consumer", "bank"], [r#"no letter of consumer "bank" "#, &there]),
        (vec!["replay", wrong], ["nothing to replay: no letter of consumer", &there]),
        (vec!["replay", wrong, "--rate", "5/s"], ["nothing to replay: no letter of consumer", &there]),
        (hold(&[wrong]), ["no letters to hold: no letter of consumer", &there]),
        (
            vec!["edit", wrong, "--set", "currency=USD", "--why", "x"],
            ["no letters to edit: no letter of consumer", &there],
        ),
        (vec!["export", wrong], ["no letter of consumer", &there]),
        (vec!["list", "--vendor", "strip"], [r#"no letter of vendor "strip" "#, "of: stripe)"]),
        (vec!["list", "--type", "OrderPlaced"], ["no letter of type", "of: shop.payments.v1.Payments/Charge)"]),
        (vec!["list", "--reason", "107"], [r#"no letter of reason "MESH-0107""#, "of: MESH-0023, MESH-0103)"]),
        (vec!["list", "--state", "held"], ["no letters; in other states: 5 open", "--state all"]),
        (
            vec!["list", "--where", "payload.amount_cents == 7"],
            ["no letters; without --where", "there would be 5 letters"],
        ),
        (vec!["list", "--since", "1h", "--until", "2h"], ["no letters fit", "5 open"]),
    ] {
        let said = said(&operator, 0, &[&["dead-letter"], words.as_slice()].concat()).await;
        assert!(parts.iter().all(|part| said.contains(part)), "{words:?}: no {parts:?} in {said}");
    }
    keeper.stop().await;
    // Without a keeper it is not read again for it.
    let alone = said(&operator, 0, &["dead-letter", "list", wrong]).await;
    assert!(alone.contains("no letters fit --consumer payments/charge"), "{alone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_several_ids_is_answered_with_these_ids() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    // Of 17 ids at least two begin alike.
    let mut alike: BTreeMap<char, Vec<String>> = BTreeMap::new();
    for number in 0..17 {
        let id = charge_letter(mesh.bus(), number, &refused(number), Vec::new()).await;
        alike.entry(id.chars().next().unwrap()).or_default().push(id);
    }
    let (first, ids) = alike.into_iter().max_by_key(|(_, ids)| ids.len()).unwrap();
    let operator = Operator::at(&broker, "operator");
    let said = said(&operator, 2, &["dead-letter", "show", &first.to_string()]).await;
    assert!(said.contains(&format!("the ids of {} letters begin with \"{first}\"", ids.len())), "{said}");
    for id in &ids {
        assert!(said.contains(&format!("{id}  bank/{WORKER}")), "no {id} in {said}");
    }
    let several = self::said(&operator, 2, &["dead-letter", "replay", &ids[0], "ffffffff0", "ffffffff1"]).await;
    assert!(several.contains("no letter's id begins with \"ffffffff0\" or \"ffffffff1\""), "{several}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_none_is_refused_with_those_that_are() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let operator = Operator::at(&broker, "operator");
    for words in [&["dead-letter", "list"][..], &["dead-letter", "jobs", "list"], &["ledger"]] {
        let said = said(&operator, 2, &[words, &["--region", "mars"]].concat()).await;
        assert!(said.contains("error[MESH-0208]: no region \"mars\" is here; there is: local"), "{said}");
        operator.json(0, &[words, &["--region", "local"]].concat()).await;
    }
}
