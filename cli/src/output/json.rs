//! The JSON documents of `-w json`.
//!
//! They have the shape of etcdctl's: fields are named as in the protocol, fields that are zero are
//! left out, numbers of 64 bits are numbers, bytes are base64, enums are their numbers. Where
//! etcdctl prints a structure of its Go client instead (leases, watches, endpoints), the names are
//! the ones of that structure, and zeros stay.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use folkmoot_proto::etcdserverpb::response_op::Response;
use folkmoot_proto::etcdserverpb::{
    AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseTimeToLiveResponse, Member, PutResponse, RangeResponse, ResponseHeader,
    ResponseOp, StatusResponse, TxnResponse, WatchResponse,
};
use folkmoot_proto::mvccpb::{Event, KeyValue};
use serde_json::{Map, Value, json};

/// An object under construction; the fields keep their order.
#[derive(Default)]
pub struct Object(Map<String, Value>);

impl Object {
    fn always(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a field unless it has the value that protobuf leaves out.
    fn some<T: Into<Value> + Default + PartialEq>(self, name: &str, value: T) -> Self {
        if value == T::default() {
            return self;
        }
        self.always(name, value)
    }

    fn bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() {
            return self;
        }
        self.always(name, base64(value))
    }

    fn message(self, name: &str, value: Option<Value>) -> Self {
        match value {
            Some(value) => self.always(name, value),
            None => self,
        }
    }

    fn list(self, name: &str, values: Vec<Value>) -> Self {
        if values.is_empty() {
            return self;
        }
        self.always(name, values)
    }

