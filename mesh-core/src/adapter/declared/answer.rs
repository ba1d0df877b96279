//! Reads what an answer means.

use std::time::SystemTime;

use bytes::Bytes;
use cel::common::types::CelBool;
use prost::Message as _;
use prost_reflect::DynamicMessage;

use super::request::redact;
use crate::{
    adapter::{
        json,
        outcome::{self, Said},
        reply, retry_after, text,
        value::Answered,
    },
    config::{
        Expression, engine,
        record::Record,
        vendor::{AnswerRule, OperationPlan, VendorFile, Verdict},
    },
    fault::{Fault, Origin},
    http::Answer,
};

type Context<'v> = cel::Context<'v, 'v>;

pub(super) fn interpret(
    file: &VendorFile,
    plan: &OperationPlan,
    answer: &Answer,
    now: SystemTime,
) -> Result<Bytes, Fault> {
    let body = answer.body.as_ref().map(Bytes::as_ref).unwrap_or_default();
    let answered = Answered {
        status: i64::from(answer.status.as_u16()).into(),
        headers: Record::Headers(&answer.headers),
        body: json::read(body),
    };
    let mut context = cel::Context::with_env(engine().clone());
    context.set_variable_resolver(&answered);
    let rule = plan.answers.iter().find(|rule| holds(&rule.when, &context));
    let verdict = rule.map_or_else(|| outcome::verdict(answer.status, &answer.headers), |rule| rule.is);
    let origin = || origin(file, plan, answer, &context);
    match (verdict, &answer.body) {
        (Verdict::Done, Err(lost)) => return Err(outcome::lost(*lost, origin())),
        (Verdict::Done, Ok(_)) => match compose(plan, &context) {
            Ok(reply) => return Ok(reply),
            Err(what) => {
                let said = Said { message: what, retry_after: None };
                return Err(outcome::answered(verdict, answer.status, said, origin()));
            }
        },
        _ => {}
    }
    let (code, message) = said(plan, rule, &context);
    let said = Said {
        message: message.map(|text| outcome::clean(&redact(file, text))).unwrap_or_default(),
        retry_after: retry_after::read(&answer.headers, now),
    };
    let vendor_code = code.map(|text| outcome::clean(&redact(file, text))).unwrap_or_default();
    Err(outcome::answered(verdict, answer.status, said, Origin { vendor_code, ..origin() }))
}

/// A rule that can't be evaluated (the body lacks what it names) does not fit.
fn holds(when: &Expression, context: &Context<'_>) -> bool {
    when.evaluate(context).is_ok_and(|value| value.downcast_ref::<CelBool>().is_some_and(|truth| *truth.inner()))
}

fn text_of(expression: Option<&Expression>, context: &Context<'_>) -> Option<String> {
    text::plain(expression?.evaluate(context).ok()?.as_ref()).map(std::borrow::Cow::into_owned)
}

/// The vendor's code and message: as the rule says, else as the operation says.
fn said(plan: &OperationPlan, rule: Option<&AnswerRule>, context: &Context<'_>) -> (Option<String>, Option<String>) {
    let of_rule = rule.map(|rule| &rule.error);
    let code = of_rule.and_then(|error| error.code.as_ref()).or(plan.error.code.as_ref());
    let message = of_rule.and_then(|error| error.message.as_ref()).or(plan.error.message.as_ref());
    (text_of(code, context), text_of(message, context))
}

fn origin(file: &VendorFile, plan: &OperationPlan, answer: &Answer, context: &Context<'_>) -> Origin {
    Origin {
        vendor: file.vendor.clone(),
        operation: plan.info.full_name(),
        request_id: text_of(plan.request_id.as_ref(), context).map(|id| outcome::clean(&id)).unwrap_or_default(),
        http_status: answer.status.as_u16(),
        ..Origin::default()
    }
}

fn compose(plan: &OperationPlan, context: &Context<'_>) -> Result<Bytes, String> {
    let mut message = DynamicMessage::new(plan.output.clone());
    for (field, expression) in &plan.reply {
        let value = expression.evaluate(context)?;
        reply::set(&mut message, field, value.as_ref()).map_err(|what| format!("{}: {what}", expression.place()))?;
    }
    Ok(message.encode_to_vec().into())
}
