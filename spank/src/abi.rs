//! The SPANK interface by hand: the symbols and constants of `<slurm/spank.h>` that we use, nothing else.
//!
//! Declared here instead of generated, so that the plugin builds with no Slurm installed. The symbols stay undefined in
//! the shared object: the program that loads it (srun, slurmstepd, …) has them. Calls that only newer releases have are
//! looked up at run time.

use crate::host::{Place, Spank, Step};
use crate::kernel_mount::{self, Wanted};
use crate::step_end;
use crate::system;
use carrack::launch::slurm_options::SlurmOption;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

/// Opaque: `spank_t`.
pub type Handle = *mut c_void;

/// `struct spank_option`.
#[repr(C)]
pub struct SpankOption {
    name: *const c_char,
    value: *const c_char,
    usage: *const c_char,
    has_value: c_int,
    index: c_int,
    callback: extern "C" fn(c_int, *const c_char, c_int) -> c_int,
}

// enum spank_item
const S_JOB_UID: c_int = 0;
const S_JOB_GID: c_int = 1;
const S_JOB_ID: c_int = 2;
const S_JOB_STEPID: c_int = 3;
const S_JOB_NODEID: c_int = 5;
const S_JOB_LOCAL_TASK_COUNT: c_int = 6;
const S_JOB_ARGV: c_int = 9;
const S_JOB_ENV: c_int = 10;
const S_JOB_SUPPLEMENTARY_GIDS: c_int = 19;
// enum spank_context
const S_CTX_LOCAL: c_int = 1;
const S_CTX_REMOTE: c_int = 2;
const S_CTX_ALLOCATOR: c_int = 3;
const ESPANK_SUCCESS: c_int = 0;
/// From slurm_errno.h; Slurm's calls leave it in errno.
const ESLURM_INVALID_JOB_ID: c_int = 2017;

unsafe extern "C" {
    fn spank_context() -> c_int;
    fn spank_option_register(spank: Handle, option: *mut SpankOption) -> c_int;
    fn spank_get_item(spank: Handle, item: c_int, ...) -> c_int;
    fn spank_setenv(
        spank: Handle,
        name: *const c_char,
        value: *const c_char,
        overwrite: c_int,
    ) -> c_int;
    fn spank_job_control_setenv(
        spank: Handle,
        name: *const c_char,
        value: *const c_char,
        overwrite: c_int,
    ) -> c_int;
    fn spank_strerror(code: c_int) -> *const c_char;
    fn slurm_error(format: *const c_char, ...);
}

/// The release this build is for; see `build.rs`.
pub const SLURM_VERSION_NUMBER: c_uint = number(env!("CARRACK_SLURM_VERSION_NUMBER"));

const fn number(text: &str) -> c_uint {
    let bytes = text.as_bytes();
    let (mut value, mut at) = (0, 0);
    while at < bytes.len() {
        value = value * 10 + (bytes[at] - b'0') as c_uint;
        at += 1;
    }
    value
}

/// A handle that Slurm gave to the callback that runs now.
pub struct Real {
    handle: Handle,
    callback: extern "C" fn(c_int, *const c_char, c_int) -> c_int,
}

impl Real {
    pub fn new(
        handle: Handle,
        callback: extern "C" fn(c_int, *const c_char, c_int) -> c_int,
    ) -> Real {
        Real { handle, callback }
    }
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a text for Slurm contains a NUL byte".to_string())
}

/// A string of Slurm's.
///
/// # Safety
/// Null, or NUL-terminated and alive during the call.
pub unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    Some(
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned(),
    )
}

fn check(code: c_int, what: &str) -> Result<(), String> {
    if code == ESPANK_SUCCESS {
        return Ok(());
    }
    // SAFETY: spank_strerror returns a static string for every code, or null.
    let reason = unsafe { text(spank_strerror(code)) }.unwrap_or_default();
    Err(format!("{what}: {reason} (SPANK error {code})"))
}

/// Ends this process, which is about to become a task, without running what its parent registered for its own end.
pub fn end_task() -> ! {
    // SAFETY: always safe.
    unsafe { libc::_exit(1) }
}

/// A string that Slurm may free with its own allocator, where that can be found; else one that must never be freed.
fn owned_by_slurm(word: CString) -> *mut c_char {
    type Duplicate = extern "C" fn(*const c_char) -> *mut c_char;
    // SAFETY: a lookup by name among the symbols of this process.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"slurm_xstrdup".as_ptr()) };
    if symbol.is_null() {
        return CString::into_raw(word);
    }
    // SAFETY: every release of Slurm declares it so in xstring.h.
    let duplicate: Duplicate = unsafe { std::mem::transmute(symbol) };
    duplicate(word.as_ptr())
}

