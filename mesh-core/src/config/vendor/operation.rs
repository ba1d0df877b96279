//! Reads one operation and holds it against the contract.

use super::{OperationPlan, answers, read::Surroundings, read::time, request};
use crate::{
    config::{
        problem::{Report, hint},
        yaml::{Key, Node},
    },
    contract::{Repeat, catalog::OperationEntry},
};

/// The keys of an operation.
pub(super) const KEYS: &[&str] =
    &["quota", "timeout", "request", "idempotency", "answers", "error", "reply", "request_id"];

pub(super) fn read(key: &Key, node: &Node, around: &Surroundings<'_>, report: &mut Report) -> Option<OperationPlan> {
    let OperationEntry { info, request: input, reply: output, .. } = find(key, around, report)?;
    let fields = node.fields(KEYS, report)?;
    let timeout = fields.get("timeout").and_then(|node| time(node, report)).unwrap_or(around.timeout);
    let quota = fields.get("quota").and_then(|node| node.text("a name of a quota", report));
    let request = fields.need("request", report).and_then(|node| request::read(node, input, around, report));
    let idempotency = fields.get("idempotency").and_then(|node| request::idempotency(node, input, report));
    if info.repeat == Repeat::Keyed && fields.get("idempotency").is_none() {
        let what = format!("the contract calls {} safe with a key, but no \"idempotency\" sends one", info.full_name());
        report.add(key.place, what);
    }
    let answers = answers::rules(fields.get("answers"), report);
    let error = answers::error_plan(fields.get("error"), report);
    let reply = answers::reply(fields.get("reply"), output, report);
    let request_id = fields.get("request_id").and_then(|node| answers::expression(node, report));
    Some(OperationPlan {
        info: info.clone(),
        input: input.clone(),
        output: output.clone(),
        quota: quota.unwrap_or(&around.vendor).to_owned(),
        timeout,
        request: request?,
        idempotency,
        answers,
        error,
        reply,
        request_id,
    })
}

fn find<'a>(key: &Key, around: &Surroundings<'a>, report: &mut Report) -> Option<&'a OperationEntry> {
    let found = around.catalog.operation(&key.name).filter(|entry| entry.info.full_name() == key.name);
    if found.is_none() {
        let known: Vec<_> = around.catalog.operations().map(|entry| entry.info.full_name()).collect();
        let near = hint(&key.name, known.iter().map(String::as_str));
        report.add(key.place, format!("no contract has the operation {:?}{near}", key.name));
    }
    found
}
