//! The unary workloads: put, range, list and transaction.
//!
//! A slot is one call at a time on one connection; a connection has `in_flight` slots.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::{LoadError, Share, SharedRecorder, Spec, Workload};
use crate::pace::Starts;
use crate::payload::{self, Arena, LIST_PREFIX, Template};
use crate::wire::{CallError, UnaryChannel};

/// What the answer must show besides its status.
#[derive(Debug, Clone, Copy)]
enum Expect {
    Put,
    Keys(u64),
    Succeeded,
}

impl Expect {
    fn check(self, answer: Bytes) -> Result<(), CallError> {
        match self {
            // The status says it all; decoding would only cost CPU that the server needs.
            Expect::Put => Ok(()),
            Expect::Keys(wanted) => {
                let found = pb::RangeResponse::decode(answer)?.kvs.len() as u64;
                if found == wanted {
                    return Ok(());
                }
                Err(CallError::Answer(format!(
                    "other number of keys than expected found={found} wanted={wanted}"
                )))
            }
            Expect::Succeeded => {
                if pb::TxnResponse::decode(answer)?.succeeded {
                    return Ok(());
                }
                Err(CallError::Answer("transaction did not succeed".into()))
            }
        }
    }
}

/// What is asked, again and again.
#[derive(Debug)]
struct Operation {
    template: Template,
    expect: Expect,
    key_count: u64,
}

/// Connections, ready to be driven.
#[derive(Debug)]
pub struct Load {
    channels: Vec<UnaryChannel>,
    operation: Arc<Operation>,
    in_flight: usize,
    seed: u64,
}

impl Load {
    pub async fn connect(spec: &Spec, share: Share) -> Result<Self, LoadError> {
        let value = payload::value(spec.value_bytes);
        let (path, template, expect) = match spec.workload {
            Workload::Put => ("/etcdserverpb.KV/Put", payload::put(value), Expect::Put),
            Workload::Range => ("/etcdserverpb.KV/Range", payload::get(false), Expect::Keys(1)),
            Workload::RangeSerializable => ("/etcdserverpb.KV/Range", payload::get(true), Expect::Keys(1)),
            Workload::Prefix => {
                ("/etcdserverpb.KV/Range", payload::list(LIST_PREFIX, false), Expect::Keys(spec.list_count))
            }
            Workload::Txn => ("/etcdserverpb.KV/Txn", payload::compare_and_put(value), Expect::Succeeded),
            Workload::WatchFanout | Workload::LeaseKeepalive | Workload::Fill => {
                return Err(LoadError::Setting("not a unary workload".into()));
            }
        };
        let operation = Operation { template, expect, key_count: spec.key_count };
        let first = share.before(spec.connections);
        let mut channels = Vec::new();
        for number in first..first + share.part(spec.connections) {
            // Dealt to the endpoints in turn.
            channels.push(UnaryChannel::connect(&spec.endpoints[number % spec.endpoints.len()], path).await?);
        }
        Ok(Self {
            channels,
            operation: Arc::new(operation),
            in_flight: spec.in_flight,
            seed: spec.seed.wrapping_add((share.index as u64) << 32),
        })
    }

    pub async fn drive(self, starts: Starts, recorder: &SharedRecorder, deadline: tokio::time::Instant) {
        let mut slots = JoinSet::new();
        let mut seed = self.seed;
        // Slot by slot across the connections: in an open loop idle slots are served in turn,
        // so this order spreads the calls over the connections.
        for _ in 0..self.in_flight {
            for channel in &self.channels {
                seed = seed.wrapping_add(1);
                slots.spawn(slot(
                    channel.clone(),
                    Arc::clone(&self.operation),
                    SmallRng::seed_from_u64(seed),
                    starts.clone(),
                    recorder.clone(),
                    deadline,
                ));
            }
        }
        slots.join_all().await;
    }
}

async fn slot(
    channel: UnaryChannel,
    operation: Arc<Operation>,
    mut random: SmallRng,
    starts: Starts,
    recorder: SharedRecorder,
    deadline: tokio::time::Instant,
) {
    let mut waiting_since = None;
    let calls = async {
        let mut arena = Arena::default();
        while let Some(start) = starts.next().await {
            waiting_since = Some(start);
            let number = random.random_range(0..operation.key_count);
            let request = operation.template.fill(number, &mut arena);
            let answer = channel.call(request).await;
            let done = Instant::now();
            waiting_since = None;
            match answer.and_then(|answer| operation.expect.check(answer)) {
                Ok(()) => recorder.lock().answered(start, done),
                Err(error) => {
                    recorder.lock().failed(&error);
                    // Nothing more can be sent here; trying would only count errors fast.
                    if error.is_transport() {
                        return;
                    }
                }
            }
        }
    };
    if timeout_at(deadline, calls).await.is_err()
        && let Some(start) = waiting_since
    {
        recorder.lock().unfinished(start, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_another_number_of_keys_is_wrong() {
        let one = pb::RangeResponse { kvs: vec![Default::default()], ..Default::default() };
        let answer = Bytes::from(one.encode_to_vec());
        assert!(Expect::Keys(1).check(answer.clone()).is_ok());
        let error = Expect::Keys(2).check(answer).unwrap_err().to_string();
        assert!(error.contains("found=1 wanted=2"), "{error}");
    }

    #[test]
    fn a_transaction_that_took_its_else_branch_is_wrong() {
        let answer = |succeeded| {
            let response = pb::TxnResponse { succeeded, ..Default::default() };
            Bytes::from(response.encode_to_vec())
        };
        assert!(Expect::Succeeded.check(answer(true)).is_ok());
        assert!(Expect::Succeeded.check(answer(false)).is_err());
        assert!(Expect::Succeeded.check(Bytes::from_static(b"\xff")).is_err());
    }
}
