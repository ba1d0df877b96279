//! Reads what answers mean.

use prost_reflect::{FieldDescriptor, MessageDescriptor};

use super::{AnswerRule, ErrorPlan, Verdict, request::leaf};
use crate::config::{
    Expression,
    check::Scope,
    problem::{Report, hint},
    yaml::Node,
};

/// The keys of one of the `answers`.
pub(super) const RULE_KEYS: &[&str] = &["when", "is", "code", "message"];
/// The keys of `error`.
pub(super) const ERROR_KEYS: &[&str] = &["code", "message"];

const SCOPE: Scope<'_> = Scope { names: &["status", "headers", "body"], request: None, secrets: &[], fields: &[] };

/// An expression over the answer.
pub(super) fn expression(node: &Node, report: &mut Report) -> Option<Expression> {
    leaf(node, &SCOPE, report)
}

pub(super) fn rules(node: Option<&Node>, report: &mut Report) -> Vec<AnswerRule> {
    let items = node.and_then(|node| node.list("rules: when, is", report)).unwrap_or_default();
    items.iter().filter_map(|item| rule(item, report)).collect()
}

fn rule(node: &Node, report: &mut Report) -> Option<AnswerRule> {
    let fields = node.fields(RULE_KEYS, report)?;
    let when = fields.need("when", report).and_then(|node| expression(node, report));
    let is = fields.need("is", report).and_then(|node| verdict(node, report));
    let code = fields.get("code").and_then(|node| expression(node, report));
    let message = fields.get("message").and_then(|node| expression(node, report));
    Some(AnswerRule { when: when?, is: is?, error: ErrorPlan { code, message } })
}

fn verdict(node: &Node, report: &mut Report) -> Option<Verdict> {
    let text = node.text("what the answer means", report)?;
    let found = Verdict::ALL.iter().find(|(name, _)| *name == text).map(|(_, verdict)| *verdict);
    if found.is_none() {
        let near = hint(text, Verdict::ALL.iter().map(|(name, _)| *name));
        report.add(node.place, format!("unknown meaning {text:?}{near}"));
    }
    found
}

pub(super) fn error_plan(node: Option<&Node>, report: &mut Report) -> ErrorPlan {
    let Some(fields) = node.and_then(|node| node.fields(ERROR_KEYS, report)) else { return ErrorPlan::default() };
    ErrorPlan {
        code: fields.get("code").and_then(|node| expression(node, report)),
        message: fields.get("message").and_then(|node| expression(node, report)),
    }
}

pub(super) fn reply(
    node: Option<&Node>,
    output: &MessageDescriptor,
    report: &mut Report,
) -> Vec<(FieldDescriptor, Expression)> {
    let entries = node.and_then(|node| node.entries("a field of the reply and an expression", report));
    let mut plan = Vec::new();
    for (key, node) in entries.unwrap_or_default() {
        let expression = expression(node, report);
        match (output.get_field_by_name(&key.name), expression) {
            (Some(field), Some(expression)) => plan.push((field, expression)),
            (Some(_), None) => {}
            (None, _) => {
                let names: Vec<_> = output.fields().map(|f| f.name().to_owned()).collect();
                let near = hint(&key.name, names.iter().map(String::as_str));
                report.add(key.place, format!("the reply {} has no field {:?}{near}", output.full_name(), key.name));
            }
        }
    }
    plan
}
