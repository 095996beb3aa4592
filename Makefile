# The developer's verbs. `make run` and `make test` set up what they need on Debian and Ubuntu;
# elsewhere install a C++17 compiler, make, libclang (for bindgen) and Rust 1.88 or newer first.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Where ccache is installed its compiler names come first, so that RocksDB is compiled once for
# all clones and target directories.
export PATH := /usr/lib/ccache:$(HOME)/.cargo/bin:$(PATH)

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
FOLKMOOT := $(TARGET)/dist/folkmoot
ORACLE := $(TARGET)/release/folkmoot-oracle
BENCH := $(TARGET)/release/folkmoot-bench
SIM := $(TARGET)/release/folkmoot-sim
CHAOS := $(TARGET)/release/folkmoot-chaos
CONFORMANCE := $(TARGET)/release/folkmoot-conformance
PARITY := $(TARGET)/release/folkmoot-parity

# The generator asks a build dependency of RocksDB for other features, which would be reason enough
# for cargo to compile RocksDB again: it is built by itself.
ALL := --workspace --exclude folkmoot-proto-gen

# How much the differential test and the crash loop do in `make test`; any number by hand, e.g.
# `make oracle SEEDS=10000`.
SEEDS ?= 300
START ?= 1
CRASHES ?= 6
# Simulated worlds, and rounds of faults against real processes, in `make test`; by hand e.g.
# `make sim WORLDS=20000`, `make chaos ROUNDS=50`.
WORLDS ?= 200
ROUNDS ?= 3
MEMBERS ?= 3
PYTHON ?= python3
PYTHON_ENV := $(abspath $(TARGET))/python
IN_PYTHON_ENV := VIRTUAL_ENV=$(PYTHON_ENV) PATH=$(PYTHON_ENV)/bin:$$PATH
ENDPOINT ?= 127.0.0.1:2379
# Stores for the scenarios of the SDKs; by hand also folkmoot=PATH. ARGS goes to the interpreter.
STORES ?= embedded etcd
# WRITE=--write renews docs/parity.md instead of comparing it.
WRITE ?=
# Words after `make run ARGS='...'` go to `folkmoot serve`.
ARGS ?=

.PHONY: help setup setup-test build build-tools run cluster test unit sdk python python-wheel python-bench node node-package oracle crash compat tour sim mutants chaos \
	conformance examples python-dev node-dev examples-dev verify fix bench clean

help:
	@echo 'make run      build and start a durable single-member server on 127.0.0.1:2379'
	@echo 'make cluster  build and start three members on this machine (MEMBERS=5 for five)'
	@echo 'make test     every test: unit, property, server, differential against etcd, crash loop, real clients'
	@echo 'make python   the client for Python: types, lints and tests'
	@echo 'make node     the client for Node: types, lints and tests'
	@echo 'make sim      a cluster under faults, simulated, WORLDS=1000 times'
	@echo 'make mutants  known bugs put back one by one; the simulator must find each'
	@echo 'make conformance  the SDKs play the same scenarios under faults, against Folkmoot and etcd'
	@echo 'make examples     the three example systems, against Folkmoot and etcd'
	@echo 'make example-gateway (or -config-watch, -leader-election)  one of them, as a story'
	@echo 'make chaos    real members under faults, for ROUNDS=20 rounds'
	@echo 'make verify   format, lints, generated code and dependencies are in order (writes nothing)'
	@echo 'make fix      format and apply what lints can fix'
	@echo 'make bench    Folkmoot and etcd in turn on this machine, with ratios'

setup:
	@scripts/setup build

setup-test: setup
	@scripts/setup test

build: setup
	$(CARGO) build --profile dist --locked -p folkmoot

run: build
	$(FOLKMOOT) serve $(ARGS)

cluster: build
	scripts/cluster $(FOLKMOOT) $(MEMBERS)

test: setup-test unit sdk python node conformance examples oracle crash compat tour sim chaos

# One profile and one set of features for all tests; see docs/decisions/0009.
unit:
	$(CARGO) test --release --locked $(ALL) --exclude folkmoot-client --exclude folkmoot-bridge \
		--exclude folkmoot-python --exclude folkmoot-node --no-fail-fast

# The client, and what other languages have of it, against Folkmoot and against etcd.
sdk: build
	FOLKMOOT_BINARY=$(abspath $(FOLKMOOT)) $(CARGO) test --release --locked -p folkmoot-client \
		-p folkmoot-bridge --no-fail-fast

