//! CEL expressions: compiled once, checked against what they may name, with their place in the file.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use cel::{
    Env, ExecutionError, Program,
    common::{
        ast::{EntryExpr, Expr, IdedExpr, operators},
        types::CelBool,
        value::CowVal,
    },
};
use prost_reflect::MessageDescriptor;

use super::{
    check::{Comparison, Scope, check},
    problem::{Place, Problems, Report},
    sorts::{Sort, is_comparison},
};

/// CEL with its standard library, its strings (`lowerAscii`, `replace`, …) and `base64`: built once.
#[must_use]
pub fn engine() -> &'static Arc<Env> {
    static ENGINE: LazyLock<Arc<Env>> = LazyLock::new(|| {
        let mut env = Env::stdlib();
        // Nothing else declares these functions, so nothing can clash; a test calls one of each.
        let _ = env.add_extension(cel::extensions::encoders);
        let _ = env.add_extension(cel::extensions::strings);
        Arc::new(env)
    });
    &ENGINE
}

/// A compiled expression and where it stands.
#[derive(Debug)]
pub struct Expression {
    program: Program,
    sort: Sort,
    file: Box<str>,
    place: Box<str>,
}

/// Where an expression begins that stands in no file.
const START: Place = Place { line: 1, column: 1 };

impl Expression {
    /// Evaluates it.
    ///
    /// # Errors
    /// Says where and why, without any value: values may be secrets or personal.
    pub fn evaluate<'e, 'v>(&'e self, context: &'e cel::Context<'_, 'v>) -> Result<CowVal<'e, 'v>, String> {
        cel::Value::resolve_val(self.program.expression(), context)
            .map_err(|error| format!("{}: {}", self.place, describe(&error)))
    }

    /// Whether it is true. `None`: it names something that these values do not have.
    ///
    /// # Errors
    /// As [`evaluate`](Expression::evaluate); or it is neither true nor false.
    pub fn holds(&self, context: &cel::Context<'_, '_>) -> Result<Option<bool>, String> {
        truth(self.program.expression(), context).map_err(|why| format!("{}: {why}", self.place))
    }

    /// What it is for messages of several types: each of `types` is what `payload` may be.
    ///
    /// # Errors
    /// A comparison can't be for any of them.
    pub(crate) fn by_type(&self, scope: &Scope<'_>, types: &[MessageDescriptor]) -> Result<ByType, Problems> {
        let mut known: Vec<(&MessageDescriptor, Vec<Comparison>)> = Vec::new();
        for message in types {
            let scope = Scope { request: Some(message.clone()), ..scope.clone() };
            // A field that one message lacks another has: that was checked before.
            let mut nobody_reads = Report::new(&self.file, "");
            let program = (self.program.source_info(), START);
            let (sort, mut comparisons) = check(self.program.expression(), program, &scope, &mut nobody_reads);
            comparisons.extend(whole(&sort));
            known.push((message, comparisons));
        }
        let fits: Vec<u64> = all(&known).filter(|it| it.wrong.is_none()).map(|it| it.node).collect();
        let mut report = Report::new(&self.file, "");
        for (place, what) in all(&known).filter(|it| !fits.contains(&it.node)).filter_map(|it| it.wrong.as_ref()) {
            report.add(*place, what);
        }
        if report.len() > 0 {
            return Err(report.into_problems());
        }
        let refusing = known.iter().filter_map(|(message, comparisons)| {
            let first = comparisons.iter().find_map(|comparison| comparison.wrong.as_ref())?;
            let (Place { line, column }, what) = first;
            let why = format!("{}:{line}:{column}: in {} {what}", self.file, message.full_name());
            let mut tree = self.program.expression().clone();
            let wrong: Vec<_> = comparisons.iter().filter(|it| it.wrong.is_some()).map(|it| it.node).collect();
            refuse(&mut tree, &wrong);
            Some((message.full_name().to_owned(), Refusing { tree, why }))
        });
        Ok(ByType(refusing.collect()))
    }

