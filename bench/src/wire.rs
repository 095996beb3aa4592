//! gRPC calls on plain `h2`, with the request bytes made by the caller.
//!
//! The load generator shares the machine with the server it measures, so every microsecond it
//! spends on a call is taken from the server. This room therefore sends ready-made bytes and
//! leaves out what a general gRPC client needs: name resolution, balancing, interceptors,
//! compression, deadlines on the wire and reconnects. On the wire it is ordinary gRPC over
//! HTTP/2: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
//!
//! The bulk of the load, unary calls, leaves out even more: see [`UnaryChannel`].
//!
//! It refuses TLS and compressed messages.

mod unary;

pub use unary::UnaryChannel;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes before each gRPC message: one compression flag and a big-endian length.
pub const FRAME_HEADER_BYTES: usize = 5;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a call gave no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The connection or stream broke; nothing more can be sent on it.
    #[error("transport failed: {0}")]
    Transport(String),
    /// The server answered with a gRPC status other than OK.
    #[error("server refused: {message} code={code}")]
    Status {
        /// Numeric gRPC code.
        code: u32,
        /// The server's text, as sent (percent-encoded).
        message: String,
    },
    /// The server said OK, but the answer is not what the workload must get.
    #[error("wrong answer: {0}")]
    Answer(String),
}

impl CallError {
    /// Whether the connection is of no further use.
    pub fn is_transport(&self) -> bool {
        matches!(self, CallError::Transport(_))
    }
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        CallError::Transport(error.to_string())
    }
}

impl From<prost::DecodeError> for CallError {
    fn from(error: prost::DecodeError) -> Self {
        CallError::Answer(error.to_string())
    }
}

/// A socket to which h2 writes many small requests at once. To one that takes several buffers in a
/// write it would write every request of 256 bytes or more by itself, at the price of a system call
/// for us and of a packet for the server.
#[derive(Debug)]
struct Gathered(TcpStream);

impl AsyncRead for Gathered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// One gRPC method: the headers that every call of it carries, whatever member it goes to.
#[derive(Debug, Clone)]
pub struct Method {
    path: PathAndQuery,
    headers: HeaderMap,
}

impl Method {
    /// `path` is `/package.Service/Method`.
    pub fn new(path: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("user-agent", HeaderValue::from_static("folkmoot-bench"));
        Self { path: PathAndQuery::from_static(path), headers }
    }
}

/// One HTTP/2 connection; clones share it.
#[derive(Debug, Clone)]
pub struct Channel {
    send: SendRequest<Bytes>,
    authority: Authority,
}

impl Channel {
    /// Connects to `host:port`. The connection lives until the last clone and call are dropped.
    pub async fn connect(endpoint: &str) -> Result<Self, CallError> {
        let authority = Authority::from_str(endpoint).map_err(|error| failed(endpoint, &error))?;
        let socket = dial(endpoint).await?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .enable_push(false)
            .handshake(Gathered(socket))
            .await?;
        // Ends by itself when the last handle is dropped or the peer hangs up; each call
        // that was open then gets the error, so it is not needed here.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { send, authority })
    }

    async fn open(&mut self, method: &Method) -> Result<(ResponseFuture, SendStream<Bytes>), CallError> {
        poll_fn(|context| self.send.poll_ready(context)).await?;
        let mut target = http::uri::Parts::default();
        target.scheme = Some(Scheme::HTTP);
        target.authority = Some(self.authority.clone());
        target.path_and_query = Some(method.path.clone());
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_parts(target).expect("all parts of the target are there");
        *request.headers_mut() = method.headers.clone();
        Ok(self.send.send_request(request, false)?)
    }

    /// Sends one framed message and returns the one message of the answer, without its frame.
    pub async fn unary(&mut self, method: &Method, framed: Bytes) -> Result<Bytes, CallError> {
        let (response, mut outgoing) = self.open(method).await?;
        outgoing.send_data(framed, true)?;
        let (head, mut body) = response.await?.into_parts();
        check_head(&head.status, &head.headers)?;
        let mut answer = next_chunk(&mut body).await?.unwrap_or_default();
        // Nearly every answer is one DATA frame and is used in place; only lists are joined.
        if let Some(second) = next_chunk(&mut body).await? {
            let mut joined = BytesMut::with_capacity(message_bytes(&answer).max(answer.len()));
            joined.extend_from_slice(&answer);
            joined.extend_from_slice(&second);
            while let Some(chunk) = next_chunk(&mut body).await? {
                joined.extend_from_slice(&chunk);
            }
            answer = joined.freeze();
        }
        if let Some(trailers) = body.trailers().await? {
            check_status(&trailers)?;
        }
        if answer.len() < FRAME_HEADER_BYTES || answer.len() != message_bytes(&answer) {
            return Err(CallError::Answer(format!("not one whole message body_bytes={}", answer.len())));
        }
        if answer[0] != 0 {
            return Err(CallError::Answer("message is compressed".into()));
        }
        answer.advance(FRAME_HEADER_BYTES);
        Ok(answer)
    }

