//! The table of operations, each in terms of the client.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use folkmoot_client::recipes::config::ConfigWatch;
use folkmoot_client::recipes::registry as reg;
use folkmoot_client::{
    Client, Compare, Delete, Error, Get, Guard, Is, Keys, Leadership, Observer, Op, Put, Session, Txn,
    Watcher,
};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;

use crate::show;

/// Why an operation gave nothing.
pub enum Failure {
    /// The client's error.
    Error(Value),
    /// What was asked for makes no sense; never what a scenario waits for.
    Fault(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(show::error(&error))
    }
}

type Done<T = Value> = Result<T, Failure>;

fn fault<T>(text: impl Into<String>) -> Done<T> {
    Err(Failure::Fault(text.into()))
}

/// Something that lives longer than one operation.
enum Open {
    Lock(Guard),
    Lead(Leadership),
    Registration(AsyncMutex<reg::Registration>),
    Balancer(reg::Balancer),
    Watch(AsyncMutex<Watcher>),
    Observer(AsyncMutex<Observer>),
    Subscription(AsyncMutex<reg::Subscription>),
    Config(AsyncMutex<ConfigWatch<show::Settings>>),
    States(AsyncMutex<folkmoot_client::session::StateWatch>),
}

macro_rules! as_a {
    ($kind:ident, $open:expr) => {
        match $open {
            Open::$kind(it) => it,
            _ => return fault(concat!("it is no ", stringify!($kind))),
        }
    };
}

/// The client of this process, its session, and what it has open.
#[derive(Default)]
pub struct Actor {
    client: Mutex<Option<Client>>,
    session: Mutex<Option<Session>>,
    folder: Mutex<String>,
    open: Mutex<HashMap<String, Arc<Open>>>,
}

/// The arguments; what is not there is the empty text, 0 or false.
#[derive(Clone, Copy)]
struct Args<'a>(&'a Value);

impl<'a> Args<'a> {
    fn text(self, name: &str) -> &'a str {
        self.0[name].as_str().unwrap_or_default()
    }
    fn number(self, name: &str) -> Option<i64> {
        self.0[name].as_i64()
    }
    fn seconds(self, name: &str, default: f64) -> Duration {
        Duration::from_secs_f64(self.0[name].as_f64().unwrap_or(default))
    }
    fn flag(self, name: &str) -> bool {
        self.0[name].as_bool().unwrap_or_default()
    }
    fn list(self, name: &str) -> &'a [Value] {
        self.0[name].as_array().map_or(&[], Vec::as_slice)
    }
    fn keys(self) -> Keys {
        self.0["prefix"].as_str().map_or_else(|| Keys::one(self.text("key")), Keys::prefix)
    }
    fn put(self) -> Put {
        Put::new(self.text("key"), self.text("value"))
    }
    fn lease(self) -> Done<i64> {
        i64::from_str_radix(self.text("lease"), 16).or_else(|error| fault(format!("no lease: {error}")))
    }
}

impl Actor {
    fn client(&self) -> Done<Client> {
        self.client.lock().clone().map_or_else(|| fault("hello comes first"), Ok)
    }
    fn session(&self) -> Done<Session> {
        self.session.lock().clone().map_or_else(|| fault("the actor has no session"), Ok)
    }
    fn open(&self, a: Args) -> Done<Arc<Open>> {
        let open = self.open.lock().get(a.text("handle")).cloned();
        open.map_or_else(|| fault(format!("nothing is open handle={:?}", a.text("handle"))), Ok)
    }
    fn take(&self, a: Args) -> Done<Open> {
        let open = self.open(a)?;
        self.open.lock().remove(a.text("handle"));
        Arc::try_unwrap(open).or_else(|_| fault(format!("it is in use handle={:?}", a.text("handle"))))
    }
}

