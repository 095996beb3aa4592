//! Calls of clients: what the server's API rooms do with them, without the wire.

use folkmoot_check::history::{Operation, Outcome, Refusal, Reply, ReplyBody, Request};
use folkmoot_core::command::Command;
use folkmoot_core::error::{Error, Failure};
use folkmoot_core::mvcc::validate;
use folkmoot_core::node::{self, Input, Slot};
use folkmoot_core::types::{LeaseId, MemberId};

use super::{Happening, Life, World};
use crate::client::wire;
use crate::network::HostAt;
use crate::sometimes::Situation;
use crate::time::{MS, Nanos, US};

/// The number under which administrators ask.
pub const ADMINISTRATOR: usize = usize::MAX;
/// The number under which members announce themselves.
pub const ANNOUNCER: usize = usize::MAX - 1;

/// What is asked of a member.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A call that stands in the history, with its place there.
    Operation(usize),
    /// Something an administrator asks, that stands in no history.
    Admin(Admin),
}

/// What an administrator asks.
#[derive(Clone, Debug)]
pub enum Admin {
    /// Move leadership there.
    MoveLeader(MemberId),
    /// Give leadership away.
    StepDown,
    /// Replicate this.
    Command(Command),
}

/// What comes back.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was done.
    Ok(Reply),
    /// An administrator's request was done.
    AdminOk(Box<node::Reply>),
    /// It was refused, or failed.
    Error(Error),
    /// The connection broke.
    Lost,
    /// There was nobody to connect to.
    NotConnected,
}

/// A call under way.
pub struct Call {
    /// Who asked.
    pub client: usize,
    /// Which member.
    pub host: HostAt,
    /// What.
    pub ask: Ask,
}

impl World {
    /// A client calls a member. The outcome comes to the client once, at `patience` at the
    /// latest.
    pub fn call(&mut self, client: usize, host: HostAt, request: Request, patience: Nanos) -> u64 {
        let place = self.history.operations.len();
        self.history.operations.push(Operation {
            client: client as u64,
            member: self.hosts[host].id.0,
            invoked: self.now,
            completed: None,
            request,
            outcome: Outcome::Unknown,
        });
        let operation = &self.history.operations[place];
        let (id, request) = (self.hosts[host].id, &operation.request);
        self.trace.line(self.now, || format!("call {place} of client {client} to member {id}: {request:?}"));
        self.begin_call(client, host, Ask::Operation(place), patience)
    }

    /// An administrator asks a member.
    pub fn ask_admin(&mut self, client: usize, host: HostAt, admin: Admin, patience: Nanos) -> u64 {
        self.begin_call(client, host, Ask::Admin(admin), patience)
    }

    fn begin_call(&mut self, client: usize, host: HostAt, ask: Ask, patience: Nanos) -> u64 {
        self.next_call += 1;
        let call = self.next_call;
        self.calls.insert(call, Call { client, host, ask });
        let (low, high) = self.plan.client_latency;
        let latency = self.roads.spread(low, high);
        if !self.storm.is_client_cut(client, host) {
            self.queue.push(self.now + latency, Happening::Arrives(call));
        }
        self.queue.push(self.now + patience, Happening::GivesUp(call));
        call
    }

