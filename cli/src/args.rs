//! The command line as a whole: the flags of every command and the list of commands.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use folkmoot_server::config::{parse_bool, parse_duration};

use crate::client::{ConnectOptions, TlsOptions, split_endpoints};
use crate::commands::local::{CompletionArgs, VersionArgs};
use crate::commands::{ClientCommand, Context};
use crate::failure::{Failure, Result};
use crate::output::{Format, Printer};
use crate::serve::ServeArgs;

/// Where members are if nobody says so.
const ENDPOINT_DEFAULT: &str = "127.0.0.1:2379";
/// Beginnings of the variables that say what a flag does not; the first that is set counts.
const VARIABLE_PREFIXES: [&str; 2] = ["FOLKMOOT_", "ETCDCTL_"];

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
    /// What every command can be told.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that can be done.
#[derive(Subcommand)]
pub enum Command {
    Serve(ServeArgs),
    #[command(flatten)]
    Client(Box<ClientCommand>),
    Completion(CompletionArgs),
    Version(VersionArgs),
}

/// What every command can be told.
#[derive(Args)]
#[command(next_help_heading = "Client options")]
pub struct Globals {
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
    /// Encrypt, and trust the authorities in this PEM file and no others [env: FOLKMOOT_CACERT,
    /// ETCDCTL_CACERT]
    #[arg(long, global = true, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Encrypt, and show this certificate (PEM) to the members; with --key [env: FOLKMOOT_CERT,
    /// ETCDCTL_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The key (PEM) of --cert [env: FOLKMOOT_KEY, ETCDCTL_KEY]
    #[arg(id = "key_file", long = "key", global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Where it is encrypted, trust anybody: whoever is in the middle can read everything and change it. For
    /// tests [env: FOLKMOOT_INSECURE_SKIP_TLS_VERIFY, ETCDCTL_INSECURE_SKIP_TLS_VERIFY]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = truth)]
    insecure_skip_tls_verify: Option<bool>,
    /// With =false, encrypt also where no file and no https:// asks for it [env: FOLKMOOT_INSECURE_TRANSPORT,
    /// ETCDCTL_INSECURE_TRANSPORT]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", value_parser = truth)]
    insecure_transport: Option<bool>,
    /// Log in with this name [env: FOLKMOOT_USER, ETCDCTL_USER]
    #[arg(long, global = true, value_name = "NAME[:PASSWORD]")]
    user: Option<String>,
    /// The password of --user [env: FOLKMOOT_PASSWORD, ETCDCTL_PASSWORD]
    #[arg(long, global = true, value_name = "PASSWORD")]
    password: Option<String>,
}

/// Reads a duration that is longer than nothing.
pub fn duration(text: &str) -> std::result::Result<Duration, String> {
    match parse_duration(text) {
        Some(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("it is a duration such as 500ms, 10s or 1h30m".into()),
    }
}

/// Reads a truth value in the forms that etcdctl takes.
fn truth(text: &str) -> std::result::Result<bool, String> {
    parse_bool(text).ok_or_else(|| "it is true or false".into())
}

impl Cli {
    /// Where answers go, for commands that need no member.
    pub fn printer(&self) -> Printer {
        Printer::new(self.globals.write_out)
    }
}

impl Globals {
    /// What commands work with that speak to members.
    ///
    /// # Errors
    /// Fails if flags and variables do not go together.
    pub fn context(&self) -> Result<Context> {
        Ok(Context { connect: self.connect(from_environment)?, printer: Printer::new(self.write_out) })
    }

    fn connect(&self, variable: impl Fn(&str) -> Option<String>) -> Result<ConnectOptions> {
        let or_variable = |given: &Option<String>, name| given.clone().or_else(|| variable(name));
        let file =
            |given: &Option<PathBuf>, name| given.clone().or_else(|| variable(name).map(PathBuf::from));
        let said = |name: &str| variable(name).filter(|text| !text.is_empty());
        let flag = |given: Option<bool>, name: &str| match (given, said(name)) {
            (Some(given), _) => Ok(Some(given)),
            (None, Some(text)) => truth(&text).map(Some).map_err(|reason| {
                Failure::usage(format!("a variable makes no sense: {reason} {name}={text:?}"))
            }),
            (None, None) => Ok(None),
        };
        let endpoints = endpoints(or_variable(&self.endpoints, "ENDPOINTS"));
        let skip_verify = flag(self.insecure_skip_tls_verify, "INSECURE_SKIP_TLS_VERIFY")? == Some(true);
        let may_be_plain = flag(self.insecure_transport, "INSECURE_TRANSPORT")? != Some(false);
        // As with etcdctl, a flag that only says what not to check does not encrypt by itself.
        let is_encrypted =
            !may_be_plain || skip_verify && endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        Ok(ConnectOptions {
            endpoints,
            dial_timeout: self.dial_timeout,
            command_timeout: self.command_timeout,
            tls: tls_options(
                file(&self.cacert, "CACERT"),
                file(&self.cert, "CERT"),
                file(&self.key_file, "KEY"),
                skip_verify,
                is_encrypted,
            )?,
            credentials: credentials(
                or_variable(&self.user, "USER"),
                or_variable(&self.password, "PASSWORD"),
            )?,
        })
    }
}

fn from_environment(name: &str) -> Option<String> {
    VARIABLE_PREFIXES.iter().find_map(|prefix| env::var(format!("{prefix}{name}")).ok())
}

fn tls_options(
    authorities: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    skip_verify: bool,
    is_encrypted: bool,
) -> Result<Option<TlsOptions>> {
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(Failure::usage("--cert needs --key, the key of the certificate")),
        (None, Some(_)) => return Err(Failure::usage("--key needs --cert, the certificate of the key")),
    };
    let is_wanted = is_encrypted || authorities.is_some() || identity.is_some();
    Ok(is_wanted.then_some(TlsOptions { authorities, identity, skip_verify }))
}

