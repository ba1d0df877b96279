//! What came back becomes a fault: the table of outcomes, row by row.

use std::time::Duration;

use ::http::{HeaderMap, StatusCode, header};

use crate::{
    config::vendor::Verdict,
    fault::{Code, Effect, Fault, Origin, Reason},
    http::{BodyLost, NotSent, Stage, Unanswered},
};

/// The longest text of a vendor that a fault carries, in characters.
const LONGEST_TEXT: usize = 500;

/// What an answer means where no rule of the vendor file says.
pub(super) fn verdict(status: StatusCode, headers: &HeaderMap) -> Verdict {
    let replayed =
        headers.get("idempotent-replayed").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    match status.as_u16() {
        200..=299 => Verdict::Done,
        401 | 403 => Verdict::Unauthenticated,
        402 => Verdict::Declined,
        404 | 410 => Verdict::NotFound,
        409 => Verdict::InProgress,
        429 => Verdict::Throttled,
        503 if headers.contains_key(header::RETRY_AFTER) || headers.contains_key("retry-after-ms") => {
            Verdict::Throttled
        }
        // The vendor gave up waiting for a request that it may have had.
        408 => Verdict::Failed,
        // A 4xx that nobody knows is a refusal: never an endless loop.
        400..=499 => Verdict::Refused,
        500..=599 if replayed => Verdict::StoredError,
        // A redirect is not followed. Some vendors send one after they acted, so it is no proof that nothing happened.
        _ => Verdict::Failed,
    }
}

/// Code, effect and reason of a verdict.
pub(super) fn row(verdict: Verdict, status: StatusCode) -> (Code, Effect, Reason) {
    match verdict {
        // Only an answer that can't be read comes here.
        Verdict::Done => (Code::DataLoss, Effect::Unknown, Reason::VendorUnreadable),
        Verdict::Declined => (Code::FailedPrecondition, Effect::None, Reason::VendorDeclined),
        Verdict::Refused => (Code::InvalidArgument, Effect::None, Reason::VendorRefused),
        Verdict::NotFound => (Code::NotFound, Effect::None, Reason::VendorRefused),
        Verdict::Throttled => (Code::ResourceExhausted, Effect::None, Reason::VendorThrottled),
        Verdict::Unauthenticated => (Code::Unauthenticated, Effect::None, Reason::VendorUnauthenticated),
        Verdict::InProgress => (Code::Aborted, Effect::Unknown, Reason::VendorInProgress),
        Verdict::StoredError => (Code::Internal, Effect::None, Reason::VendorStoredError),
        Verdict::Failed => match status.as_u16() {
            502 | 503 => (Code::Unavailable, Effect::Unknown, Reason::VendorFailed),
            408 | 504 => (Code::DeadlineExceeded, Effect::Unknown, Reason::VendorFailed),
            _ => (Code::Internal, Effect::Unknown, Reason::VendorFailed),
        },
    }
}

/// What the vendor said with an error.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Its message: for the inside only.
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

/// The fault of an answer.
pub(super) fn answered(verdict: Verdict, status: StatusCode, said: Said, origin: Origin) -> Fault {
    let (code, effect, reason) = row(verdict, status);
    let what = match verdict {
        Verdict::Done => "says done in words that can't be read",
        Verdict::Declined => "declined",
        Verdict::Refused => "refused the request as wrong",
        Verdict::NotFound => "does not know what the request names",
        Verdict::Throttled => "asked to slow down",
        Verdict::Unauthenticated => "did not accept the credential",
        Verdict::InProgress => "is still busy with the same key",
        Verdict::StoredError => "replayed a stored error for this key",
        Verdict::Failed => "failed",
    };
    let code_text = if origin.vendor_code.is_empty() { String::new() } else { format!(" {}", origin.vendor_code) };
    let message = format!("{} {what} ({}{code_text})", origin.vendor, status.as_u16());
    let fault = Fault::new(code, effect, reason, message).with_detail(said.message);
    let waits = matches!(verdict, Verdict::Throttled | Verdict::InProgress | Verdict::Failed);
    let fault = match said.retry_after.filter(|_| waits) {
        Some(delay) => fault.with_retry_after(delay),
        None => fault,
    };
    fault.with_origin(origin)
}

/// The fault of an answer that says done and whose body was lost.
pub(super) fn lost(lost: BodyLost, origin: Origin) -> Fault {
    let (code, reason) = match lost {
        BodyLost::TooLarge(_) => (Code::DataLoss, Reason::VendorUnreadable),
        BodyLost::Broken => (Code::Unavailable, Reason::VendorSilent),
        BodyLost::TimedOut => (Code::DeadlineExceeded, Reason::VendorSilent),
    };
    Fault::new(code, Effect::Unknown, reason, format!("{}: {lost}", origin.vendor)).with_origin(origin)
}

/// The fault of a call that sent nothing.
pub(super) fn not_sent(not_sent: NotSent, origin: Origin) -> Fault {
    let what = match not_sent.stage {
        Stage::Connect => "could not be reached",
        Stage::TimedOut => "could not be reached in time",
        Stage::Closed => "had closed the connection before the request was sent",
    };
    let message = format!("{} {what}: nothing was sent", origin.vendor);
    Fault::new(Code::Unavailable, Effect::None, Reason::VendorUnreachable, message)
        .with_detail(clean(&not_sent.why))
        .with_origin(origin)
}

