//! The independent counter of effects: a third party that honours idempotency keys, and counts what it hears.
//!
//! It uses none of our crates, so that it can't share our mistakes. What it does with a message follows from a word in the
//! message's id, by rules that a scenario sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinSet};

/// The header that names the message.
pub const ID: &str = "x-message-id";
/// The header that recognises a repeat.
pub const KEY: &str = "idempotency-key";
/// The header that says which attempt it is.
pub const ATTEMPT: &str = "x-attempt";

/// What the counter does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Takes it.
    Accept,
    /// Refuses it for good (400): no effect.
    Refuse,
    /// The first so many calls find it busy (503): no effect. Then it takes it.
    Busy(u32),
    /// Takes it, but the first so many calls lose their connection instead of getting an answer: the effect is there and
    /// nobody knows.
    Mute(u32),
    /// Hangs without an effect for so many calls, then takes it.
    Hang(u32),
    /// Takes it, and answers after so many milliseconds.
    Slow(u64),
}

/// A rule for ids that hold a word, or for one id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// `bad` stands for ids that hold `-bad-`. A whole id goes before its words.
    pub word: String,
    /// What is done with them.
    pub rule: Rule,
}

/// What the counter knows of one id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// How often it was called.
    pub calls: u32,
    /// The highest attempt that it was called by.
    pub attempt: u32,
    /// The keys under which it took effect: one, if all is well.
    pub keys: BTreeSet<String>,
    /// When it first took effect, Unix microseconds.
    pub first_us: u64,
    /// When it was last called, Unix microseconds.
    pub last_us: u64,
    /// Its place among all ids in the order of their first effects, from 1; 0: it has none.
    pub place: usize,
}

/// Everything that it knows, by id.
pub type Report = BTreeMap<String, Entry>;

#[derive(Default)]
struct Counter {
    entries: Mutex<Report>,
    rules: Mutex<BTreeMap<String, Rule>>,
    /// Ids that took effect. Changed only by whoever has the entries.
    effects: AtomicUsize,
}

/// What an answer waits for.
enum Answer {
    Now(StatusCode),
    After(Duration),
    Never,
    Cut,
}

impl Counter {
    fn rule(&self, id: &str) -> Rule {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = rules.get(id).or_else(|| id.split('-').find_map(|word| rules.get(word)));
        rule.copied().unwrap_or(Rule::Accept)
    }

