//! Reads one operation and holds it against the contract.

use std::borrow::Cow;

use prost_reflect::{DynamicMessage, MethodDescriptor, Value};

use super::{OperationPlan, answers, read::Surroundings, read::time, request};
use crate::{
    config::{
        problem::{Report, hint},
        yaml::{Key, Node},
    },
    contract::{OperationInfo, Repeat},
};

/// The keys of an operation.
pub(super) const KEYS: &[&str] =
    &["quota", "timeout", "request", "idempotency", "answers", "error", "reply", "request_id"];

pub(super) fn read(key: &Key, node: &Node, around: &Surroundings<'_>, report: &mut Report) -> Option<OperationPlan> {
    let method = find(key, around, report)?;
    let info = info(&method);
    let fields = node.fields(KEYS, report)?;
    let timeout = fields.get("timeout").and_then(|node| time(node, report)).unwrap_or(around.timeout);
    let quota = fields.get("quota").and_then(|node| node.text("a name of a quota", report));
    let input = method.input();
    let request = fields.need("request", report).and_then(|node| request::read(node, &input, around, report));
    let idempotency = fields.get("idempotency").and_then(|node| request::idempotency(node, &input, report));
    if info.repeat == Repeat::Keyed && fields.get("idempotency").is_none() {
        let what = format!("the contract calls {} safe with a key, but no \"idempotency\" sends one", info.full_name());
        report.add(key.place, what);
    }
    let answers = answers::rules(fields.get("answers"), report);
    let error = answers::error_plan(fields.get("error"), report);
    let output = method.output();
    let reply = answers::reply(fields.get("reply"), &output, report);
    let request_id = fields.get("request_id").and_then(|node| answers::expression(node, report));
    Some(OperationPlan {
        info,
        input,
        output,
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

fn find(key: &Key, around: &Surroundings<'_>, report: &mut Report) -> Option<MethodDescriptor> {
    let known: Vec<String> = around
        .pool
        .services()
        .flat_map(|s| s.methods().map(|m| format!("{}/{}", s.full_name(), m.name())).collect::<Vec<_>>())
        .collect();
    let found = key.name.split_once('/').and_then(|(service, method)| {
        around.pool.get_service_by_name(service)?.methods().find(|m| m.name() == method)
    });
    if found.is_none() {
        let near = hint(&key.name, known.iter().map(String::as_str));
        report.add(key.place, format!("no contract has the operation {:?}{near}", key.name));
    }
    found
}

fn info(method: &MethodDescriptor) -> OperationInfo {
    OperationInfo {
        service: Cow::Owned(method.parent_service().full_name().to_owned()),
        method: Cow::Owned(method.name().to_owned()),
        repeat: repeat(method),
        request: Cow::Owned(method.input().full_name().to_owned()),
        reply: Cow::Owned(method.output().full_name().to_owned()),
    }
}

/// What a repeat does: ours where it is stated, else protobuf's own, else *once*.
fn repeat(method: &MethodDescriptor) -> Repeat {
    let options = method.options();
    let ours = method
        .parent_pool()
        .get_extension_by_name("mesh.v1.operation")
        .and_then(|extension| match options.get_extension(&extension).as_ref() {
            Value::Message(operation) => number(operation, "repeat"),
            _ => None,
        })
        .unwrap_or(0);
    match (mesh_proto::v1::Repeat::try_from(ours), number(&options, "idempotency_level")) {
        (Ok(mesh_proto::v1::Repeat::Keyed), _) => Repeat::Keyed,
        (Ok(mesh_proto::v1::Repeat::LookUp), _) => Repeat::LookUp,
        (Ok(mesh_proto::v1::Repeat::Once), _) => Repeat::Once,
        (_, Some(1)) => Repeat::NoSideEffects,
        (_, Some(2)) => Repeat::Idempotent,
        _ => Repeat::Once,
    }
}

fn number(message: &DynamicMessage, field: &str) -> Option<i32> {
    message.get_field_by_name(field)?.as_enum_number()
}