/// Asks the controller; only its plain word that it knows no such job means that there is none.
fn job_is_gone(job: u32) -> Option<bool> {
    type Load = extern "C" fn(*mut *mut c_void, u32, u16) -> c_int;
    type Free = extern "C" fn(*mut c_void);
    // SAFETY: lookups by name among the symbols of this process.
    let [load, free] = [c"slurm_load_job", c"slurm_free_job_info_msg"]
        .map(|name| unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) });
    if load.is_null() || free.is_null() {
        return None;
    }
    // SAFETY: every release of Slurm declares them so in slurm.h.
    let load: Load = unsafe { std::mem::transmute(load) };
    // SAFETY: likewise.
    let free: Free = unsafe { std::mem::transmute(free) };
    let mut answer = std::ptr::null_mut();
    if load(&raw mut answer, job, 0) == 0 {
        free(answer);
        return Some(false);
    }
    let code = std::io::Error::last_os_error().raw_os_error();
    (code == Some(ESLURM_INVALID_JOB_ID)).then_some(true)
}

impl Spank for Real {
    fn place(&self) -> Place {
        // SAFETY: takes and touches nothing of ours.
        match unsafe { spank_context() } {
            S_CTX_LOCAL => Place::Srun,
            S_CTX_ALLOCATOR => Place::Allocator,
            S_CTX_REMOTE => Place::Stepd,
            _ => Place::Other,
        }
    }

    fn register(&mut self, index: usize, definition: &SlurmOption) -> Result<(), String> {
        // Slurm may keep pointers into the option for the life of the process: leaked once per option.
        let leak = |text: &str| c_string(text).map(|text| CString::into_raw(text).cast_const());
        let option = Box::leak(Box::new(SpankOption {
            name: leak(definition.name)?,
            value: match definition.value {
                Some(value) => leak(value)?,
                None => std::ptr::null(),
            },
            usage: leak(&format!("[carrack] {}", definition.help()))?,
            has_value: definition.value.is_some().into(),
            index: index as c_int,
            callback: self.callback,
        }));
        // SAFETY: the handle is Slurm's and valid during this callback; the option lives for ever.
        check(
            unsafe { spank_option_register(self.handle, option) },
            &format!("cannot register --{}", definition.name),
        )
    }

    fn variable(&self, name: &str) -> Option<String> {
        if self.place() != Place::Stepd {
            return std::env::var(name).ok();
        }
        // Read where it lies: each task asks for a score of names.
        let value = |variable: &CStr| {
            let rest = variable.to_bytes().strip_prefix(name.as_bytes())?;
            Some(String::from_utf8_lossy(rest.strip_prefix(b"=")?).into_owned())
        };
        self.variables().find_map(value)
    }

    fn set_variable(&mut self, name: &str, value: &str) -> Result<(), String> {
        let (name, value) = (c_string(name)?, c_string(value)?);
        if self.place() == Place::Stepd {
            // SAFETY: valid handle, NUL-terminated strings that Slurm copies.
            return check(
                unsafe { spank_setenv(self.handle, name.as_ptr(), value.as_ptr(), 1) },
                "cannot set a variable of the task",
            );
        }
        // SAFETY: the plugin's callbacks run in the main thread of srun, sbatch or salloc before they start their own.
        match unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) } {
            0 => Ok(()),
            _ => Err(format!(
                "cannot set a variable: {}",
                std::io::Error::last_os_error()
            )),
        }
    }

    fn set_job_variable(&mut self, name: &str, value: &str) -> Result<(), String> {
        let (name, value) = (c_string(name)?, c_string(value)?);
        // SAFETY: valid handle, NUL-terminated strings that Slurm copies.
        check(
            unsafe { spank_job_control_setenv(self.handle, name.as_ptr(), value.as_ptr(), 1) },
            "cannot set a variable of the job",
        )
    }

    fn step_id(&self) -> Option<u32> {
        self.number(S_JOB_STEPID)
    }

    fn step(&self) -> Option<Step> {
        Some(Step {
            job: self.number(S_JOB_ID)?,
            uid: self.number(S_JOB_UID)?,
            // The epilog knows only job and user.
            gid: self.number(S_JOB_GID).unwrap_or_default(),
            step: self.number(S_JOB_STEPID).unwrap_or_default(),
            node: self.number(S_JOB_NODEID).unwrap_or_default(),
            tasks_here: self.number(S_JOB_LOCAL_TASK_COUNT).unwrap_or_default(),
        })
    }

    fn environment(&self) -> Vec<CString> {
        self.variables().map(CStr::to_owned).collect()
    }

    fn own_directory(&mut self, parent: &str, name: &str, step: &Step) -> Result<(), String> {
        system::own_directory(parent, name, step)
    }

    fn remove_directory(&mut self, path: &str) -> Result<(), String> {
        system::remove_directory(path)
    }

    fn names_in(&self, directory: &str) -> Vec<String> {
        system::names_in(directory)
    }

    fn jobs_here(&self) -> Vec<u32> {
        system::jobs_here()
    }

    fn job_is_gone(&self, job: u32) -> Option<bool> {
        job_is_gone(job)
    }

    fn mount_image(
        &mut self,
        store: &str,
        digest: &str,
        job: &str,
        launcher: &str,
        step: &Step,
    ) -> Result<Option<String>, String> {
        let wanted = Wanted {
            store,
            digest,
            job,
            launcher,
        };
        kernel_mount::mount(&wanted, step, &self.groups())
    }

    fn run_as_user(&mut self, step: &Step, words: &[String]) -> Result<(), String> {
        system::run_as_user(step, &self.groups(), &self.environment(), words)
    }

    fn open_step_end(&mut self) {
        step_end::open();
    }

    fn step_end(&mut self) -> Option<i32> {
        step_end::inherited()
    }

    fn tell_step_end(&mut self) {
        step_end::tell();
    }

    fn command(&self) -> Vec<CString> {
        let Some((count, argv)) = self.argv() else {
            return Vec::new();
        };
        (0..count)
            .map(|at| {
                // SAFETY: `argv` holds `count` NUL-terminated strings that live as long as the task.
                unsafe { CStr::from_ptr(*argv.add(at)) }.to_owned()
            })
            .collect()
    }

    fn prepend(&mut self, words: &[CString]) -> Option<Result<(), String>> {
        type Prepend = extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
        // SAFETY: a lookup by name among the symbols of this process.
        let symbol =
            unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"spank_prepend_task_argv".as_ptr()) };
        if symbol.is_null() {
            return None;
        }
        // SAFETY: Slurm 23.11 and later declare it so in spank.h.
        let prepend: Prepend = unsafe { std::mem::transmute(symbol) };
        let pointers: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
        Some(check(
            prepend(self.handle, pointers.len() as c_int, pointers.as_ptr()),
            "cannot put the launcher in front of the command",
        ))
    }

    fn replace_word(&mut self, at: usize, word: CString) -> Result<(), String> {
        let (count, argv) = self
            .argv()
            .ok_or("Slurm does not tell the command of this task")?;
        if at >= count {
            return Err("the command of this task is too short".to_string());
        }
        // SAFETY: S_JOB_ARGV gives the array that srun sends and that slurmstepd before 23.11 executes, which the main
        // thread (or this forked child) alone uses; the old word stays with its owner.
        unsafe { *argv.add(at) = owned_by_slurm(word) };
        Ok(())
    }

    fn error(&self, text: &str) {
        if let Ok(text) = CString::new(text.replace('\0', "?")) {
            // SAFETY: a constant format with one string.
            unsafe { slurm_error(c"carrack: %s".as_ptr(), text.as_ptr()) };
        }
    }
}

