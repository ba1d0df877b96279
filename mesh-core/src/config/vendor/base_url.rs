//! The URL that every path of a vendor is appended to.

use url::{Host, Url};

/// A base URL: `https`, or `http` where that is allowed; without a user name, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    text: String,
    host: String,
    port: u16,
    plain: bool,
}

impl BaseUrl {
    /// Reads one. `http` is taken for this machine itself, and elsewhere only where `allow_http` says so.
    ///
    /// # Errors
    /// What is wrong and what was expected.
    pub fn parse(text: &str, allow_http: bool) -> Result<BaseUrl, String> {
        let url = Url::parse(text).map_err(|e| format!("not a URL: {e}"))?;
        let plain = match url.scheme() {
            "https" => false,
            "http" => true,
            other => return Err(format!("the scheme is {other:?}, expected https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL holds a user name or password, expected them under \"secrets\"".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("the URL holds a query or fragment, expected scheme, host, port and path alone".to_owned());
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err("the URL names no host".to_owned());
        };
        let loopback = match &host {
            Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        if plain && !loopback && !allow_http {
            return Err("the scheme is http, expected https (or allow_http: true)".to_owned());
        }
        let host = host.to_string();
        Ok(BaseUrl { text: url.as_str().trim_end_matches('/').to_owned(), host, port, plain })
    }

    /// The URL without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is `http`.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_https_and_http_to_this_machine() {
        for (given, kept) in [
            ("https://api.stripe.com", "https://api.stripe.com"),
            ("https://api.stripe.com/", "https://api.stripe.com"),
            ("https://a.example:8443/v1/", "https://a.example:8443/v1"),
            ("http://127.0.0.1:9", "http://127.0.0.1:9"),
            ("http://[::1]:9", "http://[::1]:9"),
            ("http://localhost:9", "http://localhost:9"),
        ] {
            assert_eq!(BaseUrl::parse(given, false).unwrap().as_str(), kept);
        }
        assert!(BaseUrl::parse("http://vendor-sim:9", true).unwrap().is_plain());
    }

    #[test]
    fn refuses_the_rest() {
        for (given, why) in [
            ("http://api.stripe.com", "expected https"),
            ("http://127.0.0.1.example.com", "expected https"),
            ("ftp://a", "expected https"),
            ("https://key@a.example", "user name"),
            ("https://a.example?x=1", "query"),
            ("https://a.example#x", "fragment"),
            ("a.example", "not a URL"),
        ] {
            let said = BaseUrl::parse(given, false).unwrap_err();
            assert!(said.contains(why), "{given}: {said}");
        }
    }
}
