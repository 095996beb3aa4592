//! Operations, keys and events in words, for the texts of violations. Long values are cut.

use std::fmt;

use crate::history::{
    Change, CompareOp, CompareTarget, Event, EventKind, KeyRange, KeyValue, Nanos, OpReply, OpRequest,
    Operation, Outcome, PutRequest, RangeReply, RangeRequest, Refusal, Reply, ReplyBody, Request,
};

const BYTES_SHOWN: usize = 40;
const ITEMS_SHOWN: usize = 6;

/// A byte string, cut.
pub struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(BYTES_SHOWN)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if shown.len() < self.0.len() { write!(f, "…({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

/// A time.
pub struct At(pub Nanos);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// The first items of a list.
pub struct List<'a, T>(pub &'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, item) in self.0.iter().take(ITEMS_SHOWN).enumerate() {
            write!(f, "{}{item}", if index > 0 { ", " } else { "" })?;
        }
        if self.0.len() > ITEMS_SHOWN {
            write!(f, ", … {} in all", self.0.len())?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(key) => write!(f, "{}", Text(key)),
            Self::Span(from, to) => write!(f, "{}..{}", Text(from), Text(to)),
            Self::From(from) => write!(f, "{}..", Text(from)),
        }
    }
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}={} (create {} mod {} version {}",
            Text(&self.key),
            Text(&self.value),
            self.create_revision,
            self.mod_revision,
            self.version
        )?;
        if self.lease != 0 {
            write!(f, " lease {:x}", self.lease)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            EventKind::Put => write!(f, "put {}", self.kv),
            EventKind::Delete => write!(f, "delete {} (mod {})", Text(&self.kv.key), self.kv.mod_revision),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {} {}", self.revision, List(&self.events))
    }
}

impl fmt::Display for PutRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "put {}", Text(&self.key))?;
        if self.ignore_value {
            f.write_str(" ignoring the value")?;
        } else {
            write!(f, "={}", Text(&self.value))?;
        }
        if self.ignore_lease {
            f.write_str(" ignoring the lease")?;
        } else if self.lease != 0 {
            write!(f, " lease {:x}", self.lease)?;
        }
        Ok(())
    }
}

impl fmt::Display for RangeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.serializable { "serializable range" } else { "range" };
        write!(f, "{kind} {}", self.range)?;
        if self.limit > 0 {
            write!(f, " limit {}", self.limit)?;
        }
        if self.revision > 0 {
            write!(f, " at revision {}", self.revision)?;
        }
        Ok(())
    }
}

impl fmt::Display for OpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(put) => put.fmt(f),
            Self::Delete(delete) => write!(f, "delete {}", delete.range),
            Self::Range(range) => range.fmt(f),
        }
    }
}

impl fmt::Display for crate::history::Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            CompareOp::Equal => "=",
            CompareOp::NotEqual => "!=",
            CompareOp::Greater => ">",
            CompareOp::Less => "<",
        };
        match &self.target {
            CompareTarget::Version(given) => write!(f, "version({}) {op} {given}", self.range),
            CompareTarget::Create(given) => write!(f, "create({}) {op} {given}", self.range),
            CompareTarget::Mod(given) => write!(f, "mod({}) {op} {given}", self.range),
            CompareTarget::Lease(given) => write!(f, "lease({}) {op} {given:x}", self.range),
            CompareTarget::Value(given) => write!(f, "value({}) {op} {}", self.range, Text(given)),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(put) => put.fmt(f),
            Self::Delete(delete) => write!(f, "delete {}", delete.range),
            Self::Range(range) => range.fmt(f),
            Self::Txn(txn) => write!(
                f,
                "txn if {} then {} else {}",
                List(&txn.compare),
                List(&txn.success),
                List(&txn.failure)
            ),
            Self::Compact { revision } => write!(f, "compact to {revision}"),
            Self::LeaseGrant { id, ttl } => write!(f, "grant lease {id:x} for {ttl}s"),
            Self::LeaseRevoke { id } => write!(f, "revoke lease {id:x}"),
            Self::LeaseKeepAlive { id } => write!(f, "renew lease {id:x}"),
            Self::LeaseTimeToLive { id, .. } => write!(f, "ask for the time of lease {id:x}"),
        }
    }
}

impl fmt::Display for RangeReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} count {}{}", List(&self.kvs), self.count, if self.more { " more" } else { "" })
    }
}

impl fmt::Display for OpReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(put) => match &put.prev_kv {
                Some(prev) => write!(f, "put, before {prev}"),
                None => f.write_str("put"),
            },
            Self::Delete(delete) if delete.prev_kvs.is_empty() => write!(f, "deleted {}", delete.deleted),
            Self::Delete(delete) => {
                write!(f, "deleted {}, before {}", delete.deleted, List(&delete.prev_kvs))
            }
            Self::Range(range) => range.fmt(f),
        }
    }
}

impl fmt::Display for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(put) => OpReply::Put(put.clone()).fmt(f),
            Self::Delete(delete) => OpReply::Delete(delete.clone()).fmt(f),
            Self::Range(range) => range.fmt(f),
            Self::Txn(txn) => {
                let branch = if txn.succeeded { "succeeded" } else { "failed" };
                write!(f, "{branch} {}", List(&txn.responses))
            }
            Self::Compact => f.write_str("compacted"),
            Self::LeaseGrant { id, ttl } => write!(f, "lease {id:x} for {ttl}s"),
            Self::LeaseRevoke => f.write_str("revoked"),
            Self::LeaseKeepAlive { ttl } => write!(f, "{ttl}s from now"),
            Self::LeaseTimeToLive { ttl, granted_ttl, .. } => write!(f, "{ttl}s left of {granted_ttl}s"),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}: {}", self.revision, self.body)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted => f.write_str("compacted"),
            Self::FutureRevision => f.write_str("future revision"),
            Self::LeaseNotFound => f.write_str("lease not found"),
            Self::LeaseExists => f.write_str("lease exists"),
            Self::KeyNotFound => f.write_str("key not found"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} to member {} [{}, ", self.client, self.member, At(self.invoked))?;
        match self.completed {
            Some(completed) => write!(f, "{}]", At(completed))?,
            None => f.write_str("never]")?,
        }
        write!(f, " {} → ", self.request)?;
        match &self.outcome {
            Outcome::Ok(reply) => reply.fmt(f),
            Outcome::Refused(refusal) => write!(f, "refused: {refusal}"),
            Outcome::Unknown => f.write_str("unknown"),
        }
    }
}
