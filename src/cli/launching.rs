//! The arguments of the commands that start something inside an image, built from the launcher's option table, and the way
//! from them to a plan: job file or EDF, then `CARRACK_*` variables, then flags.

use crate::error::{Error, Result};
use crate::handover;
use crate::jobs::environment;
use crate::launch::facts::HostFacts;
use crate::launch::options::{OPTIONS, Shape, apply};
use crate::launch::request::{Mode, Origin, Request};
use crate::launch::spellings::{SPELLINGS, Takes};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What the user typed, in order: options of the table, then words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchArgs {
    pairs: Vec<(&'static str, OsString)>,
    words: Vec<OsString>,
    /// The words began with `--`: none of them is the image.
    only_command: bool,
}

const WORDS: &str = "words";
/// How many words follow the first `--`. The parser takes that `--` away when no word is before it, yet then it says that
/// no word is the image; [`mark_dashes`] keeps the knowledge.
const DASHES: &str = "words-after-dashes";

/// The commands that take [`LaunchArgs`].
const VERBS: [&str; 3] = ["run", "exec", "shell"];

/// Notes where the first `--` of a launching command is, for [`LaunchArgs`].
pub fn mark_dashes(mut arguments: Vec<OsString>) -> Vec<OsString> {
    // The command is the first word that is no option and no option's value: a step may be called `run`.
    let is_value = |at: usize| arguments.get(at - 1).is_some_and(|word| word == "--store");
    let is_command = |at: &usize| {
        let word = arguments.get(*at).map(|word| word.as_encoded_bytes());
        word.is_some_and(|word| !word.starts_with(b"-")) && !is_value(*at)
    };
    let Some(verb) = (1..arguments.len()).find(is_command) else {
        return arguments;
    };
    if !VERBS
        .iter()
        .any(|known| arguments.get(verb).is_some_and(|word| word == known))
    {
        return arguments;
    }
    if let Some(dashes) = arguments.iter().position(|word| word == "--")
        && dashes > verb
    {
        let after = arguments.len() - dashes - 1;
        arguments.insert(verb + 1, format!("--{DASHES}={after}").into());
    }
    arguments
}

impl clap::Args for LaunchArgs {
    fn augment_args(command: Command) -> Command {
        // `--entrypoint CMD` is docker's for `run`; elsewhere the next word would be the image.
        let takes_next = command.get_name() == "run";
        let mut command = command;
        for option in OPTIONS {
            let mut arg = Arg::new(option.name)
                .long(option.name)
                .help(option.help)
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(OsString));
            if let Some(short) = option.short {
                arg = arg.short(short);
            }
            arg = match option.shape {
                Shape::Switch => switch(arg),
                Shape::Value(value) => arg.num_args(1).value_name(value).allow_hyphen_values(true),
                Shape::Optional(value) if takes_next && option.name == "entrypoint" => {
                    arg.num_args(1).value_name(value)
                }
                Shape::Optional(value) => arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
                    .value_name(value),
            };
            command = command.arg(arg);
            if let Some(off) = option.off {
                let help = format!("The opposite of --{}", option.name);
                command = command.arg(switch(Arg::new(off)).long(off).help(help));
            }
        }
        for spelling in SPELLINGS {
            let mut arg = Arg::new(spelling.id)
                .hide(true)
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(OsString));
            arg = match spelling.takes {
                Takes::Nothing => switch(arg),
                Takes::Value => arg.num_args(1).allow_hyphen_values(true),
                Takes::Optional => arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true"),
            };
            let mut long = spelling.long.iter();
            if let Some(first) = long.next() {
                arg = arg.long(*first).aliases(long.copied());
            }
            if let Some(short) = spelling.short {
                arg = arg.short(short);
            }
            command = command.arg(arg);
        }
        let dashes = Arg::new(DASHES).long(DASHES).hide(true).num_args(1);
        let dashes = dashes.value_parser(clap::value_parser!(usize));
        command.arg(dashes).arg(
            Arg::new(WORDS)
                .value_name("IMAGE [COMMAND]")
                .help("Reference, digest or its first 6 digits or more, squashfs file or directory; then the command")
                .num_args(0..)
                .trailing_var_arg(true)
                .value_parser(clap::value_parser!(OsString)),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// May stand more than once; the last place counts.
fn switch(arg: Arg) -> Arg {
    arg.action(ArgAction::Count)
        .value_parser(clap::value_parser!(u8))
}

impl FromArgMatches for LaunchArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        // Lists keep the order of the command line across options: a mount after a mount, a variable after its removal.
        let mut found: Vec<(usize, Given)> = Vec::new();
        let mut take = |id: &str, given: &dyn Fn(OsString) -> Given| {
            if let Ok(Some(count)) = matches.try_get_one::<u8>(id) {
                let index = matches.indices_of(id).and_then(Iterator::last);
                found.extend(
                    index
                        .filter(|_| *count > 0)
                        .map(|index| (index, given("true".into()))),
                );
                return;
            }
            let values = matches.get_many::<OsString>(id).into_iter().flatten();
            let indices = matches.indices_of(id).into_iter().flatten();
            found.extend(
                indices
                    .zip(values)
                    .map(|(index, value)| (index, given(value.clone()))),
            );
        };
        for option in OPTIONS {
            take(option.name, &|value| Given::Option(option.name, value));
            if let Some(off) = option.off {
                take(off, &|value| Given::Option(off, value));
            }
        }
        for spelling in SPELLINGS {
            take(spelling.id, &|value| Given::Spelling(spelling, value));
        }
        found.sort_by_key(|(index, _)| *index);
        let mut pairs = Vec::new();
        for (_, given) in found {
            match given {
                Given::Option(name, value) => pairs.push((name, value)),
                Given::Spelling(spelling, value) => {
                    pairs.extend(spelling.translate(Some(&value)).map_err(as_clap)?);
                }
            }
        }
        let words: Vec<OsString> = matches
            .get_many(WORDS)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let after_dashes = matches.get_one::<usize>(DASHES);
        let mut args = LaunchArgs {
            pairs,
            only_command: after_dashes == Some(&words.len()),
            words,
        };
        if !args.only_command && args.words.get(1).is_some_and(|word| word == "--") {
            args.words.remove(1);
        }
        Ok(args)
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

enum Given {
    Option(&'static str, OsString),
    Spelling(&'static crate::launch::spellings::Spelling, OsString),
}

fn as_clap(error: Error) -> clap::Error {
    let text = std::iter::once(error.what().to_string())
        .chain(error.causes().iter().cloned())
        .collect::<Vec<_>>()
        .join(": ");
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, text)
}

impl LaunchArgs {
    /// The same as the parser makes of what follows a verb, where that takes no parser: long options of the table, in their
    /// full form, and the words. To define them all for the parser is a third of what a launch computes. `None` for
    /// anything else, also for mistakes.
    pub fn plain(verb: &str, arguments: &[OsString]) -> Option<LaunchArgs> {
        let mut args = LaunchArgs::default();
        let mut rest = arguments.iter();
        while let Some(word) = rest.as_slice().first() {
            let Some(flag) = word.as_bytes().strip_prefix(b"-") else {
                break;
            };
            rest.next();
            if flag == b"-" {
                args.only_command = true;
                break;
            }
            let flag = std::str::from_utf8(flag.strip_prefix(b"-")?).ok()?;
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (flag, None),
            };
            if value.as_ref().is_some_and(|value| value.is_empty()) {
                return None;
            }
            let on = OPTIONS.iter().find(|option| option.name == name);
            let mut off = OPTIONS.iter().filter_map(|option| option.off);
            let (name, value) = match (on.map(|option| (option.name, option.shape)), value) {
                (Some((name, Shape::Switch)), None) => (name, None),
                (Some((name, Shape::Value(_))), Some(value)) => (name, Some(value)),
                (Some((name, Shape::Value(_))), None) => {
                    let value = rest.next()?;
                    let ordinary = !value.is_empty() && !value.as_bytes().starts_with(b"-");
                    (name, Some(ordinary.then(|| value.clone())?))
                }
                // `run --entrypoint CMD` takes the next word.
                (Some(("entrypoint", _)), _) if verb == "run" => return None,
                (Some((name, Shape::Optional(_))), value) => {
                    (name, Some(value.unwrap_or("true".into())))
                }
                (None, None) => (off.find(|off| *off == name)?, None),
                _ => return None,
            };
            let value = value.unwrap_or_else(|| {
                args.pairs.retain(|(known, _)| *known != name);
                "true".into()
            });
            args.pairs.push((name, value));
        }
        let dashes = |word: &OsString| word == "--";
        args.words = match rest.as_slice() {
            [image, between, words @ ..] if dashes(between) && !args.only_command => {
                if words.first().is_none_or(dashes) {
                    return None;
                }
                std::iter::once(image).chain(words).cloned().collect()
            }
            words => words.to_vec(),
        };
        (!args.words.iter().any(|word| word.is_empty())).then_some(args)
    }

    /// Everything that was asked for, through all doors; `caller` is this process.
    pub fn request(&self, mode: Mode, caller: &HostFacts) -> Result<Request> {
        let flags = || {
            self.pairs
                .iter()
                .map(|(name, value)| (*name, value.clone()))
        };
        let variables = set_variables(&caller.environment);
        // Which environment files there are must be known before the doors above them are applied.
        let mut asked = Request::default();
        apply(&mut asked, &Origin::Flag, flags())?;
        if asked.environments.is_empty() {
            let named = variables
                .iter()
                .filter(|(name, _)| *name == "CARRACK_ENVIRONMENT");
            apply(&mut asked, &Origin::Variable, named.cloned())?;
        }
        let mut request = Request {
            mode,
            ..Request::default()
        };
        for name in &asked.environments {
            let pairs = environment::load(name)?;
            apply(&mut request, &Origin::File(format!("`{name}`")), pairs)?;
        }
        apply(&mut request, &Origin::Variable, variables)?;
        apply(&mut request, &Origin::Flag, flags())?;
        let mut words = self.words.clone();
        let by_flag = asked.image.is_some();
        let by_file = !asked.environments.is_empty() && request.image.is_some();
        if !by_flag && !by_file && !self.only_command && !words.is_empty() {
            let image = words.remove(0);
            request.image = Some(utf8(&image)?.to_string());
        }
        // Where Slurm itself puts the launcher in front, the command still wears the plugin's guard.
        if let Some(command) = words.first_mut() {
            *command = OsStr::from_bytes(handover::unguard(command.as_bytes())).to_owned();
        }
        request.command = words;
        Ok(request)
    }

    /// The words as they are, for commands whose first word is no image.
    pub fn words(&self) -> &[OsString] {
        &self.words
    }
}

/// The options' variables that say something. Most callers have hundreds of variables and none of these.
pub fn set_variables(environment: &[(OsString, OsString)]) -> Vec<(&'static str, OsString)> {
    let ours: Vec<_> = environment
        .iter()
        .filter(|(name, _)| name.as_bytes().starts_with(b"CARRACK_"))
        .collect();
    let value = |variable: &str| Some(&ours.iter().find(|(name, _)| name == variable)?.1);
    OPTIONS
        .iter()
        .filter_map(|option| Some((option.variable, value(option.variable)?)))
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name, value.clone()))
        .collect()
}

