//! Pins the wire format where a slip of the pen would go unnoticed: odd field numbers, names whose
//! meaning differs between sister messages, and what happens to fields from the future.

use bytes::Bytes;
use prost::Message;

use crate::authpb::{Permission, permission};
use crate::etcdserverpb::{
    AlarmRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest, Compare, LeaseCheckpoint, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveResponse, Member, MoveLeaderRequest,
    RangeRequest, RequestOp, StatusResponse, WatchResponse, compare, request_op,
};
use crate::mvccpb::{Event, KeyValue};

/// The tag byte of a small field: number and wire type.
const fn varint(field: u8) -> u8 {
    field << 3
}
const fn bytes(field: u8) -> u8 {
    (field << 3) | 2
}

#[test]
fn the_range_end_of_a_comparison_is_field_64() {
    let compare = Compare { range_end: Bytes::from_static(b"z"), ..Compare::default() };
    // 64 << 3 | 2 = 514, as a varint of two bytes.
    assert_eq!(compare.encode_to_vec(), [0x82, 0x04, 1, b'z']);
}

#[test]
fn the_given_side_of_a_comparison_is_sent_even_when_it_is_zero() {
    let compare = Compare {
        target: compare::CompareTarget::Mod.into(),
        target_union: Some(compare::TargetUnion::ModRevision(0)),
        ..Compare::default()
    };
    assert_eq!(compare.encode_to_vec(), [varint(2), 2, varint(6), 0]);
}

