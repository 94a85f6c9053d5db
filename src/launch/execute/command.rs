//! Finds the command inside and becomes it, or says why not as a shell would: 127 not found, 126 found but not executable.

use crate::error::{Error, Exit, Result, printable};
use crate::sys::{Errno, exec};
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where commands are when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Replaces this program. Names without `/` are searched in the new environment's `PATH`.
pub fn become_command(
    argv: &[OsString],
    environment: &[(OsString, OsString)],
) -> Result<Infallible> {
    let Some(name) = argv.first().filter(|name| !name.is_empty()) else {
        return Err(Error::usage("no command to execute"));
    };
    let path = environment
        .iter()
        .find(|(key, _)| key == "PATH")
        .map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value.as_os_str());
    let arguments = strings(argv.iter().map(|word| [word.as_bytes(), b"", b""]))?;
    let variables = strings(
        environment
            .iter()
            .map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()]),
    )?;
    let mut refused = None;
    for candidate in candidates(name, path) {
        let file = CString::new(candidate.as_os_str().as_bytes())
            .map_err(|_| Error::usage("a NUL byte in the command"))?;
        let Err(errno) = exec::exec(&file, &arguments, &variables);
        let there = candidate.symlink_metadata().is_ok();
        match errno {
            Errno::NOENT | Errno::NOTDIR if !there => {}
            // The search goes on past what cannot be executed; if nothing better comes, that is the reason.
            Errno::ACCESS => {
                refused.get_or_insert((candidate, errno));
            }
            _ => return Err(reason(&candidate, errno, arguments.len())),
        }
    }
    match refused {
        Some((candidate, errno)) => Err(reason(&candidate, errno, arguments.len())),
        None => Err(not_found(name, path)),
    }
}

fn strings<'a>(all: impl Iterator<Item = [&'a [u8]; 3]>) -> Result<Vec<CString>> {
    all.map(|parts| {
        // With room for the NUL, so that nothing is moved.
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum::<usize>() + 1);
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        CString::new(bytes).map_err(|_| Error::usage("a NUL byte in an argument or a variable"))
    })
    .collect()
}

fn candidates(name: &OsStr, path: &OsStr) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return vec![name.into()];
    }
    path.as_bytes()
        .split(|b| *b == b':')
        .map(|directory| match directory {
            b"" => Path::new(".").join(name),
            directory => Path::new(OsStr::from_bytes(directory)).join(name),
        })
        .collect()
}

fn not_found(name: &OsStr, path: &OsStr) -> Error {
    let error =
        Error::new(format!("cannot find `{}` in the image", name.display())).exit(Exit::NotFound);
    if let Some(hint) = mistaken(name) {
        return error.hint(hint);
    }
    if name.as_bytes().contains(&b'/') {
        error.hint("is it in a directory of the host that is not bound into the image?")
    } else {
        error.cause(format!("it is in no directory of PATH={}", path.display()))
    }
}

/// Commands that only a shell has.
const OF_SHELLS: [&str; 9] = [
    "cd", "source", ".", "export", "set", "ulimit", "umask", "module", "alias",
];

/// What was probably meant by a word that is no program.
fn mistaken(name: &OsStr) -> Option<String> {
    let word = name.to_string_lossy();
    if word.starts_with('-') {
        return Some(
            "options of carrack come before the image, those of the command after it".into(),
        );
    }
    if OF_SHELLS.contains(&word.as_ref()) {
        return Some(format!("`{word}` is part of a shell: `sh -c \"{word} …\"`"));
    }
    (word.contains(' ') && !word.starts_with('/'))
        .then(|| format!("write the words apart, or let a shell split them: `sh -c \"{word}\"`"))
}

/// Why a file that is there was refused.
fn reason(path: &Path, errno: Errno, words: usize) -> Error {
    let error = Error::new(format!("cannot execute `{}` in the image", path.display()))
        .exit(Exit::NotExecutable);
    match errno {
        Errno::NOENT => match needs(path) {
            Some(interpreter) => error
                .cause(format!(
                    "it needs `{interpreter}`, which the image does not have"
                ))
                .hint(interpreter_hint(&interpreter)),
            None => error
                .cause("it is a link to a file that does not exist")
                .exit(Exit::NotFound),
        },
        Errno::ACCESS => error.cause(why_denied(path)),
        Errno::NOEXEC => match machine(path) {
            Some(machine) if machine != Machine::own() => error.cause(format!(
                "it was built for {}, this node is {}",
                machine.name(),
                Machine::own().name()
            )),
            Some(_) => error.cause("it is not a program that the kernel can load"),
            None => error
                .cause("it is neither a program nor a script that begins with `#!`")
                .hint("run it through its interpreter, for instance `sh FILE`"),
        },
        Errno::TOOBIG => error.cause(format!(
            "its {words} words and the environment together are too long for the kernel"
        )),
        errno => error.source(errno),
    }
}

fn interpreter_hint(interpreter: &str) -> &'static str {
    if interpreter.contains("ld-linux") {
        "the program wants glibc; the image is built on another C library, or on none"
    } else if interpreter.contains("ld-musl") {
        "the program wants musl; the image is built on another C library"
    } else if interpreter.ends_with('\r') || interpreter.contains("\\r") {
        "the script has line ends of Windows; convert it with `dos2unix`"
    } else {
        "install it in the image, or run the file through an interpreter that the image has"
    }
}

fn why_denied(path: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    match path.metadata() {
        Ok(found) if found.is_dir() => "it is a directory".into(),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => {
            "it has no permission to be executed (mode lacks `x`)".into()
        }
        Ok(_) => match rustix::fs::statvfs(path) {
            Ok(mount) if mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) => {
                "its file system is mounted `noexec`".into()
            }
            _ => Errno::ACCESS.to_string(),
        },
        Err(error) => error.to_string(),
    }
}

