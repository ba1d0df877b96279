//! What the broker alone can do: messages that were made before the clock began, sent over a connection of bare bytes. Whoever
//! publishes in batches, and makes its messages meanwhile, stays below this.

use anyhow::{Context as _, bail, ensure};
use async_nats::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
};

use crate::TestBroker;

/// A message as it goes on the wire.
pub(crate) struct Message {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

/// An atomic batch (ADR-50), byte for byte.
pub struct Batch {
    bytes: Vec<u8>,
    messages: usize,
}

/// A connection that sends what is ready.
pub struct ReadyMade {
    socket: BufStream<TcpStream>,
    inbox: String,
}

#[derive(Deserialize)]
struct Info {
    nonce: String,
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    count: usize,
    error: Option<serde_json::Value>,
}

impl ReadyMade {
    /// Connects as a service.
    ///
    /// # Errors
    /// There is no such service, or the broker refuses it.
    pub async fn connect(broker: &TestBroker, service: &str) -> anyhow::Result<ReadyMade> {
        let url = broker.server.client_url();
        let stream = TcpStream::connect(url.trim_start_matches("nats://")).await?;
        stream.set_nodelay(true)?;
        let mut ready = ReadyMade { socket: BufStream::new(stream), inbox: format!("_INBOX.{service}.ready") };
        let info = ready.line().await?;
        let info: Info = serde_json::from_str(info.strip_prefix("INFO ").context("no INFO")?)?;
        let pair = nkeys::KeyPair::from_seed(broker.seed(service).context("no such service")?)?;
        let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(pair.sign(info.nonce.as_bytes())?);
        let connect = serde_json::json!({
            "verbose": false, "headers": true, "no_responders": true, "nkey": pair.public_key(), "sig": signature,
        });
        let hello = format!("CONNECT {connect}\r\nSUB {}.* 1\r\nPING\r\n", ready.inbox);
        ready.socket.write_all(hello.as_bytes()).await?;
        ready.socket.flush().await?;
        loop {
            match ready.line().await?.as_str() {
                "PONG" => return Ok(ready),
                error if error.starts_with("-ERR") => bail!("{error}"),
                _ => {}
            }
        }
    }

    /// Makes a batch of `messages` in their order.
    #[must_use]
    pub(crate) fn batch(&self, id: &str, messages: impl ExactSizeIterator<Item = Message>) -> Batch {
        let (count, mut bytes) = (messages.len(), Vec::new());
        for (before, Message { subject, mut headers, payload }) in messages.enumerate() {
            headers.insert(header::NATS_BATCH_ID, id);
            headers.insert(header::NATS_BATCH_SEQUENCE, HeaderValue::from(before + 1));
            let mut reply = String::new();
            if before + 1 == count {
                headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
                reply = format!("{}.{id} ", self.inbox);
            }
            let headers = lines(&headers);
            let (head, all) = (headers.len(), headers.len() + payload.len());
            bytes.extend_from_slice(format!("HPUB {subject} {reply}{head} {all}\r\n{headers}").as_bytes());
            bytes.extend_from_slice(&payload);
            bytes.extend_from_slice(b"\r\n");
        }
        Batch { bytes, messages: count }
    }

    /// Sends a batch and waits until all of it is stored.
    ///
    /// # Errors
    /// The broker refuses it or goes away.
    pub async fn publish(&mut self, batch: &Batch) -> anyhow::Result<()> {
        self.socket.write_all(&batch.bytes).await?;
        self.socket.flush().await?;
        let payload = self.answer().await?;
        let ack: Ack = serde_json::from_slice(&payload).context("the acknowledgement can't be read")?;
        ensure!(ack.error.is_none() && ack.count == batch.messages, "{}", String::from_utf8_lossy(&payload));
        Ok(())
    }

    async fn answer(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            let line = self.line().await?;
            if line == "PING" {
                self.socket.write_all(b"PONG\r\n").await?;
                self.socket.flush().await?;
            } else if line.starts_with("MSG ") {
                let size: usize = line.rsplit(' ').next().unwrap_or_default().parse()?;
                let mut payload = vec![0; size + 2];
                self.socket.read_exact(&mut payload).await?;
                payload.truncate(size);
                return Ok(payload);
            } else if line.starts_with("-ERR") || line.starts_with("HMSG") {
                bail!("{line}");
            }
        }
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.socket.read_line(&mut line).await? > 0, "the broker closed the connection");
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}

fn lines(headers: &HeaderMap) -> String {
    let mut text = "NATS/1.0\r\n".to_owned();
    for (name, values) in headers.iter() {
        for value in values {
            text += &format!("{name}: {value}\r\n");
        }
    }
    text + "\r\n"
}
