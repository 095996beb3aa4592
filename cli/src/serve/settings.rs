//! What can be set, under the names that etcd gave it: one table for flags, environment and help.

use std::collections::HashSet;
use std::time::Duration;

use clap::{Arg, ArgAction};
use folkmoot_server::config::{Config, FeatureGates, LogFormat, LogLevel, parse_bool, parse_duration};

type Outcome = std::result::Result<(), String>;

/// One thing that can be set.
pub struct Setting {
    /// Name of the flag, without dashes.
    pub flag: &'static str,
    /// What the help shows in place of the value.
    value: &'static str,
    /// What holds when it is not given, for the help.
    default: &'static str,
    help: &'static str,
    group: &'static str,
    set: fn(&mut Config, &str) -> Outcome,
}

impl Setting {
    /// Name of the environment variable.
    pub fn variable(&self) -> String {
        format!("ETCD_{}", self.flag.to_ascii_uppercase().replace('-', "_"))
    }

    /// The flag for the command line.
    pub fn argument(&self) -> Arg {
        let help = match self.default {
            "" => self.help.to_owned(),
            default => format!("{} [default: {default}]", self.help),
        };
        let argument = Arg::new(self.flag)
            .long(self.flag)
            .value_name(self.value)
            .help(help)
            .help_heading(self.group)
            // Of a repeated flag the last one counts.
            .action(ArgAction::Set)
            .overrides_with(self.flag)
            .allow_negative_numbers(true);
        match self.value {
            // As in Go a switch takes its value only after an equals sign.
            SWITCH => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
            _ => argument,
        }
    }
}

const SWITCH: &str = "true|false";

macro_rules! settings {
    ($($group:literal { $($flag:literal $value:tt $default:literal $help:literal => $set:expr;)* })*) => {
        /// Everything that can be set.
        pub static SETTINGS: &[Setting] = &[$($(Setting {
            flag: $flag, value: $value, default: $default, help: $help, group: $group, set: $set,
        },)*)*];
    };
}