    /// `file:line:column`
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether it names the variable.
    #[must_use]
    pub fn names(&self, variable: &str) -> bool {
        self.program.references().has_variable(variable)
    }
}

/// How the types of messages stand for which an expression compares what can't be compared: for those it fails where it comes to
/// that, in place of being false.
#[derive(Debug, Default)]
pub(crate) struct ByType(BTreeMap<String, Refusing>);

#[derive(Debug)]
struct Refusing {
    tree: IdedExpr,
    why: String,
}

impl ByType {
    /// The same as [`Expression::holds`], for a message of this type. `None`: nothing of it is different for this type.
    pub(crate) fn holds(&self, message: &str, context: &cel::Context<'_, '_>) -> Option<Result<Option<bool>, String>> {
        let refusing = self.0.get(message)?;
        Some(truth(&refusing.tree, context).map_err(|_| refusing.why.clone()))
    }
}

fn all<'k>(known: &'k [(&MessageDescriptor, Vec<Comparison>)]) -> impl Iterator<Item = &'k Comparison> {
    known.iter().flat_map(|(_, comparisons)| comparisons)
}

/// Makes comparisons of what can't be compared fail when they are evaluated. Of values of two sorts "equal" is false to the
/// interpreter, and "less" an error.
fn refuse(node: &mut IdedExpr, wrong: &[u64]) {
    let is_wrong = wrong.contains(&node.id);
    let mut inside: Vec<&mut IdedExpr> = Vec::new();
    match &mut node.expr {
        Expr::Call(call) => {
            // A part of && and || is wrong by itself, which these say.
            if is_wrong && (is_comparison(&call.func_name) || call.func_name == operators::IN) {
                operators::LESS.clone_into(&mut call.func_name);
            }
            inside.extend(call.target.as_deref_mut());
            inside.extend(&mut call.args);
        }
        Expr::Select(select) => inside.push(&mut select.operand),
        Expr::List(list) => inside.extend(&mut list.elements),
        Expr::Map(map) => map.entries.iter_mut().for_each(|entry| {
            if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                inside.extend([&mut entry.key, &mut entry.value]);
            }
        }),
        Expr::Comprehension(c) => {
            inside.extend([&mut c.iter_range, &mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result]);
        }
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
    inside.into_iter().for_each(|node| refuse(node, wrong));
}

/// Whether it is true. `None`: it names something that these values do not have.
fn truth(tree: &IdedExpr, context: &cel::Context<'_, '_>) -> Result<Option<bool>, String> {
    match cel::Value::resolve_val(tree, context) {
        Ok(value) => match value.downcast_ref::<CelBool>() {
            Some(yes) => Ok(Some(*yes.inner())),
            None => Err("the expression is neither true nor false".to_owned()),
        },
        Err(ExecutionError::NoSuchKey(_)) => Ok(None),
        Err(error) => Err(describe(&error)),
    }
}

/// Errors of the interpreter quote values; this says the same without them.
fn describe(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("there is no {key:?}"),
        ExecutionError::UndeclaredReference(name) => format!("unknown name {name:?}"),
        ExecutionError::NoSuchOverload(overload) => overload.to_string(),
        ExecutionError::UnexpectedType { got, want } => format!("the type is {got}, expected {want}"),
        ExecutionError::IndexOutOfBounds(_) => "the index is out of bounds".to_owned(),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
        ExecutionError::Overflow(..) => "the number does not fit".to_owned(),
        ExecutionError::UnsupportedBinaryOperator(operator, ..) => format!("{operator:?} does not take these types"),
        ExecutionError::FunctionError { function, .. } => format!("the function {function:?} does not take this value"),
        _ => "the expression does not fit these values".to_owned(),
    }
}

/// A condition is true or false as a whole, as if it were compared with that.
fn whole(sort: &Sort) -> Option<Comparison> {
    let fits = sort.compares_with(&Sort::Bool)?;
    let what = || format!("it is {}, and must be true or false: compare it with something", sort.name());
    Some(Comparison { node: WHOLE, wrong: (!fits).then(|| (START, what())) })
}

