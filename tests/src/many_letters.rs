//! Letters by the million: written as services write them, so fast that a scenario or a benchmark can begin with them, and jobs
//! that replay them all.

use std::{
    borrow::Cow,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::ensure;
use futures_util::{StreamExt as _, stream};
use mesh_core::{
    bus::Bus,
    operate::{
        jobs::{self, Job},
        keeper::ask,
    },
    policy::compile::{Consumes, Declaration},
    proto::v1,
    subject::{DEAD_LETTER_STREAM, dead_letter},
};
use prost::Message as _;

use crate::{Growing, broker::REGION, letters::EVENT};

/// Services that have letters.
pub const SERVICES: u64 = 5;
/// Their consumers: a letter of each in turn.
pub const CONSUMERS: u64 = 20;
/// Writers that wait for their acknowledgement at once.
const WRITERS: usize = 4096;
/// How often it is looked how far the jobs are.
const LOOK: Duration = Duration::from_millis(200);

/// Who has the letters, and who publishes.
///
/// # Errors
/// Never: the names are good.
pub fn declarations() -> anyhow::Result<Vec<Declaration>> {
    let mut orders = Declaration::new("orders".parse()?);
    orders.publishes.insert(EVENT.into());
    let mut all = vec![orders];
    for service in 0..SERVICES {
        let mut declaration = Declaration::new(format!("service-{service}").parse()?);
        for number in (0..CONSUMERS).filter(|number| number % SERVICES == service) {
            let consumer = format!("consumer-{number}").parse()?;
            declaration.consumes.insert(Consumes {
                consumer,
                producer: "orders".into(),
                event: EVENT.into(),
                ordered: false,
            });
        }
        all.push(declaration);
    }
    Ok(all)
}

/// Writes the letters of these numbers, and says each time how many the broker has confirmed.
///
/// # Errors
/// The broker does not confirm one.
pub async fn write(bus: &Bus, numbers: Range<u64>, mut confirmed: impl FnMut(u64)) -> anyhow::Result<()> {
    let region = REGION.parse()?;
    let mut writing = stream::iter(numbers)
        .map(|number| {
            let (letter, region) = (letter(number), &region);
            async move {
                let (service, consumer) = (letter.service.parse()?, letter.consumer.parse()?);
                let subject = dead_letter(region, &service, &consumer, &letter.id);
                let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Captured(letter)) };
                let expected = (Cow::Borrowed("Nats-Expected-Last-Subject-Sequence"), "0".to_owned());
                let sealed = bus.gate().seal_own(subject, vec![expected], record.encode_to_vec().into());
                anyhow::Ok(bus.publish(DEAD_LETTER_STREAM, sealed).await?)
            }
        })
        .buffer_unordered(WRITERS);
    let mut count = 0;
    while let Some(stored) = writing.next().await {
        stored?;
        count += 1;
        confirmed(count);
    }
    Ok(())
}

/// The id of a letter: spread as the digits of a hash are, and never the same twice, since it ends in the number.
fn id_of(number: u64) -> String {
    let spread = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    format!("{spread:016x}{number:016x}")
}

/// The number of the letter that has this id.
#[must_use]
pub fn number_of(id: &str) -> Option<u64> {
    let number = u64::from_str_radix(id.get(16..)?, 16).ok()?;
    (id_of(number) == id).then_some(number)
}

/// A letter as services write it: 20 consumers, 8 reasons, 3 vendors with 40 codes each.
fn letter(number: u64) -> v1::DeadLetter {
    let text = |name: &str, of: u64| format!("{name}-{}", number % of);
    let fault = v1::Fault {
        code: 3,
        effect: 1,
        reason: format!("MESH-01{:02}", 1 + number % 8),
        message: format!("the vendor said no to order {number}"),
        detail: "HTTP 400 invalid_request_error".into(),
        origin: Some(v1::Origin {
            service: text("service", SERVICES),
            vendor: text("vendor", 3),
            operation: "shop.payments.v1.Payments/Charge".into(),
            request_id: format!("req_{number}"),
            http_status: 400,
            vendor_code: text("code", 40),
        }),
        ..v1::Fault::default()
    };
    v1::DeadLetter {
        id: id_of(number),
        service: text("service", SERVICES),
        consumer: text("consumer", CONSUMERS),
        source: Some(v1::Source {
            stream: "mesh1-work-shop-payments-v1-Payments".into(),
            sequence: number,
            subject: "mesh1.work.local.shop.payments.v1.Payments.Charge.normal.3.payments".into(),
            message_id: format!("payments/shop.payments.v1.Payments.Charge/{number}"),
            stored_at_ms: 1_795_000_000_000,
            deliveries: 1,
        }),
        message_type: "shop.payments.v1.Payments/Charge".into(),
        payload: vec![7; 120].into(),
        headers: vec![v1::Header { name: "Nats-Msg-Id".into(), value: format!("payments/Charge/{number}") }],
        attempts: vec![v1::Attempt {
            number: 1,
            duration_us: 900,
            fault: Some(fault.clone()),
            ..v1::Attempt::default()
        }],
        fault: Some(fault),
        captured_at_ms: 1_795_000_000_000 + number.cast_signed() / 7,
        caller: "payments".into(),
        ..v1::DeadLetter::default()
    }
}

/// Waits until a keeper's index answers, and for so many letters.
///
/// # Errors
/// It does not within ten minutes.
pub async fn indexed(bus: &Bus, letters: u64) -> anyhow::Result<()> {
    let since = Instant::now();
    while ask::count(bus, v1::LetterQuery::default()).await.map_or(0, |count| count.total) < letters {
        ensure!(since.elapsed() < Duration::from_secs(600), "the index never has {letters} letters");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Waits until each of the jobs has sent or skipped every letter that it is about.
///
/// # Errors
/// They stand still.
pub async fn looked_at(bus: &Bus) -> anyhow::Result<Vec<Job>> {
    let mut growing = Growing::new("letters that the jobs have looked at");
    loop {
        let all = jobs::list(bus).await?;
        let looked_at = |job: &Job| job.counts().dispatched + job.counts().skipped.total();
        if all.iter().all(|job| looked_at(job) >= job.replay.selected) {
            return Ok(all);
        }
        growing.look(all.iter().map(looked_at).sum())?;
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letters_number_is_known_by_its_id_alone() {
        for number in [0, 7, 1_000_999, u64::MAX] {
            assert_eq!(number_of(&id_of(number)), Some(number));
        }
        assert_eq!(number_of(&format!("{:032x}", 7)), None, "not one of ours");
        assert_eq!(number_of("7"), None);
    }
}
