//! Response headers.

use folkmoot_proto::etcdserverpb::ResponseHeader;

use crate::node::NodeHandle;

/// A header without a revision: who answers, and the term as known here now.
pub fn bare_header(node: &NodeHandle) -> ResponseHeader {
    ResponseHeader {
        cluster_id: node.cluster_id().0,
        member_id: node.member_id().0,
        revision: 0,
        raft_term: node.status().term(),
    }
}

/// A header with this revision.
pub fn header(node: &NodeHandle, revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..bare_header(node) })
}

/// A header with the store's current revision.
pub fn header_now(node: &NodeHandle) -> Option<ResponseHeader> {
    header(node, node.reader().revision())
}
