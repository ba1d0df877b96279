//! What an expression may name and compare: checked with the place of each problem, before anything is evaluated.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, SelectExpr, SourceInfo, operators};
use prost_reflect::MessageDescriptor;

use super::{
    problem::{Place, Report, hint},
    sorts::{Sort, is_comparison, is_logical},
};

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

/// What an expression may name.
#[derive(Debug, Clone)]
pub(crate) struct Scope<'a> {
    /// The variables.
    pub(crate) names: &'static [&'static str],
    /// The message that `request` or `payload` is, where that is one of them.
    pub(crate) request: Option<MessageDescriptor>,
    /// What `secret` has, where that is one of the names.
    pub(crate) secrets: &'a [String],
    /// Variables that are no messages, with the names and sorts of their fields.
    pub(crate) fields: &'a [(&'static str, Vec<(&'a str, Sort)>)],
}

impl Scope<'_> {
    /// The sort of a variable.
    fn sort(&self, name: &str) -> Sort {
        match name {
            "request" | "payload" => self.request.clone().map_or(Sort::Any, Sort::Message),
            "attempt" | "status" => Sort::Number,
            "id" | "key" => Sort::Text,
            "header" | "headers" | "secret" => Sort::Map(Box::new(Sort::Text)),
            _ => Sort::Any,
        }
    }
}

/// A comparison of two values whose sorts are known.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    /// Its place in the tree.
    pub(super) node: u64,
    /// Why it can never be; `None`: it can.
    pub(super) wrong: Option<(Place, String)>,
}

/// Reports all that is wrong with an expression that begins at `place`, but for comparisons that can never be: those it gives
/// back, among all whose sorts are known, with the sort of the whole.
pub(super) fn check(
    tree: &IdedExpr,
    (info, place): (&SourceInfo, Place),
    scope: &Scope<'_>,
    report: &mut Report,
) -> (Sort, Vec<Comparison>) {
    let mut check = Check { scope, info, place, local: Vec::new(), comparisons: Vec::new(), report };
    let sort = check.walk(tree);
    (sort, check.comparisons)
}

struct Check<'a> {
    scope: &'a Scope<'a>,
    info: &'a SourceInfo,
    place: Place,
    /// The variables of the comprehensions around.
    local: Vec<(&'a str, Sort)>,
    comparisons: Vec<Comparison>,
    report: &'a mut Report,
}

impl<'a> Check<'a> {
    /// Checks an expression. Says what sort of value it gives.
    fn walk(&mut self, node: &'a IdedExpr) -> Sort {
        match &node.expr {
            Expr::Ident(name) => return self.ident(name, node.id),
            Expr::Select(select) => return self.select(select, node.id),
            Expr::Call(call) => return self.call(call, node.id),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::List(list) => {
                let elements: Vec<_> = list.elements.iter().map(|element| self.walk(element)).collect();
                return Sort::List(Box::new(Sort::common(elements)));
            }
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(_) => self.add(node.id, "messages can't be made here".to_owned()),
            Expr::Literal(literal) => return Sort::literal(literal),
            Expr::Unspecified => {}
        }
        Sort::Any
    }

    fn ident(&mut self, name: &'a str, id: u64) -> Sort {
        if let Some((_, sort)) = self.local.iter().rev().find(|(local, _)| *local == name) {
            return sort.clone();
        }
        if !self.scope.names.contains(&name) {
            self.add(id, format!("unknown name {name:?}{}", hint(name, self.scope.names.iter().copied())));
        }
        self.scope.sort(name)
    }

    fn select(&mut self, select: &'a SelectExpr, id: u64) -> Sort {
        let secret = matches!(&select.operand.expr, Expr::Ident(name) if name == "secret");
        let of = self.walk(&select.operand);
        if secret && !self.scope.secrets.contains(&select.field) {
            let known = hint(&select.field, self.scope.secrets.iter().map(String::as_str));
            self.add(id, format!("\"secrets\" declares no {:?}{known}", select.field));
        }
        let sort = match (of, &select.operand.expr) {
            (Sort::Message(message), _) => self.field(&message, &select.field, id),
            (Sort::Map(value), _) => *value,
            (_, Expr::Ident(name)) => self.field_of(name, &select.field, id),
            _ => Sort::Any,
        };
        if select.test { Sort::Bool } else { sort }
    }

