//! The checks of a configuration, in etcd's order and with etcd's words.

use std::time::Duration;

use folkmoot_core::limits;

use super::{
    AutoCompaction, ClusterState, Config, Gate, InitialCluster, LISTEN_CLIENT_URL_DEFAULT,
    LISTEN_PEER_URL_DEFAULT, QUOTA_BYTES_DEFAULT, Scheme, ServiceUrl, Settings, parse_duration,
};

/// Why a configuration cannot be used; names the flag to change.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// etcd's longest election timeout.
const ELECTION_MS_MAX: u64 = 50_000;
/// A log segment must hold a request twice; larger requests could not be written.
const REQUEST_BYTES_MAX: usize = limits::WAL_SEGMENT_BYTES / 2;

fn refuse<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

impl Config {
    /// Checks everything that can be checked without touching the machine.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn validate(&self) -> Result<Settings, ConfigError> {
        let initial_corrupt_check = self.read_initial_corrupt_check()?;
        let listen_peer = bindable("--listen-peer-urls", &self.listen_peer_urls)?;
        let listen_client = bindable("--listen-client-urls", &self.listen_client_urls)?;
        let advertise_peer = self.advertised_peer_urls()?;
        let advertise_client = self.advertised_client_urls()?;
        let cluster_state = match self.initial_cluster_state.as_str() {
            "new" => ClusterState::New,
            "existing" => ClusterState::Existing,
            other => return refuse(format!("unexpected clusterState {other:?}")),
        };
        self.check_timing()?;
        let auto_compaction = self.read_auto_compaction()?;
        self.check_gates()?;
        let initial_cluster = match self.initial_cluster.as_str() {
            "" => InitialCluster::alone(&self.name, &advertise_peer),
            text => InitialCluster::parse(text)?,
        };
        initial_cluster.check(&self.name, &advertise_peer, cluster_state)?;
        self.check_bounds()?;
        Ok(Settings {
            listen_client,
            advertise_client,
            listen_peer,
            advertise_peer,
            cluster_state,
            initial_cluster,
            initial_corrupt_check,
            auto_compaction,
            quota_bytes: match self.quota_backend_bytes {
                0 => Some(QUOTA_BYTES_DEFAULT as u64),
                bytes => u64::try_from(bytes).ok(),
            },
            request_timeout: Duration::from_secs(5) + 2 * Duration::from_millis(self.election_ms),
            runtime_threads: match self.runtime_threads {
                0 => runtime_threads_default(),
                count => count.min(64),
            },
            config: self.clone(),
        })
    }

    fn advertised_peer_urls(&self) -> Result<Vec<String>, ConfigError> {
        let flag = "--initial-advertise-peer-urls";
        if self.initial_advertise_peer_urls.is_empty() {
            return Ok(vec![LISTEN_PEER_URL_DEFAULT.into()]);
        }
        self.initial_advertise_peer_urls
            .iter()
            .map(|text| match ServiceUrl::parse(text) {
                Ok(url) if url.host.is_empty() => refuse(format!(
                    "{flag} \"{text}\" must be \"host:port\" (unexpected empty host ({text}))"
                )),
                Ok(url) => Ok(url.to_string()),
                Err(error) => refuse(format!("invalid value \"{text}\" for flag {flag}: {error}")),
            })
            .collect()
    }

    fn advertised_client_urls(&self) -> Result<Vec<String>, ConfigError> {
        let flag = "--advertise-client-urls";
        if self.advertise_client_urls.is_empty() {
            let free_port = |text: &String| ServiceUrl::parse(text).is_ok_and(|url| url.port == 0);
            // A port that is not known yet cannot be advertised by the operator either.
            if self.listen_client_urls != [LISTEN_CLIENT_URL_DEFAULT]
                && !self.listen_client_urls.iter().all(free_port)
            {
                return refuse(format!("{flag} is required when --listen-client-urls is set explicitly"));
            }
            return Ok(Vec::new());
        }
        self.advertise_client_urls
            .iter()
            .map(|text| match ServiceUrl::parse(text) {
                Ok(url) if url.host.is_empty() => refuse(format!(
                    "{flag} \"{text}\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \
                     \"unixs:/path/to/socket\" (unexpected empty host ({text}))"
                )),
                Ok(url) => Ok(url.to_string()),
                Err(error) => refuse(format!("invalid value \"{text}\" for flag {flag}: {error}")),
            })
            .collect()
    }

    fn check_timing(&self) -> Result<(), ConfigError> {
        let (heartbeat, election) = (self.heartbeat_ms, self.election_ms);
        if heartbeat == 0 {
            return refuse(format!("--heartbeat-interval must be >0 (set to {heartbeat}ms)"));
        }
        if election == 0 {
            return refuse(format!("--election-timeout must be >0 (set to {election}ms)"));
        }
        if heartbeat.saturating_mul(5) > election {
            return refuse(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if election > ELECTION_MS_MAX {
            return refuse(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
            ));
        }
        Ok(())
    }

    fn read_auto_compaction(&self) -> Result<AutoCompaction, ConfigError> {
        let retention = self.auto_compaction_retention.trim();
        let count = retention.parse::<i64>();
        match self.auto_compaction_mode.as_str() {
            "revision" => match count {
                Ok(count) if count > 0 => Ok(AutoCompaction::Revision(count)),
                Ok(_) => Ok(AutoCompaction::Off),
                Err(_) => refuse(format!("error parsing CompactionRetention: invalid number {retention:?}")),
            },
            "periodic" => {
                let hours =
                    |count: i64| u64::try_from(count).ok()?.checked_mul(3600).map(Duration::from_secs);
                let period = match count {
                    Ok(count) if count <= 0 => return Ok(AutoCompaction::Off),
                    Ok(count) => hours(count),
                    Err(_) if retention.is_empty() => return Ok(AutoCompaction::Off),
                    Err(_) => parse_duration(retention),
                };
                match period {
                    Some(Duration::ZERO) => Ok(AutoCompaction::Off),
                    Some(period) => Ok(AutoCompaction::Periodic(period)),
                    None => {
                        refuse(format!("error parsing CompactionRetention: invalid duration {retention:?}"))
                    }
                }
            }
            "" => refuse("undefined auto-compaction-mode"),
            other => refuse(format!("unknown auto-compaction-mode {other:?}")),
        }
    }

    fn read_initial_corrupt_check(&self) -> Result<bool, ConfigError> {
        let gate = Gate::InitialCorruptCheck;
        match (self.experimental_initial_corrupt_check, self.feature_gates.given(gate)) {
            (Some(_), Some(_)) => refuse(
                "cannot specify both flags: --experimental-initial-corrupt-check=(true|false) and \
                 --feature-gates=InitialCorruptCheck=(true|false) at the same time, please just use \
                 --feature-gates=InitialCorruptCheck=(true|false)",
            ),
            (Some(on), None) => Ok(on),
            (None, _) => Ok(self.feature_gates.is_on(gate)),
        }
    }

    fn check_gates(&self) -> Result<(), ConfigError> {
        let is_on = |gate| self.feature_gates.is_on(gate);
        if is_on(Gate::LeaseCheckpointPersist) && !is_on(Gate::LeaseCheckpoint) {
            return refuse(
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
            );
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), ConfigError> {
        if self.max_request_bytes == 0 || self.max_request_bytes > REQUEST_BYTES_MAX {
            return refuse(format!(
                "--max-request-bytes must be between 1 and {REQUEST_BYTES_MAX} (set to {})",
                self.max_request_bytes
            ));
        }
        if self.max_txn_ops == 0 {
            return refuse("--max-txn-ops must be >0 (set to 0)");
        }
        if self.max_concurrent_streams == 0 {
            return refuse("--max-concurrent-streams must be >0 (set to 0)");
        }
        Ok(())
    }
}

fn bindable(flag: &str, urls: &[String]) -> Result<Vec<ServiceUrl>, ConfigError> {
    if urls.is_empty() {
        return refuse(format!("{flag} must name at least one URL"));
    }
    urls.iter()
        .map(|text| {
            let url = ServiceUrl::parse(text)
                .map_err(|error| ConfigError(format!("invalid value \"{text}\" for flag {flag}: {error}")))?;
            match url.scheme {
                Scheme::Http if url.bind_ip().is_none() => {
                    refuse(format!("expected IP in URL for binding ({text})"))
                }
                Scheme::Http => Ok(url),
                _ => refuse(format!(
                    "{flag} has a URL that this version cannot serve yet, only http is supported; url={text}"
                )),
            }
        })
        .collect()
}

/// Two for each processor: while the reads of one wait for the other members, another works. More
/// than the core thread can keep busy would only divide the work of a moment into smaller parts.
fn runtime_threads_default() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

#[cfg(test)]
mod tests {
    use super::super::FeatureGates;
    use super::*;

    fn refusal(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.validate().expect_err("is refused").0
    }

    #[test]
    fn the_defaults_are_good() {
        let settings = Config::default().validate().unwrap();
        assert_eq!(settings.request_timeout, Duration::from_secs(7));
        assert_eq!(settings.quota_bytes, Some(2_147_483_648));
        assert_eq!(settings.auto_compaction, AutoCompaction::Off);
        Config::alone_in("x").validate().unwrap();
    }

    #[test]
    fn a_negative_quota_is_none() {
        let config = Config { quota_backend_bytes: -1, ..Config::default() };
        assert_eq!(config.validate().unwrap().quota_bytes, None);
    }

    #[test]
    fn wrong_settings_are_refused_in_etcds_words() {
        assert_eq!(refusal(|c| c.heartbeat_ms = 0), "--heartbeat-interval must be >0 (set to 0ms)");
        assert_eq!(refusal(|c| c.election_ms = 0), "--election-timeout must be >0 (set to 0ms)");
        assert_eq!(
            refusal(|c| c.election_ms = 400),
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]"
        );
        assert_eq!(
            refusal(|c| c.election_ms = 50_001),
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms"
        );
        assert_eq!(refusal(|c| c.auto_compaction_mode = "x".into()), "unknown auto-compaction-mode \"x\"");
        assert_eq!(refusal(|c| c.auto_compaction_mode = String::new()), "undefined auto-compaction-mode");
        assert_eq!(refusal(|c| c.initial_cluster_state = "old".into()), "unexpected clusterState \"old\"");
        assert_eq!(
            refusal(|c| c.listen_client_urls = vec!["http://example.com:1".into()]),
            "expected IP in URL for binding (http://example.com:1)"
        );
        assert_eq!(
            refusal(|c| c.listen_client_urls = vec!["http://127.0.0.1:1".into()]),
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        );
    }

    #[test]
    fn a_member_without_an_initial_cluster_is_alone_in_it() {
        let settings = Config::default().validate().unwrap();
        assert_eq!(settings.cluster_state, ClusterState::New);
        assert_eq!(settings.initial_cluster.to_string(), "default=http://localhost:2380");
        let config = Config {
            name: "a".into(),
            initial_advertise_peer_urls: vec!["http://h:2".into(), "http://h:1".into()],
            ..Config::default()
        };
        assert_eq!(config.validate().unwrap().initial_cluster.to_string(), "a=http://h:1,a=http://h:2");
    }

    #[test]
    fn a_member_of_several_starts_with_them_or_joins_them() {
        let mut config = Config {
            name: "b".into(),
            listen_peer_urls: vec!["http://127.0.0.1:7002".into(), "http://[::1]:7002".into()],
            initial_advertise_peer_urls: vec!["http://127.0.0.1:7002".into()],
            initial_cluster: "a=http://127.0.0.1:7001,b=http://127.0.0.1:7002".into(),
            ..Config::default()
        };
        let settings = config.validate().unwrap();
        assert_eq!(settings.initial_cluster.members.len(), 2);
        let listen: Vec<_> = settings.listen_peer.iter().map(ToString::to_string).collect();
        assert_eq!(listen, config.listen_peer_urls);
        config.initial_cluster_state = "existing".into();
        assert_eq!(config.validate().unwrap().cluster_state, ClusterState::Existing);
    }

    #[test]
    fn an_initial_cluster_that_does_not_fit_is_refused() {
        assert_eq!(
            refusal(|c| c.initial_cluster = ",".into()),
            "couldn't find local name \"default\" in the initial cluster configuration"
        );
        assert!(
            refusal(|c| c.initial_cluster = "default=http://127.0.0.1:7".into())
                .starts_with("--initial-cluster has default=http://127.0.0.1:7 but missing")
        );
        assert_eq!(
            refusal(|c| c.initial_cluster = "default=http://localhost:2380,b=http://localhost:2380".into()),
            "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url"
        );
        assert_eq!(
            refusal(|c| c.initial_cluster = "default".into()),
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "
        );
    }

    #[test]
    fn peer_urls_are_refused_in_etcds_words() {
        assert_eq!(
            refusal(|c| c.listen_peer_urls = vec!["http://example.com:1".into()]),
            "expected IP in URL for binding (http://example.com:1)"
        );
        assert_eq!(
            refusal(|c| c.initial_advertise_peer_urls = vec!["http://:2380".into()]),
            "--initial-advertise-peer-urls \"http://:2380\" must be \"host:port\" (unexpected empty host (http://:2380))"
        );
    }

    #[test]
    fn the_first_check_that_fails_is_named_in_etcds_order() {
        // Each of these is undone again, and the next one shows.
        let mut config = Config {
            listen_peer_urls: vec!["http://example.com:1".into()],
            initial_advertise_peer_urls: vec!["http://:2380".into()],
            initial_cluster_state: "old".into(),
            heartbeat_ms: 0,
            auto_compaction_mode: String::new(),
            feature_gates: FeatureGates::parse("LeaseCheckpointPersist=true").unwrap(),
            initial_cluster: "b=http://h:1".into(),
            ..Config::default()
        };
        let good = Config::default();
        let starts = |config: &Config, words: &str| {
            let refusal = config.validate().expect_err("is refused").0;
            assert!(refusal.starts_with(words), "{refusal}");
        };
        starts(&config, "expected IP in URL");
        config.listen_peer_urls = good.listen_peer_urls;
        starts(&config, "--initial-advertise-peer-urls");
        config.initial_advertise_peer_urls = good.initial_advertise_peer_urls;
        starts(&config, "unexpected clusterState");
        config.initial_cluster_state = good.initial_cluster_state;
        starts(&config, "--heartbeat-interval");
        config.heartbeat_ms = good.heartbeat_ms;
        starts(&config, "undefined auto-compaction-mode");
        config.auto_compaction_mode = good.auto_compaction_mode;
        starts(&config, "enabling feature gate LeaseCheckpointPersist requires");
        config.feature_gates = good.feature_gates;
        starts(&config, "couldn't find local name");
        config.initial_cluster = good.initial_cluster;
        config.validate().unwrap();
    }

    #[test]
    fn the_initial_corrupt_check_has_two_spellings_of_which_one_may_be_used() {
        let mut config = Config::default();
        let read = |config: &Config| config.validate().map(|settings| settings.initial_corrupt_check);
        assert_eq!(read(&config), Ok(false));
        config.experimental_initial_corrupt_check = Some(true);
        assert_eq!(read(&config), Ok(true));
        config.feature_gates = FeatureGates::parse("InitialCorruptCheck=true").unwrap();
        let refusal = read(&config).expect_err("both").0;
        assert!(refusal.starts_with("cannot specify both flags: --experimental-initial-corrupt-check="));
        config.experimental_initial_corrupt_check = None;
        assert_eq!(read(&config), Ok(true));
    }

    #[test]
    fn retention_is_a_duration_hours_or_revisions() {
        let mut config = Config { auto_compaction_retention: "2".into(), ..Config::default() };
        let read = |config: &Config| config.validate().unwrap().auto_compaction;
        assert_eq!(read(&config), AutoCompaction::Periodic(Duration::from_secs(7200)));
        config.auto_compaction_retention = "10m".into();
        assert_eq!(read(&config), AutoCompaction::Periodic(Duration::from_secs(600)));
        config.auto_compaction_mode = "revision".into();
        config.auto_compaction_retention = "500".into();
        assert_eq!(read(&config), AutoCompaction::Revision(500));
    }
}
