//! The one thing that the API rooms know of the member.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use folkmoot_core::command::Command;
use folkmoot_core::error::{Error, Failure};
use folkmoot_core::limits;
use folkmoot_core::mvcc::Reader;
use folkmoot_core::node::{Input, Reply, Slot};
use folkmoot_core::types::{ClusterId, LeaseId, MemberId};
use folkmoot_storage::DataDir;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::inbox::Inbox;
use super::published::Published;
use super::read_desk::{ReadDesk, ask};
use super::slots::{Port, WaitEnd};
use super::storage_thread::StorageHandle;
use crate::config::Settings;
use crate::peer::Peers;
use crate::tasks::Fate;
use crate::watch::{HubHandle, Session, WakePort};

/// Commands up to this size are not counted in bytes.
const SMALL_COMMAND_BYTES: usize = 4096;
/// The unit in which larger ones are.
const ROOM_UNIT_BYTES: usize = 1024;
/// Half of what the core takes, so that small commands always find room.
pub const ROOM_UNITS: usize = limits::PENDING_BYTES_MAX / 2 / ROOM_UNIT_BYTES;
/// Pause before another look at a hub that has too many events to work on.
const HUB_PAUSE: Duration = Duration::from_millis(5);

/// What all handles of one member share.
pub struct Shared {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This member.
    pub member_id: MemberId,
    /// How the server was set up.
    pub settings: Settings,
    /// What the core thread published.
    pub published: Arc<Published>,
    /// The keys.
    pub reader: Reader,
    /// The data directory, locked for as long as anybody may use it.
    pub dir: Arc<DataDir>,
    /// The engine's thread.
    pub storage: StorageHandle,
    /// The watch hub's thread.
    pub hub: HubHandle,
    /// Room for large commands on their way, in [`ROOM_UNITS`].
    pub room: Semaphore,
    /// The core thread's inbox.
    pub inbox: Arc<Inbox>,
    /// The other members.
    pub peers: Peers,
    /// Told when the member cannot go on.
    pub fate: Fate,
    /// True while this member has been without a leader for a while.
    pub leaderless: watch::Receiver<bool>,
    /// Turns true when the server stops serving.
    pub stopping: watch::Receiver<bool>,
}

/// A handle of one runtime. Cheap to clone; use it only on that runtime, whose task hands out
/// the answers.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
    port: Arc<Port>,
    wake_port: Arc<WakePort>,
    reads: Arc<ReadDesk>,
}

/// Why a call of the member gave no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallError {
    /// An answer of the catalogue.
    Answer(Error),
    /// The time ran out while no leader was known. etcd answers this like a deadline of the
    /// client's, without words of its own.
    DeadlineExceeded,
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::Answer(error)
    }
}

/// What is known about a lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseInfo {
    /// Remaining whole seconds; -1 if there is no such lease.
    pub ttl: i64,
    /// Granted seconds.
    pub granted_ttl: i64,
    /// Its keys, if asked for.
    pub keys: Vec<Bytes>,
    /// Revision at that moment.
    pub revision: i64,
}

impl NodeHandle {
    /// A handle for the runtime whose answers come through `port`, and whose watch sessions are
    /// woken through `wake_port`.
    pub fn new(shared: Arc<Shared>, port: Arc<Port>, wake_port: Arc<WakePort>) -> Self {
        let reads = Arc::new(ReadDesk::new(Arc::clone(&port), Arc::clone(&shared.inbox)));
        Self { shared, port, wake_port, reads }
    }

