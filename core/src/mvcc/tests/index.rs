//! The tree against the standard library's.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::mvcc::index::{Live, Tree};
use crate::types::KeyRange;

fn live(key: &[u8], version: i64) -> Live {
    Live {
        key: Bytes::copy_from_slice(key),
        value: None,
        create_revision: 0,
        mod_main: 0,
        version,
        lease: 0,
        mod_sub: 0,
        value_bytes: 0,
    }
}

type Twin = BTreeMap<Vec<u8>, i64>;

fn content(tree: &Tree) -> Vec<(Vec<u8>, i64)> {
    tree.iter().map(|live| (live.key.to_vec(), live.version)).collect()
}

fn put(tree: &mut Tree, key: &[u8], version: i64) {
    tree.upsert(key, |record| match record {
        Some(record) => {
            record.version = version;
            None
        }
        None => Some(live(key, version)),
    });
}

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<u8>),
    Change(Vec<u8>),
    Remove(Vec<u8>),
    Snapshot,
    Forget,
    Look(Vec<u8>, Vec<u8>),
    /// Many neighbours at once, so that nodes split and merge.
    PutMany(u16, u16),
    RemoveMany(u16, u16),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0u16..2000).prop_map(|n| n.to_be_bytes().to_vec()),
        prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..4),
        // More in common than a node has at hand.
        (20usize..33, prop::option::of(0u16..300)).prop_map(|(same, n)| {
            let rest = n.map(u16::to_be_bytes);
            [&[7; 33][..same], rest.as_ref().map_or(&[][..], |rest| rest)].concat()
        }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => key().prop_map(Op::Put),
        2 => key().prop_map(Op::Change),
        4 => key().prop_map(Op::Remove),
        1 => Just(Op::Snapshot),
        1 => Just(Op::Forget),
        3 => (key(), key()).prop_map(|(from, to)| Op::Look(from, to)),
        2 => (0u16..2000, 0u16..400).prop_map(|(from, count)| Op::PutMany(from, count)),
        2 => (0u16..2000, 0u16..400).prop_map(|(from, count)| Op::RemoveMany(from, count)),
    ]
}

fn many(from: u16, count: u16) -> impl Iterator<Item = Vec<u8>> {
    // Not in order.
    (0..count).map(move |n| (from + (u32::from(n) * 7919 % u32::from(count)) as u16).to_be_bytes().to_vec())
}

fn look(tree: &Tree, twin: &Twin, from: &[u8], to: &[u8]) {
    assert_eq!(tree.get(from).map(|live| live.version), twin.get(from).copied());
    let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
    for range in [
        KeyRange::One(from.clone()),
        KeyRange::Span(from.clone(), to.clone()),
        KeyRange::From(from.clone()),
        KeyRange::From(Bytes::new()),
    ] {
        let expected: Vec<_> = twin.keys().filter(|key| range.contains(key)).cloned().collect();
        assert_eq!(tree.count(&range), expected.len(), "{range:?}");
        let found: Vec<_> = tree.range(&range).map(|live| live.key.to_vec()).collect();
        assert_eq!(found, expected, "{range:?}");
    }
}

proptest! {
    #[test]
    fn the_tree_does_what_a_sorted_map_does_and_snapshots_stay_as_they_were(
        start in 0u16..500,
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut twin: Twin = (0..start).map(|n| (n.to_be_bytes().to_vec(), i64::from(n))).collect();
        let mut tree = Tree::from_sorted(twin.iter().map(|(key, version)| live(key, *version)).collect());
        tree.check();
        let mut snapshots: Vec<(Tree, Twin)> = Vec::new();
        for (step, op) in ops.into_iter().enumerate() {
            let version = 10_000 + step as i64;
            match op {
                Op::Put(key) => {
                    put(&mut tree, &key, version);
                    twin.insert(key, version);
                }
                Op::Change(key) => {
                    let found = tree.get_mut(&key).map(|live| live.version = version).is_some();
                    prop_assert_eq!(found, twin.get_mut(&key).map(|known| *known = version).is_some());
                }
                Op::Remove(key) => {
                    prop_assert_eq!(tree.remove(&key).map(|live| live.version), twin.remove(&key));
                }
                Op::Snapshot => snapshots.push((tree.clone(), twin.clone())),
                Op::Forget => drop(snapshots.pop()),
                Op::Look(from, to) => look(&tree, &twin, &from, &to),
                Op::PutMany(from, count) => for key in many(from, count) {
                    put(&mut tree, &key, version);
                    twin.insert(key, version);
                },
                Op::RemoveMany(from, count) => for key in many(from, count) {
                    prop_assert_eq!(tree.remove(&key).map(|live| live.version), twin.remove(&key));
                },
            }
            prop_assert_eq!(tree.len(), twin.len());
        }
        tree.check();
        prop_assert_eq!(content(&tree), twin.clone().into_iter().collect::<Vec<_>>());
        for (tree, twin) in snapshots {
            tree.check();
            prop_assert_eq!(content(&tree), twin.into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_tree_can_be_filled_and_emptied_in_any_direction() {
    let key = |n: u32| n.to_be_bytes();
    for (insert_up, remove_up) in [(true, true), (true, false), (false, true), (false, false)] {
        let order =
            |up: bool| -> Vec<u32> { if up { (0..5000).collect() } else { (0..5000).rev().collect() } };
        let mut tree = Tree::default();
        for n in order(insert_up) {
            put(&mut tree, &key(n), 1);
        }
        tree.check();
        for (gone, n) in order(remove_up).into_iter().enumerate() {
            assert!(tree.remove(&key(n)).is_some());
            assert!(tree.remove(&key(n)).is_none());
            assert_eq!(tree.len(), 4999 - gone);
            if gone % 500 == 0 {
                tree.check();
            }
        }
        tree.check();
        assert_eq!(tree.iter().count(), 0);
    }
}