    pub(super) fn call_arrives(&mut self, id: u64) {
        let Some(call) = self.calls.get(&id) else { return };
        let at = call.host;
        let host = &self.hosts[at];
        if host.paused_until > self.now {
            self.queue.push(host.paused_until, Happening::Arrives(id));
            return;
        }
        let Some(running) = &host.running else { return self.answer(id, Answer::NotConnected) };
        let life = host.life;
        let input =
            match &call.ask {
                Ask::Admin(Admin::MoveLeader(target)) => {
                    Ok(Some(Input::TransferLeader { slot: Slot(id), target: *target }))
                }
                Ask::Admin(Admin::StepDown) => Ok(Some(Input::StepDown { slot: Slot(id) })),
                Ask::Admin(Admin::Command(command)) => {
                    Ok(Some(Input::Propose { slot: Slot(id), command: command.clone() }))
                }
                Ask::Operation(place) => match &self.history.operations[*place].request {
                    Request::Range(range) => {
                        let status = running.node.status();
                        if range.serializable || status.sole_leader {
                            Ok(None)
                        } else if status.learner {
                            Err(Error::NotSupportedForLearner)
                        } else {
                            if status.leader.is_none() {
                                self.sometimes.met(Situation::ReadWhileNoLeader);
                            }
                            Ok(Some(Input::ReadIndex { slot: Slot(id) }))
                        }
                    }
                    Request::LeaseKeepAlive { id: lease } => Ok(LeaseId::from_wire(*lease)
                        .map(|lease| Input::LeaseRenew { slot: Slot(id), id: lease })),
                    Request::LeaseTimeToLive { id: lease, keys } => Ok(LeaseId::from_wire(*lease)
                        .map(|lease| Input::LeaseTimeToLive { slot: Slot(id), id: lease, keys: *keys })),
                    Request::Txn(txn) => validate::check_txn(&wire::core_txn(txn), 128)
                        .map(|()| Some(propose(id, &self.history.operations[*place].request))),
                    request => Ok(Some(propose(id, request))),
                },
            };
        match input {
            Err(error) => self.answer(id, Answer::Error(error)),
            Ok(None) => self.read_soon(id, life),
            Ok(Some(input)) => {
                if let Some(running) = &mut self.hosts[at].running {
                    running.waiting.insert(id);
                }
                self.give(at, input);
            }
        }
    }

    fn read_soon(&mut self, call: u64, life: Life) {
        let pause = self.machine.spread(5 * US, MS);
        self.queue.push(self.now + pause, Happening::ReadNow(call, life));
    }

