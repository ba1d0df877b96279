//! Small texts: times, durations, cut lines.

use std::time::Duration;

use mesh_core::clock::rfc3339;

/// Reads `500ms`, `30s`, `5m` or `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is no duration: write a number and ms, s, m or h, such as 500ms or 5s")),
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
    fn a_cut_line_says_that_it_was_cut_and_stays_a_line() {
        assert_eq!(cut("a\nbc", 4), "a bc");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
