//! The command line as a whole: the flags of every command and the list of commands.

use std::env;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use folkmoot_server::config::parse_duration;

use crate::client::{ConnectOptions, split_endpoints};
use crate::commands::local::{CompletionArgs, VersionArgs};
use crate::commands::{ClientCommand, Context};
use crate::output::{Format, Printer};
use crate::serve::ServeArgs;

/// Where members are if nobody says so.
const ENDPOINT_DEFAULT: &str = "127.0.0.1:2379";
/// Say so; the first that is set counts.
const ENDPOINT_VARIABLES: [&str; 2] = ["FOLKMOOT_ENDPOINTS", "ETCDCTL_ENDPOINTS"];

/// A key-value and coordination store that speaks the etcd v3 API: server and client
#[derive(Parser)]
#[command(
    name = "folkmoot",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  folkmoot serve                                   a member on 127.0.0.1:2379
  folkmoot put config/version 42                   from another shell
  folkmoot get config/ --prefix
  folkmoot lock deploy ./deploy.sh                 runs while nobody else can

Every command explains itself by examples: folkmoot get --help
Exit codes: 0 done; 1 failed, with a line on standard error; 2 wrong usage."
)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that can be done.
#[derive(Subcommand)]
pub enum Command {
    Serve(ServeArgs),
    #[command(flatten)]
    Client(ClientCommand),
    Completion(CompletionArgs),
    Version(VersionArgs),
}

#[derive(Args)]
#[command(next_help_heading = "Client options")]
struct Globals {
    /// Members to talk to, tried in turn [default: 127.0.0.1:2379] [env: FOLKMOOT_ENDPOINTS,
    /// ETCDCTL_ENDPOINTS]
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    endpoints: Option<String>,
    /// Form of the answers: for people, or one JSON document per answer for scripts
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "simple")]
    write_out: Format,
    /// How long to wait for an answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    command_timeout: Duration,
    /// How long to wait for a connection
    #[arg(long, global = true, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    dial_timeout: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Some(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("it is a duration such as 500ms, 10s or 1h30m".into()),
    }
}

impl Cli {
    /// Where answers go, for commands that need no member.
    pub fn printer(&self) -> Printer {
        Printer::new(self.globals.write_out)
    }

    /// What commands work with that speak to members.
    pub fn context(&self) -> Context {
        let from_environment = || ENDPOINT_VARIABLES.iter().find_map(|name| env::var(name).ok());
        Context {
            connect: ConnectOptions {
                endpoints: endpoints(self.globals.endpoints.clone().or_else(from_environment)),
                dial_timeout: self.globals.dial_timeout,
                command_timeout: self.globals.command_timeout,
            },
            printer: self.printer(),
        }
    }
}

fn endpoints(given: Option<String>) -> Vec<String> {
    match split_endpoints(&given.unwrap_or_default()) {
        none if none.is_empty() => vec![ENDPOINT_DEFAULT.to_owned()],
        endpoints => endpoints,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn refusal(line: &str) -> ErrorKind {
        let words = line.split_whitespace();
        Cli::try_parse_from(words).err().unwrap_or_else(|| panic!("{line}")).kind()
    }

    fn accepted(line: &str) -> Cli {
        Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn the_flags_of_all_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:") || command.has_subcommands(), "{}", command.get_name());
            let wide: Vec<_> = help.lines().filter(|line| line.len() >= 80).collect();
            assert!(wide.is_empty(), "lines are wider than a terminal: {wide:#?}");
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn the_default_endpoint_is_used_when_none_is_given() {
        assert_eq!(endpoints(None), [ENDPOINT_DEFAULT]);
        assert_eq!(endpoints(Some(String::new())), [ENDPOINT_DEFAULT]);
        assert_eq!(endpoints(Some("a:1,b:2".into())), ["a:1", "b:2"]);
    }

    #[test]
    fn client_flags_stand_before_or_after_the_command() {
        for line in
            ["folkmoot -w json --endpoints a:1 get k", "folkmoot get k --endpoints=a:1 --write-out=json"]
        {
            let context = accepted(line).context();
            assert_eq!(context.connect.endpoints, ["a:1"]);
        }
    }

    #[test]
    fn serve_takes_flags_with_a_blank_or_an_equals_sign() {
        accepted("folkmoot serve --name a --data-dir=/d --quota-backend-bytes -1 --quota-backend-bytes=-1");
        accepted("folkmoot serve --name a --name b");
        accepted("folkmoot serve --unsafe-no-fsync --name a");
        accepted("folkmoot serve --unsafe-no-fsync=false");
    }

    #[test]
    fn values_that_make_no_sense_are_errors_of_usage() {
        assert_eq!(refusal("folkmoot serve --max-txn-ops x"), ErrorKind::ValueValidation);
        assert_eq!(refusal("folkmoot serve --frob"), ErrorKind::UnknownArgument);
        assert_eq!(refusal("folkmoot get k --command-timeout 5"), ErrorKind::ValueValidation);
        assert_eq!(refusal("folkmoot get a --prefix --from-key"), ErrorKind::ArgumentConflict);
        assert_eq!(refusal("folkmoot elect e"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refusal("folkmoot put k v --lease xyz"), ErrorKind::ValueValidation);
    }

    #[test]
    fn sort_names_are_taken_in_any_case() {
        accepted("folkmoot get k --sort-by CREATE --order DESCEND");
        accepted("folkmoot get k --sort-by modify --order ascend");
    }

    #[test]
    fn a_locked_command_keeps_its_own_flags() {
        accepted("folkmoot lock deploy ls -l --all");
        accepted("folkmoot lock deploy -- ls -l");
    }
}
