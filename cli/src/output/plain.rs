//! The lines that people read.

use folkmoot_proto::etcdserverpb::response_op::Response;
use folkmoot_proto::etcdserverpb::{
    AlarmMember, AlarmType, DeleteRangeResponse, HashKvResponse, LeaseTimeToLiveResponse, Member,
    PutResponse, RangeResponse, StatusResponse, TxnResponse,
};
use folkmoot_proto::mvccpb::event::EventType;
use folkmoot_proto::mvccpb::{Event, KeyValue};

/// What of a key is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Show {
    /// A line with the key and one with the value.
    #[default]
    Both,
    /// The key.
    Key,
    /// The value.
    Value,
}

/// A text of lines; bytes, because keys and values need not be text.
pub fn lines<T: AsRef<[u8]>>(lines: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        push_line(&mut out, line.as_ref());
    }
    out
}

fn push_line(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(line);
    out.push(b'\n');
}

fn push_key_value(out: &mut Vec<u8>, kv: &KeyValue, show: Show) {
    if show != Show::Value {
        push_line(out, &kv.key);
    }
    if show != Show::Key {
        push_line(out, &kv.value);
    }
}

/// Keys that were read.
pub fn range(response: &RangeResponse, show: Show) -> Vec<u8> {
    let mut out = Vec::new();
    for kv in &response.kvs {
        push_key_value(&mut out, kv, show);
    }
    out
}

/// A key that was put.
pub fn put(response: &PutResponse) -> Vec<u8> {
    let mut out = b"OK\n".to_vec();
    if let Some(kv) = &response.prev_kv {
        push_key_value(&mut out, kv, Show::Both);
    }
    out
}

/// Keys that were deleted.
pub fn delete(response: &DeleteRangeResponse) -> Vec<u8> {
    let mut out = format!("{}\n", response.deleted).into_bytes();
    for kv in &response.prev_kvs {
        push_key_value(&mut out, kv, Show::Both);
    }
    out
}

/// A transaction that ran: which branch, then each answer after an empty line.
pub fn txn(response: &TxnResponse) -> Vec<u8> {
    let mut out = match response.succeeded {
        true => b"SUCCESS\n".to_vec(),
        false => b"FAILURE\n".to_vec(),
    };
    for op in &response.responses {
        out.push(b'\n');
        out.extend(match &op.response {
            Some(Response::ResponseRange(response)) => range(response, Show::Both),
            Some(Response::ResponsePut(response)) => put(response),
            Some(Response::ResponseDeleteRange(response)) => delete(response),
            Some(Response::ResponseTxn(response)) => txn(response),
            None => Vec::new(),
        });
    }
    out
}

/// Something that happened to a key.
pub fn event(event: &Event) -> Vec<u8> {
    let mut out = match event.r#type() {
        EventType::Put => b"PUT\n".to_vec(),
        EventType::Delete => b"DELETE\n".to_vec(),
    };
    for kv in event.prev_kv.iter().chain(&event.kv) {
        push_key_value(&mut out, kv, Show::Both);
    }
    out
}

/// How long a lease still lives.
pub fn lease_time_to_live(response: &LeaseTimeToLiveResponse, with_keys: bool) -> Vec<u8> {
    if response.ttl < 0 {
        return format!("lease {:016x} already expired\n", response.id).into_bytes();
    }
    let mut out = format!(
        "lease {:016x} granted with TTL({}s), remaining({}s)",
        response.id, response.granted_ttl, response.ttl
    )
    .into_bytes();
    if with_keys {
        out.extend_from_slice(b", attached keys([");
        out.extend(response.keys.join(&b' '));
        out.extend_from_slice(b"])");
    }
    out.push(b'\n');
    out
}

/// One member: number, state, name, peer URLs, client URLs, whether it is a learner.
pub fn member(member: &Member) -> String {
    // A member that was added but never started has not told its name yet.
    let state = match member.name.is_empty() {
        true => "unstarted",
        false => "started",
    };
    format!(
        "{:x}, {state}, {}, {}, {}, {}",
        member.id,
        member.name,
        member.peer_urls.join(","),
        member.client_urls.join(","),
        member.is_learner
    )
}

