//! One store with its clients' ways to it, and what may be done to both. Worlds do not know each
//! other; every scenario has its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Refusal;
use crate::admin::Admin;
use crate::link::Link;
use crate::store::{Kind, SharedStore, Store};

const WITHIN_DEFAULT: f64 = 20.0;
const PAUSE: Duration = Duration::from_millis(20);

/// Which way is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ways {
    /// Both.
    #[default]
    Both,
    /// The store hears nothing of the client.
    ToStore,
    /// The client hears nothing of the store.
    FromStore,
}

/// Which member is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The one that leads.
    Leader,
    /// The first that does not.
    Follower,
    /// By number, from 0.
    #[serde(untagged)]
    Number(usize),
}

/// A fault of [`Op::Chaos`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// All connections end.
    DropStreams,
    /// Everything takes 30 ms longer for a while.
    Delay,
    /// A client is cut off for a while.
    Partition,
    /// Another member leads.
    MoveLeader,
    /// A member is killed and started again.
    Restart,
}

fn within_default() -> f64 {
    WITHIN_DEFAULT
}

fn yes() -> bool {
    true
}

/// Everything that can be asked of a world: the name of the operation, and its arguments.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Opens a client's ways to the members.
    Client { name: String },
    /// Ends the connections of a client, or of all.
    DropStreams {
        #[serde(default)]
        client: Option<String>,
    },
    /// Holds back what a client and the store send each other.
    Partition {
        client: String,
        #[serde(default)]
        ways: Ways,
        #[serde(default)]
        member: Option<Who>,
    },
    /// Ends the connections of a client and lets it make no other.
    Refuse {
        client: String,
        #[serde(default)]
        member: Option<Who>,
    },
    /// Makes everything slower for a client, in each direction.
    Delay { client: String, ms: u64 },
    /// Makes the ways of a client, or of all, good again.
    Heal {
        #[serde(default)]
        client: Option<String>,
    },
    /// Waits until a client has so many connections.
    Connected {
        client: String,
        at_least: usize,
        #[serde(default = "within_default")]
        within: f64,
    },
    /// Stops a member in its tracks, or all.
    Pause {
        #[serde(default)]
        member: Option<Who>,
    },
    /// Lets a paused member go on, or all.
    Resume {
        #[serde(default)]
        member: Option<Who>,
    },
    /// Ends a member, with a good-bye or without.
    Stop {
        member: Who,
        #[serde(default)]
        leave: bool,
    },
    /// Starts a member that was stopped.
    Start { member: usize },
    /// Kills a member and starts it again.
    Restart { member: Who },
    /// Which member leads.
    Leader {},
    /// Moves the leadership.
    MoveLeader {},
    /// Replaces the store by an empty one of another cluster, at the same place.
    Replace {},
    /// Keeps a copy of the data.
    BackUp {},
    /// Goes back to the copy.
    Restore {},
    /// Forgets all history.
    Compact {},
    /// Ends the leases of the keys that begin so.
    Expire { prefix: String },
    /// The keys that begin so.
    Keys { prefix: String },
    /// Puts, as somebody else.
    Put { key: String, value: String },
    /// Deletes, as somebody else.
    Delete {
        #[serde(default)]
        key: Option<String>,
        #[serde(default)]
        prefix: Option<String>,
    },
    /// Waits for keys.
    WaitUntil {
        prefix: String,
        #[serde(default)]
        count: Option<usize>,
        #[serde(default)]
        value: Option<String>,
        #[serde(default = "within_default")]
        within: f64,
    },
    /// Shows that so many keys stay for as long as the store lets a lease live.
    Hourglass { seconds: i64 },
    /// Gives the store users.
    EnableAuth { password: String },
    /// Faults in a row, chosen by a seed.
    Chaos { seed: u64, times: u32, faults: Vec<Fault> },
    /// Waits until no lease and no connection is left.
    Leaks {
        #[serde(default = "within_default")]
        within: f64,
        #[serde(default = "yes")]
        leases: bool,
    },
}

/// See the module.
pub struct World {
    store: SharedStore,
    admin: Mutex<Admin>,
    links: Mutex<BTreeMap<String, Vec<Link>>>,
    /// Members that are stopped in their tracks.
    paused: Mutex<std::collections::BTreeSet<usize>>,
    targets: Vec<crate::link::Target>,
}

