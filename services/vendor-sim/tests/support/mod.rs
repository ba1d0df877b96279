//! A server on a free port with a clock moved by hand, and a client to talk to it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::task::JoinSet;
use vendor_sim::{Clock, Config, Hand};

/// Nothing in these tests takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Sim {
    address: SocketAddr,
    pub(crate) hand: Hand,
    client: Client<HttpConnector, Full<Bytes>>,
    _server: JoinSet<()>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Sim {
    pub(crate) async fn start() -> Self {
        let (clock, hand) = Clock::manual();
        let server = vendor_sim::bind(Config { clock, ..Config::default() }).await.unwrap();
        let address = server.local_addr();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve(std::future::pending()));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address, hand, client, _server: tasks }
    }

    /// The answer, or `None` when the connection ended without one.
    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let call = self.client.request(request.body(Full::new(body.into())).unwrap());
        let reply = tokio::time::timeout(PATIENCE, call).await.expect("an answer in time").ok()?;
        let (parts, body) = reply.into_parts();
        let text = String::from_utf8(body.collect().await.ok()?.to_bytes().to_vec()).unwrap();
        Some(Answer { status: parts.status.as_u16(), headers: parts.headers, text })
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let headers = [("authorization", "Bearer sk_test_mesh")];
        self.try_call(Method::GET, path, &headers, "").await.unwrap()
    }

    pub(crate) async fn charge(&self, key: &str, form: &str) -> Option<Answer> {
        let mut headers =
            vec![("authorization", "Bearer sk_test_mesh"), ("content-type", "application/x-www-form-urlencoded")];
        if !key.is_empty() {
            headers.push(("idempotency-key", key));
        }
        self.try_call(Method::POST, "/v1/charges", &headers, form.to_owned()).await
    }

    pub(crate) async fn send(&self, key: &str, body: impl Into<Bytes>) -> Answer {
        let headers =
            [("authorization", "Bearer pk_test_mesh"), ("content-type", "application/json"), ("idempotency-key", key)];
        self.try_call(Method::POST, "/send", &headers, body).await.unwrap()
    }

    pub(crate) async fn turn(&self, vendor: &str, knobs: Value) -> Answer {
        self.try_call(Method::PUT, &format!("/_control/{vendor}"), &[], knobs.to_string()).await.unwrap()
    }

    /// The counts named, of one vendor.
    pub(crate) async fn counts<const N: usize>(&self, vendor: &str, names: [&str; N]) -> [u64; N] {
        let ledger = self.get("/_ledger").await.json();
        names.map(|name| ledger[vendor][name].as_u64().unwrap_or_else(|| panic!("no count {name}")))
    }

    /// Waits until a count reaches `least`.
    pub(crate) async fn until(&self, vendor: &str, name: &str, least: u64) {
        let reached = async { while self.counts(vendor, [name]).await[0] < least {} };
        tokio::time::timeout(PATIENCE, reached).await.expect("the count in time");
    }

    pub(crate) async fn effects(&self, vendor: &str) -> Vec<Value> {
        let answer = self.get(&format!("/_ledger/{vendor}/effects")).await;
        answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
