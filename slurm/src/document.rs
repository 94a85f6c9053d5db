//! A TOML file as names, values and the line that each stands on; a JSON file that says the same is read as well.
//!
//! Deliberately absent: what any name means. `job.rs` and `edf.rs` say that; values of `[container]` stay uninterpreted
//! for the launcher's option table.

use std::fmt;
use toml::de::{DeTable, DeValue};

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1; 0 when no line is to blame.
    pub line: usize,
    pub what: String,
    pub hint: Option<String>,
}

impl Mistake {
    pub fn new(line: usize, what: impl Into<String>) -> Self {
        Mistake {
            line,
            what: what.into(),
            hint: None,
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(out, "line {}: ", self.line)?;
        }
        out.write_str(&self.what)
    }
}

impl std::error::Error for Mistake {}

pub type Result<T> = std::result::Result<T, Mistake>;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Flag(bool),
    /// A number or a date, as text.
    Number(String),
    List(Vec<Value>),
    Table(Vec<Pair>),
}

/// A name, its value and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub name: String,
    pub value: Value,
    pub line: usize,
}

impl Value {
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Flag(_) => "true or false",
            Value::Number(_) => "a number",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// Text, a number or a truth value as the text that a command line would have.
    pub fn scalar(&self) -> Option<String> {
        match self {
            Value::Text(text) | Value::Number(text) => Some(text.clone()),
            Value::Flag(flag) => Some(flag.to_string()),
            Value::List(_) | Value::Table(_) => None,
        }
    }
}

impl Pair {
    pub fn text(&self) -> Result<String> {
        self.value.scalar().ok_or_else(|| self.wrong("one value"))
    }

    pub fn flag(&self) -> Result<bool> {
        match self.value {
            Value::Flag(flag) => Ok(flag),
            _ => Err(self.wrong("true or false")),
        }
    }

    /// A list of strings; one string is a list of one.
    pub fn texts(&self) -> Result<Vec<String>> {
        match &self.value {
            Value::List(values) => values
                .iter()
                .map(|value| {
                    value
                        .scalar()
                        .ok_or_else(|| self.wrong("a list of strings"))
                })
                .collect(),
            _ => Ok(vec![self.text()?]),
        }
    }

    pub fn table(&self) -> Result<&[Pair]> {
        match &self.value {
            Value::Table(pairs) => Ok(pairs),
            _ => Err(self.wrong("a table")),
        }
    }

    fn wrong(&self, expected: &str) -> Mistake {
        Mistake::new(
            self.line,
            format!("`{}` is {}, not {expected}", self.name, self.value.kind()),
        )
    }
}

/// Reads a file. The pairs are in the order of their lines.
pub fn parse(text: &str) -> Result<Vec<Pair>> {
    // No TOML file begins with a brace.
    if !text.trim_start().starts_with('{') {
        return parse_toml(text);
    }
    let pairs = parse_toml(&json_as_toml(text))?;
    match pairs.into_iter().next().map(|pair| pair.value) {
        Some(Value::Table(pairs)) => Ok(pairs),
        _ => Err(Mistake::new(1, "an object is needed")),
    }
}

/// A JSON object as the value of one name. Every line stays where it is, so that mistakes name the right one: a table may
/// span lines, and apart from the colons and two escapes its text is JSON's.
fn json_as_toml(text: &str) -> String {
    let object = text.trim_start();
    let mut out = text[..text.len() - object.len()].to_string();
    out.push_str("json = ");
    let mut inside = false;
    let mut rest = object.chars();
    while let Some(c) = rest.next() {
        match c {
            ':' if !inside => out.push('='),
            '\\' if inside => match rest.next() {
                Some('/') => out.push('/'),
                Some('u') => code_point(&mut rest, &mut out),
                other => out.extend(['\\'].into_iter().chain(other)),
            },
            c => {
                inside ^= c == '"';
                out.push(c);
            }
        }
    }
    out
}

/// What follows `\u`. JSON writes characters beyond 16 bits as two.
fn code_point(rest: &mut std::str::Chars<'_>, out: &mut String) {
    let unit = |text: &str| {
        text.get(..4)
            .and_then(|hex| u16::from_str_radix(hex, 16).ok())
    };
    let text = rest.as_str();
    let second = || unit(text.get(4..)?.strip_prefix("\\u")?);
    let pair = unit(text).zip(second());
    match pair.and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok()) {
        Some(c) if u32::from(c) > 0xffff => {
            out.push(c);
            *rest = text[10..].chars();
        }
        _ => out.push_str("\\u"),
    }
}

fn parse_toml(text: &str) -> Result<Vec<Pair>> {
    let lines = Lines::of(text);
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(0, |span| lines.line(span.start));
        Mistake::new(line, error.message().to_string())
    })?;
    pairs(document.get_ref(), &lines)
}

