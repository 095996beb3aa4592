//! Services that find each other: `registry register`, `list`, `watch` and
//! `drain`.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use folkmoot_client::recipes::registry::{
    Health, Instance, OnConflict, Registration, RegistrationEvent, Registry, ServiceEvent, Subscription,
};
use serde_json::{Value, json as value};

use super::Context;
use super::lock::within;
use crate::args::duration;
use crate::child::{ChildArgs, Running, outcome};
use crate::failure::{Failure, Result};
use crate::output::plain;
use crate::signals::StopRequests;

/// Register services, and find them
#[derive(Args)]
pub struct RegistryArgs {
    #[command(subcommand)]
    command: RegistryCommand,
    /// The services of this namespace
    #[arg(long, global = true, value_name = "NAME", default_value = "default")]
    namespace: String,
}

#[derive(Subcommand)]
enum RegistryCommand {
    Register(Box<RegisterArgs>),
    /// Show the instances of a service
    ///
    /// Id, address, health, weight, zone, version, and what else they say of themselves. Values that
    /// are no instances are counted on standard error.
    #[command(after_help = "\
Examples:
  folkmoot registry list api
  folkmoot registry list api --namespace payments
  folkmoot registry list api -w json | jq -r '.[].addr'")]
    List {
        /// The service
        service: String,
    },
    /// Show the instances of a service, and each change, until Ctrl-C
    ///
    /// Each line is added, updated or removed, and the instance. While the store is not heard the
    /// instances that are known still count.
    #[command(after_help = "\
Examples:
  folkmoot registry watch api
  folkmoot registry watch api -w json              a JSON document a line")]
    Watch {
        /// The service
        service: String,
    },
    /// Take instances out of the balancing, whoever registered them
    ///
    /// They stay registered and finish what they have, and are sent nothing new. That lasts, over a lost
    /// session too, until their process says something else or they are let in again.
    #[command(after_help = "\
Examples:
  folkmoot registry drain api a
  folkmoot registry drain api a --undo             let it in again
  folkmoot registry list api -w json | jq -r '.[].id' |
    xargs folkmoot registry drain api              all there are")]
    Drain {
        /// The service
        service: String,
        /// The ids of the instances
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
        /// Let them in again: they are up
        #[arg(long)]
        undo: bool,
    },
}

/// Keep an instance of a service registered until Ctrl-C, or while a command runs
///
/// It stays registered over restarts of the store. Asked to stop, by Ctrl-C or SIGTERM, it drains:
/// it says that it takes nothing new, gives clients time to notice, stops the command, and takes
/// the instance out of the registry. A second request to stop cuts the wait short.
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot registry register api 10.0.0.7:8080     until Ctrl-C
  folkmoot registry register api 10.0.0.7:8080 -- ./api --port 8080
                                                   while the command runs
  folkmoot registry register api 10.0.0.7:8080 --zone a --weight 50 \\
    --attr colour=green --port metrics=9090        with more about it")]
struct RegisterArgs {
    /// The service
    service: String,
    /// Where the instance is reached
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// The command and its arguments, after --
    #[arg(last = true)]
    command: Vec<OsString>,
    /// Its id within the service; made up if left out
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    /// Its share of the work; 0 takes none
    #[arg(long, value_name = "N", default_value_t = 100)]
    weight: u32,
    /// Where it runs: the same zone is preferred
    #[arg(long, default_value = "", hide_default_value = true)]
    zone: String,
    /// The version of its program
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    version: String,
    /// Something else worth knowing; may be repeated
    #[arg(long = "attr", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// One more port of it, by name; may be repeated
    #[arg(long = "port", value_name = "NAME=PORT", value_parser = named_port)]
    ports: Vec<(String, u16)>,
    /// What to do if somebody else is registered under the id
    #[arg(long, value_name = "WHAT", default_value = "fail")]
    on_conflict: Conflict,
    /// Seconds until it is gone if this process vanishes
    #[arg(long, value_name = "SECONDS", default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    ttl: u64,
    /// How long clients are given to notice that it drains
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    drain: Duration,
    #[command(flatten)]
    child: ChildArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Conflict {
    /// Refuse
    Fail,
    /// Take its place
    Takeover,
    /// Register under the id with something behind it
    Suffix,
}

fn attribute(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is a name and a value, such as colour=green".into()),
    }
}