    /// The core answers.
    pub(super) fn core_replies(&mut self, at: HostAt, slot: Slot, result: Result<node::Reply, Error>) {
        let host = &mut self.hosts[at];
        let (leads, life) = (host.leads(), host.life);
        let Some(running) = &mut host.running else { return };
        if !running.waiting.remove(&slot.0) {
            return self.fail("answers", format!("an answer nobody waits for: slot={} {result:?}", slot.0));
        }
        let Some(call) = self.calls.get(&slot.0) else { return };
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => return self.answer(slot.0, Answer::Error(error)),
        };
        let Ask::Operation(place) = call.ask else {
            return self.answer(slot.0, Answer::AdminOk(Box::new(reply)));
        };
        match wire::reply(reply) {
            Some(reply) => {
                if matches!(reply.body, ReplyBody::LeaseKeepAlive { ttl } if ttl > 0) && !leads {
                    self.sometimes.met(Situation::LeaseRenewedByFollower);
                }
                self.answer(slot.0, Answer::Ok(reply));
            }
            // A linearizable read may run.
            None => {
                debug_assert!(matches!(self.history.operations[place].request, Request::Range(_)));
                if !leads {
                    self.sometimes.met(Situation::ReadByFollower);
                }
                self.read_soon(slot.0, life);
            }
        }
    }

    pub(super) fn read_now(&mut self, id: u64, life: Life) {
        let Some(call) = self.calls.get(&id) else { return };
        let host = &self.hosts[call.host];
        if host.life != life {
            return self.answer(id, Answer::Lost);
        }
        if host.paused_until > self.now {
            self.queue.push(host.paused_until, Happening::ReadNow(id, life));
            return;
        }
        let (Some(running), Ask::Operation(place)) = (&host.running, &call.ask) else { return };
        let Request::Range(range) = &self.history.operations[*place].request else { return };
        let reader = running.node.reader();
        match reader.range(&wire::core_range(range)) {
            Ok(response) => {
                let mut met = Vec::new();
                if range.serializable {
                    met.push(Situation::ReadSerializable);
                    if response.revision < self.ledger.revision() {
                        met.push(Situation::ReadStale);
                    }
                }
                if range.revision > 0 && range.revision < response.revision {
                    met.push(Situation::ReadAtPast);
                }
                let reply = wire::range_reply(response);
                for situation in met {
                    self.met(situation);
                }
                self.answer(id, Answer::Ok(reply));
            }
            Err(Failure::Answer(error)) => {
                if error == Error::Compacted {
                    self.met(Situation::ReadCompacted);
                }
                self.answer(id, Answer::Error(error));
            }
            Err(Failure::Fatal(fatal)) => {
                let at = call.host;
                self.stops(at, "read", &fatal);
            }
        }
    }

    /// An answer leaves the member.
    fn answer(&mut self, id: u64, answer: Answer) {
        let Some(call) = self.calls.get(&id) else { return };
        if self.storm.is_client_cut(call.client, call.host) {
            return;
        }
        let (low, high) = self.plan.client_latency;
        let latency = self.roads.spread(low, high);
        self.queue.push(self.now + latency, Happening::Answered(id, Box::new(answer)));
    }

    /// A member ended: whoever waited for it hears that.
    pub(super) fn drop_connections(&mut self, at: HostAt, waiting: impl IntoIterator<Item = u64>) {
        for id in waiting {
            self.answer(id, Answer::Lost);
        }
        let gone: Vec<u64> =
            self.streams.iter().filter(|(_, stream)| stream.host == at).map(|(id, _)| *id).collect();
        for stream in gone {
            self.stream_lost_soon(stream);
        }
    }

    /// An answer arrives at the client, unless it has given up.
    pub(super) fn answered(&mut self, id: u64, answer: Answer) {
        let Some(call) = self.calls.remove(&id) else { return };
        if let Answer::NotConnected = answer {
            self.met(Situation::ConnectionRefused);
        }
        if let Ask::Operation(place) = call.ask {
            self.counts.answered += 1;
            let operation = &mut self.history.operations[place];
            operation.completed = Some(self.now);
            operation.outcome = outcome(&answer);
            self.trace.mix(place as u64);
            let outcome = &self.history.operations[place].outcome;
            self.trace.line(self.now, || {
                format!(
                    "call {place} ends: {answer:?} {}",
                    match outcome {
                        Outcome::Unknown => "(unknown)",
                        _ => "",
                    }
                )
            });
        }
        self.caller_hears(call.client, id, answer);
    }

    fn caller_hears(&mut self, caller: usize, id: u64, answer: Answer) {
        match caller {
            ADMINISTRATOR => self.administrator_hears(id, answer),
            ANNOUNCER => {}
            client => self.client_hears(client, id, answer),
        }
    }

    pub(super) fn gives_up(&mut self, id: u64) {
        let Some(call) = self.calls.remove(&id) else { return };
        if let Ask::Operation(place) = call.ask {
            self.met(Situation::TimedOut);
            self.history.operations[place].completed = Some(self.now);
            self.note(|| format!("call {place} is given up"));
        }
        self.caller_hears(call.client, id, Answer::Lost);
    }
}

fn propose(id: u64, request: &Request) -> Input {
    Input::Propose { slot: Slot(id), command: wire::command(request) }
}

/// What a client knows after an answer.
fn outcome(answer: &Answer) -> Outcome {
    let refusal = match answer {
        Answer::Ok(reply) => return Outcome::Ok(reply.clone()),
        Answer::NotConnected => Refusal::Other("connection refused".to_owned()),
        Answer::Error(Error::Compacted) => Refusal::Compacted,
        Answer::Error(Error::FutureRev) => Refusal::FutureRevision,
        Answer::Error(Error::LeaseNotFound) => Refusal::LeaseNotFound,
        Answer::Error(Error::LeaseExist) => Refusal::LeaseExists,
        Answer::Error(Error::KeyNotFound) => Refusal::KeyNotFound,
        Answer::Error(
            error @ (Error::TooManyRequests
            | Error::NoSpace
            | Error::NotSupportedForLearner
            | Error::DuplicateKey),
        ) => Refusal::Other(error.to_string()),
        Answer::Error(_) | Answer::Lost | Answer::AdminOk(_) => return Outcome::Unknown,
    };
    Outcome::Refused(refusal)
}
