//! What carries the bytes between members: plain TCP. This is the one place that knows so: a TLS
//! layer is put around the streams here, and the rest of the crate does not notice.

use std::io;

use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::url::PeerUrl;

pub(crate) type ReadHalf = OwnedReadHalf;
pub(crate) type WriteHalf = OwnedWriteHalf;

/// Connects to a peer URL. The caller limits the time.
pub(crate) async fn dial(url: &PeerUrl) -> io::Result<(ReadHalf, WriteHalf)> {
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await?;
    wrap(tcp)
}

/// Takes an accepted connection. The caller limits the time.
pub(crate) async fn accepted(tcp: TcpStream) -> io::Result<(ReadHalf, WriteHalf)> {
    wrap(tcp)
}

/// Says `last_words` without waiting for anything, and closes.
pub(crate) fn turn_away(tcp: &TcpStream, last_words: &[u8]) {
    // Whoever is not listening learns it from the closed connection.
    let _ = tcp.try_write(last_words);
}

fn wrap(tcp: TcpStream) -> io::Result<(ReadHalf, WriteHalf)> {
    tcp.set_nodelay(true)?;
    Ok(tcp.into_split())
}
