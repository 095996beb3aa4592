//! The replicated state and what each command does to it.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::gate;
use super::meta::Applied;
use crate::cluster::{self, Alarm, Alarms, Members};
use crate::codec::{self, cluster::AlarmAction};
use crate::command::{Command, Entry, Kind};
use crate::env::{Engine, Family, WriteBatch};
use crate::error::{Error, Failure, Fatal};
use crate::event::EventBatch;
use crate::lease::{self, Leases};
use crate::mutant::mutant;
use crate::mvcc::{self, Store};
use crate::node::Reply;
use crate::raft::{CommittedEntry, ConfState, MembershipChange, membership_payload};
use crate::types::{LeaseId, LogIndex, MemberId, Term};

/// What applying brought about, in order.
#[derive(Debug)]
pub enum Effect {
    /// The answer to a command, for the member that took it.
    Answer {
        /// That member.
        origin: MemberId,
        /// Which start of it.
        boot: u64,
        /// Its number for the command.
        request: u64,
        /// The answer.
        result: Result<Reply, Error>,
    },
    /// Keys changed.
    Events(Arc<EventBatch>),
    /// The compacted revision moved.
    Compacted(i64),
    /// A lease began.
    LeaseGranted(LeaseId),
    /// The checkpoint of a lease was stored or cleared.
    LeaseCheckpointed(LeaseId),
    /// A lease ended.
    LeaseRevoked(LeaseId),
    /// Members, alarms or the cluster version changed.
    ClusterChanged,
    /// An alarm was turned off.
    AlarmOff(Alarm),
    /// Who takes part in consensus changed; consensus itself must be told, and agree.
    MembershipChanged(MembershipChange, ConfState),
    /// The entry that marks the start of a leader's term.
    TermStarted(Term),
}

/// All replicated state of one member.
pub struct Machine {
    pub(super) store: Store,
    leases: Leases,
    pub(super) members: Members,
    alarms: Alarms,
    cluster_version: String,
    pub(super) applied: Applied,
    pub(super) rows: WriteBatch,
}

impl Machine {
    /// Reads the state back from the engine.
    pub fn load(engine: Arc<dyn Engine>, options: mvcc::Options) -> Result<Self, Fatal> {
        let applied = load_position(engine.as_ref())?;
        let store = Store::open(engine, applied.revision, applied.compact_revision, options)?;
        let mut machine = Self {
            store,
            leases: Leases::new(),
            members: Members::default(),
            alarms: Alarms::default(),
            cluster_version: String::new(),
            applied,
            rows: WriteBatch::new(),
        };
        machine.load_beside_keys()?;
        Ok(machine)
    }

    /// Reads everything anew after the engine's rows were replaced. Readers of the keys, which
    /// were refused since [`Store::close`](crate::mvcc::Store::close), go on.
    pub fn reload(&mut self, options: mvcc::Options) -> Result<(), Fatal> {
        self.applied = load_position(self.store.engine())?;
        self.rows = WriteBatch::new();
        self.store.reopen(self.applied.revision, self.applied.compact_revision, options)?;
        self.load_beside_keys()
    }

    fn load_beside_keys(&mut self) -> Result<(), Fatal> {
        let engine = self.store.engine();
        let (members, alarms, cluster_version) = cluster::rows::load(engine)?;
        let mut leases = Leases::load(engine)?;
        let mut orphan = None;
        self.store.for_each_leased(|id, key| {
            if mutant!("keys_of_leases_are_lost_at_a_restart") {
                return;
            }
            if leases.attach(id, key.clone()).is_err() {
                orphan = Some(id);
            }
        });
        if let Some(id) = orphan {
            return Err(Fatal::Damaged(format!("a key hangs on a lease that does not exist; lease={id}")));
        }
        (self.members, self.alarms, self.cluster_version) = (members, alarms, cluster_version);
        self.leases = leases;
        Ok(())
    }

