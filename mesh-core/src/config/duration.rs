//! Durations as people write them: `10s`, `250ms`, `5m`, `24h`, `7d`.

use std::time::Duration;

/// Reads one. `None`: not a whole number with one of the units `ms`, `s`, `m`, `h`, `d`.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit_ms: u64 = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(unit_ms)?))
}

/// Writes one as [`parse`] reads it, in the largest unit that fits; what is below a millisecond is left out.
pub(super) fn show(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    // A day is said as 24h, as people write it.
    let fits = |(unit, name): &(u128, &str)| ms >= *unit && ms.is_multiple_of(*unit) && (*name != "d" || ms > *unit);
    match units.iter().find(|unit| fits(unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_it_reads() {
        for text in ["0ms", "250ms", "10s", "5m", "24h", "7d", "25h", "90s", "1500ms"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }

    #[test]
    fn reads_units_and_nothing_else() {
        for (text, ms) in
            [("0s", 0), ("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "10", "s", "-1s", "1.5s", "10 s", "10S", "1h30m", "99999999999999999999s", "18446744073709551615d"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
