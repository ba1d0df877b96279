//! The CEL condition of a selection: what it may name, and whether it holds for a letter.

use std::collections::BTreeSet;

use cel::{
    common::{
        types::{CelBool, CelInt, CelString, CelTimestamp},
        value::CowVal,
    },
    context::VariableResolver,
};
use chrono::DateTime;
use mesh_proto::v1;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _};

use super::selection::{Answer, Selection, is_type};
use crate::{
    config::{
        ByType, Expression, Problem, Problems, Scope, Sort, compile_alone, engine,
        record::{Boxed, Fields, Record},
    },
    contract::Catalog,
    dead_letter::Facts,
    fault::{Code, Effect, Fault, Reason},
};

/// What problems call the condition.
const NAME: &str = "--where";
/// The variables.
const NAMES: &[&str] = &["letter", "header", "payload"];

/// What `letter` has, and what each is of a letter.
type Read = for<'m> fn(&'m Facts<'_>) -> Boxed<'m>;
const LETTER: [(&str, Read); 18] = [
    ("caller", |f| text(f.caller)),
    ("captured", |f| moment(f.captured_at_ms)),
    ("code", |f| text(f.code_word())),
    ("consumer", |f| text(f.consumer)),
    ("effect", |f| text(f.effect_word())),
    ("fingerprint", |f| Box::new(CelString::from(f.fingerprint.to_string()))),
    ("generation", |f| Box::new(CelInt::from(i64::from(f.generation)))),
    ("id", |f| text(f.id)),
    ("key", |f| text(f.key)),
    ("message", |f| text(f.message)),
    ("message_id", |f| text(f.message_id)),
    ("parked", |f| Box::new(CelBool::from(f.is_parked()))),
    ("reason", |f| text(f.reason)),
    ("service", |f| text(f.service)),
    ("state", |f| text(f.state.word())),
    ("type", |f| text(f.message_type)),
    ("vendor", |f| text(f.vendor)),
    ("vendor_code", |f| text(f.vendor_code)),
];

fn text<'m>(text: &'m str) -> Boxed<'m> {
    Box::new(CelString::from(text))
}

fn moment<'m>(unix_ms: i64) -> Boxed<'m> {
    let moment = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    Box::new(CelTimestamp::from(moment.fixed_offset()))
}

/// The sort of what `letter` has by this name.
fn sort(name: &str) -> Sort {
    match name {
        "captured" => Sort::Moment,
        "generation" => Sort::Number,
        "parked" => Sort::Bool,
        _ => Sort::Text,
    }
}

/// A compiled condition and the contracts that it reads payloads by.
#[derive(Debug)]
pub(super) struct Condition {
    expression: Expression,
    /// What is different for letters of some types.
    by_type: ByType,
    catalog: Catalog,
}

impl Condition {
    /// Compiles the condition of a selection. Where the selection says one type of message, its fields are checked; else a
    /// field must be one of some message that can be sent.
    pub(super) fn compile(condition: &str, selection: &Selection, catalog: &Catalog) -> Result<Condition, Fault> {
        let types = payloads(selection, catalog);
        let letter: Vec<_> = LETTER.iter().map(|(name, _)| (*name, sort(name))).collect();
        let mut fields = vec![("letter", letter)];
        let known: BTreeSet<String> = match types.as_slice() {
            [_] | [] => BTreeSet::new(),
            several => several.iter().flat_map(MessageDescriptor::fields).map(|f| f.name().to_owned()).collect(),
        };
        if !known.is_empty() {
            fields.push(("payload", known.iter().map(|name| (name.as_str(), Sort::Any)).collect()));
        }
        let request = if let [one] = types.as_slice() { Some(one.clone()) } else { None };
        let scope = Scope { names: NAMES, request, secrets: &[], fields: &fields };
        let refused = |problems: Problems| wrong(condition, &problems.0);
        let expression = compile_alone(NAME, condition, &scope).map_err(refused)?;
        let by_type = expression.by_type(&scope, &types).map_err(refused)?;
        Ok(Condition { expression, by_type, catalog: catalog.clone() })
    }

