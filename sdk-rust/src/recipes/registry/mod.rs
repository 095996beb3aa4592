//! Services that find each other.
