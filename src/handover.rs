//! How the SPANK plugin hands arguments to the launcher where Slurm cannot put words in front of a command.
//!
//! The plugin replaces the command's first word by the launcher and sends the words that belong in front of the rest in
//! one variable: joined by newlines, with `\n` for a newline and `\\` for a backslash. `main` puts them back before it
//! looks at anything else. A user who sets the variable only runs the launcher as he could anyway.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

pub const VARIABLE: &str = "CARRACK_HANDOVER";

/// Put in front of a command by srun, taken away on a node that has the plugin. A node that lacks it is told by Slurm to
/// execute a file below a directory that is nowhere, and says so by its name: the host never runs what was meant for an
/// image.
const GUARD: &[u8] =
    b"/the carrack plugin is not loaded on this node, so nothing is executed here:/";

/// The command as it travels to the nodes.
pub fn guard(command: &[u8]) -> Vec<u8> {
    [GUARD, command].concat()
}

/// The command without its guard; as it is when it has none.
pub fn unguard(command: &[u8]) -> &[u8] {
    command.strip_prefix(GUARD).unwrap_or(command)
}

pub fn is_guarded(command: &[u8]) -> bool {
    command.starts_with(GUARD)
}

/// The file of `srun --multi-prog` as it travels: each line's ranks, then the launcher, and the line's command as its guarded
/// argument. Slurm makes a task's words of it where no plugin can reach them. A node that has the plugin tells the launcher
/// what belongs in between; on another one the launcher finds a guarded word where a command of its own should be.
/// `None` for a launcher whose path cannot be written there.
pub fn guard_programs(file: &[u8], launcher: &str) -> Option<Vec<u8>> {
    let guard = std::str::from_utf8(GUARD).ok()?;
    if launcher.contains(['\'', '\n']) {
        return None;
    }
    let between = format!("'{launcher}' '{guard}'");
    let mut guarded = Vec::with_capacity(file.len() + 256);
    let mut continued = false;
    for line in file.split_inclusive(|&byte| byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let (begins, ends) = (!continued, text.ends_with(b"\\"));
        continued = ends;
        let ranks = text.trim_ascii_start();
        if !begins || ranks.is_empty() || ranks.starts_with(b"#") {
            guarded.extend_from_slice(line);
            continue;
        }
        let length = ranks.iter().position(u8::is_ascii_whitespace);
        let (ranks, command) = ranks.split_at(length.unwrap_or(ranks.len()));
        guarded.extend_from_slice(ranks);
        guarded.push(b' ');
        guarded.extend_from_slice(between.as_bytes());
        guarded.extend_from_slice(command.trim_ascii_start());
        if line.len() > text.len() {
            guarded.push(b'\n');
        }
    }
    Some(guarded)
}

/// Whether these are the words of a step that [`guard_programs`] has seen: the file's name and its text.
pub fn are_guarded_programs(words: &[CString]) -> bool {
    let holds = |text: &CString| {
        text.as_bytes()
            .windows(GUARD.len())
            .any(|part| part == GUARD)
    };
    match words {
        [name, text, ..] => !is_guarded(name.as_bytes()) && holds(text),
        _ => false,
    }
}

/// One text for a list of words.
pub fn encode(words: &[&[u8]]) -> String {
    let escape = |word: &[u8]| -> String {
        // Words come from Slurm's C strings; bytes that are not UTF-8 travel as \xHH.
        word.iter()
            .map(|&byte| match byte {
                b'\n' => "\\n".to_string(),
                b'\\' => "\\\\".to_string(),
                0x20..=0x7e => char::from(byte).to_string(),
                other => format!("\\x{other:02x}"),
            })
            .collect()
    };
    words
        .iter()
        .map(|word| escape(word))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The words again; `None` for a text that [`encode`] does not make.
pub fn decode(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    text.split(|&byte| byte == b'\n').map(unescape).collect()
}

fn unescape(word: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(word.len());
    let mut bytes = word.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next()? {
            b'n' => b'\n',
            b'\\' => b'\\',
            b'x' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            _ => return None,
        });
    }
    Some(out)
}

/// The command line as it was meant: what the plugin sent goes between the program's name and the rest.
pub fn arguments(given: Vec<OsString>, handed_over: Option<OsString>) -> Option<Vec<OsString>> {
    let Some(text) = handed_over else {
        return Some(given);
    };
    let words = decode(&text.into_vec())?;
    let mut given = given.into_iter();
    let program = given.next()?;
    Some(
        std::iter::once(program)
            .chain(words.into_iter().map(OsString::from_vec))
            .chain(given)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_there_and_back() {
        let words: [&[u8]; 6] = [
            b"exec",
            b"",
            b"a b",
            b"line\nbreak",
            b"back\\slash\\n",
            b"\xff\x01\xc3\xa9",
        ];
        let text = encode(&words);
        assert!(text.is_ascii());
        assert_eq!(decode(text.as_bytes()).unwrap(), words);
    }

    #[test]
    fn a_guarded_command_is_nowhere_on_a_host() {
        let guarded = guard(b"./app");
        assert!(is_guarded(&guarded) && !is_guarded(b"./app"));
        assert_eq!(unguard(&guarded), b"./app");
        assert_eq!(unguard(b"./app"), b"./app");
        let directory = guarded.split(|byte| *byte == b'/').nth(1).unwrap();
        assert!(guarded.starts_with(b"/") && directory.len() < 255);
    }

    #[test]
    fn the_programs_of_a_file_are_guarded_line_by_line() {
        let file =
            "# ranks and programs\n\n0  ./a %t 'x y'\n 1-2,5\t./b \\\n  more \\\n3 of b\n*   ./c";
        let text = String::from_utf8(GUARD.to_vec()).unwrap();
        let expected = format!(
            "# ranks and programs\n\n0 '/l' '{text}'./a %t 'x y'\n1-2,5 '/l' '{text}'./b \\\n  more \\\n3 of b\n* '/l' '{text}'./c"
        );
        let guarded = guard_programs(file.as_bytes(), "/l").unwrap();
        assert_eq!(String::from_utf8(guarded.clone()).unwrap(), expected);
        assert_eq!(guard_programs(b"0 a", "/it's"), None);
        let words = |second: &[u8]| [c"file".to_owned(), CString::new(second).unwrap()];
        assert!(are_guarded_programs(&words(&guarded)));
        assert!(!are_guarded_programs(&words(file.as_bytes())));
        let command = [
            CString::new(guard(b"./app")).unwrap(),
            words(&guarded)[1].clone(),
        ];
        assert!(!are_guarded_programs(&command));
    }

    #[test]
    fn foreign_text_is_refused() {
        for text in ["\\", "\\q", "\\x", "\\xg0"] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_words_come_before_the_rest() {
        let given = ["carrack", "-x"].map(OsString::from).to_vec();
        let merged = arguments(given.clone(), Some("exec\nimage\n--\n./app".into())).unwrap();
        assert_eq!(merged, ["carrack", "exec", "image", "--", "./app", "-x"]);
        assert_eq!(arguments(given.clone(), None), Some(given));
    }
}
