//! Stories of several members: forwarding, snapshots, membership, leases over leaders, integrity.
