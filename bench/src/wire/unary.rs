//! Unary calls, and nothing else, on HTTP/2 of our own.
//!
//! The load shares the machine with the servers, and a general HTTP/2 client takes as long for a
//! call as our server takes to answer it: such a load measures itself. What a unary call needs is
//! little: all requests of a connection have the same headers, which are sent once and then named
//! by seven bytes of HPACK's dynamic table (RFC 7541, 6.1); one write carries the requests of all
//! slots that are ready, one read the answers that have come; an answer is used where it lies in
//! the buffer.
//!
//! Straight path: [`UnaryChannel::call`] adds a request to what is to be written and wakes the
//! pump, a task → the pump writes, reads and sorts frames (RFC 9113) to their calls → the call
//! that is complete is woken.
//!
//! Refuses: other methods than the one it was made for, streams, pushes, TLS.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::{CallError, FRAME_HEADER_BYTES, dial, message_bytes};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
/// Frames above it are refused; it is what HTTP/2 begins with, and we never ask for more.
const FRAME_MAX: usize = 16_384;
const READ_BYTES: usize = 128 << 10;
const WINDOW_MAX: u32 = (1 << 31) - 1;
const WINDOW_AT_FIRST: i64 = 65_535;
/// What the other side may keep of headers, at first; ours fit into it.
const TABLE_BYTES: u64 = 4096;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// One connection for calls of one method; clones share it. It lives until the last clone is gone.
#[derive(Debug, Clone)]
pub struct UnaryChannel {
    shared: Arc<Shared>,
    /// Tells the pump by its end that nobody will call any more.
    _held: Arc<Held>,
}

#[derive(Debug)]
struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().fail("nobody calls any more");
    }
}

#[derive(Debug)]
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State {
    /// What is to be written.
    out: BytesMut,
    calls: HashMap<u32, Call>,
    /// Requests whose bytes did not fit into a window, in the order of their streams.
    unsent: VecDeque<Unsent>,
    next_stream: u32,
    /// The block of headers of the first request; the other side remembers its fields.
    first_block: Option<Vec<u8>>,
    /// What may be sent on the connection.
    window: i64,
    /// What may be sent on a new stream.
    stream_window: i64,
    frame_max: usize,
    pump: Option<Waker>,
    /// Why nothing can be sent any more.
    broken: Option<String>,
}

#[derive(Debug, Default)]
struct Call {
    waker: Option<Waker>,
    answer: Answer,
    /// Set when the call is over.
    outcome: Option<Result<(), CallError>>,
}

/// The bytes of an answer, in place while they are one piece.
#[derive(Debug, Default)]
enum Answer {
    #[default]
    Nothing,
    Whole(Bytes),
    Joined(BytesMut),
}

#[derive(Debug)]
struct Unsent {
    stream: u32,
    body: Bytes,
    window: i64,
}

impl UnaryChannel {
    /// Connects to `host:port` for calls of the method with this path.
    pub async fn connect(endpoint: &str, path: &str) -> Result<Self, CallError> {
        let socket = dial(endpoint).await?;
        let mut out = BytesMut::from(PREFACE);
        // No pushes; a stream's window as large as the connection's, so that only that is kept.
        head(&mut out, 12, SETTINGS, 0, 0);
        for (name, value) in [(2u16, 0u32), (4, WINDOW_MAX)] {
            out.put_u16(name);
            out.put_u32(value);
        }
        let more = WINDOW_MAX - WINDOW_AT_FIRST as u32;
        window_update(&mut out, more);
        let state = State {
            out,
            calls: HashMap::new(),
            unsent: VecDeque::new(),
            next_stream: 1,
            first_block: Some(first_block(path, endpoint)),
            window: WINDOW_AT_FIRST,
            stream_window: WINDOW_AT_FIRST,
            frame_max: FRAME_MAX,
            pump: None,
            broken: None,
        };
        let shared = Arc::new(Shared(Mutex::new(state)));
        tokio::spawn(Pump::new(socket, Arc::clone(&shared)).run());
        Ok(Self { _held: Arc::new(Held(Arc::clone(&shared))), shared })
    }