settings! {
    "Member" {
        "name" "NAME" "default" "Name of this member, for people" =>
            |config, text| text_into(&mut config.name, text);
        "data-dir" "DIR" "<name>.folkmoot" "Where everything is kept" =>
            |config, text| { config.data_dir = text.into(); Ok(()) };
        "listen-client-urls" "URLS" "http://localhost:2379" "Where clients are accepted; port 0 takes a free one" =>
            |config, text| list_into(&mut config.listen_client_urls, text);
        "listen-peer-urls" "URLS" "http://localhost:2380" "Where other members are accepted" =>
            |config, text| list_into(&mut config.listen_peer_urls, text);
        "heartbeat-interval" "MS" "100" "Milliseconds between two heartbeats of the leader" =>
            |config, text| number_into(&mut config.heartbeat_ms, text);
        "election-timeout" "MS" "1000" "Milliseconds without a heartbeat until an election; at least five heartbeats" =>
            |config, text| number_into(&mut config.election_ms, text);
        "initial-election-tick-advance" SWITCH "true" "Accepted for etcd's sake" =>
            |config, text| switch_into(&mut config.initial_election_tick_advance, text);
        "snapshot-count" "N" "10000" "Log entries between two snapshots" =>
            |config, text| number_into(&mut config.snapshot_count, text);
        "snapshot-catchup-entries" "N" "5000" "Log entries kept for members that lag behind" =>
            |config, text| number_into(&mut config.snapshot_catchup_entries, text);
        "quota-backend-bytes" "BYTES" "0" "Size at which writes are refused; 0 is 2 GiB, below 0 is no quota" =>
            |config, text| number_into(&mut config.quota_backend_bytes, text);
        "max-txn-ops" "N" "128" "Operations of one transaction" =>
            |config, text| number_into(&mut config.max_txn_ops, text);
        "max-request-bytes" "BYTES" "1572864" "Size of one write request" =>
            |config, text| number_into(&mut config.max_request_bytes, text);
        "max-concurrent-streams" "N" "4096" "Open calls of one connection" =>
            |config, text| number_into(&mut config.max_concurrent_streams, text);
        "grpc-keepalive-interval" "DURATION" "2h" "How often idle connections are pinged; 0 is never" =>
            |config, text| duration_into(&mut config.keepalive_interval, text);
        "grpc-keepalive-timeout" "DURATION" "20s" "How long a ping may stay unanswered" =>
            |config, text| duration_into(&mut config.keepalive_timeout, text);
    }
    "Cluster" {
        "advertise-client-urls" "URLS" "where clients are accepted" "What clients are told; needed with --listen-client-urls" =>
            |config, text| list_into(&mut config.advertise_client_urls, text);
        "initial-advertise-peer-urls" "URLS" "http://localhost:2380" "What other members are told" =>
            |config, text| list_into(&mut config.initial_advertise_peer_urls, text);
        "initial-cluster" "NAME=URL,..." "this member alone" "All members of a new cluster" =>
            |config, text| text_into(&mut config.initial_cluster, text);
        "initial-cluster-token" "TEXT" "etcd-cluster" "Tells apart new clusters that have the same members" =>
            |config, text| text_into(&mut config.initial_cluster_token, text);
        "initial-cluster-state" "new|existing" "new" "Whether the cluster is new" =>
            |config, text| match text {
                "new" | "existing" => text_into(&mut config.initial_cluster_state, text),
                _ => Err("it is new or existing".into()),
            };
        "strict-reconfig-check" SWITCH "true" "Refuse changes of the members that would cost the quorum" =>
            |config, text| switch_into(&mut config.strict_reconfig_check, text);
        "max-learners" "N" "1" "Members at a time that only listen" =>
            |config, text| number_into(&mut config.max_learners, text);
        "pre-vote" SWITCH "true" "Ask the others before calling an election" =>
            |config, text| switch_into(&mut config.pre_vote, text);
    }
    "History" {
        "auto-compaction-mode" "periodic|revision" "periodic" "Whether history is kept by age or by number" =>
            |config, text| text_into(&mut config.auto_compaction_mode, text);
        "auto-compaction-retention" "AMOUNT" "0" "A duration, a number of hours, or a number of revisions; 0 keeps all" =>
            |config, text| text_into(&mut config.auto_compaction_retention, text);
        "compaction-batch-limit" "N" "0" "Rows one step of a compaction looks at; 0 is 1000" =>
            |config, text| number_into(&mut config.compaction_batch_limit, text);
        "compaction-sleep-interval" "DURATION" "0" "Pause between such steps; 0 is 10ms" =>
            |config, text| duration_into(&mut config.compaction_sleep_interval, text);
        "watch-progress-notify-interval" "DURATION" "0" "How often idle watches are told how far they have come; 0 is 10m" =>
            |config, text| duration_into(&mut config.watch_progress_notify_interval, text);
    }
    "Logs" {
        "log-level" "LEVEL" "info" "debug, info, warn or error; panic and fatal count as error" =>
            |config, text| {
                config.log_level = match text {
                    "debug" => LogLevel::Debug,
                    "info" => LogLevel::Info,
                    "warn" => LogLevel::Warn,
                    "error" | "panic" | "fatal" => LogLevel::Error,
                    _ => return Err("it is debug, info, warn or error".into()),
                };
                Ok(())
            };
        "log-format" "json|console" "json" "One JSON object a line, or lines for people" =>
            |config, text| {
                config.log_format = match text {
                    "json" => LogFormat::Json,
                    "console" => LogFormat::Console,
                    _ => return Err("it is json or console".into()),
                };
                Ok(())
            };
        "log-outputs" "default|stderr" "default" "Where logs go; standard error is the only place in this version" =>
            |_, text| match text {
                "default" | "stderr" => Ok(()),
                _ => Err("logs go to standard error only in this version".into()),
            };
        "warning-unary-request-duration" "DURATION" "0" "Requests that take longer are logged; 0 is 300ms" =>
            |config, text| duration_into(&mut config.warning_unary_request_duration, text);
    }
    "Features" {
        "feature-gates" "NAME=BOOL,..." "" "What is not for everybody, by etcd's names, such as InitialCorruptCheck=true" =>
            |config, text| { config.feature_gates = FeatureGates::parse(text)?; Ok(()) };
        "experimental-initial-corrupt-check" SWITCH "the feature gate" "An older spelling of the feature gate InitialCorruptCheck" =>
            |config, text| switch_into(config.experimental_initial_corrupt_check.insert(false), text);
        "auto-repair" SWITCH "false" "A member that finds its store damaged takes it anew from another one" =>
            |config, text| switch_into(&mut config.auto_repair, text);
    }
    "Unsafe" {
        "unsafe-no-fsync" SWITCH "false" "Do not wait for the disk: acknowledged writes may be lost with the machine" =>
            |config, text| switch_into(&mut config.unsafe_no_fsync, text);
    }
}

