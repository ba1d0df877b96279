//! The stable reasons, each with a page of its own in `docs/errors/`.

/// Declares every reason once: variant, number and the one line that says what happened.
macro_rules! reasons {
    ($($(#[$meta:meta])* $variant:ident = $number:literal, $title:literal;)*) => {
        /// Why something failed, stable across versions: `MESH-nnnn`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $(#[doc = $title] $(#[$meta])* $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The code that stands in faults, logs and on the screen.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$variant => concat!("MESH-", $number),)* }
            }

            /// What happened, in one line.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Reason::$variant => $title,)* }
            }
        }
    };
}

reasons! {
    NobodyAnswers = "0001", "no service answers this operation now";
    DeadlineExpired = "0002", "the deadline had passed before the work began";
    CallTimedOut = "0003", "no answer came before the deadline";
    Undecodable = "0004", "the payload is not the message that its subject names";
    WrongType = "0005", "the message is not of the type that this consumer handles";
    HandlerPanicked = "0006", "the handler panicked";
    HandlerRefused = "0007", "the service refused the work";
    AttemptsExhausted = "0008", "every attempt was used up";
    Overloaded = "0009", "the service has no free place for this call";
    TooLarge = "0010", "the message is larger than the mesh carries";
    HeaderRefused = "0011", "a header is not allowed here or can't be read";
    AccessDenied = "0012", "this identity may not do that";
    BusUnavailable = "0013", "the bus can't be reached";
    PublishUnconfirmed = "0014", "the bus did not confirm the message in time";
    StreamMissing = "0015", "no stream takes messages of this subject now";
    PublishRefused = "0016", "the bus refused the message";
    Draining = "0017", "this service is shutting down";
    ReplyForbidden = "0018", "the reply subject is not the caller's own inbox";
    BrokerTooOld = "0019", "the broker is older than the mesh accepts";
    ConsumerMissing = "0020", "the bus has no such consumer";
    Unimplemented = "0021", "this service does not know the operation";
    HandlerTimedOut = "0022", "the handler did not end within its limit";
    OutcomeUnknown = "0023", "whether it happened is unknown: parked for a person";
    LetterChanged = "0024", "the letter changed meanwhile";
    LetterMissing = "0025", "there is no such letter";
    ProcessEnded = "0026", "its process ended again and again while it was handled";
    OutboxFailed = "0027", "the outbox's database failed";
    MessageLost = "0028", "a message was deleted before it was handled";
    JobMissing = "0029", "there is no such job";
    JobChanged = "0030", "the job has ended or changed meanwhile";
    ClaimMissing = "0031", "the bytes of the message lay apart and are gone";
    NotBegun = "0032", "it waited to be begun for longer than the rule allows";
    VendorUnreachable = "0101", "the vendor could not be reached: nothing was sent";
    VendorThrottled = "0102", "the vendor asked to slow down";
    VendorRefused = "0103", "the vendor refused the request as wrong";
    VendorDeclined = "0104", "the vendor answered no";
    VendorUnauthenticated = "0105", "the vendor did not accept the credential";
    VendorSilent = "0106", "the connection ended before the vendor's answer: it may have acted";
    VendorFailed = "0107", "the vendor failed: it may have acted";
    VendorInProgress = "0108", "the vendor is still busy with the same key";
    VendorStoredError = "0109", "the vendor replays a stored error for this key";
    VendorUnreadable = "0110", "the vendor said done, in words that can't be read";
    RequestNotBuilt = "0111", "the vendor's request could not be built from the message";
    QuotaPaused = "0112", "the vendor's quota is paused: nothing was sent";
    UnknownName = "0201", "no message or operation has this name";
    InvalidJson = "0202", "the JSON does not fit the message";
    InvalidFile = "0203", "a file of the configuration is wrong";
    SecretMissing = "0204", "a secret is not set";
    BrokerMissing = "0205", "nats-server could not be found or installed";
    PortInUse = "0206", "a port is used by another program";
    DownloadDamaged = "0207", "the download is not the pinned file";
    InvalidInput = "0208", "an argument at the command line is wrong";
    LocalFailed = "0209", "a part of the local cluster failed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_ascend() {
        for pair in Reason::ALL.windows(2) {
            assert!(pair[0].code() < pair[1].code(), "{} before {}", pair[0].code(), pair[1].code());
        }
    }
}
