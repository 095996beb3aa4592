//! Why a member does not deal with another.

use bytes::BufMut;
use folkmoot_core::types::{ClusterId, MemberId};

use crate::codec::{Malformed, Reader, cut, put_bytes};

/// Longest text inside a refusal.
const TEXT_BYTES_MAX: usize = 1024;

/// Why a member refused a connection or a snapshot. "Acceptor" is who refuses, "dialler" who is
/// refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The two belong to different clusters.
    #[error(
        "members belong to different clusters, check peer URLs and data directories: acceptor={acceptor} \
         dialler={dialler}"
    )]
    WrongCluster {
        /// The acceptor's cluster.
        acceptor: ClusterId,
        /// The dialler's cluster.
        dialler: ClusterId,
    },
    /// Another member listens there.
    #[error("another member listens at this peer URL, check it: acceptor={acceptor} wanted={wanted}")]
    NotForMe {
        /// Who listens.
        acceptor: MemberId,
        /// Who was meant.
        wanted: MemberId,
    },
    /// The acceptor knows no such member; it may not have learned of it yet.
    #[error("not a member that the acceptor knows of: member={member}")]
    UnknownMember {
        /// The dialler.
        member: MemberId,
    },
    /// The member was removed from the cluster for good.
    #[error("member was removed from the cluster, it can only be added as a new one: member={member}")]
    Removed {
        /// The dialler.
        member: MemberId,
    },
    /// The member's disk is not the one it joined with: it may have forgotten its votes.
    #[error(
        "the disk of the member is not the one it joined with, remove the member and add a new one: \
         expected={expected:x} found={found:x}"
    )]
    DiskReplaced {
        /// The incarnation that the membership names.
        expected: u64,
        /// The incarnation that the member has.
        found: u64,
    },
    /// A later start of the same member has been seen: this process is a leftover.
    #[error("a newer process of the same member is known, stop this one: newest={newest} found={found}")]
    OldBoot {
        /// The newest boot number that was seen.
        newest: u64,
        /// The dialler's.
        found: u64,
    },
    /// Different versions of the protocol.
    #[error(
        "members speak different versions of the protocol, upgrade one: acceptor={acceptor} dialler={dialler}"
    )]
    Version {
        /// The acceptor's.
        acceptor: u16,
        /// The dialler's.
        dialler: u16,
    },
    /// Too much is going on; worth another try.
    #[error("too many connections at once, trying again helps")]
    Busy,
    /// The disk that takes snapshots is full.
    #[error("no space for the snapshot, free some: needed={needed_bytes} free={free_bytes}")]
    NoSpace {
        /// Bytes that are still to come, with the margin that must stay free.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
    /// The snapshot is larger than the acceptor takes.
    #[error("snapshot too large: bytes={bytes} max={bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The acceptor's bound.
        bytes_max: u64,
    },
    /// The acceptor could not write the snapshot.
    #[error("cannot write the snapshot, check the disk of the receiver: {0}")]
    WriteFailed(String),
    /// What was offered or sent is no snapshot.
    #[error("not a proper snapshot: {0}")]
    BadSnapshot(String),
    /// What arrived is not what was sent; worth another try.
    #[error("a file of the snapshot does not match its checksum: file={0}")]
    Corrupt(String),
}

