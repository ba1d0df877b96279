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

/// Reads a moment, Unix milliseconds: `2026-11-27T02:30:00Z` (seconds may be left out), or a time from `now_ms` such as `30m`.
pub(super) fn moment_of(text: &str, now_ms: i64) -> Result<i64, String> {
    if let Ok(later) = duration(text) {
        return Ok(now_ms.saturating_add(i64::try_from(later.as_millis()).unwrap_or(i64::MAX)));
    }
    let wrong = || format!("{text:?} is no moment: write 2026-11-27T02:30:00Z (UTC), or a time from now such as 30m");
    let (day, time) = text.strip_suffix('Z').and_then(|text| text.split_once('T')).ok_or_else(wrong)?;
    let numbers = |text: &str, separator: char| -> Option<Vec<i64>> {
        let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        text.split(separator).map(|part| are_digits(part).then(|| part.parse().ok())?).collect()
    };
    let (day, time) = numbers(day, '-').zip(numbers(time, ':')).ok_or_else(wrong)?;
    let (&[year, month, day], [hour, minute, second @ ..]) = (day.as_slice(), time.as_slice()) else {
        return Err(wrong());
    };
    let second = match second {
        [] => 0,
        [second] => *second,
        _ => return Err(wrong()),
    };
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && *hour < 24
        && *minute < 60
        && second < 60;
    let ms = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60_000 + second * 1000;
    // A day that the month does not have comes out as another.
    let reads_back = fits && rfc3339(ms).starts_with(&format!("{year:04}-{month:02}-{day:02}"));
    if reads_back { Ok(ms) } else { Err(wrong()) }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
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
    fn moments_are_read() {
        assert_eq!(moment_of("2026-11-23T00:00:00Z", 0), Ok(1_795_392_000_000));
        assert_eq!(moment_of("2000-02-29T12:34Z", 0), Ok(951_827_640_000));
        assert_eq!(moment_of("30m", 5), Ok(1_800_005));
        for wrong in
            ["", "now", "2026-02-30T00:00Z", "2026-13-01T00:00Z", "2026-11-23", "2026-11-23T24:00Z", "1-+2-3T4:5Z"]
        {
            assert!(moment_of(wrong, 0).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cut_line_says_that_it_was_cut_and_stays_a_line() {
        assert_eq!(cut("a\nbc", 4), "a bc");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
