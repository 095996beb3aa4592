//! Commands that need no member: `completion` and `version`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use folkmoot_server::version::ETCD_VERSION;
use serde_json::json as value;

use crate::failure::Result;
use crate::output::{Printer, plain};

/// Version of the API that is spoken: the first two numbers of the etcd that we stand for.
fn api_version() -> &'static str {
    ETCD_VERSION.rsplit_once('.').map_or(ETCD_VERSION, |(api, _)| api)
}

/// Print a script that teaches a shell our commands
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot completion bash > /etc/bash_completion.d/folkmoot
  source <(folkmoot completion zsh)
  folkmoot completion fish > ~/.config/fish/completions/folkmoot.fish")]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

impl CompletionArgs {
    /// Prints the script for the commands of `C`.
    pub fn run<C: CommandFactory>(self, printer: Printer) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "folkmoot", &mut script);
        let text = String::from_utf8_lossy(&script).into_owned();
        printer.print(|| script, || text.into())
    }
}

/// Print the version
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot version
  folkmoot version -w json
  folkmoot endpoint status                         versions of the members")]
pub struct VersionArgs {}

impl VersionArgs {
    /// Prints the version.
    pub fn run(self, printer: Printer) -> Result<()> {
        let (version, api) = (env!("CARGO_PKG_VERSION"), api_version());
        printer.print(
            || plain::lines([format!("folkmoot version: {version}"), format!("API version: {api}")]),
            || value!({ "version": version, "api": api }),
        )
    }
}
