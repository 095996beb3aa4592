//! Which instance to pick. No input or output: time and chance come in with the calls.
//!
//! The order of the rules: health (up, else degraded), zone, ejection of those that fail, policy. If
//! less than half of the instances are usable, health is ignored rather than overloading the rest.

use std::collections::HashMap;
use std::time::Duration;

use rand::{Rng, RngExt as _};
use sha2::{Digest as _, Sha256};

use super::instance::{Health, Instance};
use crate::clock::BootInstant;

/// How to choose among those that may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turn, by weight, spread evenly.
    #[default]
    RoundRobin,
    /// By chance, by weight.
    WeightedRandom,
    /// The less loaded of two taken by chance.
    P2c,
    /// By a key: the same key gets the same instance for as long as it is there.
    RingHash,
}

/// How a call to an instance went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It worked.
    Success,
    /// The instance failed.
    Failure,
}

const FAILURES_MAX: u32 = 5;
/// How much more loaded an instance counts for each failure since its last success.
const FAILURE_WEIGHT: u32 = 10;
/// After this time without a call a latency counts for a third.
const FADES_IN: Duration = Duration::from_secs(3);
const EJECTION_FIRST: Duration = Duration::from_secs(30);
const EJECTION_MAX: Duration = Duration::from_secs(300);
const WINDOW: Duration = Duration::from_secs(10);
const WINDOW_REQUESTS_MIN: u32 = 100;
const WINDOW_HOSTS_MIN: usize = 5;
const DEVIATIONS: f64 = 1.9;
const ZONE_INSTANCES_MIN: usize = 6;
const ZONE_OWN_MIN: usize = 2;

#[derive(Clone, Debug)]
struct Host {
    instance: Instance,
    inflight: u32,
    /// Smoothed latency, in seconds; 0 before the first answer. It fades while nothing is heard: one
    /// that was slow once, such as over its first connection, would never be picked and heard again.
    latency: f64,
    /// When a call to it ended last.
    heard: Option<BootInstant>,
    failures: u32,
    ejections: u32,
    ejected_until: Option<BootInstant>,
    /// For the even round robin.
    current: i64,
    window: (u32, u32),
}

impl Host {
    fn new(instance: Instance) -> Self {
        Self {
            instance,
            inflight: 0,
            latency: 0.0,
            heard: None,
            failures: 0,
            ejections: 0,
            ejected_until: None,
            current: 0,
            window: (0, 0),
        }
    }

    fn is_ejected(&self, now: BootInstant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    /// How much of what was heard last still counts.
    fn freshness(&self, now: BootInstant) -> f64 {
        let since = self.heard.map_or(0.0, |heard| now.since(heard).as_secs_f64());
        (-since / FADES_IN.as_secs_f64()).exp()
    }

    fn load(&self, now: BootInstant) -> f64 {
        // Before the first answer a host counts as quick, so that it gets its first call.
        let latency = (self.latency * self.freshness(now)).max(1e-6);
        let load = (f64::from(self.inflight) + 1.0) * latency;
        // One that fails is done with each call at once, and would look like the least loaded of all.
        load * f64::from(FAILURE_WEIGHT.pow(self.failures.min(FAILURES_MAX)))
            / f64::from(self.instance.weight.max(1))
    }
}

/// All instances of a service, as one client sees and has experienced them.
#[derive(Debug)]
pub(crate) struct Engine {
    hosts: Vec<Host>,
    policy: Policy,
    zone: String,
    window_end: Option<BootInstant>,
}

impl Engine {
    pub fn new(policy: Policy, zone: String) -> Self {
        Self { hosts: Vec::new(), policy, zone, window_end: None }
    }

    /// Takes the present instances; what was experienced with those that stay is kept.
    pub fn set(&mut self, instances: impl IntoIterator<Item = Instance>) {
        let mut old: HashMap<String, Host> =
            self.hosts.drain(..).map(|host| (host.instance.id.clone(), host)).collect();
        self.hosts = instances
            .into_iter()
            .map(|instance| match old.remove(&instance.id) {
                Some(host) if host.instance.incarnation == instance.incarnation => Host { instance, ..host },
                _ => Host::new(instance),
            })
            .collect();
        // The order decides the turn, so it does not depend on where they came from.
        self.hosts.sort_by(|a, b| a.instance.id.cmp(&b.instance.id));
    }

