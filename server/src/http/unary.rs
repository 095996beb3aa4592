//! Unary gRPC calls, read and answered directly.
//!
//! The message comes out of the HTTP/2 frames without a copy when one frame holds it, and stays
//! at hand in its encoded form, so that a command enters the log as it came in.

use bytes::{BufMut, Bytes, BytesMut};
use folkmoot_core::error::Error;
use http::{HeaderValue, Response, header};
use hyper::body::{Body as _, Incoming};
use prost::Message;
use tonic::Status;

use super::body::ResponseBody;

/// Compressed-flag byte and length of a gRPC message (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;

/// A request message in both forms.
pub struct Received<M> {
    /// Decoded.
    pub message: M,
    /// As it came in.
    pub encoded: Bytes,
}

impl<M: Message> Received<M> {
    /// A message that was decoded elsewhere.
    pub fn from_message(message: M) -> Self {
        Self { encoded: message.encode_to_vec().into(), message }
    }
}

/// etcd's answer to a message above the receive limit, in grpc-go's words.
pub fn too_large(length: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({length} vs. {limit})"))
}

/// Reads the one message of a unary call.
///
/// # Errors
/// The statuses grpc-go gives for the same mistakes.
pub async fn receive<M: Message + Default>(body: &mut Incoming, limit: usize) -> Result<Received<M>, Status> {
    let encoded = receive_bytes(body, limit).await?;
    let message = M::decode(encoded.clone()).map_err(|error| undecodable(&error.to_string()))?;
    Ok(Received { message, encoded })
}

/// How the decoder begins what it says.
pub const UNDECODABLE: &str = "failed to decode Protobuf message: ";
/// How the decoder ends what it says about a message that nests too deep.
const TOO_DEEP: &str = "recursion limit reached";

/// The status of a message that cannot be decoded, by what the decoder said about it.
pub fn undecodable(error: &str) -> Status {
    if error.ends_with(TOO_DEEP) {
        // Only transactions nest, and one as deep as this has too many operations.
        return crate::api::status(Error::TooManyOps);
    }
    // The decoder also tells the way through the message, which can be long.
    let reason = error.rsplit(": ").next().unwrap_or(error);
    Status::internal(format!("grpc: error unmarshalling request: {reason}"))
}

/// Buffer for a message that comes in several frames; it grows with what arrives.
const FIRST_BUFFER_BYTES: usize = 64 * 1024;

async fn receive_bytes(body: &mut Incoming, limit: usize) -> Result<Bytes, Status> {
    let Some(mut first) = next_data(body).await? else {
        return Err(Status::internal("grpc: the request carries no message"));
    };
    // A frame may end anywhere, even inside the prefix.
    if first.len() < PREFIX_BYTES {
        let mut gathered = BytesMut::from(&first[..]);
        while gathered.len() < PREFIX_BYTES {
            gathered.extend_from_slice(&next_data(body).await?.ok_or_else(cut_short)?);
        }
        first = gathered.freeze();
    }
    let length = u32::from_be_bytes([first[1], first[2], first[3], first[4]]) as usize;
    match first[0] {
        0 => {}
        1 => {
            return Err(Status::unimplemented(
                "grpc: Decompressor is not installed for the request's encoding",
            ));
        }
        flag => return Err(Status::internal(format!("grpc: received unexpected payload format {flag}"))),
    }
    if length > limit {
        return Err(too_large(length, limit));
    }
    let mut message = first.split_off(PREFIX_BYTES);
    if message.len() < length {
        // The announced length is not believed before its bytes are here: announcing costs a
        // client nothing.
        let mut gathered = BytesMut::with_capacity(length.min(FIRST_BUFFER_BYTES));
        gathered.extend_from_slice(&message);
        while gathered.len() < length {
            gathered.extend_from_slice(&next_data(body).await?.ok_or_else(cut_short)?);
        }
        message = gathered.freeze();
    }
    message.truncate(length);
    Ok(message)
}

fn cut_short() -> Status {
    Status::internal("unexpected EOF")
}

/// The next bytes of a body, `None` at its end.
async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, Status> {
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => return Err(Status::cancelled(error.to_string())),
        }
    }
}

/// A message with its gRPC prefix.
pub fn frame_message(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buf = BytesMut::with_capacity(PREFIX_BYTES + length);
    buf.put_u8(0);
    buf.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A buffer that grows cannot be too small.
    message.encode(&mut buf).expect("the buffer has room");
    buf.freeze()
}

/// The response of a call that succeeded with this framed message.
pub fn ok(framed: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Message(framed));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The response of a call that failed: headers only, as gRPC allows.
pub fn failed(status: Status) -> Response<ResponseBody> {
    status.into_http::<tonic::body::Body>().map(|_| ResponseBody::End)
}