    /// How far this is.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The key store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The key store, for what is not replicated in it (what is stored, what may leave memory).
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The members.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The active alarms.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// The replicated version, empty while undecided.
    pub fn cluster_version(&self) -> &str {
        &self.cluster_version
    }

    /// The rows of everything applied since the last call, with the applied position; `None` if
    /// nothing was.
    pub fn take_rows(&mut self) -> WriteBatch {
        self.applied.write(&mut self.rows);
        std::mem::take(&mut self.rows)
    }

    /// Size of the rows that wait for [`Self::take_rows`], in bytes.
    pub fn rows_bytes(&self) -> usize {
        self.rows.size_bytes()
    }

    /// Applies one committed entry.
    pub fn apply(&mut self, entry: CommittedEntry, effects: &mut Vec<Effect>) -> Result<(), Fatal> {
        assert_eq!(entry.index.0, self.applied.index.0 + 1, "entries are applied one after the other");
        let rows_before = self.rows.size_bytes();
        let mut hash = self.applied.chain_hash;
        fold(&mut hash, &[entry.index.0.to_le_bytes(), entry.term.0.to_le_bytes()].concat());
        let data = match entry.conf_change {
            true => membership_payload(&entry.data)?.into(),
            false => entry.data,
        };
        if data.is_empty() {
            effects.push(Effect::TermStarted(entry.term));
        } else {
            let Entry { origin, boot, commands } = Entry::decode(data)?;
            for (request, command) in commands {
                if command.kind.changes_membership() != entry.conf_change {
                    return Err(Fatal::Entry(format!(
                        "a command stands in an entry of the wrong type; kind={:?} index={}",
                        command.kind, entry.index
                    )));
                }
                let result = match self.execute(command, (entry.index, entry.term), effects) {
                    Ok(reply) => Ok(reply),
                    Err(Failure::Answer(error)) => Err(error),
                    Err(Failure::Fatal(fatal)) => return Err(fatal),
                };
                if let Err(error) = &result {
                    fold(&mut hash, error.to_string().as_bytes());
                }
                effects.push(Effect::Answer { origin, boot, request, result });
            }
        }
        fold(&mut hash, self.rows.bytes_from(rows_before));
        fold(
            &mut hash,
            &[self.store.revision().to_le_bytes(), self.store.compact_revision().to_le_bytes()].concat(),
        );
        self.applied.chain_hash = hash;
        self.applied.index = entry.index;
        self.applied.term = entry.term;
        Ok(())
    }

    /// Spoils the state as a flipped bit would, to show that it is noticed.
    #[doc(hidden)]
    pub fn spoil(&mut self) {
        self.applied.chain_hash ^= 1;
    }

