//! Small texts: times, durations, cut lines.

use std::time::Duration;

use chrono::DateTime;
use mesh_core::clock::rfc3339;

/// A moment that somebody names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Unix milliseconds.
    At(i64),
    /// So long before now.
    Ago(Duration),
}

impl When {
    /// The moment, where now is `now_ms`.
    pub(super) fn unix_ms(self, now_ms: i64) -> i64 {
        match self {
            When::At(unix_ms) => unix_ms,
            When::Ago(ago) => now_ms.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    /// The same for what is yet to come: a time is counted from now on.
    pub(super) fn ahead_ms(self, now_ms: i64) -> i64 {
        match self {
            When::At(unix_ms) => unix_ms,
            When::Ago(ahead) => now_ms.saturating_add(i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

/// Reads `2026-01-02T03:04:05Z`, `2026-01-02` (midnight, UTC), or a time ago: `90s`, `2h`, `3d`.
pub(super) fn when(text: &str) -> Result<When, String> {
    if let Ok(ago) = duration(text) {
        return Ok(When::Ago(ago));
    }
    let moment =
        DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc3339(&format!("{text}T00:00:00Z")));
    moment.map(|moment| When::At(moment.timestamp_millis())).map_err(|_| {
        format!("{text:?} is no moment: write 2026-01-02T03:04:05Z, 2026-01-02, or how long ago: 90s, 2h, 3d")
    })
}

/// The same of what is yet to come: a time is one from now.
pub(super) fn coming(text: &str) -> Result<When, String> {
    when(text).map_err(|_| {
        format!("{text:?} is no moment: write 2026-01-02T03:04:05Z, 2026-01-02 (UTC), or a time from now: 90s, 30m, 2h")
    })
}

/// Reads `500ms`, `30s`, `5m`, `1h` or `3d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(format!("{text:?} is no duration: write a number and ms, s, m, h or d, such as 500ms or 5s")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no duration: {number:?} is no number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| format!("{text:?} is too long"))
}

/// A moment for people: UTC, to the second.
pub(super) fn moment(unix_ms: i64) -> String {
    let text = rfc3339(unix_ms);
    let (day, time) = text.split_once('T').unwrap_or((&text, ""));
    format!("{day} {}", time.get(..8).unwrap_or(time))
}

/// A time that something took, from microseconds.
pub(super) fn took(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

/// At most `limit` characters, with `…` where something was cut. Control characters become spaces.
pub(super) fn cut(text: &str, limit: usize) -> String {
    let mut cut: String = text.chars().take(limit).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(limit).is_some() {
        cut.pop();
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        let ms = |text: &str| duration(text).map(|d| d.as_millis());
        assert_eq!((ms("500ms"), ms("1.5s"), ms("2m"), ms("1h")), (Ok(500), Ok(1500), Ok(120_000), Ok(3_600_000)));
        for wrong in ["", "5", "s", "1.2.3s", "-1s", "5 s", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!([took(7), took(1_234), took(2_345_678)], ["7 µs", "1.2 ms", "2.34 s"]);
    }

    #[test]
    fn a_moment_is_a_date_or_a_time_ago() {
        let at = |text: &str| when(text).map(|when| when.unix_ms(1_000_000_000_000));
        assert_eq!(at("2026-01-02T03:04:05Z"), Ok(1_767_323_045_000));
        assert_eq!(at("2026-01-02T05:04:05.5+02:00"), Ok(1_767_323_045_500));
        assert_eq!(at("2026-01-02"), Ok(1_767_312_000_000));
        assert_eq!((at("2h"), at("3d")), (Ok(999_992_800_000), Ok(999_740_800_000)));
        assert_eq!(when("30m").map(|when| when.ahead_ms(5)), Ok(1_800_005));
        assert!(coming("-30m").unwrap_err().contains("from now"));
        assert!(at("yesterday").is_err() && at("2026-13-02").is_err() && at("").is_err());
    }

    #[test]
    fn a_cut_line_says_that_it_was_cut_and_stays_a_line() {
        assert_eq!(cut("a\nbc", 4), "a bc");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
