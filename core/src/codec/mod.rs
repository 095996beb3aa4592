//! The only room that knows the wire messages: it turns them into the types of the other rooms
//! and back, and reads the bodies of commands.
//!
//! It refuses to judge: a message that decodes is converted as it is, unset and unknown numbers
//! included; what they mean is decided where they are used.

pub mod cluster;
pub mod event;
pub mod kv;
pub mod lease;
