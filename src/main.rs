//! argv → `cli::run` → error text → exit code.

use carrack::error::Error;
use carrack::handover;
use carrack::sys::memory::Memory;
use std::process::ExitCode;

#[global_allocator]
static MEMORY: Memory = Memory::new();

fn main() -> ExitCode {
    MEMORY.get_pages();
    let handed_over = std::env::var_os(handover::VARIABLE);
    let result = match handover::arguments(std::env::args_os().collect(), handed_over) {
        Some(arguments) => carrack::cli::run(arguments),
        None => Err(Error::new(format!(
            "`{}` is not what the plugin writes",
            handover::VARIABLE
        ))
        .hint("unset it; only the SPANK plugin sets this variable")),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            error.print();
            error.exit_code()
        }
    }
}
