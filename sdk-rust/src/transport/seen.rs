//! What this client has already seen of the store, so that it never goes back in time unnoticed.

use parking_lot::Mutex;
use tokio::sync::watch;

use folkmoot_proto::etcdserverpb::ResponseHeader;

/// How an answer was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// Not older than anything that was acknowledged before.
    Linearizable,
    /// From one member's state, whatever its age.
    Serializable,
    /// The revision says nothing, only the cluster does.
    Unordered,
}

/// What was known when a call was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    epoch: u64,
    revision: i64,
}

impl Mark {
    /// Whether the store was known to be beyond this revision.
    pub fn is_after(&self, revision: i64) -> bool {
        self.revision > revision
    }
}

/// What an answer says about the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// From a member that lags behind.
    Stale,
    /// From another store, or from the same one at an earlier time.
    Reset,
}

#[derive(Debug, Default)]
struct State {
    /// 0: nothing seen yet.
    cluster_id: u64,
    revision: i64,
}

/// The newest revision of one cluster.
#[derive(Debug)]
pub(crate) struct Seen {
    state: Mutex<State>,
    /// Counts the resets.
    epoch: watch::Sender<u64>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { state: Mutex::default(), epoch: watch::Sender::new(0) }
    }
}

impl Seen {
    /// To be taken before a call is sent.
    pub fn mark(&self) -> Mark {
        let state = self.state.lock();
        Mark { epoch: *self.epoch.borrow(), revision: state.revision }
    }

    /// The same when it is known besides that the store has reached a revision.
    pub fn mark_at(&self, reached: i64) -> Mark {
        let mark = self.mark();
        Mark { revision: mark.revision.max(reached), ..mark }
    }

    /// Judges an answer and remembers it.
    pub fn judge(&self, header: &ResponseHeader, mark: Mark, consistency: Consistency) -> Verdict {
        if header.cluster_id == 0 {
            return Verdict::Fine;
        }
        let mut state = self.state.lock();
        let epoch = *self.epoch.borrow();
        let other = state.cluster_id != 0 && state.cluster_id != header.cluster_id;
        let back = consistency == Consistency::Linearizable && header.revision < mark.revision;
        if other || back {
            // An answer to a question from before the last reset proves nothing about the present.
            if mark.epoch == epoch {
                *state = State { cluster_id: header.cluster_id, revision: header.revision };
                self.epoch.send_replace(epoch + 1);
                tracing::warn!(
                    cluster_id = header.cluster_id,
                    revision = header.revision,
                    "the store was replaced or restored: sessions are lost and watches start anew"
                );
            }
            return Verdict::Reset;
        }
        state.cluster_id = header.cluster_id;
        if consistency != Consistency::Unordered {
            if consistency == Consistency::Serializable
                && mark.epoch == epoch
                && header.revision < mark.revision
            {
                return Verdict::Stale;
            }
            state.revision = state.revision.max(header.revision);
        }
        Verdict::Fine
    }

    /// The cluster, once it is known.
    pub fn cluster_id(&self) -> u64 {
        self.state.lock().cluster_id
    }

    /// Tells of resets.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cluster_id: u64, revision: i64) -> ResponseHeader {
        ResponseHeader { cluster_id, member_id: 1, revision, raft_term: 1 }
    }

    #[test]
    fn c_5_a_serializable_read_that_is_behind_is_stale() {
        let seen = Seen::default();
        let verdict = seen.judge(&header(1, 10), seen.mark(), Consistency::Linearizable);
        assert_eq!(verdict, Verdict::Fine);
        assert_eq!(seen.judge(&header(1, 9), seen.mark(), Consistency::Serializable), Verdict::Stale);
        assert_eq!(seen.judge(&header(1, 10), seen.mark(), Consistency::Serializable), Verdict::Fine);
        assert_eq!(seen.judge(&header(1, 2), seen.mark(), Consistency::Unordered), Verdict::Fine);
    }

    #[test]
    fn c_5_a_linearizable_read_that_goes_back_is_a_reset_once() {
        let seen = Seen::default();
        let epochs = seen.epochs();
        seen.judge(&header(1, 10), seen.mark(), Consistency::Linearizable);
        let early = seen.mark();
        assert_eq!(seen.judge(&header(1, 3), seen.mark(), Consistency::Linearizable), Verdict::Reset);
        assert_eq!(seen.judge(&header(1, 4), early, Consistency::Linearizable), Verdict::Reset);
        assert_eq!(*epochs.borrow(), 1);
        assert_eq!(seen.judge(&header(1, 4), seen.mark(), Consistency::Linearizable), Verdict::Fine);
    }

    #[test]
    fn c_5_an_answer_that_overtook_another_is_no_reset() {
        let seen = Seen::default();
        let before = seen.mark();
        seen.judge(&header(1, 10), before, Consistency::Linearizable);
        assert_eq!(seen.judge(&header(1, 9), before, Consistency::Linearizable), Verdict::Fine);
    }

    #[test]
    fn c_5_another_cluster_is_a_reset() {
        let seen = Seen::default();
        seen.judge(&header(1, 10), seen.mark(), Consistency::Unordered);
        assert_eq!(seen.judge(&header(2, 99), seen.mark(), Consistency::Unordered), Verdict::Reset);
        assert_eq!(seen.cluster_id(), 2);
    }
}
