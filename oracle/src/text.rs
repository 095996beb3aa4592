//! Requests and answers as one line of text each, close to protobuf's text form: only fields that
//! are set, byte strings quoted with escapes.

use std::fmt::Write;

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::mvccpb::{Event, KeyValue};
use folkmoot_proto::v3electionpb::LeaderKey;
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;

use crate::answer::{Answer, WatchItem};
use crate::request::Request;

/// A message under construction.
struct Text(String);

impl Text {
    fn new(name: &str) -> Text {
        Text(format!("{name} {{"))
    }

    fn number(mut self, name: &str, value: i64) -> Text {
        if value != 0 {
            let _ = write!(self.0, " {name}: {value}");
        }
        self
    }

    fn flag(mut self, name: &str, value: bool) -> Text {
        if value {
            let _ = write!(self.0, " {name}: true");
        }
        self
    }

    fn bytes(mut self, name: &str, value: &[u8]) -> Text {
        if value.len() > 300 {
            let _ = write!(self.0, " {name}: \"{}\"…({} bytes)", value[..20].escape_ascii(), value.len());
        } else if !value.is_empty() {
            let _ = write!(self.0, " {name}: \"{}\"", value.escape_ascii());
        }
        self
    }

    fn text(self, name: &str, value: &str) -> Text {
        self.bytes(name, value.as_bytes())
    }

    fn child(mut self, text: String) -> Text {
        let _ = write!(self.0, " {text}");
        self
    }

    fn children(self, texts: impl IntoIterator<Item = String>) -> Text {
        texts.into_iter().fold(self, Text::child)
    }

    fn end(self) -> String {
        self.0 + " }"
    }
}

fn range(name: &str, r: &pb::RangeRequest) -> String {
    Text::new(name)
        .bytes("key", &r.key)
        .bytes("range_end", &r.range_end)
        .number("limit", r.limit)
        .number("revision", r.revision)
        .number("sort_order", r.sort_order.into())
        .number("sort_target", r.sort_target.into())
        .flag("serializable", r.serializable)
        .flag("keys_only", r.keys_only)
        .flag("count_only", r.count_only)
        .number("min_mod_revision", r.min_mod_revision)
        .number("max_mod_revision", r.max_mod_revision)
        .number("min_create_revision", r.min_create_revision)
        .number("max_create_revision", r.max_create_revision)
        .end()
}

fn put(name: &str, r: &pb::PutRequest) -> String {
    Text::new(name)
        .bytes("key", &r.key)
        .bytes("value", &r.value)
        .number("lease", r.lease)
        .flag("prev_kv", r.prev_kv)
        .flag("ignore_value", r.ignore_value)
        .flag("ignore_lease", r.ignore_lease)
        .end()
}

fn delete_range(name: &str, r: &pb::DeleteRangeRequest) -> String {
    Text::new(name).bytes("key", &r.key).bytes("range_end", &r.range_end).flag("prev_kv", r.prev_kv).end()
}

fn txn(name: &str, r: &pb::TxnRequest) -> String {
    let side =
        |name: &str, ops: &[pb::RequestOp]| ops.iter().map(|op| request_op(name, op)).collect::<Vec<_>>();
    Text::new(name)
        .children(r.compare.iter().map(compare))
        .children(side("success", &r.success))
        .children(side("failure", &r.failure))
        .end()
}

fn request_op(name: &str, op: &pb::RequestOp) -> String {
    let inner = match &op.request {
        Some(Op::RequestRange(r)) => range("request_range", r),
        Some(Op::RequestPut(r)) => put("request_put", r),
        Some(Op::RequestDeleteRange(r)) => delete_range("request_delete_range", r),
        Some(Op::RequestTxn(r)) => txn("request_txn", r),
        None => return Text::new(name).end(),
    };
    Text::new(name).child(inner).end()
}

fn compare(c: &pb::Compare) -> String {
    let text = Text::new("compare")
        .number("result", c.result.into())
        .number("target", c.target.into())
        .bytes("key", &c.key)
        .bytes("range_end", &c.range_end);
    let target = match &c.target_union {
        Some(TargetUnion::Version(n)) => format!("version: {n}"),
        Some(TargetUnion::CreateRevision(n)) => format!("create_revision: {n}"),
        Some(TargetUnion::ModRevision(n)) => format!("mod_revision: {n}"),
        Some(TargetUnion::Value(value)) => format!("value: \"{}\"", value.escape_ascii()),
        Some(TargetUnion::Lease(n)) => format!("lease: {n}"),
        None => return text.end(),
    };
    text.child(target).end()
}

