//! W3C Trace Context, level 1: the `traceparent` header.

use std::fmt::{self, Write as _};

/// Bytes of the header.
const HEADER_BYTES: usize = 55;

/// A place in a trace: `00-<trace>-<span>-<flags>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl TraceContext {
    /// The first span of a new trace.
    #[must_use]
    pub fn root(sampled: bool) -> TraceContext {
        TraceContext { trace: fastrand::u128(1..), span: fastrand::u64(1..), sampled }
    }

    /// A place that is known from elsewhere. `None`: an all-zero id, which the standard forbids.
    #[must_use]
    pub fn from_ids(trace: u128, span: u64, sampled: bool) -> Option<TraceContext> {
        (trace != 0 && span != 0).then_some(TraceContext { trace, span, sampled })
    }

    /// A new span below this one.
    #[must_use]
    pub fn child(self) -> TraceContext {
        TraceContext { span: fastrand::u64(1..), ..self }
    }

    /// The id of the trace.
    #[must_use]
    pub const fn trace_id(self) -> u128 {
        self.trace
    }

    /// The id of the span.
    #[must_use]
    pub const fn span_id(self) -> u64 {
        self.span
    }

    /// Whether the trace is being recorded.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.sampled
    }

    /// As the header says it, in one allocation.
    pub(crate) fn to_header(self) -> String {
        let mut header = String::with_capacity(HEADER_BYTES);
        // Writing into a string can't fail.
        let _ = write!(header, "{self}");
        header
    }

    /// Reads a header. `None`: malformed, which the standard says to treat as absent.
    #[must_use]
    pub fn parse(header: &str) -> Option<TraceContext> {
        // Every part has its place: version 0..2, trace 3..35, span 36..52, flags 53..55, and in later versions more.
        let bytes = header.as_bytes();
        let dashes = bytes.len() >= 55 && [2, 35, 52].iter().all(|at| bytes[*at] == b'-');
        let (first, more) = (bytes.get(..2)?, bytes.get(55..)?);
        let fits = more.is_empty() || (first != b"00" && more.starts_with(b"-"));
        if !dashes || !fits || first == b"ff" {
            return None;
        }
        hex(first)?;
        let trace = u128::from(hex(&bytes[3..19])?) << 64 | u128::from(hex(&bytes[19..35])?);
        TraceContext::from_ids(trace, hex(&bytes[36..52])?, hex(&bytes[53..55])? & 1 == 1)
    }
}

/// Up to 16 hexadecimal digits in lower case, as the standard wants them.
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_is_as_long_as_it_is_said_to_be() {
        let context = TraceContext::root(true);
        assert_eq!((context.to_header().len(), context.to_header()), (HEADER_BYTES, context.to_string()));
    }

    #[test]
    fn reads_the_standards_example_and_refuses_what_it_forbids() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceContext::parse(given).unwrap().to_string(), given);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(trace in 1u128.., span in 1u64.., sampled: bool) {
            let context = TraceContext::from_ids(trace, span, sampled).unwrap();
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn never_panics(text in "\\PC{0,70}") {
            let _ = TraceContext::parse(&text);
        }
    }
}
