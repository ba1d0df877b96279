//! The hidden paths: a vendor's knobs while it runs, and its ledger. No credential: they are for tests.

use std::sync::Arc;

use http::{Method, request};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::answer::{self, Cut, Reply};
use crate::server::Vendors;
use crate::vendor::{self, Vendor};

/// Longest set of knobs that is read, in bytes.
const BODY_LIMIT: usize = 64 << 10;

/// Answers a call of a hidden path.
pub(crate) async fn answer(vendors: &Vendors, parts: &request::Parts, body: Incoming) -> Result<Reply, Cut> {
    let words: Vec<_> = parts.uri.path().split('/').skip(1).collect();
    let reply = match (&parts.method, words.as_slice()) {
        (&Method::GET, ["_ledger"]) => ledger(vendors),
        (&Method::DELETE, ["_ledger"]) => reset(vendors),
        (&Method::GET, ["_ledger", name, "effects"]) => of(vendors, name, |vendor| vendor::listing(Arc::clone(vendor))),
        (&Method::GET, ["_control", name]) => of(vendors, name, |vendor| knobs(vendor)),
        (&Method::PUT, ["_control", name]) => {
            let body = answer::read(body, BODY_LIMIT).await?.unwrap_or_default();
            of(vendors, name, |vendor| turn(vendor, &body))
        }
        _ => error(404, "no such path; the README of vendor-sim lists them"),
    };
    Ok(reply)
}

fn of(vendors: &Vendors, name: &str, answer: impl FnOnce(&Arc<Vendor>) -> Reply) -> Reply {
    match name {
        "stripe" => answer(&vendors.stripe),
        "courier" => answer(&vendors.courier),
        _ => error(404, "no such vendor; they are stripe and courier"),
    }
}

fn ledger(vendors: &Vendors) -> Reply {
    let stripe = vendors.stripe.desk().counts.clone();
    let courier = vendors.courier.desk().counts.clone();
    answer::value(200, &json!({"stripe": stripe, "courier": courier}))
}

fn reset(vendors: &Vendors) -> Reply {
    vendors.stripe.desk().reset();
    vendors.courier.desk().reset();
    ledger(vendors)
}

fn knobs(vendor: &Vendor) -> Reply {
    let knobs = vendor.desk().knobs.clone();
    answer::value(200, &json!(knobs))
}

fn turn(vendor: &Vendor, body: &[u8]) -> Reply {
    let changes: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(changes) => changes,
        Err(cause) => return error(400, &format!("the body must be a JSON object of knobs: {cause}")),
    };
    let mut desk = vendor.desk();
    match desk.knobs.with(changes) {
        Ok(knobs) => desk.knobs = knobs,
        Err(cause) => return error(400, &format!("{cause}; nothing was changed")),
    }
    drop(desk);
    knobs(vendor)
}

fn error(status: u16, message: &str) -> Reply {
    answer::value(status, &json!({ "error": message }))
}