/// Does an operation.
pub async fn run(actor: &Actor, op: &str, args: &Value, save: &Value) -> Done {
    let a = Args(args);
    if op == "hello" {
        return hello(actor, a).await;
    }
    if let Some(open) = open(actor, op, a).await? {
        let result = match &open {
            Open::Lock(guard) => show::token(&guard.token()),
            Open::Lead(lead) => show::token(&lead.token()),
            Open::Registration(one) => json!({ "id": one.lock().await.id() }),
            _ => json!({}),
        };
        let Some(save) = save.as_str() else { return fault(format!("{op} needs a name to save")) };
        actor.open.lock().insert(save.into(), Arc::new(open));
        return Ok(result);
    }
    let client = actor.client()?;
    let (registry, config) = (client.registry(a.text("namespace")), client.config(a.text("namespace")));
    Ok(match op {
        "kv.put" => {
            let put = match a.text("lease") {
                "" => a.put(),
                "session" => a.put().lease(actor.session()?.lease()),
                _ => a.put().lease(a.lease()?),
            };
            let done = client.put_with(if a.flag("prev") { put.prev() } else { put }).await?;
            json!({ "revision": done.header.revision, "prev": done.prev.as_ref().map(show::kv) })
        }
        "kv.get" => {
            let get = Get::new(a.keys()).limit(a.number("limit").unwrap_or(0));
            let get = get.at_revision(a.number("revision").unwrap_or(0));
            let got = client.get(if a.flag("serializable") { get.serializable() } else { get }).await?;
            let kvs: Vec<_> = got.kvs.iter().map(show::kv).collect();
            json!({ "revision": got.header.revision, "count": got.count, "more": got.more, "kvs": kvs })
        }
        "kv.delete" => {
            let done = client.delete(Delete::new(a.keys())).await?;
            json!({ "deleted": done.deleted, "revision": done.header.revision })
        }
        "kv.txn" => {
            let mut txn = Txn::new();
            for one in a.list("if") {
                txn = txn.when(compare(Args(one))?);
            }
            for one in a.list("then") {
                txn = txn.and_then(operation(one)?);
            }
            for one in a.list("else") {
                txn = txn.or_else(operation(one)?);
            }
            let done = client.commit(txn).await?;
            let parts: Vec<_> = done.responses.iter().map(show::response).collect();
            json!({ "succeeded": done.succeeded, "revision": done.header.revision, "responses": parts })
        }
        "kv.fill" => fill(&client, a).await?,
        "lease.grant" => {
            let lease = client.lease_grant(a.seconds("ttl", 0.0)).await?;
            json!({ "id": format!("{:x}", lease.id), "ttl": lease.ttl.as_secs() })
        }
        "lease.revoke" => json!({ "existed": client.lease_revoke(a.lease()?).await? }),
        "session.check" => actor.session()?.check().map(|()| json!({}))?,
        "session.lost" => show::error(&actor.session()?.lost().await),
        "session.close" => actor.session()?.close().await.map(|()| json!({}))?,
        "session.lease" => json!({ "id": format!("{:x}", actor.session()?.lease()) }),
        "mutex.contenders" => {
            let line = actor.session()?.mutex(a.text("name")).contenders().await?;
            line.iter().map(|one| json!({ "owner": show::text(&one.owner), "token": one.revision })).collect()
        }
        "mutex.unlock" => json!({ "held": as_a!(Lock, actor.take(a)?).unlock().await? }),
        "election.resign" => json!({ "held": as_a!(Lead, actor.take(a)?).resign().await? }),
        "election.proclaim" => {
            as_a!(Lead, &*actor.open(a)?).proclaim(a.text("value")).await.map(|()| json!({}))?
        }
        "election.leader" => client.leader(a.text("name")).await?.as_ref().map_or(Value::Null, show::leader),
        "guard.put" => {
            let txn = match &*actor.open(a)? {
                Open::Lock(guard) => guard.txn(),
                open => as_a!(Lead, open).txn(),
            };
            json!({ "revision": txn.and_then(a.put()).commit().await?.header.revision })
        }
        "guard.check" => match &*actor.open(a)? {
            Open::Lock(guard) => guard.check().map(|()| json!({}))?,
            open => as_a!(Lead, open).check().map(|()| json!({}))?,
        },
        "guard.lost" => match &*actor.open(a)? {
            Open::Lock(guard) => show::error(&guard.lost().await),
            open => show::error(&as_a!(Lead, open).lost().await),
        },
        "guard.drop" | "stream.close" => actor.take(a).map(|_| json!({}))?,
        "registry.resolve" => show::instances(&registry.resolve(a.text("service")).await?),
        "registration.health" => {
            let health = serde_json::from_value(a.0["health"].clone());
            let health = health.or_else(|error| fault(error.to_string()))?;
            as_a!(Registration, &*actor.open(a)?).lock().await.set_health(health);
            json!({})
        }
        "registration.drain" => {
            let grace = a.seconds("grace", 5.0);
            as_a!(Registration, &*actor.open(a)?).lock().await.drain(grace).await.map(|()| json!({}))?
        }
        "registration.deregister" => {
            let one = as_a!(Registration, actor.take(a)?).into_inner();
            one.deregister().await.map(|()| json!({}))?
        }
        "balancer.instances" => show::instances(&as_a!(Balancer, &*actor.open(a)?).instances()),
        "balancer.pick" => pick(as_a!(Balancer, &*actor.open(a)?), a)?,
        "config.get" => {
            config.get(a.text("path")).await?.map_or(Value::Null, |item| show::text(&item).into())
        }
        "config.publish" => {
            let items = a.0["items"].as_object().into_iter().flatten();
            let publish = items.fold(config.publish(), |publish, (path, value)| match value.as_str() {
                Some(value) => publish.set(path, value),
                None => publish.remove(path),
            });
            let based_on = a.number("based_on").map(|revision| publish.clone().based_on(revision));
            json!({ "revision": based_on.unwrap_or(publish).commit().await? })
        }
        "config.current" => json!(&*as_a!(Config, &*actor.open(a)?).lock().await.current()),
        "stream.next" => next(&*actor.open(a)?).await?,
        "bye" => {
            let open: Vec<_> = actor.open.lock().drain().map(|(_, open)| open).collect();
            for open in open {
                if let Ok(Open::Registration(one)) = Arc::try_unwrap(open) {
                    one.into_inner().deregister().await?;
                }
            }
            let session = actor.session.lock().take();
            if let Some(session) = session {
                session.close().await?;
            }
            client.close();
            json!({})
        }
        _ => return fault(format!("there is no operation {op}")),
    })
}

