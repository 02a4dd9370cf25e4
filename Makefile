# Everything is two commands on a fresh Debian 12 machine as root: `make demo` and `make test`.
SHELL := /bin/bash
CARGO := scripts/cargo
TARGET = target/$(shell uname -m)-unknown-linux-gnu
ENGINES := 20 28

.PHONY: demo test lint bench build release clean

# Deploys the small example under load and prints the plan, the steps and the proof.
demo: release
	scripts/setup engine compose
	examples/web/build v1 v2
	scripts/demo

build:
	scripts/setup build
	$(CARGO) build --workspace

release:
	scripts/setup build
	$(CARGO) build --release --package handover --package handover-lab

# All tests: the pure ones, those that need this machine's kernel, and those on real engines of both ages.
test:
	scripts/setup all
	scripts/test $(ENGINES)

lint:
	scripts/setup lint
	scripts/lint

# Not a test: prints the table that is in the README.
bench: release
	scripts/setup engine compose engines images
	scripts/bench

clean:
	$(CARGO) clean
