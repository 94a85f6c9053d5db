//! YAML into JSON's values, for CDI documents: mappings with text keys, sequences, plain values. Built from the parser's
//! events, so that depth and size are bounded and aliases, with which small files become huge, are refused.

use serde_json::{Map, Number, Value};
use yaml_rust2::parser::{Event, MarkedEventReceiver, Parser};
use yaml_rust2::scanner::{Marker, TScalarStyle};

const MAX_DEPTH: usize = 64;
const MAX_VALUES: usize = 500_000;

/// The first document of a text.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut builder = Builder::default();
    Parser::new_from_str(text)
        .load(&mut builder, false)
        .map_err(|error| error.to_string())?;
    match builder.wrong {
        Some(wrong) => Err(wrong),
        None => builder.done.ok_or_else(|| "it is empty".to_string()),
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    done: Option<Value>,
    wrong: Option<String>,
    count: usize,
}

enum Open {
    List(Vec<Value>),
    Table(Map<String, Value>, Option<String>),
}

impl Builder {
    fn refuse(&mut self, mark: Marker, why: &str) {
        let text = || format!("line {}: {why}", mark.line());
        self.wrong.get_or_insert_with(text);
    }

    fn begin(&mut self, open: Open, mark: Marker) {
        if self.open.len() >= MAX_DEPTH {
            return self.refuse(mark, "nested too deep");
        }
        self.open.push(open);
    }

    fn end(&mut self, mark: Marker) {
        match self.open.pop() {
            Some(Open::List(list)) => self.value(Value::Array(list), mark),
            Some(Open::Table(table, _)) => self.value(Value::Object(table), mark),
            None => {}
        }
    }

    fn value(&mut self, value: Value, mark: Marker) {
        self.count += 1;
        if self.count > MAX_VALUES {
            return self.refuse(mark, "too many values");
        }
        match self.open.last_mut() {
            None => {
                self.done.get_or_insert(value);
            }
            Some(Open::List(list)) => list.push(value),
            Some(Open::Table(table, key)) => match (key.take(), value) {
                (Some(key), value) => {
                    table.insert(key, value);
                }
                (None, Value::String(text)) => *key = Some(text),
                (None, Value::Number(number)) => *key = Some(number.to_string()),
                (None, _) => self.refuse(mark, "a key is no text"),
            },
        }
    }
}

impl MarkedEventReceiver for Builder {
    fn on_event(&mut self, event: Event, mark: Marker) {
        if self.wrong.is_some() {
            return;
        }
        match event {
            Event::Scalar(text, style, _, _) => {
                let plain = style == TScalarStyle::Plain;
                self.value(if plain { scalar(text) } else { text.into() }, mark);
            }
            Event::SequenceStart(..) => self.begin(Open::List(Vec::new()), mark),
            Event::MappingStart(..) => self.begin(Open::Table(Map::new(), None), mark),
            Event::SequenceEnd | Event::MappingEnd => self.end(mark),
            Event::Alias(_) => self.refuse(mark, "aliases (`*name`) are not read"),
            _ => {}
        }
    }
}

/// A word without quotes, by YAML's core schema.
fn scalar(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        word => match word.parse::<i64>().ok().map(Number::from) {
            // `007` and `+1` are texts that look like numbers.
            Some(number) if number.to_string() == word => number.into(),
            _ => text.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_become_values() {
        for (text, value) in [
            (
                "---\na: 1\nb:\n- x\n- \"2\"\n- null\nc: {d: true}\n",
                json!({"a": 1, "b": ["x", "2", null], "c": {"d": true}}),
            ),
            ("cdiVersion: 0.5.0\n", json!({"cdiVersion": "0.5.0"})),
            ("m: 007\n", json!({"m": "007"})),
            ("0: a\n", json!({"0": "a"})),
            ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        let deep = "[".repeat(100) + &"]".repeat(100);
        for (text, why) in [
            ("a: &x [1]\nb: *x\n", "aliases"),
            ("a: [1\n", "line"),
            (&deep, "nested too deep"),
            ("[a]: 1\n", "a key is no text"),
            ("", "empty"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
