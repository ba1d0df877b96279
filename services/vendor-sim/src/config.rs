//! What a server is made from.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use crate::clock::Clock;
use crate::knobs::Knobs;

/// The key that the Stripe-like vendor accepts unless told otherwise.
pub const STRIPE_KEY: &str = "sk_test_mesh";
/// The key that the Courier-like vendor accepts unless told otherwise.
pub const COURIER_KEY: &str = "pk_test_mesh";

/// A whole server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// The Stripe-like vendor.
    pub stripe: VendorConfig,
    /// The Courier-like vendor.
    pub courier: VendorConfig,
    /// Where the time comes from.
    pub clock: Clock,
}

/// One vendor.
#[derive(Debug, Clone)]
pub struct VendorConfig {
    /// The API key that callers must show.
    pub key: Key,
    /// How the vendor behaves at the start.
    pub knobs: Knobs,
}

/// An API key; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Default for Config {
    fn default() -> Self {
        let vendor = |key: &str| VendorConfig { key: Key::new(key), knobs: Knobs::default() };
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            seed: 0,
            stripe: vendor(STRIPE_KEY),
            courier: vendor(COURIER_KEY),
            clock: Clock::real(),
        }
    }
}

impl Key {
    /// A key of this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}
