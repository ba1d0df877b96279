//! One trace from order to vendor call: the bridge between the `traceparent` of a message and the spans of `tracing`.
//!
//! The spans of one message are of level DEBUG: they cost nothing until someone exports traces (which takes the spans of
//! `mesh_core` from DEBUG up) or logs at `debug`. Where no OpenTelemetry layer is installed every function here returns
//! at once, without an allocation.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::envelope::TraceContext;

/// Whether a layer of OpenTelemetry may be there. Only ever turned on.
static ON: AtomicBool = AtomicBool::new(false);

/// Says that spans have an OpenTelemetry context. [`super::init`] says so where it exports traces; a program that
/// installs its own `tracing-opentelemetry` layer says so itself.
pub fn turn_on() {
    ON.store(true, Ordering::Relaxed);
}

/// Makes `span` a child of `parent`, which came with a message. Call it before the span is entered or has children.
pub fn adopt(span: &Span, parent: TraceContext) {
    if !is_on(span) {
        return;
    }
    let flags = if parent.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace, parent) = (TraceId::from(parent.trace_id()), SpanId::from(parent.span_id()));
    let remote = SpanContext::new(trace, parent, flags, true, TraceState::NONE);
    // It fails where the span is not exported, or is already a part of another trace: it then stays where it is.
    let _ = span.set_parent(Context::new().with_remote_span_context(remote));
}

/// Makes `span` a child of `given`, unless it was opened within another span, whose child it is already.
pub fn follow(span: &Span, given: Option<TraceContext>) {
    if let (Some(parent), true) = (given, ON.load(Ordering::Relaxed) && Span::current().is_none()) {
        adopt(span, parent);
    }
}

/// The place of `span` in its trace; `None` where it is not exported.
#[must_use]
pub fn current(span: &Span) -> Option<TraceContext> {
    if !is_on(span) {
        return None;
    }
    let context = span.context();
    let here = context.span().span_context().clone();
    TraceContext::from_ids(
        u128::from_be_bytes(here.trace_id().to_bytes()),
        u64::from_be_bytes(here.span_id().to_bytes()),
        here.is_sampled(),
    )
}

/// What a message that is sent now says about its trace: the current span; else `given`, the trace of the message being
/// handled; else a new trace that nobody records.
///
/// `given` travels on unchanged, as the standard asks of those who record no span of their own: a new span id here would
/// be a parent that no collector ever sees.
#[must_use]
pub fn outgoing(given: Option<TraceContext>) -> TraceContext {
    let here = if ON.load(Ordering::Relaxed) { current(&Span::current()) } else { None };
    here.or(given).unwrap_or_else(|| TraceContext::root(false))
}

fn is_on(span: &Span) -> bool {
    ON.load(Ordering::Relaxed) && !span.is_disabled()
}

#[cfg(test)]
mod tests {
    use tracing::Dispatch;

    use super::*;

    #[test]
    fn without_a_span_the_given_trace_travels_on_and_a_new_one_is_not_sampled() {
        tracing::dispatcher::with_default(&Dispatch::none(), || {
            let given = TraceContext::root(true);
            assert_eq!(outgoing(Some(given)), given);
            assert!(!outgoing(None).is_sampled());
            assert_ne!(outgoing(None).trace_id(), outgoing(None).trace_id());
        });
    }

    #[test]
    fn a_span_that_is_only_logged_has_no_place_in_a_trace() {
        turn_on();
        let lines = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
        tracing::subscriber::with_default(lines, || {
            let (span, given) = (tracing::info_span!("work"), TraceContext::root(true));
            assert!(!span.is_disabled());
            adopt(&span, given);
            assert_eq!(current(&span), None);
            assert_eq!(span.in_scope(|| outgoing(Some(given))), given);
        });
    }
}