fn pairs(table: &DeTable<'_>, lines: &Lines) -> Result<Vec<Pair>> {
    let mut found = Vec::new();
    for (name, value) in table {
        let at = name.span().start;
        let line = lines.line(at);
        found.push((
            at,
            Pair {
                name: checked(name.get_ref(), line)?,
                value: convert(value.get_ref(), lines, line)?,
                line,
            },
        ));
    }
    found.sort_by_key(|(at, _)| *at);
    Ok(found.into_iter().map(|(_, pair)| pair).collect())
}

fn convert(value: &DeValue<'_>, lines: &Lines, line: usize) -> Result<Value> {
    Ok(match value {
        DeValue::String(text) => Value::Text(checked(text, line)?),
        DeValue::Integer(number) => Value::Number(decimal(number.as_str(), number.radix())),
        DeValue::Float(number) => Value::Number(number.as_str().to_string()),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(time) => Value::Number(time.to_string()),
        DeValue::Array(values) => Value::List(
            values
                .iter()
                .map(|value| convert(value.get_ref(), lines, lines.line(value.span().start)))
                .collect::<Result<_>>()?,
        ),
        DeValue::Table(table) => Value::Table(pairs(table, lines)?),
    })
}

/// TOML allows `0x10`; no command line does.
fn decimal(digits: &str, radix: u32) -> String {
    i64::from_str_radix(digits, radix)
        .map_or_else(|_| digits.to_string(), |number| number.to_string())
}

/// No argument or variable of a process can hold a NUL.
fn checked(text: &str, line: usize) -> Result<String> {
    if text.contains('\0') {
        return Err(Mistake::new(
            line,
            "a NUL character cannot be passed to any program",
        ));
    }
    Ok(text.to_string())
}

/// Where each line begins.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Lines(breaks.map(|(at, _)| at).collect())
    }

    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_order_and_lines() {
        let pairs = parse("b = 1\n\na = 'x'\n[t]\nz = [true,\n 'y']\n[[t.u]]\nn = 0x10\n")
            .expect("it parses");
        assert_eq!(
            pairs
                .iter()
                .map(|pair| (pair.name.as_str(), pair.line))
                .collect::<Vec<_>>(),
            [("b", 1), ("a", 3), ("t", 4)]
        );
        let t = pairs[2].table().expect("a table");
        assert_eq!((t[0].name.as_str(), t[0].line), ("z", 5));
        assert_eq!(t[0].texts(), Ok(vec!["true".to_string(), "y".to_string()]));
        let Value::List(u) = &t[1].value else {
            panic!("{t:?}")
        };
        let Value::Table(u) = &u[0] else {
            panic!("{u:?}")
        };
        assert_eq!((u[0].text(), u[0].line), (Ok("16".to_string()), 8));
    }

    #[test]
    fn json_says_the_same() {
        let toml = "[job]\nnodes = 2\n[[step]]\ncommand = ['a:b', \"\\\"c\\\"\", '/d', 'é😀']\n";
        let json = "\n{\n\"job\": {\"nodes\" : 2},\n\"step\": [\n{\"command\": [\"a:b\", \"\\\"c\\\"\", \"\\/d\", \"\\u00e9\\ud83d\\ude00\"]}]}\n";
        let names = |text: &str| -> Vec<(String, usize, String)> {
            let pairs = parse(text).expect("it parses");
            let shown = |value: &Value| {
                let text = format!("{value:?}");
                // Lines differ.
                text.split("line: ")
                    .map(|part| part.trim_start_matches(char::is_numeric))
                    .collect()
            };
            pairs
                .iter()
                .map(|pair| (pair.name.clone(), pair.line, shown(&pair.value)))
                .collect()
        };
        let (toml, json) = (names(toml), names(json));
        assert_eq!((json[0].1, json[1].1), (3, 4));
        for (toml, json) in toml.iter().zip(&json) {
            assert_eq!((&toml.0, &toml.2), (&json.0, &json.2));
        }
        for (text, line) in [
            ("{\n\"a\": null}", 2),
            ("{\"a\": 1,\n\"a\": 2}", 2),
            ("{\"a\": \"\\ud83d\"}", 1),
            ("{\n\"a\": \"\\ud83d\\u0041\"}", 2),
            ("{\"a\": 1}\n\n}", 3),
            ("{\"a\": \"é\\uZ", 1),
            ("{", 1),
        ] {
            assert_eq!(
                parse(text).map_err(|mistake| mistake.line),
                Err(line),
                "{text}"
            );
        }
    }

    #[test]
    fn mistakes_name_their_line() {
        assert_eq!(
            parse("a = 1\nb = = 2\n").map_err(|mistake| mistake.line),
            Err(2)
        );
        assert_eq!(
            parse("a = 1\n\nb = \"\\u0000\"").map_err(|mistake| mistake.line),
            Err(3)
        );
        let pairs = parse("a = [1]\n").expect("it parses");
        assert_eq!(
            pairs[0].flag().map_err(|mistake| mistake.to_string()),
            Err("line 1: `a` is a list, not true or false".to_string())
        );
    }
}
