//! One connection, from accept to close.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::authority::AnyAuthority;
use super::router::Router;

/// Bytes a client may send on one stream before we read them.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same for a whole connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Streams a client may open and reset before we have accepted them (rapid reset, CVE-2023-44487).
const PENDING_RESET_STREAMS_MAX: usize = 1024;

/// How connections are served.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Concurrent calls of one connection; more wait at the client.
    pub max_concurrent_streams: u32,
    /// How often an idle connection is pinged; `None` for never.
    pub keepalive_interval: Option<Duration>,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
}

/// An accepted connection and how to serve it.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// Where its requests go.
    pub router: Router,
    /// How it is served.
    pub options: ServeOptions,
    /// Turns true when the server stops: the connection then takes no new calls.
    pub stopping: watch::Receiver<bool>,
}

impl Connection {
    /// Serves until the client goes, an error ends the connection, or the server stops and the
    /// last call is answered. Errors are the client's own doing and go to the debug log.
    pub async fn run(mut self) {
        if let Err(error) = self.stream.set_nodelay(true) {
            tracing::debug!(%error, "connection ended before it was served");
            return;
        }
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(self.options.max_concurrent_streams)
            .max_pending_accept_reset_streams(PENDING_RESET_STREAMS_MAX)
            .keep_alive_interval(self.options.keepalive_interval)
            .keep_alive_timeout(self.options.keepalive_timeout)
            .auto_date_header(false);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(300));
        let connection = builder.serve_connection(TokioIo::new(AnyAuthority::new(self.stream)), self.router);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut self.stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            let cause = std::error::Error::source(&*error).map(ToString::to_string);
            tracing::debug!(error, cause, "connection ended");
        }
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server is gone altogether.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
