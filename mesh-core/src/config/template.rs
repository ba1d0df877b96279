//! Text with `{expression}` in it: paths and headers.

use super::{
    check::Scope,
    expression::{Expression, compile},
    problem::{Place, Report},
};

/// Text with expressions in it.
#[derive(Debug)]
pub struct Template(Vec<Part>);

/// A part of a template.
#[derive(Debug)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// Replaced by its value.
    Value(Expression),
}

impl Template {
    /// Its parts in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The text, where it holds no expression.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether an expression in it names the variable.
    #[must_use]
    pub fn names(&self, variable: &str) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Value(expression) if expression.names(variable)))
    }
}

/// Reads a template; `{{` and `}}` stand for braces.
pub(super) fn parse(text: &str, place: Place, scope: &Scope<'_>, report: &mut Report) -> Option<Template> {
    let (mut parts, mut plain, mut complete) = (Vec::new(), String::new(), true);
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let doubled = text[at + c.len_utf8()..].starts_with(c);
        if c == '{' && !doubled {
            let Some(length) = closing(&text[at + 1..]) else {
                let offset = text[..at].chars().count();
                report.add(report.within(place, offset), "the brace is never closed, expected {expression} or {{");
                return None;
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            let inside = report.within(place, text[..=at].chars().count());
            match compile(&text[at + 1..at + 1 + length], inside, scope, report) {
                Some(expression) => parts.push(Part::Value(expression)),
                None => complete = false,
            }
            at += length + 2;
            continue;
        }
        plain.push(c);
        at += if doubled && matches!(c, '{' | '}') { 2 } else { c.len_utf8() };
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    complete.then_some(Template(parts))
}

/// Where the expression ends: its own braces and texts in quotes are passed over.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote, mut escaped) = (0_usize, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let mut report = Report::new("f", text);
        let scope = Scope { names: &["id"], request: None, secrets: &[], fields: &[] };
        let template = parse(text, Place { line: 1, column: 1 }, &scope, &mut report);
        let shown = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Value(value) => format!("<{}>", value.place()),
        };
        match template {
            Some(template) => Ok(template.parts().iter().map(shown).collect()),
            None => Err(report.into_problems().0.first().unwrap().to_string()),
        }
    }

    #[test]
    fn reads_text_and_expressions() {
        for (text, parts) in [
            ("", &[][..]),
            ("/v1/x", &["/v1/x"]),
            ("/v1/{id}/x", &["/v1/", "<f:1:6>", "/x"]),
            ("{id}{id}", &["<f:1:2>", "<f:1:6>"]),
            ("{{id}}", &["{id}"]),
            ("é{ {'}': id}['}'] }!", &["é", "<f:1:3>", "!"]),
        ] {
            assert_eq!(read(text).unwrap(), parts, "{text}");
        }
    }

    #[test]
    fn says_where_it_is_wrong() {
        assert!(read("ab{id").unwrap_err().starts_with("f:1:3: the brace"));
        assert!(read("ab{idd}").unwrap_err().starts_with("f:1:4: unknown name \"idd\" (did you mean \"id\"?)"));
    }
}
