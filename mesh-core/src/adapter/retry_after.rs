//! `Retry-After` as vendors really send it: RFC 9110 section 10.2.3, and the dialects.

use std::time::{Duration, SystemTime};

use ::http::{HeaderMap, HeaderName, header};

/// Milliseconds, as some vendors send beside or instead of the standard header.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// How long the answer asks to wait. `now` counts only where the answer names no date of its own: against that, a clock
/// of ours that is wrong does no harm. A date in the past is zero; what can't be read is as if it were absent.
pub(super) fn read(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let exact = text(&RETRY_AFTER_MS).and_then(|ms| Some(seconds(ms)? / 1000));
    exact.or_else(|| {
        let value = text(&header::RETRY_AFTER)?;
        seconds(value).or_else(|| {
            let until = httpdate::parse_http_date(value).ok()?;
            let from = text(&header::DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
            Some(until.duration_since(from).unwrap_or(Duration::ZERO))
        })
    })
}

/// A number of seconds, with a fraction or without. An absurdly large one is kept as large as a duration can be.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let seconds = whole.parse::<u64>().unwrap_or(u64::MAX / 2);
    // Nanoseconds of the fraction: nine digits, filled up with zeros.
    let nanos = format!("{fraction:0<9}")[..9].parse().unwrap_or(0);
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn given(value: &str) -> Option<Duration> {
        let headers = [(header::RETRY_AFTER, value.parse().unwrap()), (header::DATE, DATE.parse().unwrap())];
        read(&HeaderMap::from_iter(headers), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn what_vendors_send() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (value, expected) in [
            ("0", ms(0)),
            ("1", ms(1000)),
            ("120", ms(120_000)),
            ("007", ms(7000)),
            (" 3 ", ms(3000)),
            ("2.0", ms(2000)),
            ("0.25", ms(250)),
            ("1.", ms(1000)),
            ("1.0000000009", ms(1000)),
            ("86400", ms(86_400_000)),
            ("99999999999999999999999", Some(Duration::from_secs(u64::MAX / 2))),
            ("Sun, 06 Nov 1994 08:49:40 GMT", ms(3000)),
            ("Sunday, 06-Nov-94 08:49:40 GMT", ms(3000)),
            ("Sun Nov  6 08:49:40 1994", ms(3000)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", ms(0)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", ms(0)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", ms(86_400_000)),
            ("", None),
            ("soon", None),
            ("-1", None),
            ("+1", None),
            ("1,5", None),
            (".5", None),
            ("1.2.3", None),
            ("1e3", None),
            ("0x10", None),
            ("1994-11-06T08:49:40Z", None),
            ("Sun, 06 Nov 1994 08:49:40", None),
        ] {
            assert_eq!(given(value), expected, "{value:?}");
        }
    }

    #[test]
    fn milliseconds_win_and_our_clock_counts_only_without_a_date() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, "2".parse().unwrap());
        headers.insert(RETRY_AFTER_MS, "1500".parse().unwrap());
        assert_eq!(read(&headers, SystemTime::UNIX_EPOCH), Some(Duration::from_millis(1500)));
        headers.insert(RETRY_AFTER_MS, "soon".parse().unwrap());
        assert_eq!(read(&headers, SystemTime::UNIX_EPOCH), Some(Duration::from_secs(2)));
        headers.clear();
        headers.insert(header::RETRY_AFTER, DATE.parse().unwrap());
        let now = httpdate::parse_http_date(DATE).unwrap() - Duration::from_secs(5);
        assert_eq!(read(&headers, now), Some(Duration::from_secs(5)));
        assert_eq!(read(&HeaderMap::new(), now), None);
    }
}
