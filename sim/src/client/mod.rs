//! Clients: what they ask, what they remember, when they give up.
//!
//! A client is a small machine with one call under way at a time (watch clients: one stream). It
//! sees what a client over the wire would see and nothing else.

mod kv;
mod lease;
mod lock;
mod watch;
pub mod wire;

use folkmoot_core::watch::WatchFrame;

pub use kv::KvClient;
pub use lease::LeaseClient;
pub use lock::LockClient;
pub use watch::WatchClient;

use crate::network::HostAt;
use crate::random::Random;
use crate::time::{MS, Nanos, SEC};
use crate::world::{Answer, Happening, Phase, World};

/// How long clients wait for an answer.
pub const PATIENCE: Nanos = 4 * SEC;

/// One of the kinds.
pub enum Client {
    /// Reads and writes keys.
    Kv(KvClient),
    /// Holds leases with keys on them.
    Lease(LeaseClient),
    /// Takes locks.
    Lock(LockClient),
    /// Watches.
    Watch(WatchClient),
}

impl World {
    /// The clients of the plan arrive.
    pub fn invite_clients(&mut self) {
        let plan = &self.plan;
        let kinds = [plan.kv_clients, plan.lease_clients, plan.lock_clients, plan.watch_clients];
        let mut number = 0;
        for (kind, count) in kinds.into_iter().enumerate() {
            for _ in 0..count {
                let random = Random::new(self.plan.seed, "client", number);
                let client = match kind {
                    0 => Client::Kv(KvClient::new(random, number)),
                    1 => Client::Lease(LeaseClient::new(random, number)),
                    2 => Client::Lock(LockClient::new(random, number)),
                    _ => Client::Watch(WatchClient::new(random)),
                };
                let at = self.clients.len();
                self.clients.push(Some(client));
                if !self.plan.idle.contains(&at) {
                    self.queue.push(SEC + number * MS, Happening::Client(at));
                }
                number += 1;
            }
        }
    }

    /// Whether clients should not begin anything new: the run is about to end.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Healing(since) if self.now > since + 2 * SEC)
    }

    /// Runs a client's machine with the world beside it.
    fn with_client<T>(&mut self, at: usize, step: impl FnOnce(&mut Client, &mut Self) -> T) -> Option<T> {
        let mut client = self.clients[at].take()?;
        let result = step(&mut client, self);
        self.clients[at] = Some(client);
        Some(result)
    }

    /// A client has something to do after this time.
    pub fn wake_client(&mut self, at: usize, time: Nanos) {
        self.queue.push(self.now + time, Happening::Client(at));
    }

    /// A client that had nothing to do has something to do.
    pub fn client_wakes(&mut self, at: usize) {
        self.with_client(at, |client, world| match client {
            Client::Kv(client) => client.wakes(at, world),
            Client::Lease(client) => client.wakes(at, world),
            Client::Lock(client) => client.wakes(at, world),
            Client::Watch(client) => client.wakes(at, world),
        });
    }

    /// A client has the outcome of a call.
    pub fn client_hears(&mut self, at: usize, call: u64, answer: Answer) {
        self.with_client(at, |client, world| match client {
            Client::Kv(client) => client.hears(at, answer, world),
            Client::Lease(client) => client.hears(at, answer, world),
            Client::Lock(client) => client.hears(at, answer, world),
            Client::Watch(_) => unreachable!("watch clients make no calls; call={call}"),
        });
    }

    /// A watch client gets a frame.
    pub fn watch_frame(&mut self, at: usize, stream: u64, frame: WatchFrame) {
        self.with_client(at, |client, world| {
            if let Client::Watch(client) = client {
                client.frame(at, stream, frame, world);
            }
        });
    }

    /// A watch client's stream is gone.
    pub fn watch_stream_lost(&mut self, at: usize, stream: u64) {
        self.with_client(at, |client, world| {
            if let Client::Watch(client) = client {
                client.stream_lost(at, stream, world);
            }
        });
    }

    /// What clients still wait for at the end of a run.
    pub fn clients_are_quiet(&mut self) -> Result<(), String> {
        if let Some((_, call)) = self.calls.iter().next() {
            return Err(format!("client {} waits for an answer", call.client));
        }
        for at in 0..self.clients.len() {
            if self.plan.idle.contains(&at) {
                continue;
            }
            self.with_client(at, |client, world| match client {
                Client::Watch(client) => client.is_caught_up(at, world),
                Client::Lease(client) => client.is_quiet(),
                Client::Lock(client) => client.is_quiet(),
                Client::Kv(_) => Ok(()),
            })
            .unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    /// A member that a client asks: usually the one it asked before.
    pub fn choose_member(&mut self, random: &mut Random, before: Option<HostAt>) -> HostAt {
        match before {
            Some(before) if !self.hosts[before].gone && !random.one_in(10) => before,
            _ => {
                let there: Vec<HostAt> = (0..self.hosts.len()).filter(|at| !self.hosts[*at].gone).collect();
                *random.pick(&there)
            }
        }
    }
}