async fn hello(actor: &Actor, a: Args<'_>) -> Done {
    let endpoints = a.list("endpoints").iter().filter_map(Value::as_str);
    let mut builder = Client::builder().endpoints(endpoints);
    if !a.text("user").is_empty() {
        builder = builder.auth(a.text("user"), a.text("password"));
    }
    let client = if a.flag("lazy") { builder.connect_lazy()? } else { builder.connect().await? };
    if !a.0["ttl"].is_null() {
        let session = client.session().ttl(a.seconds("ttl", 0.0)).allow_short_ttl().open().await?;
        *actor.session.lock() = Some(session);
    }
    *actor.client.lock() = Some(client);
    a.text("folder").clone_into(&mut actor.folder.lock());
    Ok(json!({ "language": "rust", "version": env!("CARGO_PKG_VERSION") }))
}

/// Does the operations that open something.
async fn open(actor: &Actor, op: &str, a: Args<'_>) -> Done<Option<Open>> {
    let mutex = || Ok::<_, Failure>(actor.session()?.mutex(a.text("name")).owner(a.text("owner")));
    let registry = || Ok::<_, Failure>(actor.client()?.registry(a.text("namespace")).zone(a.text("zone")));
    Ok(Some(match op {
        "mutex.lock" => Open::Lock(mutex()?.lock_delay(a.seconds("lock_delay", 0.0)).lock().await?),
        "mutex.try_lock" => Open::Lock(mutex()?.try_lock().await?),
        "election.campaign" => {
            Open::Lead(actor.session()?.election(a.text("name")).campaign(a.text("value")).await?)
        }
        "election.observe" => Open::Observer(actor.client()?.observe(a.text("name")).await?.into()),
        "session.states" => Open::States(actor.session()?.watch_state().into()),
        "watch.open" => {
            let mut watch = actor.client()?.watch(a.keys());
            if let Some(from) = a.number("from").or(a.number("after").map(|after| after + 1)) {
                watch = watch.from_revision(from);
            }
            Open::Watch(if a.flag("prev") { watch.prev() } else { watch }.open().await?.into())
        }
        "registry.register" => {
            let instance = reg::Instance::new(a.text("service"), a.text("addr")).id(a.text("id"));
            let weight = a.number("weight").map_or(100, |weight| weight as u32);
            let register = registry()?.register(instance.zone(a.text("zone")).weight(weight));
            let on_conflict = match a.text("on_conflict") {
                "takeover" => reg::OnConflict::Takeover,
                "suffix" => reg::OnConflict::Suffix,
                _ => reg::OnConflict::Fail,
            };
            let register = register.ttl(a.seconds("ttl", 15.0)).on_conflict(on_conflict);
            Open::Registration(register.open().await?.into())
        }
        "registry.subscribe" => Open::Subscription(registry()?.subscribe(a.text("service")).await?.into()),
        "registry.balancer" => {
            let policy = match a.text("policy") {
                "weighted_random" => reg::Policy::WeightedRandom,
                "p2c" => reg::Policy::P2c,
                "ring_hash" => reg::Policy::RingHash,
                _ => reg::Policy::RoundRobin,
            };
            Open::Balancer(registry()?.balancer(a.text("service"), policy).await?)
        }
        "config.open" => {
            let mut open = actor.client()?.config(a.text("namespace")).typed::<show::Settings>();
            open = a
                .list("extends")
                .iter()
                .filter_map(Value::as_str)
                .fold(open, |open, base| open.extends(base));
            open = open.initial_timeout(a.seconds("initial_timeout", 5.0));
            open = if a.flag("validate") { open.validate(|_, new| new.validate()) } else { open };
            open = if a.flag("cache") { open.cache_dir(&*actor.folder.lock()) } else { open };
            Open::Config(open.open().await?.into())
        }
        _ => return Ok(None),
    }))
}

