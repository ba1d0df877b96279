//! The configuration of one nats-server: built by hand, checked, written as the server's own text.
//!
//! Invariants: the server listens on loopback unless told otherwise; a configuration names its users, or says in so many words
//! that everybody may do everything; a user never stands without both allow-lists, since nats-server reads a missing or empty
//! list as "may do everything". Deny rules are never written: they have been bypassed.

mod text;

pub use text::users_text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::text::{line, quote};
use super::error::EngineError;

/// How many answers a user may publish to the reply subjects of requests that it received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowResponses {
    /// Answers per request.
    pub max: u32,
    /// For how long after the request.
    pub expires: Duration,
}

/// One user of the broker and all that it may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserEntry {
    /// The public key, `U…`. The seed stays with the user.
    pub nkey_public: String,
    /// Subjects that it may publish to. Empty: none.
    pub publish_allow: Vec<String>,
    /// Subjects that it may subscribe to. Empty: none.
    pub subscribe_allow: Vec<String>,
    /// Whether it may answer requests, wherever their reply subject lies.
    pub allow_responses: Option<AllowResponses>,
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Access {
    Users(Vec<UserEntry>),
    Everybody,
}

/// The server's place in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's name, the same on every server.
    pub name: String,
    /// The port for the other servers, on the host of the clients' port.
    pub port: u16,
    /// The other servers: `nats-route://127.0.0.1:6222`.
    pub routes: Vec<String>,
}

/// JetStream's limits on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JetStream {
    /// Where streams are kept; `None`: `store` in the server's folder.
    pub store_dir: Option<PathBuf>,
    /// True: an acknowledged message is on the disk. False: the server syncs every two minutes.
    pub sync_always: bool,
    /// Most memory for streams in memory, in bytes.
    pub max_memory_bytes: u64,
    /// Most disk for streams in files, in bytes.
    pub max_file_bytes: u64,
}

impl Default for JetStream {
    fn default() -> Self {
        Self { store_dir: None, sync_always: true, max_memory_bytes: 256 << 20, max_file_bytes: 16 << 30 }
    }
}

/// The configuration of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    name: String,
    host: String,
    port: u16,
    monitoring: Option<u16>,
    access: Access,
    jetstream: Option<JetStream>,
    cluster: Option<Cluster>,
    max_payload_bytes: u32,
    ping_interval: Duration,
}

impl ServerConfig {
    /// A server on a free port of 127.0.0.1 with JetStream that syncs always, 1 MiB payloads, pings every 10 s, and no users yet:
    /// give it some before it is started.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            host: "127.0.0.1".to_owned(),
            port: 0,
            monitoring: None,
            access: Access::Users(Vec::new()),
            jetstream: Some(JetStream::default()),
            cluster: None,
            max_payload_bytes: 1 << 20,
            ping_interval: Duration::from_secs(10),
        }
    }

    /// The address to listen on, for every port of this server.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// The clients' port; 0: any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Opens the monitoring port (`/healthz`, `/varz`); 0: any free one. It asks for no password: keep it on loopback.
    #[must_use]
    pub fn monitoring(mut self, port: u16) -> Self {
        self.monitoring = Some(port);
        self
    }

    /// The users, and all that each may do. They replace those given before.
    #[must_use]
    pub fn users(mut self, users: Vec<UserEntry>) -> Self {
        self.access = Access::Users(users);
        self
    }

    /// Lets everybody who reaches the port do everything. For tests and experiments.
    #[must_use]
    pub fn open_to_everybody(mut self) -> Self {
        self.access = Access::Everybody;
        self
    }

    /// JetStream's limits; `None` switches it off.
    #[must_use]
    pub fn jetstream(mut self, jetstream: Option<JetStream>) -> Self {
        self.jetstream = jetstream;
        self
    }

    /// Makes the server part of a cluster.
    #[must_use]
    pub fn cluster(mut self, cluster: Cluster) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// The largest message, in bytes.
    #[must_use]
    pub fn max_payload_bytes(mut self, bytes: u32) -> Self {
        self.max_payload_bytes = bytes;
        self
    }

    /// How often the server asks a silent client for a sign of life.
    #[must_use]
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }

    pub(super) fn has_jetstream(&self) -> bool {
        self.jetstream.is_some()
    }

    /// Checks what the server would refuse, or would understand otherwise than meant.
    ///
    /// # Errors
    /// [`EngineError::Config`] with the field and the reason.
    pub fn check(&self) -> Result<(), EngineError> {
        word("the server's name", &self.name)?;
        word("the host", &self.host)?;
        if let Some(cluster) = &self.cluster {
            word("the cluster's name", &cluster.name)?;
            cluster.routes.iter().try_for_each(|route| word("a route", route))?;
        }
        let Access::Users(users) = &self.access else { return Ok(()) };
        if users.is_empty() {
            return Err(EngineError::config("it has no users, so nobody could connect: add users"));
        }
        let mut seen = BTreeSet::new();
        for user in users {
            check_user(user)?;
            if !seen.insert(&user.nkey_public) {
                return Err(EngineError::config(format!("user {} stands in it twice", user.nkey_public)));
            }
        }
        Ok(())
    }

    /// The text for a server that runs in `folder` and tells its ports and process id there.
    pub(super) fn to_text_in(&self, folder: &Path, ports: &Path) -> Result<String, EngineError> {
        let mut placed = self.clone();
        if let Some(jetstream) = &mut placed.jetstream {
            jetstream.store_dir.get_or_insert_with(|| folder.join("store"));
        }
        let mut text = placed.to_text();
        line(&mut text, "ports_file_dir", &quote(unicode(ports)?));
        line(&mut text, "pid_file", &quote(unicode(&folder.join("nats-server.pid"))?));
        Ok(text)
    }

    pub(super) fn with_ports(&self, port: u16, monitoring: Option<u16>) -> Self {
        Self { port, monitoring: self.monitoring.map(|asked| monitoring.unwrap_or(asked)), ..self.clone() }
    }

    /// This configuration, with the places of a running server, which can't change while it runs.
    pub(super) fn placed_as(self, running: &Self) -> Self {
        let jetstream = self.jetstream.map(|mut jetstream| {
            jetstream.store_dir = running.jetstream.as_ref().and_then(|running| running.store_dir.clone());
            jetstream
        });
        let (host, port) = (running.host.clone(), running.port);
        Self { name: running.name.clone(), host, port, monitoring: running.monitoring, jetstream, ..self }
    }

    /// Where a client on this machine reaches the server.
    pub(super) fn reachable_host(&self) -> &str {
        match self.host.as_str() {
            "0.0.0.0" | "::" | "[::]" => "127.0.0.1",
            host => host,
        }
    }
}