    fn header(self, value: Option<&ResponseHeader>) -> Self {
        self.message("header", value.map(|value| header_fields(value).into()))
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn header_fields(header: &ResponseHeader) -> Object {
    Object::default()
        .some("cluster_id", header.cluster_id)
        .some("member_id", header.member_id)
        .some("revision", header.revision)
        .some("raft_term", header.raft_term)
}

/// Answers of the lease service carry the header's fields as their own.
fn flat_header(header: Option<&ResponseHeader>) -> Object {
    header.map(header_fields).unwrap_or_default()
}

/// An answer that has a header and nothing else.
pub fn header_only(header: Option<&ResponseHeader>) -> Value {
    Object::default().header(header).into()
}

fn key_value(kv: &KeyValue) -> Value {
    Object::default()
        .bytes("key", &kv.key)
        .some("create_revision", kv.create_revision)
        .some("mod_revision", kv.mod_revision)
        .some("version", kv.version)
        .bytes("value", &kv.value)
        .some("lease", kv.lease)
        .into()
}

fn key_values(kvs: &[KeyValue]) -> Vec<Value> {
    kvs.iter().map(key_value).collect()
}

/// Keys that were read.
pub fn range(response: &RangeResponse) -> Value {
    Object::default()
        .header(response.header.as_ref())
        .list("kvs", key_values(&response.kvs))
        .some("more", response.more)
        .some("count", response.count)
        .into()
}

/// A key that was put.
pub fn put(response: &PutResponse) -> Value {
    Object::default()
        .header(response.header.as_ref())
        .message("prev_kv", response.prev_kv.as_ref().map(key_value))
        .into()
}

/// Keys that were deleted.
pub fn delete(response: &DeleteRangeResponse) -> Value {
    Object::default()
        .header(response.header.as_ref())
        .some("deleted", response.deleted)
        .list("prev_kvs", key_values(&response.prev_kvs))
        .into()
}

/// A transaction that ran.
pub fn txn(response: &TxnResponse) -> Value {
    Object::default()
        .header(response.header.as_ref())
        .some("succeeded", response.succeeded)
        .list("responses", response.responses.iter().map(response_op).collect())
        .into()
}

fn response_op(op: &ResponseOp) -> Value {
    let Some(response) = &op.response else {
        return json!({ "Response": null });
    };
    let (name, value) = match response {
        Response::ResponseRange(response) => ("response_range", range(response)),
        Response::ResponsePut(response) => ("response_put", put(response)),
        Response::ResponseDeleteRange(response) => ("response_delete_range", delete(response)),
        Response::ResponseTxn(response) => ("response_txn", txn(response)),
    };
    json!({ "Response": { name: value } })
}

/// Events, or whatever else a watch was told.
pub fn watch(response: &WatchResponse) -> Value {
    json!({
        "Header": response.header.as_ref().map(|header| Value::from(header_fields(header))),
        "Events": response.events.iter().map(event).collect::<Vec<_>>(),
        "CompactRevision": response.compact_revision,
        "Canceled": response.canceled,
        "Created": response.created,
    })
}

fn event(event: &Event) -> Value {
    Object::default()
        .some("type", event.r#type)
        .message("kv", event.kv.as_ref().map(key_value))
        .message("prev_kv", event.prev_kv.as_ref().map(key_value))
        .into()
}

/// A lease that was granted.
pub fn lease_grant(response: &LeaseGrantResponse) -> Value {
    flat_header(response.header.as_ref())
        .always("ID", response.id)
        .always("TTL", response.ttl)
        .always("Error", response.error.as_str())
        .into()
}

/// A lease that lives on.
pub fn lease_keep_alive(response: &LeaseKeepAliveResponse) -> Value {
    flat_header(response.header.as_ref()).always("ID", response.id).always("TTL", response.ttl).into()
}

/// How long a lease still lives.
pub fn lease_time_to_live(response: &LeaseTimeToLiveResponse) -> Value {
    let keys: Vec<_> = response.keys.iter().map(|key| base64(key)).collect();
    flat_header(response.header.as_ref())
        .always("id", response.id)
        .always("ttl", response.ttl)
        .always("granted-ttl", response.granted_ttl)
        .always("keys", if keys.is_empty() { Value::Null } else { keys.into() })
        .into()
}

/// All leases.
pub fn lease_list(response: &LeaseLeasesResponse) -> Value {
    let leases: Vec<_> = (response.leases.iter().map(|lease| json!({ "id": lease.id }))).collect();
    flat_header(response.header.as_ref()).always("leases", leases).into()
}

fn member(member: &Member) -> Value {
    Object::default()
        .some("ID", member.id)
        .some("name", member.name.as_str())
        .some("peerURLs", member.peer_urls.clone())
        .some("clientURLs", member.client_urls.clone())
        .some("isLearner", member.is_learner)
        .into()
}

/// All members, and the one that was added.
pub fn members(header: Option<&ResponseHeader>, added: Option<&Member>, all: &[Member]) -> Value {
    let mut object = Object::default().header(header);
    if let Some(added) = added {
        object = object.some("member", member(added));
    }
    object.list("members", all.iter().map(member).collect()).into()
}

/// Alarms.
pub fn alarms(response: &AlarmResponse) -> Value {
    let alarms = response
        .alarms
        .iter()
        .map(|alarm| Object::default().some("memberID", alarm.member_id).some("alarm", alarm.alarm).into());
    Object::default().header(response.header.as_ref()).list("alarms", alarms.collect()).into()
}

/// How one member is.
pub fn status(endpoint: &str, response: &StatusResponse) -> Value {
    let downgrade = response.downgrade_info.as_ref().map(|info| {
        Object::default()
            .some("enabled", info.enabled)
            .some("targetVersion", info.target_version.as_str())
            .into()
    });
    let status: Value = Object::default()
        .header(response.header.as_ref())
        .some("version", response.version.as_str())
        .some("dbSize", response.db_size)
        .some("leader", response.leader)
        .some("raftIndex", response.raft_index)
        .some("raftTerm", response.raft_term)
        .some("raftAppliedIndex", response.raft_applied_index)
        .some("errors", response.errors.clone())
        .some("dbSizeInUse", response.db_size_in_use)
        .some("isLearner", response.is_learner)
        .some("storageVersion", response.storage_version.as_str())
        .some("dbSizeQuota", response.db_size_quota)
        .message("downgradeInfo", downgrade)
        .into();
    json!({ "Endpoint": endpoint, "Status": status })
}

/// Checksum of one member's keys.
pub fn hash_kv(endpoint: &str, response: &HashKvResponse) -> Value {
    let hash: Value = Object::default()
        .header(response.header.as_ref())
        .some("hash", response.hash)
        .some("compact_revision", response.compact_revision)
        .some("hash_revision", response.hash_revision)
        .into();
    json!({ "Endpoint": endpoint, "HashKV": hash })
}

#[cfg(test)]
mod tests;
