//! The shared heart of a client: connections, health, token, what was seen of the store.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::auth_client::AuthClient;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::endpoint::{Dialer, Given, Link, Target};
use super::options::Options;
use super::pool::Pool;
use super::roster::Roster;
use super::seen::{Consistency, Mark, Seen, Verdict};
use super::status::{self, Fault};
use super::token::TokenStore;
use crate::backoff::Backoff;
use crate::clock::BootInstant;
use crate::error::{Error, ErrorKind, Result};
use crate::lease::keeper::Keeper;
use crate::runtime;
use crate::watch::hub::Hub;

/// The shortest time that a member is given to answer before another is asked.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);

/// Whether a call may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Safety {
    /// It changes nothing.
    Read,
    /// Applied twice is as good as once, or shows.
    Idempotent,
    /// Only if it was surely not applied.
    Once,
}

/// How a call is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub safety: Safety,
    pub consistency: Consistency,
    /// Instead of the client's.
    pub timeout: Option<Duration>,
    /// Ask this endpoint and no other.
    pub only: Option<usize>,
}

impl Call {
    pub fn new(safety: Safety, consistency: Consistency) -> Self {
        Self { safety, consistency, timeout: None, only: None }
    }

    pub fn read() -> Self {
        Self::new(Safety::Read, Consistency::Unordered)
    }

    pub fn idempotent() -> Self {
        Self::new(Safety::Idempotent, Consistency::Unordered)
    }

    pub fn once() -> Self {
        Self::new(Safety::Once, Consistency::Unordered)
    }

    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }
}

/// An answer that says where it comes from.
pub(crate) trait Headed {
    fn header(&self) -> Option<&pb::ResponseHeader>;
}

