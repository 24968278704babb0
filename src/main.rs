//! The `ripstop` command.

use std::process::ExitCode;

/// Sessions allocate and free many small buffers on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ripstop::cli::main()
}
