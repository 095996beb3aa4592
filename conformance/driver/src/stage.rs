//! Plays one scenario: starts its store and its actors, does the steps, compares, and cleans up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, try_join_all};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::adapter::{Adapter, Language};
use crate::control::Testd;
use crate::pattern::{mismatch, resolve};
use crate::scenario::{Answer, Expect, Happening, Scenario, Step};

const WITHIN: f64 = 20.0;
const MOMENT: f64 = 0.1;
const PAUSE: Duration = Duration::from_millis(20);

/// Where it failed, and why.
#[derive(Debug)]
pub struct Failed {
    /// The number of the step; of a branch `step.branch.step`; or `start` or `end`.
    pub at: String,
    pub why: String,
}

/// What an operation gave: a result, or the client's error.
type Outcome = Result<Value, Value>;

/// Something that was begun.
struct Begun {
    task: JoinHandle<Result<Outcome, String>>,
    /// Whom to tell when it is given up.
    cancel: Option<(String, u64)>,
}

struct Actor {
    adapter: Adapter,
    /// Killed, and so of no further use.
    gone: Mutex<bool>,
}

/// Who plays.
pub struct Cast {
    /// Under test; they take turns.
    pub languages: Vec<Language>,
    /// Another client of the same recipes.
    pub foreign: Language,
}

/// See the module.
pub struct Stage {
    testd: Arc<Testd>,
    world: String,
    actors: BTreeMap<String, Actor>,
    saved: Mutex<HashMap<String, Value>>,
    begun: Mutex<HashMap<String, Begun>>,
}

impl Stage {
    /// Plays it. `Ok(Some(reason))` if an actor cannot do what it asks for.
    pub async fn play(
        testd: &Arc<Testd>,
        cast: &Cast,
        scenario: &Scenario,
    ) -> Result<Option<String>, Failed> {
        let start = |why| Failed { at: "start".into(), why };
        let members = Map::from_iter([("members".to_owned(), json!(scenario.members))]);
        let created = testd.request("POST", "/worlds", &members).await.map_err(start)?;
        let world = created["world"].as_str().unwrap_or_default().to_owned();
        let mut stage = Self {
            testd: testd.clone(),
            world: world.clone(),
            actors: BTreeMap::new(),
            saved: Mutex::default(),
            begun: Mutex::default(),
        };
        let played = async {
            let folder = tempfile::tempdir().map_err(|error| start(error.to_string()))?;
            if let Some(reason) = stage.cast(cast, scenario, folder.path()).await.map_err(start)? {
                return Ok(Some(reason));
            }
            stage.steps(String::new(), &scenario.steps).await?;
            stage.curtain(scenario).await.map_err(|why| Failed { at: "end".into(), why })?;
            Ok(None)
        };
        let played = played.await;
        // Actors that are stopped would keep their pipes open.
        for actor in stage.actors.values() {
            actor.adapter.abandon().await;
        }
        let ended = testd.request("DELETE", &format!("/worlds/{world}"), &Map::new()).await;
        ended.map_err(|why| Failed { at: "end".into(), why }).and(played)
    }

    async fn ctl(&self, op: &str, args: &Map<String, Value>) -> Result<Value, String> {
        let path = format!("/worlds/{}/{op}", self.world);
        self.testd.request("POST", &path, args).await.map_err(|error| format!("{op}: {error}"))
    }

