//! The header `grpc-timeout`: how long a client is going to wait (gRPC over HTTP/2, "Requests").
//!
//! A call whose time is up is ended with what it waits for, so that a lock's place in the queue
//! does not outlive the one who asked for it. A stream's time covers its beginning only; its
//! client ends the rest.

use std::time::Duration;

use http::HeaderMap;
use tonic::Status;

/// The time that is left for a call, `None` when its client set no limit.
///
/// # Errors
/// The header is not one to eight digits and a unit.
pub fn time_left(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse);
    parsed.map(Some).ok_or_else(|| Status::internal(format!("malformed grpc-timeout: {value:?}")))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        assert_eq!(parse("500m"), Some(Duration::from_millis(500)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse("0n"), Some(Duration::ZERO));
        for bad in ["", "S", "-1S", "1", "123456789S", "1s", "1.5S", "x5S", "5\u{b5}"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
