//! Alarms: replicated, cluster-wide, raised for one member, never cleared by themselves.

use std::collections::BTreeSet;

use crate::types::MemberId;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(i32)]
pub enum AlarmKind {
    /// The space quota is used up.
    NoSpace = 1,
    /// A member's state differs from the others'.
    Corrupt = 2,
}

impl AlarmKind {
    /// The kind of a wire number; 0 (none) and unknown numbers have none.
    pub fn from_wire(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::NoSpace),
            2 => Some(Self::Corrupt),
            _ => None,
        }
    }
}

/// One active alarm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Alarm {
    /// For whom; not checked against the membership, as in etcd.
    pub member: MemberId,
    /// What is wrong.
    pub kind: AlarmKind,
}

/// The active alarms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Alarms {
    active: BTreeSet<Alarm>,
}

impl Alarms {
    /// Turns an alarm on; on already is fine.
    pub fn activate(&mut self, alarm: Alarm) {
        self.active.insert(alarm);
    }

    /// Turns an alarm off; says whether it was on.
    pub fn deactivate(&mut self, alarm: Alarm) -> bool {
        self.active.remove(&alarm)
    }

    /// Whether any member has this alarm.
    pub fn any(&self, kind: AlarmKind) -> bool {
        self.active.iter().any(|alarm| alarm.kind == kind)
    }

    /// All of one kind, or all.
    pub fn list(&self, kind: Option<AlarmKind>) -> Vec<Alarm> {
        self.active.iter().filter(|alarm| kind.is_none_or(|kind| alarm.kind == kind)).copied().collect()
    }
}
