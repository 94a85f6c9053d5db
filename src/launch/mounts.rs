//! Mounts as people write them: docker's `SRC[:DST[:FLAGS]]` and `--mount type=…`, with the flags of pyxis and EDF files.
//!
//! Only the words are understood here; which mounts a plan gets, and in which order, is decided in `plan.rs` and
//! [`ordered`]. Flags that ask for less protection than a capsule has are refused by name, flags that change nothing
//! (propagation, SELinux relabelling, caching hints) are tolerated.

use super::inside::InsidePath;
use super::step::{Access, Missing};
use crate::config::nearest;
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// One mount that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSpec {
    Bind {
        /// Relative paths are meant from the caller's directory.
        from: PathBuf,
        /// `None`: at the same path.
        to: Option<InsidePath>,
        access: Access,
        missing: Missing,
    },
    Tmpfs {
        at: InsidePath,
        size: Option<u64>,
        mode: u32,
    },
    /// Leaves out a default mount (pyxis's `umount`).
    Omit { at: InsidePath },
}

impl MountSpec {
    /// Reads `SRC[:DST[:FLAGS]]`; a backslash protects the next character.
    pub fn parse(text: &OsStr) -> Result<MountSpec> {
        let fields = split_escaped(text.as_bytes(), b':');
        let [source, rest @ ..] = fields.as_slice() else {
            return Err(wrong(text, "it is empty"));
        };
        if source.is_empty() {
            return Err(wrong(text, "the source is empty"));
        }
        let (target, flags) = match rest {
            [] => (None, None),
            [target] => (Some(target), None),
            [target, flags] => (Some(target), Some(flags)),
            _ => {
                return Err(wrong(
                    text,
                    "there are more than three fields between colons",
                ));
            }
        };
        // `/a:ro` is a common slip for `/a:/a:ro`.
        let (target, flags) = match (target, flags) {
            (Some(word), None) if !word.starts_with(b"/") && is_flags(word) => (None, Some(word)),
            both => both,
        };
        let target = match target {
            Some(target) => Some(
                InsidePath::new(OsStr::from_bytes(target))
                    .map_err(|e| e.while_doing(not_understood(text)))?,
            ),
            None => None,
        };
        let mut options = Options::default();
        if let Some(flags) = flags {
            for flag in flags.split(|b| matches!(b, b',' | b'+')) {
                let flag = String::from_utf8_lossy(flag);
                options.flag(&flag).map_err(|why| {
                    refused(text, &why).hint(meant(&flag, &[]).unwrap_or(SHORT_FORM.into()))
                })?;
            }
        }
        match (source.as_slice(), target) {
            (b"tmpfs", Some(at)) => Ok(MountSpec::Tmpfs {
                at,
                size: options.size,
                mode: options.mode,
            }),
            (b"umount", Some(at)) => Ok(MountSpec::Omit { at }),
            (b"tmpfs" | b"umount", None) => Err(wrong(text, "the target is missing")),
            (from, to) => Ok(MountSpec::Bind {
                from: PathBuf::from(OsString::from_vec(from.to_vec())),
                to,
                access: options.access,
                missing: options.missing,
            }),
        }
    }

    /// Reads docker's `type=bind,source=…,target=…[,readonly]` and `type=tmpfs,target=…`.
    pub fn parse_keyed(text: &OsStr) -> Result<MountSpec> {
        let mut kind = "bind".to_string();
        let (mut source, mut target) = (None, None);
        let mut options = Options::default();
        for field in split_escaped(text.as_bytes(), b',') {
            let (key, value) = match field.iter().position(|b| *b == b'=') {
                Some(at) => (
                    field.get(..at).unwrap_or_default(),
                    Some(field.get(at + 1..).unwrap_or_default()),
                ),
                None => (field.as_slice(), None),
            };
            let key = String::from_utf8_lossy(key).into_owned();
            match (key.as_str(), value) {
                ("type", Some(value)) => kind = String::from_utf8_lossy(value).into_owned(),
                ("source" | "src", Some(value)) => {
                    source = Some(PathBuf::from(OsString::from_vec(value.to_vec())));
                }
                ("target" | "destination" | "dst", Some(value)) => {
                    target = Some(
                        InsidePath::new(OsStr::from_bytes(value))
                            .map_err(|e| e.while_doing(not_understood(text)))?,
                    );
                }
                _ => {
                    let flag = String::from_utf8_lossy(&field);
                    options.flag(&flag).map_err(|why| {
                        refused(text, &why).hint(meant(&flag, KEYS).unwrap_or(KEYED_FORM.into()))
                    })?;
                }
            }
        }
        match (kind.as_str(), source, target) {
            ("bind", Some(from), to) if !from.as_os_str().is_empty() => Ok(MountSpec::Bind {
                from,
                to,
                access: options.access,
                missing: options.missing,
            }),
            ("bind", _, _) => Err(wrong_keyed(text, "`source=` is missing")),
            ("tmpfs", None, Some(at)) => Ok(MountSpec::Tmpfs {
                at,
                size: options.size,
                mode: options.mode,
            }),
            ("tmpfs", Some(_), _) => Err(wrong_keyed(text, "a tmpfs has no source")),
            ("tmpfs", None, None) => Err(wrong_keyed(text, "`target=` is missing")),
            ("volume", ..) => Err(refused(text, "named volumes are not offered")
                .hint("bind a directory: `type=bind,source=DIR,target=…`")),
            (other, ..) => Err(wrong_keyed(
                text,
                &format!("type `{other}` is neither bind nor tmpfs"),
            )),
        }
    }

