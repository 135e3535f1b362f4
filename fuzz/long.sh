#!/usr/bin/env bash
# Runs every target for so many seconds, or those whose names contain a word: `make fuzz`.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly SECONDS_EACH=$1 ONLY=${2:-}
: "${CARGO:=cargo}"
export CARGO_PROFILE_DEV_OPT_LEVEL=1 RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/instrumented.sh
readonly CRATES=(server node cli identity)

tests() {
  local crate=$1
  shift
  local kind=--lib
  [ "$crate" != cli ] || kind=--bins
  "$CARGO" test --quiet -p "sockpilot-$crate" --features sockpilot-fuzz/libfuzzer "$kind" "$@"
}

failed=()
for crate in "${CRATES[@]}"; do
  listed=$(tests "$crate" -- fuzz_ --list)
  while IFS= read -r line; do
    case $line in *"$ONLY"*': test') ;; *) continue ;; esac
    name=${line%: test}
    printf '\n-- %s, %s s\n' "$name" "$SECONDS_EACH"
    SOCKPILOT_FUZZ_S=$SECONDS_EACH tests "$crate" -- --exact "$name" --nocapture </dev/null || failed+=("$name")
  done <<<"$listed"
done
if [ ${#failed[@]} -gt 0 ]; then
  printf 'harm was done in: %s\n' "${failed[*]}" >&2
  exit 1
fi
