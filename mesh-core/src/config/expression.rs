//! CEL expressions: compiled once, checked against what they may name, with their place in the file.

use std::sync::{Arc, LazyLock};

use cel::{
    Env, ExecutionError, Program,
    common::{
        ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, SelectExpr, SourceInfo},
        types::CelBool,
        value::CowVal,
    },
};
use prost_reflect::{Kind, MessageDescriptor};

use super::problem::{Place, Problems, Report, hint};

/// The functions that an expression may call: those of CEL's standard library, of its strings and of its encoders.
const FUNCTIONS: &[&str] = &[
    "base64",
    "bool",
    "bytes",
    "charAt",
    "contains",
    "decode",
    "double",
    "duration",
    "dyn",
    "encode",
    "endsWith",
    "format",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "has",
    "hasValue",
    "indexOf",
    "int",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "matches",
    "none",
    "of",
    "ofNonZeroValue",
    "optional",
    "or",
    "orValue",
    "replace",
    "reverse",
    "size",
    "split",
    "startsWith",
    "string",
    "substring",
    "timestamp",
    "trim",
    "type",
    "uint",
    "upperAscii",
    "value",
];

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
    place: Box<str>,
}

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
        match cel::Value::resolve_val(self.program.expression(), context) {
            Ok(value) => match value.downcast_ref::<CelBool>() {
                Some(yes) => Ok(Some(*yes.inner())),
                None => Err(format!("{}: the expression is neither true nor false", self.place)),
            },
            Err(ExecutionError::NoSuchKey(_)) => Ok(None),
            Err(error) => Err(format!("{}: {}", self.place, describe(&error))),
        }
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

/// What an expression may name.
#[derive(Debug, Clone)]
pub(crate) struct Scope<'a> {
    /// The variables.
    pub(crate) names: &'static [&'static str],
    /// The message that `request` or `payload` is, where that is one of them.
    pub(crate) request: Option<MessageDescriptor>,
    /// What `secret` has, where that is one of the names.
    pub(crate) secrets: &'a [String],
    /// Variables whose fields are known by name alone.
    pub(crate) fields: &'a [(&'static str, Vec<&'a str>)],
}

/// Compiles an expression that stands in no file: `name` is the option that it was given to.
///
/// # Errors
/// Everything that is wrong; the first problem's place counts in characters of the text, of which each line break counts as
/// one.
pub(crate) fn compile_alone(name: &str, text: &str, scope: &Scope<'_>) -> Result<Expression, Problems> {
    // Without lines of its own the report adds up places as they are.
    let mut report = Report::new(name, "");
    let line = text.replace(['\n', '\r', '\t'], " ");
    compile(&line, Place { line: 1, column: 1 }, scope, &mut report).ok_or_else(|| report.into_problems())
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
                let said = said.split(" expecting ").next().unwrap_or_default().replace("'<EOF>'", "the end");
                report.add(report.within(place, offset), format!("not a CEL expression: {said}"));
            }
            return None;
        }
    };
    let before = report.len();
    let mut check = Check { scope, info: program.source_info(), place, local: Vec::new(), report };
    check.walk(program.expression());
    let clean = check.report.len() == before;
    let place = format!("{}:{}:{}", report.file(), place.line, place.column).into_boxed_str();
    clean.then_some(Expression { program, place })
}

struct Check<'a> {
    scope: &'a Scope<'a>,
    info: &'a SourceInfo,
    place: Place,
    /// The variables of the comprehensions around.
    local: Vec<&'a str>,
    report: &'a mut Report,
}

impl<'a> Check<'a> {
    /// Checks an expression. Says which message type it is, where that is known.
    fn walk(&mut self, node: &'a IdedExpr) -> Option<MessageDescriptor> {
        match &node.expr {
            Expr::Ident(name) => return self.ident(name, node.id),
            Expr::Select(select) => return self.select(select, node.id),
            Expr::Call(call) => self.call(call, node.id),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::List(list) => list.elements.iter().for_each(|element| {
                self.walk(element);
            }),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(_) => self.add(node.id, "messages can't be made here".to_owned()),
            Expr::Literal(_) | Expr::Unspecified => {}
        }
        None
    }

