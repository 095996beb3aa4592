//! What a command must pass before it is executed: one straight list, outermost first.

use crate::cluster::{AlarmKind, Alarms};
use crate::command::Kind;
use crate::error::Error;

/// Refuses commands that an active alarm forbids. `costs_space` says whether the command may
/// grow the store (a put, a grant, a txn with a put in either branch).
pub fn pass(alarms: &Alarms, kind: Kind, costs_space: bool) -> Result<(), Error> {
    if alarms.any(AlarmKind::Corrupt) && is_refused_when_corrupt(kind) {
        return Err(Error::Corrupt);
    }
    if costs_space && alarms.any(AlarmKind::NoSpace) {
        return Err(Error::NoSpace);
    }
    Ok(())
}

fn is_refused_when_corrupt(kind: Kind) -> bool {
    match kind {
        Kind::Put | Kind::DeleteRange | Kind::Txn | Kind::Compact | Kind::LeaseGrant | Kind::LeaseRevoke => {
            true
        }
        // A lease whose time is up must go even then: etcd's lessor revokes through the same
        // applier and is refused, which leaves expired leases for ever; here they end.
        Kind::LeaseExpire
        | Kind::LeaseCheckpoint
        | Kind::Alarm
        | Kind::MemberPublish
        | Kind::ClusterVersion
        | Kind::MemberAdd
        | Kind::MemberRemove
        | Kind::MemberPromote
        | Kind::MemberUpdate
        | Kind::MemberDisk => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Alarm;
    use crate::types::MemberId;

    fn with(kind: AlarmKind) -> Alarms {
        let mut alarms = Alarms::default();
        alarms.activate(Alarm { member: MemberId(1), kind });
        alarms
    }

    #[test]
    fn a_full_store_still_deletes_compacts_and_revokes() {
        let full = with(AlarmKind::NoSpace);
        assert_eq!(pass(&full, Kind::Put, true), Err(Error::NoSpace));
        assert_eq!(pass(&full, Kind::LeaseGrant, true), Err(Error::NoSpace));
        for kind in [Kind::DeleteRange, Kind::Compact, Kind::LeaseRevoke, Kind::Txn] {
            assert_eq!(pass(&full, kind, false), Ok(()));
        }
    }

    #[test]
    fn a_corrupt_cluster_refuses_writes_but_not_the_alarm_that_ends_it() {
        let corrupt = with(AlarmKind::Corrupt);
        assert_eq!(pass(&corrupt, Kind::DeleteRange, false), Err(Error::Corrupt));
        assert_eq!(pass(&corrupt, Kind::Alarm, false), Ok(()));
    }
}
