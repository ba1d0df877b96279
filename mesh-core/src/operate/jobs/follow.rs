//! Reading a stream for as long as somebody listens, whatever happens to the connection.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::{
    bus::{Bus, Start},
    envelope::Envelope,
    fault::Fault,
};

/// How long after a loss the reading begins again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What is heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// The next record.
    Record(Box<Envelope>),
    /// What was stored when the reading began has been said.
    CaughtUp,
}

/// What is read.
pub(super) struct Reading {
    pub(super) stream: &'static str,
    pub(super) subjects: Vec<String>,
    /// The first sequence.
    pub(super) from: u64,
}

/// Says every record from a sequence on, in order and each once, until nobody listens.
pub(super) async fn follow(bus: &Bus, mut reading: Reading, into: mpsc::Sender<Heard>) {
    let mut caught_up = false;
    while !into.is_closed() {
        if let Err(fault) = follow_once(bus, &mut reading, &mut caught_up, &into).await {
            tracing::debug!(%fault, stream = reading.stream, from = reading.from, "reading begins again");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

async fn follow_once(
    bus: &Bus,
    reading: &mut Reading,
    caught_up: &mut bool,
    into: &mpsc::Sender<Heard>,
) -> Result<(), Fault> {
    let mut following = bus.follow_from(reading.stream, reading.subjects.clone(), Start::At(reading.from)).await?;
    let mut left = following.stored();
    loop {
        if left == 0 && !*caught_up {
            *caught_up = true;
            if into.send(Heard::CaughtUp).await.is_err() {
                break;
            }
        }
        let message = tokio::select! {
            message = following.next() => message?,
            () = into.closed() => break,
        };
        let envelope = message.open().envelope;
        left = left.saturating_sub(1);
        let sequence = envelope.delivery.as_ref().map_or(0, |delivery| delivery.sequence);
        if sequence < reading.from {
            continue;
        }
        reading.from = sequence + 1;
        if into.send(Heard::Record(Box::new(envelope))).await.is_err() {
            break;
        }
    }
    following.close().await;
    Ok(())
}