async fn blocking<T: Send + 'static>(
    store: &SharedStore,
    work: impl FnOnce(&mut Store) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let mut store = store.clone().lock_owned().await;
    let done = tokio::task::spawn_blocking(move || work(&mut store)).await;
    done.unwrap_or_else(|error| Err(Refusal::failed(format!("a change of the members ended: {error}"))))
}

impl World {
    /// Starts a store of so many members, and waits until they have a leader.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(kind: Kind, members: usize) -> Result<Self, Refusal> {
        if !matches!(members, 1 | 3 | 5) {
            return Err(Refusal::wrong(format!("a store has 1, 3 or 5 members members={members}")));
        }
        let started = tokio::task::spawn_blocking(move || Store::start(kind, members)).await;
        let store = started.unwrap_or_else(|error| Err(Refusal::failed(error.to_string())))?;
        let targets = store.targets();
        let admin = Admin::new(targets.clone());
        admin.leader().await?;
        Ok(Self {
            store: Arc::new(tokio::sync::Mutex::new(store)),
            admin: Mutex::new(admin),
            links: Mutex::default(),
            paused: Mutex::default(),
            targets,
        })
    }

    /// Ends the store.
    pub async fn end(&self) {
        self.links.lock().clear();
        // Stopped processes do not end by a kind word; the drop kills.
        let done = blocking(&self.store, |store| {
            store.running().into_iter().try_for_each(|at| store.stop(at, false))
        });
        if let Err(error) = done.await {
            tracing::warn!(%error, "a store did not end well");
        }
    }

    fn admin(&self) -> Admin {
        self.admin.lock().clone()
    }

    async fn which(&self, who: Who) -> Result<usize, Refusal> {
        match who {
            Who::Number(at) if at < self.targets.len() => Ok(at),
            Who::Number(at) => Err(Refusal::wrong(format!(
                "there is no such member member={at} members={}",
                self.targets.len()
            ))),
            Who::Leader => Ok(self.admin().leader().await?.0),
            Who::Follower => {
                let (leader, members) = self.admin().leader().await?;
                let other = members.iter().find(|(at, _)| *at != leader);
                other.map(|(at, _)| *at).ok_or_else(|| Refusal::wrong("there is no follower"))
            }
        }
    }

    async fn some(&self, who: Option<Who>) -> Result<Option<usize>, Refusal> {
        match who {
            Some(who) => self.which(who).await.map(Some),
            None => Ok(None),
        }
    }

    /// Does something to the ways of a client (or of all) to a member (or to all).
    async fn each(
        &self,
        client: Option<&str>,
        member: Option<usize>,
        change: impl Fn(&Link),
    ) -> Result<Value, Refusal> {
        for settled in self.change_each(client, member, &change)? {
            settled.await;
        }
        Ok(json!({}))
    }

    fn change_each(
        &self,
        client: Option<&str>,
        member: Option<usize>,
        change: &dyn Fn(&Link),
    ) -> Result<Vec<impl Future<Output = ()> + Send + use<>>, Refusal> {
        let links = self.links.lock();
        let mut settled = Vec::new();
        if let Some(client) = client
            && !links.contains_key(client)
        {
            let known: Vec<_> = links.keys().collect();
            return Err(Refusal::wrong(format!("there is no such client client={client:?} known={known:?}")));
        }
        let meant = links.iter().filter(|(name, _)| client.is_none_or(|client| client == *name));
        for (at, link) in meant.flat_map(|(_, links)| links.iter().enumerate()) {
            if member.is_none_or(|member| member == at) {
                change(link);
                settled.push(link.settled());
            }
        }
        Ok(settled)
    }

    /// Does one operation and gives its result.
    ///
    /// # Errors
    /// It makes no sense, or what was waited for did not come.
    pub async fn run(&self, op: Op) -> Result<Value, Refusal> {
        match op {
            Op::Client { name } => {
                let mut ways = Vec::new();
                for target in &self.targets {
                    ways.push(Link::open(target.clone()).await?);
                }
                let endpoints: Vec<_> = ways.iter().map(Link::endpoint).collect();
                let mut links = self.links.lock();
                if links.contains_key(&name) {
                    return Err(Refusal::wrong(format!("there is a client of this name client={name:?}")));
                }
                for (at, link) in ways.iter().enumerate() {
                    link.set(|faults| faults.paused = self.paused.lock().contains(&at));
                }
                links.insert(name, ways);
                Ok(json!({ "endpoints": endpoints }))
            }
            Op::DropStreams { client } => self.each(client.as_deref(), None, Link::drop_connections).await,
            Op::Partition { client, ways, member } => {
                let member = self.some(member).await?;
                self.each(Some(&client), member, |link| {
                    link.set(|faults| {
                        faults.hold_to_store |= ways != Ways::FromStore;
                        faults.hold_from_store |= ways != Ways::ToStore;
                    });
                })
                .await
            }
            Op::Refuse { client, member } => {
                let member = self.some(member).await?;
                self.each(Some(&client), member, |link| link.set(|faults| faults.refused = true)).await
            }
            Op::Delay { client, ms } => {
                self.each(Some(&client), None, |link| {
                    link.set(|faults| faults.delay = Duration::from_millis(ms));
                })
                .await
            }
            Op::Heal { client } => self.each(client.as_deref(), None, Link::heal).await,
            Op::Connected { client, at_least, within } => {
                self.each(Some(&client), None, |_| {}).await?;
                until(within, || async {
                    let links = self.links.lock();
                    let open: usize = links[&client].iter().map(Link::connection_count).sum();
                    if open >= at_least { Ok(json!({ "count": open })) } else { Err(format!("count={open}")) }
                })
                .await
            }
            Op::Pause { member } => self.pause(member, true).await,
            Op::Resume { member } => self.pause(member, false).await,
            Op::Stop { member, leave } => {
                let at = self.which(member).await?;
                blocking(&self.store, move |store| store.stop(at, leave)).await?;
                Ok(json!({ "member": at }))
            }
            Op::Start { member } => {
                blocking(&self.store, move |store| store.start_members(&[member])).await?;
                self.admin().leader().await?;
                Ok(json!({}))
            }
            Op::Restart { member } => {
                let at = self.which(member).await?;
                self.restart(at).await?;
                Ok(json!({ "member": at }))
            }
            Op::Leader {} => Ok(json!({ "member": self.admin().leader().await?.0 })),
            Op::MoveLeader {} => {
                let (from, to) = self.admin().move_leader().await?;
                Ok(json!({ "from": from, "to": to }))
            }
            Op::Replace {} => self.rebuilt(Store::replace).await,
            Op::BackUp {} => self.rebuilt(Store::back_up).await,
            Op::Restore {} => self.rebuilt(Store::restore).await,
            Op::Compact {} => Ok(json!({ "revision": self.admin().compact().await? })),
            Op::Expire { prefix } => self.expire(&prefix).await,
            Op::Keys { prefix } => to_json(&self.admin().keys(&prefix, true).await?),
            Op::Put { key, value } => Ok(json!({ "revision": self.admin().put(&key, &value).await? })),
            Op::Delete { key, prefix } => {
                let deleted = match (key, prefix) {
                    (Some(key), None) => self.admin().delete(&key, false).await?,
                    (None, Some(prefix)) => self.admin().delete(&prefix, true).await?,
                    _ => return Err(Refusal::wrong("delete takes either a key or a prefix")),
                };
                Ok(json!({ "deleted": deleted }))
            }
            Op::WaitUntil { prefix, count, value, within } => {
                if count.is_none() && value.is_none() {
                    return Err(Refusal::wrong("wait_until takes a count, a value, or both"));
                }
                until(within, || async {
                    let found = self.admin().keys(&prefix, true).await.map_err(|error| error.to_string())?;
                    let right = count.is_none_or(|count| found.count == count)
                        && value
                            .as_ref()
                            .is_none_or(|value| found.keys.iter().any(|key| key.value == *value));
                    if right {
                        to_json(&found).map_err(|error| error.to_string())
                    } else {
                        Err(format!("{found:?}"))
                    }
                })
                .await
            }
            Op::Hourglass { seconds } => {
                // The store itself tells when so much time has passed.
                let lease = format!("{:x}", self.admin().grant(seconds).await?);
                until(seconds as f64 * 3.0 + WITHIN_DEFAULT, || async {
                    let leases = self.admin().leases().await.map_err(|error| error.to_string())?;
                    if leases.contains(&lease) { Err("it still runs".into()) } else { Ok(json!({})) }
                })
                .await
            }
            Op::EnableAuth { password } => {
                let mut admin = self.admin();
                admin.enable_auth(&password).await?;
                *self.admin.lock() = admin;
                Ok(json!({ "user": "root" }))
            }
            Op::Chaos { seed, times, faults } => self.chaos(seed, times, &faults).await,
            Op::Leaks { within, leases } => {
                until(within, || async {
                    let open: usize = self.links.lock().values().flatten().map(Link::connection_count).sum();
                    let left = if leases {
                        self.admin().leases().await.map_err(|error| error.to_string())?
                    } else {
                        Vec::new()
                    };
                    if open == 0 && left.is_empty() {
                        return Ok(json!({ "connections": 0, "leases": 0 }));
                    }
                    Err(format!("connections={open} leases={left:?}"))
                })
                .await
            }
        }
    }

    async fn restart(&self, at: usize) -> Result<(), Refusal> {
        blocking(&self.store, move |store| {
            store.stop(at, false)?;
            store.start_members(&[at])
        })
        .await?;
        self.admin().leader().await?;
        Ok(())
    }

    async fn rebuilt(&self, change: fn(&mut Store) -> Result<(), Refusal>) -> Result<Value, Refusal> {
        blocking(&self.store, change).await?;
        self.admin().leader().await?;
        Ok(json!({}))
    }

    async fn pause(&self, member: Option<Who>, stop: bool) -> Result<Value, Refusal> {
        let which = match self.some(member).await? {
            Some(at) => vec![at],
            None => (0..self.targets.len()).collect(),
        };
        for at in which {
            blocking(&self.store, move |store| store.signal(at, stop)).await?;
            // For a member in this process that is all there is: to its clients it is stopped.
            self.each(None, Some(at), |link| link.set(|faults| faults.paused = stop)).await?;
            let mut paused = self.paused.lock();
            if stop {
                paused.insert(at)
            } else {
                paused.remove(&at)
            };
        }
        Ok(json!({}))
    }

    async fn expire(&self, prefix: &str) -> Result<Value, Refusal> {
        let keys = self.admin().keys(prefix, true).await?;
        let leases: std::collections::BTreeSet<_> =
            keys.keys.iter().filter_map(|key| key.lease.clone()).collect();
        if leases.is_empty() {
            return Err(Refusal::wrong(format!("no key with a lease begins so prefix={prefix:?}")));
        }
        for lease in &leases {
            let id = i64::from_str_radix(lease, 16).map_err(|error| Refusal::failed(error.to_string()))?;
            self.admin().revoke(id).await?;
        }
        Ok(json!({ "leases": leases }))
    }

    async fn chaos(&self, seed: u64, times: u32, faults: &[Fault]) -> Result<Value, Refusal> {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut done = Vec::new();
        for _ in 0..times {
            let Some(fault) = faults.choose(&mut chance) else {
                return Err(Refusal::wrong("chaos takes at least one fault"));
            };
            let moment = Duration::from_millis(chance.random_range(20..200));
            let clients: Vec<String> = self.links.lock().keys().cloned().collect();
            let client = clients.choose(&mut chance).cloned().unwrap_or_default();
            match fault {
                Fault::DropStreams => drop(self.each(None, None, Link::drop_connections).await?),
                Fault::Delay => {
                    let slow =
                        |ms| move |link: &Link| link.set(|faults| faults.delay = Duration::from_millis(ms));
                    self.each(None, None, slow(30)).await?;
                    tokio::time::sleep(moment).await;
                    self.each(None, None, slow(0)).await?;
                }
                Fault::Partition => {
                    let hold = |held| {
                        move |link: &Link| {
                            link.set(|faults| (faults.hold_to_store, faults.hold_from_store) = (held, held));
                        }
                    };
                    self.each(Some(&client), None, hold(true)).await?;
                    tokio::time::sleep(moment).await;
                    self.each(Some(&client), None, hold(false)).await?;
                }
                Fault::MoveLeader => drop(self.admin().move_leader().await?),
                Fault::Restart => {
                    let at = chance.random_range(0..self.targets.len());
                    self.restart(at).await?;
                }
            }
            done.push(format!("{fault:?}"));
            tokio::time::sleep(moment).await;
        }
        Ok(json!({ "faults": done }))
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|error| Refusal::failed(error.to_string()))
}

/// Looks again and again until there is something to see.
async fn until<F: Future<Output = Result<Value, String>>>(
    seconds: f64,
    look: impl Fn() -> F,
) -> Result<Value, Refusal> {
    let Ok(within) = Duration::try_from_secs_f64(seconds) else {
        return Err(Refusal::wrong(format!("a time is a number of seconds within={seconds}")));
    };
    let until = Instant::now() + within;
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(last) if Instant::now() > until => {
                return Err(Refusal::failed(format!("it did not come within {within:?}; last seen: {last}")));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