/// The fault of a call that may have arrived.
pub(super) fn unanswered(unanswered: Unanswered, origin: Origin) -> Fault {
    let (code, what) = match unanswered.timed_out {
        true => (Code::DeadlineExceeded, "gave no answer in time"),
        false => (Code::Unavailable, "ended the connection before its answer"),
    };
    let message = format!("{} {what}: it may have acted", origin.vendor);
    Fault::new(code, Effect::Unknown, Reason::VendorSilent, message)
        .with_detail(clean(&unanswered.why))
        .with_origin(origin)
}

/// A text of the vendor's, short and in one line.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(status: u16, headers: &[(&'static str, &'static str)]) -> (Code, Effect, Reason) {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        let pairs = headers
            .iter()
            .map(|(name, value)| (::http::HeaderName::from_static(name), ::http::HeaderValue::from_static(value)));
        row(verdict(status, &HeaderMap::from_iter(pairs)), status)
    }

    #[test]
    fn the_table_row_by_row() {
        use Code::*;
        use Effect::{None as No, Unknown as May};
        use Reason::*;
        const AFTER: &[(&str, &str)] = &[("retry-after", "1")];
        const REPLAYED: &[(&str, &str)] = &[("idempotent-replayed", "true")];
        for (status, headers, expected) in [
            (400, &[][..], (InvalidArgument, No, VendorRefused)),
            (404, &[], (NotFound, No, VendorRefused)),
            (410, &[], (NotFound, No, VendorRefused)),
            (422, &[], (InvalidArgument, No, VendorRefused)),
            (401, &[], (Unauthenticated, No, VendorUnauthenticated)),
            (403, &[], (Unauthenticated, No, VendorUnauthenticated)),
            (402, &[], (FailedPrecondition, No, VendorDeclined)),
            (409, &[], (Aborted, May, VendorInProgress)),
            (429, &[], (ResourceExhausted, No, VendorThrottled)),
            (429, AFTER, (ResourceExhausted, No, VendorThrottled)),
            (503, AFTER, (ResourceExhausted, No, VendorThrottled)),
            (503, &[("retry-after-ms", "5")], (ResourceExhausted, No, VendorThrottled)),
            (503, &[], (Unavailable, May, VendorFailed)),
            (500, &[], (Internal, May, VendorFailed)),
            (502, &[], (Unavailable, May, VendorFailed)),
            (504, &[], (DeadlineExceeded, May, VendorFailed)),
            (408, &[], (DeadlineExceeded, May, VendorFailed)),
            (500, REPLAYED, (Internal, No, VendorStoredError)),
            (502, &[("idempotent-replayed", "false")], (Unavailable, May, VendorFailed)),
            (200, REPLAYED, (DataLoss, May, VendorUnreadable)),
            (204, &[], (DataLoss, May, VendorUnreadable)),
            (302, &[], (Internal, May, VendorFailed)),
            (405, &[], (InvalidArgument, No, VendorRefused)),
            (418, &[], (InvalidArgument, No, VendorRefused)),
            (599, &[], (Internal, May, VendorFailed)),
        ] {
            assert_eq!(classify(status, headers), expected, "{status} {headers:?}");
        }
    }

    #[test]
    fn calls_without_an_answer() {
        let origin = || Origin { vendor: "stripe".into(), ..Origin::default() };
        for stage in [Stage::Connect, Stage::TimedOut, Stage::Closed] {
            let fault = not_sent(NotSent { stage, why: "refused".into() }, origin());
            assert_eq!(
                (fault.code(), fault.effect(), fault.reason()),
                (Code::Unavailable, Effect::None, Reason::VendorUnreachable)
            );
        }
        for (timed_out, code) in [(true, Code::DeadlineExceeded), (false, Code::Unavailable)] {
            let fault = unanswered(Unanswered { timed_out, why: "reset".into() }, origin());
            assert_eq!((fault.code(), fault.effect(), fault.reason()), (code, Effect::Unknown, Reason::VendorSilent));
        }
        for (body, code) in [
            (BodyLost::TooLarge(9), Code::DataLoss),
            (BodyLost::Broken, Code::Unavailable),
            (BodyLost::TimedOut, Code::DeadlineExceeded),
        ] {
            let fault = lost(body, origin());
            assert_eq!((fault.code(), fault.effect()), (code, Effect::Unknown));
        }
    }

    #[test]
    fn a_wait_is_kept_where_it_means_something() {
        let said = || Said { retry_after: Some(Duration::from_secs(9)), ..Said::default() };
        let of = |verdict| answered(verdict, StatusCode::OK, said(), Origin::default()).retry_after();
        assert_eq!(of(Verdict::Throttled), Some(Duration::from_secs(9)));
        assert_eq!(of(Verdict::Refused), None);
    }

    #[test]
    fn vendors_texts_are_short_and_in_one_line() {
        let text = clean(&format!("a\r\nb{}", "é".repeat(1000)));
        assert_eq!(text.chars().count(), LONGEST_TEXT);
        assert!(text.starts_with("a  b"));
    }
}
