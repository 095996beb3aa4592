//! What the text of a transaction may say, and what is refused.

use folkmoot_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};

use super::*;

fn only_compare(line: &str) -> Compare {
    compare(line.as_bytes()).expect(line)
}

fn only_request(line: &str) -> Request {
    operation(line.as_bytes()).expect(line).request.expect("an operation is always set")
}

fn refusal(text: &str) -> String {
    parse(text.as_bytes()).expect_err(text).message().to_owned()
}

#[test]
fn three_lists_make_a_transaction() {
    let text = "mod(\"a\") > \"0\"\nvalue(\"b\") = \"x\"\n\nput a 1\nget a\n\ndel a\n\n";
    let txn = parse(text.as_bytes()).expect("is complete");
    assert_eq!(txn.compare.len(), 2);
    assert_eq!(txn.success.len(), 2);
    assert_eq!(txn.failure.len(), 1);
}

#[test]
fn every_list_may_be_empty() {
    assert_eq!(parse(b"\n\n\n"), Ok(TxnRequest::default()));
    assert_eq!(parse(b"\n\n"), Ok(TxnRequest::default()));
}

#[test]
fn the_last_list_may_end_with_the_text() {
    let txn = parse(b"\n\ndel a").expect("is complete");
    assert_eq!(txn.failure.len(), 1);
}

#[test]
fn half_a_transaction_is_refused() {
    assert!(refusal("mod(\"a\") > \"0\"").contains("ends within its conditions"));
    assert!(refusal("\nput a 1").contains("ends within its success requests"));
}

#[test]
fn a_fourth_list_is_refused() {
    assert!(refusal("\n\n\n\nput a 1\n").ends_with("line=5"));
}

#[test]
fn windows_line_ends_are_blanks() {
    let txn = parse(b"\r\nput a 1\r\n\r\n").expect("is complete");
    assert_eq!(txn.success.len(), 1);
}

#[test]
fn every_property_of_a_key_can_be_compared() {
    let cases = [
        ("ver", CompareTarget::Version, TargetUnion::Version(31)),
        ("version", CompareTarget::Version, TargetUnion::Version(31)),
        ("c", CompareTarget::Create, TargetUnion::CreateRevision(31)),
        ("create", CompareTarget::Create, TargetUnion::CreateRevision(31)),
        ("m", CompareTarget::Mod, TargetUnion::ModRevision(31)),
        ("mod", CompareTarget::Mod, TargetUnion::ModRevision(31)),
        ("val", CompareTarget::Value, TargetUnion::Value("31".into())),
        ("value", CompareTarget::Value, TargetUnion::Value("31".into())),
        ("lease", CompareTarget::Lease, TargetUnion::Lease(0x31)),
    ];
    for (name, target, union) in cases {
        let compare = only_compare(&format!("{name}(\"k\") = \"31\""));
        assert_eq!(compare.target(), target, "{name}");
        assert_eq!(compare.target_union, Some(union), "{name}");
        assert_eq!(&compare.key[..], b"k");
    }
}

#[test]
fn every_sign_is_known_with_and_without_blanks() {
    let cases = [
        ("=", CompareResult::Equal),
        ("!=", CompareResult::NotEqual),
        ("<", CompareResult::Less),
        (">", CompareResult::Greater),
    ];
    for (sign, result) in cases {
        assert_eq!(only_compare(&format!("mod(\"k\") {sign} \"1\"")).result(), result);
        assert_eq!(only_compare(&format!("mod( \"k\" ){sign}\"1\"")).result(), result);
    }
}

#[test]
fn a_key_may_hold_brackets_and_escapes() {
    assert_eq!(&only_compare(r#"mod("a(b)\"\x00") = "1""#).key[..], b"a(b)\"\0");
}

#[test]
fn malformed_comparisons_are_refused_with_their_line() {
    let cases = [
        ("foo", "no key in brackets"),
        ("mod(k) = \"1\"", "the key is not in double quotes"),
        ("mod(\"k\" = \"1\"", "no closing bracket"),
        ("mod(\"k\") >= \"1\"", "the right side is not in double quotes"),
        ("mod(\"k\") ~ \"1\"", "none of = != < >"),
        ("mod(\"k\") = 1", "the right side is not in double quotes"),
        ("mod(\"k\") = \"x\"", "not a number"),
        ("mod(\"k\") = \"1\" and", "something follows"),
        ("size(\"k\") = \"1\"", "only version, create"),
        ("mod(\"k) = \"1\"", "no closing bracket"),
    ];
    for (line, reason) in cases {
        let message = refusal(&format!("mod(\"a\") = \"1\"\n{line}\n\n\n\n"));
        assert!(message.starts_with("malformed comparison: "), "{message}");
        assert!(message.contains(reason), "{line}: {message}");
        assert!(message.ends_with("line=2"), "{message}");
    }
}

#[test]
fn operations_take_the_flags_of_their_commands() {
    let put = PutRequest {
        key: "a b".into(),
        value: "c\nd".into(),
        lease: 0x1f,
        prev_kv: true,
        ..PutRequest::default()
    };
    let line = r#"put "a b" --lease=1f "c\nd" --prev-kv"#;
    assert_eq!(only_request(line), Request::RequestPut(put));

    let range =
        RangeRequest { key: "a/".into(), range_end: "a0".into(), limit: 5, ..RangeRequest::default() };
    let line = "get a/ --prefix --limit 5";
    assert_eq!(only_request(line), Request::RequestRange(range));

    let delete = DeleteRangeRequest { key: "a".into(), range_end: "b".into(), prev_kv: false };
    assert_eq!(only_request("del a b"), Request::RequestDeleteRange(delete));
}

#[test]
fn values_need_not_be_text() {
    let Request::RequestPut(put) = only_request(r#"put k "\xff\x00""#) else {
        panic!("put is put");
    };
    assert_eq!(&put.value[..], b"\xff\0");
}

#[test]
fn senseless_operations_are_refused_with_their_line() {
    for line in [
        "frob a",
        "put a",
        "get",
        "get a b --prefix",
        "put a b c",
        "put a \"b",
        "get --what a",
        "help",
        "get --help",
    ] {
        let message = refusal(&format!("\n{line}\n\n\n"));
        assert!(message.starts_with("invalid request: "), "{line}: {message}");
        assert!(message.ends_with("line=2"), "{line}: {message}");
        assert!(!message.contains('\n'), "{line}: {message}");
    }
}
