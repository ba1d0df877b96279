//! [`Fault`] to and from `mesh.v1.Fault`.

use std::time::Duration;

use mesh_proto::v1;

use super::{Code, Effect, Fault, Inner, Origin, Reason};

/// Bytes of the text for outside and of the one for inside that travel: a letter has to hold them beside the payload.
const LONGEST_MESSAGE: usize = 2 * 1024;
const LONGEST_DETAIL: usize = 8 * 1024;
/// Bytes of each text of its origin: the other side's ids and codes are as long as it likes.
const LONGEST_ORIGIN: usize = 256;

fn cut(text: &str, longest: usize) -> String {
    let end = (0..=longest.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

impl From<&Fault> for v1::Fault {
    fn from(fault: &Fault) -> v1::Fault {
        let inner = &fault.0;
        v1::Fault {
            code: inner.code.into(),
            effect: inner.effect.into(),
            reason: inner.reason.code().to_owned(),
            message: cut(&inner.message, LONGEST_MESSAGE),
            detail: cut(&inner.detail, LONGEST_DETAIL),
            retry_after_ms: inner.retry_after.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            origin: Some(v1::Origin {
                service: cut(&inner.origin.service, LONGEST_ORIGIN),
                vendor: cut(&inner.origin.vendor, LONGEST_ORIGIN),
                operation: cut(&inner.origin.operation, LONGEST_ORIGIN),
                request_id: cut(&inner.origin.request_id, LONGEST_ORIGIN),
                http_status: u32::from(inner.origin.http_status),
                vendor_code: cut(&inner.origin.vendor_code, LONGEST_ORIGIN),
            }),
        }
    }
}

impl From<v1::Fault> for Fault {
    /// Reads a fault of any age or origin: an unknown effect counts as *may have happened*, an unknown reason as a refusal.
    fn from(wire: v1::Fault) -> Fault {
        let effect = match wire.effect() {
            Effect::Unspecified => Effect::Unknown,
            known => known,
        };
        let code = Code::try_from(wire.code).unwrap_or(Code::Unknown);
        let reason = Reason::ALL.iter().find(|r| r.code() == wire.reason).copied().unwrap_or(Reason::HandlerRefused);
        let origin = wire.origin.unwrap_or_default();
        Fault(Box::new(Inner {
            code,
            effect,
            reason,
            message: wire.message,
            detail: wire.detail,
            retry_after: (wire.retry_after_ms > 0).then(|| Duration::from_millis(wire.retry_after_ms)),
            origin: Origin {
                service: origin.service,
                vendor: origin.vendor,
                operation: origin.operation,
                request_id: origin.request_id,
                http_status: u16::try_from(origin.http_status).unwrap_or(0),
                vendor_code: origin.vendor_code,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_wire() {
        let fault = Fault::new(Code::ResourceExhausted, Effect::None, Reason::VendorThrottled, "slow down")
            .with_detail("bucket empty")
            .with_retry_after(Duration::from_millis(1500))
            .with_origin(Origin { vendor: "stripe".into(), http_status: 429, ..Origin::default() });
        assert_eq!(Fault::from(v1::Fault::from(&fault)), fault);
    }

    #[test]
    fn a_text_without_end_is_cut_between_characters() {
        let fault = Fault::new(Code::Internal, Effect::None, Reason::HandlerPanicked, "ö".repeat(9000));
        let wire = v1::Fault::from(&fault);
        assert!(wire.message.len() <= LONGEST_MESSAGE && wire.message.chars().all(|c| c == 'ö'));
    }

    #[test]
    fn texts_of_another_side_are_cut_too() {
        let long = || "x".repeat(50_000);
        let origin = Origin {
            service: long(),
            vendor: long(),
            operation: long(),
            request_id: long(),
            vendor_code: long(),
            ..Origin::default()
        };
        let fault = Fault::new(Code::Internal, Effect::None, Reason::HandlerPanicked, "no").with_origin(origin);
        let wire = v1::Fault::from(&Fault::from(v1::Fault::from(&fault)));
        assert!(prost::Message::encoded_len(&wire) < 6 * LONGEST_ORIGIN);
    }

    #[test]
    fn an_unstated_effect_may_have_happened() {
        assert_eq!(Fault::from(v1::Fault::default()).effect(), Effect::Unknown);
    }
}
