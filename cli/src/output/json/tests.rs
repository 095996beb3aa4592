//! The documents, letter for letter as etcdctl prints them.

use bytes::Bytes;
use folkmoot_proto::etcdserverpb::{AlarmMember, LeaseStatus, Member};

use super::*;

fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: 15_118_495_548_433_857_066,
        member_id: 13_668_033_151_171_901_709,
        revision: 4,
        raft_term: 2,
    })
}

const HEADER: &str =
    r#""cluster_id":15118495548433857066,"member_id":13668033151171901709,"revision":4,"raft_term":2"#;

fn foo() -> KeyValue {
    KeyValue {
        key: Bytes::from_static(b"foo"),
        create_revision: 2,
        mod_revision: 4,
        version: 3,
        value: Bytes::from_static(b"bar3"),
        lease: 0,
    }
}

const FOO: &str = r#"{"key":"Zm9v","create_revision":2,"mod_revision":4,"version":3,"value":"YmFyMw=="}"#;

#[test]
fn a_range_has_header_keys_and_count() {
    let response = RangeResponse { header: header(), kvs: vec![foo()], more: false, count: 1 };
    let wanted = format!(r#"{{"header":{{{HEADER}}},"kvs":[{FOO}],"count":1}}"#);
    assert_eq!(range(&response).to_string(), wanted);
}

#[test]
fn what_is_zero_is_left_out() {
    let response = RangeResponse { header: header(), ..RangeResponse::default() };
    assert_eq!(range(&response).to_string(), format!(r#"{{"header":{{{HEADER}}}}}"#));
}

#[test]
fn a_put_and_a_delete_show_what_was_before() {
    let response = PutResponse { header: header(), prev_kv: Some(foo()) };
    assert_eq!(put(&response).to_string(), format!(r#"{{"header":{{{HEADER}}},"prev_kv":{FOO}}}"#));
    let response = DeleteRangeResponse { header: header(), deleted: 1, prev_kvs: vec![foo()] };
    let wanted = format!(r#"{{"header":{{{HEADER}}},"deleted":1,"prev_kvs":[{FOO}]}}"#);
    assert_eq!(delete(&response).to_string(), wanted);
}

#[test]
fn a_transaction_wraps_each_answer() {
    let op = |response| ResponseOp { response: Some(response) };
    let response = TxnResponse {
        header: header(),
        succeeded: true,
        responses: vec![
            op(Response::ResponsePut(PutResponse {
                header: Some(ResponseHeader { revision: 4, ..ResponseHeader::default() }),
                prev_kv: None,
            })),
            op(Response::ResponseDeleteRange(DeleteRangeResponse::default())),
        ],
    };
    let wanted = format!(
        "{{\"header\":{{{HEADER}}},\"succeeded\":true,\"responses\":[{},{}]}}",
        r#"{"Response":{"response_put":{"header":{"revision":4}}}}"#,
        r#"{"Response":{"response_delete_range":{}}}"#
    );
    assert_eq!(txn(&response).to_string(), wanted);
}

#[test]
fn a_watch_answer_shows_everything_even_what_is_zero() {
    let deletion = Event {
        r#type: 1,
        kv: Some(KeyValue { key: Bytes::from_static(b"w"), mod_revision: 27, ..KeyValue::default() }),
        prev_kv: Some(foo()),
    };
    let response = WatchResponse {
        header: header(),
        events: vec![Event { kv: Some(foo()), ..Event::default() }, deletion],
        ..WatchResponse::default()
    };
    let wanted = format!(
        "{{\"Header\":{{{HEADER}}},\"Events\":[{{\"kv\":{FOO}}},{{\"type\":1,{},\"prev_kv\":{FOO}}}],{}}}",
        r#""kv":{"key":"dw==","mod_revision":27}"#, r#""CompactRevision":0,"Canceled":false,"Created":false"#
    );
    assert_eq!(watch(&response).to_string(), wanted);
}

#[test]
fn leases_carry_the_fields_of_the_header_as_their_own() {
    let grant = LeaseGrantResponse { header: header(), id: 7, ttl: 60, error: String::new() };
    assert_eq!(lease_grant(&grant).to_string(), format!(r#"{{{HEADER},"ID":7,"TTL":60,"Error":""}}"#));
    let alive = LeaseKeepAliveResponse { header: header(), id: 7, ttl: 60 };
    assert_eq!(lease_keep_alive(&alive).to_string(), format!(r#"{{{HEADER},"ID":7,"TTL":60}}"#));
    let leases = LeaseLeasesResponse { header: header(), leases: vec![LeaseStatus { id: 7 }] };
    assert_eq!(lease_list(&leases).to_string(), format!(r#"{{{HEADER},"leases":[{{"id":7}}]}}"#));
}

#[test]
fn the_life_of_a_lease_has_names_of_its_own() {
    let mut response = LeaseTimeToLiveResponse {
        header: header(),
        id: 7,
        ttl: 59,
        granted_ttl: 60,
        keys: vec![Bytes::from_static(b"lk")],
    };
    let wanted = format!(r#"{{{HEADER},"id":7,"ttl":59,"granted-ttl":60,"keys":["bGs="]}}"#);
    assert_eq!(lease_time_to_live(&response).to_string(), wanted);
    response = LeaseTimeToLiveResponse { header: header(), id: 7, ttl: -1, ..Default::default() };
    let wanted = format!(r#"{{{HEADER},"id":7,"ttl":-1,"granted-ttl":0,"keys":null}}"#);
    assert_eq!(lease_time_to_live(&response).to_string(), wanted);
}

#[test]
fn members_have_the_names_of_the_protocol() {
    let member = Member {
        id: 13_668_033_151_171_901_709,
        name: "default".into(),
        peer_urls: vec!["http://p:1".into()],
        client_urls: vec!["http://c:1".into()],
        is_learner: false,
    };
    let wanted = concat!(
        r#"{"members":[{"ID":13668033151171901709,"name":"default","#,
        r#""peerURLs":["http://p:1"],"clientURLs":["http://c:1"]}]}"#
    );
    assert_eq!(members(None, None, &[member]).to_string(), wanted);
}

#[test]
fn alarms_are_numbers() {
    let response = AlarmResponse { header: None, alarms: vec![AlarmMember { member_id: 7, alarm: 1 }] };
    assert_eq!(alarms(&response).to_string(), r#"{"alarms":[{"memberID":7,"alarm":1}]}"#);
    assert_eq!(alarms(&AlarmResponse::default()).to_string(), "{}");
}

#[test]
fn a_status_and_a_hash_stand_beside_their_endpoint() {
    let response = StatusResponse {
        header: header(),
        version: "3.4.23".into(),
        db_size: 20_480,
        leader: 7,
        raft_index: 19,
        raft_term: 2,
        raft_applied_index: 19,
        db_size_in_use: 16_384,
        ..StatusResponse::default()
    };
    let wanted = format!(
        "{{\"Endpoint\":\"a:1\",\"Status\":{{\"header\":{{{HEADER}}},{},{}}}}}",
        r#""version":"3.4.23","dbSize":20480,"leader":7,"raftIndex":19,"raftTerm":2"#,
        r#""raftAppliedIndex":19,"dbSizeInUse":16384"#
    );
    assert_eq!(status("a:1", &response).to_string(), wanted);
    let response = HashKvResponse { header: None, hash: 5, compact_revision: 4, hash_revision: 9 };
    let wanted = r#"{"Endpoint":"a:1","HashKV":{"hash":5,"compact_revision":4,"hash_revision":9}}"#;
    assert_eq!(hash_kv("a:1", &response).to_string(), wanted);
}
