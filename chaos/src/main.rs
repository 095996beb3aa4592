//! `folkmoot-chaos`: attacks clusters.
fn main() {}
