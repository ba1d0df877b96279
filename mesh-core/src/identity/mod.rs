//! Who I am: the name that stands in my subjects, and the credential that makes it true.

use std::fmt;

use secrecy::SecretString;

use crate::subject::Name;

/// How a service proves to the broker who it is.
#[derive(Clone)]
pub enum Credential {
    /// Nothing: for a broker that asks for nothing.
    None,
    /// The seed of an nkey (`SU…`): the broker knows the public half and sees a signature.
    Nkey(SecretString),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::None => "Credential::None",
            Credential::Nkey(_) => "Credential::Nkey(…)",
        })
    }
}

/// A service's name and region with its credential.
#[derive(Debug, Clone)]
pub struct Identity {
    service: Name,
    region: Name,
    credential: Credential,
}

impl Identity {
    /// An identity.
    #[must_use]
    pub fn new(service: Name, region: Name, credential: Credential) -> Identity {
        Identity { service, region, credential }
    }

    /// The name: the caller's token of every subject that it sends on.
    #[must_use]
    pub fn service(&self) -> &Name {
        &self.service
    }

    /// The region that it runs in.
    #[must_use]
    pub fn region(&self) -> &Name {
        &self.region
    }

    /// What proves it.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }
}