fn text_into(place: &mut String, text: &str) -> Outcome {
    text.clone_into(place);
    Ok(())
}

fn number_into<T: std::str::FromStr>(place: &mut T, text: &str) -> Outcome {
    *place = text.parse().map_err(|_| "it is not a number that fits")?;
    Ok(())
}

fn duration_into(place: &mut Duration, text: &str) -> Outcome {
    *place = parse_duration(text).ok_or("it is not a duration such as 500ms, 10s or 1h30m")?;
    Ok(())
}

/// The URLs of a comma separated list. Whether they are URLs is for the server to say.
fn list_into(place: &mut Vec<String>, text: &str) -> Outcome {
    *place = text.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect();
    Ok(())
}

fn switch_into(place: &mut bool, text: &str) -> Outcome {
    *place = parse_bool(text).ok_or("it is true or false")?;
    Ok(())
}

/// Variables that mean something to etcd's tools but set nothing.
const VARIABLES_WITHOUT_MEANING: [&str; 3] = ["ETCD_UNSUPPORTED_ARCH", "ETCD_VERIFY", "ETCD_VERSION"];

/// What was given on the command line and in the environment.
pub struct Given {
    /// Flags with their values.
    pub flags: Vec<(&'static str, String)>,
    /// Environment variables with their values; those without `ETCD_` are of no interest.
    pub environment: Vec<(String, String)>,
}

impl Given {
    /// Variables that look as if they should set something, but do not.
    pub fn unknown_variables(&self) -> Vec<String> {
        let known: HashSet<String> = SETTINGS.iter().map(Setting::variable).collect();
        let mut unknown: Vec<String> = self
            .environment
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| name.starts_with("ETCD_") && !known.contains(name))
            .filter(|name| !VARIABLES_WITHOUT_MEANING.contains(&name.as_str()))
            .collect();
        unknown.sort();
        unknown
    }