    /// A tmpfs as docker's `--tmpfs DST[:OPTIONS]` writes it.
    pub fn parse_tmpfs(text: &OsStr) -> Result<MountSpec> {
        let mut whole = OsString::from("tmpfs:");
        whole.push(text);
        MountSpec::parse(&whole)
    }

    /// Where it lands, when the words say so.
    pub fn target(&self) -> Option<&InsidePath> {
        match self {
            MountSpec::Bind { to, .. } => to.as_ref(),
            MountSpec::Tmpfs { at, .. } | MountSpec::Omit { at } => Some(at),
        }
    }
}

fn not_understood(text: &OsStr) -> String {
    format!("cannot understand the mount `{}`", text.display())
}

fn refused(text: &OsStr, why: &str) -> Error {
    Error::usage(not_understood(text)).cause(why)
}

const SHORT_FORM: &str = "write `SRC[:DST[:FLAGS]]`, for instance `/work/project:/data:ro`";
const KEYED_FORM: &str =
    "write `type=bind,src=SRC,dst=DST[,readonly]` or `type=tmpfs,dst=DST[,size=SIZE][,mode=MODE]`";

fn wrong(text: &OsStr, why: &str) -> Error {
    refused(text, why).hint(SHORT_FORM)
}

fn wrong_keyed(text: &OsStr, why: &str) -> Error {
    refused(text, why).hint(KEYED_FORM)
}

/// The words of `--mount` that are no flags.
const KEYS: &[&str] = &["type", "source", "src", "target", "destination", "dst"];
/// The flags that change something.
const FLAGS: &[&str] = &[
    "ro",
    "readonly",
    "rw",
    "rbind",
    "x-create",
    "size",
    "tmpfs-size",
    "mode",
    "tmpfs-mode",
];

/// The word that an unknown one was probably meant to be.
fn meant(flag: &str, more: &[&'static str]) -> Option<String> {
    let word = flag.split_once('=').map_or(flag, |(word, _)| word);
    let known = || more.iter().chain(FLAGS).copied();
    if known().any(|name| name == word) {
        return None;
    }
    let name = nearest(word, known())?;
    Some(format!("did you mean `{name}`?"))
}

fn split_escaped(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut fields = vec![Vec::new()];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == separator {
            fields.push(Vec::new());
        } else if let Some(field) = fields.last_mut() {
            // A backslash before anything else than a separator is part of the name.
            match (byte, bytes.peek().copied()) {
                (b'\\', Some(next)) if matches!(next, b':' | b',' | b'\\' | b' ') => {
                    field.push(next);
                    bytes.next();
                }
                _ => field.push(byte),
            }
        }
    }
    fields
}

fn is_flags(word: &[u8]) -> bool {
    let mut options = Options::default();
    word.split(|b| matches!(b, b',' | b'+')).all(|flag| {
        let flag = String::from_utf8_lossy(flag);
        !flag.is_empty() && options.flag(&flag).is_ok()
    })
}

struct Options {
    access: Access,
    missing: Missing,
    size: Option<u64>,
    mode: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            access: Access::ReadWrite,
            missing: Missing::Fail,
            size: None,
            // As /tmp has it: any user of the capsule may write.
            mode: 0o1777,
        }
    }
}

