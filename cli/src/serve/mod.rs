//! `serve`: runs a member in this process.
//!
//! Flags and environment variables become a [`Config`]; everything else is the server's.

use std::env;

use clap::{ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};
use folkmoot_server::config::Config;

use crate::failure::{Failure, Result};

mod settings;

use settings::{Given, SETTINGS};

/// Run a member of a cluster
///
/// Takes the flags and the ETCD_* environment variables of etcd. Logs go to standard error.
pub struct ServeArgs {
    /// Flags in the order of the table, each with its value.
    flags: Vec<(&'static str, String)>,
}

const EXAMPLES: &str = "\
Every flag has an environment variable: --data-dir is ETCD_DATA_DIR.
Giving both is refused.

Examples:
  On 127.0.0.1:2379, with the data in default.folkmoot:
    folkmoot serve
  For clients on other machines:
    folkmoot serve --data-dir /var/lib/folkmoot \\
      --listen-client-urls http://0.0.0.0:2379 \\
      --advertise-client-urls http://10.0.0.5:2379
  At most 8 GiB, one hour of history:
    folkmoot serve --quota-backend-bytes=8589934592 \\
      --auto-compaction-retention=1h
  In a container:
    ETCD_NAME=a ETCD_DATA_DIR=/data folkmoot serve";

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let command = command
            .about("Run a member")
            .long_about(
                "Run a member\n\nTakes the flags and the ETCD_* environment variables of etcd. Logs go to \
                 standard error.",
            )
            .after_help(EXAMPLES);
        SETTINGS.iter().fold(command, |command, setting| command.arg(setting.argument()))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let flags: Vec<_> = SETTINGS
            .iter()
            .filter_map(|setting| Some((setting.flag, matches.get_one::<String>(setting.flag)?.clone())))
            .collect();
        // Values that make no sense are errors of usage, so they are tried out here already.
        let given = Given { flags: flags.clone(), environment: Vec::new() };
        match given.into_config() {
            Ok(_) => Ok(Self { flags }),
            Err(reason) => Err(clap::Error::raw(ErrorKind::ValueValidation, reason)),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl ServeArgs {
    /// Serves until the process is asked to stop.
    pub fn run(self) -> Result<()> {
        let environment = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let given = Given { flags: self.flags, environment };
        let unknown = given.unknown_variables();
        let config = given.into_config().map_err(Failure::new)?;
        serve(config, &unknown)
    }
}

fn serve(config: Config, unknown_variables: &[String]) -> Result<()> {
    folkmoot_server::observe::log::init(config.log_level, config.log_format);
    for name in unknown_variables {
        tracing::warn!(environment_variable = name, "unrecognized environment variable");
    }
    folkmoot_server::run(config).map_err(|error| Failure::new(error.to_string()))
}
