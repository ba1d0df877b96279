//! What consumers have under way, stopping one for a while, and having it begin again: for whoever moves methods.

use std::time::Duration;

use chrono::DateTime;
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::{Bus, shape};
use crate::{clock::rfc3339, fault::Fault};

/// Until then the broker has written what changed of a consumer: it waits 0.1 s for more, and then for its disk.
const WRITTEN_AFTER: Duration = Duration::from_millis(500);

/// What a consumer has under way.
#[derive(Debug, Clone)]
pub(crate) struct UnderWay {
    /// The broker's name of it.
    pub(crate) durable: String,
    /// What it reads. None: all.
    pub(crate) filters: Vec<String>,
    /// Until when it is paused, Unix milliseconds of its leader's clock: long ago where it is not.
    pub(crate) paused_until_ms: i64,
    /// Delivered and not settled.
    pub(crate) in_flight: u64,
    /// The number of its last delivery, to whomever.
    pub(crate) deliveries: u64,
    /// Not delivered yet.
    pub(crate) pending: u64,
    /// How long the broker waits for a sign of life of whoever has a delivery in hand.
    pub(crate) ack_wait: Duration,
    /// What time it is at the consumer's leader, Unix milliseconds.
    pub(crate) now_ms: i64,
}

impl UnderWay {
    /// How much longer it delivers nothing.
    pub(crate) fn paused_for_ms(&self) -> i64 {
        self.paused_until_ms.saturating_sub(self.now_ms).max(0)
    }
}

/// What a stream holds on some subjects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    /// Messages.
    pub(crate) messages: u64,
    /// Whether every server that has the stream and is there was told all that its leader was.
    pub(crate) is_level: bool,
    /// The sequence of the stream's first message, whatever its subject.
    pub(crate) first: u64,
}

impl Held {
    /// Where there is no stream.
    const NOTHING: Held = Held { messages: 0, is_level: true, first: u64::MAX };
}

impl Bus {
    /// What is under way of a consumer, as its leader says. `None`: there is no such consumer.
    ///
    /// # Errors
    /// The broker does not answer, or this identity may not ask.
    pub(crate) async fn under_way(&self, stream: &str, durable: &str) -> Result<Option<UnderWay>, Fault> {
        let asked = format!("CONSUMER.INFO.{stream}.{durable}");
        let Some(answer) = self.ask(&asked, &json!({}), ("consumer", durable)).await? else { return Ok(None) };
        let number = |path: &str| answer.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let time = |path: &str| DateTime::parse_from_rfc3339(answer.pointer(path)?.as_str()?).ok();
        let Some(now) = time("/ts") else {
            return Err(self.unshown(("consumer", durable), &"the answer has no time"));
        };
        Ok(Some(UnderWay {
            durable: durable.to_owned(),
            filters: answer.get("config").and_then(Value::as_object).map(shape::filters).unwrap_or_default(),
            paused_until_ms: time("/config/pause_until").map_or(0, |until| until.timestamp_millis()),
            in_flight: number("/num_ack_pending"),
            deliveries: number("/delivered/consumer_seq"),
            pending: number("/num_pending"),
            ack_wait: Duration::from_nanos(number("/config/ack_wait")),
            now_ms: now.timestamp_millis(),
        }))
    }

    /// The names of a stream's consumers: of all, also of those whose leader does not answer.
    ///
    /// # Errors
    /// The broker does not answer, or not for all, or this identity may not ask.
    pub(crate) async fn consumer_names(&self, stream: &str) -> Result<Vec<String>, Fault> {
        let answer = self.ask(&format!("CONSUMER.NAMES.{stream}"), &json!({}), ("stream", stream)).await?;
        let answer = answer.unwrap_or_default();
        let names = answer.get("consumers").and_then(Value::as_array).into_iter().flatten();
        let names: Vec<_> = names.filter_map(Value::as_str).map(str::to_owned).collect();
        match answer.get("total").and_then(Value::as_u64) {
            Some(total) if total > names.len() as u64 => {
                Err(self.unshown(("stream", stream), &"it has too many consumers"))
            }
            _ => Ok(names),
        }
    }