impl Options {
    fn flag(&mut self, flag: &str) -> Result<(), String> {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        match (name, value) {
            ("ro" | "readonly", None | Some("true" | "1")) => self.access = Access::ReadOnly,
            ("rw", None) | ("ro" | "readonly", Some("false" | "0")) => {
                self.access = Access::ReadWrite;
            }
            ("x-create", Some("dir")) => self.missing = Missing::MakeDirectory,
            // Whether a mount point must be made is found out while mounting; nothing is made on the host for these.
            ("x-create", Some("auto" | "file" | "none")) => {}
            ("size" | "tmpfs-size", Some(value)) => self.size = Some(parse_size(value)?),
            ("mode" | "tmpfs-mode", Some(value)) => {
                self.mode = u32::from_str_radix(value, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| format!("`{value}` is not an octal mode"))?;
            }
            // Mounts are recursive and receive what the host mounts later, whatever is said.
            (
                "bind" | "rbind" | "rec" | "recursive" | "private" | "rprivate" | "slave"
                | "rslave" | "shared" | "rshared" | "nosuid" | "nodev" | "z" | "Z" | "cached"
                | "delegated" | "consistent" | "nocopy" | "exec" | "relatime" | "noatime",
                None,
            )
            | ("bind-propagation" | "consistency" | "bind-recursive", Some(_)) => {}
            ("suid" | "dev", None) => {
                return Err(format!(
                    "`{name}` is not possible: mounts are nosuid and nodev"
                ));
            }
            ("sqsh", None) => {
                return Err("squashfs files cannot be mounted as data".into());
            }
            _ => return Err(format!("flag `{flag}` is unknown")),
        }
        Ok(())
    }
}

/// Bytes, with an optional binary suffix: `512m`, `2G`, `1GiB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size such as `512m` or `4G`");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(wrong)
}

/// A mount with its target known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub at: InsidePath,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Bind {
        from: PathBuf,
        access: Access,
        missing: Missing,
    },
    Tmpfs {
        size: Option<u64>,
        mode: u32,
    },
}

