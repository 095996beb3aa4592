//! Leases, locks and elections.

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::v3electionpb as election;
use folkmoot_proto::v3lockpb as lock;
use rand::RngExt;

use super::Generator;
use super::universe::NAMES;
use crate::request::{CAMPAIGNED, Request};

impl Generator {
    /// A lease that cannot expire during the script.
    pub(super) fn grant_long(&mut self) {
        let id = self.universe.lease(&mut self.rng);
        let ttl = self.pick(&[3600, 100_000, 9_000_000_000]);
        self.script.push(Request::Grant(pb::LeaseGrantRequest { ttl, id }));
    }

    pub(super) fn grant(&mut self) {
        if !self.once_in(3) {
            return self.grant_long();
        }
        let random_id = self.once_in(3);
        let id = if random_id { 0 } else { self.universe.lease(&mut self.rng) };
        let ttl = self.pick(&[0, -1, 1, 2, 3, i64::MIN, 9_000_000_001, i64::MAX]);
        self.script.push(Request::Grant(pb::LeaseGrantRequest { ttl, id }));
        if !random_id {
            // A short lease must be gone before its time is up, which comes at a different moment
            // on each server.
            self.script.push(Request::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys: true }));
            self.script.push(Request::Revoke(pb::LeaseRevokeRequest { id }));
        }
    }

    /// Nearly always a lease of the universe.
    fn some_lease(&mut self) -> i64 {
        if self.once_in(15) { self.pick(&[0, 4711, -1]) } else { self.universe.lease(&mut self.rng) }
    }

    pub(super) fn revoke(&mut self) {
        let id = self.some_lease();
        self.script.push(Request::Revoke(pb::LeaseRevokeRequest { id }));
    }

    pub(super) fn time_to_live(&mut self) {
        let id = self.some_lease();
        let keys = !self.once_in(4);
        self.script.push(Request::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys }));
    }

    pub(super) fn keep_alive(&mut self) {
        let id = self.some_lease();
        self.script.push(Request::KeepAlive(pb::LeaseKeepAliveRequest { id }));
    }

    /// A name, its only holder, and the key which that holder gets: etcd writes the lease id in hex
    /// with its sign in front.
    fn claim(&mut self) -> (Bytes, i64, Bytes) {
        let index = self.rng.random_range(0..NAMES.len());
        let (name, lease) = (NAMES[index], self.holders[index]);
        let sign = if lease < 0 { "-" } else { "" };
        let key = format!("{name}/{sign}{:x}", lease.unsigned_abs());
        (Bytes::from_static(name.as_bytes()), lease, key.into())
    }

    pub(super) fn lock(&mut self) {
        let (name, lease, key) = self.claim();
        // Only its own lease may ask for a lock, or the request would wait for good. An unknown lease
        // is refused without waiting.
        let request = match self.rng.random_range(0..8) {
            0..4 => Request::Lock(lock::LockRequest { name, lease }),
            4 => Request::Lock(lock::LockRequest { name, lease: 4711 }),
            5..7 => Request::Unlock(lock::UnlockRequest { key }),
            _ => Request::Unlock(lock::UnlockRequest { key: self.universe.key(&mut self.rng) }),
        };
        self.script.push(request);
    }

    pub(super) fn election(&mut self) {
        let (name, lease, key) = self.claim();
        let value = self.universe.value(&mut self.rng);
        let rev = if self.once_in(5) { self.pick(&[0, -1, CAMPAIGNED + 1]) } else { CAMPAIGNED };
        let leader = Some(election::LeaderKey { name: name.clone(), key, rev, lease });
        let leader = if self.once_in(12) { None } else { leader };
        let request = match self.rng.random_range(0..10) {
            0..4 => Request::Campaign(election::CampaignRequest { name, lease, value }),
            4..6 => Request::Leader(election::LeaderRequest { name }),
            6..8 => Request::Proclaim(election::ProclaimRequest { leader, value }),
            _ => Request::Resign(election::ResignRequest { leader }),
        };
        self.script.push(request);
    }
}
