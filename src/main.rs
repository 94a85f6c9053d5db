//! argv → `cli::run` → error text → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    match carrack::cli::run(std::env::args_os()) {
        Ok(code) => code,
        Err(error) => {
            error.print();
            error.exit_code()
        }
    }
}
