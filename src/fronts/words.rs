//! Reading words the way getopt does: flags from a table, short ones in clusters, then the rest.

use crate::config::nearest;
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    pub long: &'static str,
    /// A space when there is none.
    pub short: char,
    pub takes: Takes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    Value,
    /// After `=` only.
    Optional,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// By its long name.
    Flag(&'static str, Option<String>),
    Plain(String),
    /// What stood after `--`.
    Rest(Vec<String>),
}

/// Sorts words into flags and others. With `until_plain` everything from the first plain word on is the rest.
pub fn read(words: &[String], flags: &[Flag], until_plain: bool) -> Result<Vec<Word>> {
    let mut found = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            found.push(Word::Rest(rest.by_ref().cloned().collect()));
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (long, None),
            };
            let flag = flags.iter().find(|flag| flag.long == name);
            let flag = flag.ok_or_else(|| unknown(&format!("--{name}"), flags))?;
            let value = match (flag.takes, value) {
                (Takes::Nothing, Some(value)) if value != "true" => {
                    return Err(Error::usage(format!(
                        "`--{name}` takes no value, but `{value}` was given"
                    )));
                }
                (Takes::Nothing, _) => None,
                (Takes::Optional, value) => value,
                (Takes::Value, Some(value)) => Some(value),
                (Takes::Value, None) => Some(next(&mut rest, &format!("--{name}"))?),
            };
            found.push(Word::Flag(flag.long, value));
        } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
            cluster(short, flags, &mut rest, &mut found)?;
        } else if until_plain {
            let all = std::iter::once(word).chain(rest.by_ref());
            found.push(Word::Rest(all.cloned().collect()));
        } else {
            found.push(Word::Plain(word.clone()));
        }
    }
    Ok(found)
}

fn next<'a>(rest: &mut impl Iterator<Item = &'a String>, name: &str) -> Result<String> {
    let value = rest.next().cloned();
    value.ok_or_else(|| Error::usage(format!("`{name}` needs a value")))
}

/// `-it`, `-p80:80`, `-c=4`.
fn cluster<'a>(
    short: &str,
    flags: &[Flag],
    rest: &mut impl Iterator<Item = &'a String>,
    found: &mut Vec<Word>,
) -> Result<()> {
    let mut letters = short.chars();
    while let Some(letter) = letters.next() {
        let name = format!("-{letter}");
        let flag = flags
            .iter()
            .find(|flag| flag.short == letter && letter != ' ')
            .ok_or_else(|| unknown(&name, flags))?;
        let attached = letters.as_str();
        let value = match (flag.takes, attached) {
            (Takes::Nothing, _) => {
                found.push(Word::Flag(flag.long, None));
                continue;
            }
            (Takes::Optional, "") => None,
            (Takes::Value, "") => Some(next(rest, &name)?),
            (_, attached) => Some(attached.strip_prefix('=').unwrap_or(attached).to_string()),
        };
        found.push(Word::Flag(flag.long, value));
        break;
    }
    Ok(())
}

fn unknown(name: &str, flags: &[Flag]) -> Error {
    let error = Error::usage(format!("unknown option `{name}`"));
    let bare = name.trim_start_matches('-');
    match nearest(bare, flags.iter().map(|flag| flag.long)) {
        Some(near) if bare.len() > 1 => error.hint(format!("did you mean `--{near}`?")),
        _ => error,
    }
}

/// The words of each line, as a shell would split them; nothing is expanded. Empty lines and `#` comments are left out.
pub fn lines_of_words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        split(line, &mut words).map_err(|why| {
            Error::usage(format!("line {} cannot be understood", number + 1)).cause(why)
        })?;
    }
    Ok(words)
}

fn split(line: &str, words: &mut Vec<String>) -> std::result::Result<(), &'static str> {
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = line.chars();
    while let Some(c) = letters.next() {
        let quoted = match (quote, c) {
            (_, '\0') => return Err("it has a NUL byte"),
            (Some(open), c) if c == open => {
                quote = None;
                continue;
            }
            (Some('"'), '\\') => match letters.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => c,
                Some(c) => {
                    word.get_or_insert_default().push('\\');
                    c
                }
                None => return Err("a quote is not closed"),
            },
            (Some(_), c) => c,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
                continue;
            }
            (None, '\\') => match letters.next() {
                Some(c) => c,
                None => return Err("a backslash stands at its end"),
            },
            (None, c) if c.is_whitespace() => {
                words.extend(word.take());
                continue;
            }
            (None, c) => c,
        };
        word.get_or_insert_default().push(quoted);
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag {
            long: "cores",
            short: 'c',
            takes: Takes::Value,
        },
        Flag {
            long: "gpu",
            short: 'g',
            takes: Takes::Nothing,
        },
        Flag {
            long: "entrypoint",
            short: ' ',
            takes: Takes::Optional,
        },
    ];

    fn shown(line: &str, until_plain: bool) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_string).collect();
        match read(&words, FLAGS, until_plain) {
            Ok(words) => format!("{words:?}"),
            Err(error) => error.what().to_string(),
        }
    }

    #[test]
    fn flags_and_words() {
        for (line, until, expected) in [
            (
                "-c 4 -g img x",
                false,
                r#"[Flag("cores", Some("4")), Flag("gpu", None), Plain("img"), Plain("x")]"#,
            ),
            (
                "-gc4 img",
                false,
                r#"[Flag("gpu", None), Flag("cores", Some("4")), Plain("img")]"#,
            ),
            ("-c=4", false, r#"[Flag("cores", Some("4"))]"#),
            (
                "--cores=4 -",
                false,
                r#"[Flag("cores", Some("4")), Plain("-")]"#,
            ),
            ("x -g", true, r#"[Rest(["x", "-g"])]"#),
            ("-g -- -g", false, r#"[Flag("gpu", None), Rest(["-g"])]"#),
            (
                "--entrypoint sh",
                true,
                r#"[Flag("entrypoint", None), Rest(["sh"])]"#,
            ),
            ("--cores", false, "`--cores` needs a value"),
            ("--croes=1", false, "unknown option `--croes`"),
            ("-gx", false, "unknown option `-x`"),
            (
                "--gpu=2",
                false,
                "`--gpu` takes no value, but `2` was given",
            ),
        ] {
            assert_eq!(shown(line, until), expected, "{line}");
        }
    }

    #[test]
    fn words_of_lines() {
        for (text, expected) in [
            ("-p 8787:8787\n-it\n", r#"["-p", "8787:8787", "-it"]"#),
            (
                "-e 'A=b c' \"d\\\"e\" f\\ g",
                r#"["-e", "A=b c", "d\"e", "f g"]"#,
            ),
            ("# no\n\n ''\n", r#"[""]"#),
            ("$(id) `id` ${X}", r#"["$(id)", "`id`", "${X}"]"#),
        ] {
            let words = lines_of_words(text).unwrap();
            assert_eq!(format!("{words:?}"), expected, "{text}");
        }
        for (text, line) in [("a\n'b", 2), ("a\\", 1), ("\"a\\", 1), ("a\0", 1)] {
            let told = lines_of_words(text).unwrap_err();
            assert_eq!(told.what(), format!("line {line} cannot be understood"));
        }
    }
}