    fn field(&mut self, message: &MessageDescriptor, name: &str, id: u64) -> Sort {
        if let Some(field) = message.get_field_by_name(name) {
            return Sort::of(&field);
        }
        let fields: Vec<_> = message.fields().map(|f| f.name().to_owned()).collect();
        let known = hint(name, fields.iter().map(String::as_str));
        self.add(id, format!("the message {} has no field {name:?}{known}", message.full_name()));
        Sort::Any
    }

    fn field_of(&mut self, name: &str, field: &str, id: u64) -> Sort {
        let shadowed = self.local.iter().any(|(local, _)| *local == name);
        let known = self.scope.fields.iter().find(|(of, _)| *of == name && !shadowed);
        let Some((_, known)) = known else { return Sort::Any };
        let sort = known.iter().find(|(known, _)| *known == field).map(|(_, sort)| sort.clone());
        sort.unwrap_or_else(|| {
            self.add(id, format!("{name:?} has no {field:?}{}", hint(field, known.iter().map(|(known, _)| *known))));
            Sort::Any
        })
    }

    fn call(&mut self, call: &'a CallExpr, id: u64) -> Sort {
        let namespace = matches!(call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. })
            if name == "base64" || name == "optional");
        let named = call.func_name.starts_with(|c: char| c.is_ascii_alphabetic());
        if named && !FUNCTIONS.contains(&call.func_name.as_str()) {
            let near = hint(&call.func_name, FUNCTIONS.iter().copied());
            self.add(id, format!("unknown function {:?}{near}", call.func_name));
        }
        let taken = call.target.as_deref().filter(|_| !namespace).into_iter().chain(&call.args);
        let taken: Vec<_> = taken.map(|taken| self.walk(taken)).collect();
        if let ([one, other], [left, right]) = (call.args.as_slice(), taken.as_slice()) {
            match right {
                // Of a map the keys are looked through, whose sort is not known here.
                Sort::List(inside) if call.func_name == operators::IN => self.compare((one, left), (other, inside), id),
                right if is_comparison(&call.func_name) => self.compare((one, left), (other, right), id),
                _ => {}
            }
        }
        if is_logical(&call.func_name) {
            call.args.iter().zip(&taken).for_each(|(part, sort)| self.must_be_bool((part, sort), id));
        }
        Sort::given(&call.func_name, &taken)
    }

    /// What `&&`, `||` and `!` take.
    fn must_be_bool(&mut self, part: (&IdedExpr, &Sort), id: u64) {
        if part.1.compares_with(&Sort::Bool) == Some(false) {
            let what = format!("{} stands where true or false must: compare it with something", told(part));
            self.comparisons.push(Comparison { node: part.0.id, wrong: Some((self.at(id), what)) });
        }
    }

    fn compare(&mut self, left: (&IdedExpr, &Sort), right: (&IdedExpr, &Sort), id: u64) {
        let Some(fits) = left.1.compares_with(right.1) else { return };
        let wrong = (!fits).then(|| {
            let what = format!("{} is compared with {}{}", told(left), told(right), left.1.instead(right.1));
            (self.at(id), what)
        });
        self.comparisons.push(Comparison { node: id, wrong });
    }

    fn comprehension(&mut self, c: &'a ComprehensionExpr) {
        let range = self.walk(&c.iter_range);
        self.walk(&c.accu_init);
        let outside = self.local.len();
        let (first, second) = match (range, &c.iter_var2) {
            (Sort::List(inside), None) => (*inside, Sort::Any),
            (Sort::List(inside), Some(_)) => (Sort::Number, *inside),
            (Sort::Map(value), Some(_)) => (Sort::Any, *value),
            _ => (Sort::Any, Sort::Any),
        };
        self.local.extend([(c.iter_var.as_str(), first), (c.accu_var.as_str(), Sort::Any)]);
        self.local.extend(c.iter_var2.as_deref().map(|name| (name, second)));
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

    fn at(&self, id: u64) -> Place {
        let offset = self.info.offset_for(id).map_or(0, |(start, _)| start as usize);
        // A selection stands at its dot: what is wrong is the name behind it.
        let offset = offset + usize::from(self.info.source.chars().nth(offset) == Some('.'));
        self.report.within(self.place, offset)
    }

    fn add(&mut self, id: u64, what: String) {
        self.report.add(self.at(id), what);
    }
}

/// What stands on one side of a comparison: by its name, where it has one. Its value may be personal.
fn told((node, sort): (&IdedExpr, &Sort)) -> String {
    path(node).map_or_else(|| sort.name().to_owned(), |path| format!("{} ({path})", sort.name()))
}

fn path(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => Some(format!("{}.{}", path(&select.operand)?, select.field)),
        _ => None,
    }
}
