//! What the expressions of a vendor file may name.

use cel::{
    common::{
        types::{CelInt, CelString},
        value::CowVal,
    },
    context::VariableResolver,
};

use crate::config::record::{Boxed, Record};

/// The variables of a request.
#[derive(Debug)]
pub(super) struct Asking<'m> {
    pub(super) request: Record<'m>,
    pub(super) secret: Record<'m>,
    pub(super) id: CelString<'m>,
    pub(super) key: CelString<'m>,
    pub(super) attempt: CelInt,
}

impl VariableResolver for Asking<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        Some(match variable {
            "request" => CowVal::Borrowed(&self.request),
            "secret" => CowVal::Borrowed(&self.secret),
            "id" => CowVal::Borrowed(&self.id),
            "key" => CowVal::Borrowed(&self.key),
            "attempt" => CowVal::Borrowed(&self.attempt),
            _ => return None,
        })
    }
}

/// The variables of an answer.
#[derive(Debug)]
pub(super) struct Answered<'m> {
    pub(super) status: CelInt,
    pub(super) headers: Record<'m>,
    pub(super) body: Boxed<'m>,
}

impl VariableResolver for Answered<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        Some(match variable {
            "status" => CowVal::Borrowed(&self.status),
            "headers" => CowVal::Borrowed(&self.headers),
            "body" => CowVal::Borrowed(self.body.as_ref()),
            _ => return None,
        })
    }
}