/// Orders mounts so that none hides another by accident: parents before children, otherwise as given. Of two at the same
/// place the later one counts.
pub fn ordered(mounts: Vec<Placed>) -> Vec<Placed> {
    let mut result: Vec<Placed> = Vec::with_capacity(mounts.len());
    for mount in mounts {
        result.retain(|earlier| earlier.at != mount.at);
        result.push(mount);
    }
    result.sort_by_key(|mount| mount.at.as_path().components().count());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(parsed: Result<MountSpec>) -> String {
        match parsed {
            Ok(MountSpec::Bind {
                from,
                to,
                access,
                missing,
            }) => {
                let to = to.map_or("same".to_string(), |to| to.to_string());
                let more = match missing {
                    Missing::MakeDirectory => " make",
                    _ => "",
                };
                format!("bind {} {to} {access}{more}", from.display())
            }
            Ok(MountSpec::Tmpfs { at, size, mode }) => format!("tmpfs {at} {size:?} {mode:o}"),
            Ok(MountSpec::Omit { at }) => format!("omit {at}"),
            Err(error) => format!("error {}", error.causes().join("; ")),
        }
    }

    #[test]
    fn short_form() {
        for (text, expected) in [
            ("/a", "bind /a same rw"),
            ("/a:/b", "bind /a /b rw"),
            ("/a:/b:ro", "bind /a /b ro"),
            ("/a:/b:ro+rbind", "bind /a /b ro"),
            ("/a:/b:rbind,ro,x-create=auto", "bind /a /b ro"),
            ("/a:/b:x-create=dir", "bind /a /b rw make"),
            ("/a:/b:z,rslave", "bind /a /b rw"),
            ("/a:ro", "bind /a same ro"),
            ("./data:/data", "bind ./data /data rw"),
            (r"/a\:b:/c", "bind /a:b /c rw"),
            (r"/a\ b:/c", "bind /a b /c rw"),
            (r"/a\b", r"bind /a\b same rw"),
            ("/a:/b//c/", "bind /a /b/c rw"),
            ("tmpfs:/t", "tmpfs /t None 1777"),
            ("tmpfs:/t:size=1G,mode=755", "tmpfs /t Some(1073741824) 755"),
            ("umount:/tmp", "omit /tmp"),
            ("", "error the source is empty"),
            (":/b", "error the source is empty"),
            (
                "/a:b",
                "error cannot use `b` as a path inside the image; it does not start with `/`",
            ),
            (
                "/a:/../b",
                "error cannot use `/../b` as a path inside the image; it contains `..`",
            ),
            (
                "/a:/b:ro:x",
                "error there are more than three fields between colons",
            ),
            ("/a:/b:fast", "error flag `fast` is unknown"),
            (
                "/a:/b:suid",
                "error `suid` is not possible: mounts are nosuid and nodev",
            ),
            (
                "/a.sqsh:/b:sqsh",
                "error squashfs files cannot be mounted as data",
            ),
            ("tmpfs", "error the target is missing"),
        ] {
            assert_eq!(show(MountSpec::parse(OsStr::new(text))), expected, "{text}");
        }
    }

    #[test]
    fn keyed_form() {
        for (text, expected) in [
            ("type=bind,src=/a,dst=/b", "bind /a /b rw"),
            ("type=bind,source=/a,target=/b,readonly", "bind /a /b ro"),
            (
                "source=/a,destination=/b,ro=true,bind-propagation=rslave",
                "bind /a /b ro",
            ),
            ("type=bind,src=/a", "bind /a same rw"),
            (r"type=bind,src=/a\,b,dst=/c", "bind /a,b /c rw"),
            ("type=tmpfs,destination=/run", "tmpfs /run None 1777"),
            (
                "type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770",
                "tmpfs /t Some(67108864) 1770",
            ),
            ("type=tmpfs", "error `target=` is missing"),
            ("type=tmpfs,src=/a,dst=/b", "error a tmpfs has no source"),
            ("type=bind,dst=/b", "error `source=` is missing"),
            (
                "type=volume,src=v,dst=/b",
                "error named volumes are not offered",
            ),
            (
                "type=nfs,src=/a,dst=/b",
                "error type `nfs` is neither bind nor tmpfs",
            ),
            (
                "type=tmpfs,dst=/t,tmpfs-mode=9",
                "error `9` is not an octal mode",
            ),
        ] {
            assert_eq!(
                show(MountSpec::parse_keyed(OsStr::new(text))),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn hints_are_of_the_form_that_was_used() {
        let keyed: fn(&OsStr) -> Result<MountSpec> = MountSpec::parse_keyed;
        for (parse, text, expected) in [
            (keyed, "type=tmpfs,dst=/scr,sze=1m", "did you mean `size`?"),
            (keyed, "type=bind,sorce=/a,dst=/b", "did you mean `source`?"),
            (keyed, "type=tmpfs,dst=/scr,colour=red", KEYED_FORM),
            (keyed, "type=tmpfs,dst=/scr,size=much", KEYED_FORM),
            (keyed, "type=tmpfs", KEYED_FORM),
            (
                MountSpec::parse,
                "/a:/b:readnoly",
                "did you mean `readonly`?",
            ),
            (MountSpec::parse, "/a:/b:fast", SHORT_FORM),
        ] {
            let error = parse(OsStr::new(text)).unwrap_err();
            assert_eq!(error.hints(), [expected], "{text}");
        }
    }

    #[test]
    fn names_need_not_be_utf8() {
        let text = OsStr::from_bytes(b"/a\xff:/b\xfe");
        let Ok(MountSpec::Bind { from, to, .. }) = MountSpec::parse(text) else {
            panic!("not a bind");
        };
        assert_eq!(from.as_os_str().as_bytes(), b"/a\xff");
        assert_eq!(to.unwrap().as_os_str().as_bytes(), b"/b\xfe");
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1", Ok(1)),
            ("4k", Ok(4096)),
            ("2G", Ok(2 << 30)),
            ("1GiB", Ok(1 << 30)),
            ("0", Err(())),
            ("", Err(())),
            ("G", Err(())),
            ("-1", Err(())),
            ("99999999999999999999", Err(())),
            ("18446744073709551615k", Err(())),
        ] {
            assert_eq!(parse_size(text).map_err(|_| ()), expected, "{text}");
        }
    }

    #[test]
    fn parents_come_first_and_the_last_word_counts() {
        let bind = |from: &str, at: &str| Placed {
            at: InsidePath::new(at).unwrap(),
            what: What::Bind {
                from: from.into(),
                access: Access::ReadWrite,
                missing: Missing::Fail,
            },
        };
        let mounts = vec![
            bind("/1", "/data/sub"),
            bind("/2", "/data"),
            bind("/3", "/home"),
            bind("/4", "/data/sub"),
        ];
        let order: Vec<String> = ordered(mounts)
            .iter()
            .map(|m| match &m.what {
                What::Bind { from, .. } => format!("{} {}", from.display(), m.at),
                What::Tmpfs { .. } => String::new(),
            })
            .collect();
        assert_eq!(order, ["/2 /data", "/3 /home", "/4 /data/sub"]);
    }
}
