//! Clusters for tests, and patience.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::cluster_client::ClusterClient;
use folkmoot_proto::etcdserverpb::kv_client::KvClient;
use folkmoot_proto::etcdserverpb::lease_client::LeaseClient;
use folkmoot_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use folkmoot_proto::etcdserverpb::watch_client::WatchClient;
use folkmoot_server::{Config, Server, StartError};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::common::{bytes, put_request};

/// How long anything may take that has to come in the end; far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until there is something to see.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < until, "never came: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A port that nobody else is given. It lies below those that the system takes for connections,
/// so that it is also free when the member comes back to it.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().expect("nobody panicked with it");
    loop {
        let port = rand_port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && taken.insert(port) {
            return port;
        }
    }
}

fn rand_port() -> u16 {
    use std::hash::{BuildHasher as _, RandomState};
    // Each state is seeded anew.
    10_000 + (RandomState::new().hash_one(0) % 20_000) as u16
}

pub fn peer_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// One member's place: how it is set up, and the server while it runs.
pub struct Place {
    pub config: Config,
    pub server: Option<Server>,
}

/// Servers that know each other.
pub struct Cluster {
    pub places: Vec<Place>,
    pub dir: TempDir,
}

/// Starts servers at the same time: a member of a new cluster does not serve before a majority is there.
pub fn start_all(configs: Vec<Config>) -> Vec<Result<Server, StartError>> {
    std::thread::scope(|scope| {
        let starts: Vec<_> =
            configs.into_iter().map(|config| scope.spawn(move || Server::start(config))).collect();
        starts.into_iter().map(|start| start.join().expect("starting does not panic")).collect()
    })
}

/// A member named `name` at this peer port, of no cluster yet.
pub fn config_of(name: &str, data_dir: PathBuf, port: u16) -> Config {
    Config {
        name: name.to_owned(),
        listen_peer_urls: vec![peer_url(port)],
        initial_advertise_peer_urls: vec![peer_url(port)],
        // Fast, but not so fast that a busy machine keeps electing.
        heartbeat_ms: 30,
        election_ms: 300,
        // Members must otherwise have been in touch for five seconds before they may change.
        strict_reconfig_check: false,
        // Nothing here is about losing power.
        unsafe_no_fsync: true,
        ..Config::alone_in(data_dir)
    }
}

/// Settings of the members of a new cluster, named m0, m1 and so on.
pub fn configs(dir: &TempDir, count: usize) -> Vec<Config> {
    let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
    let members: Vec<String> =
        ports.iter().enumerate().map(|(at, port)| format!("m{at}={}", peer_url(*port))).collect();
    let config = |(at, port): (usize, &u16)| {
        let name = format!("m{at}");
        Config { initial_cluster: members.join(","), ..config_of(&name, dir.path().join(&name), *port) }
    };
    ports.iter().enumerate().map(config).collect()
}

impl Cluster {
    pub fn start(count: usize) -> Self {
        Self::start_with(count, |_, _| {})
    }

    /// Starts a cluster of `count` static members.
    pub fn start_with(count: usize, change: impl Fn(usize, &mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut configs = configs(&dir, count);
        configs.iter_mut().enumerate().for_each(|(at, config)| change(at, config));
        let servers = start_all(configs.clone());
        let places = configs
            .into_iter()
            .zip(servers)
            .map(|(config, server)| Place { config, server: Some(server.expect("the member starts")) });
        Self { places: places.collect(), dir }
    }

    pub fn server(&self, at: usize) -> &Server {
        self.places[at].server.as_ref().expect("runs")
    }

    pub fn id(&self, at: usize) -> u64 {
        self.server(at).member_id()
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|at| self.places[*at].server.is_some()).collect()
    }

    /// Ends a member as a signal would.
    pub async fn stop(&mut self, at: usize) {
        let server = self.places[at].server.take().expect("runs");
        tokio::task::spawn_blocking(|| server.shutdown()).await.expect("no panic").expect("no failure");
    }

    /// Ends a member without a word to the others.
    pub async fn lose(&mut self, at: usize) {
        let server = self.places[at].server.take().expect("runs");
        tokio::task::spawn_blocking(|| server.abandon()).await.expect("no panic");
    }

    /// Starts members that do not run, together.
    pub fn start_again(&mut self, which: &[usize]) {
        let configs = which.iter().map(|at| self.places[*at].config.clone()).collect();
        for (at, server) in which.iter().zip(start_all(configs)) {
            self.places[*at].server = Some(server.expect("the member starts again"));
        }
    }

    /// Settings for one that was added at `port` and is going to join those that run.
    pub fn joiner(&self, port: u16) -> Config {
        let name = format!("m{}", self.places.len());
        let others =
            self.places.iter().filter(|place| place.server.is_some()).map(|place| {
                format!("{}={}", place.config.name, place.config.initial_advertise_peer_urls[0])
            });
        let members: Vec<String> = others.chain([format!("{name}={}", peer_url(port))]).collect();
        Config {
            initial_cluster: members.join(","),
            initial_cluster_state: "existing".into(),
            ..config_of(&name, self.dir.path().join(&name), port)
        }
    }

