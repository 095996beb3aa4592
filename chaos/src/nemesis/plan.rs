//! What is going to happen in a round, drawn from a seed.
//!
//! Each round leaves out a random part of the menu, so that over many rounds every combination gets
//! its turn, also those in which nothing gets in the way of a fault.

use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Whom a fault hits; who that is turns out when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The leader, or anybody if there is none.
    Leader,
    /// Somebody who does not lead.
    Follower,
    /// As many as the others can do without.
    Minority,
    /// Everybody.
    All,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// SIGKILL, and a start when it is over.
    Kill(Who),
    /// SIGTERM, and a start when it is over.
    Restart(Who),
    /// SIGSTOP, and SIGCONT when it is over.
    Pause(Who),
    /// Cut off from all other members, both ways.
    Isolate(Who),
    /// It hears nobody, but is heard.
    Deaf(Who),
    /// It hears everybody, but is not heard.
    Mute(Who),
    /// Two random groups that do not reach each other.
    Halves,
    /// Two groups that reach each other only through one member.
    Bridge,
    /// All links between members are slow, by milliseconds.
    Slow {
        /// The least delay.
        delay_ms: u64,
        /// Added at random.
        jitter_ms: u64,
    },
    /// All links between members lose packets, of a hundred.
    Lossy {
        /// How many.
        percent: u32,
    },
    /// All links between members carry few bytes.
    Narrow {
        /// How many a second.
        bytes_per_second: u64,
    },
    /// The disk of the member with the small one is full.
    FullDisk {
        /// It is killed and started meanwhile, so that it has to recover without room.
        killed: bool,
    },
    /// The leader is asked to hand over.
    MoveLeader,
    /// A member is put out and another one comes into its place.
    Replace {
        /// It is dead when it is put out.
        dead: bool,
        /// The new one comes as a learner.
        learner: bool,
    },
    /// History is forgotten, several times.
    Compact,
}

/// A fault with its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Planned {
    /// When it begins, from the begin of the faults.
    pub at: Duration,
    /// How long it lasts, if it is not over at once.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// What can be done here.
#[derive(Clone, Copy, Debug)]
pub struct Permits {
    /// A member can be given a small disk.
    pub small_disk: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Slow { delay_ms, jitter_ms } => {
                write!(f, "slow links: {delay_ms} ms and up to {jitter_ms} ms more")
            }
            Fault::Lossy { percent } => write!(f, "lossy links: {percent} % of packets"),
            Fault::Narrow { bytes_per_second } => write!(f, "narrow links: {bytes_per_second} bytes/s"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// One faulty second on average holds this many faults.
const FAULTS_PER_SECOND: f64 = 0.8;
const FAULTS_MIN: usize = 3;

fn who(rng: &mut ChaCha8Rng) -> Who {
    match rng.random_range(0..10) {
        0..5 => Who::Leader,
        5..8 => Who::Follower,
        _ => Who::Minority,
    }
}

/// The kinds of faults, by a number that stands for each.
const KINDS: u32 = 15;

fn draw(kind: u32, rng: &mut ChaCha8Rng) -> Fault {
    match kind {
        0 => Fault::Kill(who(rng)),
        1 => Fault::Kill(Who::All),
        2 => Fault::Restart(who(rng)),
        3 => Fault::Pause(who(rng)),
        4 => Fault::Isolate(who(rng)),
        5 => Fault::Deaf(who(rng)),
        6 => Fault::Mute(who(rng)),
        7 => Fault::Halves,
        8 => Fault::Bridge,
        9 => Fault::Slow { delay_ms: rng.random_range(5..150), jitter_ms: rng.random_range(0..150) },
        10 => match rng.random_bool(0.5) {
            true => Fault::Lossy { percent: rng.random_range(2..40) },
            false => Fault::Narrow { bytes_per_second: rng.random_range(20_000..400_000) },
        },
        11 => Fault::FullDisk { killed: rng.random_bool(0.5) },
        12 => Fault::MoveLeader,
        13 => Fault::Replace { dead: rng.random_bool(0.5), learner: rng.random_bool(0.5) },
        _ => Fault::Compact,
    }
}

/// Draws the faults of one round of this length.
pub fn draw_plan(rng: &mut ChaCha8Rng, length: Duration, permits: Permits) -> Vec<Planned> {
    let mut kinds: Vec<u32> = (0..KINDS).collect();
    kinds.shuffle(rng);
    kinds.truncate(rng.random_range(4..=9));
    let permitted = |fault: &Fault| permits.small_disk || !matches!(fault, Fault::FullDisk { .. });
    let count = ((length.as_secs_f64() * FAULTS_PER_SECOND) as usize).max(FAULTS_MIN);
    let mut plan: Vec<Planned> = Vec::new();
    for _ in 0..count {
        let kind = kinds[rng.random_range(0..kinds.len())];
        let fault = draw(kind, rng);
        let at = length.mul_f64(rng.random_range(0.0..0.85));
        let lasts = Duration::from_millis(rng.random_range(300..3500));
        // At most one of these, since they have to be carried through to the end.
        let again = |other: &Planned| std::mem::discriminant(&other.fault) == std::mem::discriminant(&fault);
        let once = matches!(fault, Fault::Replace { .. } | Fault::FullDisk { .. });
        if permitted(&fault) && !(once && plan.iter().any(again)) {
            plan.push(Planned { at, lasts, fault });
        }
    }
    // Always worth it: it costs nothing, and much depends on it.
    if rng.random_bool(0.5) {
        let at = length.mul_f64(rng.random_range(0.2..0.85));
        plan.push(Planned { at, lasts: Duration::from_secs(2), fault: Fault::Compact });
    }
    plan.sort_by_key(|planned| planned.at);
    plan
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    fn plan(seed: u64) -> Vec<Planned> {
        let permits = Permits { small_disk: true };
        draw_plan(&mut ChaCha8Rng::seed_from_u64(seed), Duration::from_secs(8), permits)
    }

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_kind_of_fault_has_its_turn() {
        let name =
            |fault: Fault| format!("{fault:?}").split(['(', ' ']).next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = (0..200).flat_map(plan).map(|planned| name(planned.fault)).collect();
        assert_eq!(names.len(), 15, "{names:?}");
        assert!((0..200).flat_map(plan).any(|planned| planned.fault == Fault::Kill(Who::All)));
    }

    #[test]
    fn faults_begin_within_the_round() {
        assert!((0..100).flat_map(plan).all(|planned| planned.at < Duration::from_secs(8)));
    }
}
