//! What the ledger is made from: the broker's streams, and the vendor's own account over HTTP.

use std::time::Duration;

use crate::cluster::trouble;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use mesh_core::bus::{Bus, Stop};
use mesh_core::dead_letter::{Letter, Letters};
use mesh_core::fault::{Fault, Reason};
use mesh_core::subject::{self, DEAD_LETTER_STREAM};
use serde::Deserialize;
use serde_json::Value;

use super::account::VendorCounts;
use super::{Effects, Ids};

/// How long the vendor may take for a part of an answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The ids of every event of one type, as they stand in its producer's stream.
///
/// # Errors
/// The stream can't be read.
pub async fn events(bus: &Bus, producer: &str, event: &str) -> Result<Ids, Fault> {
    let region = bus.gate().identity().region();
    let filter = format!("{}.event.{region}.{producer}.{event}.*", subject::WIRE);
    let mut ids = Ids::default();
    let each = |message: mesh_core::gate::Unopened| {
        ids.add(local_id(&message.open().envelope.message_id));
        Stop::No
    };
    bus.read(&subject::event_stream(producer), &filter, each).await?;
    Ok(ids)
}

/// Letters that nobody has ended, told apart by whether the work may have happened.
#[derive(Debug, Clone, Default)]
pub struct LetterIds {
    /// It surely did not happen.
    pub dead: Ids,
    /// Nobody knows.
    pub parked: Ids,
}

/// Every letter.
///
/// # Errors
/// The stream can't be read.
pub async fn letters(bus: &Bus) -> Result<Vec<Letter>, Fault> {
    let mut letters = Letters::default();
    let each = |message: mesh_core::gate::Unopened| {
        letters.apply(&message.open().envelope);
        Stop::No
    };
    bus.read(DEAD_LETTER_STREAM, &format!("{}.dead.>", subject::WIRE), each).await?;
    Ok(letters.into_map().into_values().collect())
}

/// The ids of the letters of some services that nobody has ended.
#[must_use]
pub fn letters_of(letters: &[Letter], services: &[&str]) -> LetterIds {
    let mut ids = LetterIds::default();
    let open = letters.iter().filter(|letter| !letter.state.is_ended());
    for letter in open.filter(|letter| services.contains(&letter.letter.service.as_str())) {
        let fault = letter.letter.fault.as_ref();
        let unknown = fault.is_some_and(|fault| {
            fault.reason == Reason::OutcomeUnknown.code()
                || fault.effect == i32::from(mesh_core::fault::Effect::Unknown)
        });
        let message_id = letter.letter.source.as_ref().map_or("", |source| &source.message_id);
        let set = if unknown { &mut ids.parked } else { &mut ids.dead };
        set.add(local_id(message_id));
    }
    ids
}

/// The last part of a message's id: what its sender chose.
fn local_id(message_id: &str) -> &str {
    message_id.splitn(3, '/').last().unwrap_or_default()
}

/// Reads the account of the stand-in vendors.
#[derive(Debug, Clone)]
pub struct Vendors {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

/// The counts of both.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct BothCounts {
    /// Of the Stripe-like vendor.
    pub stripe: VendorCounts,
    /// Of the Courier-like vendor.
    pub courier: VendorCounts,
}

#[derive(Deserialize)]
struct EffectLine {
    count: u64,
    order: Option<String>,
}

impl Vendors {
    /// Vendors at `base`, `http://127.0.0.1:port`.
    #[must_use]
    pub fn new(base: String) -> Vendors {
        Vendors { client: Client::builder(TokioExecutor::new()).build_http(), base }
    }

    /// Their address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// What they have counted.
    ///
    /// # Errors
    /// They don't answer.
    pub async fn counts(&self) -> Result<BothCounts, Fault> {
        let body = self.get("/_ledger").await?;
        let body = within(body.collect()).await?.map_err(|error| silent(&error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| silent(&error))
    }

    /// How often each order took effect at a vendor: `stripe` or `courier`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn effects(&self, vendor: &str) -> Result<Effects, Fault> {
        let mut body = self.get(&format!("/_ledger/{vendor}/effects")).await?;
        let (mut effects, mut rest) = (Effects::default(), BytesMut::new());
        // Line by line: the whole list would be the largest thing in this process.
        while let Some(frame) = within(body.frame()).await? {
            let Ok(data) = frame.map_err(|error| silent(&error))?.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                add_line(&mut effects, &rest.split_to(end + 1))?;
            }
        }
        add_line(&mut effects, &rest)?;
        Ok(effects)
    }

    /// Changes how a vendor behaves: those of its knobs that are named.
    ///
    /// # Errors
    /// It does not answer, or knows no such knob.
    pub async fn set(&self, vendor: &str, knobs: &Value) -> Result<(), Fault> {
        self.send(Method::PUT, &format!("/_control/{vendor}"), knobs.to_string().into()).await.map(drop)
    }

    async fn get(&self, path: &str) -> Result<Incoming, Fault> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Incoming, Fault> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base)).body(Full::new(body));
        let request = request.map_err(|error| silent(&error))?;
        let response = within(self.client.request(request)).await?.map_err(|error| silent(&error))?;
        if !response.status().is_success() {
            return Err(trouble(format!("the stand-in vendors answer {} to {path}", response.status())));
        }
        Ok(response.into_body())
    }
}

fn add_line(effects: &mut Effects, line: &[u8]) -> Result<(), Fault> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let line: EffectLine = serde_json::from_slice(line).map_err(|error| silent(&error))?;
    effects.add(line.order.as_deref(), line.count);
    Ok(())
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, Fault> {
    let late = |_| trouble(format!("the stand-in vendors did not answer within {} s", TIMEOUT.as_secs()));
    tokio::time::timeout(TIMEOUT, work).await.map_err(late)
}

fn silent(error: &dyn std::error::Error) -> Fault {
    trouble("the account of the stand-in vendors can't be read").with_detail(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_effects() {
        let mut effects = Effects::default();
        for line in [
            r#"{"count":1,"id":"ch_1","key":"k","order":"7"}"#,
            r#"{"count":2,"id":"ch_2","key":"l","order":"7"}"#,
            r#"{"count":1,"id":"ch_3","key":"m","order":null}"#,
            "\n",
        ] {
            add_line(&mut effects, line.as_bytes()).unwrap();
        }
        assert_eq!(effects.counts[&7], 3);
        assert_eq!(effects.strays.len(), 1);
        assert!(add_line(&mut effects, b"{").is_err());
    }

    #[test]
    fn the_senders_part_of_an_id_is_the_last() {
        assert_eq!(local_id("orders/shop.orders.v1.OrderPlaced/17"), "17");
        assert_eq!(local_id("payments/shop.payments.v1.Payments.Charge/17"), "17");
    }
}
