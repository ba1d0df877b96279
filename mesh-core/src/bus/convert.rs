//! Between the mesh's words and async-nats'.

use std::borrow::Cow;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message};
use bytes::Bytes;

use crate::{
    envelope::Delivery,
    gate::{Raw, Sealed},
};

/// What came in, before anybody looked at it.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) subject: String,
    pub(super) reply: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) description: Option<String>,
    headers: Option<HeaderMap>,
    pub(super) payload: Bytes,
}

impl Received {
    pub(super) fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.as_ref()?.get(HeaderName::from_static(name)).map(HeaderValue::as_str)
    }

    pub(super) fn into_raw(self) -> Raw {
        let delivery = self.reply.as_deref().and_then(parse_ack_subject);
        Raw {
            subject: self.subject,
            reply: self.reply,
            headers: self.headers.map(header_list).unwrap_or_default(),
            payload: self.payload,
            delivery,
        }
    }
}

impl From<Message> for Received {
    fn from(message: Message) -> Received {
        Received {
            subject: message.subject.into_string(),
            reply: message.reply.map(async_nats::Subject::into_string),
            status: message.status.map(|s| s.as_u16()),
            description: message.description,
            headers: message.headers,
            payload: message.payload,
        }
    }
}

/// One of the broker's own headers.
pub(super) type Own = (HeaderName, HeaderValue);

/// The headers of a message in the client's own form.
pub(super) struct Prepared(HeaderMap);

impl Prepared {
    /// The mesh's.
    pub(super) fn of(sealed: &Sealed) -> Prepared {
        Prepared(header_map(sealed.headers()))
    }

    /// And the broker's own: each is there once.
    pub(super) fn with(mut self, own: impl IntoIterator<Item = Own>) -> Prepared {
        for (name, value) in own {
            self.0.insert(name, value);
        }
        self
    }

    /// `None`: there are none.
    pub(super) fn into_headers(self) -> Option<HeaderMap> {
        Some(self.0).filter(|map| !map.is_empty())
    }
}

/// The headers of a message that goes in a batch, but for the marks that say which one and where in it.
///
/// There is room for them: a map that grows moves all that it holds, and who makes it does that, not the one task that sends it.
pub(super) struct Member(Prepared);

impl Member {
    /// With room for these.
    pub(super) fn of<const N: usize>(sealed: &Sealed, marks: [HeaderName; N]) -> Member {
        Member(Prepared::of(sealed).with(marks.map(|name| (name, HeaderValue::default()))))
    }

    /// With the marks, which must have those names.
    pub(super) fn marked<const N: usize>(self, marks: [Own; N]) -> Prepared {
        self.0.with(marks)
    }
}

/// `None`: there are none.
pub(super) fn headers(list: &[(Cow<'static, str>, String)]) -> Option<HeaderMap> {
    Prepared(header_map(list)).into_headers()
}

fn header_map(list: &[(Cow<'static, str>, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        let name = match name {
            Cow::Borrowed(name) => HeaderName::from_static(name),
            // A name from outside that is no header name can't be sent; letters keep it in their record.
            Cow::Owned(name) => match name.parse() {
                Ok(name) => name,
                Err(_) => continue,
            },
        };
        // The gate lets no line breaks through; a value from outside that has some is left out.
        if let Ok(value) = value.parse::<HeaderValue>() {
            map.append(name, value);
        }
    }
    map
}

pub(super) fn header_list(map: HeaderMap) -> Vec<(String, String)> {
    map.iter()
        .flat_map(|(name, values)| values.iter().map(move |v| (name.to_string(), v.as_str().to_owned())))
        .collect()
}

/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<…>.<time ns>.<pending>`, and the newer form with domain and account
/// hash before the stream.
fn parse_ack_subject(reply: &str) -> Option<Delivery> {
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let at = match tokens.len() {
        7 => 0,
        n if n >= 9 => 2,
        _ => return None,
    };
    Some(Delivery {
        stream: tokens.get(at)?.to_string(),
        deliveries: tokens.get(at + 2)?.parse().ok()?,
        sequence: tokens.get(at + 3)?.parse().ok()?,
        consumer_sequence: tokens.get(at + 4)?.parse().ok()?,
        stored_at_ms: tokens.get(at + 5)?.parse::<i64>().ok()? / 1_000_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_ack_subject_are_read() {
        let expected = Delivery {
            stream: "s".into(),
            sequence: 42,
            consumer_sequence: 7,
            deliveries: 3,
            stored_at_ms: 1_700_000_000_123,
        };
        for reply in [
            "$JS.ACK.s.c.3.42.7.1700000000123456789.0",
            "$JS.ACK._.hash.s.c.3.42.7.1700000000123456789.0",
            "$JS.ACK.dom.hash.s.c.3.42.7.1700000000123456789.0.token",
        ] {
            assert_eq!(parse_ack_subject(reply), Some(expected.clone()), "{reply}");
        }
        assert_eq!(parse_ack_subject("_INBOX.a.b"), None);
    }
}