fn named_port(text: &str) -> std::result::Result<(String, u16), String> {
    let (name, port) = attribute(text).map_err(|_| "it is a name and a port, such as metrics=9090")?;
    let port = port.parse().map_err(|_| format!("the port is a number up to 65535, not {port:?}"))?;
    Ok((name, port))
}

impl RegistryArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let mut stop_requests = StopRequests::listen()?;
        let namespace = self.namespace;
        let registry = async { Ok::<_, Failure>(context.store().await?.registry(namespace)) };
        match self.command {
            RegistryCommand::Register(args) => {
                let begin = async { args.open(&registry.await?).await };
                let registration = tokio::select! {
                    registration = begin => registration?,
                    () = stop_requests.next() => {
                        return Err(Failure::new("interrupted before the instance was registered"));
                    }
                };
                args.keep(context, registration, &mut stop_requests).await
            }
            RegistryCommand::List { service } => list(context, &registry.await?, &service).await,
            RegistryCommand::Drain { service, ids, undo } => {
                let registry = registry.await?;
                let health = if undo { Health::Up } else { Health::Draining };
                for id in &ids {
                    registry.set_health(&service, id, health).await?;
                    let word = if undo { "is up" } else { "is draining" };
                    let document = || value!({ "id": id, "health": health });
                    context.printer.print(|| plain::lines([format!("{id} {word}")]), document)?;
                }
                Ok(())
            }
            RegistryCommand::Watch { service } => {
                let follow = async { watch(context, &registry.await?, &service).await };
                tokio::select! {
                    end = follow => end,
                    () = stop_requests.next() => Ok(()),
                }
            }
        }
    }
}

impl RegisterArgs {
    async fn open(&self, registry: &Registry) -> Result<Registration> {
        let mut instance = Instance::new(&self.service, &self.address)
            .id(&self.id)
            .weight(self.weight)
            .zone(&self.zone)
            .version(&self.version);
        if instance.host.is_empty() || instance.port == 0 {
            return Err(Failure::usage(format!(
                "an instance is reached at a host and a port; address={:?}",
                self.address
            )));
        }
        for (name, value) in &self.attributes {
            instance = instance.attr(name, value);
        }
        for (name, port) in &self.ports {
            instance = instance.port_named(name, *port);
        }
        let on_conflict = match self.on_conflict {
            Conflict::Fail => OnConflict::Fail,
            Conflict::Takeover => OnConflict::Takeover,
            Conflict::Suffix => OnConflict::Suffix,
        };
        let ttl = Duration::from_secs(self.ttl);
        Ok(registry.register(instance).ttl(ttl).on_conflict(on_conflict).open().await?)
    }

    /// Keeps it registered until we are asked to stop, the command ends, or somebody takes the id.
    async fn keep(
        &self,
        context: &Context,
        mut registration: Registration,
        stop_requests: &mut StopRequests,
    ) -> Result<()> {
        let mut events = registration.events();
        let taken = async {
            loop {
                match events.next().await {
                    Some(RegistrationEvent::Reregistered { .. }) => {
                        note("the instance was registered again: its session was lost or its key deleted");
                    }
                    Some(RegistrationEvent::Conflict) => break "somebody else has taken its id",
                    None => break "the registration ended",
                }
            }
        };
        let kept = async {
            if self.command.is_empty() {
                let id = registration.id();
                context
                    .printer
                    .print(|| plain::lines([id]), || value!({ "service": self.service, "id": id }))?;
                tokio::select! {
                    () = stop_requests.next() => self.drain(&registration, stop_requests).await,
                    why = taken => Err(Failure::new(format!("the instance is not registered any more: {why}"))),
                }
            } else {
                let mut running = Running::start(&self.command, [])?;
                tokio::select! {
                    status = running.wait() => outcome(status?),
                    () = stop_requests.next() => {
                        tokio::select! {
                            drained = self.drain(&registration, stop_requests) => drained?,
                            // Ctrl-C has reached it as well.
                            status = running.wait() => return outcome(status?),
                        }
                        outcome(running.stop(self.child.kill_after).await?)
                    }
                    why = taken => {
                        running.stop(self.child.kill_after).await?;
                        Err(Failure::new(format!("the instance is not registered any more: {why}")))
                    }
                }
            }
        };
        let outcome = kept.await;
        let gone = async { registration.deregister().await.map(|()| true) };
        outcome.and(within(context, "the registration", gone).await)
    }

