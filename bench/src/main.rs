//! `folkmoot-bench`: a load generator for etcd v3 servers, and a runner that sets Folkmoot and
//! a real etcd side by side on one machine.
//!
//! It measures through the public gRPC API and `/proc` only, the same way for every server, and
//! refuses to know anything else about them. It is a tool: nothing here is for import.

// Printing is what this program is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod cluster;
mod compare;
mod load;
mod pace;
mod payload;
mod procfs;
mod report;
mod scenario;
mod stats;
mod wire;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command, RunArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Dropping the work ends the servers that it runs and removes their directories.
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = command(cli.command) => ended,
            error = interrupted() => Err(error),
        }
    });
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn command(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Run(args) => run(&args).await,
        Command::Compare(args) => compare::compare(&args).await.map_err(|error| error.to_string()),
        Command::Leases(args) => scenario::leases::leases(&args).await,
        Command::CatchUp(args) => scenario::catch_up::catch_up(&args).await,
    }
}

/// Waits for a signal to end.
async fn interrupted() -> String {
    let wait = async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        Ok::<_, std::io::Error>("interrupted".to_owned())
    };
    wait.await.unwrap_or_else(|error| format!("cannot wait for signals: {error}"))
}

async fn run(args: &RunArgs) -> Result<ExitCode, String> {
    let report = load::run(&args.spec()).await.map_err(|error| error.to_string())?;
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if !to_stdout {
        print!("{}", report.table());
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        if to_stdout {
            println!("{json}");
        } else {
            std::fs::write(path, json + "\n")
                .map_err(|error| format!("cannot write: {error} path={}", path.display()))?;
        }
    }
    // A run with failures has measured something else than was asked.
    Ok(if report.errors + report.unfinished == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
