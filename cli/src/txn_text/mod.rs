//! Transactions as text: etcdctl's format.
//!
//! Three lists, each ended by an empty line: conditions, operations for when all of them hold,
//! operations for when one does not.
//!
//! ```text
//! mod("config/version") = "41"
//!
//! put config/version 42
//! put config/text "new text"
//!
//! get config/version
//!
//! ```
//!
//! The third list may also end with the text. The other two may not: half a transaction is not run.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use clap::Parser;
use folkmoot_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use folkmoot_proto::etcdserverpb::request_op::Request;
use folkmoot_proto::etcdserverpb::{Compare, RequestOp, TxnRequest};

use crate::commands::kv::{DelArgs, GetArgs, PutArgs};
use crate::failure::{Failure, Result};

mod words;

/// One line of an operation list: the command of the same name, with its flags.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
enum Operation {
    Get(GetArgs),
    Put(PutArgs),
    Del(DelArgs),
}

/// Reads a transaction.
///
/// # Errors
/// Names the line that makes no sense. All such errors are errors of usage.
pub fn parse(text: &[u8]) -> Result<TxnRequest> {
    let mut lines = text.split(|&byte| byte == b'\n').enumerate();
    let mut list = |name: &str, may_end_with_text: bool| {
        let mut list = Vec::new();
        for (index, line) in lines.by_ref() {
            let line = line.trim_ascii();
            if line.is_empty() {
                return Ok(list);
            }
            list.push((index + 1, line));
        }
        match may_end_with_text {
            true => Ok(list),
            false => Err(Failure::usage(format!(
                "the transaction ends within its {name}; an empty line ends each list"
            ))),
        }
    };
    let compares = list("conditions", false)?;
    let success = list("success requests", false)?;
    let failure = list("failure requests", true)?;
    if let Some((index, _)) = lines.find(|(_, line)| !line.trim_ascii().is_empty()) {
        return Err(Failure::usage(format!(
            "the transaction goes on after its third list; line={}",
            index + 1
        )));
    }
    Ok(TxnRequest {
        compare: each(&compares, compare)?,
        success: each(&success, operation)?,
        failure: each(&failure, operation)?,
    })
}

fn each<T>(
    lines: &[(usize, &[u8])],
    read: impl Fn(&[u8]) -> std::result::Result<T, String>,
) -> Result<Vec<T>> {
    lines
        .iter()
        .map(|(number, line)| read(line).map_err(|reason| Failure::usage(format!("{reason}; line={number}"))))
        .collect()
}

/// Reads a condition such as `mod("key") > "0"`.
fn compare(line: &[u8]) -> std::result::Result<Compare, String> {
    let malformed = |reason: &str| format!("malformed comparison: {}: {reason}", line.escape_ascii());
    let (target, rest) = split_at_byte(line, b'(').ok_or_else(|| malformed("no key in brackets"))?;
    let (key, rest) = words::quoted(rest.trim_ascii_start())
        .map_err(malformed)?
        .ok_or_else(|| malformed("the key is not in double quotes"))?;
    let rest = rest
        .trim_ascii_start()
        .strip_prefix(b")")
        .ok_or_else(|| malformed("no closing bracket after the key"))?
        .trim_ascii_start();
    let (result, rest) = result(rest).ok_or_else(|| malformed("the sign is none of = != < >"))?;
    let (given, rest) = words::quoted(rest.trim_ascii_start())
        .map_err(malformed)?
        .ok_or_else(|| malformed("the right side is not in double quotes"))?;
    if !rest.trim_ascii().is_empty() {
        return Err(malformed("something follows the right side"));
    }
    let number = |radix| {
        std::str::from_utf8(&given)
            .ok()
            .and_then(|text| i64::from_str_radix(text, radix).ok())
            .ok_or_else(|| malformed("the right side is not a number"))
    };
    let (target, union) = match target.trim_ascii() {
        b"ver" | b"version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        b"c" | b"create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        b"m" | b"mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        b"val" | b"value" => (CompareTarget::Value, TargetUnion::Value(given.clone().into())),
        // Leases are written in hexadecimal wherever people see them.
        b"lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return Err(malformed("only version, create, mod, value and lease can be compared")),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(union),
        ..Compare::default()
    })
}

fn result(text: &[u8]) -> Option<(CompareResult, &[u8])> {
    const SIGNS: [(&[u8], CompareResult); 4] = [
        (b"!=", CompareResult::NotEqual),
        (b"=", CompareResult::Equal),
        (b"<", CompareResult::Less),
        (b">", CompareResult::Greater),
    ];
    SIGNS.iter().find_map(|(sign, result)| Some((*result, text.strip_prefix(*sign)?)))
}

fn split_at_byte(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&other| other == byte)?;
    Some((&text[..at], &text[at + 1..]))
}

/// Reads an operation such as `put key "a value" --lease=1f`.
fn operation(line: &[u8]) -> std::result::Result<RequestOp, String> {
    let invalid = |reason: &str| format!("invalid request: {}: {reason}", line.escape_ascii());
    let words = words::split(line).map_err(invalid)?;
    let operation = Operation::try_parse_from(words.into_iter().map(OsString::from_vec))
        .map_err(|error| invalid(&first_line(&error)))?;
    let request = match operation {
        Operation::Get(args) => args.request().map(Request::RequestRange),
        Operation::Del(args) => args.request().map(Request::RequestDeleteRange),
        Operation::Put(args) => {
            args.request(|| Err(Failure::usage("a put needs a value here"))).map(Request::RequestPut)
        }
    };
    Ok(RequestOp { request: Some(request.map_err(|failure| invalid(failure.message()))?) })
}

/// What is wrong, without the usage text that follows.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").trim_end_matches(':').to_owned()
}

#[cfg(test)]
mod tests;
