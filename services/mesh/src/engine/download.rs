//! One file over HTTPS, from the official release page.
//!
//! The release page answers with a redirect to the host that keeps the files. That one host is followed to, and nowhere else.
//! Proxies are not used: who needs one has pip, which does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncWriteExt as _;
use url::Url;

use super::progress::{Listener, Progress};

/// The largest archive that is accepted, in bytes. The real one has seven million.
const MAX_ARCHIVE_BYTES: u64 = 64 << 20;
/// How long the whole download may take.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the other side may stay silent.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 2;
const HOSTS: [&str; 3] = ["github.com", "release-assets.githubusercontent.com", "objects.githubusercontent.com"];

type Https = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Fetches `url` into the file `target`.
pub(super) async fn download(url: &str, target: &Path, listener: Listener<'_>) -> Result<(), String> {
    let work = async {
        let response = request(&client()?, allowed(url)?).await?;
        save(response, target, listener).await
    };
    let late = |_| format!("{url} did not arrive within {} s", DOWNLOAD_TIMEOUT.as_secs());
    tokio::time::timeout(DOWNLOAD_TIMEOUT, work).await.map_err(late)?
}

fn client() -> Result<Https, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_platform_verifier(provider)
        .map_err(|error| format!("this system's certificates can't be read: {error}"))?
        .https_only()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

async fn request(client: &Https, mut url: Url) -> Result<hyper::Response<Incoming>, String> {
    for _ in 0..=MAX_REDIRECTS {
        let uri = url.as_str().parse().map_err(|error| format!("{url}: {error}"))?;
        let response = tokio::time::timeout(SILENCE_TIMEOUT, client.get(uri))
            .await
            .map_err(|_| format!("{} did not answer within {} s", host(&url), SILENCE_TIMEOUT.as_secs()))?
            .map_err(|error| format!("{} can't be reached: {}", host(&url), innermost(&error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        url = redirect(&url, &response)?;
    }
    Err(format!("{} redirects more than {MAX_REDIRECTS} times", host(&url)))
}

fn redirect<B>(url: &Url, response: &hyper::Response<B>) -> Result<Url, String> {
    let location = response.headers().get(hyper::header::LOCATION).and_then(|value| value.to_str().ok());
    match location {
        Some(location) if response.status().is_redirection() => {
            let next = url.join(location).map_err(|error| format!("{} redirects badly: {error}", host(url)))?;
            allowed(next.as_str())
        }
        _ => Err(format!("{} answered {}", host(url), response.status())),
    }
}

/// The address, if it is one of the release hosts over HTTPS on the usual port.
fn allowed(url: &str) -> Result<Url, String> {
    let url = Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
    let known = url.host_str().is_some_and(|host| HOSTS.contains(&host));
    if known && url.scheme() == "https" && url.port().is_none() {
        return Ok(url);
    }
    Err(format!("a redirect to {}://{} was refused: only the release hosts are followed to", url.scheme(), host(&url)))
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or("(no host)")
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

async fn save(response: hyper::Response<Incoming>, target: &Path, listener: Listener<'_>) -> Result<(), String> {
    let total = hyper::body::Body::size_hint(response.body()).exact();
    let mut body = response.into_body();
    let written = |error: std::io::Error| format!("can't write {}: {error}", target.display());
    let mut file = tokio::fs::File::create_new(target).await.map_err(written)?;
    let mut bytes = 0;
    loop {
        let silent = |_| format!("the download stopped at {bytes} bytes for {} s", SILENCE_TIMEOUT.as_secs());
        let Some(frame) = tokio::time::timeout(SILENCE_TIMEOUT, body.frame()).await.map_err(silent)? else { break };
        let frame = frame.map_err(|error| format!("the download broke off at {bytes} bytes: {}", innermost(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len() as u64;
        if bytes > MAX_ARCHIVE_BYTES {
            return Err(format!("the archive is larger than {MAX_ARCHIVE_BYTES} bytes"));
        }
        file.write_all(&data).await.map_err(written)?;
        listener(Progress::Received { bytes, total });
    }
    file.flush().await.map_err(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, location: Option<&str>) -> hyper::Response<()> {
        let builder = hyper::Response::builder().status(status);
        location.into_iter().fold(builder, |builder, value| builder.header("location", value)).body(()).unwrap()
    }

    #[test]
    fn follows_to_the_release_hosts_only() {
        let start = allowed("https://github.com/nats-io/nats-server/releases/download/v2.15.1/x.tar.gz").unwrap();
        let good = "https://release-assets.githubusercontent.com/file?sig=1";
        assert_eq!(redirect(&start, &answer(302, Some(good))).unwrap().as_str(), good);
        assert!(redirect(&start, &answer(302, Some("/elsewhere"))).is_ok());
        for bad in [
            "http://github.com/x",
            "https://example.com/x",
            "https://github.com.example.com/x",
            "https://github.com:8443/x",
            "https://127.0.0.1/x",
            "file:///etc/passwd",
        ] {
            let error = redirect(&start, &answer(302, Some(bad))).unwrap_err();
            assert!(error.contains("refused"), "{bad}: {error}");
        }
    }

    #[test]
    fn another_answer_than_a_file_or_a_redirect_is_told() {
        let start = allowed("https://github.com/x").unwrap();
        assert!(redirect(&start, &answer(404, None)).unwrap_err().contains("404"));
        assert!(redirect(&start, &answer(302, None)).unwrap_err().contains("302"));
        assert!(redirect(&start, &answer(403, Some("https://github.com/login"))).unwrap_err().contains("403"));
    }
}
