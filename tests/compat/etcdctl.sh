#!/usr/bin/env bash
# etcdctl against one endpoint: etcdctl.sh HOST:PORT PREFIX
set -u -o pipefail

export ETCDCTL_API=3 ETCDCTL_ENDPOINTS="$1"
p="$2"
work="$(mktemp -d)"
background=()
trap 'for pid in "${background[@]}"; do kill "$pid" 2>/dev/null; done; rm -rf "$work"' EXIT

# expect NAME WANTED GOT
expect() {
  if [ "$2" = "$3" ]; then
    echo "ok $1"
  else
    echo "FAILED $1: expected $(printf %q "$2") got $(printf %q "$3")"
  fi
}

# expect_match NAME REGEX GOT
expect_match() {
  if grep -qE -- "$2" <<<"$3"; then
    echo "ok $1"
  else
    echo "FAILED $1: expected something like $2, got $(printf %q "$3")"
  fi
}

# wait_for COMMAND...: until it succeeds, at most ten seconds.
wait_for() {
  for _ in $(seq 200); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.05
  done
  return 1
}

revision() {
  etcdctl get "${p}none" -w json | sed -E 's/.*"revision":([0-9]+).*/\1/'
}

expect_match "endpoint health" "is healthy" "$(etcdctl endpoint health 2>&1)"
# With a URL as endpoint, etcdctl 3.4 sends the whole URL as :authority in the calls of the Maintenance
# service, which not every HTTP/2 library accepts; with HOST:PORT it does not.
expect_match "endpoint status" "^$1, [0-9a-f]+, [0-9.]+.*, true," "$(etcdctl endpoint status 2>&1)"
expect_match "endpoint status of a URL" "^http://$1, [0-9a-f]+, [0-9.]+.*, true," "$(ETCDCTL_ENDPOINTS="http://$1" etcdctl endpoint status 2>&1)"
expect "get with a URL" "" "$(ETCDCTL_ENDPOINTS="http://$1" etcdctl get "${p}none" 2>&1)"
expect_match "member list" "started" "$(etcdctl member list 2>&1)"

expect "put" "OK" "$(etcdctl put "${p}a" one)"
expect "get" "$(printf '%s\n%s' "${p}a" one)" "$(etcdctl get "${p}a")"
expect "get value only" "one" "$(etcdctl get "${p}a" --print-value-only)"
expect "put with previous value" "$(printf 'OK\n%s\n%s' "${p}a" one)" "$(etcdctl put "${p}a" two --prev-kv)"
etcdctl put "${p}b" b >/dev/null
etcdctl put "${p}c" c >/dev/null
expect "get by prefix" "$(printf '%s\n%s\n%s' "${p}a" "${p}b" "${p}c")" "$(etcdctl get "$p" --prefix --keys-only | grep .)"
expect "get with limit" "$(printf '%s\n%s' "${p}a" "${p}b")" "$(etcdctl get "$p" --prefix --keys-only --limit 2 | grep .)"
expect "get descending" "$(printf 'c\nb\ntwo')" "$(etcdctl get "$p" --prefix --order=DESCEND --print-value-only)"
expect "get sorted by modification" "$(printf 'two\nb\nc')" "$(etcdctl get "$p" --prefix --sort-by=MODIFY --print-value-only)"
expect "get a range" "${p}a" "$(etcdctl get "${p}a" "${p}b" --keys-only | grep .)"
expect "get from a key on" "${p}c" "$(etcdctl get "${p}c" --from-key --keys-only --limit 1 | grep .)"
expect_match "count" '"Count" : 3' "$(etcdctl get "$p" --prefix --limit 1 --write-out=fields)"

old="$(revision)"
etcdctl put "${p}a" three >/dev/null
expect "get at an old revision" "two" "$(etcdctl get "${p}a" --rev="$old" --print-value-only)"
expect_match "get at a future revision" "required revision is a future revision" "$(etcdctl get "${p}a" --rev=$((old + 1000)) 2>&1)"

txn() {
  printf '%s\n' "$@" | etcdctl txn 2>&1
}
expect "compare and swap, equal" "$(printf 'SUCCESS\n\nOK')" "$(txn "value(\"${p}a\") = \"three\"" "" "put ${p}a four" "" "get ${p}a" "")"
expect "compare and swap, different" "$(printf 'FAILURE\n\n%s\nfour' "${p}a")" "$(txn "value(\"${p}a\") = \"three\"" "" "put ${p}a five" "" "get ${p}a" "")"
expect "create if absent" "$(printf 'SUCCESS\n\nOK')" "$(txn "create(\"${p}new\") = \"0\"" "" "put ${p}new here" "" "get ${p}new" "")"

