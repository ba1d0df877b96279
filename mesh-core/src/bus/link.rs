//! The connection itself: how it is made, what the broker says about it apart from answers.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerError};
use backon::{ExponentialBuilder, Retryable as _};
use secrecy::ExposeSecret as _;
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use super::BusSettings;
use crate::{
    fault::{Code, Effect, Fault, Reason},
    identity::{Credential, Identity},
    subject,
};

/// The oldest broker that the mesh accepts: earlier ones have the holes of the 2026 security notes.
const OLDEST_BROKER: (i64, i64, i64) = (2, 14, 3);

/// How often the connection is probed: a dead peer is noticed after three of these.
const PING_EVERY: Duration = Duration::from_secs(5);

/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// What the last attempt has at least, whatever is left.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(500);

/// Denied subjects that wait to be looked at by whoever waits for an answer.
const DENIALS: usize = 64;

/// Whether the broker is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Whether it is reached now.
    pub is_connected: bool,
    /// How often a connection was made; 1 from the first on.
    pub generation: u64,
}

/// What the connection tells the rest of the bus.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

type DeniedHook = Box<dyn Fn(&str) + Send + Sync>;

struct Shared {
    state: watch::Sender<LinkState>,
    on_denied: Mutex<Option<DeniedHook>>,
    /// The last subject that was denied, and when.
    denied: Mutex<Option<(String, Instant)>>,
    /// The same, as it is heard.
    denials: broadcast::Sender<String>,
}

impl Default for Link {
    fn default() -> Link {
        let state = watch::Sender::new(LinkState::default());
        let denials = broadcast::Sender::new(DENIALS);
        Link(Arc::new(Shared { state, on_denied: Mutex::new(None), denied: Mutex::new(None), denials }))
    }
}

