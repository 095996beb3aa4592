//! The first words on a connection: one block each way, before frames begin or the connection ends.
//!
//! ```text
//! magic "FKMP" | protocol version u16 | kind u8 | zero u8 | body length u32 |
//! crc32c of all this and the body | body
//! ```
//!
//! The first twelve bytes never change their meaning, so that members of different versions can
//! tell each other so. The dialler asks for a stream of messages, for a snapshot, or one of the
//! two questions that need no membership; the acceptor welcomes, answers, or refuses with a reason.
//!
//! Pure, and total on any bytes.

mod block;
mod hello;
mod info;
mod refusal;

pub use block::BlockError;
pub(crate) use block::{Block, BlockKind, HANDSHAKE_BYTES_MAX, INFO_BYTES_MAX, VERSION};
pub(crate) use hello::{Hello, Welcome};
pub use info::{ClusterInfo, MemberInfo, ProbeAnswer};
pub use refusal::Refusal;