    fn by_health(&self) -> Vec<usize> {
        let weighty = |index: &usize| self.hosts[*index].instance.weight > 0;
        let with = |wanted: Health| -> Vec<usize> {
            let all = (0..self.hosts.len()).filter(weighty);
            all.filter(|index| self.hosts[*index].instance.health == wanted).collect()
        };
        let mut usable = with(Health::Up);
        if usable.is_empty() {
            usable = with(Health::Degraded);
        }
        // What is on its way out or in by its own will is no sign of trouble.
        let possible: Vec<usize> = (0..self.hosts.len())
            .filter(weighty)
            .filter(|index| {
                matches!(self.hosts[*index].instance.health, Health::Up | Health::Degraded | Health::Down)
            })
            .collect();
        if usable.len() * 2 < possible.len() { possible } else { usable }
    }

    /// The own zone, if it can carry its part.
    fn by_zone(&self, usable: Vec<usize>, rng: &mut impl Rng) -> Vec<usize> {
        if self.zone.is_empty() || usable.len() < ZONE_INSTANCES_MIN {
            return usable;
        }
        let (own, other): (Vec<usize>, Vec<usize>) =
            usable.iter().partition(|index| self.hosts[**index].instance.zone == self.zone);
        let mut zones: Vec<&str> =
            usable.iter().map(|index| self.hosts[*index].instance.zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        let fair = usable.len() as f64 / zones.len() as f64;
        let share = own.len() as f64 / fair;
        if own.len() < ZONE_OWN_MIN || other.is_empty() {
            return usable;
        }
        if share >= 0.5 {
            return own;
        }
        // What the own zone cannot carry goes to the others, in proportion.
        if rng.random_bool(share.clamp(0.0, 1.0)) { own } else { other }
    }

    /// Picks, and counts the call as begun. The key is for [`Policy::RingHash`].
    pub fn pick(&mut self, now: BootInstant, key: &[u8], rng: &mut impl Rng) -> Option<Instance> {
        let usable = self.by_health();
        let usable = self.by_zone(usable, rng);
        let kept: Vec<usize> =
            usable.iter().copied().filter(|index| !self.hosts[*index].is_ejected(now)).collect();
        let candidates = if kept.is_empty() { usable } else { kept };
        let chosen = self.choose(&candidates, key, now, rng)?;
        self.hosts[chosen].inflight += 1;
        Some(self.hosts[chosen].instance.clone())
    }

    fn choose(
        &mut self,
        candidates: &[usize],
        key: &[u8],
        now: BootInstant,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let weight = |host: &Host| i64::from(host.instance.weight);
        let total: i64 = candidates.iter().map(|index| weight(&self.hosts[*index])).sum();
        match self.policy {
            Policy::RoundRobin => {
                for index in candidates {
                    self.hosts[*index].current += i64::from(self.hosts[*index].instance.weight);
                }
                // Of equals the first.
                let best = candidates.iter().copied().rev().max_by_key(|index| self.hosts[*index].current)?;
                self.hosts[best].current -= total;
                Some(best)
            }
            Policy::WeightedRandom => {
                let mut at = rng.random_range(0..total.max(1));
                candidates.iter().copied().find(|index| {
                    at -= weight(&self.hosts[*index]);
                    at < 0
                })
            }
            Policy::P2c => match candidates {
                [] => None,
                [only] => Some(*only),
                _ => {
                    let first = rng.random_range(0..candidates.len());
                    let second = (first + rng.random_range(1..candidates.len())) % candidates.len();
                    let (first, second) = (candidates[first], candidates[second]);
                    let less = self.hosts[second].load(now) < self.hosts[first].load(now);
                    Some(if less { second } else { first })
                }
            },
            Policy::RingHash => candidates.iter().copied().max_by(|a, b| {
                let score = |index: &usize| score(key, &self.hosts[*index].instance);
                score(a).total_cmp(&score(b))
            }),
        }
    }

    /// A call to the instance ended. If another start of it has come meanwhile, that says nothing of it.
    pub fn done(&mut self, instance: &Instance, outcome: Outcome, latency: Duration, now: BootInstant) {
        let count = self.hosts.len();
        let ejected = self.hosts.iter().filter(|host| host.is_ejected(now)).count();
        // A tenth of all, but one in any case.
        let may_eject = ejected < (count / 10).max(1) && count > 1;
        let same = |host: &&mut Host| {
            host.instance.id == instance.id && host.instance.incarnation == instance.incarnation
        };
        let Some(host) = self.hosts.iter_mut().find(same) else { return };
        host.inflight = host.inflight.saturating_sub(1);
        host.window.0 += 1;
        match outcome {
            Outcome::Success => {
                let seconds = latency.as_secs_f64();
                let old = if host.latency == 0.0 { 0.0 } else { host.freshness(now).min(0.8) };
                host.latency = host.latency * old + seconds * (1.0 - old);
                host.window.1 += 1;
                host.failures = 0;
            }
            Outcome::Failure => {
                // How soon it failed says nothing of how soon it answers; but a time without an answer does.
                host.latency = host.latency.max(latency.as_secs_f64());
                host.failures += 1;
                if host.failures >= FAILURES_MAX && may_eject {
                    eject(host, now);
                }
            }
        }
        host.heard = Some(now);
        self.look_at_window(now);
    }

    /// At the end of each window, whoever succeeds much less often than the others is taken out.
    fn look_at_window(&mut self, now: BootInstant) {
        let end = *self.window_end.get_or_insert(now + WINDOW);
        if now < end {
            return;
        }
        self.window_end = Some(now + WINDOW);
        let rate = |host: &Host| f64::from(host.window.1) / f64::from(host.window.0);
        let rates: Vec<f64> =
            self.hosts.iter().filter(|host| host.window.0 >= WINDOW_REQUESTS_MIN).map(rate).collect();
        if rates.len() >= WINDOW_HOSTS_MIN {
            let count = rates.len() as f64;
            let mean = rates.iter().sum::<f64>() / count;
            let deviation = (rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count).sqrt();
            let bound = mean - DEVIATIONS * deviation;
            let mut room = (self.hosts.len() / 10).max(1);
            room = room.saturating_sub(self.hosts.iter().filter(|host| host.is_ejected(now)).count());
            for host in &mut self.hosts {
                if room > 0
                    && host.window.0 >= WINDOW_REQUESTS_MIN
                    && rate(host) < bound
                    && !host.is_ejected(now)
                {
                    eject(host, now);
                    room -= 1;
                }
            }
        }
        self.hosts.iter_mut().for_each(|host| host.window = (0, 0));
    }

    /// All instances.
    pub fn instances(&self) -> Vec<Instance> {
        self.hosts.iter().map(|host| host.instance.clone()).collect()
    }
}

fn eject(host: &mut Host, now: BootInstant) {
    host.ejections += 1;
    host.failures = 0;
    let time = EJECTION_FIRST.saturating_mul(host.ejections).min(EJECTION_MAX);
    host.ejected_until = Some(now + time);
}

/// Highest wins: each instance gets its part of the keys by weight, and keeps it when others go.
fn score(key: &[u8], instance: &Instance) -> f64 {
    let digest = Sha256::new().chain_update(key).chain_update([0]).chain_update(&instance.id).finalize();
    let head: [u8; 8] = digest[..8].try_into().expect("a digest is longer");
    let unit = (u64::from_be_bytes(head) >> 11) as f64 / (1_u64 << 53) as f64;
    -f64::from(instance.weight) / unit.max(f64::MIN_POSITIVE).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(seconds * 1_000_000_000)
    }

