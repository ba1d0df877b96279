//! The knobs of one vendor: how it behaves, from the command line or while it runs.
//!
//! One table, [`KNOBS`], names them all. The flags, the JSON of `/_control` and the README follow it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// How one vendor behaves. A share lies between 0 and 1 and is drawn from the seeded generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Knobs {
    /// Calls per second that the account may make; 0 = unlimited.
    pub rate_per_s: f64,
    /// Calls that may come at once before the rate counts.
    pub burst: u32,
    /// What a 429 announces as `Retry-After`, in seconds; 0 = the header is left out.
    pub retry_after_s: u64,
    /// Share of calls answered 429 whatever the pace, as where others use up the same account.
    pub throttle_share: f64,
    /// Time before an answer, in milliseconds.
    pub latency_ms: u64,
    /// Up to so many milliseconds more, evenly spread.
    pub jitter_ms: u64,
    /// Share of calls that are slow.
    pub slow_share: f64,
    /// How many milliseconds more a slow call takes.
    pub slow_ms: u64,
    /// Share of calls answered 503 before the idempotency layer: nothing happens, nothing is stored.
    pub fail_503_share: f64,
    /// Share of acting calls answered 500; the error is stored under the key, as the vendors do.
    pub fail_500_share: f64,
    /// Whether such a 500 comes after the effect instead of before it.
    pub fail_500_acts: bool,
    /// Share of acting calls that take effect and then lose their connection without an answer.
    pub cut_after_acting_share: f64,
    /// Smallest amount that is charged, in minor units. Stripe-like vendor only.
    pub min_amount: i64,
    /// Whether idempotency keys are honoured; `false` is a vendor that acts every time.
    pub honour_keys: bool,
    /// Closes the connection of every call at once.
    pub down: bool,
    /// Accepts every call and never answers, until the client goes.
    pub hang: bool,
}

/// Name and one-line help of every knob, in the order of the fields.
pub const KNOBS: [(&str, &str); 16] = [
    ("rate_per_s", "Calls per second that the account may make; 0 = unlimited"),
    ("burst", "Calls that may come at once before the rate counts"),
    ("retry_after_s", "Seconds that a 429 announces as Retry-After; 0 = no such header"),
    ("throttle_share", "Share of calls answered 429 whatever the pace, 0 to 1"),
    ("latency_ms", "Milliseconds before an answer"),
    ("jitter_ms", "Up to so many milliseconds more"),
    ("slow_share", "Share of calls that are slow, 0 to 1"),
    ("slow_ms", "Milliseconds more that a slow call takes"),
    ("fail_503_share", "Share of calls answered 503 with no effect, 0 to 1"),
    ("fail_500_share", "Share of acting calls answered 500, stored under the key, 0 to 1"),
    ("fail_500_acts", "Whether such a 500 comes after the effect"),
    ("cut_after_acting_share", "Share of acting calls cut off after the effect, 0 to 1"),
    ("min_amount", "Smallest amount charged, in minor units (Stripe-like only)"),
    ("honour_keys", "Whether idempotency keys are honoured"),
    ("down", "Closes the connection of every call at once"),
    ("hang", "Never answers, until the client goes"),
];

/// Why a change of knobs was refused. Nothing was changed.
#[derive(Debug, Error)]
pub enum KnobError {
    /// An unknown knob, or a value of the wrong type.
    #[error("{0}")]
    Shape(#[from] serde_json::Error),
    /// A value outside its range.
    #[error("{knob} must be {must}")]
    Range {
        /// The knob's name.
        knob: &'static str,
        /// What it must be.
        must: &'static str,
    },
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            rate_per_s: 0.0,
            burst: 50,
            retry_after_s: 1,
            throttle_share: 0.0,
            latency_ms: 0,
            jitter_ms: 0,
            slow_share: 0.0,
            slow_ms: 0,
            fail_503_share: 0.0,
            fail_500_share: 0.0,
            fail_500_acts: false,
            cut_after_acting_share: 0.0,
            min_amount: 1,
            honour_keys: true,
            down: false,
            hang: false,
        }
    }
}

impl Knobs {
    /// These knobs with the given ones changed; what is not named stays.
    ///
    /// # Errors
    /// An unknown name, a wrong type, or a value outside its range.
    pub fn with(&self, changes: Map<String, Value>) -> Result<Self, KnobError> {
        let mut all = match serde_json::to_value(self)? {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        all.extend(changes);
        let knobs: Self = serde_json::from_value(Value::Object(all))?;
        knobs.checked()
    }

    fn checked(self) -> Result<Self, KnobError> {
        let shares = [
            ("throttle_share", self.throttle_share),
            ("slow_share", self.slow_share),
            ("fail_503_share", self.fail_503_share),
            ("fail_500_share", self.fail_500_share),
            ("cut_after_acting_share", self.cut_after_acting_share),
        ];
        for (knob, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(KnobError::Range { knob, must: "between 0 and 1" });
            }
        }
        if !self.rate_per_s.is_finite() || self.rate_per_s < 0.0 {
            return Err(KnobError::Range { knob: "rate_per_s", must: "0 (unlimited) or more" });
        }
        if self.burst == 0 {
            return Err(KnobError::Range { knob: "burst", must: "at least 1" });
        }
        for (knob, seconds) in
            [("retry_after_s", self.retry_after_s), ("latency_ms", self.latency_ms), ("slow_ms", self.slow_ms)]
        {
            if seconds > LONGEST {
                return Err(KnobError::Range { knob, must: "at most 31536000" });
            }
        }
        if self.jitter_ms > LONGEST {
            return Err(KnobError::Range { knob: "jitter_ms", must: "at most 31536000" });
        }
        Ok(self)
    }
}

/// No time given to a knob is longer: sums of them can't overflow.
const LONGEST: u64 = 31_536_000;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(changes: Value) -> Result<Knobs, KnobError> {
        Knobs::default().with(changes.as_object().cloned().unwrap())
    }

    #[test]
    fn the_table_names_every_field_in_order() {
        let json = serde_json::to_string(&Knobs::default()).unwrap();
        let places: Vec<_> = KNOBS.iter().map(|(name, _)| json.find(&format!("\"{name}\":")).unwrap()).collect();
        assert!(places.is_sorted());
        assert_eq!(serde_json::to_value(Knobs::default()).unwrap().as_object().unwrap().len(), KNOBS.len());
    }

    #[test]
    fn the_readme_shows_every_knob() {
        let readme = include_str!("../README.md");
        for (name, _) in KNOBS {
            assert!(readme.contains(&format!("| `{name}` |")), "README.md lacks {name}");
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let knobs = with(json!({"rate_per_s": 5})).unwrap().with(json!({"burst": 7}).as_object().cloned().unwrap());
        assert_eq!(knobs.unwrap(), Knobs { rate_per_s: 5.0, burst: 7, ..Knobs::default() });
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let table = [
            (json!({"slow_share": 1.5}), "slow_share"),
            (json!({"rate_per_s": -1}), "rate_per_s"),
            (json!({"burst": 0}), "burst"),
            (json!({"latency_ms": u64::MAX}), "latency_ms"),
            (json!({"jitter_ms": u64::MAX}), "jitter_ms"),
            (json!({"brust": 1}), "brust"),
            (json!({"down": "yes"}), "string"),
        ];
        for (changes, word) in table {
            let error = with(changes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
