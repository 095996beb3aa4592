//! Keys, values, and what the store says about them.

use bytes::Bytes;
use folkmoot_proto::{etcdserverpb as pb, mvccpb};

use crate::namespace::Namespace;

/// Who answered, and at which revision of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster_id: u64,
    /// The member that answered.
    pub member_id: u64,
    /// The store's revision when it answered; 0 where the answer has none.
    pub revision: i64,
    /// The term of the leader that the member knew.
    pub raft_term: u64,
}

impl From<Option<pb::ResponseHeader>> for Header {
    fn from(header: Option<pb::ResponseHeader>) -> Self {
        header.map_or_else(Self::default, |header| Self {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            revision: header.revision,
            raft_term: header.raft_term,
        })
    }
}

/// A key with its value at some revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, without the client's namespace.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision at which the key last came to be; 0 in a deletion.
    pub create_revision: i64,
    /// The revision of this value.
    pub mod_revision: i64,
    /// How often it was put since it came to be; 0 in a deletion.
    pub version: i64,
    /// The lease it hangs on, or 0.
    pub lease: i64,
}

impl KeyValue {
    pub(crate) fn from_wire(kv: mvccpb::KeyValue, keys: &Namespace) -> Self {
        Self {
            key: keys.strip(kv.key),
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }

    /// The key as text; bytes that are none are replaced.
    pub fn key_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }

    /// The value as text; bytes that are none are replaced.
    pub fn value_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.value)
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was put.
    Put,
    /// It was deleted, or its lease ended.
    Delete,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key as it is now; of a deletion only key and `mod_revision`.
    pub kv: KeyValue,
    /// What it was before, if asked for and still known.
    pub prev: Option<KeyValue>,
}

impl Event {
    pub(crate) fn from_wire(event: mvccpb::Event, keys: &Namespace) -> Self {
        let kind = match event.r#type() {
            mvccpb::event::EventType::Put => EventKind::Put,
            mvccpb::event::EventType::Delete => EventKind::Delete,
        };
        Self {
            kind,
            kv: KeyValue::from_wire(event.kv.unwrap_or_default(), keys),
            prev: event.prev_kv.map(|kv| KeyValue::from_wire(kv, keys)),
        }
    }

    /// Whether the key did not exist before.
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }
}

/// Answer to a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetResponse {
    /// Who answered, and when.
    pub header: Header,
    /// What was found.
    pub kvs: Vec<KeyValue>,
    /// Whether a limit held more back.
    pub more: bool,
    /// How many keys there are, whatever the limit.
    pub count: i64,
}

impl GetResponse {
    pub(crate) fn from_wire(response: pb::RangeResponse, keys: &Namespace) -> Self {
        Self {
            header: response.header.into(),
            kvs: response.kvs.into_iter().map(|kv| KeyValue::from_wire(kv, keys)).collect(),
            more: response.more,
            count: response.count,
        }
    }

    /// The first of what was found.
    pub fn first(&self) -> Option<&KeyValue> {
        self.kvs.first()
    }
}

/// Answer to a put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutResponse {
    /// Who answered; the revision is that of the put.
    pub header: Header,
    /// What was there before, if asked for.
    pub prev: Option<KeyValue>,
}

impl PutResponse {
    pub(crate) fn from_wire(response: pb::PutResponse, keys: &Namespace) -> Self {
        Self {
            header: response.header.into(),
            prev: response.prev_kv.map(|kv| KeyValue::from_wire(kv, keys)),
        }
    }
}

/// Answer to a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteResponse {
    /// Who answered, and when.
    pub header: Header,
    /// How many keys there were.
    pub deleted: i64,
    /// What was deleted, if asked for.
    pub prev: Vec<KeyValue>,
}

impl DeleteResponse {
    pub(crate) fn from_wire(response: pb::DeleteRangeResponse, keys: &Namespace) -> Self {
        Self {
            header: response.header.into(),
            deleted: response.deleted,
            prev: response.prev_kvs.into_iter().map(|kv| KeyValue::from_wire(kv, keys)).collect(),
        }
    }
}
