#!/usr/bin/env bash
# Runs the real etcdctl against a cluster of Folkmoot members on free loopback ports and fresh data
# directories: tests/compat/cluster.sh PATH-TO-FOLKMOOT
#
# The last line says "N passed, N failed"; the exit status is non-zero if anything failed.
set -u -o pipefail
folkmoot=$(realpath "${1:?the path of the folkmoot binary}")
export ETCDCTL_API=3

work=$(mktemp -d)
declare -A pids=() peer=() client=()
background=()
finish() {
  # Nothing that is said about the end of these matters.
  exec 2>/dev/null
  kill -9 "${background[@]}" "${pids[@]}"
  wait
  rm -rf "$work"
}
trap finish EXIT

passed=0
failed=0
ok() {
  echo "ok $1"
  passed=$((passed + 1))
}
bad() {
  echo "FAILED $1: $2"
  failed=$((failed + 1))
}
# expect NAME WANTED GOT
expect() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "expected $(printf %q "$2") got $(printf %q "$3")"; fi; }
# expect_match NAME REGEX GOT
expect_match() { if grep -qE -- "$2" <<<"$3"; then ok "$1"; else bad "$1" "expected something like $2, got $(printf %q "$3")"; fi; }
# wait_for COMMAND...: until it succeeds, at most half a minute.
wait_for() {
  for _ in $(seq 300); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  return 1
}

# free_ports COUNT: below the ports that the system takes for connections, so that a member that
# comes back finds its own still free.
free_ports() {
  python3 - "$1" <<'PYTHON'
import random, socket, sys
found = set()
while len(found) < int(sys.argv[1]):
    port = random.randint(10000, 30000)
    try:
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
    except OSError:
        continue
    found.add(port)
print(*found)
PYTHON
}

# start NAME INITIAL-CLUSTER new|existing
start() {
  "$folkmoot" serve --name "$1" --data-dir "$work/$1" \
    --listen-client-urls "http://127.0.0.1:${client[$1]}" --advertise-client-urls "http://127.0.0.1:${client[$1]}" \
    --listen-peer-urls "http://127.0.0.1:${peer[$1]}" --initial-advertise-peer-urls "http://127.0.0.1:${peer[$1]}" \
    --initial-cluster "$2" --initial-cluster-state "$3" >>"$work/$1.log" 2>&1 &
  pids[$1]=$!
}
endpoints() { local list='' name; for name in "$@"; do list+="${list:+,}127.0.0.1:${client[$name]}"; done; echo "$list"; }
# etcdctl takes endpoints from a flag or from the environment, but not from both.
serves() { ETCDCTL_ENDPOINTS=$(endpoints "$1") etcdctl get nothing; }
# Of a member: its hexadecimal number.
id_of() { etcdctl member list | grep ", $1, " | cut -d, -f1; }
# The member that leads, by name.
leader() {
  local name
  for name in a b c; do
    ETCDCTL_ENDPOINTS=$(endpoints "$name") etcdctl endpoint status 2>/dev/null | grep -q ', true, ' && echo "$name" && return
  done
  return 1
}

read -r -a ports <<<"$(free_ports 8)"
initial=''
for name in a b c d; do
  peer[$name]=${ports[0]}
  client[$name]=${ports[1]}
  ports=("${ports[@]:2}")
done
for name in a b c; do initial+="${initial:+,}$name=http://127.0.0.1:${peer[$name]}"; done
for name in a b c; do start "$name" "$initial" new; done
for name in a b c; do
  wait_for serves "$name" || { cat "$work/$name.log" >&2; echo 'a member does not serve' >&2; exit 1; }
done
export ETCDCTL_ENDPOINTS
ETCDCTL_ENDPOINTS=$(endpoints a b c)

expect "member list" "3" "$(etcdctl member list | grep -c ', started, .*, false$')"
expect_match "member list names a peer URL" "started, a, http://127.0.0.1:${peer[a]}, http://127.0.0.1:${client[a]}, false" "$(etcdctl member list)"
expect "endpoint health of all" "3" "$(etcdctl endpoint health --cluster 2>&1 | grep -c 'is healthy')"
expect "endpoint status of all" "3" "$(ETCDCTL_ENDPOINTS=$(endpoints b) etcdctl endpoint status --cluster | wc -l)"
expect "one leader" "1" "$(etcdctl endpoint status | grep -c ', true, ')"
expect "put at one member" "OK" "$(ETCDCTL_ENDPOINTS=$(endpoints a) etcdctl put k v1)"
expect "get at another" "v1" "$(ETCDCTL_ENDPOINTS=$(endpoints c) etcdctl get k --print-value-only)"
hashes() { etcdctl endpoint hashkv --cluster | cut -d, -f2 | sort -u | wc -l; }
expect "equal hashes" "1" "$(hashes)"