impl Link {
    pub(super) fn state(&self) -> LinkState {
        *self.0.state.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<LinkState> {
        self.0.state.subscribe()
    }

    /// The last subject that the broker denied this identity, and when.
    pub(super) fn denied(&self) -> Option<(String, Instant)> {
        self.0.denied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The subjects that the broker denies from now on.
    pub(super) fn denials(&self) -> broadcast::Receiver<String> {
        self.0.denials.subscribe()
    }

    /// Calls `hook` with every subject that the broker denies from now on.
    pub(super) fn on_denied(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        *self.0.on_denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }

    fn heard(&self, event: &Event) {
        match event {
            Event::Connected => self.0.state.send_modify(|s| {
                // The word of the first connection may come when it is known already.
                s.generation += u64::from(!s.is_connected);
                s.is_connected = true;
            }),
            Event::Disconnected | Event::Closed => self.0.state.send_modify(|s| s.is_connected = false),
            Event::ServerError(ServerError::Other(text)) => self.heard_error(text),
            Event::SlowConsumer(_) => {
                tracing::warn!(%event, "messages were dropped: a subscription was read too slowly")
            }
            _ => tracing::debug!(%event, "link"),
        }
    }

    fn heard_error(&self, text: &str) {
        match denied_subject(text) {
            Some(subject) => {
                tracing::warn!(subject, "the broker denies this identity the subject");
                *self.0.denied.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((subject.to_owned(), Instant::now()));
                // Nobody waits for an answer: then nobody listens.
                let _ = self.0.denials.send(subject.to_owned());
                if let Some(hook) = self.0.on_denied.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                    hook(subject);
                }
            }
            None => tracing::warn!(error = text, "the broker complains"),
        }
    }
}

/// `Permissions Violation for Publish to "a.b"`
fn denied_subject(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("Permissions Violation for ")?;
    let (_, rest) = rest.split_once('"')?;
    rest.split_once('"').map(|(subject, _)| subject)
}

pub(super) async fn connect(
    settings: &BusSettings,
    identity: &Identity,
    link: &Link,
) -> Result<async_nats::Client, Fault> {
    // One provider for the whole process; a second call says so and changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let url = redact(&settings.url);
    let servers: Vec<String> = settings.url.split(',').map(|one| one.trim().to_owned()).collect();
    let end = Instant::now() + settings.connect_timeout;
    let attempt = || async {
        // A broker that hangs takes the connection and says nothing: the library waits for its word without end.
        let left = end.saturating_duration_since(Instant::now()).clamp(SHORTEST_ATTEMPT, ATTEMPT);
        match tokio::time::timeout(left, options(identity, link).connect(servers.as_slice())).await {
            Ok(connected) => connected.map_err(Some),
            Err(_) => Err(None),
        }
    };
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
        .with_total_delay(Some(settings.connect_timeout));
    let client = attempt
        .retry(backoff)
        .when(|error| Instant::now() < end && error.as_ref().is_none_or(|error| !is_final(error.kind())))
        .await
        .map_err(|error| error.map_or_else(|| silent_bus(&url), |error| unreachable_bus(&url, &error)))?;
    let (major, minor, patch) = OLDEST_BROKER;
    if !client.is_server_compatible(major, minor, patch) {
        let version = client.server_info().version;
        let message = format!(
            "nats-server {version} at {url} is older than {major}.{minor}.{patch}, which mends the security notes of 2026; update it"
        );
        return Err(Fault::new(Code::FailedPrecondition, Effect::None, Reason::BrokerTooOld, message));
    }
    link.0.state.send_modify(|s| {
        s.is_connected = true;
        s.generation = s.generation.max(1);
    });
    Ok(client)
}

fn options(identity: &Identity, link: &Link) -> ConnectOptions {
    let link = link.clone();
    let options = ConnectOptions::new()
        .name(identity.service().as_str())
        .custom_inbox_prefix(subject::inbox_prefix(identity.service()))
        .ping_interval(PING_EVERY)
        .connection_timeout(ATTEMPT)
        // The library's own delays have no jitter: a fleet would come back at one moment.
        .reconnect_delay_callback(|attempts| {
            let ceiling = Duration::from_millis(20 << attempts.min(8)).min(Duration::from_secs(4));
            ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
        })
        .event_callback(move |event| {
            let link = link.clone();
            async move { link.heard(&event) }
        });
    match identity.credential() {
        Credential::None => options,
        Credential::Nkey(seed) => options.nkey(seed.expose_secret().to_owned()),
    }
}

fn silent_bus(url: &str) -> Fault {
    let message = format!("the bus at {url} takes connections and says nothing; does it hang, is it a NATS server?");
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}

fn is_final(kind: ConnectErrorKind) -> bool {
    use ConnectErrorKind as Kind;
    matches!(kind, Kind::ServerParse | Kind::Authentication | Kind::AuthorizationViolation | Kind::Tls)
}

fn unreachable_bus(url: &str, error: &async_nats::ConnectError) -> Fault {
    let (code, message) = match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => (
            Code::Unauthenticated,
            format!("the bus at {url} does not accept this identity; check the credential's file"),
        ),
        ConnectErrorKind::ServerParse => {
            (Code::InvalidArgument, format!("{url:?} is no address of a bus; write nats://host:port"))
        }
        _ => (
            Code::Unavailable,
            format!("the bus at {url} can't be reached; is it running (mesh dev), is the address right?"),
        ),
    };
    Fault::new(code, Effect::None, Reason::BusUnavailable, message).with_detail(error.to_string())
}

/// Without user, password or token.
fn redact(url: &str) -> String {
    url.split(',')
        .map(|one| match (one.split_once("://"), one.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            _ => one.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_denial_names_the_subject() {
        let text = "Permissions Violation for Publish to \"mesh1.event.local.orders.X.0\"";
        assert_eq!(denied_subject(text), Some("mesh1.event.local.orders.X.0"));
        assert_eq!(denied_subject("Stale Connection"), None);
    }

    /// As one that hangs: the kernel takes the connection.
    #[tokio::test]
    async fn a_broker_that_says_nothing_is_given_up() {
        let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", hangs.local_addr().unwrap());
        let settings = BusSettings { connect_timeout: Duration::from_millis(50), ..BusSettings::new(url) };
        let identity = Identity::new("a".parse().unwrap(), "local".parse().unwrap(), Credential::None);
        let fault = connect(&settings, &identity, &Link::default()).await.unwrap_err();
        assert!(fault.message().contains("says nothing"), "{fault}");
        assert_eq!((fault.reason(), fault.effect()), (Reason::BusUnavailable, Effect::None));
    }

    #[test]
    fn secrets_in_an_address_are_not_repeated() {
        assert_eq!(redact("nats://user:pass@h:1,nats://h:2"), "nats://h:1,nats://h:2");
    }
}
