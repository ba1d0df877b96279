//! One vendor over HTTP: reads a call, asks the desk, waits, answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header, request};
use hyper::body::Incoming;
use serde_json::json;
use url::form_urlencoded;

use crate::answer::{self, Cut, Pages, Reply};
use crate::book::{Effect, Rule};
use crate::clock::Clock;
use crate::config::VendorConfig;
use crate::desk::{Call, Decision, Desk, Posture, Refused, Verdict};
use crate::{courier, stripe};

/// Longest idempotency key, in bytes.
const KEY_LIMIT: usize = 255;
/// Effects per page of the listing: the desk is held only so long.
const PAGE: usize = 128;

static BAD_KEY: Rule =
    Rule { status: 400, code: "", param: "", message: "The Idempotency-Key must be 1 to 255 printable characters." };

/// Which vendor is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stripe,
    Courier,
}

/// A vendor and its state.
#[derive(Debug)]
pub(crate) struct Vendor {
    kind: Kind,
    clock: Clock,
    bearer: String,
    basic: String,
    desk: Mutex<Desk>,
    requests: AtomicU64,
}

impl Vendor {
    pub(crate) fn new(kind: Kind, config: &VendorConfig, seed: u64, clock: Clock) -> Self {
        let (manners, seed) = match kind {
            Kind::Stripe => (stripe::MANNERS, seed),
            // Another stream of luck, so that the two vendors don't fail in step.
            Kind::Courier => (courier::MANNERS, !seed),
        };
        Self {
            kind,
            clock,
            bearer: config.key.text().to_owned(),
            basic: STANDARD.encode(format!("{}:", config.key.text())),
            desk: Mutex::new(Desk::new(config.knobs.clone(), manners, seed)),
            requests: AtomicU64::new(0),
        }
    }

    /// The desk. Held only for a decision, never over a wait.
    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that wants an effect.
    pub(crate) async fn act(&self, parts: &request::Parts, body: Incoming) -> Result<Reply, Cut> {
        let body = self.enter(body).await?;
        let (decision, reply) = self.decide(parts, body.as_deref());
        self.clock.wait_until(decision.ready_at).await;
        if decision.cut { Err(Cut) } else { Ok(self.signed(reply)) }
    }

    /// A charge by its id, or the charges of an order (Stripe-like vendor).
    pub(crate) async fn look_up(&self, parts: &request::Parts, body: Incoming) -> Result<Reply, Cut> {
        self.enter(body).await?;
        let admitted = self.desk().decide_look_up(self.clock.now(), self.is_authentic(&parts.headers));
        let ready_at = match admitted {
            Ok(ready_at) => ready_at,
            Err(verdict) => return Ok(self.signed(stripe::render(&verdict, None))),
        };
        self.clock.wait_until(ready_at).await;
        let desk = self.desk();
        let reply = match parts.uri.path().strip_prefix("/v1/charges/") {
            Some(id) => charge(&desk, id),
            None => charges(&desk, parts.uri.query().unwrap_or("")),
        };
        drop(desk);
        Ok(self.signed(reply))
    }

    /// Passes the door: reads the body, or ends as the vendor's posture says.
    async fn enter(&self, body: Incoming) -> Result<Option<Vec<u8>>, Cut> {
        let posture = self.desk().posture();
        if posture == Posture::Down {
            return Err(Cut);
        }
        let limit = match self.kind {
            Kind::Stripe => stripe::BODY_LIMIT,
            Kind::Courier => courier::BODY_LIMIT,
        };
        let bytes = answer::read(body, limit).await?;
        if posture == Posture::Hanging {
            // Ends when the client goes: the connection then drops this future.
            std::future::pending::<()>().await;
        }
        Ok(bytes)
    }