    /// Adds a member at the running member `through`, and starts it. Gives its place.
    pub async fn join(&mut self, through: usize, learner: bool) -> usize {
        let port = free_port();
        self.add(through, &peer_url(port), learner).await.expect("the member is added");
        self.places.push(Place { config: self.joiner(port), server: None });
        let at = self.places.len() - 1;
        self.start_again(&[at]);
        at
    }

    pub async fn add(
        &self,
        through: usize,
        url: &str,
        learner: bool,
    ) -> Result<pb::MemberAddResponse, Status> {
        let request = pb::MemberAddRequest { peer_urls: vec![url.to_owned()], is_learner: learner };
        Ok(self.cluster(through).await.member_add(request).await?.into_inner())
    }

    pub async fn remove(&self, through: usize, id: u64) -> Result<pb::MemberRemoveResponse, Status> {
        let request = pb::MemberRemoveRequest { id };
        Ok(self.cluster(through).await.member_remove(request).await?.into_inner())
    }

    pub async fn promote(&self, through: usize, id: u64) -> Result<pb::MemberPromoteResponse, Status> {
        let request = pb::MemberPromoteRequest { id };
        Ok(self.cluster(through).await.member_promote(request).await?.into_inner())
    }

    pub async fn update(
        &self,
        through: usize,
        id: u64,
        url: &str,
    ) -> Result<pb::MemberUpdateResponse, Status> {
        let request = pb::MemberUpdateRequest { id, peer_urls: vec![url.to_owned()] };
        Ok(self.cluster(through).await.member_update(request).await?.into_inner())
    }

    pub async fn move_leader(&self, through: usize, target_id: u64) -> Result<(), Status> {
        let request = pb::MoveLeaderRequest { target_id };
        self.maintenance(through).await.move_leader(request).await.map(|_| ())
    }

    /// The members as this one knows them.
    pub async fn members(&self, at: usize) -> Vec<pb::Member> {
        let request = pb::MemberListRequest { linearizable: false };
        self.cluster(at).await.member_list(request).await.expect("a list").into_inner().members
    }

    pub async fn status(&self, at: usize) -> pb::StatusResponse {
        self.maintenance(at).await.status(pb::StatusRequest {}).await.expect("a status").into_inner()
    }

    /// Waits until all running members agree on one of them as their leader; gives its place.
    pub async fn leader(&self) -> usize {
        eventually("a leader that all agree on", async || {
            let mut seen = BTreeSet::new();
            for at in self.running() {
                let status = self.status(at).await;
                seen.insert((status.leader, status.raft_term));
            }
            let (leader, _) = *seen.first().filter(|_| seen.len() == 1)?;
            self.running().into_iter().find(|at| self.id(*at) == leader)
        })
        .await
    }

    /// A running member that does not lead.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.running().into_iter().find(|at| *at != leader).expect("there are several")
    }

    pub async fn channel(&self, at: usize) -> Channel {
        let address = self.server(at).client_addr();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        endpoint.connect().await.expect("a connection")
    }

    pub async fn kv(&self, at: usize) -> KvClient<Channel> {
        KvClient::new(self.channel(at).await)
    }

    pub async fn cluster(&self, at: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel(at).await)
    }

    pub async fn maintenance(&self, at: usize) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel(at).await)
    }

    pub async fn lease(&self, at: usize) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel(at).await)
    }

    pub async fn watch(&self, at: usize) -> WatchClient<Channel> {
        WatchClient::new(self.channel(at).await)
    }

    /// Writes a key at a member; gives the revision.
    pub async fn put(&self, at: usize, key: &str, value: &str) -> i64 {
        crate::common::put(&mut self.kv(at).await, key, value).await
    }

    pub async fn try_put(&self, at: usize, key: &str) -> Result<i64, Status> {
        let response = self.kv(at).await.put(put_request(key, "x")).await?;
        Ok(response.into_inner().header.expect("a header").revision)
    }

    /// The value of a key, linearizable.
    pub async fn get(&self, at: usize, key: &str) -> Option<String> {
        self.read(at, key, false).await.expect("the range succeeds")
    }

    pub async fn read(&self, at: usize, key: &str, serializable: bool) -> Result<Option<String>, Status> {
        let request = pb::RangeRequest { key: bytes(key), serializable, ..Default::default() };
        let response = self.kv(at).await.range(request).await?.into_inner();
        Ok(response.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
    }

    /// Waits until a member has this value of a key, by itself.
    pub async fn wait_for_value(&self, at: usize, key: &str, value: &str) {
        eventually("the value on a member", async || {
            let found = self.read(at, key, true).await.ok()??;
            (found == value).then_some(())
        })
        .await;
    }

    /// Waits until all running members know the same members, so many.
    pub async fn wait_for_members(&self, count: usize) -> Vec<pb::Member> {
        eventually("the same members on all", async || {
            let mut lists = Vec::new();
            for at in self.running() {
                if !self.status(at).await.is_learner {
                    lists.push(self.members(at).await);
                }
            }
            let first = lists.first()?;
            let named = first.iter().all(|member| !member.name.is_empty());
            let same = first.len() == count && lists.iter().all(|list| list == first);
            (same && named).then(|| first.clone())
        })
        .await
    }
}
