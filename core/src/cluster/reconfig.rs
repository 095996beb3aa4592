//! etcd's strict reconfiguration check (`--strict-reconfig-check`): whether a membership change is
//! safe given who has started and who is connected.
//!
//! Pure arithmetic over the voters. "Started" is a member that has published its name.
//! "Connected" is the member that judges, and whoever it has been in touch with for a while.

use crate::error::Error;
use crate::types::MemberId;

/// What is known about one voter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Voter {
    /// Which member.
    pub id: MemberId,
    /// Whether it has published its name.
    pub started: bool,
    /// Whether it has been in touch for long enough.
    pub connected: bool,
}

fn quorum(count: usize) -> usize {
    count / 2 + 1
}

fn started(voters: &[Voter]) -> usize {
    voters.iter().filter(|voter| voter.started).count()
}

fn connected(voters: &[Voter]) -> usize {
    voters.iter().filter(|voter| voter.connected).count()
}

/// Whether a member may be added.
///
/// # Errors
/// `MemberNotEnoughStarted`, `Unhealthy`.
pub fn check_add(voters: &[Voter], learner: bool) -> Result<(), Error> {
    let after = voters.len() + 1;
    // A cluster of one may grow to two although the second has not started.
    let first_growth = started(voters) == 1 && after == 2;
    if !learner && !first_growth && started(voters) < quorum(after) {
        return Err(Error::MemberNotEnoughStarted);
    }
    // etcd counts a learner like a voter here.
    if voters.len() > 1 && connected(voters) < quorum(after) {
        return Err(Error::Unhealthy);
    }
    Ok(())
}

/// Whether a voter may be removed; `me` is the member that judges.
///
/// # Errors
/// `MemberNotEnoughStarted`, `Unhealthy`.
pub fn check_remove(voters: &[Voter], target: MemberId, me: MemberId) -> Result<(), Error> {
    let Some(removed) = voters.iter().find(|voter| voter.id == target) else { return Ok(()) };
    let left = voters.len() - 1;
    if started(voters) - usize::from(removed.started) < quorum(left) {
        return Err(Error::MemberNotEnoughStarted);
    }
    // One that is gone anyway can only help by leaving.
    if target != me && !removed.connected {
        return Ok(());
    }
    if connected(voters).saturating_sub(1) < 1 + left / 2 {
        return Err(Error::Unhealthy);
    }
    Ok(())
}

/// Whether a learner may be promoted.
///
/// # Errors
/// `MemberNotEnoughStarted`.
pub fn check_promote(voters: &[Voter]) -> Result<(), Error> {
    match started(voters) + 1 < quorum(voters.len() + 1) {
        true => Err(Error::MemberNotEnoughStarted),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: MemberId = MemberId(1);

    /// Voters 1.. of which the first so many have started and are connected.
    fn voters(count: u64, started: u64, connected: u64) -> Vec<Voter> {
        (1..=count)
            .map(|id| Voter { id: MemberId(id), started: id <= started, connected: id <= connected })
            .collect()
    }

    #[test]
    fn etcds_worked_examples_hold() {
        assert_eq!(check_remove(&voters(2, 2, 2), MemberId(2), ME), Ok(()));
        assert_eq!(check_remove(&voters(3, 3, 2), MemberId(2), ME), Err(Error::Unhealthy));
        assert_eq!(check_remove(&voters(3, 3, 2), MemberId(3), ME), Ok(()));
        assert_eq!(check_add(&voters(1, 1, 1), false), Ok(()));
        assert_eq!(check_add(&voters(2, 1, 1), false), Err(Error::MemberNotEnoughStarted));
        assert_eq!(check_remove(&voters(1, 1, 1), ME, ME), Err(Error::MemberNotEnoughStarted));
        assert_eq!(check_promote(&voters(1, 1, 1)), Ok(()));
    }

    #[test]
    fn a_member_may_be_added_while_another_is_down_as_long_as_the_larger_quorum_is_up() {
        // etcd issues 21640 and 21667: refused there although a quorum holds.
        assert_eq!(check_add(&voters(4, 4, 3), false), Ok(()));
        assert_eq!(check_add(&voters(3, 3, 2), false), Err(Error::Unhealthy));
        assert_eq!(check_add(&voters(5, 5, 4), false), Ok(()));
        assert_eq!(check_add(&voters(5, 5, 3), false), Err(Error::Unhealthy));
    }

    #[test]
    fn whatever_is_allowed_keeps_a_quorum_of_started_members_up_to_seven() {
        for count in 1..=7 {
            for started_count in 1..=count {
                for connected_count in 1..=count {
                    let voters = voters(count, started_count, connected_count);
                    let (n, s) = (count as usize, started_count as usize);
                    if check_add(&voters, false).is_ok() && !(n == 1 && s == 1) {
                        assert!(s >= quorum(n + 1), "{voters:?}");
                    }
                    for target in 1..=count {
                        let target = MemberId(target);
                        let gone = voters.iter().find(|voter| voter.id == target).expect("one of them");
                        if check_remove(&voters, target, ME).is_ok() {
                            assert!(s - usize::from(gone.started) >= quorum(n - 1), "{voters:?} {target}");
                            if gone.connected {
                                assert!(connected_count as usize > quorum(n - 1), "{voters:?} {target}");
                            }
                        }
                    }
                }
            }
        }
    }
}