/// The interpreter that a script or a program names.
fn needs(path: &Path) -> Option<String> {
    let head = head(path)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|b| *b == b'\n').next()?;
        let word = line
            .split(|b| *b == b' ' || *b == b'\t')
            .find(|word| !word.is_empty())?;
        return Some(printable(&String::from_utf8_lossy(word)));
    }
    elf_interpreter(&head)
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(64 << 10)
        .read_to_end(&mut head)
        .ok()?;
    Some(head)
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let mut value = [0; 8];
    let part = bytes.get(at..at.checked_add(size)?)?;
    value.get_mut(..size)?.copy_from_slice(part);
    usize::try_from(u64::from_le_bytes(value)).ok()
}

/// The PT_INTERP of a little-endian 64-bit ELF file.
fn elf_interpreter(head: &[u8]) -> Option<String> {
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (
        number(head, 32, 8)?,
        number(head, 54, 2)?,
        number(head, 56, 2)?,
    );
    for index in 0..count {
        let at = index.checked_mul(size)?.checked_add(table)?;
        if number(head, at, 4)? == 3 {
            let from = number(head, at.checked_add(8)?, 8)?;
            let length = number(head, at.checked_add(32)?, 8)?;
            let text = head.get(from..from.checked_add(length)?)?;
            let text = text.split(|b| *b == 0).next()?;
            return Some(printable(&String::from_utf8_lossy(text)));
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Machine(usize);

impl Machine {
    fn own() -> Machine {
        Machine(match std::env::consts::ARCH {
            "x86_64" => 62,
            "aarch64" => 183,
            "powerpc64" => 21,
            "riscv64" => 243,
            _ => 0,
        })
    }

    fn name(self) -> String {
        match self.0 {
            3 => "x86 (32 bit)".into(),
            62 => "x86_64".into(),
            40 => "arm (32 bit)".into(),
            183 => "aarch64".into(),
            21 => "ppc64".into(),
            22 => "s390x".into(),
            243 => "riscv64".into(),
            other => format!("machine type {other}"),
        }
    }
}

fn machine(path: &Path) -> Option<Machine> {
    let head = head(path)?;
    (head.get(..4)? == b"\x7fELF").then_some(())?;
    number(&head, 18, 2).map(Machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_name_is_searched() {
        let list = |name: &str, path: &str| -> Vec<String> {
            let found = candidates(OsStr::new(name), OsStr::new(path));
            found.iter().map(|p| p.display().to_string()).collect()
        };
        assert_eq!(list("a", "/x:/y"), ["/x/a", "/y/a"]);
        assert_eq!(list("a", "/x::/y"), ["/x/a", "./a", "/y/a"]);
        assert_eq!(list("./a", "/x"), ["./a"]);
        assert_eq!(list("/b/a", ""), ["/b/a"]);
    }

    #[test]
    fn refusals_name_the_real_reason() {
        use std::os::unix::fs::PermissionsExt;
        let scene = tempfile::tempdir().unwrap();
        let make = |name: &str, bytes: &[u8], mode: u32| {
            let path = scene.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        };
        let mut arm = std::fs::read("/proc/self/exe").unwrap();
        arm.truncate(4096);
        arm[18..20].copy_from_slice(&[0x28, 0]);
        std::os::unix::fs::symlink("/nowhere", scene.path().join("dangling")).unwrap();
        std::fs::create_dir(scene.path().join("directory")).unwrap();
        for (path, code, says) in [
            (scene.path().join("nothing"), Exit::NotFound, "cannot find"),
            (scene.path().join("dangling"), Exit::NotFound, "link"),
            (
                scene.path().join("directory"),
                Exit::NotExecutable,
                "directory",
            ),
            (make("plain", b"x", 0o644), Exit::NotExecutable, "lacks `x`"),
            (make("text", b"echo\n", 0o755), Exit::NotExecutable, "`#!`"),
            (
                make("script", b"#! /no/such -x\n", 0o755),
                Exit::NotExecutable,
                "`/no/such`",
            ),
            (
                make("windows", b"#!/bin/sh\r\n", 0o755),
                Exit::NotExecutable,
                "dos2unix",
            ),
            (make("arm", &arm, 0o755), Exit::NotExecutable, "arm"),
        ] {
            let error = become_command(&[path.clone().into()], &[]).unwrap_err();
            assert_eq!(error.kind(), code, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn interpreters_of_programs() {
        let own = head(Path::new("/bin/sh")).unwrap();
        assert!(elf_interpreter(&own).is_none_or(|text| text.contains("ld")));
        for end in [0, 5, 16, 40, 60, 64, 100] {
            let _ = elf_interpreter(own.get(..end).unwrap_or(&own));
        }
        let mut wild = own.clone();
        wild.iter_mut().skip(32).take(8).for_each(|b| *b = 0xff);
        assert_eq!(elf_interpreter(&wild), None);
    }

    #[test]
    fn words_that_are_no_programs() {
        for (word, says) in [
            ("-v", "before the image"),
            ("cd", "part of a shell"),
            ("echo hello", "sh -c"),
            ("no-such", "PATH=/bin"),
            ("/no/such", "bound into the image"),
        ] {
            let text = not_found(OsStr::new(word), OsStr::new("/bin")).to_string();
            assert!(text.contains(says), "{word}: {text}");
        }
    }

    #[test]
    fn a_plan_without_command_or_with_nul_is_refused() {
        assert_eq!(become_command(&[], &[]).unwrap_err().kind(), Exit::Usage);
        let argv = ["a\0b".into()];
        assert_eq!(become_command(&argv, &[]).unwrap_err().kind(), Exit::Usage);
    }
}
