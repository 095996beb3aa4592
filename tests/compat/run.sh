#!/usr/bin/env bash
# Runs real etcd clients against one server that speaks the etcd v3 API.
#
#   tests/compat/run.sh HOST:PORT
#
# Needs etcdctl 3.4 or newer, python3 and node with npm. The Python and the Node client are installed
# in pinned versions below COMPAT_CACHE (default: .cache beside this script). All keys live under one
# prefix that is fresh in every run. The last line says "N passed, N failed"; the exit status is
# non-zero if anything failed.
set -u -o pipefail

here="$(cd "$(dirname "$0")" && pwd)"
endpoint="${1:-}"
if [ -z "$endpoint" ]; then
  echo "usage: $0 HOST:PORT" >&2
  exit 2
fi
endpoint="${endpoint#http://}"
cache="${COMPAT_CACHE:-$here/.cache}"
prefix="compat/$(date +%s)-$$/"
mkdir -p "$cache" || exit 2

install_python() {
  [ -e "$cache/python/.done" ] && return 0
  python3 -m venv "$cache/python" &&
    "$cache/python/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" &&
    touch "$cache/python/.done"
}

install_node() {
  [ -e "$cache/node/.done" ] && return 0
  mkdir -p "$cache/node" && cp "$here/package.json" "$here/package-lock.json" "$cache/node/" &&
    (cd "$cache/node" && npm ci --silent --no-audit --no-fund) &&
    touch "$cache/node/.done"
}

passed=0
failed=0

# Each suite prints one line "ok NAME" or "FAILED NAME: why" for each of its checks.
run_suite() {
  local name="$1" output status
  shift
  output="$(timeout 120 "$@" 2>&1)"
  status=$?
  sed "s/^/$name: /" <<<"$output"
  passed=$((passed + $(grep -c '^ok ' <<<"$output")))
  failed=$((failed + $(grep -c '^FAILED ' <<<"$output")))
  # A suite that ends early, or says nothing, has not passed.
  if ! grep -q '^done$' <<<"$output" || { [ "$status" -ne 0 ] && ! grep -q '^FAILED ' <<<"$output"; }; then
    echo "$name: FAILED suite ended early status=$status"
    failed=$((failed + 1))
  fi
}

cannot_install() {
  echo "$1: FAILED cannot install the client"
  failed=$((failed + 1))
}

run_suite etcdctl "$here/etcdctl.sh" "$endpoint" "${prefix}etcdctl/"
if install_python; then
  run_suite python "$cache/python/bin/python" "$here/python_client.py" "$endpoint" "${prefix}python/"
else
  cannot_install python
fi
if install_node; then
  # Node looks for modules beside the script, so the script is run from where they are.
  cp "$here/node_client.js" "$cache/node/"
  run_suite node node "$cache/node/node_client.js" "$endpoint" "${prefix}node/"
else
  cannot_install node
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