old=$(leader)
for other in a b c; do [ "$other" = "$old" ] || break; done
# etcdctl looks for the leader among the endpoints by itself.
expect_match "move-leader" "Leadership transferred from $(id_of "$old") to $(id_of "$other")" "$(etcdctl move-leader "$(id_of "$other")" 2>&1)"
expect "the new leader" "$other" "$(leader)"
expect_match "move-leader without the leader among the endpoints" "no leader endpoint" "$(ETCDCTL_ENDPOINTS=$(endpoints "$old") etcdctl move-leader "$(id_of "$old")" 2>&1)"

# A lock that is held over the loss of the leader, with a second one who waits.
now=$(leader)
third=''
for name in a b c; do [ "$name" = "$now" ] || third="$third $name"; done
# shellcheck disable=SC2086
without_leader=$(endpoints $third)
ETCDCTL_ENDPOINTS=$without_leader etcdctl lock l --ttl 10 >"$work/first" 2>&1 &
first=$!
background+=("$first")
wait_for grep -q 'l/' "$work/first"
ETCDCTL_ENDPOINTS=$without_leader etcdctl lock l --ttl 10 >"$work/second" 2>&1 &
background+=($!)
waits() { [ "$(ETCDCTL_ENDPOINTS=$without_leader etcdctl get l/ --prefix --keys-only | grep -c .)" = 2 ]; }
wait_for waits
{ kill -9 "${pids[$now]}" && wait "${pids[$now]}"; } 2>/dev/null
expect "a write after the loss of the leader" "OK" "$(ETCDCTL_ENDPOINTS=$without_leader etcdctl put k v2 --command-timeout=20s)"
# Longer than the lease of the lock: it lives only because it is kept alive at the new leader.
sleep 13
if kill -0 "$first" 2>/dev/null && [ -z "$(cat "$work/second")" ]; then ok "the lock is still held"; else bad "the lock is still held" "$(cat "$work/first" "$work/second")"; fi
kill -INT "$first"
if wait_for grep -q 'l/' "$work/second"; then ok "a released lock goes to the next"; else bad "a released lock goes to the next" "nobody got it"; fi
start "$now" "$initial" new
wait_for serves "$now"
expect "who was lost has what was written" "v2" "$(ETCDCTL_ENDPOINTS=$(endpoints "$now") etcdctl get k --print-value-only)"

# Members change: a learner joins, is promoted, and another member is removed. All have been in touch
# for longer than the five seconds that this takes.
peer_url="http://127.0.0.1:${peer[d]}"
add() { etcdctl member add d --learner --peer-urls="$peer_url" >"$work/add" 2>&1; }
wait_for add
expect_match "member add" "Member +[0-9a-f]+ added to cluster +[0-9a-f]+" "$(cat "$work/add")"
expect_match "member add says how to start" "ETCD_INITIAL_CLUSTER_STATE=\"existing\"" "$(cat "$work/add")"
expect_match "an unstarted learner" "unstarted, , $peer_url, , true" "$(etcdctl member list)"
d=$(etcdctl member list | grep "$peer_url" | cut -d, -f1)
expect_match "promote too early" "can only promote a learner member which is in sync with leader" "$(etcdctl member promote "$d" 2>&1)"
start d "$(grep '^ETCD_INITIAL_CLUSTER=' "$work/add" | cut -d'"' -f2)" existing
serves_itself() { ETCDCTL_ENDPOINTS=$(endpoints d) etcdctl get k --consistency=s --print-value-only | grep -q v2; }
if wait_for serves_itself; then ok "the learner has the old keys"; else bad "the learner has the old keys" "$(tail -3 "$work/d.log")"; fi
expect_match "a learner reads only what it has" "rpc not supported for learner" "$(ETCDCTL_ENDPOINTS=$(endpoints d) etcdctl get k 2>&1)"
promote() { etcdctl member promote "$d"; }
if wait_for promote; then ok "member promote"; else bad "member promote" "$(promote 2>&1)"; fi
expect "get at the promoted member" "v2" "$(ETCDCTL_ENDPOINTS=$(endpoints d) etcdctl get k --print-value-only)"
gone=$(leader)
ETCDCTL_ENDPOINTS=$(endpoints a b c d)
# Refused as unhealthy, as etcd does, until enough of the others have been in touch for five seconds.
gone_id=$(id_of "$gone")
remove() { etcdctl member remove "$gone_id" >"$work/remove" 2>&1; }
wait_for remove
expect_match "member remove of the leader" "Member +$gone_id removed from cluster" "$(cat "$work/remove")"
ended() { ! kill -0 "${pids[$gone]}"; }
if wait_for ended && wait "${pids[$gone]}"; then ok "the removed member ends well"; else bad "the removed member ends well" "$(tail -3 "$work/$gone.log")"; fi
unset "pids[$gone]"
left=()
for name in a b c d; do [ "$name" = "$gone" ] || left+=("$name"); done
ETCDCTL_ENDPOINTS=$(endpoints "${left[@]}")
expect "members that are left" "3" "$(etcdctl member list | grep -c ', started, ')"
expect "put after the removal" "OK" "$(etcdctl put k v3)"
same() { [ "$(hashes)" = 1 ]; }
if wait_for same; then ok "equal hashes in the end"; else bad "equal hashes in the end" "$(etcdctl endpoint hashkv --cluster)"; fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
