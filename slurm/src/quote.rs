//! Text → a word that bash, or sbatch, reads as exactly that text.
//!
//! Deliberately absent: other shells. The scripts name bash in their first line.

/// One word of a bash command that means exactly `text`, in the plainest form that does.
///
/// Text with a NUL cannot be in any argument; the job file's parser refuses it.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_string()
    } else if text.chars().any(|c| c.is_control()) {
        // Control characters are written by name, so that a line of the script stays a line.
        let mut quoted = String::from("$'");
        for c in text.chars() {
            match c {
                '\n' => quoted.push_str("\\n"),
                '\t' => quoted.push_str("\\t"),
                '\r' => quoted.push_str("\\r"),
                '\\' | '\'' => quoted.extend(['\\', c]),
                // Of two bytes in UTF-8, so octal per byte.
                c if c.is_control() => {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        quoted.push_str(&format!("\\{byte:03o}"));
                    }
                }
                c => quoted.push(c),
            }
        }
        quoted.push('\'');
        quoted
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// One word in which `$NAME`, `${NAME}` and `${NAME:-plain}` are left to bash, `$$` is a dollar, and all else is exact.
///
/// Command substitution, arithmetic and other expansions are plain text here: a path of a job file never runs anything.
pub fn live(text: &str) -> String {
    if !text.contains('$') {
        return word(text);
    }
    let mut quoted = String::from("\"");
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '$' {
            if let Some(after) = rest.strip_prefix("$$") {
                quoted.push_str("\\$");
                rest = after;
                continue;
            }
            if let Some(length) = variable(rest) {
                let (reference, after) = rest.split_at(length);
                quoted.push_str(reference);
                rest = after;
                continue;
            }
        }
        if matches!(c, '$' | '"' | '\\' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    quoted.push('"');
    quoted
}

/// The names of the variables that [`live`] leaves to bash in this text.
pub fn variables(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = rest.get(at..).unwrap_or_default();
        if let Some(after) = rest.strip_prefix("$$") {
            rest = after;
        } else if let Some(length) = variable(rest) {
            let (reference, after) = rest.split_at(length);
            names.push(name_of(reference));
            rest = after;
        } else {
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    names
}

fn name_of(reference: &str) -> &str {
    let inner = reference
        .trim_start_matches(['$', '{'])
        .trim_end_matches('}');
    inner.split_once(":-").map_or(inner, |(name, _)| name)
}

/// The length of the variable reference that `text` begins with.
fn variable(text: &str) -> Option<usize> {
    let after = text.strip_prefix('$')?;
    if let Some(braced) = after.strip_prefix('{') {
        let inner = &braced[..braced.find('}')?];
        let (name, default) = inner.split_once(":-").unwrap_or((inner, ""));
        let harmless = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+, ".contains(c);
        (name_length(name) == name.len() && !name.is_empty() && default.chars().all(harmless))
            .then_some("${}".len() + inner.len())
    } else {
        let length = name_length(after);
        (length > 0).then_some("$".len() + length)
    }
}

/// How many bytes of a variable's name `text` begins with.
fn name_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    if bytes.first().is_none_or(u8::is_ascii_digit) {
        return 0;
    }
    bytes
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
        .count()
}

/// A value on an `#SBATCH` line. sbatch reads quotes and backslashes there, but no line can hold a line break.
pub fn sbatch(text: &str) -> Option<String> {
    let plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,*()[]{}|&!~^$`?<>;".contains(c);
    if text.contains(['\n', '\r', '\0']) {
        None
    } else if !text.is_empty() && text.chars().all(plain) {
        Some(text.to_string())
    } else {
        Some(format!(
            "\"{}\"",
            text.replace('\\', r"\\").replace('"', "\\\"")
        ))
    }
}

/// What `sbatch` has written, read back.
pub fn of_sbatch(text: &str) -> String {
    let quoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let Some(quoted) = quoted else {
        return text.to_string();
    };
    let mut found = String::new();
    let mut rest = quoted.chars();
    while let Some(c) = rest.next() {
        found.extend(match c {
            '\\' => rest.next(),
            c => Some(c),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    /// What bash makes of words: each argument, NUL-terminated.
    fn bash(words: &str) -> String {
        let script = format!("set -u\nprintf '%s\\0' {words}\n");
        let output = Command::new("bash")
            .args(["--norc", "-c", &script])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("FOO", "a $(b) \"c\"")
            .output()
            .expect("bash runs");
        assert!(output.status.success(), "{script}\n{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8 stays UTF-8")
    }

    #[test]
    fn words_in_the_plainest_form() {
        let rows = [
            ("./wrf.exe", "./wrf.exe"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("~", "'~'"),
            ("a\nb", r"$'a\nb'"),
            ("\u{85}1", r"$'\302\2051'"),
            ("\u{1b}[2J", r"$'\033[2J'"),
        ];
        for (text, expected) in rows {
            assert_eq!(word(text), expected);
        }
    }

    #[test]
    fn live_words_keep_variables_and_nothing_else() {
        let rows = [
            ("/data", "/data"),
            ("$TMPDIR/in put", "\"$TMPDIR/in put\""),
            ("${A}b", "\"${A}b\""),
            ("${A:-/tmp/x}", "\"${A:-/tmp/x}\""),
            ("$$HOME", r#""\$HOME""#),
            ("$(rm)", r#""\$(rm)""#),
            ("`rm` \"q\" \\ $1 $", r#""\`rm\` \"q\" \\ \$1 \$""#),
            ("${A:-$(rm)}", r#""\${A:-\$(rm)}""#),
            ("${A@P}", r#""\${A@P}""#),
            ("${", r#""\${""#),
        ];
        for (text, expected) in rows {
            assert_eq!(live(text), expected);
        }
        assert_eq!(variables("$A/${B:-x}/$$C/$1/${D}/$(E)"), ["A", "B", "D"]);
    }

    #[test]
    fn bash_expands_only_the_variables() {
        assert_eq!(
            bash(&live("$FOO/$$FOO/`x`/$(y)/${FOO}/${NO:-d}")),
            "a $(b) \"c\"/$FOO/`x`/$(y)/a $(b) \"c\"/d\0"
        );
    }

    #[test]
    fn lines_for_sbatch() {
        // Each of these was read back from a real sbatch (22.05): see the cluster tests.
        let rows = [
            ("wrf-fire", Some("wrf-fire")),
            ("a b", Some("\"a b\"")),
            ("a#b", Some("\"a#b\"")),
            ("a\"b\\", Some(r#""a\"b\\""#)),
            ("it's", Some("\"it's\"")),
            ("", Some("\"\"")),
            ("gpu:a100:1(S:0)", Some("gpu:a100:1(S:0)")),
            ("a\nb", None),
        ];
        for (text, expected) in rows {
            assert_eq!(sbatch(text).as_deref(), expected, "{text:?}");
            assert!(
                expected.is_none_or(|line| of_sbatch(line) == text),
                "{text:?}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn bash_reads_words_back_exactly(
            texts in prop::collection::vec("(\\PC|[\\x01-\\x7f]|[$'\"`\\\\!#~*?(){}%\n\t ]){0,12}", 1..12)
        ) {
            let words: Vec<String> = texts.iter().map(|text| word(text)).collect();
            let expected: String = texts.iter().map(|text| format!("{text}\0")).collect();
            prop_assert_eq!(bash(&words.join(" ")), expected);
        }
    }
}
