//! A subject, read.

use super::WIRE;

/// What a subject of the mesh says, borrowed from its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the tokens, named as in docs/wire.md")]
pub enum Place<'a> {
    /// `mesh1.event.<region>.<producer>.<message>.<partition>`
    Event { region: &'a str, producer: &'a str, message: &'a str, partition: &'a str },
    /// `mesh1.call.<region>.<service>.<method>.<caller>`
    Call { region: &'a str, service: &'a str, method: &'a str, caller: &'a str },
    /// `mesh1.work.<region>.<service>.<method>.<class>.<partition>.<caller>`
    Work { region: &'a str, service: &'a str, method: &'a str, class: &'a str, partition: &'a str, caller: &'a str },
    /// `mesh1.outcome.<region>.<service>.<method>.<caller>`
    Outcome { region: &'a str, service: &'a str, method: &'a str, caller: &'a str },
    /// `mesh1.lane.<region>.<service>.<consumer>.due.<partition>.<caller>`
    LaneDue { region: &'a str, service: &'a str, consumer: &'a str, partition: &'a str, caller: &'a str },
    /// `mesh1.dead.<region>.<service>.<consumer>.<letter>`
    DeadLetter { region: &'a str, service: &'a str, consumer: &'a str, letter: &'a str },
    /// `mesh1.claim.<region>.<service>.<consumer>.<letter>.<hash>.<part>`
    Claim { region: &'a str, service: &'a str, consumer: &'a str, letter: &'a str, hash: &'a str },
}

impl<'a> Place<'a> {
    /// Reads a subject. `None`: it is none of the mesh's.
    #[must_use]
    pub fn parse(subject: &'a str) -> Option<Place<'a>> {
        let rest = subject.strip_prefix(WIRE)?.strip_prefix('.')?;
        let (kind, rest) = rest.split_once('.')?;
        let (region, rest) = rest.split_once('.')?;
        match kind {
            "event" => {
                let (producer, rest) = rest.split_once('.')?;
                let (message, partition) = rest.rsplit_once('.')?;
                Some(Place::Event { region, producer, message, partition })
            }
            "call" | "outcome" => {
                let (rest, caller) = rest.rsplit_once('.')?;
                let (service, method) = rest.rsplit_once('.')?;
                Some(match kind {
                    "call" => Place::Call { region, service, method, caller },
                    _ => Place::Outcome { region, service, method, caller },
                })
            }
            "work" => {
                let (rest, caller) = rest.rsplit_once('.')?;
                let (rest, partition) = rest.rsplit_once('.')?;
                let (rest, class) = rest.rsplit_once('.')?;
                let (service, method) = rest.rsplit_once('.')?;
                Some(Place::Work { region, service, method, class, partition, caller })
            }
            "lane" => {
                let mut tokens = rest.split('.');
                let (service, consumer) = (tokens.next()?, tokens.next()?);
                let (due, partition, caller) = (tokens.next()?, tokens.next()?, tokens.next()?);
                (due == "due" && tokens.next().is_none()).then_some(Place::LaneDue {
                    region,
                    service,
                    consumer,
                    partition,
                    caller,
                })
            }
            "dead" => {
                let mut tokens = rest.split('.');
                let (service, consumer, letter) = (tokens.next()?, tokens.next()?, tokens.next()?);
                tokens.next().is_none().then_some(Place::DeadLetter { region, service, consumer, letter })
            }
            "claim" => {
                let mut tokens = rest.split('.');
                let (service, consumer, letter) = (tokens.next()?, tokens.next()?, tokens.next()?);
                let (hash, _part) = (tokens.next()?, tokens.next()?);
                tokens.next().is_none().then_some(Place::Claim { region, service, consumer, letter, hash })
            }
            _ => None,
        }
    }

    /// The caller or producer that the broker's permissions vouch for.
    #[must_use]
    pub fn caller(&self) -> &'a str {
        match *self {
            Place::Event { producer, .. } => producer,
            Place::Call { caller, .. }
            | Place::Work { caller, .. }
            | Place::Outcome { caller, .. }
            | Place::LaneDue { caller, .. } => caller,
            Place::DeadLetter { service, .. } | Place::Claim { service, .. } => service,
        }
    }

    /// The partition of its key; 0 where it has none.
    #[must_use]
    pub fn partition(&self) -> &'a str {
        match *self {
            Place::Event { partition, .. } | Place::Work { partition, .. } | Place::LaneDue { partition, .. } => {
                partition
            }
            Place::Call { .. } | Place::Outcome { .. } | Place::DeadLetter { .. } | Place::Claim { .. } => "0",
        }
    }

    /// The full name of the event, or `Service/Method` of the operation.
    #[must_use]
    pub fn contract(&self) -> Option<String> {
        match *self {
            Place::Event { message, .. } => Some(message.to_owned()),
            Place::Call { service, method, .. }
            | Place::Work { service, method, .. }
            | Place::Outcome { service, method, .. } => Some(format!("{service}/{method}")),
            Place::LaneDue { .. } | Place::DeadLetter { .. } | Place::Claim { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Class, Name};
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Name> {
        "[a-z0-9-]{1,12}".prop_map(|s| s.parse().unwrap())
    }

    fn proto_name() -> impl Strategy<Value = String> {
        "[a-z]{1,6}(\\.[a-z]{1,5}){0,3}\\.[A-Z][A-Za-z]{0,8}"
    }

    proptest! {
        #[test]
        fn every_built_subject_reads_back(region in name(), caller in name(), service in proto_name(), method in "[A-Z][a-z]{1,8}") {
            let subject = super::super::event(&region, caller.as_str(), &service, 3);
            prop_assert_eq!(Place::parse(&subject), Some(Place::Event {
                region: region.as_str(), producer: caller.as_str(), message: &service, partition: "3" }));
            let subject = super::super::call(&region, &service, &method, &caller);
            prop_assert_eq!(Place::parse(&subject), Some(Place::Call {
                region: region.as_str(), service: &service, method: &method, caller: caller.as_str() }));
            let subject = super::super::work(&region, (&service, &method), Class::Bulk, 7, &caller);
            prop_assert_eq!(Place::parse(&subject), Some(Place::Work {
                region: region.as_str(), service: &service, method: &method, class: "bulk", partition: "7", caller: caller.as_str() }));
            let work = Place::parse(&subject).unwrap();
            let subject = super::super::lane_due(&region, &caller, &region, &work);
            prop_assert_eq!(Place::parse(&subject), Some(Place::LaneDue {
                region: region.as_str(), service: caller.as_str(), consumer: region.as_str(), partition: "7", caller: caller.as_str() }));
        }

        #[test]
        fn nothing_makes_it_panic(text in "[a-z0-9.]{0,40}") {
            let _ = Place::parse(&text);
            let _ = Place::parse(&format!("mesh1.{text}"));
        }
    }
}