/// How one member is: endpoint, member, version, size, whether it leads, whether it is a learner,
/// term, last index, applied index, what is wrong.
pub fn status(endpoint: &str, response: &StatusResponse) -> String {
    let member_id = response.header.as_ref().map_or(0, |header| header.member_id);
    format!(
        "{endpoint}, {member_id:x}, {}, {}, {}, {}, {}, {}, {}, {}",
        response.version,
        size(response.db_size.max(0).unsigned_abs()),
        member_id != 0 && response.leader == member_id,
        response.is_learner,
        response.raft_term,
        response.raft_index,
        response.raft_applied_index,
        response.errors.join(", ")
    )
}

/// Checksum of one member's keys.
pub fn hash_kv(endpoint: &str, response: &HashKvResponse) -> String {
    format!("{endpoint}, {}", response.hash)
}

/// The name of an alarm; a number if a newer server has one that we do not know.
pub fn alarm_kind(alarm: &AlarmMember) -> String {
    match AlarmType::try_from(alarm.alarm) {
        Ok(kind) => kind.as_str_name().to_owned(),
        Err(_) => alarm.alarm.to_string(),
    }
}

/// One alarm. The member is a decimal number here, as in etcdctl.
pub fn alarm(alarm: &AlarmMember) -> String {
    format!("memberID:{} alarm:{}", alarm.member_id, alarm_kind(alarm))
}

/// A size in bytes with a unit, in steps of a thousand.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1000.0 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    match unit > 0 && scaled < 9.95 {
        true => format!("{scaled:.1} {}", UNITS[unit]),
        false => format!("{scaled:.0} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use folkmoot_proto::etcdserverpb::ResponseOp;

    use super::*;

    fn kv(key: &'static str, value: &'static str) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(value.as_bytes()),
            ..KeyValue::default()
        }
    }

    #[test]
    fn a_key_and_its_value_are_two_lines() {
        let response = RangeResponse { kvs: vec![kv("a", "1"), kv("b", "2")], ..RangeResponse::default() };
        assert_eq!(range(&response, Show::Both), b"a\n1\nb\n2\n");
        assert_eq!(range(&response, Show::Key), b"a\nb\n");
        assert_eq!(range(&response, Show::Value), b"1\n2\n");
    }

    #[test]
    fn a_transaction_names_its_branch_and_sets_answers_apart() {
        let op = |response| ResponseOp { response: Some(response) };
        let response = TxnResponse {
            succeeded: true,
            responses: vec![
                op(Response::ResponsePut(PutResponse::default())),
                op(Response::ResponseRange(RangeResponse {
                    kvs: vec![kv("a", "1")],
                    ..RangeResponse::default()
                })),
            ],
            ..TxnResponse::default()
        };
        assert_eq!(txn(&response), b"SUCCESS\n\nOK\n\na\n1\n");
    }

    #[test]
    fn an_event_shows_the_key_before_and_after() {
        let event_text = event(&Event { r#type: 1, kv: Some(kv("w", "")), prev_kv: Some(kv("w", "2")) });
        assert_eq!(event_text, b"DELETE\nw\n2\nw\n\n");
    }

    #[test]
    fn a_lease_that_is_gone_has_expired() {
        let response = LeaseTimeToLiveResponse { id: 0x123, ttl: -1, ..LeaseTimeToLiveResponse::default() };
        let text = lease_time_to_live(&response, true);
        assert_eq!(text, b"lease 0000000000000123 already expired\n");
    }

    #[test]
    fn a_lease_lists_its_keys_when_asked() {
        let response = LeaseTimeToLiveResponse {
            id: 0x123,
            ttl: 59,
            granted_ttl: 60,
            keys: vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")],
            header: None,
        };
        let wanted = "lease 0000000000000123 granted with TTL(60s), remaining(59s)";
        assert_eq!(
            lease_time_to_live(&response, true),
            format!("{wanted}, attached keys([a b])\n").into_bytes()
        );
        assert_eq!(lease_time_to_live(&response, false), format!("{wanted}\n").into_bytes());
    }

    #[test]
    fn sizes_have_two_digits_and_a_unit() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (20_480, "20 kB"),
            (2_147_483_648, "2.1 GB"),
            (9_960, "10 kB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn an_alarm_names_member_and_kind() {
        let text = alarm(&AlarmMember { member_id: 7, alarm: 1 });
        assert_eq!(text, "memberID:7 alarm:NOSPACE");
    }
}