    fn execute(
        &mut self,
        command: Command,
        (index, term): (LogIndex, Term),
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        let Command { kind, body } = command;
        match kind {
            Kind::Put => {
                let request = codec::kv::decode_put(body)?;
                gate::pass(&self.alarms, kind, true)?;
                mvcc::validate::check_put(&request)?;
                let leases = &self.leases;
                let (response, events) =
                    self.store.apply_put(request, &|id| leases.contains(id), &mut self.rows)?;
                self.changed(events, effects)?;
                Ok(Reply::Put(response))
            }
            Kind::DeleteRange => {
                let request = codec::kv::decode_delete_range(body)?;
                gate::pass(&self.alarms, kind, false)?;
                mvcc::validate::check_delete_range(&request)?;
                let (response, events) = self.store.apply_delete_range(request, &mut self.rows)?;
                self.changed(events, effects)?;
                Ok(Reply::DeleteRange(response))
            }
            Kind::Txn => {
                let request = codec::kv::decode_txn(body)?;
                gate::pass(&self.alarms, kind, mvcc::validate::quota_cost_txn(&request) > 0)?;
                let leases = &self.leases;
                let (response, events) =
                    self.store.apply_txn(&request, &|id| leases.contains(id), &mut self.rows)?;
                self.changed(events, effects)?;
                Ok(Reply::Txn(response))
            }
            Kind::Compact => {
                let revision = codec::kv::decode_compact(body)?;
                gate::pass(&self.alarms, kind, false)?;
                self.store.compact(revision)?;
                self.applied.compact_revision = self.store.compact_revision();
                effects.push(Effect::Compacted(revision));
                Ok(Reply::Compact { revision: self.store.revision() })
            }
            Kind::LeaseGrant => {
                let (id, ttl) = codec::lease::decode_grant(body)?;
                gate::pass(&self.alarms, kind, true)?;
                self.grant(id, ttl, index, effects)
            }
            Kind::LeaseRevoke => {
                let id = codec::lease::decode_revoke(body)?;
                gate::pass(&self.alarms, kind, false)?;
                self.revoke(LeaseId::from_wire(id).ok_or(Error::LeaseNotFound)?, effects)?;
                Ok(Reply::LeaseRevoke { revision: self.store.revision() })
            }
            Kind::LeaseExpire => {
                let (proposed_in, leases) = codec::lease::decode_expire(body)?;
                gate::pass(&self.alarms, kind, false)?;
                // A leader that was replaced meanwhile must not end leases that the next one
                // has renewed (etcd #15247): its proposal carries the term it led.
                if proposed_in == term || mutant!("an_old_leader_ends_leases") {
                    for (id, granted_at) in leases {
                        // A lease that was revoked and granted anew meanwhile is another one.
                        if self.leases.get(id).is_some_and(|lease| lease.granted_at == granted_at) {
                            self.revoke(id, effects)?;
                        }
                    }
                }
                Ok(Reply::Done { revision: self.store.revision() })
            }
            Kind::LeaseCheckpoint => {
                for (id, remaining) in codec::lease::decode_checkpoint(body)? {
                    // The lease may have ended since the leader looked.
                    if self.leases.checkpoint(id, remaining).is_ok() {
                        self.write_lease(id);
                        effects.push(Effect::LeaseCheckpointed(id));
                    }
                }
                Ok(Reply::Done { revision: self.store.revision() })
            }
            Kind::Alarm => {
                let action = codec::cluster::decode_alarm(body)?;
                Ok(Reply::Alarm { alarms: self.alarm(action, effects), revision: self.store.revision() })
            }
            Kind::MemberPublish => {
                self.publish(codec::cluster::decode_publish(body)?, effects);
                Ok(Reply::Done { revision: self.store.revision() })
            }
            Kind::ClusterVersion => {
                let version = String::from_utf8(body.to_vec())
                    .map_err(|_| Fatal::Entry("a cluster version is not UTF-8".into()))?;
                cluster::rows::put_cluster_version(&mut self.rows, &version);
                self.cluster_version = version;
                effects.push(Effect::ClusterChanged);
                Ok(Reply::Done { revision: self.store.revision() })
            }
            Kind::MemberAdd => self.add_member(codec::cluster::decode_member(body)?, effects),
            Kind::MemberRemove => self.remove_member(codec::cluster::decode_member_id(body)?, effects),
            Kind::MemberPromote => self.promote_member(codec::cluster::decode_member_id(body)?, effects),
            Kind::MemberDisk => {
                let (id, incarnation) = codec::cluster::decode_member_disk(body)?;
                self.name_disk(id, incarnation, effects);
                Ok(Reply::Done { revision: self.store.revision() })
            }
            Kind::MemberUpdate => self.update_member(codec::cluster::decode_member(body)?, effects),
        }
    }

