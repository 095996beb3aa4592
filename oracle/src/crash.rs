//! placeholder
use std::path::PathBuf;
use crate::servers::Program;
/// x
pub struct CrashConfig { /// x
pub program: Program, /// x
pub rounds: u32, /// x
pub seed: u64, /// x
pub clients: usize, /// x
pub data_root: PathBuf, /// x
pub forget: bool }
/// x
pub fn run(_config: &CrashConfig) -> Result<bool, String> { Ok(true) }
