//! Who may connect, from the membership that the owner last told.
//!
//! Pure. Invariants: a removed id is refused for ever, and before it is called unknown; once a
//! boot of a member was seen, an older one of the same disk is refused.

use std::collections::{BTreeMap, BTreeSet};

use folkmoot_core::types::MemberId;

use crate::config::Identity;
use crate::event::PeerMember;
use crate::handshake::{Hello, Refusal, Welcome};

pub(crate) struct Roster {
    me: Identity,
    /// The other members, each with its disk if that is known.
    members: BTreeMap<MemberId, Option<u64>>,
    removed: BTreeSet<MemberId>,
    /// The disk and the boot of each member's newest process that connected.
    newest: BTreeMap<MemberId, (u64, u64)>,
}

impl Roster {
    pub fn new(me: Identity) -> Self {
        Self { me, members: BTreeMap::new(), removed: BTreeSet::new(), newest: BTreeMap::new() }
    }

    /// Takes a new membership.
    pub fn update(&mut self, members: &[PeerMember], removed: &[MemberId]) {
        self.removed = removed.iter().copied().collect();
        self.members = members
            .iter()
            .filter(|member| member.id != self.me.member && !self.removed.contains(&member.id))
            .map(|member| (member.id, member.incarnation))
            .collect();
        self.newest.retain(|id, _| self.members.contains_key(id));
    }

    /// Whether a member may connect.
    pub fn check(&self, hello: &Hello) -> Result<(), Refusal> {
        if hello.cluster != self.me.cluster {
            return Err(Refusal::WrongCluster { acceptor: self.me.cluster, dialler: hello.cluster });
        }
        if hello.to != self.me.member {
            return Err(Refusal::NotForMe { acceptor: self.me.member, wanted: hello.to });
        }
        if self.removed.contains(&hello.from) {
            return Err(Refusal::Removed { member: hello.from });
        }
        let Some(expected) = self.members.get(&hello.from) else {
            return Err(Refusal::UnknownMember { member: hello.from });
        };
        check_disk(*expected, hello.incarnation)?;
        match self.newest.get(&hello.from) {
            Some((incarnation, newest)) if *incarnation == hello.incarnation && *newest > hello.boot => {
                Err(Refusal::OldBoot { newest: *newest, found: hello.boot })
            }
            _ => Ok(()),
        }
    }

    /// A member that passed the check is connected.
    pub fn saw(&mut self, hello: &Hello) {
        self.newest.insert(hello.from, (hello.incarnation, hello.boot));
    }

    /// Whether who answered is who was dialled. The acceptor has checked the same; this side must
    /// not rely on that, since a wiped disk does not know that it was.
    pub fn check_answer(&self, wanted: &PeerMember, welcome: &Welcome) -> Result<(), Refusal> {
        if welcome.cluster != self.me.cluster {
            return Err(Refusal::WrongCluster { acceptor: welcome.cluster, dialler: self.me.cluster });
        }
        if welcome.member != wanted.id {
            return Err(Refusal::NotForMe { acceptor: welcome.member, wanted: wanted.id });
        }
        check_disk(wanted.incarnation, welcome.incarnation)
    }
}

/// Whether a member's disk is the one it should have.
pub(crate) fn check_disk(expected: Option<u64>, found: u64) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != found => Err(Refusal::DiskReplaced { expected, found }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use folkmoot_core::types::ClusterId;

    use super::*;

    const ME: Identity = Identity { cluster: ClusterId(9), member: MemberId(1), boot: 1, incarnation: 100 };

    fn hello() -> Hello {
        Hello {
            cluster: ClusterId(9),
            from: MemberId(2),
            to: MemberId(1),
            boot: 5,
            incarnation: 200,
            nonce: 0,
        }
    }

    fn roster(incarnation: Option<u64>) -> Roster {
        let mut roster = Roster::new(ME);
        let me = PeerMember { id: MemberId(1), urls: vec![], incarnation: None };
        let other = PeerMember { id: MemberId(2), urls: vec![], incarnation };
        let gone = PeerMember { id: MemberId(3), urls: vec![], incarnation: None };
        roster.update(&[me, other, gone], &[MemberId(3)]);
        roster
    }

    #[test]
    fn only_a_current_member_with_its_disk_may_connect() {
        assert_eq!(roster(None).check(&hello()), Ok(()));
        let roster = roster(Some(200));
        assert_eq!(roster.check(&hello()), Ok(()));
        let refused = |change: fn(&mut Hello)| {
            let mut hello = hello();
            change(&mut hello);
            roster.check(&hello).unwrap_err()
        };
        let (acceptor, dialler) = (ClusterId(9), ClusterId(8));
        assert_eq!(refused(|h| h.cluster = ClusterId(8)), Refusal::WrongCluster { acceptor, dialler });
        let (acceptor, wanted) = (MemberId(1), MemberId(7));
        assert_eq!(refused(|h| h.to = MemberId(7)), Refusal::NotForMe { acceptor, wanted });
        assert_eq!(refused(|h| h.from = MemberId(3)), Refusal::Removed { member: MemberId(3) });
        assert_eq!(refused(|h| h.from = MemberId(4)), Refusal::UnknownMember { member: MemberId(4) });
        assert_eq!(refused(|h| h.from = MemberId(1)), Refusal::UnknownMember { member: MemberId(1) });
        assert_eq!(refused(|h| h.incarnation = 201), Refusal::DiskReplaced { expected: 200, found: 201 });
    }

    #[test]
    fn an_older_boot_of_the_same_disk_is_refused() {
        let mut roster = roster(None);
        roster.saw(&hello());
        assert_eq!(roster.check(&hello()), Ok(()));
        assert_eq!(roster.check(&Hello { boot: 6, ..hello() }), Ok(()));
        let old = Hello { boot: 4, ..hello() };
        assert_eq!(roster.check(&old), Err(Refusal::OldBoot { newest: 5, found: 4 }));
        assert_eq!(roster.check(&Hello { incarnation: 201, ..old }), Ok(()));
    }

    #[test]
    fn who_answers_must_be_who_was_dialled() {
        let wanted = PeerMember { id: MemberId(2), urls: vec![], incarnation: Some(200) };
        let welcome =
            Welcome { cluster: ClusterId(9), member: MemberId(2), boot: 1, incarnation: 200, nonce: 0 };
        let check = |welcome: Welcome| roster(None).check_answer(&wanted, &welcome);
        assert_eq!(check(welcome), Ok(()));
        assert!(matches!(
            check(Welcome { cluster: ClusterId(8), ..welcome }),
            Err(Refusal::WrongCluster { .. })
        ));
        assert!(matches!(check(Welcome { member: MemberId(3), ..welcome }), Err(Refusal::NotForMe { .. })));
        assert!(matches!(check(Welcome { incarnation: 1, ..welcome }), Err(Refusal::DiskReplaced { .. })));
    }
}
