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
# Stores for the scenarios of the SDKs; by hand also folkmoot=PATH. ARGS goes to the interpreter.
STORES ?= embedded etcd
# WRITE=--write renews docs/parity.md instead of comparing it.
WRITE ?=
# Words after `make run ARGS='...'` go to `folkmoot serve`.
ARGS ?=

.PHONY: help setup setup-test build build-tools run cluster test unit sdk oracle crash compat tour sim mutants chaos \
	conformance verify fix bench clean

help:
	@echo 'make run      build and start a durable single-member server on 127.0.0.1:2379'
	@echo 'make cluster  build and start three members on this machine (MEMBERS=5 for five)'
	@echo 'make test     every test: unit, property, server, differential against etcd, crash loop, real clients'
	@echo 'make sim      a cluster under faults, simulated, WORLDS=1000 times'
	@echo 'make mutants  known bugs put back one by one; the simulator must find each'
	@echo 'make conformance  the SDKs play the same scenarios under faults, against Folkmoot and etcd'
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

test: setup-test unit sdk conformance oracle crash compat tour sim chaos

# One profile and one set of features for all tests; see docs/decisions/0009.
unit:
	$(CARGO) test --release --locked $(ALL) --exclude folkmoot-client --no-fail-fast

# The client against Folkmoot and against etcd.
sdk: build
	FOLKMOOT_BINARY=$(abspath $(FOLKMOOT)) $(CARGO) test --release --locked -p folkmoot-client --no-fail-fast

# Every language plays every scenario on every store. Languages that have no SDK yet are named in
# ABSENT: one that is missing by mistake fails, and so does one that has come.
LANGUAGES ?= rust
ABSENT ?= python,node
ACTOR_rust = $(TARGET)/release/folkmoot-conformance-rust
ACTOR_python = python3 sdk-python/conformance/actor.py
ACTOR_node = node sdk-node/conformance/actor.mjs
conformance: setup-test
	$(CARGO) build --release --locked -p folkmoot-testd -p folkmoot-conformance -p folkmoot-conformance-rust \
		-p folkmoot-parity
	mkdir -p $(TARGET)/conformance
	rm -f $(TARGET)/conformance/*.json
	$(foreach language,$(LANGUAGES),$(foreach store,$(STORES),\
		$(CONFORMANCE) --adapter '$(language)=$(ACTOR_$(language))' --testd $(TARGET)/release/folkmoot-testd \
		--store '$(store)' --report $(TARGET)/conformance/$(language)-$(firstword $(subst =, ,$(store))).json $(ARGS) &&)) true
	$(PARITY) check $(if $(ABSENT),--absent $(ABSENT)) $(WRITE) $(foreach language,$(LANGUAGES),\
		$(foreach store,$(STORES),--report $(TARGET)/conformance/$(language)-$(firstword $(subst =, ,$(store))).json))

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
