//! From TCP connections to calls: HTTP/2 and HTTP/1.1 on one port, gRPC and plain requests.
//!
//! [`serve`] drives one connection; [`Router`] sends each request to its service. The calls that
//! make up nearly all load (put, range, delete, txn) are read and answered by [`unary`], which
//! does what gRPC asks of a unary call and nothing more; everything else goes through tonic.
//! Refuses: deciding anything about the content of a call.

mod body;
mod plain;
mod router;
mod serve;
mod unary;

pub use body::ResponseBody;
pub use router::Router;
pub use serve::{Connection, ServeOptions};
pub use unary::Received;

use http::{HeaderValue, Response};
use tonic::Status;

/// tonic's words for a message above the receive limit, with two numbers in between.
const TONIC_TOO_LARGE: [&str; 3] =
    ["Error, decoded message length too large: found ", " bytes, the limit is: ", " bytes"];

/// etcd's status in place of tonic's for a message above the receive limit; `None` for any other.
pub fn receive_limit_status(code: tonic::Code, message: &str) -> Option<Status> {
    if code != tonic::Code::OutOfRange {
        return None;
    }
    let numbers = message.strip_prefix(TONIC_TOO_LARGE[0])?.strip_suffix(TONIC_TOO_LARGE[2])?;
    let (length, limit) = numbers.split_once(TONIC_TOO_LARGE[1])?;
    Some(unary::too_large(length.parse().ok()?, limit.parse().ok()?))
}

/// A response of tonic's with its own refusals (unknown method, message too large or not
/// decodable) said as etcd's users know them.
fn in_etcds_words(
    response: Response<tonic::body::Body>,
    service: &str,
    method: &str,
) -> Response<tonic::body::Body> {
    // Refusals come without a body, so that the status is in the headers.
    if !response.headers().contains_key("grpc-status") {
        return response;
    }
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let better = match status.code() {
        tonic::Code::Unimplemented if status.message().is_empty() => {
            Some(Status::unimplemented(format!("unknown method {method} for service {service}")))
        }
        tonic::Code::Internal => status
            .message()
            .strip_prefix("failed to decode Protobuf message: ")
            .map(|reason| Status::internal(format!("grpc: error unmarshalling request: {reason}"))),
        code => receive_limit_status(code, status.message()),
    };
    match better {
        Some(status) => {
            let mut response = status.into_http();
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
            response
        }
        None => response,
    }
}
