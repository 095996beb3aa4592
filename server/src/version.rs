//! The versions this server names to its clients.

/// The version of etcd whose API this server speaks; clients read it and adapt to it.
pub const ETCD_VERSION: &str = "3.6.0";

/// The version that a cluster of such members agrees on.
pub const CLUSTER_VERSION: &str = "3.6.0";

/// The version of what is stored, as far as clients care.
pub fn storage_version() -> &'static str {
    CLUSTER_VERSION
}
