//! Watchers on two streams; a third one has those that are refused for a negative revision.

use folkmoot_proto::etcdserverpb as pb;
use rand::RngExt;

use super::Generator;
use super::universe::Universe;
use crate::request::{COMPACTED, CURRENT, Request, StreamIndex};

/// Number of streams on which ordinary watchers live.
const STREAMS: StreamIndex = 2;

impl Generator {
    fn stream(&mut self) -> StreamIndex {
        if self.once_in(4) { STREAMS - 1 } else { 0 }
    }

    fn start_revision(&mut self) -> i64 {
        if !self.history {
            return self.pick(&[0, 0, 0, CURRENT + 1, CURRENT + 4]);
        }
        match self.rng.random_range(0..10) {
            0..3 => 0,
            3..7 => CURRENT - self.rng.random_range(0..20),
            7..9 => COMPACTED + self.rng.random_range(-2..=2),
            _ => self.pick(&[1, CURRENT + 1, CURRENT + 5]),
        }
    }

    pub(super) fn watch(&mut self) {
        let key = self.universe.key(&mut self.rng);
        let range_end = self.universe.range_end(&mut self.rng, &key);
        let mut create = pb::WatchCreateRequest { key, range_end, ..Default::default() };
        if self.once_in(3) {
            (create.key, create.range_end) = Universe::everything();
        }
        create.start_revision = self.start_revision();
        create.prev_kv = self.rng.random();
        create.fragment = self.once_in(4);
        create.progress_notify = self.once_in(8);
        if self.once_in(4) {
            let filter = self.pick(&[0, 0, 1, 1, 7]);
            create.filters.push(filter);
        }
        if self.once_in(25) {
            // Such a watcher sees nothing, so nobody can tell when it has read its history.
            create.filters = vec![0, 1];
            create.start_revision = 0;
        }
        if self.once_in(3) {
            create.watch_id = self.pick(&[1, 2, 3, 1000, -2, i64::MIN]);
        }
        let mut stream = self.stream();
        if self.once_in(40) {
            create.start_revision = self.pick(&[-1, -5, i64::MIN]);
            stream = STREAMS;
        }
        self.script.push(Request::Watch { stream, create });
    }

    pub(super) fn cancel(&mut self) {
        let stream = self.stream();
        let watch_id = self.pick(&[0, 0, 1, 1, 2, 3, 1000, 77, -2, -1]);
        self.script.push(Request::Cancel { stream, watch_id });
    }

    pub(super) fn progress(&mut self) {
        let stream = self.stream();
        self.script.push(Request::Progress { stream });
    }
}
