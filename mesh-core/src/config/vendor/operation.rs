//! Reads one operation and holds it against the contract.

use std::borrow::Cow;

use mesh_proto::options;
use prost_reflect::MethodDescriptor;

use super::{OperationPlan, answers, read::Surroundings, read::time, request, retry};
use crate::{
    config::{
        check::Scope,
        problem::{Report, hint},
        yaml::{Key, Node},
    },
    contract::{OperationInfo, Repeat},
};

/// The keys of an operation.
pub(super) const KEYS: &[&str] =
    &["quota", "timeout", "retry", "isolate_by", "request", "idempotency", "answers", "error", "reply", "request_id"];

pub(super) fn read(key: &Key, node: &Node, around: &Surroundings<'_>, report: &mut Report) -> Option<OperationPlan> {
    let method = find(key, around, report)?;
    let (info, input, output) = (info(&method), method.input(), method.output());
    let fields = node.fields(KEYS, report)?;
    let timeout = fields.get("timeout").and_then(|node| time(node, report)).unwrap_or(around.timeout);
    let quota = fields.get("quota").and_then(|node| node.text("a name of a quota", report));
    let request = fields.need("request", report).and_then(|node| request::read(node, &input, around, report));
    let idempotency = fields.get("idempotency").and_then(|node| request::idempotency(node, &input, report));
    if info.repeat == Repeat::Keyed && fields.get("idempotency").is_none() {
        let what = format!("the contract calls {} safe with a key, but no \"idempotency\" sends one", info.full_name());
        report.add(key.place, what);
    }
    let retry = retry::of_operation(fields.get("retry"), &around.retry, (&info, idempotency.as_ref()), report);
    let scope = Scope { names: &["request"], request: Some(input.clone()), secrets: &[], fields: &[] };
    let isolate_by = fields.get("isolate_by").and_then(|node| request::leaf(node, &scope, report));
    let answers = answers::rules(fields.get("answers"), report);
    let error = answers::error_plan(fields.get("error"), report);
    let reply = answers::reply(fields.get("reply"), &output, report);
    let request_id = fields.get("request_id").and_then(|node| answers::expression(node, report));
    Some(OperationPlan {
        info,
        input,
        output,
        quota: quota.unwrap_or(&around.vendor).to_owned(),
        timeout,
        retry,
        isolate_by,
        request: request?,
        idempotency,
        answers,
        error,
        reply,
        request_id,
    })
}

fn find(key: &Key, around: &Surroundings<'_>, report: &mut Report) -> Option<MethodDescriptor> {
    let named = |(service, method): (&str, &str)| {
        around.pool.get_service_by_name(service)?.methods().find(|known| known.name() == method)
    };
    let found = key.name.split_once('/').and_then(named);
    if found.is_none() {
        let full = |method: MethodDescriptor| format!("{}/{}", method.parent_service().full_name(), method.name());
        let services = around.pool.services();
        let known: Vec<String> = services.flat_map(|service| service.methods().map(full).collect::<Vec<_>>()).collect();
        let near = hint(&key.name, known.iter().map(String::as_str));
        report.add(key.place, format!("no contract has the operation {:?}{near}", key.name));
    }
    found
}

fn info(method: &MethodDescriptor) -> OperationInfo {
    OperationInfo {
        service: Cow::Owned(method.parent_service().full_name().to_owned()),
        method: Cow::Owned(method.name().to_owned()),
        repeat: options::repeat(method).into(),
        request: Cow::Owned(method.input().full_name().to_owned()),
        reply: Cow::Owned(method.output().full_name().to_owned()),
    }
}