fn credentials(user: Option<String>, password: Option<String>) -> Result<Option<(String, String)>> {
    match (user, password) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Failure::usage("--password needs --user")),
        (Some(name), Some(password)) => Ok(Some((name, password))),
        (Some(user), None) => match user.split_once(':') {
            Some((name, password)) => Ok(Some((name.to_owned(), password.to_owned()))),
            None => Err(Failure::usage(format!(
                "a user needs a password: --user {user}:PASSWORD, --password or ETCDCTL_PASSWORD"
            ))),
        },
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
            let connect = accepted(line).globals.connect(|_| None).expect("makes sense");
            assert_eq!(connect.endpoints, ["a:1"]);
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
        for command in ["lock l", "elect e v", "registry register s a:1"] {
            for ttl in ["0", "-1", "86401", "ten"] {
                let line = format!("folkmoot {command} --ttl={ttl}");
                assert_eq!(refusal(&line), ErrorKind::ValueValidation, "{line}");
            }
            assert_eq!(refusal(&format!("folkmoot {command} --kill-after 0s")), ErrorKind::ValueValidation);
        }
        assert_eq!(refusal("folkmoot lock --try --timeout 1s l"), ErrorKind::ArgumentConflict);
        assert_eq!(refusal("folkmoot elect -l e -- true"), ErrorKind::ArgumentConflict);
        assert_eq!(refusal("folkmoot registry register s a:1 --attr colour"), ErrorKind::ValueValidation);
        assert_eq!(refusal("folkmoot registry register s a:1 --port http"), ErrorKind::ValueValidation);
        assert_eq!(refusal("folkmoot config set n p v --file f"), ErrorKind::ArgumentConflict);
        assert_eq!(refusal("folkmoot config set n p v --rev 3 --force"), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn encryption_needs_both_files_of_an_identity() {
        let tls = |line: &str| accepted(line).globals.connect(|_| None).map(|connect| connect.tls);
        assert_eq!(tls("folkmoot get k"), Ok(None));
        let files = TlsOptions {
            authorities: Some("ca.pem".into()),
            identity: Some(("me.pem".into(), "me.key".into())),
            skip_verify: false,
        };
        assert_eq!(tls("folkmoot get k --cacert ca.pem --cert me.pem --key me.key"), Ok(Some(files)));
        assert!(tls("folkmoot get k --cert me.pem").expect_err("has no key").is_usage());
        assert!(tls("folkmoot get k --key me.key").expect_err("has no certificate").is_usage());
    }

    #[test]
    fn verification_is_skipped_only_where_something_else_encrypts() {
        let tls = |line: &str, variable: Option<&str>| {
            let variable =
                |name: &str| variable.filter(|_| name == "INSECURE_SKIP_TLS_VERIFY").map(str::to_owned);
            accepted(&format!("folkmoot get k {line}")).globals.connect(variable).map(|connect| connect.tls)
        };
        let skipping = || Ok(Some(TlsOptions { skip_verify: true, ..TlsOptions::default() }));
        assert_eq!(tls("--insecure-skip-tls-verify --endpoints https://a:1", None), skipping());
        assert_eq!(tls("--endpoints https://a:1", Some("true")), skipping());
        assert_eq!(tls("--insecure-skip-tls-verify --insecure-transport=false", None), skipping());
        assert_eq!(tls("--insecure-skip-tls-verify --endpoints a:1", None), Ok(None));
        assert_eq!(tls("--insecure-skip-tls-verify=false --endpoints https://a:1", Some("true")), Ok(None));
        assert_eq!(tls("--insecure-transport", None), Ok(None));
        assert_eq!(tls("--insecure-transport=false", None), Ok(Some(TlsOptions::default())));
        assert_eq!(tls("--endpoints https://a:1", Some("")), Ok(None));
        assert!(tls("", Some("perhaps")).expect_err("is no truth value").is_usage());
        assert_eq!(refusal("folkmoot get k --insecure-transport=perhaps"), ErrorKind::ValueValidation);
    }

    #[test]
    fn a_password_comes_from_a_flag_a_name_or_a_variable() {
        let log_in = |line: &str, variable: Option<&str>| {
            let variable = |name: &str| variable.filter(|_| name == "PASSWORD").map(str::to_owned);
            accepted(line).globals.connect(variable).map(|connect| connect.credentials)
        };
        let kim = || Ok(Some(("kim".to_owned(), "a:b".to_owned())));
        assert_eq!(log_in("folkmoot get k --user kim:a:b", None), kim());
        assert_eq!(log_in("folkmoot get k --user kim --password a:b", None), kim());
        assert_eq!(log_in("folkmoot get k --user kim", Some("a:b")), kim());
        assert!(log_in("folkmoot get k --user kim", None).expect_err("has no password").is_usage());
        assert!(log_in("folkmoot get k --password x", None).expect_err("has no name").is_usage());
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
