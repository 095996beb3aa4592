//! The body of a response.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use tonic::Status;

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
    /// The same for a client that wants no answers from a member without a leader.
    NeedsLeader(Box<NeedsLeader>),
}

/// A response that ends with an error as soon as the leader is lost.
pub struct NeedsLeader {
    body: tonic::body::Body,
    lost: Pin<Box<dyn Future<Output = Status> + Send>>,
}

impl ResponseBody {
    /// `body`, ended with the status of `lost` when that comes first.
    pub fn until(body: tonic::body::Body, lost: impl Future<Output = Status> + Send + 'static) -> Self {
        Self::NeedsLeader(Box::new(NeedsLeader { body, lost: Box::pin(lost) }))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Tonic(body) => return Pin::new(body).poll_frame(cx),
            Self::NeedsLeader(guarded) => {
                let Poll::Ready(status) = guarded.lost.as_mut().poll(cx) else {
                    return Pin::new(&mut guarded.body).poll_frame(cx);
                };
                *self = Self::End;
                let mut trailers = HeaderMap::new();
                return Poll::Ready(Some(
                    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)),
                ));
            }
            _ => {}
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
            Self::Plain(_) | Self::End | Self::Tonic(_) | Self::NeedsLeader(_) => None,
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(_) | Self::OkTrailer => false,
            Self::End => true,
            Self::Plain(bytes) => bytes.is_empty(),
            Self::Tonic(body) => body.is_end_stream(),
            Self::NeedsLeader(guarded) => guarded.body.is_end_stream(),
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(body: &mut ResponseBody) -> Option<Frame<Bytes>> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        frame.map(|frame| frame.expect("no error"))
    }

    #[tokio::test]
    async fn a_message_is_followed_by_the_trailer_that_says_ok() {
        let mut body = ResponseBody::Message(Bytes::from_static(b"m"));
        assert_eq!(next(&mut body).await.unwrap().into_data().unwrap(), "m");
        let trailers = next(&mut body).await.unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn a_stream_that_needs_a_leader_ends_when_it_is_lost() {
        let (lose, lost) = tokio::sync::oneshot::channel::<()>();
        let lost = async {
            lost.await.expect("is lost");
            Status::unavailable("etcdserver: no leader")
        };
        let mut body = ResponseBody::until(tonic::body::Body::new(Silent), lost);
        let waits =
            std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending())).await;
        assert!(waits);
        lose.send(()).unwrap();
        let trailers = next(&mut body).await.unwrap().into_trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"14".parse().unwrap(), &"etcdserver:%20no%20leader".parse().unwrap())
        );
        assert!(next(&mut body).await.is_none());
    }

    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }
}