    /// Opens a stream in both directions.
    pub async fn stream(&mut self, method: &Method) -> Result<(Outgoing, Incoming), CallError> {
        let (response, send) = self.open(method).await?;
        let incoming = Incoming { head: Some(response), body: None, buffer: BytesMut::new() };
        Ok((Outgoing { send }, incoming))
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct Outgoing {
    send: SendStream<Bytes>,
}

impl Outgoing {
    /// Queues one framed message. The caller bounds how many are unanswered.
    pub fn send(&mut self, framed: Bytes) -> Result<(), CallError> {
        Ok(self.send.send_data(framed, false)?)
    }

    /// Says that nothing more will be sent.
    pub fn close(&mut self) -> Result<(), CallError> {
        Ok(self.send.send_data(Bytes::new(), true)?)
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Incoming {
    /// Taken with the first message: a server may hold the response's head back until then.
    head: Option<ResponseFuture>,
    body: Option<RecvStream>,
    buffer: BytesMut,
}

impl Incoming {
    /// The next message without its frame; `None` when the server ended the stream with OK.
    ///
    /// Not cancel-safe before the first message.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        if let Some(head) = self.head.take() {
            let (head, body) = head.await?.into_parts();
            check_head(&head.status, &head.headers)?;
            self.body = Some(body);
        }
        let Some(body) = self.body.as_mut() else {
            return Err(CallError::Transport("stream has already failed".into()));
        };
        loop {
            if self.buffer.len() >= FRAME_HEADER_BYTES {
                let whole = message_bytes(&self.buffer);
                if self.buffer.len() >= whole {
                    let mut message = self.buffer.split_to(whole).freeze();
                    if message[0] != 0 {
                        return Err(CallError::Answer("message is compressed".into()));
                    }
                    message.advance(FRAME_HEADER_BYTES);
                    return Ok(Some(message));
                }
            }
            match next_chunk(body).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => {
                    if let Some(trailers) = body.trailers().await? {
                        check_status(&trailers)?;
                    }
                    return Ok(None);
                }
            }
        }
    }
}

async fn dial(endpoint: &str) -> Result<TcpStream, CallError> {
    let socket = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint))
        .await
        .map_err(|_| failed(endpoint, &"connecting took too long"))?
        .map_err(|error| failed(endpoint, &error))?;
    socket.set_nodelay(true).map_err(|error| failed(endpoint, &error))?;
    Ok(socket)
}

fn failed(endpoint: &str, why: &dyn std::fmt::Display) -> CallError {
    CallError::Transport(format!("{why} endpoint={endpoint}"))
}

async fn next_chunk(body: &mut RecvStream) -> Result<Option<Bytes>, CallError> {
    match body.data().await {
        None => Ok(None),
        Some(chunk) => {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            Ok(Some(chunk))
        }
    }
}

/// Length of the framed message that starts here; only meaningful with a whole frame header.
fn message_bytes(framed: &[u8]) -> usize {
    match framed {
        [_, a, b, c, d, ..] => FRAME_HEADER_BYTES + u32::from_be_bytes([*a, *b, *c, *d]) as usize,
        _ => 0,
    }
}

fn check_head(status: &http::StatusCode, headers: &HeaderMap) -> Result<(), CallError> {
    if *status != http::StatusCode::OK {
        return Err(CallError::Answer(format!("not a grpc answer http_status={status}")));
    }
    check_status(headers)
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => Err(CallError::Status {
            code: code.parse().unwrap_or(2),
            message: text("grpc-message").unwrap_or_default().to_owned(),
        }),
    }
}

/// Puts the gRPC frame header before an encoded message.
pub fn frame(message: &impl prost::Message) -> Bytes {
    let message_bytes = message.encoded_len();
    let mut framed = BytesMut::with_capacity(FRAME_HEADER_BYTES + message_bytes);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message_bytes).expect("the bench sends no message of 4 GiB"));
    message.encode(&mut framed).expect("the buffer grows with the message");
    framed.freeze()
}

#[cfg(test)]
pub mod test_server {
    //! A gRPC server that answers as a test wants; it ends with the test's runtime.

    use super::*;

