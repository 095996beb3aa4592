//! From TCP connections to calls: HTTP/2 and HTTP/1.1 on one port, gRPC and plain requests.
//!
//! [`serve`] drives one connection; [`Router`] sends each request to its service. The calls that
//! make up nearly all load (put, range, delete, txn) are read and answered by [`unary`], which
//! does what gRPC asks of a unary call and nothing more; everything else goes through tonic.
//! Refuses: deciding anything about the content of a call.

mod authority;
mod body;
mod deadline;
mod hpack;
mod plain;
mod router;
mod serve;
mod unary;

pub use body::ResponseBody;
pub use router::Router;
pub use serve::{Connection, ServeOptions};
pub use unary::Received;

use http::Response;
use tonic::Status;

/// tonic's words for a message above the receive limit, with two numbers in between.
const TONIC_TOO_LARGE: [&str; 3] =
    ["Error, decoded message length too large: found ", " bytes, the limit is: ", " bytes"];

/// What etcd's users know in place of a refusal of tonic's own (message too large or not
/// decodable); `None` for any other status.
pub fn in_etcds_words(status: &Status) -> Option<Status> {
    match status.code() {
        tonic::Code::OutOfRange => {
            let numbers =
                status.message().strip_prefix(TONIC_TOO_LARGE[0])?.strip_suffix(TONIC_TOO_LARGE[2])?;
            let (length, limit) = numbers.split_once(TONIC_TOO_LARGE[1])?;
            Some(unary::too_large(length.parse().ok()?, limit.parse().ok()?))
        }
        tonic::Code::Internal => {
            status.message().starts_with(unary::UNDECODABLE).then(|| unary::undecodable(status.message()))
        }
        _ => None,
    }
}

/// A response of tonic's, with its own refusals in etcd's words.
fn reworded(
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
        _ => in_etcds_words(&status),
    };
    better.map_or(response, Status::into_http)
}
