//! Reads the whole file: its top, then each operation.

use std::{collections::BTreeMap, time::Duration};

use prost_reflect::DescriptorPool;
use secrecy::SecretString;

use super::{BaseUrl, VendorFile, operation, retry};
use crate::{
    config::{
        Environment, Kind, Problems, duration,
        problem::Report,
        yaml::{self, Fields, Node},
    },
    subject::Name,
};

/// The keys at the top of the file.
pub(super) const KEYS: &[&str] = &["vendor", "base_url", "allow_http", "timeout", "retry", "secrets", "operations"];

/// For one call, where the file says nothing.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What operations are read with.
pub(super) struct Surroundings<'a> {
    pub(super) pool: &'a DescriptorPool,
    pub(super) vendor: String,
    pub(super) timeout: Duration,
    pub(super) retry: retry::Stated,
    /// The names that the file declares under `secrets`.
    pub(super) secrets: Vec<String>,
}

pub(super) fn read(
    file: &str,
    text: &str,
    environment: &Environment,
    pool: &DescriptorPool,
) -> Result<VendorFile, Problems> {
    let mut report = Report::new(file, text);
    let read = yaml::parse(text, &mut report).and_then(|root| top(&root, environment, pool, &mut report));
    match read {
        Some(file) if report.len() == 0 => Ok(file),
        _ => Err(report.into_problems()),
    }
}

fn top(root: &Node, environment: &Environment, pool: &DescriptorPool, report: &mut Report) -> Option<VendorFile> {
    let fields = root.fields(KEYS, report)?;
    let vendor = fields.need("vendor", report).and_then(|node| name(node, report));
    let base_url = base_url(fields, environment, report);
    let timeout = fields.get("timeout").and_then(|node| time(node, report)).unwrap_or(TIMEOUT);
    let (retry, retry_budget) = retry::of_vendor(fields.get("retry"), report);
    let (declared, secrets) = secrets(fields, environment, report);
    let around = Surroundings { pool, vendor: vendor.clone().unwrap_or_default(), timeout, retry, secrets: declared };
    let operations = fields
        .need("operations", report)
        .and_then(|node| node.entries("the operation's name and how it is called", report))?
        .iter()
        .filter_map(|(key, node)| operation::read(key, node, &around, report))
        .collect();
    Some(VendorFile { vendor: vendor?, base_url: base_url?, secrets, retry_budget, operations })
}

fn name(node: &Node, report: &mut Report) -> Option<String> {
    let text = node.text("the vendor's name", report)?;
    if !Name::is_valid(text) {
        report.add(node.place, format!("{text:?} is not a name, expected 1 to 63 characters of a-z, 0-9 and '-'"));
        return None;
    }
    Some(text.to_owned())
}

fn base_url(fields: Fields<'_>, environment: &Environment, report: &mut Report) -> Option<BaseUrl> {
    let allow_http = fields.get("allow_http").and_then(|node| node.boolean(report)).unwrap_or(false);
    let node = fields.need("base_url", report)?;
    let text = node.text("a URL", report)?;
    let read = environment
        .expand(text)
        .map_err(|unset| format!("{unset}, and there is no default: ${{{}:-default}}", unset.0))
        .and_then(|url| BaseUrl::parse(&url, allow_http));
    read.map_err(|what| report.add(node.place, what)).ok()
}

/// What is said of a text that is no duration.
pub(super) const NOT_A_DURATION: &str =
    "not a duration, expected a whole number with ms, s, m, h or d: 250ms, 10s, 24h";

/// A duration.
pub(super) fn time(node: &Node, report: &mut Report) -> Option<Duration> {
    let parsed = match &node.value {
        yaml::Value::Text(text) => duration::parse(text),
        _ => None,
    };
    if parsed.is_none() {
        report.add(node.place, NOT_A_DURATION);
    }
    parsed
}

/// The declared names, and the values of those that are set.
fn secrets(
    fields: Fields<'_>,
    environment: &Environment,
    report: &mut Report,
) -> (Vec<String>, BTreeMap<String, SecretString>) {
    let (mut declared, mut values) = (Vec::new(), BTreeMap::new());
    let what = "the name in this file and the variable of the environment";
    let entries = fields.get("secrets").and_then(|node| node.entries(what, report)).unwrap_or_default();
    for (key, node) in entries {
        declared.push(key.name.clone());
        let Some(variable) = node.text("the name of a variable of the environment", report) else { continue };
        match environment.get(variable) {
            Some(value) => {
                values.insert(key.name.clone(), SecretString::from(value.to_owned()));
            }
            None => {
                let what = format!("the secret {:?} is not set, expected it in the variable {variable}", key.name);
                report.add_kind(node.place, what, Kind::SecretMissing);
            }
        }
    }
    (declared, values)
}