    /// How calls are answered.
    #[derive(Debug, Clone, Copy)]
    pub enum Manner {
        /// With a message equal to the request, status in the trailers.
        Echo,
        /// As `Echo`, cut into DATA frames of one byte.
        Crumbs,
        /// With an error instead of a message.
        Refuse,
        /// As `Echo`, so many times; then the connection breaks.
        HangUpAfter(usize),
    }

    /// Starts an echo server and returns its endpoint.
    pub async fn start() -> String {
        start_with(Manner::Echo).await
    }

    /// Starts a server of this manner and returns its endpoint.
    pub async fn start_with(manner: Manner) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, manner));
            }
        });
        endpoint
    }

    async fn serve(socket: TcpStream, manner: Manner) {
        socket.set_nodelay(true).unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let mut answered = 0;
        while let Some(Ok((request, respond))) = connection.accept().await {
            if matches!(manner, Manner::HangUpAfter(count) if count == answered) {
                return;
            }
            answered += 1;
            tokio::spawn(answer(request.into_body(), respond, manner));
        }
    }

    /// Echoes chunk by chunk, so that it serves unary calls and streams alike.
    async fn answer(
        mut body: RecvStream,
        mut respond: h2::server::SendResponse<Bytes>,
        manner: Manner,
    ) -> Option<()> {
        if let Manner::Refuse = manner {
            let response = http::Response::builder()
                .header("grpc-status", "14")
                .header("grpc-message", "not today")
                .body(())
                .unwrap();
            respond.send_response(response, true).ok()?;
            return Some(());
        }
        let mut send = respond.send_response(http::Response::new(()), false).ok()?;
        while let Some(chunk) = next_chunk(&mut body).await.ok()? {
            match manner {
                Manner::Crumbs => {
                    for at in 0..chunk.len() {
                        send.send_data(chunk.slice(at..=at), false).ok()?;
                    }
                }
                _ => send.send_data(chunk, false).ok()?,
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        send.send_trailers(trailers).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_carries_the_length_of_its_message() {
        let framed = frame(&"hello".to_owned());
        assert_eq!(framed.len(), message_bytes(&framed));
        assert_eq!(framed[0], 0);
        assert_eq!(framed.len(), FRAME_HEADER_BYTES + 7);
    }

    #[test]
    fn a_status_other_than_zero_is_an_error_with_its_code_and_text() {
        let mut headers = HeaderMap::new();
        assert!(check_status(&headers).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("8"));
        headers.insert("grpc-message", HeaderValue::from_static("too many requests"));
        let error = check_status(&headers).unwrap_err();
        assert_eq!(error.to_string(), "server refused: too many requests code=8");
        assert!(!error.is_transport());
    }

    async fn call(manner: test_server::Manner) -> Result<Bytes, CallError> {
        let endpoint = test_server::start_with(manner).await;
        let method = Method::new("/a.B/C");
        let mut channel = Channel::connect(&endpoint).await?;
        channel.unary(&method, frame(&"hello".to_owned())).await
    }

    #[tokio::test]
    async fn an_answer_is_the_message_without_its_frame() {
        let expected = frame(&"hello".to_owned()).slice(FRAME_HEADER_BYTES..);
        assert_eq!(call(test_server::Manner::Echo).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn an_answer_in_many_pieces_is_put_together() {
        let expected = frame(&"hello".to_owned()).slice(FRAME_HEADER_BYTES..);
        assert_eq!(call(test_server::Manner::Crumbs).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_refusal_without_a_body_is_a_status() {
        let error = call(test_server::Manner::Refuse).await.unwrap_err();
        assert_eq!(error.to_string(), "server refused: not today code=14");
    }

    #[tokio::test]
    async fn a_broken_connection_is_a_transport_failure() {
        let error = call(test_server::Manner::HangUpAfter(0)).await.unwrap_err();
        assert!(error.is_transport(), "{error}");
    }

    #[tokio::test]
    async fn a_stream_gives_its_messages_one_by_one_and_then_its_end() {
        let endpoint = test_server::start_with(test_server::Manner::Crumbs).await;
        let method = Method::new("/a.B/C");
        let mut channel = Channel::connect(&endpoint).await.unwrap();
        let (mut outgoing, mut incoming) = channel.stream(&method).await.unwrap();
        for text in ["one", "two"] {
            outgoing.send(frame(&text.to_owned())).unwrap();
        }
        for text in ["one", "two"] {
            let message = incoming.next().await.unwrap().unwrap();
            assert_eq!(message, frame(&text.to_owned()).slice(FRAME_HEADER_BYTES..));
        }
        outgoing.close().unwrap();
        assert_eq!(incoming.next().await.unwrap(), None);
    }
}