fn leader_key(name: &str, leader: &Option<LeaderKey>) -> Vec<String> {
    let line = |l: &LeaderKey| {
        Text::new(name)
            .bytes("name", &l.name)
            .bytes("key", &l.key)
            .number("rev", l.rev)
            .number("lease", l.lease)
            .end()
    };
    leader.iter().map(line).collect()
}

/// A request in one line.
pub fn request(request: &Request) -> String {
    let name = request.kind();
    match request {
        Request::Range(r) => range(name, r),
        Request::Put(r) => put(name, r),
        Request::DeleteRange(r) => delete_range(name, r),
        Request::Txn(r) => txn(name, r),
        Request::Compact(r) => {
            Text::new(name).number("revision", r.revision).flag("physical", r.physical).end()
        }
        Request::HashKv(r) => Text::new(name).number("revision", r.revision).end(),
        Request::Grant(r) => Text::new(name).number("TTL", r.ttl).number("ID", r.id).end(),
        Request::Revoke(r) => Text::new(name).number("ID", r.id).end(),
        Request::KeepAlive(r) => Text::new(name).number("ID", r.id).end(),
        Request::TimeToLive(r) => Text::new(name).number("ID", r.id).flag("keys", r.keys).end(),
        Request::Leases => Text::new(name).end(),
        Request::Lock(r) => Text::new(name).bytes("name", &r.name).number("lease", r.lease).end(),
        Request::Unlock(r) => Text::new(name).bytes("key", &r.key).end(),
        Request::Campaign(r) => {
            Text::new(name).bytes("name", &r.name).number("lease", r.lease).bytes("value", &r.value).end()
        }
        Request::Leader(r) => Text::new(name).bytes("name", &r.name).end(),
        Request::Proclaim(r) => {
            Text::new(name).children(leader_key("leader", &r.leader)).bytes("value", &r.value).end()
        }
        Request::Resign(r) => Text::new(name).children(leader_key("leader", &r.leader)).end(),
        Request::Watch { stream, create } => Text::new(name)
            .child(format!("stream: {stream}"))
            .bytes("key", &create.key)
            .bytes("range_end", &create.range_end)
            .number("start_revision", create.start_revision)
            .flag("progress_notify", create.progress_notify)
            .children(create.filters.iter().map(|filter| format!("filters: {filter}")))
            .flag("prev_kv", create.prev_kv)
            .number("watch_id", create.watch_id)
            .flag("fragment", create.fragment)
            .end(),
        Request::Cancel { stream, watch_id } => {
            Text::new(name).child(format!("stream: {stream} watch_id: {watch_id}")).end()
        }
        Request::Progress { stream } => Text::new(name).child(format!("stream: {stream}")).end(),
        Request::Settle => Text::new(name).end(),
    }
}

fn header(header: Option<&pb::ResponseHeader>) -> String {
    let Some(h) = header else { return "no header".into() };
    let set = |n: u64| i64::from(n != 0);
    // Ids are only told from zero, since every server has its own.
    Text::new("header")
        .number("revision", h.revision)
        .number("has_cluster_id", set(h.cluster_id))
        .number("has_member_id", set(h.member_id))
        .number("has_raft_term", set(h.raft_term))
        .end()
}

/// A key with its revisions.
pub fn key_value(name: &str, kv: &KeyValue) -> String {
    Text::new(name)
        .bytes("key", &kv.key)
        .bytes("value", &kv.value)
        .number("create", kv.create_revision)
        .number("mod", kv.mod_revision)
        .number("version", kv.version)
        .number("lease", kv.lease)
        .end()
}

fn range_answer(name: &str, r: &pb::RangeResponse) -> String {
    Text::new(name)
        .child(header(r.header.as_ref()))
        .children(r.kvs.iter().map(|kv| key_value("kv", kv)))
        .flag("more", r.more)
        .number("count", r.count)
        .end()
}

fn put_answer(name: &str, r: &pb::PutResponse) -> String {
    Text::new(name)
        .child(header(r.header.as_ref()))
        .children(r.prev_kv.iter().map(|kv| key_value("prev_kv", kv)))
        .end()
}

fn delete_answer(name: &str, r: &pb::DeleteRangeResponse) -> String {
    Text::new(name)
        .child(header(r.header.as_ref()))
        .number("deleted", r.deleted)
        .children(r.prev_kvs.iter().map(|kv| key_value("prev_kv", kv)))
        .end()
}

