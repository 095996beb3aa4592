//! Encrypted connections to one member.
//!
//! A connector of our own, because tonic's takes its certificates once and for all, and because a
//! member that refuses the client's certificate has to be told from one that is lost.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::AlertDescription;
use tokio_rustls::rustls::pki_types::ServerName;
use tower_service::Service;

use super::certificates::{Certificates, HTTP_2};
use super::endpoint::{self, Target};
use crate::error::Result;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections to one member.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    /// Where the member is; with `https`, so that 443 is the port if it has none.
    target: Uri,
    /// What its certificate must be for.
    name: ServerName<'static>,
    certificates: Arc<Certificates>,
    attempts: Arc<Attempts>,
    /// For everything together: looking the name up, the connection, the handshake.
    timeout: Duration,
}

impl Connector {
    pub fn new(
        target: &Target,
        certificates: Arc<Certificates>,
        timeout: Duration,
        keepalive: Duration,
    ) -> Result<Self> {
        let name = certificates.name(endpoint::parse(&target.origin)?.host().unwrap_or_default())?;
        let target = endpoint::parse(&target.url)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(keepalive));
        tcp.set_keepalive_interval(Some(keepalive));
        // Is divided among the addresses of the name, so that a dead one does not use up all there is.
        tcp.set_connect_timeout(Some(timeout));
        Ok(Self { tcp, target, name, certificates, attempts: Arc::default(), timeout })
    }

    pub fn attempts(&self) -> &Arc<Attempts> {
        &self.attempts
    }
}

/// The caller's URI is not looked at: tonic would refuse one with `https` that it does not encrypt itself.
impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { target, name, certificates, attempts, timeout, .. } = self.clone();
        let dialing = self.tcp.call(target);
        Box::pin(async move {
            let connecting = async {
                let tcp = dialing.await?.into_inner();
                let config = certificates.config().await;
                let attempt = attempts.begin();
                let handshake = TlsConnector::from(config).connect(name, tcp).await;
                let tls = handshake.inspect_err(|error| attempt.failed(error))?;
                match tls.get_ref().1.alpn_protocol() {
                    Some(HTTP_2) => {
                        Ok(TokioIo::new(Connection { tls, attempt, is_heard: false, write_error: None }))
                    }
                    other => {
                        let other = other.map(String::from_utf8_lossy);
                        Err(format!("the member does not offer HTTP/2 by ALPN protocol={other:?}").into())
                    }
                }
            };
            let late = || format!("no encrypted connection within connect_timeout={timeout:?}");
            tokio::time::timeout(timeout, connecting)
                .await
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, late()).into()))
        })
    }
}

/// An encrypted connection that notices when the member refuses the client's certificate.
///
/// With TLS 1.3 the client's side of the handshake is over before the member has looked at the client's
/// certificate, so requests are on their way when it is refused.
pub(crate) struct Connection {
    tls: TlsStream<TcpStream>,
    attempt: Attempt,
    /// Whether the member has sent anything. It does so only after the handshake, and what it refuses
    /// later is not the handshake.
    is_heard: bool,
    /// What a write failed with, until the next read.
    write_error: Option<io::Error>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("attempt", &self.attempt)
            .field("is_heard", &self.is_heard)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A member that refuses ends the connection, and that can show in a write before the reason is read:
    /// it is on its way to us, or here and not announced yet. So the write passes, and the next read, which
    /// finds the reason or the end, is the error.
    fn put_off<T>(&mut self, written: T, error: io::Error) -> io::Result<T> {
        let has_ended = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        if self.is_heard || !has_ended {
            return Err(error);
        }
        self.write_error.get_or_insert(error);
        Ok(written)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.tls).poll_read(cx, buffer);
        self.is_heard |= buffer.filled().len() > before;
        match (&polled, self.write_error.take()) {
            (Poll::Pending, write_error) => self.write_error = write_error,
            (Poll::Ready(Err(error)), _) if !self.is_heard => self.attempt.failed(error),
            (Poll::Ready(Ok(())), Some(error)) => return Poll::Ready(Err(error)),
            (Poll::Ready(_), _) => {}
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tls).poll_write(cx, bytes));
        Poll::Ready(written.or_else(|error| self.put_off(bytes.len(), error)))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tls).poll_write_vectored(cx, bytes));
        let all = bytes.iter().map(|bytes| bytes.len()).sum();
        Poll::Ready(written.or_else(|error| self.put_off(all, error)))
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.tls).poll_flush(cx));
        Poll::Ready(flushed.or_else(|error| self.put_off((), error)))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

