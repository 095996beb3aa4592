//! Keys and events for the wire.

use folkmoot_proto::mvccpb;

use crate::event::{Event, EventKind};
use crate::types::{KeyValue, LeaseId};

/// A key's record for the wire.
pub fn key_value_to_wire(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: LeaseId::to_wire(kv.lease),
    }
}

/// A key's record from the wire.
pub fn key_value_from_wire(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: LeaseId::from_wire(kv.lease),
    }
}

/// An event for the wire; `prev` is the record before it, for watchers that asked for it.
pub fn event_to_wire(event: &Event, prev: Option<KeyValue>) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value_to_wire(event.kv.clone())),
        prev_kv: prev.map(key_value_to_wire),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use prost::Message as _;

    fn record() -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: LeaseId::from_wire(-7),
        }
    }

    #[test]
    fn a_record_comes_back_from_the_wire_as_it_was() {
        assert_eq!(key_value_from_wire(key_value_to_wire(record())), record());
    }

    #[test]
    fn a_deletion_carries_only_its_key_and_revision() {
        let kv = KeyValue { key: Bytes::from_static(b"k"), mod_revision: 4, ..KeyValue::default() };
        let event = Event { kind: EventKind::Delete, sub: 0, kv, prev: None };
        // type = DELETE, kv { key = "k", mod_revision = 4 }
        assert_eq!(event_to_wire(&event, None).encode_to_vec(), b"\x08\x01\x12\x05\x0a\x01k\x18\x04");
        let prev = event_to_wire(&event, Some(record())).prev_kv.unwrap();
        assert_eq!(prev, key_value_to_wire(record()));
    }
}