    /// Starts the actors. A reason if one of them cannot play its part.
    async fn cast(
        &mut self,
        cast: &Cast,
        scenario: &Scenario,
        folder: &std::path::Path,
    ) -> Result<Option<String>, String> {
        let mut turns = cast.languages.iter().cycle();
        for (name, wishes) in &scenario.actors {
            let ways = self.ctl("client", &Map::from_iter([("name".to_owned(), json!(name))])).await?;
            let mut args = wishes.as_object().cloned().unwrap_or_default();
            let foreign = args.remove("foreign").is_some_and(|foreign| foreign == json!(true));
            let language = if foreign { Some(&cast.foreign) } else { turns.next() };
            let language = language.ok_or("there is no language")?;
            let adapter = Adapter::start(language)?;
            let late = args.remove("late").is_some_and(|late| late == json!(true));
            args.insert("endpoints".into(), ways["endpoints"].clone());
            args.insert("folder".into(), json!(folder));
            self.saved.lock().insert(name.clone(), Value::Object(args.clone()));
            if !late {
                let hello =
                    tokio::time::timeout(Duration::from_secs_f64(WITHIN), adapter.call("hello", &args, None));
                let hello = hello.await.map_err(|_| format!("{name} does not say hello"))??;
                let Some(result) = hello.get("result") else {
                    return Err(format!("{name} fails at once: {hello}"));
                };
                for op in scenario.ops() {
                    if let Some(reason) = result["cannot"].get(op).and_then(Value::as_str) {
                        return Ok(Some(format!("{}: {op}: {reason}", language.name)));
                    }
                }
            }
            self.actors.insert(name.clone(), Actor { adapter, gone: Mutex::new(false) });
        }
        Ok(None)
    }

    /// Everybody says good-bye, and nothing may be left.
    async fn curtain(&self, scenario: &Scenario) -> Result<(), String> {
        self.ctl("heal", &Map::new()).await?;
        for (name, actor) in &self.actors {
            if *actor.gone.lock() {
                continue;
            }
            let bye = async { actor.adapter.call("bye", &Map::new(), None).await };
            let bye = tokio::time::timeout(Duration::from_secs_f64(WITHIN), bye).await;
            let bye = bye.map_err(|_| format!("{name} does not say bye"))??;
            if bye.get("result").is_none() {
                return Err(format!("{name} cannot close what it has open: {bye}"));
            }
            actor.adapter.end().await.map_err(|why| format!("{name}: {why}"))?;
        }
        let args = json!({ "leases": !scenario.leaves_leases, "within": 30 });
        self.ctl("leaks", args.as_object().expect("is one")).await.map(drop)
    }

    fn resolve<T: serde::Serialize + serde::de::DeserializeOwned>(&self, value: &T) -> Result<T, String> {
        let value = serde_json::to_value(value).map_err(|error| error.to_string())?;
        let resolved = resolve(&value, &|name| self.saved.lock().get(name).cloned())?;
        serde_json::from_value(resolved).map_err(|error| error.to_string())
    }

    fn actor(&self, name: &str) -> Result<&Actor, String> {
        self.actors.get(name).ok_or_else(|| format!("there is no actor {name}"))
    }

    fn steps<'a>(&'a self, before: String, steps: &'a [Step]) -> BoxFuture<'a, Result<(), Failed>> {
        async move {
            for (number, step) in steps.iter().enumerate() {
                let at = format!("{before}{number}");
                if let Step::Parallel { parallel } = step {
                    let branch = |(number, branch): (usize, &'a Vec<Step>)| {
                        self.steps(format!("{at}.{number}."), branch)
                    };
                    try_join_all(parallel.iter().enumerate().map(branch)).await?;
                    continue;
                }
                self.step(step).await.map_err(|why| Failed { at, why })?;
            }
            Ok(())
        }
        .boxed()
    }