    /// Asks the core on behalf of reads, for ever. Run it once, as a task on the handle's runtime.
    pub fn carry_reads(&self) -> impl Future<Output = ()> + Send + 'static {
        Arc::clone(&self.reads).work()
    }

    /// The cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.shared.cluster_id
    }

    /// This member.
    pub fn member_id(&self) -> MemberId {
        self.shared.member_id
    }

    /// How the server was set up.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// What everybody may know about the member.
    pub fn status(&self) -> &Published {
        &self.shared.published
    }

    /// The published state of the keys.
    pub fn reader(&self) -> &Reader {
        &self.shared.reader
    }

    /// The data directory.
    pub fn data_dir(&self) -> &DataDir {
        &self.shared.dir
    }

    /// The engine's thread.
    pub fn storage(&self) -> &StorageHandle {
        &self.shared.storage
    }

    /// Opens a watch stream.
    pub fn watch(&self) -> Session {
        Session::open(self.shared.hub.clone(), Arc::clone(&self.wake_port))
    }

    /// True while this member has been without a leader for a while: streams of clients that need
    /// one end then.
    pub fn leaderless(&self) -> watch::Receiver<bool> {
        self.shared.leaderless.clone()
    }

    /// Turns true when the server stops serving: streams end then.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.shared.stopping.clone()
    }

    /// What a failure of a read means: an answer, or the end of the server.
    pub fn failed(&self, failure: Failure) -> CallError {
        match failure {
            Failure::Answer(error) => CallError::Answer(error),
            Failure::Fatal(fatal) => {
                self.shared.fate.fail("read", &fatal);
                self.shared.inbox.close();
                CallError::Answer(Error::Stopped)
            }
        }
    }

    /// Replicates a command; gives the answer once it was applied here.
    ///
    /// # Errors
    /// The command's own, `TooManyRequests` at once, `Stopped`; `Timeout` or `DeadlineExceeded`
    /// when nothing came in time, and then the command may still take effect.
    pub async fn propose(&self, command: Command) -> Result<Reply, CallError> {
        let _room = self.room_for(command.body.len()).await?;
        let since = Instant::now();
        match self.ask(|slot| Input::Propose { slot, command }).await {
            Ok(reply) => Ok(reply),
            Err(WaitEnd::Answer(error)) => Err(CallError::Answer(error)),
            Err(WaitEnd::Expired) if self.status().leader().is_none() => Err(CallError::DeadlineExceeded),
            Err(WaitEnd::Expired) => Err(CallError::Answer(self.timeout_of(since))),
        }
    }

    /// The words for a write that got no answer in time: etcd tells whether a lost leader or a
    /// lost connection may be why.
    fn timeout_of(&self, since: Instant) -> Error {
        let near = 2 * Duration::from_millis(self.settings().config.election_ms);
        let elected = self.status().leader_since();
        if since <= elected && elected.duration_since(since) <= near {
            return Error::TimeoutDueToLeaderFail;
        }
        let me = self.member_id();
        let connected = |id: MemberId| id == me || self.shared.peers.connected(id).is_some();
        let members = self.status().members();
        let voters = members.iter().filter(|member| !member.learner);
        let in_touch = match self.status().leader() {
            Some(leader) if leader == me => {
                let (count, up) = voters
                    .fold((0, 0), |(count, up), voter| (count + 1, up + usize::from(connected(voter.id))));
                up > count / 2
            }
            Some(leader) => connected(leader),
            None => false,
        };
        if in_touch { Error::Timeout } else { Error::TimeoutDueToConnectionLost }
    }

    /// Waits until a large command may go on: together they may hold only so many bytes on their
    /// way. Small ones are bounded by their number alone.
    ///
    /// # Errors
    /// `TooManyRequests` when there was no room for as long as a request may take.
    async fn room_for(&self, bytes: usize) -> Result<Option<SemaphorePermit<'_>>, CallError> {
        if bytes <= SMALL_COMMAND_BYTES && !self.shared.hub.is_behind() {
            return Ok(None);
        }
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES).min(ROOM_UNITS)).unwrap_or(u32::MAX);
        let room = async {
            while self.shared.hub.is_behind() {
                tokio::time::sleep(HUB_PAUSE).await;
            }
            self.shared.room.acquire_many(units).await
        };
        match tokio::time::timeout(self.settings().request_timeout, room).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            Ok(Err(_)) => Err(CallError::Answer(Error::Stopped)),
            Err(_) => Err(CallError::Answer(Error::TooManyRequests)),
        }
    }

    /// Waits until a read of the published state is linearizable.
    pub async fn read_index(&self) -> Result<(), CallError> {
        // The only voter knows by itself that nobody else can have committed anything, and
        // publishes what it applied before it answers any write.
        if self.status().sole_leader() {
            return Ok(());
        }
        in_time(self.reads.wait().await).map(|_| ())
    }

    /// Prolongs a lease: its granted time to live in seconds, 0 if there is none.
    pub async fn lease_renew(&self, id: LeaseId) -> Result<i64, CallError> {
        match self.ask_lessor(|slot| Input::LeaseRenew { slot, id }).await? {
            Reply::LeaseRenewed { ttl, .. } => Ok(ttl),
            other => unreachable!("a renewal is answered as one, not {other:?}"),
        }
    }

    /// What is known about a lease.
    pub async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseInfo, CallError> {
        match self.ask_lessor(|slot| Input::LeaseTimeToLive { slot, id, keys }).await? {
            Reply::LeaseTimeToLive { ttl, granted_ttl, keys, revision } => {
                Ok(LeaseInfo { ttl, granted_ttl, keys, revision })
            }
            other => unreachable!("a look at a lease is answered as one, not {other:?}"),
        }
    }

    /// The leases this member knows, soonest to expire first, and the revision.
    pub async fn lease_list(&self) -> Result<(Vec<LeaseId>, i64), CallError> {
        match self.ask_in_time(|slot| Input::LeaseList { slot }).await? {
            Reply::LeaseList { ids, revision } => Ok((ids, revision)),
            other => unreachable!("a list of leases is answered as one, not {other:?}"),
        }
    }

    /// Moves leadership to another member.
    pub async fn transfer_leader(&self, target: MemberId) -> Result<(), CallError> {
        match self.ask(|slot| Input::TransferLeader { slot, target }).await {
            Ok(_) => Ok(()),
            Err(WaitEnd::Answer(error)) => Err(CallError::Answer(error)),
            Err(WaitEnd::Expired) => Err(CallError::Answer(Error::LeaderTransferTimeout)),
        }
    }

    /// Moves leadership, if it is here, to whoever is placed best.
    pub async fn step_down(&self) -> Result<(), CallError> {
        self.ask_in_time(|slot| Input::StepDown { slot }).await.map(|_| ())
    }

    async fn ask_in_time(&self, input: impl FnOnce(Slot) -> Input) -> Result<Reply, CallError> {
        in_time(self.ask(input).await)
    }

    /// What only the leader can answer: etcd says so when there was none for all the time.
    async fn ask_lessor(&self, input: impl FnOnce(Slot) -> Input) -> Result<Reply, CallError> {
        self.ask(input).await.map_err(|end| match end {
            WaitEnd::Answer(error) => CallError::Answer(error),
            WaitEnd::Expired if self.status().leader().is_none() => CallError::Answer(Error::NoLeader),
            WaitEnd::Expired => CallError::Answer(Error::Timeout),
        })
    }

    async fn ask(&self, input: impl FnOnce(Slot) -> Input) -> Result<Reply, WaitEnd> {
        ask(&self.port, &self.shared.inbox, input).await
    }
}

fn in_time(result: Result<Reply, WaitEnd>) -> Result<Reply, CallError> {
    result.map_err(|end| match end {
        WaitEnd::Answer(error) => CallError::Answer(error),
        WaitEnd::Expired => CallError::Answer(Error::Timeout),
    })
}
