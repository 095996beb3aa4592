//! Looking up the names among the endpoints, for as long as the client is there.

use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Duration;

use futures_util::future::join_all;

use super::core::Core;
use super::endpoint::{Given, Service, Target};
use crate::error::{Error, ErrorKind, Result};

const INTERVAL: Duration = Duration::from_secs(30);
/// DNS is asked twice, and waited for five seconds each time, unless the system says otherwise.
const LOOK: Duration = Duration::from_secs(15);
/// Calls that fail one after the other must not ask DNS as often.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks the names up at once, then in intervals and when a member fails.
pub(crate) async fn follow(core: Weak<Core>) {
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.check().is_ok()) else { return };
        let (mut closing, again) = (strong.closing(), strong.again());
        tokio::select! {
            () = look_up(&strong) => {}
            _ = closing.changed() => return,
        }
        drop(strong);
        let due = async {
            tokio::time::sleep(PAUSE).await;
            tokio::time::timeout(INTERVAL - PAUSE, again.notified()).await
        };
        tokio::select! {
            _ = due => {}
            _ = closing.changed() => return,
        }
    }
}

/// Looks all names up once.
async fn look_up(core: &Core) {
    let endpoints = core.options.endpoints.iter().enumerate();
    let looks = endpoints.filter(|(_, given)| given.is_name()).map(|(index, given)| async move {
        let looking = core.options.resolver.look_up(given);
        let outcome = tokio::time::timeout(LOOK, looking).await;
        let text = "the name could not be looked up in time, check the servers of DNS";
        let late = || Err(Error::new(ErrorKind::Unavailable, text));
        (index, given, outcome.unwrap_or_else(|_| late()))
    });
    let mut failure = None;
    for (index, given, outcome) in join_all(looks).await {
        match outcome {
            Ok(targets) => core.set_found(index, targets),
            Err(error) => {
                let error = error.at(&given.name());
                tracing::warn!(%error, "those that the name stood for last go on to be asked");
                failure = failure.or(Some(error));
            }
        }
    }
    core.looked_up(failure);
}

/// Who looks names up: whom the system says, asked anew each time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolver {
    /// Who is asked instead in a test.
    #[cfg(all(test, feature = "srv"))]
    pub server: Option<SocketAddr>,
}

impl Resolver {
    /// The members that an endpoint stands for, at least one.
    async fn look_up(&self, given: &Given) -> Result<Vec<Target>> {
        let mut targets = match given {
            Given::Member(url) => vec![Target::at(url)],
            Given::Host { url, host, port } => {
                let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
                let found = |address| Target::found(format!("{scheme}://{address}"), url.clone());
                self.addresses(host, *port).await?.into_iter().map(found).collect()
            }
            Given::Service(service) => self.targets(service).await?,
        };
        // The same address may come once for each protocol.
        targets.sort_by(|one, other| one.url.cmp(&other.url));
        targets.dedup();
        match targets.is_empty() {
            true => {
                Err(Error::new(ErrorKind::Unavailable, "the name stands for no member, check its records"))
            }
            false => Ok(targets),
        }
    }

    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
        #[cfg(all(test, feature = "srv"))]
        if self.server.is_some() {
            let found = self.client().await?.lookup_ip(host).await.map_err(failed_look)?;
            return Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect());
        }
        Ok(tokio::net::lookup_host((host, port)).await.map_err(failed_look)?.collect())
    }

    #[cfg(not(feature = "srv"))]
    async fn targets(&self, _: &Service) -> Result<Vec<Target>> {
        Err(Error::internal("an endpoint was taken that this build cannot look up"))
    }

    /// Those of the first priority.
    #[cfg(feature = "srv")]
    async fn targets(&self, service: &Service) -> Result<Vec<Target>> {
        use hickory_resolver::proto::rr::RData;

        let Service { scheme, records, domain, .. } = service;
        let answer = self.client().await?.srv_lookup(records.as_str()).await.map_err(|error| {
            if error.is_no_records_found() {
                let text = format!("there are no SRV records, check the domain records={records}");
                return Error::new(ErrorKind::Unavailable, text).caused_by(error);
            }
            failed_look(error)
        })?;
        let records = answer.answers().iter().filter_map(|record| match &record.data {
            // The root as a target says that there is no such service.
            RData::SRV(srv) if !srv.target.is_root() => Some(srv),
            _ => None,
        });
        let first = records.clone().map(|srv| srv.priority).min();
        let target = |host: &str, port: u16| {
            let url = format!("{scheme}://{}:{port}", host.trim_end_matches('.'));
            Target::found(url, format!("{scheme}://{domain}:{port}"))
        };
        let of_first = records.filter(|srv| Some(srv.priority) == first);
        Ok(of_first.map(|srv| target(&srv.target.to_ascii(), srv.port)).collect())
    }

    /// Made afresh for each look: it keeps no answers, and knows whom the system asks now.
    #[cfg(feature = "srv")]
    async fn client(&self) -> Result<hickory_resolver::TokioResolver> {
        use hickory_resolver::TokioResolver;

        #[cfg(test)]
        if let Some(server) = self.server {
            return Ok(tests::client(server));
        }
        // Reads files.
        tokio::task::spawn_blocking(|| TokioResolver::builder_tokio()?.build())
            .await
            .map_err(|error| Error::internal("the system's resolver was not asked for").caused_by(error))?
            .map_err(|error| {
                let text =
                    format!("it is not known whom to ask for SRV records: {error}, check /etc/resolv.conf");
                Error::new(ErrorKind::Unavailable, text).caused_by(error)
            })
    }
}

fn failed_look(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let text = format!("the name could not be looked up, check it and its records: {error}");
    Error::new(ErrorKind::Unavailable, text).caused_by(error)
}

#[cfg(all(test, feature = "srv"))]
mod tests;