/// The next item of a stream.
async fn next(stream: &Open) -> Done {
    let ended = || Failure::Error(json!({ "code": "CLOSED", "retryable": false, "maybe_applied": false }));
    Ok(match stream {
        Open::Watch(it) => show::batch(&it.lock().await.next().await.ok_or_else(ended)??),
        Open::Observer(it) => show::leader_event(&it.lock().await.next().await?),
        Open::Subscription(it) => show::service_event(&it.lock().await.next().await?),
        Open::Registration(it) => show::registration_event(&it.lock().await.event().await.ok_or_else(ended)?),
        Open::Config(it) => show::config_event(&it.lock().await.next().await?),
        open => show::state(as_a!(States, open).lock().await.next().await.ok_or_else(ended)?),
    })
}

/// Puts keys one after the other. Under faults, what was not acknowledged is left out of the answer.
async fn fill(client: &Client, a: Args<'_>) -> Done {
    let mut revisions = Vec::new();
    for n in 0..a.number("count").unwrap_or(1) {
        match client.put(format!("{}{n:05}", a.text("prefix")), n.to_string()).await {
            Ok(put) => revisions.push(put.header.revision),
            Err(_) if a.flag("under_faults") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "count": revisions.len(), "last": revisions.last(), "revisions": revisions }))
}

fn pick(balancer: &reg::Balancer, a: Args) -> Done {
    let mut counts = BTreeMap::<String, usize>::new();
    for _ in 0..a.number("times").unwrap_or(1) {
        let pick = balancer.pick_for(a.text("key"))?;
        let id = pick.instance().id.clone();
        pick.done(&if a.text("failing") == id { Err(()) } else { Ok(()) });
        *counts.entry(id).or_default() += 1;
    }
    Ok(json!({ "counts": counts }))
}

fn compare(a: Args) -> Done<Compare> {
    let is = match a.text("is") {
        "=" => Is::Equal,
        "!=" => Is::NotEqual,
        ">" => Is::Greater,
        "<" => Is::Less,
        other => return fault(format!("there is no comparison {other:?}")),
    };
    let number = a.number("to").unwrap_or_default();
    Ok(match a.text("target") {
        "value" => Compare::value(a.keys(), is, a.text("to")),
        "create_revision" => Compare::create_revision(a.keys(), is, number),
        "mod_revision" => Compare::mod_revision(a.keys(), is, number),
        "version" => Compare::version(a.keys(), is, number),
        other => return fault(format!("nothing is compared by {other:?}")),
    })
}

fn operation(one: &Value) -> Done<Op> {
    Ok(match one.as_object().and_then(|one| one.iter().next()).map(|(name, a)| (name.as_str(), Args(a))) {
        Some(("put", a)) => a.put().into(),
        Some(("get", a)) => Get::new(a.keys()).into(),
        Some(("delete", a)) => Delete::new(a.keys()).into(),
        _ => return fault("a transaction puts, gets and deletes"),
    })
}