    async fn drain(&self, registration: &Registration, stop_requests: &mut StopRequests) -> Result<()> {
        tokio::select! {
            drained = registration.drain(self.drain) => Ok(drained?),
            () = stop_requests.next() => Ok(()),
        }
    }
}

/// Says something that is no answer.
fn note(text: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

fn note_skipped(subscription: &Subscription, told: u64) -> u64 {
    let skipped = subscription.skipped();
    if skipped > told {
        note(&format!("values that are no instances were skipped; count={skipped}"));
    }
    skipped
}

/// An instance on one line.
fn line(instance: &Instance) -> String {
    let health = document(instance)["health"].as_str().unwrap_or_default().to_owned();
    let attributes: Vec<_> = instance.attrs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!(
        "{}, {}, {health}, {}, {}, {}, {}",
        instance.id,
        instance.addr(),
        instance.weight,
        instance.zone,
        instance.version,
        attributes.join(" ")
    )
}

/// An instance as it lies in the store, with its address in one piece.
fn document(instance: &Instance) -> Value {
    let mut document = value!(instance);
    document["host"] = instance.host.as_str().into();
    document["addr"] = instance.addr().into();
    document
}

fn documents(instances: &[Instance]) -> Value {
    instances.iter().map(document).collect()
}

async fn list(context: &Context, registry: &Registry, service: &str) -> Result<()> {
    let subscription = registry.subscribe(service).await?;
    let instances = subscription.instances();
    note_skipped(&subscription, 0);
    context.printer.print(|| plain::lines(instances.iter().map(line)), || documents(&instances))
}

async fn watch(context: &Context, registry: &Registry, service: &str) -> Result<()> {
    let mut subscription = registry.subscribe(service).await?;
    let mut told = 0;
    loop {
        let event = subscription.next().await?;
        told = note_skipped(&subscription, told);
        match &event {
            ServiceEvent::Stale if !context.printer.is_json() => note("the store is not heard"),
            ServiceEvent::Fresh if !context.printer.is_json() => note("the store is heard again"),
            event => context.printer.print(|| lines(event), || event_document(event))?,
        }
    }
}

fn lines(event: &ServiceEvent) -> Vec<u8> {
    let each = |word: &'static str, instances: &[Instance]| {
        plain::lines(instances.iter().map(|instance| format!("{word} {}", line(instance))))
    };
    match event {
        ServiceEvent::Snapshot { instances, .. } => each("added", instances),
        ServiceEvent::Delta { added, updated, removed, .. } => {
            [each("added", added), each("updated", updated), each("removed", removed)].concat()
        }
        ServiceEvent::Stale | ServiceEvent::Fresh => Vec::new(),
    }
}

fn event_document(event: &ServiceEvent) -> Value {
    match event {
        ServiceEvent::Snapshot { instances, revision } => {
            value!({ "event": "snapshot", "revision": revision, "instances": documents(instances) })
        }
        ServiceEvent::Delta { added, updated, removed, revision, resync } => value!({
            "event": "delta",
            "revision": revision,
            "resync": resync,
            "added": documents(added),
            "updated": documents(updated),
            "removed": documents(removed),
        }),
        ServiceEvent::Stale => value!({ "event": "stale" }),
        ServiceEvent::Fresh => value!({ "event": "fresh" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_one_line() {
        let instance = Instance::new("api", "[::1]:80").id("a").weight(7).zone("z").attr("colour", "green");
        assert_eq!(line(&instance), "a, [::1]:80, UP, 7, z, , colour=green");
        assert_eq!(document(&instance)["addr"], "[::1]:80");
        assert_eq!(document(&instance)["host"], "::1");
    }

    #[test]
    fn names_and_values_are_told_apart() {
        assert_eq!(attribute("a=b=c"), Ok(("a".into(), "b=c".into())));
        attribute("=b").expect_err("has no name");
        assert_eq!(named_port("http=80"), Ok(("http".into(), 80)));
        assert!(named_port("http=65536").expect_err("is no port").contains("65536"));
    }
}
