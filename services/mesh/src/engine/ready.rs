//! Is a nats-server up? It tells its ports in a file, greets on its port, and says why it can't in its log.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use url::Url;

use super::version::Version;

/// The longest greeting that is read, in bytes.
const MAX_GREETING_BYTES: u64 = 64 << 10;
/// How long one greeting may take.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// The ports that a server has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    /// For clients.
    pub(super) client: u16,
    /// For monitoring, if it is open.
    pub(super) monitoring: Option<u16>,
}

/// The server's greeting (`INFO`), as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Greeting {
    version: String,
    #[serde(default)]
    pub(super) jetstream: bool,
}

impl Greeting {
    pub(super) fn version(&self) -> Option<Version> {
        Version::parse(&self.version)
    }
}

/// The ports that the server has told in its folder, once it has.
pub(super) fn told_ports(folder: &Path) -> Option<Ports> {
    #[derive(Deserialize)]
    struct Told {
        #[serde(default)]
        nats: Vec<String>,
        #[serde(default)]
        monitoring: Vec<String>,
    }
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let file = entries.into_iter().find(|path| path.extension().is_some_and(|end| end == "ports"))?;
    // A file that is half written can't be parsed: it is read again.
    let told: Told = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let port = |urls: &[String]| urls.iter().find_map(|url| Url::parse(url).ok()?.port());
    Some(Ports { client: port(&told.nats)?, monitoring: port(&told.monitoring) })
}

/// Connects and reads the greeting.
pub(super) async fn greeting(host: &str, port: u16) -> Result<Greeting, String> {
    let read = async {
        let stream = TcpStream::connect((host, port)).await?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_GREETING_BYTES)).read_line(&mut line).await?;
        std::io::Result::Ok(line)
    };
    let line = tokio::time::timeout(GREETING_TIMEOUT, read)
        .await
        .map_err(|_| "it does not greet".to_owned())?
        .map_err(|error| format!("it can't be reached: {error}"))?;
    let info = line.strip_prefix("INFO ").ok_or("it does not greet as nats-server does")?;
    serde_json::from_str(info).map_err(|error| format!("its greeting can't be read: {error}"))
}

/// The port that another program holds, if the log says so.
pub(super) fn clashing_port(log: &str) -> Option<u16> {
    let line = log.lines().rev().find(|line| line.contains("address already in use"))?;
    let (_, address) = line.split_once("listen tcp ")?;
    let address = address.split(": ").next()?;
    address.rsplit(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_ports_once_they_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(told_ports(folder.path()), None);
        let file = folder.path().join("nats-server_7.ports");
        std::fs::write(&file, r#"{"nats":["nats://127.0.0.1:39733"],"monit"#).unwrap();
        assert_eq!(told_ports(folder.path()), None);
        std::fs::write(&file, r#"{"nats":["nats://127.0.0.1:39733"],"monitoring":["http://127.0.0.1:44025"]}"#)
            .unwrap();
        assert_eq!(told_ports(folder.path()), Some(Ports { client: 39733, monitoring: Some(44025) }));
    }

    #[test]
    fn finds_the_clashing_port_in_the_log() {
        let line = "[1] [FTL] Can't start monitoring: can't listen to the monitor port: \
                    listen tcp 127.0.0.1:39733: bind: address already in use";
        assert_eq!(clashing_port(&format!("[1] [INF] Starting\n{line}\n")), Some(39733));
        assert_eq!(clashing_port("[1] [ERR] listen tcp [::1]:4222: bind: address already in use"), Some(4222));
        assert_eq!(clashing_port("[1] [FTL] another trouble"), None);
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_told() {
        let free = crate::engine::free_loopback_port().unwrap();
        assert!(greeting("127.0.0.1", free).await.unwrap_err().contains("can't be reached"));
    }
}
