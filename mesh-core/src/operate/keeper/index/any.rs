//! Queries that name several of a kind: one of them must fit. By number of a name it is known beforehand whether it does.

use std::collections::BTreeSet;

use mesh_proto::v1;

use super::{super::super::letters::is_type, Entry, Index};

/// What entries may have; nothing: whatever.
pub(super) struct Any {
    message_types: Vec<bool>,
    reasons: Vec<bool>,
    vendors: Vec<bool>,
    vendor_codes: Vec<bool>,
    codes: BTreeSet<i32>,
    fingerprints: BTreeSet<u64>,
}

impl Any {
    pub(super) fn of(index: &Index, any: &v1::LetterAnyOf) -> Any {
        let named = |wanted: &[String], fits: fn(&str, &str) -> bool| match wanted {
            [] => Vec::new(),
            wanted => index.names.all().map(|(_, text)| wanted.iter().any(|wanted| fits(wanted, text))).collect(),
        };
        let is = |wanted: &str, text: &str| wanted == text;
        Any {
            message_types: named(&any.message_types, is_type),
            reasons: named(&any.reasons, is),
            vendors: named(&any.vendors, is),
            vendor_codes: named(&any.vendor_codes, is),
            codes: any.codes.iter().copied().collect(),
            fingerprints: any.fingerprints.iter().copied().collect(),
        }
    }

    pub(super) fn admits(&self, entry: &Entry) -> bool {
        let fits = |names: &[bool], number: u32| names.is_empty() || names.get(number as usize) == Some(&true);
        fits(&self.message_types, entry.message_type)
            && fits(&self.reasons, entry.reason)
            && fits(&self.vendors, entry.vendor)
            && fits(&self.vendor_codes, entry.vendor_code)
            && (self.codes.is_empty() || self.codes.contains(&i32::from(entry.code)))
            && (self.fingerprints.is_empty() || self.fingerprints.contains(&entry.fingerprint))
    }
}