    fn effect(&self, id: &str, key: &str, attempt: u32) -> Answer {
        let rule = self.rule(id);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(id.to_owned()).or_default();
        entry.calls += 1;
        entry.last_us = super::now_us();
        entry.attempt = entry.attempt.max(attempt);
        match rule {
            Rule::Refuse => return Answer::Now(StatusCode::BAD_REQUEST),
            Rule::Busy(times) if entry.calls <= times => return Answer::Now(StatusCode::SERVICE_UNAVAILABLE),
            Rule::Hang(times) if entry.calls <= times => return Answer::Never,
            _ => {}
        }
        // A key that is known changes nothing and is answered alike.
        if entry.keys.insert(key.to_owned()) && entry.first_us == 0 {
            entry.first_us = super::now_us();
            entry.place = self.effects.fetch_add(1, Ordering::Relaxed) + 1;
        }
        match rule {
            Rule::Mute(times) if entry.calls <= times => Answer::Cut,
            Rule::Slow(ms) => Answer::After(Duration::from_millis(ms)),
            _ => Answer::Now(StatusCode::OK),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> std::io::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let reply = |status: StatusCode, body: Bytes| {
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = status;
            Ok(response)
        };
        match (&parts.method, parts.uri.path()) {
            (&Method::POST, "/effect") => {
                let status = match self.effect(header(ID), header(KEY), header(ATTEMPT).parse().unwrap_or(0)) {
                    Answer::Now(status) => status,
                    Answer::After(delay) => {
                        tokio::time::sleep(delay).await;
                        StatusCode::OK
                    }
                    Answer::Never => std::future::pending().await,
                    Answer::Cut => return Err(std::io::ErrorKind::ConnectionReset.into()),
                };
                reply(status, Bytes::new())
            }
            (&Method::POST, "/rule") => {
                let Ok(order) = serde_json::from_slice::<Order>(&body) else {
                    return reply(StatusCode::BAD_REQUEST, Bytes::from_static(b"no rule"));
                };
                self.rules.lock().unwrap_or_else(PoisonError::into_inner).insert(order.word, order.rule);
                reply(StatusCode::OK, Bytes::new())
            }
            (&Method::GET, "/report") => {
                let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
                reply(StatusCode::OK, serde_json::to_vec(&*entries).unwrap_or_default().into())
            }
            (&Method::GET, "/count") => {
                let count = self.count(parts.uri.query().unwrap_or_default());
                reply(StatusCode::OK, count.to_string().into())
            }
            _ => reply(StatusCode::NOT_FOUND, Bytes::new()),
        }
    }

    /// How many ids that hold the word have taken effect. No word: how many of all.
    fn count(&self, word: &str) -> usize {
        if word.is_empty() {
            return self.effects.load(Ordering::Relaxed);
        }
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().filter(|(id, entry)| !entry.keys.is_empty() && id.split('-').any(|it| it == word)).count()
    }
}

/// Counts until it is killed. Its first line on standard output is its address.
///
/// # Errors
/// It can't listen.
pub async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    writeln!(std::io::stdout(), "ready http://{}", listener.local_addr()?)?;
    let counter = Arc::new(Counter::default());
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let counter = Arc::clone(&counter);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let counter = Arc::clone(&counter);
                async move { counter.answer(request).await }
            });
            // A connection that breaks belongs to a worker that was killed.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::order;

    #[test]
    fn a_key_counts_once_and_two_keys_count_twice() {
        let counter = Counter::default();
        counter.effect("e-good-1", "k", 1);
        counter.effect("e-good-1", "k", 1);
        counter.effect("e-good-2", "k1", 1);
        counter.effect("e-good-2", "k2", 1);
        let entries = counter.entries.lock().unwrap();
        assert_eq!((entries["e-good-1"].calls, entries["e-good-1"].keys.len()), (2, 1));
        assert_eq!(entries["e-good-2"].keys.len(), 2);
        drop(entries);
        counter.rules.lock().unwrap().insert("bad".into(), Rule::Refuse);
        counter.effect("e-bad-3", "k", 1);
        assert_eq!((counter.count("good"), counter.count("bad"), counter.count("goo")), (2, 0, 0));
        assert_eq!(counter.count(""), 2);
    }

    #[test]
    fn places_follow_the_first_effects() {
        let counter = Counter::default();
        counter.rules.lock().unwrap().insert("bad".into(), Rule::Refuse);
        // The first one is refused, so what is behind it goes past it.
        for id in ["e-bad-c1-1", "e-good-c1-2", "e-good-c2-1", "e-good-c1-2", "e-good-c2-2"] {
            counter.effect(id, "k", 1);
        }
        assert_eq!(order::violations(&counter.entries.lock().unwrap()), ["e-good-c1-2 before 1"]);
        // A rule for the one id goes before that for its word.
        counter.rules.lock().unwrap().insert("e-bad-c1-1".into(), Rule::Accept);
        counter.effect("e-bad-c1-1", "k", 2);
        counter.effect("e-good-c1-2", "another", 3);
        let entries = counter.entries.lock().unwrap();
        let places = ["e-good-c1-2", "e-good-c2-1", "e-good-c2-2", "e-bad-c1-1"].map(|id| entries[id].place);
        assert_eq!(places, [1, 2, 3, 4]);
        assert_eq!(order::violations(&entries), ["e-good-c1-2 before 1"], "what came too early came too early");
    }

    #[test]
    fn rules_follow_the_word_in_the_id() {
        let counter = Counter::default();
        for (word, rule) in [("bad", Rule::Refuse), ("busy", Rule::Busy(1)), ("mute", Rule::Mute(1))] {
            counter.rules.lock().unwrap().insert(word.into(), rule);
        }
        let keys = |id: &str| counter.entries.lock().unwrap()[id].keys.len();
        assert!(matches!(counter.effect("e-bad-1", "k", 1), Answer::Now(StatusCode::BAD_REQUEST)));
        assert_eq!(keys("e-bad-1"), 0);
        assert!(matches!(counter.effect("e-busy-1", "k", 1), Answer::Now(StatusCode::SERVICE_UNAVAILABLE)));
        assert_eq!(keys("e-busy-1"), 0);
        assert!(matches!(counter.effect("e-busy-1", "k", 1), Answer::Now(StatusCode::OK)));
        assert!(matches!(counter.effect("e-mute-1", "k", 1), Answer::Cut));
        assert_eq!(keys("e-mute-1"), 1, "there, and nobody knows");
        assert!(matches!(counter.effect("e-mute-1", "k", 1), Answer::Now(StatusCode::OK)));
    }
}