    /// What a stream holds on the subjects that `filters` match, of which no two match the same, as its leader says.
    ///
    /// # Errors
    /// The broker does not answer, or not for all, or this identity may not ask.
    pub(crate) async fn held_on(&self, stream: &str, filters: &[String]) -> Result<Held, Fault> {
        let each = try_join_all(filters.iter().map(|filter| self.held_on_one(stream, filter))).await?;
        let add = |sum: Held, one: Held| Held {
            messages: sum.messages + one.messages,
            is_level: sum.is_level && one.is_level,
            first: sum.first.min(one.first),
        };
        Ok(each.into_iter().fold(Held::NOTHING, add))
    }

    async fn held_on_one(&self, stream: &str, filter: &str) -> Result<Held, Fault> {
        let request = json!({ "subjects_filter": filter });
        let answer = self.ask(&format!("STREAM.INFO.{stream}"), &request, ("stream", stream)).await?;
        let Some(answer) = answer else { return Ok(Held::NOTHING) };
        let counts = answer.pointer("/state/subjects").and_then(Value::as_object);
        let told = counts.map_or(0, serde_json::Map::len) as u64;
        if answer.get("total").and_then(Value::as_u64).is_some_and(|total| total > told) {
            return Err(self.unshown(("stream", stream), &"it has too many subjects"));
        }
        let Some(first) = answer.pointer("/state/first_seq").and_then(Value::as_u64) else {
            return Err(self.unshown(("stream", stream), &"the answer does not say where it begins"));
        };
        let replicas = answer.pointer("/cluster/replicas").and_then(Value::as_array).into_iter().flatten();
        let is = |replica: &Value, what: &str| replica.get(what).and_then(Value::as_bool).unwrap_or(false);
        Ok(Held {
            messages: counts.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum(),
            is_level: replicas.into_iter().all(|replica| is(replica, "current") || is(replica, "offline")),
            first: first.max(1),
        })
    }

    /// Has a consumer deliver nothing until then, Unix milliseconds of its leader's clock.
    ///
    /// # Errors
    /// The broker refuses or does not answer, or this identity may not.
    pub(crate) async fn pause(&self, stream: &str, durable: &str, until_ms: i64) -> Result<(), Fault> {
        let request = json!({ "pause_until": rfc3339(until_ms) });
        self.order(format!("CONSUMER.PAUSE.{stream}.{durable}"), &request, ("consumer", durable)).await
    }

    /// Has a consumer begin again at `first`, the first message of its stream. What is under way is forgotten.
    ///
    /// The broker (2.15.1) keeps what a consumer has done in memory and writes it behind. Where it begins again at sequence 1, memory
    /// looks as if nothing was known yet, and is read from the file; and while that is being written it is not written again. So
    /// the old state may come back: what is delivered next is taken for what was delivered long ago, and on several servers what is
    /// accepted of it stays in the queue for ever. So it begins again twice, with time between for what was being written: the second
    /// time nothing is. Never at a later place first: what lies before that would count as accepted. And not twice where somebody had it go
    /// on meanwhile: what it was given since would be given again.
    ///
    /// # Errors
    /// The broker refuses or does not answer, or this identity may not.
    pub(crate) async fn begin_again(&self, stream: &str, durable: &str, first: u64) -> Result<(), Fault> {
        let reset = || async {
            let subject = format!("CONSUMER.RESET.{stream}.{durable}");
            self.order(subject, &json!({ "seq": first }), ("consumer", durable)).await
        };
        reset().await?;
        tokio::time::sleep(WRITTEN_AFTER).await;
        let is_quiet = |now: &UnderWay| now.paused_for_ms() > 0 && now.deliveries == 0;
        match self.under_way(stream, durable).await?.filter(is_quiet) {
            Some(_) => reset().await,
            None => Ok(()),
        }
    }
}
