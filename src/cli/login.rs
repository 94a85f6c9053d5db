//! `carrack login`: credentials for a registry, tried out before they are kept.

use super::{Common, interrupt, output};
use crate::error::{Context, Error, Result};
use crate::image::credentials::{self, Kept};
use crate::image::pull::source_settings;
use crate::image::reference::registry_name;
use crate::image::source::{Secret, registry};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::ExitCode;

/// More than any password or token has.
const MAX_PASSWORD: u64 = 64 << 10;

/// Log in to a registry
///
/// The password, or better a token that can only read, is asked for on the terminal or read from standard input. It is
/// tried out at the registry and then kept where docker keeps it too: in `~/.docker/config.json` (or `$DOCKER_CONFIG`,
/// `$REGISTRY_AUTH_FILE`), or by the credential helper that is named there. Batch jobs can set CARRACK_USERNAME and
/// CARRACK_PASSWORD or CARRACK_PASSWORD_FILE (and CARRACK_REGISTRY) instead; no program in an image is given the first two.
#[derive(clap::Args)]
pub struct Args {
    /// The registry, as in image names [default: the site's, else Docker Hub]
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
    /// The user name; OpenShift's registry takes any
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password or token from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Refused: arguments can be seen by every user of the machine
    #[arg(short, long, value_name = "PASSWORD", hide = true)]
    password: Option<String>,
    /// Try the credentials out without keeping them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    if args.password.is_some() {
        return Err(Error::usage("a password must not stand on the command line")
            .cause("every user of this machine can see it there, and shells keep it in their history")
            .hint("pipe it in: `printf %s \"$TOKEN\" | carrack login REGISTRY -u NAME --password-stdin`"));
    }
    let config = args.common.settings()?.config;
    let host = registry_name(
        args.registry
            .as_deref()
            .unwrap_or(&config.registries.default),
    )?;
    let settings = source_settings(&config, std::env::temp_dir())?;
    let user = match args.username {
        Some(user) => user,
        None if args.password_stdin => {
            return Err(Error::usage("`--password-stdin` needs `--username`"));
        }
        None => ask(&format!("User name for {host}: "))?,
    };
    if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
        return Err(Error::usage("the user name is empty or has a `:` in it"));
    }
    let password = match args.password_stdin {
        true => from_stdin()?,
        false => ask_secretly(&format!("Password or token for {user} at {host}: "))?,
    };
    let identity = registry::check_login(&host, &user, &password, &settings)?;
    if args.dry_run {
        output::print(&format!("{host} accepts {user}; nothing was kept\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (secret, is_identity) = match &identity {
        Some(token) => (token, true),
        None => (&password, false),
    };
    let kept = credentials::save(&host, &user, secret, is_identity, &settings.credentials)?;
    if !args.common.quiet {
        output::print(&format!("{host} accepts {user}; kept {}\n", place(&kept)))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn place(kept: &Kept) -> String {
    match kept {
        Kept::File(path) => format!("in {}", path.display()),
        Kept::Helper(name) => format!("by docker-credential-{name}"),
    }
}

fn from_stdin() -> Result<Secret> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_PASSWORD)
        .read_to_string(&mut text)
        .or_say(|| "cannot read the password from standard input")?;
    checked(Secret::new(text))
}

/// Without the line's end; never empty.
fn checked(text: Secret) -> Result<Secret> {
    let secret = Secret::new(text.reveal().trim_end_matches(['\r', '\n']));
    if secret.reveal().is_empty() {
        return Err(Error::usage("the password is empty"));
    }
    Ok(secret)
}

/// The terminal itself, for standard input and output may be anything.
fn terminal() -> Result<File> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    match terminal {
        Ok(terminal) if terminal.is_terminal() => Ok(terminal),
        _ => Err(
            Error::usage("there is no terminal to ask for user name and password")
                .hint("give `--username` and `--password-stdin`"),
        ),
    }
}

fn ask(question: &str) -> Result<String> {
    let what = || "cannot ask on the terminal";
    let mut terminal = terminal()?;
    terminal.write_all(question.as_bytes()).or_say(what)?;
    let mut line = String::new();
    BufReader::new(terminal.take(MAX_PASSWORD))
        .read_line(&mut line)
        .or_say(what)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

fn ask_secretly(question: &str) -> Result<Secret> {
    let what = || "cannot ask on the terminal";
    let silence = Silence::start(terminal()?)?;
    let mut terminal = &silence.terminal;
    terminal.write_all(question.as_bytes()).or_say(what)?;
    let mut line = String::new();
    let read = BufReader::new(terminal.take(MAX_PASSWORD)).read_line(&mut line);
    let line = Secret::new(line);
    read.or_say(what)?;
    terminal.write_all(b"\n").or_say(what)?;
    checked(line)
}

/// A terminal that shows nothing of what is typed, until this goes.
struct Silence {
    terminal: File,
    before: Termios,
}

impl Silence {
    fn start(terminal: File) -> Result<Silence> {
        let what = || "cannot turn off the terminal's echo";
        let before = tcgetattr(&terminal).or_say(what)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        give_back_on_signals(&terminal, &before)?;
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent).or_say(what)?;
        Ok(Silence { terminal, before })
    }
}

/// Ctrl-C ends a command that asks; the shell after it wants to see what is typed.
fn give_back_on_signals(terminal: &File, before: &Termios) -> Result<()> {
    let terminal = terminal
        .try_clone()
        .or_say(|| "cannot watch the terminal")?;
    let before: nix::libc::termios = before.clone().into();
    interrupt::before_ending(move || {
        let _ = tcsetattr(&terminal, SetArg::TCSAFLUSH, &before.into());
    });
    Ok(())
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that went away needs no echo.
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}
