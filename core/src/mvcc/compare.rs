//! The conditions of transactions, with etcd's answers for absent keys and unknown numbers.

use std::cmp::Ordering;

use bytes::Bytes;

use super::index::Live;
use super::range::View;
use super::request::{Compare, CompareOperand, RequestOp, TxnRequest, compare_result, compare_target};
use super::store::Miss;
use crate::error::Error;
use crate::limits::TXN_DEPTH_MAX;
use crate::types::KeyRange;

/// Which branch a transaction takes, and each transaction nested in the branches taken, in the
/// order in which they are met.
pub(super) type Path = Vec<bool>;

/// Evaluates the conditions of a transaction and of all that will run inside it, on the state
/// before it. Inner conditions do not see what outer operations do.
pub(super) fn choose(view: &View<'_>, request: &TxnRequest) -> Result<Path, Miss> {
    let mut path = Vec::new();
    choose_at(view, request, 1, &mut path)?;
    Ok(path)
}

fn choose_at(view: &View<'_>, request: &TxnRequest, depth: usize, path: &mut Path) -> Result<(), Miss> {
    if depth > TXN_DEPTH_MAX {
        return Err(Error::TooManyOps.into());
    }
    let mut succeeded = true;
    for compare in &request.compare {
        if !holds(view, compare)? {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for op in branch(request, succeeded) {
        if let RequestOp::Txn(inner) = op {
            choose_at(view, inner, depth + 1, path)?;
        }
    }
    Ok(())
}

/// The operations of a branch.
pub(super) fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

fn holds(view: &View<'_>, compare: &Compare) -> Result<bool, Miss> {
    let keys = KeyRange::from_wire(compare.key.clone(), compare.range_end.clone());
    let mut absent = true;
    for live in view.tree.range(&keys) {
        absent = false;
        if !satisfies(compare, order(view, compare, live)?) {
            return Ok(false);
        }
    }
    if absent {
        // There is no way to write "no value", so etcd answers false whatever is asked.
        return Ok(compare.target != compare_target::VALUE
            && satisfies(compare, order_of_numbers(compare, &Numbers::default())));
    }
    Ok(true)
}

#[derive(Default)]
struct Numbers {
    version: i64,
    create_revision: i64,
    mod_revision: i64,
    lease: i64,
}

fn order(view: &View<'_>, compare: &Compare, live: &Live) -> Result<Ordering, Miss> {
    if compare.target == compare_target::VALUE {
        let empty = Bytes::new();
        let given = match &compare.operand {
            CompareOperand::Value(value) => value,
            _ => &empty,
        };
        return Ok(view.value(live)?.cmp(given));
    }
    let numbers = Numbers {
        version: live.version,
        create_revision: live.create_revision,
        mod_revision: live.mod_main,
        lease: live.lease,
    };
    Ok(order_of_numbers(compare, &numbers))
}

/// The key's own number against the given one, which is 0 unless it is of the target's kind.
fn order_of_numbers(compare: &Compare, own: &Numbers) -> Ordering {
    let (own, given) = match (compare.target, &compare.operand) {
        (compare_target::VERSION, CompareOperand::Version(given)) => (own.version, *given),
        (compare_target::VERSION, _) => (own.version, 0),
        (compare_target::CREATE, CompareOperand::CreateRevision(given)) => (own.create_revision, *given),
        (compare_target::CREATE, _) => (own.create_revision, 0),
        (compare_target::MOD, CompareOperand::ModRevision(given)) => (own.mod_revision, *given),
        (compare_target::MOD, _) => (own.mod_revision, 0),
        (compare_target::LEASE, CompareOperand::Lease(given)) => (own.lease, *given),
        (compare_target::LEASE, _) => (own.lease, 0),
        // An unknown target compares equal.
        _ => (0, 0),
    };
    own.cmp(&given)
}

fn satisfies(compare: &Compare, order: Ordering) -> bool {
    match compare.result {
        compare_result::EQUAL => order.is_eq(),
        compare_result::GREATER => order.is_gt(),
        compare_result::LESS => order.is_lt(),
        compare_result::NOT_EQUAL => order.is_ne(),
        // An unknown comparison holds.
        _ => true,
    }
}
