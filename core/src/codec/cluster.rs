//! Alarms and members: in the log, and to and from the wire.

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use prost::Message as _;

use crate::cluster::{Alarm, AlarmKind, Member};
use crate::command::{Command, Kind};
use crate::error::Fatal;
use crate::types::MemberId;

fn unreadable(what: &str) -> Fatal {
    Fatal::Entry(format!("a {what} command cannot be decoded"))
}

/// What an alarm request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AlarmAction {
    /// List those of a kind, or all.
    List(Option<AlarmKind>),
    /// Turn one on; without a kind nothing happens.
    Activate(MemberId, Option<AlarmKind>),
    /// Turn one off.
    Deactivate(MemberId, Option<AlarmKind>),
    /// An action number that does not exist.
    Unknown,
}

/// An alarm request.
pub fn alarm(request: &pb::AlarmRequest) -> Command {
    Command { kind: Kind::Alarm, body: request.encode_to_vec().into() }
}

/// Raises the space alarm of `member`.
pub fn activate_no_space(member: MemberId) -> Command {
    activate(Alarm { member, kind: AlarmKind::NoSpace })
}

/// Raises an alarm.
pub fn activate(raised: Alarm) -> Command {
    alarm(&pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate as i32,
        member_id: raised.member.0,
        alarm: raised.kind as i32,
    })
}

/// Reads an alarm request.
pub fn decode_alarm(body: Bytes) -> Result<AlarmAction, Fatal> {
    let request = pb::AlarmRequest::decode(body).map_err(|_| unreadable("alarm"))?;
    let member = MemberId(request.member_id);
    let kind = AlarmKind::from_wire(request.alarm);
    Ok(match request.action {
        0 => AlarmAction::List(kind),
        1 => AlarmAction::Activate(member, kind),
        2 => AlarmAction::Deactivate(member, kind),
        _ => AlarmAction::Unknown,
    })
}

/// An alarm for the wire.
pub fn alarm_to_wire(alarm: Alarm) -> pb::AlarmMember {
    pb::AlarmMember { member_id: alarm.member.0, alarm: alarm.kind as i32 }
}

/// A member's own announcement of its name and client URLs.
pub fn publish(member: &Member) -> Command {
    Command { kind: Kind::MemberPublish, body: member_to_wire(member).encode_to_vec().into() }
}

/// Adds a member: its id, its peer URLs and whether it only listens.
pub fn member_add(member: &Member) -> Command {
    Command { kind: Kind::MemberAdd, body: member_to_wire(member).encode_to_vec().into() }
}

/// Gives a member other peer URLs.
pub fn member_update(id: MemberId, peer_urls: Vec<String>) -> Command {
    let body = pb::Member { id: id.0, peer_urls, ..pb::Member::default() };
    Command { kind: Kind::MemberUpdate, body: body.encode_to_vec().into() }
}

/// Names the disk of a member that starts for the first time.
pub fn member_disk(id: MemberId, incarnation: u64) -> Command {
    let body = [id.0.to_le_bytes(), incarnation.to_le_bytes()].concat();
    Command { kind: Kind::MemberDisk, body: body.into() }
}

/// Reads the member and its disk.
pub fn decode_member_disk(mut body: Bytes) -> Result<(MemberId, u64), Fatal> {
    if body.len() != 16 {
        return Err(unreadable("member disk"));
    }
    let incarnation = body.split_off(8);
    let number = |bytes: Bytes| bytes.as_ref().try_into().map(u64::from_le_bytes);
    match (number(body), number(incarnation)) {
        (Ok(id), Ok(incarnation)) => Ok((MemberId(id), incarnation)),
        _ => Err(unreadable("member disk")),
    }
}

/// Removes a member for ever.
pub fn member_remove(id: MemberId) -> Command {
    Command { kind: Kind::MemberRemove, body: Bytes::copy_from_slice(&id.0.to_le_bytes()) }
}

/// Makes a learner a voter.
pub fn member_promote(id: MemberId) -> Command {
    Command { kind: Kind::MemberPromote, body: Bytes::copy_from_slice(&id.0.to_le_bytes()) }
}

/// Reads the id of a removal or a promotion.
pub fn decode_member_id(body: Bytes) -> Result<MemberId, Fatal> {
    let bytes = body.as_ref().try_into().map_err(|_| unreadable("membership"))?;
    Ok(MemberId(u64::from_le_bytes(bytes)))
}

/// Reads an announcement.
pub fn decode_publish(body: Bytes) -> Result<Member, Fatal> {
    decode_member(body)
}

/// Reads a member.
pub fn decode_member(body: Bytes) -> Result<Member, Fatal> {
    let member = pb::Member::decode(body).map_err(|_| unreadable("member"))?;
    Ok(Member {
        id: MemberId(member.id),
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        learner: member.is_learner,
        incarnation: 0,
    })
}

/// A member for the wire.
pub fn member_to_wire(member: &Member) -> pb::Member {
    pb::Member {
        id: member.id.0,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        is_learner: member.learner,
    }
}