    /// Whether only a whole letter has what it names.
    pub(super) fn needs_whole(&self) -> bool {
        self.expression.names("payload") || self.expression.names("header")
    }

    /// Whether it holds. A letter that lacks what it names is not meant.
    pub(super) fn holds(&self, facts: &Facts<'_>, whole: Option<&v1::DeadLetter>) -> Answer {
        let payload = match whole.filter(|_| self.expression.names("payload")).map(|letter| self.read(letter)) {
            Some(Err(why)) => return Answer::Unclear(why),
            Some(Ok(payload)) => Some(payload),
            None => None,
        };
        let headers = Headers(whole.map_or(&[], |letter| letter.headers.as_slice()));
        let named = Named {
            letter: Record::Fields(facts),
            header: Record::Fields(&headers),
            payload: payload.as_ref().map(Record::Message),
        };
        let mut context = cel::Context::with_env(engine().clone());
        context.set_variable_resolver(&named);
        let of_its_type = payload.as_ref().and_then(|it| self.by_type.holds(it.descriptor().full_name(), &context));
        match of_its_type.unwrap_or_else(|| self.expression.holds(&context)) {
            Ok(Some(true)) => Answer::Yes,
            Ok(Some(false) | None) => Answer::No,
            Err(why) => Answer::Unclear(why),
        }
    }

    fn read(&self, letter: &v1::DeadLetter) -> Result<DynamicMessage, String> {
        let Some(descriptor) = self.catalog.payload(&letter.message_type) else {
            return Err(format!("the contract of {:?} is not known here", letter.message_type));
        };
        if letter.claim.is_some() {
            return Err(
                "the payload lies apart (it was too large for its letter): name the letter by its id".to_owned()
            );
        }
        // The decoder's own words may quote the payload.
        let unreadable = |_| format!("the payload is no {}", descriptor.full_name());
        DynamicMessage::decode(descriptor.clone(), letter.payload.clone()).map_err(unreadable)
    }
}

/// The messages that the letters of a selection can carry.
fn payloads(selection: &Selection, catalog: &Catalog) -> Vec<MessageDescriptor> {
    let events = catalog.events().map(|entry| (entry.message.full_name().to_owned(), &entry.message));
    let operations = catalog.operations().map(|entry| (entry.info.full_name(), &entry.request));
    let wanted = |name: &str| {
        let types = &selection.message_types;
        types.is_empty() || types.iter().any(|wanted| is_type(wanted, name))
    };
    events.chain(operations).filter(|(name, _)| wanted(name)).map(|(_, message)| message.clone()).collect()
}

/// The first problem, with the text and its place below.
fn wrong(condition: &str, problems: &[Problem]) -> Fault {
    let line = condition.replace(['\n', '\r', '\t'], " ");
    let message = problems.first().map_or_else(String::new, |problem| {
        let caret = " ".repeat(problem.place.column.saturating_sub(1));
        format!("{problem}\n{line}\n{caret}^")
    });
    Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidInput, message)
}

impl Fields for Facts<'_> {
    fn field(&self, name: &str) -> Option<Boxed<'_>> {
        LETTER.iter().find(|(known, _)| *known == name).map(|(_, read)| read(self))
    }
}

struct Headers<'m>(&'m [v1::Header]);

impl Fields for Headers<'_> {
    fn field(&self, name: &str) -> Option<Boxed<'_>> {
        self.0.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| text(&header.value))
    }
}

/// The variables of a letter.
struct Named<'m> {
    letter: Record<'m>,
    header: Record<'m>,
    payload: Option<Record<'m>>,
}

impl VariableResolver for Named<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable {
            "letter" => Some(CowVal::Borrowed(&self.letter)),
            "header" => Some(CowVal::Borrowed(&self.header)),
            "payload" => self.payload.as_ref().map(|payload| CowVal::Borrowed(payload as &dyn cel::common::value::Val)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_letter_are_sorted_and_unique() {
        assert!(LETTER.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
