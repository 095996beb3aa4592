//! Notices that there has been no leader for a while.
//!
//! Calls that ask for one are refused at once; streams that do are ended only after three looks
//! in a row, an election timeout apart, found none (etcd's rule), so that an ordinary election
//! does not end them.

use std::time::Duration;

use tokio::sync::watch;

use crate::node::NodeHandle;

const LOOKS: u32 = 3;

/// Looks for ever; `leaderless` turns true and false with what it finds.
pub async fn watch_for_a_leader(node: NodeHandle, leaderless: watch::Sender<bool>) {
    let mut ticker = tokio::time::interval(Duration::from_millis(node.settings().config.election_ms));
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut missed = 0;
    loop {
        ticker.tick().await;
        missed = missed_after(missed, node.status().leader().is_some());
        leaderless.send_if_modified(|before| std::mem::replace(before, missed >= LOOKS) != (missed >= LOOKS));
    }
}

fn missed_after(missed: u32, has_leader: bool) -> u32 {
    if has_leader { 0 } else { (missed + 1).min(LOOKS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_looks_in_a_row_must_miss() {
        let after =
            |looks: &[bool]| looks.iter().fold(0, |missed, has_leader| missed_after(missed, *has_leader));
        assert!(after(&[false, false, true, false, false]) < LOOKS);
        assert!(after(&[true, false, false, false]) >= LOOKS);
        assert!(after(&[false, false, false, false, true]) < LOOKS);
    }
}
