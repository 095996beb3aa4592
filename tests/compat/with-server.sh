#!/usr/bin/env bash
# Starts a Folkmoot server of its own on free loopback ports and a fresh data directory, and runs
# the real clients against it: tests/compat/with-server.sh PATH-TO-FOLKMOOT
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folkmoot=$(realpath "${1:?the path of the folkmoot binary}")

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

work=$(mktemp -d)
client=$(free_port)
peer=$(free_port)
server=''
finish() {
  [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
  rm -rf "$work"
}
trap finish EXIT

url="http://127.0.0.1:$client"
peer_url="http://127.0.0.1:$peer"
"$folkmoot" serve --data-dir "$work/data" \
  --listen-client-urls "$url" --advertise-client-urls "$url" \
  --listen-peer-urls "$peer_url" --initial-advertise-peer-urls "$peer_url" \
  --initial-cluster "default=$peer_url" >"$work/log" 2>&1 &
server=$!

for _ in $(seq 300); do
  "$folkmoot" --endpoints "127.0.0.1:$client" endpoint status >/dev/null 2>&1 && break
  kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; echo 'the server stopped' >&2; exit 1; }
  sleep 0.1
done

"$here/run.sh" "127.0.0.1:$client" || { tail -n 50 "$work/log" >&2; exit 1; }
