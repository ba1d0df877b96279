//! What to do next, for each reason, in one or two lines: the pages in `docs/errors/` say more.

use mesh_core::fault::{Code, Effect, Fault, Reason};

/// The effect in words.
pub(super) const fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "nothing happened",
        Effect::Done => "it happened",
        Effect::Unknown | Effect::Unspecified => "it may have happened",
    }
}

/// What to do about a fault.
pub(super) fn help(fault: &Fault) -> String {
    let text = match fault.reason() {
        Reason::NobodyAnswers => "start a service that serves it, then call again; nothing needs to be undone",
        Reason::DeadlineExpired => "give it more time with --timeout, if it is still wanted",
        Reason::CallTimedOut => "ask whether it happened before you call again, unless the operation is safe to repeat",
        Reason::Overloaded => "try again a little later, or start another replica",
        Reason::HandlerRefused | Reason::VendorRefused | Reason::VendorDeclined => {
            "mend what the message names, then send it again"
        }
        Reason::TooLarge => "send less, or a reference to the data",
        Reason::AccessDenied => "declare it in the mesh file and run mesh apply, or connect as who may (--seed-file)",
        Reason::BusUnavailable if fault.code() == Code::Unauthenticated => {
            "give the seed of a user whom this broker knows: --seed-file (MESH_NATS_SEED_FILE), or a cluster: --cluster"
        }
        Reason::BusUnavailable if fault.code() == Code::InvalidArgument => {
            "write --url (MESH_NATS_URL) as nats://HOST:PORT"
        }
        Reason::BusUnavailable if fault.code() == Code::Unavailable => {
            "see that the broker runs and can be reached from here, then run the command again"
        }
        Reason::BusUnavailable => {
            "start a cluster with mesh dev, or say which one with --cluster or --url and --seed-file"
        }
        Reason::PublishUnconfirmed => {
            "a message: send it again with the same --id, the broker stores it once; an order: look first whether it stands"
        }
        Reason::StreamMissing | Reason::ConsumerMissing => "make the streams and consumers: mesh apply --config FILE",
        Reason::BrokerTooOld => "update nats-server to 2.14.3 or newer",
        Reason::LetterChanged => "look at the letter again and repeat the order only if it is still right",
        Reason::LetterMissing => "list them all: mesh dead-letter list --state all",
        Reason::JobMissing => "list them all: mesh dead-letter jobs list",
        Reason::JobChanged => "look at the job again and repeat the order only if it is still right",
        Reason::UnknownName => "contracts of your own: give their descriptor set with --descriptors FILE",
        Reason::InvalidJson => "mend the JSON at that place; nothing was sent",
        Reason::InvalidFile => "mend each line, then check again: mesh check FILE",
        Reason::SecretMissing => "set the variable where the program runs: export NAME=…",
        Reason::PortInUse => "choose another one, or stop the program that has it",
        Reason::DownloadDamaged => {
            "run the command again; if it stays so, set MESH_NATS_SERVER to a nats-server that you trust"
        }
        Reason::BrokerMissing => "set MESH_NATS_SERVER to the path of a nats-server 2.14.3 or newer",
        Reason::InvalidInput => "mesh help COMMAND shows the options",
        _ => "the page says what to do next",
    };
    text.to_owned()
}
