# Muster's handles. `make` alone lists them.
#
# Everything runs with the one toolchain that rust-toolchain or the PATH gives, in one target directory, on two cores.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The folder that cargo builds into; CARGO_TARGET_DIR moves it.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help quickstart check test boot bench cross fmt lint deps tidy

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: ## build, start a hub with all parts embedded, enrol this machine, say what to try next
	cargo build --bins
	@exec "$(TARGET)/debug/muster-hub" quickstart

check: ## install what the tests need, then lints and every test
	scripts/install-test-tools
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory test

lint: ## rustfmt, clippy with warnings as errors, cargo-deny where it is installed
	cargo fmt --all --check
	cargo clippy --workspace -- -D warnings
	cargo clippy --workspace --all-targets -- -D warnings -A clippy::unwrap_used -A clippy::large_futures # a test stops where it cannot go on, and runs one future
	scripts/deny

test: ## every test, on the real programs, OpenSSH and Mosquitto
	cargo build --bins
	PATH="$${MUSTER_TEST_TOOLS:-$(CURDIR)/target/test-tools}/node/bin:$$PATH" cargo test --workspace

boot: ## only the boot: units, sessions, limits, attacks and a power cut in a real Debian under qemu (as root)
	scripts/install-test-tools
	cargo build --bins
	cargo test --test boot -- --nocapture

fmt: ## format all Rust files
	cargo fmt --all

bench: ## the figures that are promised, each printed as one table (release profiles, takes a while)
	scripts/bench

cross: ## the device's two programs for ARM and static x86-64 (needs rustup's targets and cargo-zigbuild)
	scripts/cross
