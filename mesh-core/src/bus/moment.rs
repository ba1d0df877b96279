//! How a stream stands by its leader's word, and what the time is there.

use std::time::Duration;

use serde::Deserialize;

use super::Bus;
use crate::{
    fault::{Code, Effect, Fault, Reason},
    gate::Gate,
};

/// JetStream's code for "there is no such stream".
const MISSING: u64 = 10059;
/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A stream at one moment, by the clock of the server that leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// What the time was there, Unix milliseconds.
    pub now_ms: i64,
    /// When the stream was made, Unix milliseconds.
    pub created_ms: i64,
    /// The sequence of the last message that was stored.
    pub last_sequence: u64,
    /// Who leads it, and since when. Empty on a server that stands alone.
    pub leader: String,
}

/// The part of the broker's answer that is read.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    ts: Option<String>,
    created: Option<String>,
    state: Option<State>,
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct State {
    last_seq: u64,
}

#[derive(Deserialize)]
struct Cluster {
    leader: Option<String>,
    leader_since: Option<String>,
}

impl Bus {
    /// How a stream stands at this moment. `None`: there is no such stream.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask.
    pub async fn moment(&self, stream: &str) -> Result<Option<Moment>, Fault> {
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let asked = async {
            let answer = self.request(Gate::seal_api(subject.clone(), bytes::Bytes::new()), ANSWER).await;
            answer.map_err(|error| unsaid(stream, &error.to_string()))
        };
        let answer = self.unless_denied(std::slice::from_ref(&subject), asked).await?;
        read(&answer.open().envelope.payload).map_err(|why| unsaid(stream, &why))
    }
}

fn read(answer: &[u8]) -> Result<Option<Moment>, String> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    match answer {
        Answer { error: Some(Refusal { err_code: MISSING, .. }), .. } => Ok(None),
        Answer { error: Some(Refusal { description, .. }), .. } => Err(description),
        Answer { ts: Some(now), created: Some(created), state: Some(state), cluster, .. } => Ok(Some(Moment {
            now_ms: ms(&now)?,
            created_ms: ms(&created)?,
            last_sequence: state.last_seq,
            leader: cluster.map_or_else(String::new, leader),
        })),
        _ => Err("the answer does not say its time".to_owned()),
    }
}

fn leader(cluster: Cluster) -> String {
    let Cluster { leader, leader_since } = cluster;
    [leader, leader_since].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn ms(moment: &str) -> Result<i64, String> {
    let read = chrono::DateTime::parse_from_rfc3339(moment);
    read.map(|moment| moment.timestamp_millis()).map_err(|error| format!("{moment:?} is no moment: {error}"))
}

fn unsaid(stream: &str, why: &str) -> Fault {
    let message = format!("the broker does not say how the stream {stream:?} stands: {why}");
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_the_time_and_who_leads() {
        let alone =
            br#"{"type":"x","created":"2026-11-23T02:31:26.9Z","ts":"2026-11-23T02:31:27.5Z","state":{"last_seq":7}}"#;
        let moment = read(alone).unwrap().unwrap();
        assert_eq!((moment.now_ms - moment.created_ms, moment.last_sequence), (600, 7));
        assert_eq!(moment.leader, "");
        let led = br#"{"created":"2026-11-23T02:31:26.9Z","ts":"2026-11-23T03:31:27+01:00","state":{"last_seq":7},
            "cluster":{"name":"c","leader":"n1","leader_since":"2026-11-23T02:00:00Z","replicas":[]}}"#;
        let led = read(led).unwrap().unwrap();
        assert_eq!((led.now_ms - led.created_ms, led.leader.as_str()), (100, "n1 2026-11-23T02:00:00Z"));
    }

    #[test]
    fn no_stream_is_none_and_no_time_is_no_answer() {
        let gone = br#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
        assert_eq!(read(gone), Ok(None));
        let away = br#"{"error":{"code":503,"err_code":10008,"description":"not now"}}"#;
        assert_eq!(read(away), Err("not now".to_owned()));
        assert!(read(br#"{"created":"2026-11-23T02:31:26.9Z","state":{"last_seq":7}}"#).is_err());
        assert!(read(b"pub").is_err());
    }
}
