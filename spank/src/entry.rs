//! The symbols that Slurm looks for. Each is one line into safe code; a panic stops here.

use crate::abi::{self, Handle, Real, SLURM_VERSION_NUMBER};
use crate::client;
use crate::host::{Place, Spank};
use crate::options::{Asked, Given};
use crate::stepd;
use crate::task::{self, Settings};
use carrack::launch::slurm_options::slurm_options;
use std::ffi::{c_char, c_int, c_uint};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

#[unsafe(no_mangle)]
pub static plugin_name: [u8; 8] = *b"carrack\0";
#[unsafe(no_mangle)]
pub static plugin_type: [u8; 6] = *b"spank\0";
#[unsafe(no_mangle)]
pub static plugin_version: c_uint = SLURM_VERSION_NUMBER;
#[unsafe(no_mangle)]
pub static spank_plugin_version: c_uint = 1;

/// The values that Slurm reported through the callback; inherited by the tasks that slurmstepd forks.
static GIVEN: Mutex<Given> = Mutex::new(Given::new());

/// What the step asks for: read before the tasks are forked, which inherit it.
static ASKED: OnceLock<Asked> = OnceLock::new();

fn asked(spank: &dyn Spank, given: &Given) -> &'static Asked {
    ASKED.get_or_init(|| stepd::asked(spank, given))
}

/// A step that asks for nothing, for whose tasks nothing is done.
fn bare() -> bool {
    matches!(ASKED.get(), Some(Ok(None)))
}

/// Where the kernel mounted the image, from this process's life as root to its life as the user.
static MOUNTED: Mutex<String> = Mutex::new(String::new());

/// Runs safe code for Slurm: an error is one line and -1, a panic too.
fn guard(handle: Handle, what: impl FnOnce(&mut Real, &Given) -> Result<(), String>) -> c_int {
    let run = || {
        let mut spank = Real::new(handle, option);
        let given = match GIVEN.lock() {
            Ok(given) => given.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        };
        match what(&mut spank, &given) {
            Ok(()) => 0,
            Err(error) => {
                spank.error(&error);
                -1
            }
        }
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            Real::new(handle, option).error("internal error; the container was not entered")
        }));
        -1
    })
}

/// The arguments of the plugstack.conf line.
fn settings(count: c_int, arguments: *const *const c_char) -> Result<Settings, String> {
    let count = usize::try_from(count).unwrap_or(0);
    let texts: Vec<String> = (0..count)
        .filter_map(|at| {
            // SAFETY: Slurm passes `count` NUL-terminated strings.
            unsafe { abi::text(*arguments.add(at)) }
        })
        .collect();
    Settings::parse(texts.iter().map(String::as_str))
}

extern "C" fn option(index: c_int, value: *const c_char, _remote: c_int) -> c_int {
    let run = || {
        // SAFETY: null for options without a value, otherwise a NUL-terminated string.
        let text = unsafe { abi::text(value) }.unwrap_or_default();
        let Some(index) = usize::try_from(index)
            .ok()
            .filter(|index| *index < slurm_options().len())
        else {
            return -1;
        };
        match GIVEN.lock() {
            Ok(mut given) => given.insert(index, text),
            Err(poisoned) => poisoned.into_inner().insert(index, text),
        };
        0
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(-1)
}

/// srun, sbatch, salloc and slurmstepd, as they start.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_init(
    handle: Handle,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    guard(handle, |spank, _| {
        settings(count, arguments)?;
        if spank.place() == Place::Other {
            return Ok(());
        }
        slurm_options()
            .iter()
            .enumerate()
            .try_for_each(|(index, definition)| spank.register(index, definition))
    })
}

/// srun, sbatch and salloc, when the options are known.
///
/// A failure ends the program here: for an `optional` plugin Slurm would only note it, and submit.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_init_post_opt(
    handle: Handle,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let code = guard(handle, |spank, given| {
        let settings = settings(count, arguments)?;
        client::post_options(spank, given, &|words| resolve(&settings.launcher, words))
    });
    end_client(handle, code)
}

/// srun, when the command is about to be sent to the nodes.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_local_user_init(
    handle: Handle,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let code = guard(handle, |spank, given| {
        let settings = settings(count, arguments)?;
        let program: Vec<String> = std::env::args_os()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        client::guard_command(spank, given, &program, &settings.launcher)
    });
    end_client(handle, code)
}

fn end_client(handle: Handle, code: c_int) -> c_int {
    let client = || {
        matches!(
            Real::new(handle, option).place(),
            Place::Srun | Place::Allocator
        )
    };
    if code != 0 && catch_unwind(AssertUnwindSafe(client)).unwrap_or(false) {
        std::process::exit(1);
    }
    code
}

/// slurmstepd, before it forks the tasks.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_user_init(
    handle: Handle,
    _count: c_int,
    _arguments: *const *const c_char,
) -> c_int {
    guard(handle, |spank, given| {
        let asked = asked(spank, given);
        stepd::before_tasks(spank, asked);
        Ok(())
    })
}

/// slurmstepd's child, once per task, still as root.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_task_init_privileged(
    handle: Handle,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    if bare() {
        return 0;
    }
    let code = guard(handle, |spank, given| {
        let asked = asked(spank, given);
        let mounted = stepd::task_privileged(spank, asked, &settings(count, arguments)?)?;
        if let (Ok(mut place), Some(path)) = (MOUNTED.lock(), mounted) {
            *place = path;
        }
        Ok(())
    });
    end_task(code)
}

/// slurmstepd, after each task.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_task_exit(
    handle: Handle,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    static ENDED: AtomicU32 = AtomicU32::new(0);
    if bare() {
        return 0;
    }
    guard(handle, |spank, given| {
        let ended = ENDED.fetch_add(1, Ordering::Relaxed) + 1;
        let asked = asked(spank, given);
        stepd::task_exit(spank, asked, &settings(count, arguments)?, ended)
    })
}

/// After the job, on each of its nodes.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_job_epilog(
    handle: Handle,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    guard(handle, |spank, _| {
        stepd::job_epilog(spank, &settings(count, arguments)?)
    })
}

/// slurmstepd's child, once per task.
///
/// A failure ends the process here: for an `optional` plugin Slurm would only note it, and execute the command on the host.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_task_init(
    handle: Handle,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    if bare() {
        return 0;
    }
    let code = guard(handle, |spank, given| {
        let mounted = MOUNTED.lock().map(|path| path.clone()).unwrap_or_default();
        let mounted = Some(mounted.as_str()).filter(|path| !path.is_empty());
        let asked = asked(spank, given);
        task::init(spank, asked, &settings(count, arguments)?, mounted)
    });
    end_task(code)
}

fn end_task(code: c_int) -> c_int {
    if code != 0 {
        abi::end_task();
    }
    code
}

/// Lets the launcher check the request and fix the image; progress and errors go to the user's stderr.
fn resolve(launcher: &str, words: &[String]) -> Result<Option<String>, String> {
    let output = Command::new(launcher)
        .args(["exec", "--pin"])
        .args(words)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| {
            format!("cannot run `{launcher}`: {error}; see `launcher=` in plugstack.conf")
        })?;
    if !output.status.success() {
        return Err("the container is not ready to run; nothing was submitted".to_string());
    }
    match String::from_utf8_lossy(&output.stdout).trim() {
        "" => Ok(None),
        digest if digest.starts_with("sha256:") => Ok(Some(digest.to_string())),
        other => Err(format!(
            "`{launcher}` answered `{other}` instead of a digest"
        )),
    }
}