    fn engine(policy: Policy, weights: &[u32]) -> Engine {
        let mut engine = Engine::new(policy, String::new());
        engine.set(
            weights
                .iter()
                .enumerate()
                .map(|(n, weight)| Instance::new("s", format!("h{n}:1")).id(format!("{n}")).weight(*weight)),
        );
        engine
    }

    fn picks(engine: &mut Engine, count: usize) -> Vec<String> {
        let mut rng = StdRng::seed_from_u64(1);
        (0..count)
            .filter_map(|n| engine.pick(at(0), format!("{n}").as_bytes(), &mut rng))
            .map(|i| i.id)
            .collect()
    }

    fn done(engine: &mut Engine, id: &str, outcome: Outcome, latency: Duration, now: BootInstant) {
        let instance = engine.instances().into_iter().find(|instance| instance.id == id).unwrap();
        engine.done(&instance, outcome, latency, now);
    }

    fn share(picks: &[String], id: &str) -> usize {
        picks.iter().filter(|pick| *pick == id).count()
    }

    #[test]
    fn lb_1_turns_are_spread_evenly_by_weight() {
        let mut engine = engine(Policy::RoundRobin, &[5, 1, 1, 0]);
        assert_eq!(picks(&mut engine, 7), ["0", "0", "1", "0", "2", "0", "0"]);
    }

