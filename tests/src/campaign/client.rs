//! How workers and scenarios talk to the counter.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::counter::{ATTEMPT, ID, KEY, Order, Report, Rule};

/// How long a call may take: long, so that a busy machine makes no fault of its own.
const CALL: Duration = Duration::from_secs(10);

/// A client of one counter. Cheap to clone.
#[derive(Clone)]
pub struct CounterClient {
    url: String,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// How a call ended that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// It never left.
    NotSent,
    /// It left, and nobody knows.
    Unknown,
}

impl CounterClient {
    /// A client of the counter at `http://host:port`.
    #[must_use]
    pub fn new(url: &str) -> CounterClient {
        CounterClient { url: url.to_owned(), http: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder().method(method).uri(format!("{}{path}", self.url))
    }

    /// Asks for the effect of a message.
    ///
    /// # Errors
    /// No answer came.
    pub async fn effect(&self, id: &str, key: &str, attempt: u32) -> Result<StatusCode, NoAnswer> {
        let request = self.request(Method::POST, "/effect").header(ID, id).header(KEY, key).header(ATTEMPT, attempt);
        let request = request.body(Full::default()).map_err(|_| NoAnswer::NotSent)?;
        match tokio::time::timeout(CALL, self.http.request(request)).await {
            Ok(Ok(response)) => Ok(response.status()),
            Ok(Err(error)) if error.is_connect() => Err(NoAnswer::NotSent),
            Ok(Err(_)) | Err(_) => Err(NoAnswer::Unknown),
        }
    }

    /// Sets the rule for ids that hold the word.
    ///
    /// # Errors
    /// The counter does not take it.
    pub async fn rule(&self, word: &str, rule: Rule) -> anyhow::Result<()> {
        let order = serde_json::to_vec(&Order { word: word.to_owned(), rule })?;
        let request = self.request(Method::POST, "/rule").body(Full::from(order))?;
        let answer = self.http.request(request).await.context("the counter does not answer")?;
        if answer.status() != StatusCode::OK {
            bail!("the counter refuses the rule: {}", answer.status());
        }
        Ok(())
    }

    /// How many ids that hold the word have taken effect. No word: how many of all.
    ///
    /// # Errors
    /// The counter does not answer.
    pub async fn count(&self, word: &str) -> anyhow::Result<usize> {
        Ok(serde_json::from_slice(&self.get(&format!("/count?{word}")).await?)?)
    }

    /// Everything that it knows.
    ///
    /// # Errors
    /// The counter does not answer.
    pub async fn report(&self) -> anyhow::Result<Report> {
        Ok(serde_json::from_slice(&self.get("/report").await?)?)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        let request = self.request(Method::GET, path).body(Full::default())?;
        let answer = self.http.request(request).await.context("the counter does not answer")?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }
}
