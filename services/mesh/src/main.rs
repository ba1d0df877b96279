//! The program `mesh`.

use std::process::ExitCode;

use mesh::engine::{GUARD_WORDS, guard_main};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let words = [arguments.next(), arguments.next()];
    // Before anything else: the guard must not start a runtime or read a configuration.
    if words.iter().flatten().eq(GUARD_WORDS.iter()) {
        return guard_main(arguments);
    }
    mesh::cli::main(std::env::args_os().collect())
}