    fn grant(
        &mut self,
        id: i64,
        ttl: i64,
        index: LogIndex,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        // Ids are filled in before a grant enters the log.
        let id = LeaseId::from_wire(id).ok_or(Error::LeaseNotFound)?;
        // The minimum depends on a member's election timeout, so it was applied before the grant
        // entered the log; here 1 second is the floor.
        let ttl = self.leases.grant(id, ttl, 1)?;
        self.leases.granted_at(id, index);
        self.write_lease(id);
        effects.push(Effect::LeaseGranted(id));
        Ok(Reply::LeaseGrant { id, ttl, revision: self.store.revision() })
    }

    fn revoke(&mut self, id: LeaseId, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let keys = self.leases.revoke(id)?;
        self.rows.delete(Family::Lease, &lease::rows::key(id));
        let mut txn = self.store.begin(&mut self.rows);
        txn.delete_keys(keys)?;
        let events = txn.commit();
        self.changed(events, effects)?;
        effects.push(Effect::LeaseRevoked(id));
        Ok(())
    }

    fn write_lease(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.get(id) {
            self.rows.put(Family::Lease, &lease::rows::key(id), &lease::rows::encode(lease));
        }
    }

    /// Follows what the key store changed: attachments of leases, the chain hash, the watchers.
    fn changed(&mut self, events: Option<EventBatch>, effects: &mut Vec<Effect>) -> Result<(), Fatal> {
        let Some(batch) = events else { return Ok(()) };
        assert_eq!(batch.revision, self.applied.revision + 1, "revisions rise one by one");
        for event in &batch.events {
            let before = event.prev.as_ref().and_then(|prev| prev.lease);
            if before != event.kv.lease {
                if let Some(id) = before {
                    self.leases.detach(id, &event.kv.key);
                }
                if let Some(id) = event.kv.lease {
                    // The store accepted the put because the lease exists.
                    self.leases.attach(id, event.kv.key.clone()).map_err(|_| {
                        Fatal::Damaged(format!("a key was put with a lease that does not exist; lease={id}"))
                    })?;
                }
            }
        }
        self.applied.revision = batch.revision;
        effects.push(Effect::Events(Arc::new(batch)));
        Ok(())
    }

    fn alarm(&mut self, action: AlarmAction, effects: &mut Vec<Effect>) -> Vec<Alarm> {
        match action {
            AlarmAction::List(kind) => self.alarms.list(kind),
            AlarmAction::Activate(member, Some(kind)) => {
                let alarm = Alarm { member, kind };
                self.alarms.activate(alarm);
                cluster::rows::put_alarm(&mut self.rows, alarm);
                effects.push(Effect::ClusterChanged);
                vec![alarm]
            }
            AlarmAction::Deactivate(member, Some(kind)) => {
                let alarm = Alarm { member, kind };
                if !self.alarms.deactivate(alarm) {
                    return Vec::new();
                }
                cluster::rows::remove_alarm(&mut self.rows, alarm);
                effects.push(Effect::ClusterChanged);
                effects.push(Effect::AlarmOff(alarm));
                vec![alarm]
            }
            AlarmAction::Activate(_, None) | AlarmAction::Deactivate(_, None) | AlarmAction::Unknown => {
                Vec::new()
            }
        }
    }

    /// A member announces its name and client URLs; everything else about it stays.
    fn publish(&mut self, announced: cluster::Member, effects: &mut Vec<Effect>) {
        let Some(known) = self.members.get(announced.id) else { return };
        let member =
            cluster::Member { name: announced.name, client_urls: announced.client_urls, ..known.clone() };
        cluster::rows::put_member(&mut self.rows, &member);
        self.members.put(member);
        effects.push(Effect::ClusterChanged);
    }
}

fn load_position(engine: &dyn Engine) -> Result<Applied, Fatal> {
    Applied::load(engine)?.ok_or_else(|| Fatal::Damaged("the engine holds no applied position".into()))
}

/// Takes more into the chain hash. It covers what is replicated and how requests were answered,
/// not what members do by themselves, such as removing superseded rows.
fn fold(hash: &mut u64, bytes: &[u8]) {
    *hash = xxh3_64_with_seed(bytes, *hash);
}
