//! The checks of a configuration, in etcd's order and with etcd's words.

use std::time::Duration;

use folkmoot_core::limits;

use super::{
    AutoCompaction, Config, LISTEN_CLIENT_URL_DEFAULT, LISTEN_PEER_URL_DEFAULT, QUOTA_BYTES_DEFAULT, Scheme,
    ServiceUrl, Settings, parse_duration,
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
        let listen_client = bindable("--listen-client-urls", &self.listen_client_urls)?;
        bindable("--listen-peer-urls", &self.listen_peer_urls)?;
        let advertise_peer = self.advertised_peer_urls()?;
        let advertise_client = self.advertised_client_urls()?;
        match self.initial_cluster_state.as_str() {
            "new" => {}
            "existing" => {
                return refuse(
                    "--initial-cluster-state=existing is not supported yet: this version runs one member alone",
                );
            }
            other => return refuse(format!("unexpected clusterState {other:?}")),
        }
        self.check_timing()?;
        let auto_compaction = self.read_auto_compaction()?;
        self.check_initial_cluster(&advertise_peer)?;
        self.check_bounds()?;
        Ok(Settings {
            listen_client,
            advertise_client,
            advertise_peer,
            auto_compaction,
            quota_bytes: match self.quota_backend_bytes {
                0 => Some(QUOTA_BYTES_DEFAULT as u64),
                bytes => u64::try_from(bytes).ok(),
            },
            request_timeout: Duration::from_secs(5) + 2 * Duration::from_millis(self.election_ms),
            runtime_threads: if self.runtime_threads == 0 { 2 } else { self.runtime_threads.min(64) },
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

    fn check_initial_cluster(&self, advertise_peer: &[String]) -> Result<(), ConfigError> {
        if self.initial_cluster.is_empty() {
            return Ok(());
        }
        let mut own = Vec::new();
        for part in self.initial_cluster.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, url) = part.split_once('=').ok_or_else(|| {
                ConfigError(format!("error setting up initial cluster: empty URL given for {part:?}"))
            })?;
            let url = ServiceUrl::parse(url)
                .map_err(|error| ConfigError(format!("error setting up initial cluster: {error}")))?;
            if name == self.name {
                own.push(url.to_string());
            } else {
                return refuse(format!(
                    "--initial-cluster names other members than {:?}, which is not supported yet: this version \
                     runs one member alone; name={name}",
                    self.name
                ));
            }
        }
        if own.is_empty() {
            return refuse(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ));
        }
        for url in &own {
            if !advertise_peer.contains(url) {
                return refuse(format!(
                    "--initial-cluster has {}={url} but missing from --initial-advertise-peer-urls={} \
                     (resolved urls: {url:?} != {:?})",
                    self.name,
                    advertise_peer.join(","),
                    advertise_peer.join(","),
                ));
            }
        }
        for url in advertise_peer {
            if !own.contains(url) {
                return refuse(format!(
                    "--initial-advertise-peer-urls has {url} but missing from --initial-cluster={}",
                    self.initial_cluster
                ));
            }
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

#[cfg(test)]
mod tests {
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
    fn a_cluster_that_lacks_this_member_is_refused() {
        assert!(
            refusal(|c| {
                c.initial_cluster = ",".into();
            })
            .starts_with("couldn't find local name \"default\"")
        );
        assert!(
            refusal(|c| {
                c.initial_cluster = "default=http://127.0.0.1:7".into();
            })
            .starts_with("--initial-cluster has default=http://127.0.0.1:7 but missing")
        );
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