fn unicode(path: &Path) -> Result<&str, EngineError> {
    path.to_str().ok_or_else(|| EngineError::config(format!("the path {} is not Unicode", path.display())))
}

fn word(what: &str, text: &str) -> Result<(), EngineError> {
    if text.is_empty() || text.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return Err(EngineError::config(format!("{what} is {text:?}; it must be one word")));
    }
    Ok(())
}

fn check_user(user: &UserEntry) -> Result<(), EngineError> {
    let key = &user.nkey_public;
    if !key.starts_with('U') || nkeys::KeyPair::from_public_key(key).is_err() {
        return Err(EngineError::config(format!("{key:?} is no public key of a user (U…)")));
    }
    let subjects = user.publish_allow.iter().chain(&user.subscribe_allow);
    for subject in subjects {
        let tokens_filled = subject.split('.').all(|token| !token.is_empty());
        let clean = subject.chars().all(|character| !character.is_whitespace() && !character.is_control());
        if !(tokens_filled && clean) {
            return Err(EngineError::config(format!("{subject:?}, allowed to {key}, is no subject")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::public_key;

    fn user(publish: &[&str], subscribe: &[&str]) -> UserEntry {
        let own = |subjects: &[&str]| subjects.iter().map(|subject| (*subject).to_owned()).collect();
        UserEntry {
            nkey_public: public_key(),
            publish_allow: own(publish),
            subscribe_allow: own(subscribe),
            allow_responses: None,
        }
    }

    #[test]
    fn writes_the_defaults_that_the_design_asks_for() {
        let text = ServerConfig::new("one").users(vec![user(&["a"], &["b"])]).to_text();
        for part in [
            "listen: \"127.0.0.1:-1\"",
            "sync_interval: always",
            "max_payload: 1048576",
            "publish: {allow: [\"a\"]}, subscribe: {allow: [\"b\"]}",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("http"), "{text}");
    }

    #[test]
    fn an_empty_list_is_written_as_one_that_allows_nothing() {
        let mut entry = user(&[], &[]);
        entry.allow_responses = Some(AllowResponses { max: 1, expires: Duration::from_secs(60) });
        let text = ServerConfig::new("one").users(vec![entry]).to_text();
        let nothing = "{publish: {allow: [\"mesh1.nothing\"]}, subscribe: {allow: [\"mesh1.nothing\"]}";
        assert!(text.contains(nothing), "{text}");
        assert!(text.contains("allow_responses: {max: 1, expires: \"60000ms\"}"), "{text}");
    }

    #[test]
    fn refuses_what_would_mean_something_else() {
        let good = || user(&["a.>"], &["b.*"]);
        let check = |users: Vec<UserEntry>| ServerConfig::new("one").users(users).check().map_err(|e| e.to_string());
        assert_eq!(check(vec![good(), good()]), Ok(()));
        let same = good();
        let cases = [
            (vec![], "no users"),
            (vec![same.clone(), same], "twice"),
            (vec![UserEntry { nkey_public: "SUAXYZ".to_owned(), ..good() }], "no public key"),
            (vec![user(&["a b"], &[])], "no subject"),
            (vec![user(&[], &[""])], "no subject"),
            (vec![user(&["a..b"], &[])], "no subject"),
        ];
        for (users, part) in cases {
            let error = check(users).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(ServerConfig::new("two words").open_to_everybody().check().is_err());
        assert_eq!(ServerConfig::new("one").open_to_everybody().check().map_err(|e| e.to_string()), Ok(()));
    }
}