fn txn_answer(name: &str, r: &pb::TxnResponse) -> String {
    let inner = |response: &pb::ResponseOp| match &response.response {
        Some(OpAnswer::ResponseRange(r)) => range_answer("response_range", r),
        Some(OpAnswer::ResponsePut(r)) => put_answer("response_put", r),
        Some(OpAnswer::ResponseDeleteRange(r)) => delete_answer("response_delete_range", r),
        Some(OpAnswer::ResponseTxn(r)) => txn_answer("response_txn", r),
        None => "no response".into(),
    };
    Text::new(name)
        .child(header(r.header.as_ref()))
        .flag("succeeded", r.succeeded)
        .children(r.responses.iter().map(inner))
        .end()
}

/// An event in one line.
pub fn event(event: &Event) -> String {
    let name = if event.r#type == 0 { "PUT" } else { "DELETE" };
    let text = event.kv.iter().fold(Text::new(name), |text, kv| text.child(key_value("kv", kv)));
    event.prev_kv.iter().fold(text, |text, kv| text.child(key_value("prev_kv", kv))).end()
}

fn item(item: &WatchItem) -> String {
    match item {
        WatchItem::Created { revision } => Text::new("created").number("revision", *revision).end(),
        WatchItem::Rejected { revision, reason } => {
            Text::new("rejected").number("revision", *revision).text("reason", reason).end()
        }
        WatchItem::Canceled { revision, compact_revision, reason } => Text::new("canceled")
            .number("revision", *revision)
            .number("compact_revision", *compact_revision)
            .text("reason", reason)
            .end(),
        WatchItem::Progress { revision } => Text::new("progress").number("revision", *revision).end(),
        WatchItem::Event(e) => event(e),
        WatchItem::Broken(problem) => format!("BROKEN {problem}"),
    }
}

/// An answer; one line, except for what watchers received, which is one line an item.
pub fn answer(answer: &Answer) -> String {
    let only_header = || Text::new("ok").child(header(answer.header())).end();
    match answer {
        Answer::Range(r) => range_answer("ok", r),
        Answer::Put(r) => put_answer("ok", r),
        Answer::DeleteRange(r) => delete_answer("ok", r),
        Answer::Txn(r) => txn_answer("ok", r),
        Answer::Compact(_)
        | Answer::Revoke(_)
        | Answer::Unlock(_)
        | Answer::Proclaim(_)
        | Answer::Resign(_) => only_header(),
        Answer::HashKv(r) => Text::new("ok")
            .child(header(r.header.as_ref()))
            .child(format!("hash: {:08x}", r.hash))
            .number("compact_revision", r.compact_revision)
            .number("hash_revision", r.hash_revision)
            .end(),
        Answer::Grant(r) => Text::new("ok")
            .child(header(r.header.as_ref()))
            .number("ID", r.id)
            .number("TTL", r.ttl)
            .text("error", &r.error)
            .end(),
        Answer::KeepAlive(r) => {
            Text::new("ok").child(header(r.header.as_ref())).number("ID", r.id).number("TTL", r.ttl).end()
        }
        Answer::TimeToLive(r) => Text::new("ok")
            .child(header(r.header.as_ref()))
            .number("ID", r.id)
            .number("TTL", r.ttl)
            .number("grantedTTL", r.granted_ttl)
            .children(r.keys.iter().map(|key| format!("keys: \"{}\"", key.escape_ascii())))
            .end(),
        Answer::Leases(r) => Text::new("ok")
            .child(header(r.header.as_ref()))
            .children(r.leases.iter().map(|lease| format!("ID: {}", lease.id)))
            .end(),
        Answer::Lock(r) => Text::new("ok").child(header(r.header.as_ref())).bytes("key", &r.key).end(),
        Answer::Campaign(r) => {
            Text::new("ok").child(header(r.header.as_ref())).children(leader_key("leader", &r.leader)).end()
        }
        Answer::Leader(r) => Text::new("ok")
            .child(header(r.header.as_ref()))
            .children(r.kv.iter().map(|kv| key_value("kv", kv)))
            .end(),
        Answer::Error { code, message } => format!("error {code:?}: \"{message}\""),
        Answer::Silence => "no answer in time".into(),
        Answer::Skipped => "not asked".into(),
        Answer::Control(items) => items.iter().map(item).collect::<Vec<_>>().join(" "),
        Answer::Watched(logs) => {
            let mut lines = Vec::new();
            for log in logs {
                let id = format!("stream: {} watch_id: {}", log.stream, log.watch_id);
                lines.extend(log.items.iter().map(|i| format!("{id} {}", item(i))));
            }
            lines.join("\n")
        }
    }
}
