//! Rows of the `Sys` family: `member/` be64(id), `removed/` be64(id), `alarm/` be64(id) kind u8,
//! `cver`. Readers are total functions.

use bytes::{Buf, BufMut, Bytes};

use super::{Alarm, AlarmKind, Alarms, Member, Members};
use crate::command::{get_uv, put_uv};
use crate::env::{Engine, Family, WriteBatch, for_each_row};
use crate::error::Fatal;
use crate::types::MemberId;

const MEMBER: &[u8] = b"member/";
const REMOVED: &[u8] = b"removed/";
const ALARM: &[u8] = b"alarm/";
const CLUSTER_VERSION: &[u8] = b"cver";

fn id_key(prefix: &[u8], id: MemberId) -> Vec<u8> {
    [prefix, &id.0.to_be_bytes()].concat()
}

/// Writes a member.
pub fn put_member(rows: &mut WriteBatch, member: &Member) {
    let mut value = Vec::new();
    value.put_u8(u8::from(member.learner));
    put_text(&mut value, &member.name);
    put_list(&mut value, &member.peer_urls);
    put_list(&mut value, &member.client_urls);
    value.put_u64_le(member.incarnation);
    rows.put(Family::Sys, &id_key(MEMBER, member.id), &value);
}

/// Removes a member's row and writes its tombstone.
pub fn remove_member(rows: &mut WriteBatch, id: MemberId) {
    rows.delete(Family::Sys, &id_key(MEMBER, id));
    rows.put(Family::Sys, &id_key(REMOVED, id), &[]);
}

/// Writes an active alarm.
pub fn put_alarm(rows: &mut WriteBatch, alarm: Alarm) {
    rows.put(Family::Sys, &alarm_key(alarm), &[]);
}

/// Removes an alarm.
pub fn remove_alarm(rows: &mut WriteBatch, alarm: Alarm) {
    rows.delete(Family::Sys, &alarm_key(alarm));
}

fn alarm_key(alarm: Alarm) -> Vec<u8> {
    let mut key = id_key(ALARM, alarm.member);
    key.push(alarm.kind as u8);
    key
}

/// Writes the cluster version.
pub fn put_cluster_version(rows: &mut WriteBatch, version: &str) {
    rows.put(Family::Sys, CLUSTER_VERSION, version.as_bytes());
}

/// Reads everything back.
pub fn load(engine: &dyn Engine) -> Result<(Members, Alarms, String), Fatal> {
    let (mut members, mut alarms, mut version) = (Members::default(), Alarms::default(), String::new());
    let mut damaged = None;
    for_each_row(engine, Family::Sys, |key, value| {
        let read = read_row(key, value, &mut members, &mut alarms, &mut version);
        if read.is_none() {
            damaged = Some(Fatal::Damaged(format!("a row of the cluster state cannot be read; key={key:?}")));
            return std::ops::ControlFlow::Break(());
        }
        std::ops::ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok((members, alarms, version)), Err)
}

fn read_row(
    key: &[u8],
    value: &[u8],
    members: &mut Members,
    alarms: &mut Alarms,
    version: &mut String,
) -> Option<()> {
    if let Some(id) = key.strip_prefix(MEMBER) {
        members.put(read_member(read_id(id)?, value)?);
    } else if let Some(id) = key.strip_prefix(REMOVED) {
        members.remove(read_id(id)?);
    } else if let Some(rest) = key.strip_prefix(ALARM) {
        let (id, kind) = rest.split_at_checked(8)?;
        let kind = AlarmKind::from_wire(i32::from(*kind.first()?))?;
        alarms.activate(Alarm { member: read_id(id)?, kind });
    } else if key == CLUSTER_VERSION {
        *version = std::str::from_utf8(value).ok()?.to_owned();
    }
    // Other keys belong to other rooms or to a newer version with the same format.
    Some(())
}

fn read_id(bytes: &[u8]) -> Option<MemberId> {
    Some(MemberId(u64::from_be_bytes(bytes.try_into().ok()?)))
}

fn read_member(id: MemberId, value: &[u8]) -> Option<Member> {
    let mut rest = Bytes::copy_from_slice(value);
    let learner = match rest.has_remaining().then(|| rest.get_u8())? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let name = get_text(&mut rest)?;
    let peer_urls = get_list(&mut rest)?;
    let client_urls = get_list(&mut rest)?;
    // Rows of an earlier version end here.
    let incarnation = if rest.has_remaining() { rest.try_get_u64_le().ok()? } else { 0 };
    Some(Member { id, name, peer_urls, client_urls, learner, incarnation })
}

fn put_text(buf: &mut Vec<u8>, text: &str) {
    put_uv(buf, text.len() as u64);
    buf.extend_from_slice(text.as_bytes());
}

fn put_list(buf: &mut Vec<u8>, list: &[String]) {
    put_uv(buf, list.len() as u64);
    for text in list {
        put_text(buf, text);
    }
}

fn get_text(rest: &mut Bytes) -> Option<String> {
    let length = usize::try_from(get_uv(rest)?).ok().filter(|length| *length <= rest.len())?;
    String::from_utf8(rest.split_to(length).to_vec()).ok()
}

fn get_list(rest: &mut Bytes) -> Option<Vec<String>> {
    let count = get_uv(rest)?;
    (0..count).map(|_| get_text(rest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::MemoryEngine;

    #[test]
    fn the_cluster_state_reads_back_as_it_was_written() {
        let engine = MemoryEngine::new();
        let mut rows = WriteBatch::new();
        let member = Member {
            id: MemberId(5),
            name: "one".into(),
            peer_urls: vec!["http://a:1".into(), "http://b:2".into()],
            client_urls: vec![],
            learner: true,
            incarnation: 77,
        };
        let alarm = Alarm { member: MemberId(9), kind: AlarmKind::Corrupt };
        put_member(&mut rows, &member);
        put_alarm(&mut rows, alarm);
        remove_member(&mut rows, MemberId(6));
        put_cluster_version(&mut rows, "3.6.0");
        engine.write(&rows).unwrap();
        let (members, alarms, version) = load(&engine).unwrap();
        assert_eq!(members.list(), vec![member]);
        assert!(members.was_removed(MemberId(6)) && !members.was_removed(MemberId(5)));
        assert_eq!(alarms.list(None), vec![alarm]);
        assert_eq!(version, "3.6.0");
    }

    #[test]
    fn a_damaged_row_is_refused() {
        let engine = MemoryEngine::new();
        let mut rows = WriteBatch::new();
        rows.put(Family::Sys, b"member/12345678", &[0, 200]);
        engine.write(&rows).unwrap();
        assert!(matches!(load(&engine), Err(Fatal::Damaged(_))));
    }
}
