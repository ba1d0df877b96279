//! What a stream or a consumer is to be: as new, or as what stands with only that changed which the mesh decides.
//!
//! Whoever keeps a mesh sets copies, ages and limits by their own tools. Applying a mesh file again must take none of that
//! away. So what stands is read as the broker wrote it, whole, and only the fields that the wire protocol needs, and the
//! limits that were said, are written over it: also what this program has no name for stays.

use async_nats::jetstream::{
    consumer::{self, AckPolicy, DeliverPolicy},
    stream::{self, DiscardPolicy, RetentionPolicy, StorageType},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

use super::admin::StreamLimits;
use crate::policy::compile::{ConsumerSpec, Kind, ORDERED_ACK_WAIT, StreamSpec};

/// A configuration, field by field, as the broker writes it.
pub(super) type Fields = Map<String, Value>;

/// Copies of a stream where nothing is said and no other stream shows how many there are to be.
const REPLICAS: usize = 1;
/// How long events and outcomes are kept where nothing is said.
const EVENT_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The broker's word on deliveries that it gave up: the keeper reads it within seconds.
const ADVISORY_AGE: Duration = Duration::from_secs(14 * 24 * 3600);
/// How long the broker remembers message ids.
const DEDUPE_WINDOW: Duration = Duration::from_secs(120);

/// What the wire protocol needs of every stream.
const OF_A_STREAM: [&str; 9] = [
    "subjects",
    "retention",
    "discard",
    "duplicate_window",
    "allow_atomic",
    "allow_msg_schedules",
    "allow_msg_ttl",
    "allow_direct",
    "deny_delete",
];
/// What may make a lane drop something: it must never.
const OF_A_LANE: [&str; 3] = ["max_bytes", "max_msgs", "max_age"];
/// What is lost at once where it is lowered.
const ROOM: [&str; 3] = ["num_replicas", "max_age", "max_bytes"];

/// One field of a stream or consumer that applying changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The stream.
    pub stream: String,
    /// The broker's name of the consumer. `None`: it is the stream's own.
    pub consumer: Option<String>,
    /// The field, as the broker calls it.
    pub field: String,
    /// What it was.
    pub from: String,
    /// What it is to be.
    pub to: String,
    /// Whether something is lost by it at once: a copy, what is older, or room.
    pub lowers: bool,
}

/// A stream that does not exist yet.
pub(super) fn new_stream(spec: &StreamSpec, limits: &StreamLimits) -> stream::Config {
    let (retention, max_age) = match spec.kind {
        Kind::Events => (RetentionPolicy::Limits, limits.event_age.unwrap_or(EVENT_AGE)),
        Kind::Work | Kind::Lane => (RetentionPolicy::WorkQueue, Duration::ZERO),
        Kind::Letters | Kind::Store | Kind::Claims => (RetentionPolicy::Limits, Duration::ZERO),
        Kind::Advisories => (RetentionPolicy::Limits, ADVISORY_AGE),
    };
    let scheduled = spec.kind == Kind::Lane;
    stream::Config {
        name: spec.name.clone(),
        subjects: spec.subjects.clone(),
        retention,
        max_age,
        max_bytes: limits.max_bytes.filter(|_| !scheduled).unwrap_or(-1),
        max_messages: -1,
        discard: if scheduled { DiscardPolicy::Old } else { DiscardPolicy::New },
        storage: StorageType::File,
        num_replicas: limits.replicas.unwrap_or(REPLICAS),
        duplicate_window: DEDUPE_WINDOW,
        allow_atomic_publish: true,
        allow_message_schedules: scheduled,
        deny_delete: spec.kind == Kind::Letters,
        // A service may ask for the last record of a letter of its own by the letter's subject, and for nothing else.
        // The same for a copy that waits on its lane.
        // And for what lies apart of a message of its own.
        allow_direct: matches!(spec.kind, Kind::Letters | Kind::Lane | Kind::Claims),
        // The newest record of each place. Leases and inboxes forget by themselves.
        max_messages_per_subject: if keeps_the_newest(spec) { 1 } else { -1 },
        allow_message_ttl: spec.kind == Kind::Store,
        ..Default::default()
    }
}

/// A stream that exists, as it is to be.
pub(super) fn stream_again(now: &Fields, spec: &StreamSpec, limits: &StreamLimits) -> Fields {
    let new = fields(&new_stream(spec, limits));
    let is_lane = spec.kind == Kind::Lane;
    let limited = [
        ("num_replicas", limits.replicas.is_some()),
        ("max_age", limits.event_age.is_some() && spec.kind == Kind::Events),
        ("max_bytes", limits.max_bytes.is_some()),
        ("max_msgs_per_subject", keeps_the_newest(spec)),
    ];
    let said = limited.iter().filter(|(_, is_said)| *is_said).map(|(field, _)| *field);
    let mut wanted = now.clone();
    for field in OF_A_STREAM.into_iter().chain(OF_A_LANE.into_iter().filter(|_| is_lane)).chain(said) {
        take(&mut wanted, &new, field);
    }
    wanted
}

