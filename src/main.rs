//! argv → `cli::run` → error text → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The helper on the node is this binary too: `launch::helper(args)` goes here, before the command line is parsed.
    match carrack::cli::run(std::env::args_os()) {
        Ok(code) => code,
        Err(error) => {
            error.print();
            error.exit_code()
        }
    }
}