    #[test]
    fn lb_2_chance_follows_the_weights() {
        let picks = picks(&mut engine(Policy::WeightedRandom, &[30, 10, 0]), 4000);
        assert!((2800..3200).contains(&share(&picks, "0")), "{}", share(&picks, "0"));
        assert_eq!(share(&picks, "2"), 0);
    }

    #[test]
    fn lb_3_the_less_loaded_of_two_is_taken() {
        let mut engine = engine(Policy::P2c, &[1, 1]);
        let mut rng = StdRng::seed_from_u64(1);
        engine.pick(at(0), b"", &mut rng);
        done(&mut engine, "0", Outcome::Success, Duration::from_millis(100), at(0));
        done(&mut engine, "1", Outcome::Success, Duration::from_millis(1), at(0));
        let picks = picks(&mut engine, 20);
        assert!(share(&picks, "1") >= 19, "{picks:?}");
    }

    #[test]
    fn lb_3_one_that_was_slow_once_is_tried_again() {
        let mut engine = engine(Policy::P2c, &[1, 1]);
        let mut rng = StdRng::seed_from_u64(1);
        done(&mut engine, "0", Outcome::Success, Duration::from_millis(100), at(0));
        done(&mut engine, "1", Outcome::Success, Duration::from_millis(1), at(0));
        let mut picked = 0;
        for second in 1..40 {
            let host = engine.pick(at(second), b"", &mut rng).unwrap();
            picked += usize::from(host.id == "0");
            engine.done(&host, Outcome::Success, Duration::from_millis(1), at(second));
        }
        assert!(picked >= 10, "{picked}");
    }

    #[test]
    fn lb_3_one_that_fails_at_once_does_not_look_idle() {
        let mut engine = engine(Policy::P2c, &[1, 1, 1, 1]);
        let mut rng = StdRng::seed_from_u64(1);
        let dead = ["2", "3"];
        let mut failures = 0;
        for n in 0..400 {
            let host = engine.pick(at(0), b"", &mut rng).unwrap();
            let fails = n >= 40 && dead.contains(&host.id.as_str());
            failures += usize::from(fails);
            let (outcome, took) = if fails { (Outcome::Failure, 1) } else { (Outcome::Success, 20) };
            engine.done(&host, outcome, Duration::from_millis(took), at(0));
        }
        // Only where chance takes both of them, and until one of them is left out.
        assert!(failures < 40, "{failures}");
        let host = engine.hosts.iter().find(|host| host.instance.id == "2").unwrap();
        assert!(host.latency > 0.015, "a quick failure is no quick answer: {}", host.latency);
    }

    #[test]
    fn lb_4_a_key_keeps_its_instance_when_others_go() {
        let mut all = engine(Policy::RingHash, &[1, 1, 1, 1]);
        let before = picks(&mut all, 400);
        let mut fewer = engine(Policy::RingHash, &[1, 1, 1]);
        let after = picks(&mut fewer, 400);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert_eq!(moved, share(&before, "3"), "only keys of the one that went");
        assert!((60..140).contains(&moved));
    }

    #[test]
    fn lb_5_the_own_zone_is_preferred_when_it_can_carry_its_part() {
        let mut engine = engine(Policy::RoundRobin, &[1; 6]);
        engine.zone = "a".into();
        let zoned = |zones: [&str; 6]| -> Vec<Instance> {
            zones
                .iter()
                .enumerate()
                .map(|(n, zone)| Instance::new("s", "h:1").id(format!("{n}")).zone(*zone))
                .collect()
        };
        engine.set(zoned(["a", "a", "a", "b", "b", "b"]));
        let chosen = picks(&mut engine, 60);
        assert_eq!(share(&chosen, "3") + share(&chosen, "4") + share(&chosen, "5"), 0);
        engine.set(zoned(["a", "b", "b", "b", "b", "b"]));
        assert!(share(&picks(&mut engine, 60), "0") < 20, "one instance is not a zone");
    }