fn keeps_the_newest(spec: &StreamSpec) -> bool {
    matches!(spec.kind, Kind::Store | Kind::Claims)
}

/// A consumer that does not exist yet.
pub(super) fn new_consumer(spec: &ConsumerSpec, limits: &StreamLimits) -> consumer::pull::Config {
    consumer::pull::Config {
        durable_name: Some(spec.durable.clone()),
        filter_subjects: spec.filters.clone(),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::All,
        ack_wait: spec.window.map_or(limits.ack_wait, |_| limits.ack_wait.min(ORDERED_ACK_WAIT)),
        max_ack_pending: spec.window.unwrap_or(limits.max_ack_pending),
        max_deliver: limits.max_deliver,
        ..Default::default()
    }
}

/// A consumer that exists, as it is to be.
pub(super) fn consumer_again(now: &Fields, spec: &ConsumerSpec, limits: &StreamLimits) -> Fields {
    let new = fields(&new_consumer(spec, limits));
    let mut wanted = now.clone();
    for field in ["ack_policy", "deliver_policy"] {
        take(&mut wanted, &new, field);
    }
    if filters(now) != sorted(spec.filters.clone()) {
        wanted.remove("filter_subject");
        wanted.insert("filter_subjects".into(), json!(spec.filters));
    }
    // Where the order of keys is kept, both are part of how it is kept.
    if spec.window.is_some() {
        take(&mut wanted, &new, "max_ack_pending");
        let longest = ORDERED_ACK_WAIT.as_nanos();
        if now.get("ack_wait").and_then(Value::as_u64).is_some_and(|ack_wait| u128::from(ack_wait) > longest) {
            take(&mut wanted, &new, "ack_wait");
        }
    }
    wanted
}

/// What a consumer reads, sorted.
pub(super) fn filters(now: &Fields) -> Vec<String> {
    let many = now.get("filter_subjects").and_then(Value::as_array).into_iter().flatten();
    let one = now.get("filter_subject").into_iter();
    sorted(many.chain(one).filter_map(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned).collect())
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort_unstable();
    texts
}

/// A configuration of this program's, field by field.
pub(super) fn fields(config: &impl Serialize) -> Fields {
    match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => Fields::new(),
    }
}

/// A field that is left out has the broker's default.
fn take(wanted: &mut Fields, new: &Fields, field: &str) {
    match new.get(field) {
        _ if is_same(wanted.get(field), new.get(field)) => {}
        Some(value) => drop(wanted.insert(field.to_owned(), value.clone())),
        None => drop(wanted.remove(field)),
    }
}

