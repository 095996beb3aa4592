//! Who dials and who answers.

use bytes::BufMut;
use folkmoot_core::types::{ClusterId, MemberId};

use crate::codec::{Malformed, Reader};

/// What a dialling member says about itself and whom it wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub cluster: ClusterId,
    pub from: MemberId,
    pub to: MemberId,
    /// Which start of its process on its disk.
    pub boot: u64,
    /// Which disk.
    pub incarnation: u64,
    /// Random, so that no two connections have the same salt.
    pub nonce: u64,
}

impl Hello {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        for number in [self.cluster.0, self.from.0, self.to.0, self.boot, self.incarnation, self.nonce] {
            out.put_u64_le(number);
        }
        out
    }

    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut body = Reader::new(body);
        let hello = Self {
            cluster: ClusterId(body.u64("cluster")?),
            from: MemberId(body.u64("from")?),
            to: MemberId(body.u64("to")?),
            boot: body.u64("boot")?,
            incarnation: body.u64("incarnation")?,
            nonce: body.u64("nonce")?,
        };
        body.end()?;
        Ok(hello)
    }
}

/// What the acceptor says about itself when it agrees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Welcome {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub boot: u64,
    pub incarnation: u64,
    pub nonce: u64,
}

impl Welcome {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        for number in [self.cluster.0, self.member.0, self.boot, self.incarnation, self.nonce] {
            out.put_u64_le(number);
        }
        out
    }

    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut body = Reader::new(body);
        let welcome = Self {
            cluster: ClusterId(body.u64("cluster")?),
            member: MemberId(body.u64("member")?),
            boot: body.u64("boot")?,
            incarnation: body.u64("incarnation")?,
            nonce: body.u64("nonce")?,
        };
        body.end()?;
        Ok(welcome)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn greetings_read_back_as_written(n in proptest::array::uniform6(any::<u64>())) {
            let hello = Hello {
                cluster: ClusterId(n[0]),
                from: MemberId(n[1]),
                to: MemberId(n[2]),
                boot: n[3],
                incarnation: n[4],
                nonce: n[5],
            };
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            let welcome = Welcome {
                cluster: ClusterId(n[0]),
                member: MemberId(n[1]),
                boot: n[2],
                incarnation: n[3],
                nonce: n[4],
            };
            prop_assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        }

        #[test]
        fn any_bytes_are_a_greeting_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(Hello::decode(&bytes).is_ok(), bytes.len() == 48);
            prop_assert_eq!(Welcome::decode(&bytes).is_ok(), bytes.len() == 40);
        }
    }
}