expect "delete" "1" "$(etcdctl del "${p}new")"
expect "delete nothing" "0" "$(etcdctl del "${p}new")"
expect "delete with previous value" "$(printf '1\n%s\nb' "${p}b")" "$(etcdctl del "${p}b" --prev-kv)"

# Watches: history from a revision on, then live events on the same stream.
from=$((old + 1))
etcdctl watch "$p" --prefix --rev="$from" >"$work/watch" 2>&1 &
background+=($!)
wait_for grep -q "${p}b" "$work/watch"
expect "watch history" "$(printf 'PUT\n%sa\nthree\nPUT\n%sa\nfour\nPUT\n%snew\nhere\nDELETE\n%snew\n\nDELETE\n%sb' "$p" "$p" "$p" "$p" "$p")" "$(sed -e '$d' "$work/watch")"
etcdctl put "${p}live" now >/dev/null
wait_for grep -q now "$work/watch"
expect "watch live" "$(printf 'PUT\n%slive\nnow' "$p")" "$(tail -3 "$work/watch")"

grant="$(etcdctl lease grant 60)"
expect_match "lease grant" "^lease [0-9a-f]+ granted with TTL\(60s\)$" "$grant"
lease="$(cut -d' ' -f2 <<<"$grant")"
etcdctl put "${p}leased" x --lease="$lease" >/dev/null
expect_match "lease timetolive" "granted with TTL\(60s\), remaining\([0-9]+s\), attached keys\(\[${p}leased\]\)" "$(etcdctl lease timetolive "$lease" --keys)"
expect_match "lease list" "$lease" "$(etcdctl lease list)"
expect_match "lease keep-alive" "lease $lease keepalived with TTL\(60\)" "$(etcdctl lease keep-alive --once "$lease")"
expect "lease revoke" "lease $lease revoked" "$(etcdctl lease revoke "$lease")"
expect "keys go with their lease" "" "$(etcdctl get "${p}leased")"
expect_match "unknown lease" "requested lease not found" "$(etcdctl lease revoke "$lease" 2>&1)"

short="$(etcdctl lease grant 1 | cut -d' ' -f2)"
etcdctl put "${p}short" x --lease="$short" >/dev/null
gone() { [ -z "$(etcdctl get "${p}short")" ]; }
if wait_for gone; then echo "ok lease expiry"; else echo "FAILED lease expiry: the key is still there"; fi

expect "lock runs a command" "locked" "$(etcdctl lock "${p}lock" -- echo locked 2>&1)"
etcdctl lock "${p}lock" >"$work/first" 2>&1 &
first=$!
background+=("$first")
wait_for grep -q . "$work/first"
etcdctl lock "${p}lock" >"$work/second" 2>&1 &
background+=($!)
sleep 0.3
expect "a held lock makes others wait" "" "$(cat "$work/second")"
kill -INT "$first"
if wait_for grep -q . "$work/second"; then echo "ok a released lock goes to the next"; else echo "FAILED a released lock goes to the next: nobody got it"; fi

etcdctl elect "${p}vote" me >"$work/elect" 2>&1 &
background+=($!)
wait_for grep -q me "$work/elect"
expect_match "elect" "me" "$(cat "$work/elect")"

now="$(revision)"
expect "compaction" "compacted revision $now" "$(etcdctl compaction "$now")"
expect_match "compaction again" "required revision has been compacted" "$(etcdctl compaction "$now" 2>&1)"
expect_match "get below the compaction" "required revision has been compacted" "$(etcdctl get "${p}a" --rev="$old" 2>&1)"
expect_match "watch below the compaction" "compacted|canceled" "$(timeout 10 etcdctl watch "${p}a" --rev="$old" 2>&1)"
expect_match "hashkv" "^$1, [0-9]+$" "$(etcdctl endpoint hashkv 2>&1)"
expect_match "snapshot save" "Snapshot saved" "$(etcdctl snapshot save "$work/snapshot" 2>&1)"
etcdctl del "$p" --prefix >/dev/null
expect "everything deleted" "" "$(etcdctl get "$p" --prefix)"
echo done
