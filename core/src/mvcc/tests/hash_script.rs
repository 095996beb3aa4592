//! Checksums against those that a real etcd (3.4.23) gave for the same commands.
//!
//! `hash_scripts/*.txt` hold a line for each command and `hash REVISION COMPACT_REVISION CRC`
//! for what etcd's HashKV then said. Bytes outside letters, digits and `/` are written `%xx`, no
//! bytes are `-`. Compactions were physical.

use super::*;

fn bytes(token: &str) -> Bytes {
    let mut bytes = Vec::new();
    let mut rest = token.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    if token == "-" { Bytes::new() } else { bytes.into() }
}

fn op(text: &str) -> RequestOp {
    let tokens: Vec<_> = text.split_whitespace().collect();
    match tokens.as_slice() {
        ["put", key, value, lease] => RequestOp::Put(PutRequest {
            key: bytes(key),
            value: bytes(value),
            lease: lease.parse().unwrap(),
            ..PutRequest::default()
        }),
        ["del", key, end] => RequestOp::DeleteRange(DeleteRangeRequest {
            key: bytes(key),
            range_end: bytes(end),
            prev_kv: false,
        }),
        other => panic!("{other:?}"),
    }
}

/// Plays a script; `store_every` and `collect` say how far behind the rows are when a hash is
/// asked for. Returns the number of hashes compared.
fn play(script: &str, store_every: usize, collect: bool) -> usize {
    let engine = Arc::new(MemoryEngine::new());
    let mut store = Store::open(engine.clone(), 1, -1, Options { value_cache_bytes: 0 }).unwrap();
    let mut waiting = VecDeque::new();
    let mut compared = 0;
    for (number, line) in script.lines().enumerate() {
        let (word, rest) = line.split_once(' ').unwrap();
        let mut rows = WriteBatch::new();
        match word {
            "compact" => store.compact(rest.parse().unwrap()).unwrap(),
            "txn" => {
                let request =
                    TxnRequest { success: rest.split(" ; ").map(op).collect(), ..TxnRequest::default() };
                store.apply_txn(&request, &|_| true, &mut rows).unwrap();
            }
            "hash" => {
                let numbers: Vec<i64> = rest.split(' ').map(|number| number.parse().unwrap()).collect();
                let ours = store.reader().hash_kv(numbers[0]).unwrap();
                let told = (ours.hash_revision, ours.compact_revision, i64::from(ours.hash));
                assert_eq!(told, (numbers[0], numbers[1], numbers[2]), "line {}", number + 1);
                compared += 1;
            }
            _ => {
                let request = TxnRequest { success: vec![op(line)], ..TxnRequest::default() };
                store.apply_txn(&request, &|_| true, &mut rows).unwrap();
            }
        }
        waiting.push_back((rows, store.revision()));
        if waiting.len() >= store_every {
            for (rows, revision) in waiting.drain(..) {
                engine.write(&rows).unwrap();
                store.stored(revision);
            }
            if collect {
                let reader = store.reader();
                let state = gc::load(engine.as_ref()).unwrap();
                if let Some(state) = gc::plan(state, reader.compact_revision(), reader.stored_revision()) {
                    engine.write(&gc::step(engine.as_ref(), state, 2).unwrap().batch).unwrap();
                }
            }
        }
    }
    compared
}

#[test]
fn checksums_equal_those_of_etcd_however_far_rows_are_stored_and_removed() {
    let scripts = [
        include_str!("hash_scripts/1.txt"),
        include_str!("hash_scripts/2.txt"),
        include_str!("hash_scripts/3.txt"),
    ];
    for script in scripts {
        for store_every in [1, 7, usize::MAX] {
            for collect in [false, true] {
                assert!(play(script, store_every, collect) > 100);
            }
        }
    }
}

#[test]
fn a_checksum_of_nothing_is_that_of_the_bucket_name() {
    let world = World::new(0);
    let hash = world.store.reader().hash_kv(0).unwrap();
    let name = crc32c::crc32c(b"key");
    assert_eq!(hash, HashKv { hash: name, hash_revision: 1, compact_revision: -1, revision: 1 });
    assert_eq!(world.store.reader().hash_kv(-5).unwrap().hash, name, "a negative revision hashes nothing");
}

#[test]
fn a_checksum_is_refused_below_the_compacted_and_above_the_current_revision() {
    let mut world = World::new(0);
    for value in ["1", "2", "3"] {
        world.put("a", value);
    }
    world.compact(3).unwrap();
    let reader = world.store.reader();
    assert_eq!(reader.hash_kv(2), Err(Error::Compacted.into()));
    assert_eq!(reader.hash_kv(5), Err(Error::FutureRev.into()));
    assert_eq!(reader.hash_kv(3).unwrap().compact_revision, 3);
    assert_eq!(reader.hash_kv(0).unwrap().hash_revision, 4);
}
