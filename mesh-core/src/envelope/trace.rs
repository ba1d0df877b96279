//! W3C Trace Context, level 1: the `traceparent` header.

use std::fmt;

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

    /// Reads a header. `None`: malformed, which the standard says to treat as absent.
    #[must_use]
    pub fn parse(header: &str) -> Option<TraceContext> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let sizes = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        let hex = header.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        if !sizes || !hex || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        TraceContext::from_ids(
            u128::from_str_radix(trace, 16).ok()?,
            u64::from_str_radix(span, 16).ok()?,
            flags & 1 == 1,
        )
    }
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
