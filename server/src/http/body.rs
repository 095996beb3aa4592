//! The body of a response.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};

/// The name of the trailer that ends every gRPC call.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What a response carries.
pub enum ResponseBody {
    /// One gRPC message, frame header included, and the trailer that says OK.
    Message(Bytes),
    /// The trailer that says OK, after [`Self::Message`].
    OkTrailer,
    /// Nothing more.
    End,
    /// A plain HTTP body.
    Plain(Bytes),
    /// A call that tonic answers.
    Tonic(tonic::body::Body),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Self::Tonic(body) = &mut *self {
            return Pin::new(body).poll_frame(cx);
        }
        let frame = match std::mem::replace(&mut *self, Self::End) {
            Self::Message(message) => {
                *self = Self::OkTrailer;
                Some(Frame::data(message))
            }
            Self::OkTrailer => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                Some(Frame::trailers(trailers))
            }
            Self::Plain(bytes) if !bytes.is_empty() => Some(Frame::data(bytes)),
            Self::Plain(_) | Self::End | Self::Tonic(_) => None,
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(_) | Self::OkTrailer => false,
            Self::End => true,
            Self::Plain(bytes) => bytes.is_empty(),
            Self::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::End => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}

/// The answer of a service that never fails below HTTP.
pub type Answer = Result<http::Response<ResponseBody>, Infallible>;