#[test]
fn the_events_of_a_watch_response_are_field_11() {
    let response =
        WatchResponse { events: vec![Event { r#type: 1, ..Event::default() }], ..WatchResponse::default() };
    assert_eq!(response.encode_to_vec(), [bytes(11), 2, varint(1), 1]);
}

#[test]
fn a_lease_grant_asks_for_ttl_first_and_is_answered_with_id_first() {
    let request = LeaseGrantRequest { ttl: 60, id: 7 };
    assert_eq!(request.encode_to_vec(), [varint(1), 60, varint(2), 7]);
    let response = LeaseGrantResponse { header: None, id: 7, ttl: 60, error: String::new() };
    assert_eq!(response.encode_to_vec(), [varint(2), 7, varint(3), 60]);
}

#[test]
fn a_keep_alive_carries_the_lease_as_field_1_and_is_answered_in_fields_2_and_3() {
    assert_eq!(LeaseKeepAliveRequest { id: 7 }.encode_to_vec(), [varint(1), 7]);
    let response = LeaseKeepAliveResponse { header: None, id: 7, ttl: 60 };
    assert_eq!(response.encode_to_vec(), [varint(2), 7, varint(3), 60]);
}

#[test]
fn the_granted_time_and_the_keys_of_a_lease_are_fields_4_and_5() {
    let response = LeaseTimeToLiveResponse {
        granted_ttl: 60,
        keys: vec![Bytes::from_static(b"k")],
        ..LeaseTimeToLiveResponse::default()
    };
    assert_eq!(response.encode_to_vec(), [varint(4), 60, bytes(5), 1, b'k']);
}

#[test]
fn a_lease_checkpoint_carries_lease_and_remaining_time() {
    let checkpoint = LeaseCheckpoint { id: 7, remaining_ttl: 30 };
    assert_eq!(checkpoint.encode_to_vec(), [varint(1), 7, varint(2), 30]);
}

#[test]
fn a_member_carries_its_urls_and_its_learner_mark_in_fields_3_to_5() {
    let member = Member {
        id: 1,
        name: "a".into(),
        peer_urls: vec!["p".into()],
        client_urls: vec!["c".into()],
        is_learner: true,
    };
    let mut wanted = vec![varint(1), 1, bytes(2), 1, b'a', bytes(3), 1, b'p'];
    wanted.extend([bytes(4), 1, b'c', varint(5), 1]);
    assert_eq!(member.encode_to_vec(), wanted);
}

#[test]
fn a_status_counts_its_fields_in_order_of_age_not_of_subject() {
    let status = StatusResponse {
        db_size: 3,
        leader: 4,
        raft_index: 5,
        raft_term: 6,
        raft_applied_index: 7,
        errors: vec!["e".into()],
        db_size_in_use: 9,
        is_learner: true,
        storage_version: "s".into(),
        db_size_quota: 12,
        ..StatusResponse::default()
    };
    let mut wanted = Vec::new();
    for number in 3..=7 {
        wanted.extend([varint(number), number]);
    }
    wanted.extend([bytes(8), 1, b'e', varint(9), 9, varint(10), 1]);
    wanted.extend([bytes(11), 1, b's', varint(12), 12]);
    assert_eq!(status.encode_to_vec(), wanted);
}

#[test]
fn a_permission_carries_its_kind_first() {
    let permission = Permission {
        perm_type: permission::Type::Readwrite.into(),
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"b"),
    };
    let wanted = [varint(1), 2, bytes(2), 1, b'a', bytes(3), 1, b'b'];
    assert_eq!(permission.encode_to_vec(), wanted);
}

#[test]
fn an_alarm_request_carries_action_member_and_alarm() {
    let request = AlarmRequest { action: 2, member_id: 9, alarm: 1 };
    assert_eq!(request.encode_to_vec(), [varint(1), 2, varint(2), 9, varint(3), 1]);
}

#[test]
fn a_leadership_transfer_names_its_target_in_field_1() {
    assert_eq!(MoveLeaderRequest { target_id: 9 }.encode_to_vec(), [varint(1), 9]);
}

#[test]
fn the_role_of_a_permission_is_field_1_whether_called_name_or_role() {
    let grant = AuthRoleGrantPermissionRequest { name: "r".into(), perm: None };
    let revoke =
        AuthRoleRevokePermissionRequest { role: "r".into(), ..AuthRoleRevokePermissionRequest::default() };
    assert_eq!(grant.encode_to_vec(), [bytes(1), 1, b'r']);
    assert_eq!(revoke.encode_to_vec(), grant.encode_to_vec());
}

#[test]
fn the_user_of_a_role_is_field_1_whether_called_user_or_name() {
    let grant = AuthUserGrantRoleRequest { user: "u".into(), role: "r".into() };
    let revoke = AuthUserRevokeRoleRequest { name: "u".into(), role: "r".into() };
    assert_eq!(grant.encode_to_vec(), [bytes(1), 1, b'u', bytes(2), 1, b'r']);
    assert_eq!(revoke.encode_to_vec(), grant.encode_to_vec());
}

#[test]
fn a_key_value_survives_the_wire() {
    let kv = KeyValue {
        key: Bytes::from_static(b"\0k\xff"),
        create_revision: 2,
        mod_revision: i64::MAX,
        version: 3,
        value: Bytes::new(),
        lease: -1,
    };
    assert_eq!(KeyValue::decode(kv.encode_to_vec().as_slice()), Ok(kv));
}

#[test]
fn a_transaction_nests_in_a_transaction() {
    let op = RequestOp { request: Some(request_op::Request::RequestTxn(Default::default())) };
    assert_eq!(op.encode_to_vec(), [bytes(4), 0]);
    assert_eq!(RequestOp::decode(op.encode_to_vec().as_slice()), Ok(op));
}

#[test]
fn fields_from_the_future_are_ignored() {
    let request = RangeRequest { key: Bytes::from_static(b"k"), limit: 5, ..RangeRequest::default() };
    let mut wire = request.encode_to_vec();
    // Field 1000 as a number, field 1001 as bytes.
    wire.extend([0xc0, 0x3e, 42, 0xca, 0x3e, 2, b'x', b'y']);
    assert_eq!(RangeRequest::decode(wire.as_slice()), Ok(request));
}

#[test]
fn an_enum_number_from_the_future_is_kept_as_it_came() {
    let wire = [varint(5), 99];
    let request = RangeRequest::decode(wire.as_slice()).expect("the number is legal on the wire");
    assert_eq!(request.sort_order, 99);
    assert_eq!(request.encode_to_vec(), wire);
}

#[test]
fn decoding_from_bytes_shares_their_memory() {
    let value = vec![7; 1000];
    let wire = Bytes::from(
        KeyValue { key: Bytes::from_static(b"k"), value: value.clone().into(), ..KeyValue::default() }
            .encode_to_vec(),
    );
    let kv = KeyValue::decode(wire.clone()).expect("it was just encoded");
    assert_eq!(kv.value, value);
    assert!(wire.as_ptr_range().contains(&kv.value.as_ptr()));
}
