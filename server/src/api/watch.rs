//! The service Watch: one session with the hub for each stream.
//!
//! Events are encoded once for all watchers that get the same ones: a response on the wire is its
//! small own part followed by the shared bytes of its `events` field.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use folkmoot_core::codec;
use folkmoot_core::error::Error;
use folkmoot_core::watch::{CreateRequest, EventSet, WatchFrame};
use folkmoot_proto::etcdserverpb as pb;
use futures_util::{Stream, StreamExt as _};
use pb::watch_request::RequestUnion;
use prost::Message as _;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::server::StreamingService;
use tonic::{Request, Response, Status, Streaming};

use super::header::header;
use super::{status, stream_status};
use crate::node::NodeHandle;
use crate::watch::Session;

/// Field number of `WatchResponse.events`.
const EVENTS_FIELD: u32 = 11;
/// Most streams are quiet: a small buffer for each, that grows when much is to be sent.
const BUFFER_BYTES: usize = 1024;
/// Bytes gathered before they go to the transport.
const YIELD_BYTES: usize = 32 * 1024;
/// Requests taken from one client before others get their turn.
const REQUESTS_PER_TURN: usize = 64;

/// See the module.
#[derive(Clone)]
pub struct Watch {
    node: NodeHandle,
}

impl Watch {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { node }
    }
}

impl StreamingService<pb::WatchRequest> for Watch {
    type Response = Framed;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<Response<Responses>, Status>>;

    fn call(&mut self, request: Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        std::future::ready(Ok(Response::new(Responses {
            session: self.node.watch(),
            node: self.node.clone(),
            requests: Some(request.into_inner()),
            ended: false,
        })))
    }
}

/// A frame and what the hub does not know of its header.
pub struct Framed {
    frame: WatchFrame,
    header: Option<pb::ResponseHeader>,
}

/// The responses of one stream. Reads the client's requests, too, while responses are wanted: a
/// client that asks and never reads is not listened to.
pub struct Responses {
    session: Session,
    node: NodeHandle,
    requests: Option<Streaming<pb::WatchRequest>>,
    ended: bool,
}

impl Responses {
    /// Takes what the client asks. A status ends the stream.
    fn read_requests(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        for _ in 0..REQUESTS_PER_TURN {
            if !self.session.accepts_requests() {
                return Ok(());
            }
            let Some(requests) = &mut self.requests else { return Ok(()) };
            match requests.poll_next_unpin(cx) {
                Poll::Pending => return Ok(()),
                // The client has nothing more to ask, but goes on listening.
                Poll::Ready(None) => self.requests = None,
                Poll::Ready(Some(Err(failure))) => return Err(stream_status(failure)),
                Poll::Ready(Some(Ok(request))) => self.follow(request),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn follow(&self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.session.create(CreateRequest {
                key: create.key,
                range_end: create.range_end,
                start_revision: create.start_revision,
                watch_id: create.watch_id,
                prev_kv: create.prev_kv,
                progress_notify: create.progress_notify,
                fragment: create.fragment,
                filters: create.filters,
            }),
            Some(RequestUnion::CancelRequest(cancel)) => self.session.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.session.progress(),
            None => tracing::debug!("a watch request asks for nothing and is ignored"),
        }
    }
}

impl Stream for Responses {
    type Item = Result<Framed, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Err(status) = self.read_requests(cx) {
            self.ended = true;
            return Poll::Ready(Some(Err(status)));
        }
        match self.session.poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(frame)) => {
                let header = header(&self.node, frame.revision);
                Poll::Ready(Some(Ok(Framed { frame, header })))
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(Some(Err(status(Error::Stopped))))
            }
        }
    }
}

/// Reads requests as usual, and writes responses around their shared events.
#[derive(Clone, Copy, Default)]
pub struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Framed;
    type Decode = pb::WatchRequest;
    type Encoder = FrameEncoder;
    type Decoder = tonic_prost::ProstDecoder<pb::WatchRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}

/// See [`WatchCodec`].
pub struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Framed;
    type Error = Status;

    fn encode(&mut self, item: Framed, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let Framed { frame, header } = item;
        let events = frame.events.as_ref().map(|events| events.encoded(encode_events).clone());
        let own = pb::WatchResponse {
            header,
            watch_id: frame.watch_id,
            created: frame.created,
            canceled: frame.canceled,
            compact_revision: frame.compact_revision,
            cancel_reason: frame.cancel_reason,
            fragment: frame.fragment,
            events: Vec::new(),
        };
        out.reserve(own.encoded_len() + events.as_ref().map_or(0, Bytes::len));
        own.encode(out).map_err(|error| Status::internal(error.to_string()))?;
        if let Some(events) = events {
            out.put_slice(&events);
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

/// The `events` field of a response, tags included, to be put behind the other fields.
fn encode_events(events: &EventSet) -> Bytes {
    let mut buf = BytesMut::with_capacity(events.wire_bytes());
    for (event, prev) in events.iter() {
        prost::encoding::message::encode(
            EVENTS_FIELD,
            &codec::event::event_to_wire(event, prev.cloned()),
            &mut buf,
        );
    }
    buf.freeze()
}