    /// The configuration. Whether its parts fit together is for the server to say.
    ///
    /// # Errors
    /// Names the flag or the variable whose value makes no sense, or that was given twice.
    pub fn into_config(self) -> std::result::Result<Config, String> {
        let mut config = Config::default();
        let mut has_data_dir = false;
        for setting in SETTINGS {
            let variable = setting.variable();
            let flag = self.flags.iter().find(|(name, _)| *name == setting.flag);
            // An empty variable is as good as none, as in etcd.
            let in_environment =
                self.environment.iter().find(|(name, value)| *name == variable && !value.is_empty());
            let (source, value) = match (flag, in_environment) {
                (None, None) => continue,
                (Some((name, value)), None) => (format!("--{name}"), value),
                (None, Some((_, value))) => (variable, value),
                (Some(_), Some(_)) => {
                    return Err(format!(
                        "conflicting environment variable \"{variable}\" is shadowed by corresponding \
                         command-line flag (either unset environment variable or disable flag)"
                    ));
                }
            };
            (setting.set)(&mut config, value)
                .map_err(|reason| format!("invalid value \"{value}\" for {source}: {reason}"))?;
            has_data_dir |= setting.flag == "data-dir";
        }
        if !has_data_dir {
            config.data_dir = format!("{}.folkmoot", config.name).into();
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use folkmoot_server::config::Gate;

    use super::*;

    fn from_flags(flags: &[(&'static str, &str)]) -> std::result::Result<Config, String> {
        let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Given { flags, environment: Vec::new() }.into_config()
    }

    fn environment(variables: &[(&str, &str)]) -> Given {
        let environment =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Given { flags: Vec::new(), environment }
    }

    #[test]
    fn nothing_given_is_the_default() {
        let config = from_flags(&[]).expect("is good");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn the_data_dir_follows_the_name_unless_it_is_given() {
        let config = from_flags(&[("name", "a")]).expect("is good");
        assert_eq!(config.data_dir, Path::new("a.folkmoot"));
        let config = from_flags(&[("name", "a"), ("data-dir", "/d")]).expect("is good");
        assert_eq!(config.data_dir, Path::new("/d"));
    }

    #[test]
    fn urls_are_separated_by_commas() {
        let config = from_flags(&[("listen-client-urls", "http://a:1, http://b:2,")]).expect("is good");
        assert_eq!(config.listen_client_urls, ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn every_flag_has_a_variable() {
        let given = environment(&[
            ("ETCD_NAME", "a"),
            ("ETCD_MAX_TXN_OPS", "5"),
            ("ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL", "1m30s"),
            ("ETCD_UNSAFE_NO_FSYNC", "T"),
            ("ETCD_LOG_LEVEL", ""),
            ("NAME", "b"),
        ]);
        assert!(given.unknown_variables().is_empty());
        let config = given.into_config().expect("is good");
        assert_eq!(config.name, "a");
        assert_eq!(config.max_txn_ops, 5);
        assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(90));
        assert!(config.unsafe_no_fsync);
        assert_eq!(config.log_level, LogLevel::Info);
    }

    #[test]
    fn what_belongs_to_a_cluster_is_set() {
        let config = from_flags(&[
            ("initial-cluster", "a=http://h:1,b=http://h:2"),
            ("initial-cluster-state", "existing"),
            ("listen-peer-urls", "http://127.0.0.1:1,http://127.0.0.1:2"),
            ("strict-reconfig-check", "false"),
            ("max-learners", "3"),
            ("pre-vote", "false"),
            ("initial-election-tick-advance", "false"),
            ("snapshot-count", "7"),
            ("snapshot-catchup-entries", "8"),
            ("feature-gates", "InitialCorruptCheck=true"),
            ("auto-repair", "true"),
        ])
        .expect("is good");
        assert_eq!(config.initial_cluster, "a=http://h:1,b=http://h:2");
        assert_eq!(config.initial_cluster_state, "existing");
        assert_eq!(config.listen_peer_urls.len(), 2);
        assert!(!config.strict_reconfig_check && !config.pre_vote && !config.initial_election_tick_advance);
        assert_eq!(config.max_learners, 3);
        assert_eq!((config.snapshot_count, config.snapshot_catchup_entries), (7, 8));
        assert!(config.feature_gates.is_on(Gate::InitialCorruptCheck));
        assert_eq!(config.experimental_initial_corrupt_check, None);
        assert!(config.auto_repair);
        let config = from_flags(&[("experimental-initial-corrupt-check", "true")]).expect("is good");
        assert_eq!(config.experimental_initial_corrupt_check, Some(true));
    }

    #[test]
    fn unknown_variables_are_named_and_set_nothing() {
        let given = environment(&[("ETCD_FROB", "1"), ("ETCD_VERIFY", "all"), ("HOME", "/"), ("ETCD_A", "")]);
        assert_eq!(given.unknown_variables(), ["ETCD_A", "ETCD_FROB"]);
        given.into_config().expect("is good");
    }

    #[test]
    fn a_flag_and_its_variable_together_are_refused() {
        let mut given = environment(&[("ETCD_NAME", "a")]);
        given.flags.push(("name", "b".into()));
        let reason = given.into_config().expect_err("is given twice");
        assert!(reason.starts_with("conflicting environment variable \"ETCD_NAME\" is shadowed"), "{reason}");
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_name() {
        let cases = [
            ("heartbeat-interval", "soon"),
            ("heartbeat-interval", "-1"),
            ("max-txn-ops", ""),
            ("max-concurrent-streams", "4294967296"),
            ("grpc-keepalive-interval", "5"),
            ("initial-cluster-state", "old"),
            ("log-level", "loud"),
            ("log-format", "xml"),
            ("log-outputs", "/var/log/x"),
            ("unsafe-no-fsync", "yes"),
            ("pre-vote", "2"),
            ("max-learners", "-1"),
            ("feature-gates", "Frob=true"),
            ("experimental-initial-corrupt-check", ""),
        ];
        for (flag, value) in cases {
            let reason = from_flags(&[(flag, value)]).expect_err(flag);
            let wanted = format!("invalid value \"{value}\" for --{flag}: ");
            assert!(reason.starts_with(&wanted), "{reason}");
        }
        let reason = environment(&[("ETCD_LOG_LEVEL", "loud")]).into_config().expect_err("is no level");
        assert!(reason.contains("for ETCD_LOG_LEVEL"), "{reason}");
    }

    #[test]
    fn the_table_names_nothing_twice() {
        let names: HashSet<_> = SETTINGS.iter().map(|setting| setting.flag).collect();
        assert_eq!(names.len(), SETTINGS.len());
    }

    #[test]
    fn the_defaults_in_the_help_are_the_real_ones() {
        for setting in SETTINGS {
            let is_described = setting.default.contains([' ', '<']) || setting.flag.ends_with("-urls");
            if is_described {
                continue;
            }
            let mut config = Config::default();
            (setting.set)(&mut config, setting.default).expect(setting.flag);
            assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()), "--{}", setting.flag);
        }
    }
}
