//! Which of the messages that wait may go as one batch.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
};

use crate::gate::Sealed;

/// Messages in one batch, at most: the broker takes 1,000.
pub(super) const MAX_MESSAGES: usize = 1000;
/// Bytes in one batch, about: a stream buffers 128 MiB for all of its publishers.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes in one that has to be one, at most.
const MAX_WHOLE_BYTES: usize = 32 * 1024 * 1024;
/// What the batch's own headers add to a message, at most.
const OWN_BYTES: usize = 256;

/// Whether the broker takes these as one batch, and if not, why.
pub(super) fn check_whole(messages: &[Sealed], max_payload: usize) -> Result<(), String> {
    let bytes: usize = messages.iter().map(Sealed::size).sum();
    if messages.len() > MAX_MESSAGES {
        return Err(format!(
            "{} messages are more than the {MAX_MESSAGES} that the broker takes as one",
            messages.len()
        ));
    }
    if bytes > MAX_WHOLE_BYTES {
        return Err(format!("{bytes} bytes are more than the {MAX_WHOLE_BYTES} that are sent as one"));
    }
    match messages.iter().map(Sealed::size).find(|size| *size + OWN_BYTES > max_payload) {
        Some(size) => {
            Err(format!("a message of {size} bytes is too large for a batch: the broker carries {max_payload}"))
        }
        None => Ok(()),
    }
}

/// What a batch holds so far, as far as it matters for the next.
///
/// Order is kept: the first that does not fit ends the batch. The broker holds an expectation of a subject's last sequence
/// against what was there before the batch. So a subject with an expectation is alone in its batch. A message that with the
/// batch's headers is more than `max_payload` goes alone.
pub(super) struct Group {
    max_payload: usize,
    messages: usize,
    bytes: usize,
    /// Of each subject's hash, whether its last sequence is expected. Two subjects with one hash only end a batch early.
    expects: HashMap<u64, bool, RandomState>,
}

impl Group {
    pub(super) fn new(max_payload: usize) -> Group {
        Group { max_payload, messages: 0, bytes: 0, expects: HashMap::default() }
    }

    /// Whether this message may go with those before it; if so it counts.
    pub(super) fn takes(&mut self, sealed: &Sealed) -> bool {
        let (size, expects) = (sealed.size(), sealed.expects_last());
        let has_room = self.messages < MAX_MESSAGES && self.bytes + size <= MAX_BYTES;
        if !has_room || size + OWN_BYTES > self.max_payload {
            return false;
        }
        let subject = self.expects.hasher().hash_one(sealed.subject());
        if self.expects.get(&subject).is_some_and(|before| *before || expects) {
            return false;
        }
        self.expects.insert(subject, expects);
        self.messages += 1;
        self.bytes += size;
        true
    }

    /// How many of these, from the front, may go with those before them; they count.
    pub(super) fn take<'a>(&mut self, mut waiting: impl Iterator<Item = &'a Sealed>) -> usize {
        waiting.by_ref().take_while(|sealed| self.takes(sealed)).count()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::{
        clock::Clock,
        envelope::header,
        gate::Gate,
        identity::{Credential, Identity},
    };

    const MAX_PAYLOAD: usize = 1024 * 1024;

    fn sealed(subject: &str, expected: Option<u64>, bytes: usize) -> Sealed {
        let identity = Identity::new("orders".parse().unwrap(), "local".parse().unwrap(), Credential::None);
        let headers = expected.map(|sequence| (Cow::Borrowed(header::EXPECTED_LAST), sequence.to_string()));
        let headers = headers.into_iter().collect();
        Gate::new(identity, Clock::system(), MAX_PAYLOAD).seal_own(subject.into(), headers, vec![0; bytes].into())
    }

    fn size_of(waiting: &[Sealed]) -> usize {
        Group::new(MAX_PAYLOAD).take(waiting.iter())
    }

    #[test]
    fn no_more_than_the_broker_takes() {
        let many = vec![sealed("a", None, 10); MAX_MESSAGES + 1];
        assert_eq!(size_of(&many), MAX_MESSAGES);
        let heavy = vec![sealed("a", None, MAX_BYTES / 8 + 1); 9];
        assert_eq!(size_of(&heavy), 7);
    }

    #[test]
    fn a_subject_with_an_expectation_is_alone_in_its_batch() {
        let distinct = [sealed("a", Some(0), 1), sealed("b", Some(0), 1), sealed("c", None, 1), sealed("c", None, 1)];
        assert_eq!(size_of(&distinct), 4);
        let [a, b, c, _] = distinct;
        assert_eq!(size_of(&[a.clone(), b.clone(), a.clone(), c.clone()]), 2, "twice expected");
        assert_eq!(size_of(&[a, b.clone(), sealed("a", None, 1)]), 2, "added to after it was expected");
        assert_eq!(size_of(&[c, b, sealed("c", Some(7), 1)]), 2, "expected after it was added to");
    }

    #[test]
    fn what_has_to_be_one_has_bounds_of_its_own() {
        let refused = |messages: &[Sealed]| check_whole(messages, MAX_PAYLOAD).unwrap_err();
        assert_eq!(check_whole(&vec![sealed("a", None, 10); MAX_MESSAGES], MAX_PAYLOAD), Ok(()));
        assert!(refused(&vec![sealed("a", None, 10); MAX_MESSAGES + 1]).starts_with("1001 messages"));
        let heavy = vec![sealed("a", None, MAX_PAYLOAD / 2); 65];
        assert!(check_whole(&heavy[..63], MAX_PAYLOAD).is_ok() && refused(&heavy).contains("bytes are more"));
        assert!(refused(&[sealed("a", None, MAX_PAYLOAD - OWN_BYTES + 1)]).contains("too large for a batch"));
    }

    #[test]
    fn one_that_would_be_too_large_in_a_batch_goes_alone() {
        let (small, large) = (sealed("a", None, 1), sealed("a", None, MAX_PAYLOAD - OWN_BYTES + 1));
        assert_eq!(size_of(&[small.clone(), large.clone(), small.clone()]), 1);
        assert_eq!(size_of(&[large, small]), 0);
    }
}