impl Refusal {
    /// The kind as one word, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::NotForMe { .. } => "not_for_me",
            Self::UnknownMember { .. } => "unknown_member",
            Self::Removed { .. } => "removed",
            Self::DiskReplaced { .. } => "disk_replaced",
            Self::OldBoot { .. } => "old_boot",
            Self::Version { .. } => "version",
            Self::Busy => "busy",
            Self::NoSpace { .. } => "no_space",
            Self::TooLarge { .. } => "too_large",
            Self::WriteFailed(_) => "write_failed",
            Self::BadSnapshot(_) => "bad_snapshot",
            Self::Corrupt(_) => "corrupt",
        }
    }

    /// Every refusal is a code, two numbers and a text.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (code, a, b, text) = match self {
            Self::WrongCluster { acceptor, dialler } => (1, acceptor.0, dialler.0, ""),
            Self::NotForMe { acceptor, wanted } => (2, acceptor.0, wanted.0, ""),
            Self::UnknownMember { member } => (3, member.0, 0, ""),
            Self::Removed { member } => (4, member.0, 0, ""),
            Self::DiskReplaced { expected, found } => (5, *expected, *found, ""),
            Self::OldBoot { newest, found } => (6, *newest, *found, ""),
            Self::Version { acceptor, dialler } => (7, u64::from(*acceptor), u64::from(*dialler), ""),
            Self::Busy => (8, 0, 0, ""),
            Self::NoSpace { needed_bytes, free_bytes } => (9, *needed_bytes, *free_bytes, ""),
            Self::TooLarge { bytes, bytes_max } => (10, *bytes, *bytes_max, ""),
            Self::WriteFailed(text) => (11, 0, 0, text.as_str()),
            Self::BadSnapshot(text) => (12, 0, 0, text.as_str()),
            Self::Corrupt(text) => (13, 0, 0, text.as_str()),
        };
        let mut out = Vec::new();
        out.put_u8(code);
        out.put_u64_le(a);
        out.put_u64_le(b);
        put_bytes(&mut out, cut(text, TEXT_BYTES_MAX).as_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Reader::new(bytes);
        let code = bytes.u8("refusal")?;
        let (a, b) = (bytes.u64("refusal")?, bytes.u64("refusal")?);
        let text = bytes.text(TEXT_BYTES_MAX, "refusal text")?;
        bytes.end()?;
        let version = |number: u64| u16::try_from(number).map_err(|_| Malformed("version"));
        Ok(match code {
            1 => Self::WrongCluster { acceptor: ClusterId(a), dialler: ClusterId(b) },
            2 => Self::NotForMe { acceptor: MemberId(a), wanted: MemberId(b) },
            3 => Self::UnknownMember { member: MemberId(a) },
            4 => Self::Removed { member: MemberId(a) },
            5 => Self::DiskReplaced { expected: a, found: b },
            6 => Self::OldBoot { newest: a, found: b },
            7 => Self::Version { acceptor: version(a)?, dialler: version(b)? },
            8 => Self::Busy,
            9 => Self::NoSpace { needed_bytes: a, free_bytes: b },
            10 => Self::TooLarge { bytes: a, bytes_max: b },
            11 => Self::WriteFailed(text),
            12 => Self::BadSnapshot(text),
            13 => Self::Corrupt(text),
            _ => return Err(Malformed("refusal")),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_refusal_reads_back_as_written() {
        let refusals = [
            Refusal::WrongCluster { acceptor: ClusterId(1), dialler: ClusterId(2) },
            Refusal::NotForMe { acceptor: MemberId(1), wanted: MemberId(2) },
            Refusal::UnknownMember { member: MemberId(3) },
            Refusal::Removed { member: MemberId(4) },
            Refusal::DiskReplaced { expected: 5, found: 6 },
            Refusal::OldBoot { newest: 7, found: 6 },
            Refusal::Version { acceptor: 1, dialler: 2 },
            Refusal::Busy,
            Refusal::NoSpace { needed_bytes: u64::MAX, free_bytes: 0 },
            Refusal::TooLarge { bytes: 9, bytes_max: 8 },
            Refusal::WriteFailed("why".to_owned()),
            Refusal::BadSnapshot("why".to_owned()),
            Refusal::Corrupt("file".to_owned()),
        ];
        for refusal in refusals {
            assert_eq!(Refusal::decode(&refusal.encode()), Ok(refusal));
        }
        let long = Refusal::WriteFailed("ä".repeat(3000));
        assert_eq!(Refusal::decode(&long.encode()), Ok(Refusal::WriteFailed("ä".repeat(512))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_refusal_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(refusal) = Refusal::decode(&bytes) {
                prop_assert!(refusal.encode().len() == bytes.len());
            }
        }
    }
}