    /// Sends one framed message and returns the one message of the answer, without its frame.
    /// Dropping the future gives the call up.
    pub async fn call(&self, framed: Bytes) -> Result<Bytes, CallError> {
        let stream = self.shared.lock().open(framed)?;
        let waiting = Waiting { shared: &self.shared, stream };
        let mut answer = poll_fn(|context| waiting.poll(context)).await?;
        if answer.len() < FRAME_HEADER_BYTES || answer.len() != message_bytes(&answer) {
            return Err(CallError::Answer(format!("not one whole message body_bytes={}", answer.len())));
        }
        if answer[0] != 0 {
            return Err(CallError::Answer("message is compressed".into()));
        }
        answer.advance(FRAME_HEADER_BYTES);
        Ok(answer)
    }
}

struct Waiting<'a> {
    shared: &'a Shared,
    stream: u32,
}

impl Waiting<'_> {
    fn poll(&self, context: &mut Context<'_>) -> Poll<Result<Bytes, CallError>> {
        let mut state = self.shared.lock();
        let call = state.calls.get_mut(&self.stream).expect("it goes with us");
        match call.outcome.take() {
            Some(Ok(())) => Poll::Ready(Ok(match std::mem::take(&mut call.answer) {
                Answer::Nothing => Bytes::new(),
                Answer::Whole(bytes) => bytes,
                Answer::Joined(bytes) => bytes.freeze(),
            })),
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => {
                if !call.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    call.waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.lock().calls.remove(&self.stream);
    }
}

impl State {
    fn open(&mut self, body: Bytes) -> Result<u32, CallError> {
        if let Some(reason) = &self.broken {
            return Err(CallError::Transport(reason.clone()));
        }
        let stream = self.next_stream;
        if stream > WINDOW_MAX {
            return Err(CallError::Transport("all streams of the connection are used up".into()));
        }
        self.next_stream += 2;
        match self.first_block.take() {
            Some(block) => {
                head(&mut self.out, block.len(), HEADERS, END_HEADERS, stream);
                self.out.put_slice(&block);
            }
            None => {
                head(&mut self.out, LATER_BLOCK.len(), HEADERS, END_HEADERS, stream);
                self.out.put_slice(&LATER_BLOCK);
            }
        }
        self.calls.insert(stream, Call::default());
        self.unsent.push_back(Unsent { stream, body, window: self.stream_window });
        self.send();
        if let Some(pump) = self.pump.take() {
            pump.wake();
        }
        Ok(stream)
    }

    /// Moves what the windows allow to the output. A stream whose own window is used up does not
    /// hold up those behind it.
    fn send(&mut self) {
        let mut at = 0;
        while at < self.unsent.len() && self.window > 0 {
            let unsent = &mut self.unsent[at];
            let room = self.window.min(unsent.window).max(0).unsigned_abs() as usize;
            let part = unsent.body.len().min(room).min(self.frame_max);
            if part == 0 && !unsent.body.is_empty() {
                at += 1;
                continue;
            }
            let bytes = unsent.body.split_to(part);
            unsent.window -= part as i64;
            self.window -= part as i64;
            let whole = unsent.body.is_empty();
            head(&mut self.out, part, DATA, if whole { END_STREAM } else { 0 }, unsent.stream);
            self.out.put_slice(&bytes);
            if whole {
                self.unsent.remove(at);
            }
        }
    }

    /// The call is over.
    fn end(&mut self, stream: u32, outcome: Result<(), CallError>) {
        // Nobody waits for calls that were given up.
        let Some(call) = self.calls.get_mut(&stream) else { return };
        if call.outcome.is_none() {
            call.outcome = Some(outcome);
            if let Some(waker) = call.waker.take() {
                waker.wake();
            }
        }
    }

    /// The connection is of no further use.
    fn fail(&mut self, reason: &str) {
        if self.broken.is_none() {
            self.broken = Some(reason.to_owned());
        }
        let streams: Vec<u32> = self.calls.keys().copied().collect();
        for stream in streams {
            self.end(stream, Err(CallError::Transport(reason.to_owned())));
        }
        if let Some(pump) = self.pump.take() {
            pump.wake();
        }
    }
}

/// Every request after the first: `POST`, `http` and the five fields of the first request, which
/// the other side counts from its newest.
const LATER_BLOCK: [u8; 7] = [0x83, 0x86, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];

/// The first request's headers; all but the method and the scheme are to be remembered.
fn first_block(path: &str, authority: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut field = |name: Result<u8, &str>, value: &str| {
        match name {
            Ok(index) => block.push(0x40 | index),
            Err(name) => {
                block.push(0x40);
                text(&mut block, name);
            }
        }
        text(&mut block, value);
    };
    field(Ok(4), path);
    field(Ok(1), authority);
    field(Err("te"), "trailers");
    field(Ok(31), "application/grpc");
    field(Ok(58), "folkmoot-bench");
    block
}

/// A string without Huffman coding.
fn text(block: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
    block.push(length.expect("paths and endpoints are shorter than 127 bytes"));
    block.extend_from_slice(text.as_bytes());
}

fn head(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    out.put_uint(length as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
}

fn window_update(out: &mut BytesMut, more: u32) {
    head(out, 4, WINDOW_UPDATE, 0, 0);
    out.put_u32(more);
}

/// Moves bytes between the socket and the calls.
struct Pump {
    socket: TcpStream,
    shared: Arc<Shared>,
    inbound: BytesMut,
    /// What is being written.
    outbound: BytesMut,
    headers: loona_hpack::Decoder<'static>,
    /// A block of headers that has not ended: its stream, whether that ends with it, its bytes.
    block: Option<(u32, bool, BytesMut)>,
    /// What was received since the other side was last told that it may send more.
    consumed: u32,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    body: Bytes,
}

impl Pump {
    fn new(socket: TcpStream, shared: Arc<Shared>) -> Self {
        let (inbound, outbound) = (BytesMut::with_capacity(READ_BYTES), BytesMut::new());
        let headers = loona_hpack::Decoder::new();
        Self { socket, shared, inbound, outbound, headers, block: None, consumed: 0 }
    }

    async fn run(mut self) {
        let reason = poll_fn(|context| self.poll(context)).await;
        self.shared.lock().fail(&reason);
    }

    /// Ready with the reason why the connection is of no further use.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<String> {
        loop {
            self.inbound.reserve(READ_BYTES / 4);
            match poll_read_buf(Pin::new(&mut self.socket), context, &mut self.inbound) {
                Poll::Ready(Ok(0)) => return Poll::Ready("the server hung up".into()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
                Poll::Pending => break,
            }
            while let Some(frame) = self.next_frame() {
                if let Err(reason) = frame.and_then(|frame| self.take(frame)) {
                    return Poll::Ready(reason);
                }
            }
        }
        loop {
            if self.outbound.is_empty() {
                let mut state = self.shared.lock();
                if let Some(reason) = &state.broken {
                    return Poll::Ready(reason.clone());
                }
                std::mem::swap(&mut self.outbound, &mut state.out);
                if self.outbound.is_empty() {
                    state.pump = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
            match Pin::new(&mut self.socket).poll_write(context, &self.outbound) {
                Poll::Ready(Ok(count)) => self.outbound.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
                Poll::Pending => return Poll::Pending,
            }
            if self.outbound.is_empty() {
                // The allocation serves again.
                self.outbound.clear();
            }
        }
    }

    fn next_frame(&mut self) -> Option<Result<Frame, String>> {
        let [a, b, c, kind, flags, d, e, f, g] = *self.inbound.first_chunk::<HEAD_BYTES>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > FRAME_MAX {
            return Some(Err(format!("the server sent a frame of {length} bytes")));
        }
        if self.inbound.len() < HEAD_BYTES + length {
            return None;
        }
        self.inbound.advance(HEAD_BYTES);
        let body = self.inbound.split_to(length).freeze();
        let stream = u32::from_be_bytes([d, e, f, g]) & WINDOW_MAX;
        Some(Ok(Frame { kind, flags, stream, body }))
    }

    fn take(&mut self, mut frame: Frame) -> Result<(), String> {
        if self.block.is_some() && frame.kind != CONTINUATION {
            return Err("the server did not finish its headers".into());
        }
        match frame.kind {
            DATA => {
                self.count(frame.body.len());
                if frame.flags & PADDED != 0 {
                    unpad(&mut frame.body)?;
                }
                self.data(frame.stream, frame.body);
                if frame.flags & END_STREAM != 0 {
                    // gRPC ends with trailers.
                    let error = CallError::Answer("the server sent no status".into());
                    self.shared.lock().end(frame.stream, Err(error));
                }
                Ok(())
            }
            HEADERS => {
                if frame.flags & PADDED != 0 {
                    unpad(&mut frame.body)?;
                }
                if frame.flags & PRIORITY != 0 {
                    skip(&mut frame.body, 5)?;
                }
                let ends = frame.flags & END_STREAM != 0;
                if frame.flags & END_HEADERS != 0 {
                    return self.headers(frame.stream, ends, &frame.body);
                }
                self.block = Some((frame.stream, ends, BytesMut::from(&frame.body[..])));
                Ok(())
            }
            CONTINUATION => {
                let Some((stream, ends, mut block)) = self.block.take() else {
                    return Err("the server continued headers that it had not begun".into());
                };
                block.extend_from_slice(&frame.body);
                if frame.flags & END_HEADERS != 0 {
                    return self.headers(stream, ends, &block);
                }
                self.block = Some((stream, ends, block));
                Ok(())
            }
            RST_STREAM => {
                let error =
                    CallError::Transport(format!("the server reset the stream code={}", number(&frame.body)));
                self.shared.lock().end(frame.stream, Err(error));
                Ok(())
            }
            SETTINGS if frame.flags & ACK == 0 => self.settings(&frame.body),
            PUSH_PROMISE => Err("the server pushed".into()),
            PING if frame.flags & ACK == 0 => {
                let mut state = self.shared.lock();
                head(&mut state.out, frame.body.len(), PING, ACK, 0);
                state.out.put_slice(&frame.body);
                Ok(())
            }
            GOAWAY => Err(format!("the server closes the connection {:?}", frame.body)),
            WINDOW_UPDATE => {
                let mut state = self.shared.lock();
                let more = i64::from(number(&frame.body));
                match frame.stream {
                    0 => state.window += more,
                    stream => {
                        if let Some(unsent) = state.unsent.iter_mut().find(|unsent| unsent.stream == stream) {
                            unsent.window += more;
                        }
                    }
                }
                state.send();
                Ok(())
            }
            // RFC 9113, 5.5: frames of unknown kinds are passed over.
            _ => Ok(()),
        }
    }

    /// Lets the other side send more before it has to stop.
    fn count(&mut self, received: usize) {
        self.consumed += received as u32;
        if self.consumed > WINDOW_MAX / 4 {
            window_update(&mut self.shared.lock().out, self.consumed);
            self.consumed = 0;
        }
    }

    fn data(&mut self, stream: u32, body: Bytes) {
        let mut state = self.shared.lock();
        let Some(call) = state.calls.get_mut(&stream) else { return };
        call.answer = match std::mem::take(&mut call.answer) {
            Answer::Nothing => Answer::Whole(body),
            Answer::Whole(first) => {
                let mut joined = BytesMut::with_capacity(message_bytes(&first).max(first.len() + body.len()));
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&body);
                Answer::Joined(joined)
            }
            Answer::Joined(mut joined) => {
                joined.extend_from_slice(&body);
                Answer::Joined(joined)
            }
        };
    }

    fn headers(&mut self, stream: u32, ends: bool, block: &[u8]) -> Result<(), String> {
        let mut grpc_status = None;
        let mut refused = None;
        let mut message = String::new();
        // Every block must be read: those after it name what it says.
        let read = self.headers.decode_with_cb(block, |name, value| match &*name {
            b"grpc-status" => grpc_status = Some(String::from_utf8_lossy(&value).parse().unwrap_or(2)),
            b"grpc-message" => message = String::from_utf8_lossy(&value).into_owned(),
            b":status" if *value != b"200"[..] => {
                refused = Some(String::from_utf8_lossy(&value).into_owned())
            }
            _ => {}
        });
        read.map_err(|error| format!("the server's headers cannot be read: {error:?}"))?;
        let outcome = match (refused, grpc_status) {
            (Some(status), _) => Err(CallError::Answer(format!("not a grpc answer http_status={status}"))),
            (None, Some(0)) => Ok(()),
            (None, Some(code)) => Err(CallError::Status { code, message }),
            (None, None) if ends => Err(CallError::Answer("the server sent no status".into())),
            (None, None) => return Ok(()),
        };
        if ends || outcome.is_err() {
            self.shared.lock().end(stream, outcome);
        }
        Ok(())
    }

    fn settings(&mut self, mut body: &[u8]) -> Result<(), String> {
        let mut state = self.shared.lock();
        while body.len() >= 6 {
            let (name, value) = (body.get_u16(), body.get_u32());
            match name {
                // What our headers take is far below it, but must be remembered as a whole.
                1 if u64::from(value) < TABLE_BYTES => {
                    return Err(format!("the server remembers only {value} bytes of headers"));
                }
                4 => {
                    let more = i64::from(value) - state.stream_window;
                    state.stream_window += more;
                    for unsent in &mut state.unsent {
                        unsent.window += more;
                    }
                }
                5 => state.frame_max = value as usize,
                _ => {}
            }
        }
        head(&mut state.out, 0, SETTINGS, ACK, 0);
        state.send();
        Ok(())
    }
}

fn number(body: &[u8]) -> u32 {
    body.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes) & WINDOW_MAX)
}

fn skip(body: &mut Bytes, count: usize) -> Result<(), String> {
    if body.len() < count {
        return Err("the server sent a frame that is too short".into());
    }
    body.advance(count);
    Ok(())
}

fn unpad(body: &mut Bytes) -> Result<(), String> {
    let padding = usize::from(*body.first().ok_or("the server sent a frame that is too short")?);
    body.advance(1);
    let kept = body.len().checked_sub(padding).ok_or("the server sent a frame that is too short")?;
    body.truncate(kept);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::super::frame;
    use super::super::test_server::{self, Manner};
    use super::*;

    async fn connect(manner: Manner) -> UnaryChannel {
        UnaryChannel::connect(&test_server::start_with(manner).await, "/a.B/C").await.unwrap()
    }

    #[tokio::test]
    async fn many_calls_at_once_get_their_own_answers() {
        let channel = connect(Manner::Echo).await;
        for round in 0..20 {
            let calls = (0..50).map(|call| {
                let channel = channel.clone();
                let request = frame(&format!("{round} {call}"));
                tokio::spawn(async move { (request.clone(), channel.call(request).await) })
            });
            for call in calls.collect::<Vec<_>>() {
                let (request, answer) = call.await.unwrap();
                assert_eq!(answer.unwrap(), request.slice(FRAME_HEADER_BYTES..));
            }
        }
    }

    #[tokio::test]
    async fn a_message_larger_than_every_window_arrives_and_comes_back_whole() {
        let channel = connect(Manner::Echo).await;
        let request = frame(&"x".repeat(3 << 20));
        let small = frame(&"y".to_owned());
        let (large_answer, small_answer) =
            tokio::join!(channel.call(request.clone()), channel.call(small.clone()));
        assert_eq!(large_answer.unwrap(), request.slice(FRAME_HEADER_BYTES..));
        assert_eq!(small_answer.unwrap(), small.slice(FRAME_HEADER_BYTES..));
    }

    #[tokio::test]
    async fn an_answer_in_crumbs_is_joined() {
        let request = frame(&"hello".to_owned());
        let answer = connect(Manner::Crumbs).await.call(request.clone()).await.unwrap();
        assert_eq!(answer, request.slice(FRAME_HEADER_BYTES..));
    }

    #[tokio::test]
    async fn a_refusal_is_a_status_and_the_connection_lives_on() {
        let channel = connect(Manner::Refuse).await;
        for _ in 0..2 {
            let error = channel.call(frame(&"hello".to_owned())).await.unwrap_err();
            assert_eq!(error.to_string(), "server refused: not today code=14");
        }
    }

    #[tokio::test]
    async fn a_broken_connection_ends_calls_that_wait_and_those_after_them() {
        let channel = connect(Manner::HangUpAfter(1)).await;
        channel.call(frame(&"one".to_owned())).await.unwrap();
        for text in ["two", "three"] {
            let error = channel.call(frame(&text.to_owned())).await.unwrap_err();
            assert!(error.is_transport(), "{error}");
        }
    }

    #[tokio::test]
    async fn a_call_that_was_given_up_disturbs_no_other() {
        let channel = connect(Manner::Echo).await;
        for _ in 0..50 {
            let request = frame(&"given up".to_owned());
            let mut call = Box::pin(channel.call(request));
            let once =
                poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context).is_ready())).await;
            assert!(!once);
            drop(call);
            let request = frame(&"hello".to_owned());
            assert_eq!(channel.call(request.clone()).await.unwrap(), request.slice(FRAME_HEADER_BYTES..));
        }
        assert!(channel.shared.lock().calls.is_empty());
    }

    #[tokio::test]
    async fn something_that_does_not_speak_http2_is_a_transport_failure() {
        for words in ["HTTP/1.1 400 Bad Request\r\n\r\n", "\0\0\0\x09\x04\0\0\0\x01", ""] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = listener.local_addr().unwrap().to_string();
            tokio::spawn(async move {
                let (mut socket, _) = listener.accept().await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut socket, words.as_bytes()).await.unwrap();
            });
            let channel = UnaryChannel::connect(&endpoint, "/a.B/C").await.unwrap();
            let error = channel.call(frame(&"hello".to_owned())).await.unwrap_err();
            assert!(error.is_transport(), "{words:?}: {error}");
        }
    }
}
