//! What a member does by itself from time to time.

mod compactor;

pub use compactor::compact_from_time_to_time;
