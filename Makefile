# What a person calls. Every target first sees to it that all tools are there (setup.sh does nothing if they are).
# Variables given to make reach set-up, build and tests: make hands them on in the environment.
.PHONY: help setup build demo test fuzz chaos bench check-fresh fmt clean
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
# Of each target of `make fuzz`, and the word in the names of those that are wanted.
FUZZ_S ?= 60
FUZZ ?=
CHAOS_FAULTS ?= 120

say = printf '\n== %s\n' '$(1)'
# setup.sh writes what builds the kernel program, and where the tests find what it has built.
environment = source target/setup.env
or_fail = || { printf '\nmake $@ failed: %s\n' '$(1)' >&2; exit 1; }

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20
	@printf '\nEach program can be replaced, as in make test CLANG=clang-19; by these variables, of which programs/list.txt says more:\n '
	@awk '!/^(#|$$)/ && $$2 != "-" && !seen[$$2]++ { sub("/", "", $$2); printf " %s", $$2 } END { print "" }' programs/list.txt

setup: ## Install what is missing
	@./setup.sh

build: setup ## Build everything, the kernel program too
	@$(call say,Building all binaries and the kernel program)
	@$(environment) && $(CARGO) build --workspace --bins $(call or_fail,the build; the compiler says why above.)

demo: build ## A policy and a 10% experiment on real connections, in under four minutes
	@$(environment) && target/debug/sockpilot-demo $(call or_fail,the demo; its last lines say what was not as expected.)

test: setup ## Formatting, lints, documentation and all tests
	@$(call say,Formatting)
	@$(environment) && $(CARGO) fmt --all --check $(call or_fail,some files are not formatted; run make fmt.)
	@$(environment) && cd ebpf && $(CARGO) fmt --check $(call or_fail,the kernel program is not formatted; run make fmt.)
	@$(call say,Lints of all crates; building them and the kernel program)
	@$(environment) && $(CARGO) clippy --workspace --all-targets --quiet -- -D warnings $(call or_fail,clippy has complaints; see above.)
	@$(call say,Documentation: no broken links)
	@$(environment) && RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --lib --no-deps --quiet $(call or_fail,the documentation has faults; see above.)
	@$(call say,Building all binaries for the tests)
	@$(environment) && $(CARGO) build --workspace --bins --quiet $(call or_fail,the build; the compiler says why above.)
	@$(environment) && $(CARGO) build -p sockpilot-node --features layout-next --bin sockpilot-node-next --quiet $(call or_fail,the build of the daemon with another layout; the compiler says why above.)
	@$(call say,All tests: units and doc tests and kernel and whole system)
	@rm -f target/skipped.txt && touch target/skipped.txt
	@$(environment) && SOCKPILOT_SKIPPED=$(CURDIR)/target/skipped.txt $(CARGO) test --workspace --no-fail-fast $(call or_fail,a test; its name and its words are above.)
	@if [ -s target/skipped.txt ]; then $(call say,Not all of it ran. Skipped:); sort target/skipped.txt; fi
	@$(call say,All of it passed.)

fuzz: setup ## Fuzz what reads others' bytes, each target for FUZZ_S=60 seconds, or those of FUZZ=name
	@$(call say,Fuzzing; it is built so that it counts where it comes)
	@$(environment) && fuzz/long.sh $(FUZZ_S) $(FUZZ) $(call or_fail,a target; the input that does harm is in target/fuzz/found.)

chaos: build ## Kill, stop, cut off and fill up at random, CHAOS_FAULTS=120 times, as SOCKPILOT_CHAOS_SEED says
	@$(call say,Everything that can fail does)
	@$(environment) && SOCKPILOT_CHAOS_FAULTS=$(CHAOS_FAULTS) $(CARGO) test -p sockpilot-tests --test scenario_chaos -- --nocapture $(call or_fail,what the checker says; the seed above runs it again.)

bench: setup ## Measure; figures go to target/bench/summary.json
	@$(call say,Building for release)
	@$(environment) && $(CARGO) build --workspace --bins --release $(call or_fail,the release build; see above.)
	@$(environment) && target/release/sockpilot-bench $(call or_fail,the benchmark; see above.)

check-fresh: ## Set-up, build and all tests in a bare Debian 12, as root
	@./setup.sh fresh
	@tests/fresh.sh $(call or_fail,something in a bare Debian 12; see above.)

fmt: ## Format all sources
	@$(environment) && $(CARGO) fmt --all && cd ebpf && $(CARGO) fmt

clean: ## Remove everything that was built
	@$(CARGO) clean
