# What a person calls. Every target first sees to it that all tools are there (setup.sh does nothing if they are).
.PHONY: help setup build demo test bench fmt clean
.DEFAULT_GOAL := help
SHELL := /bin/bash

say = @printf '\n== %s\n' '$(1)'
# setup.sh writes which toolchain builds the kernel program.
cargo = source target/setup.env && cargo
or_fail = || { printf '\nmake $@ failed: %s\n' '$(1)' >&2; exit 1; }

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: ## Install what is missing
	@./setup.sh

build: setup ## Build everything, the kernel program too
	$(call say,Building all binaries and the kernel program)
	@$(cargo) build --workspace --bins $(call or_fail,the build; the compiler says why above.)

demo: build ## A policy and a 10% experiment on real connections, in under three minutes
	@target/debug/sockpilot-demo $(call or_fail,the demo; its last lines say what was not as expected.)

test: setup ## Formatting, lints, documentation and all tests
	$(call say,Formatting)
	@$(cargo) fmt --all --check $(call or_fail,some files are not formatted; run make fmt.)
	@cd ebpf && cargo fmt --check $(call or_fail,the kernel program is not formatted; run make fmt.)
	$(call say,Lints of all crates; building them and the kernel program)
	@$(cargo) clippy --workspace --all-targets --quiet -- -D warnings $(call or_fail,clippy has complaints; see above.)
	$(call say,Documentation: no broken links)
	@source target/setup.env && RUSTDOCFLAGS='-D warnings' cargo doc --workspace --lib --no-deps --quiet $(call or_fail,the documentation has faults; see above.)
	$(call say,Building all binaries for the tests)
	@$(cargo) build --workspace --bins --quiet $(call or_fail,the build; the compiler says why above.)
	$(call say,All tests: units and doc tests and kernel and whole system)
	@$(cargo) test --workspace --no-fail-fast $(call or_fail,a test; its name and its words are above.)
	$(call say,All of it passed.)

bench: setup ## Measure; figures go to target/bench/summary.json
	$(call say,Building for release)
	@$(cargo) build --workspace --bins --release $(call or_fail,the release build; see above.)
	@target/release/sockpilot-bench $(call or_fail,the benchmark; see above.)

fmt: ## Format all sources
	@$(cargo) fmt --all && cd ebpf && cargo fmt

clean: ## Remove everything that was built
	@cargo clean
