pub use crate::watch::deep::Record;

pub enum Kind {
    A,
    B(u8),
}
