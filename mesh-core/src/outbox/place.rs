//! Where a row goes, as its column `place` says: `event/<producer>/<message>` or `work/<rpc service>/<Method>/<class>`.

use std::fmt;

use crate::subject::{self, Class};

/// A message type of a producer, or an operation and how urgent it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Event { producer: String, message: String },
    Work { service: String, method: String, class: Class },
}

impl Place {
    /// `None`: a row that some other program wrote, or a newer version.
    pub(super) fn parse(text: &str) -> Option<Place> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            ["event", producer, message] => Some(Place::Event { producer: producer.into(), message: message.into() }),
            ["work", service, method, class] => {
                let class = [Class::Urgent, Class::Normal, Class::Bulk].into_iter().find(|c| c.token() == class)?;
                Some(Place::Work { service: service.into(), method: method.into(), class })
            }
            _ => None,
        }
    }

    /// The stream that takes it.
    pub(super) fn stream(&self) -> String {
        match self {
            Place::Event { producer, .. } => subject::event_stream(producer),
            Place::Work { service, .. } => subject::work_stream(service),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Event { producer, message } => write!(f, "event/{producer}/{message}"),
            Place::Work { service, method, class } => write!(f, "work/{service}/{method}/{}", class.token()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let event = Place::Event { producer: "orders".into(), message: "shop.X".into() };
        let work = Place::Work { service: "shop.P".into(), method: "Charge".into(), class: Class::Bulk };
        for place in [event, work] {
            assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
        for other in ["", "event/orders", "work/shop.P/Charge/soon", "call/shop.P/Charge", "event/a/b/c"] {
            assert_eq!(Place::parse(other), None, "{other}");
        }
    }
}