    async fn step(&self, step: &Step) -> Result<(), String> {
        match step {
            Step::Op { actor, op, args, r#async: true, answer, .. } => {
                let (args, save) = (self.resolve(args)?, answer.save.clone());
                let name = save.clone().ok_or("what is begun needs a name to save")?;
                let (id, answered) = self.actor(actor)?.adapter.begin(op, &args, save.as_deref()).await?;
                let op = op.clone();
                let task = tokio::spawn(async move { read(&op, answered.await.ok()) });
                self.begun.lock().insert(name, Begun { task, cancel: Some((actor.clone(), id)) });
                Ok(())
            }
            Step::Op { actor, op, args, eventually, answer, .. } => {
                let args = self.resolve(args)?;
                let adapter = &self.actor(actor)?.adapter;
                let Some(wanted) = eventually else {
                    let call =
                        async { read(op, Some(adapter.call(op, &args, answer.save.as_deref()).await?)) };
                    return self.judge(answer, self.within(answer, call).await?);
                };
                let wanted = self.resolve(wanted)?;
                let wanted_error = wanted.get("error").map(code);
                let last = Mutex::new(Value::Null);
                let looking = async {
                    loop {
                        match read(op, Some(adapter.call(op, &args, answer.save.as_deref()).await?))? {
                            Ok(result) if mismatch(&wanted, &result).is_none() => return Ok(Ok(result)),
                            Err(error)
                                if wanted_error
                                    .as_ref()
                                    .is_some_and(|wanted| mismatch(wanted, &error).is_none()) =>
                            {
                                return Ok(Ok(error));
                            }
                            Ok(other) | Err(other) => *last.lock() = other,
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                };
                let seen = self.within(answer, looking).await;
                let seen =
                    seen.map_err(|why| format!("{why}; wanted {wanted}, last seen {}", last.lock()))?;
                self.judge(answer, seen)
            }
            Step::Collect { actor, collect, until, count, r#async, answer } => {
                let until = until.as_ref().map(|until| self.resolve(until)).transpose()?;
                let adapter = &self.actor(actor)?.adapter;
                if *r#async {
                    return Err("collect does not go on in the background".into());
                }
                let items = Mutex::new(Vec::new());
                let collecting = self.collect(adapter, collect, until.as_ref(), count.unwrap_or(1), &items);
                let done = self.within(answer, collecting).await;
                let done = done.map_err(|why| format!("{why}; seen so far {}", json!(*items.lock())))?;
                self.judge(answer, done)
            }
            Step::Ctl { ctl, args, r#async, answer } => {
                let args = self.resolve(args)?;
                if !r#async {
                    let done = self.within(answer, async { self.ctl(ctl, &args).await.map(Ok) }).await?;
                    return self.judge(answer, done);
                }
                let name = answer.save.clone().ok_or("what is begun needs a name to save")?;
                let (testd, path) = (self.testd.clone(), format!("/worlds/{}/{ctl}", self.world));
                let task = tokio::spawn(async move { testd.request("POST", &path, &args).await.map(Ok) });
                self.begun.lock().insert(name, Begun { task, cancel: None });
                Ok(())
            }
            Step::Await { r#await, answer } => {
                let begun = self.begun.lock().remove(r#await);
                let begun = begun.ok_or_else(|| format!("nothing was begun as {}", r#await))?;
                let ended = async { begun.task.await.map_err(|error| error.to_string())? };
                let outcome = self.within(answer, ended).await?;
                if let (Ok(result), None) = (&outcome, &answer.save) {
                    self.saved.lock().insert(r#await.clone(), result.clone());
                }
                self.judge(answer, outcome)
            }
            Step::Pending { pending, r#for } => {
                let until = Instant::now() + Duration::from_secs_f64(r#for.unwrap_or(MOMENT));
                loop {
                    let begun = self.begun.lock().get(pending).map(|begun| begun.task.is_finished());
                    match begun {
                        None => return Err(format!("nothing was begun as {pending}")),
                        Some(true) => return Err(format!("{pending} has ended")),
                        Some(false) if Instant::now() >= until => return Ok(()),
                        // That nothing happens can only be seen by looking for a while.
                        Some(false) => tokio::time::sleep(PAUSE).await,
                    }
                }
            }
            Step::Cancel { cancel } => {
                let begun = self.begun.lock().remove(cancel);
                let begun = begun.ok_or_else(|| format!("nothing was begun as {cancel}"))?;
                let Some((actor, id)) = begun.cancel else {
                    return Err(format!("{cancel} cannot be given up"));
                };
                self.actor(&actor)?.adapter.cancel(id).await?;
                let ended = tokio::time::timeout(Duration::from_secs_f64(WITHIN), begun.task).await;
                ended.map(drop).map_err(|_| format!("{cancel} did not end when it was given up"))
            }
            Step::Check { check, expect } => {
                let value: Value = self.resolve(&json!(format!("${check}")))?;
                mismatch(&self.resolve(expect)?, &value).map_or(Ok(()), Err)
            }
            Step::Process { actor, process } => {
                let actor = self.actor(actor)?;
                *actor.gone.lock() |= matches!(process, Happening::Kill);
                actor.adapter.happen(*process)
            }
            Step::Parallel { .. } => unreachable!("is done where steps are"),
        }
    }

    async fn within<T>(
        &self,
        answer: &Answer,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let seconds = answer.within.unwrap_or(WITHIN);
        let done = tokio::time::timeout(Duration::from_secs_f64(seconds), work).await;
        done.unwrap_or_else(|_| Err(format!("it did not come within {seconds} s")))
    }

    async fn collect(
        &self,
        adapter: &Adapter,
        stream: &str,
        until: Option<&Value>,
        count: usize,
        items: &Mutex<Vec<Value>>,
    ) -> Result<Outcome, String> {
        let args = Map::from_iter([("handle".to_owned(), json!(stream))]);
        loop {
            let item = match read("stream.next", Some(adapter.call("stream.next", &args, None).await?))? {
                Ok(item) => item,
                Err(error) => return Ok(Err(error)),
            };
            let found = until.map(|until| mismatch(until, &item).is_none());
            items.lock().push(item);
            if found.unwrap_or(items.lock().len() >= count) {
                break;
            }
        }
        let items = items.lock().clone();
        let revisions: Vec<_> = items.iter().filter_map(|item| item["revision"].as_i64()).collect();
        let ordered = revisions.is_sorted_by(|before, after| before < after);
        let events: Vec<_> =
            items.iter().filter_map(|item| item["events"].as_array()).flatten().cloned().collect();
        Ok(Ok(json!({
            "count": items.len(), "last": items.last(), "ordered": ordered,
            "revisions": revisions, "events": events, "items": items,
        })))
    }

    /// Compares, and saves.
    fn judge(&self, answer: &Answer, outcome: Outcome) -> Result<(), String> {
        match (&answer.expect, &outcome) {
            (Some(Expect::Result(wanted)), Ok(result)) => {
                if let Some(why) = mismatch(&self.resolve(wanted)?, result) {
                    return Err(why);
                }
            }
            (Some(Expect::Error(wanted)), Err(error)) => {
                let wanted = code(&self.resolve(wanted)?);
                if let Some(why) = mismatch(&wanted, error) {
                    return Err(format!("another error than expected: {why}"));
                }
            }
            (None, Ok(_)) => {}
            (Some(Expect::Error(wanted)), Ok(result)) => {
                return Err(format!("it should have failed: wanted {wanted}, got {result}"));
            }
            (_, Err(error)) => return Err(format!("it failed: {error}")),
        }
        if let (Some(save), Ok(result)) = (&answer.save, outcome) {
            self.saved.lock().insert(save.clone(), result);
        }
        Ok(())
    }
}

/// The pattern of an error, of which the code is enough.
fn code(wanted: &Value) -> Value {
    if wanted.is_string() { json!({ "code": wanted }) } else { wanted.clone() }
}

/// What an actor answered. Its own faults end the scenario, whatever was expected.
fn read(op: &str, answer: Option<Value>) -> Result<Outcome, String> {
    let Some(answer) = answer else {
        return Err(format!("the actor's process ended before it answered {op}"));
    };
    if let Some(result) = answer.get("result") {
        return Ok(Ok(result.clone()));
    }
    if let Some(error) = answer.get("error") {
        return Ok(Err(error.clone()));
    }
    if answer.get("cancelled").is_some() {
        return Ok(Err(json!({ "code": "CANCELLED" })));
    }
    Err(format!("the actor cannot do {op}: {answer}"))
}