impl Real {
    /// An item that is one uint32_t, uid_t or gid_t.
    fn number(&self, item: c_int) -> Option<u32> {
        let mut value = 0u32;
        // SAFETY: the items that are asked for here store 32 bits.
        let code = unsafe { spank_get_item(self.handle, item, &raw mut value) };
        (code == ESPANK_SUCCESS).then_some(value)
    }

    /// The job's environment as slurmstepd holds it now.
    fn variables(&self) -> impl Iterator<Item = &CStr> {
        let mut list = std::ptr::null_mut::<*mut c_char>();
        // SAFETY: S_JOB_ENV stores a char**, an array that ends with null.
        let code = unsafe { spank_get_item(self.handle, S_JOB_ENV, &raw mut list) };
        let mut at = 0;
        std::iter::from_fn(move || {
            if code != ESPANK_SUCCESS || list.is_null() {
                return None;
            }
            // SAFETY: the array ends with null, which is not passed; nobody changes it while a callback runs, but the
            // callback itself, for which this borrows the handle.
            let variable = unsafe { *list.add(at) };
            if variable.is_null() {
                return None;
            }
            at += 1;
            // SAFETY: a NUL-terminated string of the job's environment.
            Some(unsafe { CStr::from_ptr(variable) })
        })
    }

    /// The user's supplementary groups.
    fn groups(&self) -> Vec<u32> {
        let (mut list, mut count) = (std::ptr::null_mut::<u32>(), 0 as c_int);
        // SAFETY: S_JOB_SUPPLEMENTARY_GIDS stores a gid_t* and an int.
        let code = unsafe {
            spank_get_item(
                self.handle,
                S_JOB_SUPPLEMENTARY_GIDS,
                &raw mut list,
                &raw mut count,
            )
        };
        if code != ESPANK_SUCCESS || list.is_null() {
            return Vec::new();
        }
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: Slurm's array has `count` entries and lives as long as the step.
        unsafe { std::slice::from_raw_parts(list, count) }.to_vec()
    }

    fn argv(&self) -> Option<(usize, *mut *mut c_char)> {
        let (mut count, mut argv) = (0 as c_int, std::ptr::null_mut::<*mut c_char>());
        // SAFETY: S_JOB_ARGV stores an int and a char**.
        let code =
            unsafe { spank_get_item(self.handle, S_JOB_ARGV, &raw mut count, &raw mut argv) };
        (code == ESPANK_SUCCESS && !argv.is_null())
            .then(|| Some((usize::try_from(count).ok()?, argv)))?
    }
}
