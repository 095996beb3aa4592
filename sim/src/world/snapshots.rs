//! Snapshots between members: copied by the storage thread, carried by the transport beside the
//! messages, kept beside the engine until the core wants them.

use std::sync::Arc;

use bytes::Bytes;
use folkmoot_core::apply::meta::Applied;
use folkmoot_core::env::{Engine, WriteBatch};
use folkmoot_core::node::{Input, SnapshotId, mark_installed};
use folkmoot_core::types::{LogIndex, MemberId};

use super::{Happening, Life, World};
use crate::disk::{Rows, SimEngine};
use crate::network::HostAt;
use crate::sometimes::Situation;
use crate::time::{MS, SEC};

/// A copy of the engine, made for others.
pub struct Copied {
    rows: Rows,
    position: Applied,
}

/// A snapshot on its way.
pub struct Parcel {
    from: HostAt,
    from_life: Life,
    to: HostAt,
    to_life: Life,
    id: SnapshotId,
    message: Bytes,
    rows: Rows,
    position: Applied,
}

impl World {
    pub(super) fn make_snapshot(&mut self, at: HostAt, id: SnapshotId) {
        let fails = self.machine.one_in(20);
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        if fails || host.disk.capacity == 0 {
            return self.give(at, Input::SnapshotNotMade { id });
        }
        host.engine.flush().expect("the model's engine does not fail");
        let position = Applied::load(host.engine.as_ref());
        let position = position.ok().flatten().expect("the engine was bootstrapped");
        running.copies.insert(id, Copied { rows: host.engine.copy(), position: position.clone() });
        self.met(Situation::SnapshotMade);
        self.give(at, Input::SnapshotMade { id, position });
    }

    pub(super) fn drop_snapshot(&mut self, at: HostAt, id: SnapshotId) {
        let Some(running) = &mut self.hosts[at].running else { return };
        if running.copies.remove(&id).is_none() {
            self.fail("snapshot", format!("an unknown copy is dropped: {id:?}"));
        }
    }

    pub(super) fn send_snapshot(&mut self, from: HostAt, to: MemberId, id: SnapshotId, message: Bytes) {
        let to_place = self.place_of(to);
        let spoiled = self.hosts[from].spoiled;
        let running = self.hosts[from].running.as_mut();
        if spoiled && running.is_some_and(|running| running.node.state_is_in_dispute()) {
            let id = self.hosts[from].id;
            return self.fail("integrity", format!("member {id} passes a disputed state on"));
        }
        let host = &self.hosts[from];
        let Some(running) = &host.running else { return };
        let Some(copied) = running.copies.get(&id) else {
            return self.fail("snapshot", format!("an unknown copy is sent: {id:?}"));
        };
        if host.spoiled {
            // A leader whose state is wrong and that nobody has compared its own with yet passes it
            // on; two wrong members out of three are beyond repair. Its machine is taken away before
            // that happens.
            return self.replace_machine(from);
        }
        let Some(place) = to_place else {
            return self.give(from, Input::SnapshotSent { to, id, ok: false });
        };
        let parcel = Parcel {
            from,
            from_life: host.life,
            to: place,
            to_life: self.hosts[place].life,
            id,
            message,
            rows: copied.rows.clone(),
            position: copied.position.clone(),
        };
        let (index, from_id) = (parcel.position.index, self.hosts[from].id);
        self.note(|| format!("a snapshot at {index} leaves member {from_id} for {to}"));
        let time = self.machine.spread(MS, 3 * SEC);
        self.next_parcel += 1;
        self.parcels.insert(self.next_parcel, parcel);
        self.queue.push(self.now + time, Happening::Parcel(self.next_parcel));
    }

    pub(super) fn parcel_arrives(&mut self, number: u64) {
        let Some(parcel) = self.parcels.remove(&number) else { return };
        let Parcel { from, to, id, .. } = parcel;
        let receiver = self.hosts[to].id;
        let there = self.hosts[to].life == parcel.to_life && self.hosts[to].running.is_some();
        let cut = self.network.is_cut(from, to)
            || self.knows_another_disk(from, to)
            || self.knows_another_disk(to, from);
        let damaged = self.storm.damages_snapshots() && self.machine.one_in(2);
        let arrives = there && !cut && !damaged && self.hosts[from].life == parcel.from_life;
        if damaged && there && !cut {
            self.met(Situation::SnapshotDamaged);
        }
        if arrives {
            let sender = self.hosts[from].id;
            // Files that wait are numbered by the receiver.
            let staged = SnapshotId(number);
            if let Some(running) = &mut self.hosts[to].running {
                running.staged.insert(staged, parcel.rows);
                running.seen.snapshot = running.seen.snapshot.max(parcel.position.index);
            }
            let (message, position) = (parcel.message, parcel.position);
            self.give(to, Input::SnapshotArrived { from: sender, message, staged, position });
        }
        // The receiver's word may be lost on its way back.
        let told = arrives && !self.network.is_cut(to, from);
        if self.hosts[from].life == parcel.from_life {
            self.give(from, Input::SnapshotSent { to: receiver, id, ok: told });
        }
    }

    pub(super) fn install_snapshot(&mut self, at: HostAt, staged: SnapshotId, index: LogIndex) {
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        let Some(rows) = running.staged.remove(&staged) else {
            return self.fail("snapshot", format!("an unknown snapshot is installed: {staged:?}"));
        };
        let new = SimEngine::holding(rows);
        let mut mark = WriteBatch::new();
        mark_installed(&mut mark, index);
        new.write(&mark).expect("the model's engine does not fail");
        host.engine.replace(new.copy());
        let applied = Applied::load(host.engine.as_ref()).ok().flatten().expect("a snapshot has a position");
        running.stored = (applied.index, applied.revision);
        running.walk = None;
        running.compact_revision = applied.compact_revision;
        self.met(Situation::SnapshotInstalled);
        let id = self.hosts[at].id;
        self.note(|| format!("member {id} installs a snapshot at {index}"));
        self.give(at, Input::SnapshotInstalled { staged });
        self.plan_garbage(at);
    }
}

/// A member with nothing, that joins a cluster.
pub fn empty_engine() -> Arc<SimEngine> {
    use folkmoot_core::node::{Bootstrap, bootstrap};
    let engine = Arc::new(SimEngine::default());
    let nothing = Bootstrap { cluster_id: super::CLUSTER, members: Vec::new() };
    bootstrap(engine.as_ref(), &nothing).expect("the model's engine does not fail");
    engine.flush().expect("the model's engine does not fail");
    engine
}