    #[test]
    fn lb_7_five_failures_in_a_row_take_an_instance_out_but_never_too_many() {
        let mut engine = engine(Policy::RoundRobin, &[1, 1, 1]);
        for id in ["0", "1"] {
            (0..5).for_each(|_| done(&mut engine, id, Outcome::Failure, Duration::ZERO, at(0)));
        }
        let chosen = picks(&mut engine, 20);
        assert_eq!(share(&chosen, "0"), 0);
        assert_eq!(share(&chosen, "1"), 10, "only one may be out at a time");
        let mut rng = StdRng::seed_from_u64(1);
        let later: Vec<_> = (0..9).filter_map(|_| engine.pick(at(30), b"", &mut rng)).map(|i| i.id).collect();
        assert!(share(&later, "0") > 0, "it is back after thirty seconds");
    }

    #[test]
    fn lb_7_what_was_experienced_with_an_earlier_start_says_nothing_of_the_present_one() {
        let mut engine = engine(Policy::RoundRobin, &[1, 1]);
        let of = |incarnation: &str| {
            let mut instance = Instance::new("s", "h0:1").id("0");
            instance.incarnation = incarnation.to_owned();
            instance
        };
        let others = |first: Instance| [first, Instance::new("s", "h1:1").id("1")];
        engine.set(others(of("old")));
        let old = engine.pick(at(0), b"", &mut StdRng::seed_from_u64(1)).unwrap();
        assert_eq!(old.incarnation, "old");
        engine.set(others(of("new")));
        (0..5).for_each(|_| engine.done(&old, Outcome::Failure, Duration::ZERO, at(0)));
        let host = &engine.hosts[0];
        assert_eq!((host.failures, host.inflight, host.is_ejected(at(0))), (0, 0, false));
    }

    #[test]
    fn lb_7_whoever_succeeds_much_less_often_is_taken_out() {
        let mut engine = engine(Policy::RoundRobin, &[1; 10]);
        for id in 0..10 {
            for n in 0..100 {
                let failure = id == 3 && n % 2 == 0;
                let outcome = if failure { Outcome::Failure } else { Outcome::Success };
                done(&mut engine, &id.to_string(), outcome, Duration::ZERO, at(0));
            }
        }
        done(&mut engine, "0", Outcome::Success, Duration::ZERO, at(11));
        let mut rng = StdRng::seed_from_u64(1);
        let later: Vec<_> =
            (0..30).filter_map(|_| engine.pick(at(12), b"", &mut rng)).map(|i| i.id).collect();
        assert_eq!(share(&later, "3"), 0);
    }

    #[test]
    fn lb_8_with_less_than_half_usable_health_is_ignored() {
        let mut engine = engine(Policy::RoundRobin, &[1; 4]);
        let with = |health: [Health; 4]| -> Vec<Instance> {
            health
                .iter()
                .enumerate()
                .map(|(n, health)| Instance::new("s", "h:1").id(format!("{n}")).health(*health))
                .collect()
        };
        engine.set(with([Health::Up, Health::Up, Health::Down, Health::Draining]));
        assert_eq!(picks(&mut engine, 4), ["0", "1", "0", "1"]);
        engine.set(with([Health::Up, Health::Down, Health::Down, Health::Draining]));
        let chosen = picks(&mut engine, 6);
        assert_eq!((share(&chosen, "1"), share(&chosen, "3")), (2, 0));
        engine.set(with([Health::Degraded, Health::Draining, Health::Draining, Health::Starting]));
        assert_eq!(picks(&mut engine, 2), ["0", "0"]);
    }

    #[test]
    fn lb_10_nothing_to_pick_is_nothing() {
        assert!(picks(&mut engine(Policy::P2c, &[]), 1).is_empty());
        assert!(picks(&mut engine(Policy::RoundRobin, &[0]), 1).is_empty());
    }
}
