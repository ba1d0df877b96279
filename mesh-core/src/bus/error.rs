//! How a message that was sent can end.

use std::sync::Arc;

use crate::fault::{Code, Effect, Fault, Reason};

/// The broker stored it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The stream.
    pub stream: Arc<str>,
    /// Its sequence there.
    pub sequence: u64,
    /// A message with this id was there already; nothing was added.
    pub duplicate: bool,
}

/// Why it is not known to be stored or answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No stream, and no service, listens on the subject (or the broker elects a leader).
    #[error("nobody listens on the subject")]
    NobodyListens,
    /// No answer came in time.
    #[error("no answer came in time")]
    TimedOut,
    /// The connection ended while the answer was awaited.
    #[error("the connection ended before the answer came")]
    Disconnected,
    /// It never left.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The broker's access rules.
    #[error("the broker denies this identity the subject {subject:?}")]
    Denied {
        /// What was denied.
        subject: String,
    },
    /// The stream said no.
    #[error("the stream refused it: {description} ({code}){}", advice(*code))]
    Rejected {
        /// JetStream's own error code.
        code: u64,
        /// Its words.
        description: String,
    },
}

/// JetStream's code for "wrong last sequence": an expectation that did not hold.
const WRONG_LAST_SEQUENCE: u64 = 10071;
/// JetStream's codes of a cluster for "ask again": a write with this id (10158), or one with an expectation of this subject
/// (10164: its words are "wrong last sequence" too), is being decided; the new leader does not know the subject's last sequence
/// yet (10163). The write that is being decided may be an earlier try of this very message, and may still be dropped.
const UNDECIDED: [u64; 3] = [10158, 10163, 10164];
/// JetStream's codes for a limit that is reached: the stream's (10077), the account's (10002), the server's (10023, 10047 for
/// files, 10028 for memory).
const FULL: [u64; 5] = [10077, 10002, 10023, 10047, 10028];
/// JetStream's codes for "not now": the cluster is not ready (10008), another server leads (10009), JetStream is off, as it is
/// on a server whose disk failed (10076).
const AWAY: [u64; 3] = [10008, 10009, 10076];

/// What is to be done about a refusal, where that is known.
fn advice(code: u64) -> &'static str {
    if FULL.contains(&code) {
        "; there is no room: raise the stream's limit (nats stream edit), the account's or the broker's storage; mesh ledger shows what is full"
    } else {
        ""
    }
}

impl PublishError {
    /// Whether it may have been stored or acted upon all the same.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        match self {
            PublishError::TimedOut | PublishError::Disconnected => true,
            PublishError::Rejected { code, .. } => UNDECIDED.contains(code),
            _ => false,
        }
    }

    /// Whether something stands already where this was to be the next: somebody else's, or this very message, from an attempt
    /// whose answer was lost. A message with an id is told apart from that by the broker; one without is not.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, PublishError::Rejected { code, .. } if *code == WRONG_LAST_SEQUENCE)
    }

    /// Whether nothing stands where something was expected to be the last: its stream was made anew, or purged.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        // The broker says what stands there in its words alone.
        let of = |words: &str| words.strip_prefix("wrong last sequence: ")?.trim().parse::<u64>().ok();
        matches!(self, PublishError::Rejected { code, description } if *code == WRONG_LAST_SEQUENCE && of(description) == Some(0))
    }

    /// Whether the stream has no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, PublishError::Rejected { code, .. } if FULL.contains(code))
    }

    /// Whether the same may be taken later: the refusal says nothing of the message.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.is_full() || matches!(self, PublishError::Rejected { code, .. } if AWAY.contains(code))
    }

    /// As a fault of storing an order of a person's: it is no message with an id, so whoever may give it again looks first.
    /// `next` says how.
    #[must_use]
    pub fn into_order_fault(self, what: &str, next: &str) -> Fault {
        if !self.is_unknown() {
            return self.into_fault(what);
        }
        let message = format!("the bus did not confirm {what}: it may stand all the same; {next}");
        Fault::new(Code::Unavailable, Effect::Unknown, Reason::PublishUnconfirmed, message)
            .with_detail(self.to_string())
    }

    /// As a fault of storing `what`.
    #[must_use]
    pub fn into_fault(self, what: &str) -> Fault {
        let detail = self.to_string();
        let (code, effect, reason, message) = match &self {
            PublishError::NobodyListens => (
                Code::Unavailable,
                Effect::None,
                Reason::StreamMissing,
                format!("no stream takes {what} now; is the topology applied (mesh apply) and the leader elected?"),
            ),
            PublishError::TimedOut | PublishError::Disconnected => unconfirmed(what),
            PublishError::Rejected { .. } if self.is_unknown() => unconfirmed(what),
            PublishError::NotSent(_) => {
                (Code::Unavailable, Effect::None, Reason::BusUnavailable, format!("{what} was not sent"))
            }
            PublishError::Denied { subject } => (
                Code::PermissionDenied,
                Effect::None,
                Reason::AccessDenied,
                format!("{what}: the broker denies this identity the subject {subject:?}; declare it in the mesh file"),
            ),
            PublishError::Rejected { description, .. } => {
                let code = if self.is_passing() { Code::Unavailable } else { Code::Internal };
                (code, Effect::None, Reason::PublishRefused, format!("the bus refused {what}: {description}"))
            }
        };
        Fault::new(code, effect, reason, message).with_detail(detail)
    }
}