# Python's tools live in an environment of their own beside the build.
$(PYTHON_ENV)/ready: sdk-python/requirements-dev.txt
	test -x $(PYTHON_ENV)/bin/python || $(PYTHON) -m venv $(PYTHON_ENV)
	$(PYTHON_ENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# The client for Python, to be imported from where it lies.
python-dev: $(PYTHON_ENV)/ready
	cd sdk-python && $(IN_PYTHON_ENV) maturin develop --quiet --release --locked

# The client for Python: types, lints, and its tests against Folkmoot and etcd.
python: build python-dev
	cd sdk-python && $(IN_PYTHON_ENV) ruff format --check --quiet . && $(IN_PYTHON_ENV) ruff check --quiet .
	cd sdk-python && $(IN_PYTHON_ENV) mypy && $(IN_PYTHON_ENV) pyright
	cd sdk-python && FOLKMOOT_BINARY=$(abspath $(FOLKMOOT)) $(IN_PYTHON_ENV) python -X faulthandler -m pytest -q

# What users install, optimised as the binary is.
python-wheel: $(PYTHON_ENV)/ready
	cd sdk-python && $(IN_PYTHON_ENV) maturin build --profile dist --locked --out $(abspath $(TARGET))/wheels

# What Node's tools need; a Node that is too old for them is passed over for one from npm.
NODE_ENV_DIR := $(abspath $(TARGET))/node
IN_NODE := PATH=$(NODE_ENV_DIR)/node_modules/.bin:$$PATH

sdk-node/node_modules/.ready: sdk-node/package-lock.json
	scripts/setup node $(NODE_ENV_DIR)
	cd sdk-node && $(IN_NODE) npm ci --no-audit --no-fund --loglevel=error
	touch $@

# The client for Node, to be imported from where it lies.
node-dev: sdk-node/node_modules/.ready
	cd sdk-node && $(IN_NODE) npm run --silent build

# The client for Node: types, lints, and its tests against Folkmoot and etcd.
node: build node-dev
	git diff --exit-code -- sdk-node/native.d.cts
	cd sdk-node && $(IN_NODE) npm run --silent lint
	cd sdk-node && FOLKMOOT_BINARY=$(abspath $(FOLKMOOT)) $(IN_NODE) npm test --silent

# What users install: needs `make node` before.
node-package:
	cd sdk-node && $(IN_NODE) npm pack --pack-destination $(abspath $(TARGET))

# Puts a second beside aetcd's, against a server that is running: `make python-bench ENDPOINT=host:port`.
python-bench: $(PYTHON_ENV)/ready
	$(IN_PYTHON_ENV) pip install --quiet aetcd
	cd sdk-python && $(IN_PYTHON_ENV) maturin develop --quiet --profile dist --locked
	cd sdk-python && $(IN_PYTHON_ENV) python bench/puts.py $(ENDPOINT)

# Every language plays every scenario on every store. Languages that have no SDK yet are named in
# ABSENT: one that is missing by mistake fails, and so does one that has come.
LANGUAGES ?= rust python node
ABSENT ?=
# Languages whose SDK is there and does not play yet.
UNPLAYED ?=
ACTOR_rust = $(TARGET)/release/folkmoot-conformance-rust
ACTOR_python = $(PYTHON_ENV)/bin/python sdk-python/conformance/actor.py
ACTOR_node = env PATH=$(NODE_ENV_DIR)/node_modules/.bin:$(PATH) node sdk-node/conformance/actor.mjs
conformance: setup-test $(filter python node,$(LANGUAGES))
	$(CARGO) build --release --locked -p folkmoot-testd -p folkmoot-conformance -p folkmoot-conformance-rust \
		-p folkmoot-parity
	mkdir -p $(TARGET)/conformance
	rm -f $(TARGET)/conformance/*.json
	$(foreach language,$(LANGUAGES),$(foreach store,$(STORES),\
		$(CONFORMANCE) --adapter '$(language)=$(ACTOR_$(language))' --testd $(TARGET)/release/folkmoot-testd \
		--store '$(store)' --report $(TARGET)/conformance/$(language)-$(firstword $(subst =, ,$(store))).json $(ARGS) &&)) true
	$(PARITY) check $(if $(ABSENT),--absent $(ABSENT)) $(if $(UNPLAYED),--unplayed $(UNPLAYED)) $(WRITE) $(foreach language,$(LANGUAGES),\
		$(foreach store,$(STORES),--report $(TARGET)/conformance/$(language)-$(firstword $(subst =, ,$(store))).json))

# The example systems: programs in three languages on the clients as they lie here.
IN_EXAMPLES = cd examples && $(IN_PYTHON_ENV) PATH=$(PYTHON_ENV)/bin:$(NODE_ENV_DIR)/node_modules/.bin:$(PATH) \
	FOLKMOOT_BINARY=$(abspath $(FOLKMOOT)) EXAMPLES_BIN=$(abspath $(TARGET))/release
examples-dev: build python-dev node-dev
	$(CARGO) build --release --locked -p folkmoot-examples
	mkdir -p examples/node_modules
	ln -sfn ../../sdk-node examples/node_modules/folkmoot

# All three, against Folkmoot and etcd.
examples: examples-dev
	cd examples && $(IN_PYTHON_ENV) ruff format --check --quiet . && $(IN_PYTHON_ENV) ruff check --quiet .
	cd examples && for folder in . */; do ls $$folder/*.py > /dev/null 2>&1 || continue; \
		MYPYPATH=. $(IN_PYTHON_ENV) mypy $$folder/*.py; done
	cd sdk-node && $(IN_NODE) node_modules/.bin/biome ci --config-path=. ../examples/package.json ../examples/*/*.mjs
	$(IN_EXAMPLES) python -m pytest -q

# One of them, as a story: `make example-gateway`, `make example-config-watch ARGS='--store etcd'`,
# `make example-leader-election ARGS='--endpoints 127.0.0.1:2379'`.
example-%: examples-dev
	$(IN_EXAMPLES) python run $* $(ARGS)

# Real processes are tested as users run them.
build-tools: build
	$(CARGO) build --release --locked -p folkmoot-oracle -p folkmoot-chaos -p folkmoot-sim

oracle: build-tools
	$(ORACLE) diff --seeds $(SEEDS) --start $(START) --etcd "$$(scripts/setup which-etcd)" --folkmoot $(FOLKMOOT)

crash: build-tools
	$(ORACLE) crash --rounds $(CRASHES) --folkmoot $(FOLKMOOT)

compat: build-tools
	tests/compat/with-server.sh $(FOLKMOOT)
	tests/compat/cluster.sh $(FOLKMOOT)

tour: build-tools
	python3 tests/tour.py $(FOLKMOOT)

sim: build-tools
	$(SIM) --seeds $(WORLDS) --start $(START)
	$(SIM) --seeds $$(($(WORLDS) / 4)) --start $(START) --profile hostile
	$(SIM) --seeds $$(($(WORLDS) / 4)) --start $(START) --profile leases
	$(SIM) --seeds $$(($(WORLDS) / 4)) --start $(START) --profile small

# Another configuration of the compiler, so a target directory of its own; RocksDB is not part of it.
mutants:
	RUSTFLAGS='--cfg mutant="any"' $(CARGO) test --release --locked --target-dir $(TARGET)/mutants \
		-p folkmoot-sim --test kept
	RUSTFLAGS='--cfg mutant="any"' $(CARGO) run --release --locked --target-dir $(TARGET)/mutants \
		-p folkmoot-sim -- mutants --jobs $$(nproc)

chaos: build-tools
	$(CHAOS) run --program folkmoot --binary $(FOLKMOOT) --members $(MEMBERS) --rounds $(ROUNDS)

verify:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked $(ALL) --all-targets -- -D warnings
	$(CARGO) clippy --release --locked -p folkmoot-proto-gen -- -D warnings
	$(CARGO) run --release --locked -p folkmoot-proto-gen -- --check
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline check bans licenses sources; \
	else echo 'cargo-deny is not installed: licences and sources were not checked'; fi

fix:
	$(CARGO) run --release -p folkmoot-proto-gen
	$(CARGO) clippy --release $(ALL) --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

bench: setup-test build
	$(CARGO) build --release --locked -p folkmoot-bench
	$(BENCH) compare --folkmoot $(FOLKMOOT) --etcd "$$(scripts/setup which-etcd)" $(ARGS)

clean:
	$(CARGO) clean
