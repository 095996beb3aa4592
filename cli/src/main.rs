//! The one binary of Folkmoot: `serve` runs a member, all other commands talk to members.
//!
//! Prints for people by default and for scripts with `-w json`. Refuses: anything that is protocol
//! logic; that is the server's, or the client library's. Answers go to standard output, everything
//! else to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::failure::{Failure, Result};

mod args;
mod child;
mod client;
mod commands;
mod diff;
mod failure;
mod interval;
mod output;
mod serve;
mod signals;
mod txn_text;
mod wire;

/// Many small allocations of many sizes on several threads: mimalloc is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message().is_empty() {
                // Nobody is left to tell when standard error is gone.
                let _ = writeln!(io::stderr(), "Error: {}", failure.message());
            }
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let printer = cli.printer();
    match cli.command {
        Command::Serve(args) => {
            // The allocator reserves memory in large pieces and touches little of each; as huge
            // pages they would all be resident. Where this is not possible, memory is all it costs.
            #[cfg(target_os = "linux")]
            let _ = rustix::thread::disable_transparent_huge_pages(true);
            args.run()
        }
        Command::Completion(args) => args.run::<Cli>(printer),
        Command::Version(args) => args.run(printer),
        Command::Client(command) => {
            let context = cli.globals.context()?;
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Failure::from)?
                .block_on(command.run(&context))
        }
    }
}