/// No node's number.
const WHOLE: u64 = u64::MAX;

/// Compiles a condition that stands in no file: `name` is the option that it was given to.
///
/// # Errors
/// Everything that is wrong; the first problem's place counts in characters of the text, of which each line break counts as
/// one.
pub(crate) fn compile_alone(name: &str, text: &str, scope: &Scope<'_>) -> Result<Expression, Problems> {
    // Without lines of its own the report adds up places as they are.
    let mut report = Report::new(name, "");
    let line = text.replace(['\n', '\r', '\t'], " ");
    let expression = compile(&line, START, scope, &mut report);
    let wrong = expression.as_ref().and_then(|expression| whole(&expression.sort)?.wrong);
    if let Some((place, what)) = wrong {
        report.add(place, what);
        return Err(report.into_problems());
    }
    expression.ok_or_else(|| report.into_problems())
}

/// Compiles and checks; every problem is reported with its own place.
pub(super) fn compile(text: &str, place: Place, scope: &Scope<'_>, report: &mut Report) -> Option<Expression> {
    let program = match engine().compile(text) {
        Ok(program) => program,
        Err(errors) => {
            for error in errors.errors.iter().take(1) {
                let offset = usize::try_from(error.pos.1.saturating_sub(1)).unwrap_or(0);
                // The parser's list of every token that it would have taken helps nobody.
                let said = error.msg.lines().next().unwrap_or_default();
                let said = said.split(" expecting ").next().unwrap_or_default().trim_start_matches("Syntax error: ");
                let said = if said.contains("'<EOF>'") { "it ends too soon" } else { said };
                report.add(report.within(place, offset), format!("not a CEL expression: {said}"));
            }
            return None;
        }
    };
    let before = report.len();
    let (sort, comparisons) = check(program.expression(), (program.source_info(), place), scope, report);
    for (place, what) in comparisons.into_iter().filter_map(|comparison| comparison.wrong) {
        report.add(place, what);
    }
    let clean = report.len() == before;
    let file = report.file().into();
    let place = format!("{}:{}:{}", report.file(), place.line, place.column).into_boxed_str();
    clean.then_some(Expression { program, sort, file, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Expression, String> {
        let mut report = Report::new("f", text);
        let scope = Scope { names: &["body"], request: None, secrets: &[], fields: &[] };
        compile(text, Place { line: 1, column: 1 }, &scope, &mut report)
            .ok_or_else(|| report.into_problems().0.first().unwrap().to_string())
    }

    #[test]
    fn the_extensions_are_there() {
        for text in ["base64.encode(b'a') == 'YQ=='", "'A'.lowerAscii() == 'a'", "has({'a': 1}.a)", "[1].all(x, x > 0)"]
        {
            let context = cel::Context::with_env(engine().clone());
            let expression = check(text).unwrap();
            let value = expression.evaluate(&context).unwrap();
            assert_eq!(value.downcast_ref(), Some(&cel::common::types::CelBool::from(true)), "{text}");
        }
    }

    #[test]
    fn names_and_functions_are_checked_where_they_stand() {
        for (text, said) in [
            ("1 +", "f:1:"),
            ("1 + bodi", "f:1:5: unknown name \"bodi\" (did you mean \"body\"?)"),
            ("[1].map(x, y)", "f:1:12: unknown name \"y\""),
            ("body.sise()", "unknown function \"sise\" (did you mean \"size\"?)"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn errors_show_no_value() {
        let context = cel::Context::with_env(engine().clone());
        for text in ["'sk_1' + 1", "{'a': 'sk_1'}['sk_2x'] + 'x'", "int('sk_1')", "'sk_1'.matches('[')", "['sk_1'][7]"]
        {
            let error = check(text).unwrap().evaluate(&context).unwrap_err();
            assert!(!error.contains("sk_1"), "{text}: {error}");
        }
    }
}
