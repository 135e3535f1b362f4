#!/usr/bin/env bash
# Compiles a crate of the workspace for cargo (RUSTC_WORKSPACE_WRAPPER), so that its code counts where it comes. What runs while building
# does not: cargo optimizes that less.
case " $* " in
  *' opt-level=1 '*)
    for pass in level=4 inline-8bit-counters pc-table trace-compares; do
      set -- "$@" -Cllvm-args=-sanitizer-coverage-$pass
    done
    exec "$@" -Cpasses=sancov-module
    ;;
  *) exec "$@" ;;
esac