/// What differs, by the fields' names.
pub(super) fn changes(stream: &str, consumer: Option<&str>, now: &Fields, wanted: &Fields) -> Vec<Change> {
    let mut names: Vec<_> = now.keys().chain(wanted.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differs = |name: &&String| !is_same(now.get(*name), wanted.get(*name));
    let change = |field: &String| Change {
        stream: stream.to_owned(),
        consumer: consumer.map(str::to_owned),
        field: field.clone(),
        from: text(field, now.get(field)),
        to: text(field, wanted.get(field)),
        lowers: consumer.is_none() && ROOM.contains(&field.as_str()) && room(now.get(field)) > room(wanted.get(field)),
    };
    names.into_iter().filter(differs).map(change).collect()
}

/// What the broker leaves out and what it writes as nothing is the same.
fn is_same(one: Option<&Value>, other: Option<&Value>) -> bool {
    let nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(is_set) => !is_set,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    one.filter(|value| !nothing(value)) == other.filter(|value| !nothing(value))
}

/// 0 and less: without a limit.
fn room(value: Option<&Value>) -> u64 {
    value.and_then(Value::as_u64).filter(|limit| *limit > 0).unwrap_or(u64::MAX)
}

/// A value for people.
fn text(field: &str, value: Option<&Value>) -> String {
    let is_limit = field.starts_with("max_");
    match value {
        Some(Value::Number(number)) if is_limit && number.as_i64().is_some_and(|limit| limit <= 0) => "no limit".into(),
        None if is_limit => "no limit".into(),
        None | Some(Value::Null) => "none".into(),
        Some(Value::Number(number)) if ["max_age", "duplicate_window", "ack_wait"].contains(&field) => {
            number.as_u64().map_or_else(|| number.to_string(), time)
        }
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn time(nanoseconds: u64) -> String {
    let units = [("d", 86_400_000_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000)];
    let whole = units.into_iter().find(|(_, unit)| nanoseconds.is_multiple_of(*unit));
    whole.map_or_else(
        || format!("{} ms", nanoseconds / 1_000_000),
        |(name, unit)| format!("{}{name}", nanoseconds / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000_000_000;

    fn spec(kind: Kind) -> StreamSpec {
        StreamSpec { name: "s".into(), subjects: vec!["s.>".into()], kind }
    }

    /// As the broker shows a stream that somebody looks after.
    fn kept(kind: Kind) -> Fields {
        let mut now = fields(&new_stream(&spec(kind), &StreamLimits::default()));
        let theirs = [
            ("num_replicas", json!(3)),
            ("max_age", json!(30 * DAY)),
            ("max_bytes", json!(1_000_000)),
            ("max_msgs", json!(1000)),
            ("description", json!("of the shop")),
            ("compression", json!("s2")),
            ("placement", json!({ "cluster": "eu" })),
            ("a_field_of_tomorrow", json!(7)),
            ("deny_purge", json!(false)),
        ];
        now.extend(theirs.map(|(field, value)| (field.to_owned(), value)));
        now
    }

    fn changed(now: &Fields, wanted: &Fields) -> Vec<(String, String, String, bool)> {
        changes("s", None, now, wanted).into_iter().map(|c| (c.field, c.from, c.to, c.lowers)).collect()
    }

    #[test]
    fn what_stands_is_kept_unless_it_is_said() {
        for kind in [Kind::Events, Kind::Work, Kind::Letters, Kind::Store, Kind::Claims, Kind::Advisories] {
            let now = kept(kind);
            assert_eq!(stream_again(&now, &spec(kind), &StreamLimits::default()), now, "{kind:?}");
        }
    }

    #[test]
    fn what_is_said_is_written_and_what_takes_away_is_known_as_such() {
        let limits = StreamLimits {
            replicas: Some(1),
            event_age: Some(Duration::from_secs(7 * 86400)),
            max_bytes: Some(2_000_000),
            ..StreamLimits::default()
        };
        let now = kept(Kind::Events);
        let change = |field: &str, from: &str, to: &str, lowers| (field.to_owned(), from.into(), to.into(), lowers);
        assert_eq!(
            changed(&now, &stream_again(&now, &spec(Kind::Events), &limits)),
            [
                change("max_age", "30d", "7d", true),
                change("max_bytes", "1000000", "2000000", false),
                change("num_replicas", "3", "1", true),
            ]
        );
        // An age is of events alone.
        let now = kept(Kind::Letters);
        let fields: Vec<_> = changed(&now, &stream_again(&now, &spec(Kind::Letters), &limits));
        assert_eq!(fields.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["max_bytes", "num_replicas"]);
        // From no limit to one is less, to no limit is more.
        let mut forever = kept(Kind::Events);
        forever.insert("max_age".into(), json!(0));
        let limits = StreamLimits { event_age: limits.event_age, ..StreamLimits::default() };
        assert_eq!(
            changed(&forever, &stream_again(&forever, &spec(Kind::Events), &limits)),
            [change("max_age", "no limit", "7d", true)]
        );
    }

    #[test]
    fn what_the_wire_protocol_needs_is_mended() {
        let mut now = kept(Kind::Lane);
        now.remove("allow_msg_schedules");
        now.insert("subjects".into(), json!(["old.>"]));
        now.insert("deny_delete".into(), json!(true));
        let wanted = stream_again(&now, &spec(Kind::Lane), &StreamLimits::default());
        let fields: Vec<_> = changed(&now, &wanted).into_iter().map(|it| (it.0, it.2)).collect();
        let expected = [
            ("allow_msg_schedules", "true"),
            ("deny_delete", "none"),
            ("max_age", "no limit"),
            ("max_bytes", "no limit"),
            ("max_msgs", "no limit"),
            ("subjects", "[\"s.>\"]"),
        ];
        assert_eq!(fields, expected.map(|(field, to)| (field.to_owned(), to.to_owned())));
        assert_eq!(wanted["num_replicas"], 3);
    }

    #[test]
    fn a_consumer_keeps_its_limits_and_gets_its_filters() {
        let of = |filters: &[&str], window| ConsumerSpec {
            stream: "s".into(),
            durable: "a_b".into(),
            filters: filters.iter().map(|text| (*text).to_owned()).collect(),
            window,
        };
        let mut now = fields(&new_consumer(&of(&["x"], None), &StreamLimits::default()));
        now.remove("filter_subjects");
        now.insert("filter_subject".into(), json!("x"));
        now.insert("max_ack_pending".into(), json!(9));
        now.insert("ack_wait".into(), json!(90_000_000_000u64));
        assert_eq!(consumer_again(&now, &of(&["x"], None), &StreamLimits::default()), now);
        let wanted = consumer_again(&now, &of(&["y", "x"], None), &StreamLimits::default());
        assert_eq!((filters(&wanted), &wanted["max_ack_pending"]), (vec!["x".into(), "y".into()], &json!(9)));
        let wanted = consumer_again(&now, &of(&["x"], Some(64)), &StreamLimits::default());
        assert_eq!(wanted["max_ack_pending"], 64);
        assert!(wanted["ack_wait"].as_u64().unwrap() <= u64::try_from(ORDERED_ACK_WAIT.as_nanos()).unwrap());
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!([time(30 * DAY), time(90_000_000_000), time(1_500_000_000)], ["30d", "90s", "1500 ms"]);
    }
}
