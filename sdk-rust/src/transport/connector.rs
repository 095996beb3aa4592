//! Encrypted connections to one member.
//!
//! A connector of our own, because tonic's takes its certificates once and for all, and because a
//! member that refuses the client's certificate has to be told from one that is lost.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::AlertDescription;
use tokio_rustls::rustls::pki_types::ServerName;
use tower_service::Service;

use super::certificates::{Certificates, HTTP_2};
use super::status;
use crate::error::{Error, Result};

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
    /// For everything together: looking the name up, the connection, the handshake.
    timeout: Duration,
}

impl Connector {
    pub fn new(
        url: &str,
        certificates: Arc<Certificates>,
        timeout: Duration,
        keepalive: Duration,
    ) -> Result<Self> {
        let target = url.parse::<Uri>().map_err(|error| {
            Error::invalid(format!("cannot use the endpoint: {error} endpoint={url:?}")).caused_by(error)
        })?;
        let name = certificates.name(target.host().unwrap_or_default())?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(keepalive));
        tcp.set_keepalive_interval(Some(keepalive));
        // Is divided among the addresses of the name, so that a dead one does not use up all there is.
        tcp.set_connect_timeout(Some(timeout));
        Ok(Self { tcp, target, name, certificates, timeout })
    }

    pub fn target(&self) -> &Uri {
        &self.target
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
        let Self { target, name, certificates, timeout, .. } = self.clone();
        let dialing = self.tcp.call(target);
        Box::pin(async move {
            let connecting = async {
                let tcp = dialing.await?.into_inner();
                let config = certificates.config().await;
                let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(explain)?;
                match tls.get_ref().1.alpn_protocol() {
                    Some(HTTP_2) => Ok(TokioIo::new(Connection { tls, is_heard: false })),
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

/// An encrypted connection that tells the refusal of a certificate from a loss.
///
/// With TLS 1.3 the client's side of the handshake is over before the member has looked at the client's
/// certificate, so requests are on their way when it is refused.
pub(crate) struct Connection {
    tls: TlsStream<TcpStream>,
    /// Whether the member has sent anything. It does so only after the handshake, and what it refuses
    /// later is not the handshake.
    is_heard: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("is_heard", &self.is_heard).finish_non_exhaustive()
    }
}

impl Connection {
    fn explain(&self, error: io::Error) -> io::Error {
        if self.is_heard { foreign(error) } else { explain(error) }
    }

    /// A member that refuses ends the connection, which can show in a write before the reason is read.
    fn explain_write(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Error {
        if !self.is_heard {
            let mut scratch = [0; 64];
            let mut buffer = ReadBuf::new(&mut scratch);
            if let Poll::Ready(Err(reason)) = Pin::new(&mut self.tls).poll_read(cx, &mut buffer)
                && refusal(&reason).is_some()
            {
                return explain(reason);
            }
            // It is torn down now; what was read would have been of no use to anybody.
            self.is_heard |= !buffer.filled().is_empty();
        }
        foreign(error)
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
        polled.map_err(|error| self.explain(error))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tls).poll_write(cx, bytes);
        polled.map_err(|error| self.explain_write(cx, error))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tls).poll_write_vectored(cx, bytes);
        polled.map_err(|error| self.explain_write(cx, error))
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.tls).poll_flush(cx);
        polled.map_err(|error| self.explain_write(cx, error))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx).map_err(foreign)
    }
}

/// Marks the error of a handshake if it is the refusal of the client's certificate.
fn explain(error: io::Error) -> io::Error {
    match refusal(&error) {
        Some(alert) => status::certificate_refused(format!("{alert:?}")),
        None => foreign(error),
    }
}

/// Any other error, which must not look like a refusal.
fn foreign(error: io::Error) -> io::Error {
    if status::is_certificate_refused(&error) { io::Error::other(error) } else { error }
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
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
    .then_some(*alert)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_alerts_about_certificates_are_refusals() {
        let alert = |alert| io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert));
        let refused = explain(alert(AlertDescription::CertificateRequired));
        assert!(status::is_certificate_refused(&refused), "{refused}");
        assert!(refused.to_string().ends_with("alert=CertificateRequired"), "{refused}");
        let others = [
            alert(AlertDescription::InternalError),
            io::ErrorKind::ConnectionReset.into(),
            io::ErrorKind::PermissionDenied.into(),
        ];
        for other in others {
            assert!(!status::is_certificate_refused(&explain(other)));
        }
    }
}