fn utf8(word: &OsStr) -> Result<&str> {
    word.to_str()
        .ok_or_else(|| Error::usage(format!("the image `{}` is not valid UTF-8", word.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    fn parse(line: &str) -> LaunchArgs {
        let words = std::iter::once("carrack").chain(line.split_whitespace());
        let words = mark_dashes(words.map(OsString::from).collect());
        let verb = words[1].to_str().unwrap().to_string();
        let name = VERBS.iter().find(|known| **known == verb).unwrap();
        let command = LaunchArgs::augment_args(Command::new(*name));
        let matches = command.try_get_matches_from(words.into_iter().skip(1));
        LaunchArgs::from_arg_matches(&matches.unwrap()).unwrap()
    }

    fn request(line: &str) -> String {
        let mode = if line.starts_with("run") {
            Mode::Run
        } else {
            Mode::Exec
        };
        let request = parse(line).request(mode, &HostFacts::plain()).unwrap();
        let command: Vec<&str> = request
            .command
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        format!(
            "{} | {}",
            request.image.unwrap_or_default(),
            command.join(" ")
        )
    }

    #[test]
    fn without_the_parser_it_is_the_same() {
        let mut plain = 0;
        for line in [
            "exec img cmd -x",
            "exec img",
            "run img --help",
            "exec",
            "exec img -- cmd -- x",
            "exec img -- -- cmd",
            "exec img --",
            "exec img -- cmd",
            "exec img cmd -- x",
            "exec -- cmd",
            "exec --",
            "exec -- -- cmd",
            "exec --tmp host -- cmd -x",
            "exec --tmp host img cmd --tmp x",
            "exec --tmp=host img cmd",
            "exec --tmp= img cmd",
            "exec --tmp -x img cmd",
            "exec --image=other -- cmd",
            "exec --entrypoint img cmd",
            "run --entrypoint sh img cmd",
            "run --entrypoint=sh img cmd",
            "exec --no-home --home --no-home img",
            "exec --home=/x --bind /a:/b --bind=/c --env A=1 img cmd",
            "exec --writable img cmd",
            "exec --writable=1G --read-only img cmd",
            "exec -e A=1 img cmd",
            "run --rm -ti -v /a:/b img",
            "exec --network none img",
            "exec --nv img",
        ] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let verb = words[0].to_str().unwrap();
            if let Some(args) = LaunchArgs::plain(verb, &words[1..]) {
                assert_eq!(args, parse(line), "{line}");
                plain += 1;
            }
        }
        assert!(plain > 15, "{plain}");
        for line in ["exec --bnid /a img", "exec --read-only=x img", "exec --tmp"] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(LaunchArgs::plain("exec", &words[1..]), None, "{line}");
        }
        // Whatever the table gets.
        for option in OPTIONS {
            for word in [Some(option.name), option.off].into_iter().flatten() {
                for line in [format!("exec --{word} a b"), format!("exec --{word}=a b c")] {
                    let words: Vec<OsString> =
                        line.split_whitespace().map(OsString::from).collect();
                    if let Some(args) = LaunchArgs::plain("exec", &words[1..]) {
                        assert_eq!(args, parse(&line), "{line}");
                    }
                }
            }
        }
    }

    #[test]
    fn only_launching_commands_are_marked() {
        for (line, marked) in [
            ("exec -- a", true),
            ("-q --store run exec -- a", true),
            ("--store=x -v run -- a", true),
            (
                "record step r.json --name run --code 0 -- carrack exec box -- a",
                false,
            ),
            ("submit exec -- a", false),
            ("--store exec", false),
            ("-- exec -- a", false),
        ] {
            let words: Vec<OsString> = std::iter::once("carrack")
                .chain(line.split(' '))
                .map(OsString::from)
                .collect();
            assert_eq!(mark_dashes(words.clone()) != words, marked, "{line}");
        }
    }

    #[test]
    fn image_and_command() {
        for (line, expected) in [
            ("exec img cmd -x", "img | cmd -x"),
            ("exec img -- cmd", "img | cmd"),
            ("exec img cmd -- x", "img | cmd -- x"),
            ("exec --tmp host img cmd --tmp x", "img | cmd --tmp x"),
            ("exec -- cmd", " | cmd"),
            ("exec --tmp host -- cmd -x", " | cmd -x"),
            ("exec --image other cmd", "other | cmd"),
            ("exec --image=other -- cmd", "other | cmd"),
            ("exec --entrypoint img cmd", "img | cmd"),
            ("run --entrypoint sh img cmd", "img | cmd"),
            ("run img", "img | "),
            ("run --rm -ti -v /a:/b img", "img | "),
            ("exec --writable img cmd", "img | cmd"),
        ] {
            assert_eq!(request(line), expected, "{line}");
        }
    }

    #[test]
    fn lists_keep_the_order_across_spellings() {
        let args = parse(
            "exec --unset-env A* -e B=1 --env A=2 -v /1 --mount type=tmpfs,dst=/t -B /2 img cmd",
        );
        let names: Vec<String> = args
            .pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", value.display()))
            .collect();
        assert_eq!(
            names,
            [
                "unset-env=A*",
                "env=B=1",
                "env=A=2",
                "bind=/1",
                "mount=type=tmpfs,dst=/t",
                "bind=/2"
            ]
        );
    }

    #[test]
    fn both_words_for_a_switch() {
        for (line, expected) in [
            ("exec --no-home img", "no-home=true"),
            ("exec --home img", "home=true"),
            ("exec --home=/x img", "home=/x"),
            ("exec --read-only img", "read-only=true"),
            ("exec --writable=1G img", "writable=1G"),
            ("exec -W=1G img", "writable=1G"),
            ("exec --nv img", "gpu=auto"),
            ("exec -u 0 img", "id=root"),
            ("exec --network none img", "network=none"),
        ] {
            let args = parse(line);
            let (name, value) = args.pairs.first().expect(line);
            assert_eq!(format!("{name}={}", value.display()), expected, "{line}");
        }
    }

    #[test]
    fn a_misspelt_option_is_no_image() {
        let command = LaunchArgs::augment_args(Command::new("exec"));
        let error = command
            .try_get_matches_from(["exec", "--bnid", "/a", "img"])
            .unwrap_err();
        assert!(error.to_string().contains("--bind"), "{error}");
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        for line in ["exec -d img", "exec --privileged img", "exec -p 80:80 img"] {
            let words = line.split_whitespace();
            let command = LaunchArgs::augment_args(Command::new("exec"));
            let matches = command.try_get_matches_from(words).unwrap();
            let text = LaunchArgs::from_arg_matches(&matches)
                .unwrap_err()
                .to_string();
            assert!(text.contains("is not offered"), "{line}: {text}");
        }
    }

    #[test]
    fn of_the_variables_those_of_options_count_that_say_something() {
        let pair = |(name, value): (&str, &str)| (OsString::from(name), OsString::from(value));
        let environment = [
            ("HOME", "/h"),
            ("CARRACK_GPU", ""),
            ("CARRACK_NETWORK", "none"),
            // The first one counts, as for the C library.
            ("CARRACK_NETWORK", "host"),
            ("CARRACK_GPU", "none"),
            ("CARRACK_UNHEARD_OF", "1"),
            ("XCARRACK_DEV", "minimal"),
        ];
        assert_eq!(
            set_variables(&environment.map(pair)),
            [("CARRACK_NETWORK", OsString::from("none"))]
        );
    }
}