    fn decide(&self, parts: &request::Parts, body: Option<&[u8]>) -> (Decision, Reply) {
        let mut desk = self.desk();
        let min_amount = desk.knobs.min_amount;
        drop(desk);
        let call = self.call(parts, body, min_amount);
        desk = self.desk();
        let decision = desk.decide(self.clock.now(), call);
        let reply = self.render(&desk, &decision.verdict);
        (decision, reply)
    }

    fn call<'a>(&self, parts: &'a request::Parts, body: Option<&[u8]>, min_amount: i64) -> Call<'a> {
        let (params, wish) = match self.kind {
            Kind::Stripe => stripe::parse(&parts.headers, body, min_amount),
            Kind::Courier => courier::parse(body),
        };
        let (key, wish) = match key(&parts.headers) {
            Ok(key) => (key, wish),
            Err(rule) => (None, Err(Refused { rule, param: None })),
        };
        let authentic = self.is_authentic(&parts.headers);
        Call { authentic, key, params, wish, now_s: unix_seconds() }
    }

    fn is_authentic(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        match value.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key == self.bearer,
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("basic") => {
                self.kind == Kind::Stripe && key == self.basic
            }
            _ => false,
        }
    }

    fn render(&self, desk: &Desk, verdict: &Verdict) -> Reply {
        let place = match verdict {
            Verdict::Ended { effect, .. } => *effect,
            _ => None,
        };
        match self.kind {
            Kind::Stripe => stripe::render(verdict, place.and_then(|index| shown(desk, index))),
            Kind::Courier => courier::render(verdict, place.map(|index| courier::id(desk.life, index))),
        }
    }

    /// Adds the vendor's own id of the request.
    fn signed(&self, mut reply: Reply) -> Reply {
        if self.kind == Kind::Stripe {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            if let Ok(id) = HeaderValue::try_from(format!("req_{number:014x}")) {
                reply.headers_mut().insert("request-id", id);
            }
        }
        reply
    }
}

/// Every effect of `vendor`, a line each.
pub(crate) fn listing(vendor: Arc<Vendor>) -> Reply {
    let mut next = 0;
    answer::lines(Pages::new(move || {
        let desk = vendor.desk();
        let page = desk.book.effects_from(next);
        let page = &page[..page.len().min(PAGE)];
        let mut lines = String::new();
        for (index, effect) in (next..).zip(page).filter(|(_, effect)| effect.count > 0) {
            lines.push_str(&line(vendor.kind, desk.life, index, effect));
        }
        next += page.len();
        (!page.is_empty()).then(|| Bytes::from(lines))
    }))
}

fn line(kind: Kind, life: u32, index: usize, effect: &Effect) -> String {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let id = match kind {
        Kind::Stripe => stripe::id(life, index),
        Kind::Courier => courier::id(life, index),
    };
    let (key, order) = (effect.key.as_deref(), effect.order.as_deref());
    format!("{}\n", json!({"key": key, "order": order, "count": effect.count, "id": id}))
}

fn shown(desk: &Desk, index: u32) -> Option<String> {
    desk.book.effect(index).map(|effect| stripe::shown(&stripe::id(desk.life, index), effect))
}

fn charge(desk: &Desk, id: &str) -> Reply {
    match stripe::index(desk.life, id).and_then(|index| shown(desk, index)) {
        Some(charge) => answer::json(200, charge),
        None => stripe::missing("No such charge."),
    }
}

fn charges(desk: &Desk, query: &str) -> Reply {
    let order = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "metadata[order]");
    let Some((_, order)) = order else {
        return stripe::missing("Charges are listed by metadata[order] only.");
    };
    let found: Vec<_> = desk
        .book
        .of_order(&order)
        .map(|(index, effect)| stripe::shown(&stripe::id(desk.life, index), effect))
        .collect();
    stripe::list(&found)
}

fn key(headers: &HeaderMap) -> Result<Option<&str>, &'static Rule> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=KEY_LIMIT).contains(&key.len()) => Ok(Some(key)),
        _ => Err(&BAD_KEY),
    }
}

fn unix_seconds() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
