//! The wire: messages and gRPC stubs of the etcd v3 API, generated from the files in `proto/`.
//!
//! This crate holds what travels and nothing else: no helpers, no checks, no conversions. The
//! modules carry the names of the protobuf packages, which are part of every request path. Field
//! numbers and names are those of etcd and never change.
//!
//! All `bytes` fields are [`bytes::Bytes`]: decoding from a `Bytes` shares its memory instead of
//! copying it. Clients and servers are built only with the feature `grpc`.
//!
//! `src/gen/` is committed; `cargo run -p folkmoot-proto-gen` writes it afresh after a `.proto` file
//! has changed, and the same with `-- --check` tells whether that was forgotten.

/// Keys, values and events.
#[allow(missing_docs, clippy::all)]
pub mod mvccpb {
    include!("gen/mvccpb.rs");
}

/// Users, roles and permissions as stored.
#[allow(missing_docs, clippy::all)]
pub mod authpb {
    include!("gen/authpb.rs");
}

/// The services KV, Watch, Lease, Cluster, Maintenance and Auth with their messages.
#[allow(missing_docs, clippy::all)]
pub mod etcdserverpb {
    include!("gen/etcdserverpb.rs");
}

/// The service Lock.
#[allow(missing_docs, clippy::all)]
pub mod v3lockpb {
    include!("gen/v3lockpb.rs");
}

/// The service Election.
#[allow(missing_docs, clippy::all)]
pub mod v3electionpb {
    include!("gen/v3electionpb.rs");
}

/// The service Health of gRPC itself, package `grpc.health.v1`.
#[allow(missing_docs, clippy::all)]
pub mod health {
    include!("gen/grpc.health.v1.rs");
}

#[cfg(test)]
mod tests;
