#!/usr/bin/env bash
# Set-up, build and all tests in a bare Debian 12: what `make check-fresh` runs, as root. Everything else about this machine is
# left out: only its kernel, its Rust toolchain (which is asked of everybody), and the way in which it reaches registries
# (apt's sources and settings, cargo's and pip's configuration, certificates of its own) are lent to the bare root.
#
# The root is made below target/fresh. Mounts are in a mount namespace of their own and processes in a control group of their
# own, so that nothing of either is left, however this ends.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly RELEASE=bookworm
readonly PLACE=$PWD/target/fresh
readonly ROOT=$PLACE/root
hierarchy=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
readonly GROUP=$hierarchy/sockpilot-fresh-$$

say() { printf 'check-fresh: %s\n' "$*"; }
die() {
  printf 'check-fresh failed: %s\n' "$*" >&2
  exit 1
}

# Ends what is still running in the bare root, and removes it.
clean_up() {
  if [ -d "$GROUP" ]; then
    echo 1 >"$GROUP/cgroup.kill"
    while grep -q 'populated 1' "$GROUP/cgroup.events"; do sleep 0.1; done
    find "$GROUP" -depth -type d -exec rmdir {} +
  fi
  # Never beyond what is on this file system: the mounts went with their namespace.
  rm -rf --one-file-system "$ROOT"
}

# Debian's own packages, as this machine gets them: `deb URI SUITE COMPONENT`.
sources() {
  apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' "Codename: $1" 'Origin: Debian' 'Created-By: Packages' |
    sort -u
}

make_root() {
  local base mirror
  base=$(sources $RELEASE)
  mirror=$(printf '%s\n' "$base" | awk '{ print $2; exit }')
  [ -n "$mirror" ] || die "this machine's apt knows no Debian 12 ($RELEASE); run apt-get update on a Debian 12."
  say "making a bare Debian 12 in target/fresh"
  mkdir -p "$PLACE"
  "${DEBOOTSTRAP:-debootstrap}" --variant=minbase $RELEASE "$ROOT" "$mirror" >"$PLACE/debootstrap.log" 2>&1 ||
    die "debootstrap failed; its words are in target/fresh/debootstrap.log."
  { printf '%s\n' "$base"; sources $RELEASE-updates; sources $RELEASE-security; } >"$ROOT/etc/apt/sources.list"
  apt-config dump | grep -E '^Acquire::.*(Proxy|CaInfo|Verify)' >"$ROOT/etc/apt/apt.conf.d/90lent" || true
  cp /etc/resolv.conf /etc/hosts "$ROOT/etc/"
  # Debian starts a service when it is installed; here nobody would stop it.
  printf '#!/bin/sh\nexit 101\n' >"$ROOT/usr/sbin/policy-rc.d"
  chmod +x "$ROOT/usr/sbin/policy-rc.d"
}

# What people have to have before: a toolchain by rustup. Nothing that set-up makes is in it.
lend_rust() {
  local cargo=${CARGO_HOME:-$HOME/.cargo} name
  mkdir -p "$ROOT/root/.cargo/bin" "$ROOT/root/.rustup/toolchains"
  cp -L "$(type -P "${RUSTUP:-rustup}")" "$ROOT/root/.cargo/bin/rustup"
  for name in cargo rustc rustdoc rustfmt cargo-fmt cargo-clippy clippy-driver; do
    ln -s rustup "$ROOT/root/.cargo/bin/$name"
  done
  # What was downloaded already is not downloaded again.
  [ ! -d "$cargo/registry" ] || cp -a "$cargo/registry" "$ROOT/root/.cargo/registry"
  for name in config config.toml; do
    [ ! -e "$cargo/$name" ] || cp "$cargo/$name" "$ROOT/root/.cargo/"
  done
  [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$ROOT/etc/"
  mkdir -p "$ROOT/usr/local/share/ca-certificates"
  cp -r /usr/local/share/ca-certificates/. "$ROOT/usr/local/share/ca-certificates/"
}

# The second half, in a mount and a cgroup namespace of its own.
inside() {
  local toolchain name
  toolchain=$("${RUSTUP:-rustup}" run stable rustc --print sysroot)
  name=$ROOT/root/.rustup/toolchains/${toolchain##*/}
  mkdir -p "$name"
  mount --bind "$toolchain" "$name"
  mount -o remount,bind,ro "$name"
  mount -t proc proc "$ROOT/proc"
  mount -t sysfs sysfs "$ROOT/sys"
  mount -t cgroup2 cgroup2 "$ROOT/sys/fs/cgroup"
  mount -t bpf bpf "$ROOT/sys/fs/bpf"
  mount --rbind /dev "$ROOT/dev"
  # As little on PATH as cron has; no variable of this machine's.
  exec chroot "$ROOT" env -i HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 CARGO_TERM_COLOR=never \
    bash -euc 'cd /sockpilot && ./setup.sh && make build && echo "check-fresh: set-up again, with all there" && time ./setup.sh && make test'
}

if [ "${1:-}" = inside ]; then
  inside
fi
[ "$(id -u)" = 0 ] || die "this needs root: debootstrap, mounts and the kernel's tests."
[ -n "$hierarchy" ] || die "this needs cgroup v2, which is mounted nowhere; mount it on /sys/fs/cgroup."
trap clean_up EXIT
trap 'exit 130' INT TERM
clean_up
began=$(date +%s)
make_root
lend_rust
mkdir "$ROOT/sockpilot"
"${GIT:-git}" diff --quiet HEAD || say "what is not committed is left out"
"${GIT:-git}" archive HEAD | tar -x -C "$ROOT/sockpilot"
mkdir "$GROUP"
(
  echo $BASHPID >"$GROUP/cgroup.procs"
  exec unshare --mount --cgroup --propagation=private tests/fresh.sh inside
)
say "a bare Debian 12 sets up, builds and passes its tests ($(($(date +%s) - began)) s)"