#[derive(Debug, Default)]
struct State {
    /// How many attempts there were; they are numbered from one.
    latest: u64,
    /// Whether the latest is over.
    is_over: bool,
    /// The latest attempts that were refused, one after the other: the first and the last of them.
    refused: (u64, u64),
    /// How the last of them was refused.
    alert: Option<AlertDescription>,
}

/// How the attempts to connect to one member ended.
///
/// A call that fails may have met any end of its connection, and hyper and h2 do not always keep why. So
/// it is found out here which connections it can have gone out on: if all of them were refused in the
/// handshake, the member has read nothing of it.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<State>);

impl Attempts {
    fn begin(self: &Arc<Self>) -> Attempt {
        let mut state = self.0.lock();
        state.latest += 1;
        state.is_over = false;
        Attempt { of: self.clone(), number: state.latest }
    }

    /// The first attempt that a call may go out on that is made now.
    pub fn mark(&self) -> u64 {
        let state = self.0.lock();
        if state.latest == 0 || state.is_over { state.latest + 1 } else { state.latest }
    }

    /// What the member said, if it has refused each attempt from `mark` on, and there was one.
    pub fn refusal_since(&self, mark: u64) -> Option<AlertDescription> {
        let state = self.0.lock();
        let (first, last) = state.refused;
        state.alert.filter(|_| first <= mark && mark <= last && last == state.latest)
    }
}

/// One attempt to connect, as long as it and what came of it lasts.
#[derive(Debug)]
struct Attempt {
    of: Arc<Attempts>,
    number: u64,
}

impl Attempt {
    /// The handshake failed, or its other side did.
    fn failed(&self, error: &io::Error) {
        let Some(alert) = refusal(error) else { return };
        let mut state = self.of.0.lock();
        let (first, last) = state.refused;
        // It may be told twice.
        let is_next = last != 0 && (last == self.number || last + 1 == self.number);
        state.refused = (if is_next { first } else { self.number }, self.number);
        state.alert = Some(alert);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = self.of.0.lock();
        state.is_over |= state.latest == self.number;
    }
}

/// What a member answers if it does not like the certificate that it was shown, or was shown none.
fn refusal(error: &io::Error) -> Option<AlertDescription> {
    let rustls::Error::AlertReceived(alert) = error.get_ref()?.downcast_ref()? else { return None };
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            // By an authority of the same name with another key.
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
    .then_some(*alert)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(alert: AlertDescription) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert))
    }

    #[test]
    fn only_alerts_about_certificates_are_refusals() {
        let required = AlertDescription::CertificateRequired;
        assert_eq!(refusal(&alert(required)), Some(required));
        assert_eq!(refusal(&alert(AlertDescription::InternalError)), None);
        assert_eq!(refusal(&io::ErrorKind::ConnectionReset.into()), None);
    }

    #[test]
    fn a_call_is_refused_if_each_connection_was_that_it_may_have_gone_out_on() {
        let (refused, lost) = (alert(AlertDescription::UnknownCA), io::ErrorKind::ConnectionReset.into());
        let attempts = Arc::<Attempts>::default();
        let before_all = attempts.mark();
        assert_eq!(attempts.refusal_since(before_all), None);

        let first = attempts.begin();
        assert_eq!(attempts.mark(), before_all);
        assert_eq!(attempts.refusal_since(before_all), None);
        first.failed(&refused);
        first.failed(&refused);
        assert!(attempts.refusal_since(before_all).is_some());
        drop(first);
        let after_first = attempts.mark();
        assert_eq!(attempts.refusal_since(after_first), None);
        attempts.begin().failed(&refused);
        assert!(attempts.refusal_since(before_all).is_some());
        assert!(attempts.refusal_since(after_first).is_some());

        // One that was lost may have carried it.
        let third = attempts.begin();
        let with_third = attempts.mark();
        third.failed(&lost);
        assert_eq!(attempts.refusal_since(with_third), None);
        let fourth = attempts.begin();
        let with_fourth = attempts.mark();
        fourth.failed(&refused);
        assert!(attempts.refusal_since(with_fourth).is_some());
        assert_eq!(attempts.refusal_since(with_third), None);
        assert_eq!(attempts.refusal_since(before_all), None);

        // One that is open may carry it yet.
        let _fifth = attempts.begin();
        assert_eq!(attempts.refusal_since(with_fourth), None);
    }
}
