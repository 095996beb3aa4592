//! The client's values as the scenarios see them.

use folkmoot_client::recipes::config::{ConfigEvent, Source};
use folkmoot_client::recipes::registry::{Instance, RegistrationEvent, ServiceEvent};
use folkmoot_client::{
    Error, EventKind, FencingToken, KeyValue, Leader, LeaderEvent, OpResponse, SessionState, WatchBatch,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What every configuration of the scenarios is read as.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    name: String,
    limits: Limits,
    tags: Vec<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Limits {
    min: i64,
    max: i64,
}

impl Settings {
    pub fn validate(&self) -> Result<(), &'static str> {
        if self.limits.min <= self.limits.max { Ok(()) } else { Err("min is above max") }
    }
}

pub fn error(error: &Error) -> Value {
    let (retryable, maybe) = (error.is_retryable(), error.maybe_applied());
    json!({ "code": error.code(), "retryable": retryable, "maybe_applied": maybe, "text": error.to_string() })
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn kv(kv: &KeyValue) -> Value {
    json!({
        "key": text(&kv.key), "value": text(&kv.value), "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision, "version": kv.version, "leased": kv.lease != 0,
    })
}

pub fn batch(batch: &WatchBatch) -> Value {
    let event = |event: &folkmoot_client::Event| {
        let kind = if event.kind == EventKind::Put { "put" } else { "delete" };
        let (key, value) = (text(&event.kv.key), text(&event.kv.value));
        json!({ "event": kind, "key": key, "value": value, "prev": event.prev.as_ref().map(kv) })
    };
    json!({ "revision": batch.revision, "events": batch.events.iter().map(event).collect::<Vec<_>>() })
}

pub fn token(token: &FencingToken) -> Value {
    json!({ "token": token.revision, "key": text(&token.key) })
}

pub fn leader(leader: &Leader) -> Value {
    json!({ "value": text(&leader.value), "token": leader.token, "key": text(&leader.key) })
}

pub fn leader_event(event: &LeaderEvent) -> Value {
    match event {
        LeaderEvent::Elected(who) => json!({ "event": "elected", "leader": leader(who) }),
        LeaderEvent::Updated(who) => json!({ "event": "updated", "leader": leader(who) }),
        LeaderEvent::Vacant { .. } => json!({ "event": "vacant" }),
    }
}

pub fn instances(all: &[Instance]) -> Value {
    let one = |one: &Instance| {
        let addr = one.addr();
        json!({ "id": one.id, "addr": addr, "health": one.health, "weight": one.weight, "zone": one.zone })
    };
    all.iter().map(one).collect()
}

pub fn service_event(event: &ServiceEvent) -> Value {
    match event {
        ServiceEvent::Snapshot { instances: all, .. } => {
            json!({ "event": "snapshot", "instances": instances(all) })
        }
        ServiceEvent::Delta { added, updated, removed, revision, resync } => json!({
            "event": "delta", "added": instances(added), "updated": instances(updated),
            "removed": instances(removed), "revision": revision, "resync": resync,
        }),
        ServiceEvent::Stale => json!({ "event": "stale" }),
        ServiceEvent::Fresh => json!({ "event": "fresh" }),
    }
}

pub fn registration_event(event: &RegistrationEvent) -> Value {
    match event {
        RegistrationEvent::Reregistered { epoch } => json!({ "event": "reregistered", "epoch": epoch }),
        RegistrationEvent::Conflict => json!({ "event": "conflict" }),
    }
}

pub fn config_event(event: &ConfigEvent<Settings>) -> Value {
    match event {
        ConfigEvent::Changed(change) => json!({
            "event": "changed", "new": &*change.new, "changed_paths": change.changed_paths,
            "source": if change.source == Source::Live { "live" } else { "disk_cache" },
        }),
        ConfigEvent::Rejected(no) => json!({ "event": "rejected", "code": no.error.code() }),
    }
}

pub fn state(state: SessionState) -> Value {
    json!({ "state": match state {
        SessionState::Active => "active",
        SessionState::Suspended => "suspended",
        SessionState::Lost(_) => "lost",
        SessionState::Closed => "closed",
    } })
}

pub fn response(one: &OpResponse) -> Value {
    match one {
        OpResponse::Get(get) => json!({ "get": get.kvs.iter().map(kv).collect::<Vec<_>>() }),
        OpResponse::Put(_) => json!({ "put": {} }),
        OpResponse::Delete(delete) => json!({ "deleted": delete.deleted }),
        OpResponse::Txn(_) => json!({ "txn": {} }),
    }
}