fn unconfirmed(what: &str) -> (Code, Effect, Reason, String) {
    let message = format!("the bus did not confirm {what}; publish it again with the same id, which is safe");
    (Code::Unavailable, Effect::Unknown, Reason::PublishUnconfirmed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_has_not_decided_is_neither_a_conflict_nor_a_refusal() {
        let rejected = |code| PublishError::Rejected { code, description: "wrong last sequence".into() };
        for code in UNDECIDED {
            assert!(rejected(code).is_unknown() && !rejected(code).is_conflict(), "{code}");
            assert_eq!(rejected(code).into_fault("it").effect(), Effect::Unknown);
        }
        assert!(rejected(10071).is_conflict() && !rejected(10071).is_unknown());
        let last = |words: &str| PublishError::Rejected { code: 10071, description: words.into() };
        assert!(last("wrong last sequence: 0").is_gone());
        for other in [last("wrong last sequence: 10"), last("wrong last sequence"), rejected(10071)] {
            assert!(!other.is_gone(), "{other}");
        }
    }

    #[test]
    fn no_room_and_a_broker_that_is_away_pass_and_the_rest_is_of_the_message() {
        let rejected = |code| PublishError::Rejected { code, description: "no".into() };
        for (code, is_full, is_passing) in [
            (10077, true, true),
            (10002, true, true),
            (10023, true, true),
            (10047, true, true),
            (10028, true, true),
            (10076, false, true),
            (10008, false, true),
            (10009, false, true),
            // A purge that failed says nothing of a publish.
            (10110, false, false),
            (10054, false, false),
            (10071, false, false),
        ] {
            assert_eq!((rejected(code).is_full(), rejected(code).is_passing()), (is_full, is_passing), "{code}");
            let is_unavailable = rejected(code).into_fault("it").code() == Code::Unavailable;
            assert_eq!(is_unavailable, is_passing, "{code}");
            assert_eq!(rejected(code).to_string().contains("there is no room"), is_full, "{code}");
        }
    }

    #[test]
    fn an_order_that_is_not_confirmed_is_not_published_again_but_looked_for() {
        let order = |error: PublishError| error.into_order_fault("the order for letter ab", "look first: show ab");
        let fault = order(PublishError::TimedOut);
        assert_eq!((fault.reason(), fault.effect()), (Reason::PublishUnconfirmed, Effect::Unknown));
        assert!(fault.message().ends_with("it may stand all the same; look first: show ab"), "{fault}");
        assert_eq!(order(PublishError::NobodyListens).effect(), Effect::None);
    }
}
