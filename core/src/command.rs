//! What may enter the log: commands, several to an entry, with a format version.
//!
//! An entry's payload is
//! `version u8 (1) | origin member u64 le | origin boot u64 le | commands…`, and a command is
//! `kind u8 | request uv | length uv | body`. Bodies of client requests are the wire messages of
//! the etcd API as they came in; [`crate::codec`] reads them. `origin` and `request` let the
//! member that took a request find who waits for the answer; they never change what is applied.
//!
//! Reading is a total function: any bytes give commands or a [`Fatal::Entry`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::Fatal;
use crate::types::MemberId;

/// Version of the entry layout.
pub const ENTRY_VERSION: u8 = 1;

/// The kinds of command. Numbers are on disk: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// `etcdserverpb.PutRequest`
    Put = 1,
    /// `etcdserverpb.DeleteRangeRequest`
    DeleteRange = 2,
    /// `etcdserverpb.TxnRequest`
    Txn = 3,
    /// `etcdserverpb.CompactionRequest`
    Compact = 4,
    /// `etcdserverpb.LeaseGrantRequest` with its id filled in
    LeaseGrant = 5,
    /// `etcdserverpb.LeaseRevokeRequest`
    LeaseRevoke = 6,
    /// Expired leases: proposing term u64 le, then for each its id i64 le and the log index u64 le
    /// of its grant
    LeaseExpire = 7,
    /// `etcdserverpb.LeaseCheckpointRequest`
    LeaseCheckpoint = 8,
    /// `etcdserverpb.AlarmRequest`
    Alarm = 9,
    /// `etcdserverpb.Member`: name and client URLs of a member that started
    MemberPublish = 10,
    /// Cluster version, UTF-8 text such as `3.6.0`
    ClusterVersion = 11,
    /// `etcdserverpb.Member` with id, peer URLs and whether it is a learner; stands in a
    /// membership entry
    MemberAdd = 12,
    /// Id of a member, u64 le; stands in a membership entry
    MemberRemove = 13,
    /// Id of a learner, u64 le; stands in a membership entry
    MemberPromote = 14,
    /// `etcdserverpb.Member` with id and new peer URLs
    MemberUpdate = 15,
    /// Id of a member, u64 le, and the random number of its disk, u64 le
    MemberDisk = 16,
}

impl Kind {
    /// The kind of a number on disk.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Put,
            2 => Self::DeleteRange,
            3 => Self::Txn,
            4 => Self::Compact,
            5 => Self::LeaseGrant,
            6 => Self::LeaseRevoke,
            7 => Self::LeaseExpire,
            8 => Self::LeaseCheckpoint,
            9 => Self::Alarm,
            10 => Self::MemberPublish,
            11 => Self::ClusterVersion,
            12 => Self::MemberAdd,
            13 => Self::MemberRemove,
            14 => Self::MemberPromote,
            15 => Self::MemberUpdate,
            16 => Self::MemberDisk,
            _ => return None,
        })
    }

    /// Whether the command changes who belongs to the cluster, which only the leader may propose,
    /// one at a time, as an entry that consensus itself understands.
    pub fn changes_membership(self) -> bool {
        matches!(self, Self::MemberAdd | Self::MemberRemove | Self::MemberPromote)
    }
}

/// One command: its kind and its body's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// What it is.
    pub kind: Kind,
    /// Encoded request.
    pub body: Bytes,
}

/// Builds the payload of one entry.
#[derive(Debug)]
pub struct EntryBuilder {
    buf: BytesMut,
    count: usize,
}

impl EntryBuilder {
    /// An empty entry of `origin`, started as its `boot`.
    pub fn new(origin: MemberId, boot: u64) -> Self {
        let mut buf = BytesMut::with_capacity(1024);
        buf.put_u8(ENTRY_VERSION);
        buf.put_u64_le(origin.0);
        buf.put_u64_le(boot);
        Self { buf, count: 0 }
    }