macro_rules! headed {
    ($($message:ident)*) => {
        $(impl Headed for pb::$message {
            fn header(&self) -> Option<&pb::ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

headed! {
    RangeResponse PutResponse DeleteRangeResponse TxnResponse CompactionResponse
    LeaseGrantResponse LeaseRevokeResponse LeaseTimeToLiveResponse LeaseLeasesResponse
    MemberAddResponse MemberRemoveResponse MemberUpdateResponse MemberListResponse MemberPromoteResponse
    AlarmResponse StatusResponse DefragmentResponse HashResponse HashKvResponse MoveLeaderResponse
    DowngradeResponse
    AuthEnableResponse AuthDisableResponse AuthStatusResponse AuthenticateResponse
    AuthUserAddResponse AuthUserGetResponse AuthUserListResponse AuthUserDeleteResponse
    AuthUserChangePasswordResponse AuthUserGrantRoleResponse AuthUserRevokeRoleResponse
    AuthRoleAddResponse AuthRoleGetResponse AuthRoleListResponse AuthRoleDeleteResponse
    AuthRoleGrantPermissionResponse AuthRoleRevokePermissionResponse
}

/// A streamed answer proves nothing by itself.
impl<T> Headed for tonic::Streaming<T> {
    fn header(&self) -> Option<&pb::ResponseHeader> {
        None
    }
}

/// The heart of a client in one process.
#[derive(Debug)]
pub(crate) struct Core {
    pid: u32,
    pub handle: Handle,
    pub options: Options,
    dialer: Dialer,
    /// Given ones first, in their order; others are added behind and never taken out, so that an index
    /// means the same for as long as the client lives.
    links: RwLock<Vec<Link>>,
    pool: Mutex<Pool>,
    /// Is locked before the links and the pool.
    roster: Mutex<Roster>,
    /// How looking up the names among the endpoints went last: an error if that leaves nobody to ask.
    looked: watch::Sender<Option<Result<()>>>,
    /// Asks for looking the names up again.
    again: Arc<Notify>,
    token: TokenStore,
    pub seen: Seen,
    pub hub: Hub,
    keeper: OnceLock<Keeper>,
    /// Counts the attempts at writes whose answer was lost: they may be applied yet, and later than
    /// whatever was sent after them.
    doubts: AtomicU64,
    closed: AtomicBool,
    /// Tells long-lived tasks of the end.
    closing: watch::Sender<bool>,
}

impl Core {
    pub fn start(options: Options) -> Result<Arc<Self>> {
        let handle = match &options.runtime {
            Some(handle) => handle.clone(),
            None => runtime::private()?,
        };
        let encrypted = options.endpoints.iter().any(Given::is_encrypted);
        let dialer = Dialer::new(encrypted, options.tls.as_ref(), options.connect_timeout)?;
        let links = {
            let _entered = handle.enter();
            let targets = options.endpoints.iter().map(Given::placeholder);
            targets.map(|target| dialer.link(&target)).collect::<Result<Vec<_>>>()?
        };
        let pool = Mutex::new(Pool::new(links.len(), rand::random_range(0..links.len())));
        let roster = Mutex::new(Roster::new(&options.endpoints));
        let core = Arc::new(Self {
            pid: runtime::pid(),
            handle,
            options,
            dialer,
            links: RwLock::new(links),
            pool,
            roster,
            looked: watch::Sender::new(None),
            again: Arc::default(),
            token: TokenStore::default(),
            seen: Seen::default(),
            hub: Hub::default(),
            keeper: OnceLock::new(),
            doubts: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        });
        if core.has_names() {
            core.handle.spawn(super::names::follow(Arc::downgrade(&core)));
        }
        if let Some(interval) = core.options.auto_sync {
            core.handle.spawn(super::sync::follow(Arc::downgrade(&core), interval));
        }
        Ok(core)
    }

    /// Takes the members to be these, by their URLs. Those whose URLs the client was given stay, whatever
    /// the members say of themselves: it may reach them by a name that they do not know.
    pub fn set_members(&self, urls: &[String]) {
        let mut roster = self.roster.lock();
        let targets = urls.iter().map(|url| Target::at(url)).filter(|target| self.link_to(target)).collect();
        roster.list(targets);
        self.ask(&roster);
    }

    /// Takes the endpoint of this index, a name, to stand for these members.
    pub fn set_found(&self, index: usize, targets: Vec<Target>) {
        let mut roster = self.roster.lock();
        let targets = targets.into_iter().filter(|target| self.link_to(target)).collect();
        roster.find(index, targets);
        self.ask(&roster);
    }

    /// Sees to it that there is a link to this member. Answers whether it can be used.
    fn link_to(&self, target: &Target) -> bool {
        let _entered = self.handle.enter();
        let mut links = self.links.write();
        if links.iter().any(|link| *link.target == *target) {
            return true;
        }
        match self.dialer.link(target) {
            Ok(link) => {
                tracing::info!(url = target.url, "a member was added to those that are asked");
                links.push(link);
                self.pool.lock().add();
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a member's URL is of no use");
                false
            }
        }
    }

    /// Asks those that the roster wants, and no others.
    fn ask(&self, roster: &Roster) {
        let (links, mut pool) = (self.links.read(), self.pool.lock());
        let is_retired = |link: &Link| !roster.wanted().any(|target| *target == *link.target);
        let (retired, wanted): (Vec<_>, Vec<_>) =
            (0..links.len()).partition(|index| is_retired(&links[*index]));
        // First those that are wanted: the last one in use would stay.
        wanted.into_iter().for_each(|index| pool.retire(index, false));
        retired.into_iter().for_each(|index| pool.retire(index, true));
    }

    /// Whether there are names among the endpoints that stand for members.
    pub fn has_names(&self) -> bool {
        self.options.endpoints.iter().any(Given::is_name)
    }

    /// What the given endpoints stand for.
    pub fn endpoints(&self) -> Vec<String> {
        self.roster.lock().given().map(|target| target.name.clone()).collect()
    }

    /// Tells how looking up the names went. What was found before stays known.
    pub fn looked_up(&self, failure: Option<Error>) {
        let failure = failure.filter(|_| !self.roster.lock().has_members());
        self.looked.send_replace(Some(failure.map_or(Ok(()), Err)));
    }

    /// Waits until the names were looked up, if there are any.
    ///
    /// # Errors
    /// Fails if nothing was found for any of them and there is no other endpoint.
    pub async fn names_looked_up(&self) -> Result<()> {
        if !self.has_names() {
            return Ok(());
        }
        let mut looked = self.looked.subscribe();
        let outcome =
            async { looked.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
        let bound = self.options.request_timeout;
        match runtime::within(&self.handle, async { tokio::time::timeout(bound, outcome).await }).await {
            Ok(outcome) => outcome.unwrap_or_else(|| Err(Error::closed("the client"))),
            Err(_) if self.roster.lock().has_members() => Ok(()),
            Err(_) => {
                let text = format!("no answer from DNS within request_timeout={bound:?}, check its servers");
                Err(Error::new(ErrorKind::Unavailable, text).at(&self.endpoints().join(",")))
            }
        }
    }

    /// Is notified when names are to be looked up before it is time.
    pub fn again(&self) -> Arc<Notify> {
        self.again.clone()
    }

    /// Whether this is another process than the one it was made in.
    pub fn is_foreign(&self) -> bool {
        self.pid != runtime::pid()
    }

    /// Refuses in a forked child and after the end.
    pub fn check(&self) -> Result<()> {
        if self.is_foreign() {
            return Err(Error::forked());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("the client"));
        }
        Ok(())
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.send_replace(true);
    }

    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    pub fn keeper(&self) -> &Keeper {
        self.keeper.get_or_init(Keeper::default)
    }

    /// How many attempts at writes have lost their answer. If that did not change during a call, no
    /// attempt of it is still on its way.
    pub fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Acquire)
    }

    /// A member to open a stream at.
    pub fn pick(&self, avoid: Option<usize>) -> (usize, Link) {
        let index = self.pool.lock().pick(BootInstant::now(), avoid);
        (index, self.link(index))
    }

    pub fn link(&self, index: usize) -> Link {
        self.links.read()[index].clone()
    }

    /// The link of this URL.
    pub fn find(&self, url: &str) -> Option<usize> {
        self.links.read().iter().position(|link| *link.name == *url)
    }

    pub fn succeeded(&self, index: usize) {
        self.pool.lock().succeeded(index);
    }

    pub fn failed(&self, index: usize) {
        let all_fail = {
            let mut pool = self.pool.lock();
            pool.failed(index, BootInstant::now());
            pool.all_fail()
        };
        if self.has_names() {
            if all_fail {
                let mut roster = self.roster.lock();
                if roster.doubt_list() {
                    self.ask(&roster);
                }
            }
            self.again.notify_one();
        }
    }

    /// Notes that this member refuses the client's certificate. Answers whether all do by now.
    fn all_refuse(&self, refusers: &mut BTreeSet<usize>, index: usize) -> bool {
        refusers.insert(index);
        refusers.len() >= self.pool.lock().len()
    }

    /// The request of a stream: with the token, and only for members that know a leader.
    pub fn stream_request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = self.token.current() {
            request.metadata_mut().insert("token", (*token).clone());
        }
        request
    }

    /// Calls `rpc` at one member after the other as `call` allows.
    ///
    /// # Cancel safety
    /// Dropping the future tells the member that nobody waits; a write may still be applied.
    pub async fn unary<Q, R, F>(
        &self,
        call: Call,
        message: Q,
        rpc: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R>
    where
        Q: Clone,
        R: Headed,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.check()?;
        runtime::within(&self.handle, self.attempts(call, message, rpc)).await
    }

    async fn attempts<Q, R, F>(
        &self,
        call: Call,
        message: Q,
        rpc: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R>
    where
        Q: Clone,
        R: Headed,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let until = Instant::now() + call.timeout.unwrap_or(self.options.request_timeout);
        let mut backoff = Backoff::default();
        let mut avoid = None;
        let mut stale = 0;
        let mut token_tries = 0;
        let mut last: Option<Error> = None;
        // Whether the answer to an attempt at a write was lost.
        let mut is_in_doubt = false;
        let mut refusers = BTreeSet::new();
        loop {
            let now = Instant::now();
            if now >= until {
                return Err(out_of_time(call.safety, last));
            }
            let index = match call.only {
                Some(index) => index,
                None => self.pick(avoid).0,
            };
            let link = self.link(index);
            let mut request = Request::new(message.clone());
            let token = self.token.current();
            if let Some(token) = &token {
                request.metadata_mut().insert("token", (**token).clone());
            }
            let mark = self.seen.mark();
            let left = until - now;
            // A member that accepts and says nothing must not use up all the time there is.
            let patience = match call.safety {
                Safety::Once => left,
                _ if call.only.is_some() || self.pool.lock().len() == 1 => left,
                _ => left.min((left / 2).max(ATTEMPT_MIN)),
            };
            let connections = link.mark();
            let answer = tokio::time::timeout(patience, rpc(link.channel.clone(), request)).await;
            let (fault, error) = match answer {
                Ok(Ok(response)) => {
                    self.succeeded(index);
                    let response = response.into_inner();
                    match self.judge(response.header(), mark, call.consistency) {
                        Verdict::Fine => return Ok(response),
                        Verdict::Stale => {
                            stale += 1;
                            if stale > 2 * self.pool.lock().len() {
                                let text = "every member that answered is behind what was seen before";
                                return Err(Error::new(ErrorKind::StaleRead, text).at(&link.name));
                            }
                            avoid = Some(index);
                            backoff.wait().await;
                            continue;
                        }
                        Verdict::Reset => {
                            let text = "the store was replaced or restored";
                            return Err(Error::new(ErrorKind::ClusterReset, text)
                                .at(&link.name)
                                .with_maybe_applied(call.safety != Safety::Read));
                        }
                    }
                }
                Ok(Err(status)) => {
                    let fault = status::fault(&status);
                    match fault {
                        Fault::NotSent | Fault::Broken => {
                            self.failed(index);
                            if let Some(refusal) = link.refusal_since(connections) {
                                let refusal = refusal.with_maybe_applied(is_in_doubt).caused_by(status);
                                // Another attempt would show the same certificate, but perhaps to a member
                                // that knows who made it.
                                if self.all_refuse(&mut refusers, index) || call.only.is_some() {
                                    return Err(refusal);
                                }
                                last = Some(refusal);
                                avoid = Some(index);
                                let wait = backoff.next();
                                tokio::time::sleep_until((Instant::now() + wait).min(until)).await;
                                continue;
                            }
                        }
                        _ => self.succeeded(index),
                    }
                    (fault, status::error(status, &link.name))
                }
                Err(_) => {
                    self.failed(index);
                    let text = "the member did not answer in time";
                    (Fault::Unsure, Error::new(ErrorKind::DeadlineExceeded, text).at(&link.name))
                }
            };
            tracing::debug!(?fault, %error, "a call failed");
            if matches!(fault, Fault::Broken | Fault::Unsure) && call.safety != Safety::Read {
                self.doubts.fetch_add(1, Ordering::AcqRel);
                is_in_doubt = true;
            }
            match (fault, call.safety) {
                (Fault::Refused, _) => return Err(error),
                (Fault::Token, _) => {
                    token_tries += 1;
                    if self.options.credentials.is_none() || token_tries > 2 {
                        return Err(error.with_kind(ErrorKind::AuthFailed));
                    }
                    tokio::time::timeout_at(until, self.renew_token(&token))
                        .await
                        .map_err(|_| out_of_time(Safety::Read, Some(error)))??;
                    continue;
                }
                (Fault::NotSent | Fault::Busy, _) => {}
                (Fault::Broken | Fault::Unsure, Safety::Read | Safety::Idempotent) => {}
                (Fault::Broken | Fault::Unsure, Safety::Once) => return Err(ambiguous(error)),
            }
            last = Some(error);
            avoid = Some(index);
            let wait = backoff.next();
            // The deadline counts also while waiting.
            tokio::time::sleep_until((Instant::now() + wait).min(until)).await;
        }
    }

    /// Compares an answer with what was seen before it was asked for.
    pub fn judge(
        &self,
        header: Option<&pb::ResponseHeader>,
        mark: Mark,
        consistency: Consistency,
    ) -> Verdict {
        header.map_or(Verdict::Fine, |header| self.seen.judge(header, mark, consistency))
    }

    /// Gets a token if there are credentials and none yet.
    pub async fn log_in(&self) -> Result<()> {
        if self.options.credentials.is_none() || self.token.current().is_some() {
            return Ok(());
        }
        runtime::within(&self.handle, self.renew_token(&None)).await
    }

    /// Gets a new token, for streams that were refused theirs.
    pub async fn renew_current_token(&self) -> Result<()> {
        let current = self.token.current();
        self.renew_token(&current).await
    }

    /// Replaces the token that was refused, unless somebody else just did.
    async fn renew_token(&self, refused: &super::token::Used) -> Result<()> {
        let Some((name, password)) = &self.options.credentials else {
            return Err(Error::new(ErrorKind::AuthFailed, "the store wants a name and a password"));
        };
        let _only_one = self.token.renewing.lock().await;
        if !self.token.is_still(refused) {
            return Ok(());
        }
        let message = pb::AuthenticateRequest { name: name.clone(), password: password.clone() };
        let until = Instant::now() + self.options.request_timeout;
        let mut backoff = Backoff::default();
        let mut avoid = None;
        let mut refusers = BTreeSet::new();
        loop {
            let (index, link) = self.pick(avoid);
            let mut client = AuthClient::new(link.channel.clone());
            let connections = link.mark();
            let patience = (until - Instant::now()).min(self.options.request_timeout / 2);
            let error = match tokio::time::timeout(patience, client.authenticate(message.clone())).await {
                Ok(Ok(response)) => {
                    self.succeeded(index);
                    let token = response.into_inner().token.parse();
                    let token =
                        token.map_err(|_| Error::internal("the store gave a token that cannot be sent"))?;
                    self.token.set(Some(token));
                    return Ok(());
                }
                Ok(Err(status)) if status.message() == "etcdserver: authentication is not enabled" => {
                    self.token.set(None);
                    return Ok(());
                }
                Ok(Err(status)) => {
                    let fault = status::fault(&status);
                    let error = status::error(status, &link.name);
                    if fault == Fault::Refused {
                        return Err(error.with_kind(ErrorKind::AuthFailed));
                    }
                    match link.refusal_since(connections) {
                        Some(refusal) if self.all_refuse(&mut refusers, index) => return Err(refusal),
                        Some(refusal) => refusal,
                        None => error,
                    }
                }
                Err(_) => Error::new(ErrorKind::DeadlineExceeded, "the member did not answer in time"),
            };
            self.failed(index);
            avoid = Some(index);
            let wait = backoff.next();
            if Instant::now() + wait >= until {
                return Err(error.with_maybe_applied(false));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// A write whose end is not known.
fn ambiguous(error: Error) -> Error {
    match error.kind() {
        ErrorKind::DeadlineExceeded => error,
        _ => error.with_kind(ErrorKind::Ambiguous),
    }
}

fn out_of_time(safety: Safety, last: Option<Error>) -> Error {
    // What came back last is the better explanation; no attempt of a write that may not be repeated
    // was still open when another one was made.
    let maybe = safety == Safety::Idempotent;
    match last {
        Some(error) if error.kind() == ErrorKind::Unavailable => error.with_maybe_applied(maybe),
        Some(error) => error.with_kind(ErrorKind::DeadlineExceeded).with_maybe_applied(maybe),
        None => {
            Error::new(ErrorKind::DeadlineExceeded, "no time was left for the call").with_maybe_applied(false)
        }
    }
}