    fn ident(&mut self, name: &'a str, id: u64) -> Option<MessageDescriptor> {
        if self.local.contains(&name) {
            return None;
        }
        if !self.scope.names.contains(&name) {
            self.add(id, format!("unknown name {name:?}{}", hint(name, self.scope.names.iter().copied())));
        }
        if name == "request" || name == "payload" { self.scope.request.clone() } else { None }
    }

    fn select(&mut self, select: &'a SelectExpr, id: u64) -> Option<MessageDescriptor> {
        let secret = matches!(&select.operand.expr, Expr::Ident(name) if name == "secret");
        let message = self.walk(&select.operand);
        if secret && !self.scope.secrets.contains(&select.field) {
            let known = hint(&select.field, self.scope.secrets.iter().map(String::as_str));
            self.add(id, format!("\"secrets\" declares no {:?}{known}", select.field));
        }
        if let Expr::Ident(name) = &select.operand.expr {
            self.field_of(name, &select.field, id);
        }
        let message = message?;
        let Some(field) = message.get_field_by_name(&select.field) else {
            let fields: Vec<_> = message.fields().map(|f| f.name().to_owned()).collect();
            let known = hint(&select.field, fields.iter().map(String::as_str));
            self.add(id, format!("the message {} has no field {:?}{known}", message.full_name(), select.field));
            return None;
        };
        match field.kind() {
            Kind::Message(inner) if !field.is_list() && !field.is_map() => Some(inner),
            _ => None,
        }
    }

    fn field_of(&mut self, name: &str, field: &str, id: u64) {
        let shadowed = self.local.contains(&name);
        let known = self.scope.fields.iter().find(|(of, _)| *of == name && !shadowed);
        if let Some((_, known)) = known.filter(|(_, known)| !known.contains(&field)) {
            self.add(id, format!("{name:?} has no {field:?}{}", hint(field, known.iter().copied())));
        }
    }

    fn call(&mut self, call: &'a CallExpr, id: u64) {
        let namespace = matches!(call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. })
            if name == "base64" || name == "optional");
        let named = call.func_name.starts_with(|c: char| c.is_ascii_alphabetic());
        if named && !FUNCTIONS.contains(&call.func_name.as_str()) {
            let near = hint(&call.func_name, FUNCTIONS.iter().copied());
            self.add(id, format!("unknown function {:?}{near}", call.func_name));
        }
        if let Some(target) = call.target.as_deref().filter(|_| !namespace) {
            self.walk(target);
        }
        for argument in &call.args {
            self.walk(argument);
        }
    }

    fn comprehension(&mut self, c: &'a ComprehensionExpr) {
        self.walk(&c.iter_range);
        self.walk(&c.accu_init);
        let outside = self.local.len();
        self.local.extend([c.iter_var.as_str(), c.accu_var.as_str()]);
        self.local.extend(c.iter_var2.as_deref());
        for inside in [&c.loop_cond, &c.loop_step, &c.result] {
            self.walk(inside);
        }
        self.local.truncate(outside);
    }

    fn entry(&mut self, entry: &'a EntryExpr) {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.walk(&entry.key);
                self.walk(&entry.value);
            }
            EntryExpr::StructField(field) => {
                self.walk(&field.value);
            }
        }
    }

    fn add(&mut self, id: u64, what: String) {
        let offset = self.info.offset_for(id).map_or(0, |(start, _)| start as usize);
        // A selection stands at its dot: what is wrong is the name behind it.
        let offset = offset + usize::from(self.info.source.chars().nth(offset) == Some('.'));
        self.report.add(self.report.within(self.place, offset), what);
    }
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