    /// Adds a command with the origin's number for it.
    pub fn push(&mut self, request: u64, command: &Command) {
        self.buf.put_u8(command.kind as u8);
        put_uv(&mut self.buf, request);
        put_uv(&mut self.buf, command.body.len() as u64);
        self.buf.extend_from_slice(&command.body);
        self.count += 1;
    }

    /// Commands so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes so far.
    pub fn size_bytes(&self) -> usize {
        self.buf.len()
    }

    /// The payload.
    pub fn finish(self) -> Vec<u8> {
        self.buf.into()
    }
}

/// An entry's payload, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The member that took the requests.
    pub origin: MemberId,
    /// Which start of that member.
    pub boot: u64,
    /// The commands with the origin's numbers for them, in order.
    pub commands: Vec<(u64, Command)>,
}

impl Entry {
    /// Reads a payload. Bodies are slices of `payload`.
    pub fn decode(payload: Bytes) -> Result<Self, Fatal> {
        let mut rest = payload;
        let short = |what: &str| Fatal::Entry(format!("ends inside its {what}"));
        if rest.len() < 17 {
            return Err(short("header"));
        }
        let version = rest.get_u8();
        if version != ENTRY_VERSION {
            return Err(Fatal::Entry(format!(
                "format version is unknown, a newer member may have written it; version={version}"
            )));
        }
        let origin = MemberId(rest.get_u64_le());
        let boot = rest.get_u64_le();
        let mut commands = Vec::new();
        while rest.has_remaining() {
            let number = rest.get_u8();
            let kind = Kind::from_number(number).ok_or_else(|| {
                Fatal::Entry(format!(
                    "command kind is unknown, a newer member may have written it; kind={number}"
                ))
            })?;
            let request = get_uv(&mut rest).ok_or_else(|| short("request number"))?;
            let length = get_uv(&mut rest).ok_or_else(|| short("command length"))?;
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= rest.len())
                .ok_or_else(|| short("command body"))?;
            commands.push((request, Command { kind, body: rest.split_to(length) }));
        }
        Ok(Self { origin, boot, commands })
    }
}

/// Appends an unsigned LEB128 number.
pub fn put_uv(buf: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        buf.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    buf.put_u8(value as u8);
}

/// Reads an unsigned LEB128 number of at most ten bytes; `None` when there is none.
pub fn get_uv(buf: &mut impl Buf) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        if !buf.has_remaining() {
            return None;
        }
        let byte = buf.get_u8();
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(commands: &[(u64, Command)]) -> Vec<u8> {
        let mut builder = EntryBuilder::new(MemberId(7), 3);
        for (request, command) in commands {
            builder.push(*request, command);
        }
        builder.finish()
    }

    proptest! {
        #[test]
        fn an_entry_reads_back_as_it_was_written(
            bodies in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20)
        ) {
            let commands: Vec<_> = bodies
                .into_iter()
                .map(|(request, body)| (request, Command { kind: Kind::Txn, body: body.into() }))
                .collect();
            let read = Entry::decode(entry(&commands).into()).unwrap();
            prop_assert_eq!(read, Entry { origin: MemberId(7), boot: 3, commands });
        }

        #[test]
        fn any_bytes_are_read_or_refused(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::decode(payload.into());
        }
    }

    #[test]
    fn an_entry_cut_short_is_refused() {
        let whole = entry(&[(1, Command { kind: Kind::Put, body: Bytes::from_static(b"abc") })]);
        for length in 0..whole.len() {
            let cut = Entry::decode(Bytes::copy_from_slice(&whole[..length]));
            assert!(length == 17 || cut.is_err(), "cut at {length}");
        }
    }

    #[test]
    fn an_entry_of_a_newer_format_is_refused_by_name() {
        let mut payload = entry(&[]);
        payload[0] = 9;
        let error = Entry::decode(payload.into()).unwrap_err().to_string();
        assert!(error.contains("version=9"), "{error}");
    }
}
