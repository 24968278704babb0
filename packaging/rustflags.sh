#!/bin/sh
# Prints what CARGO_ENCODED_RUSTFLAGS is to be where the static binary that ships is built:
#
#   CARGO_ENCODED_RUSTFLAGS=$(packaging/rustflags.sh) && export CARGO_ENCODED_RUSTFLAGS &&
#   cargo build --release --locked --target "$(uname -m)-unknown-linux-gnu" --bin ripstop
#
# crt-static needs an explicit target: without one it would be applied to procedural macros too, which are shared objects.
# `packaging/rustflags.sh untrained` leaves out the profile that the binary is optimised by (pgo/train.sh).
set -eu
cd "$(dirname "$0")/.." >/dev/null
case ${1:-} in '' | untrained) ;; *) echo "usage: packaging/rustflags.sh [untrained]" >&2 && exit 2 ;; esac

# The profile as the compiler takes it, named by its hash: packages that are not ours are built anew when a flag changes, and not when the
# file does that it names.
unpacked() {
  packed=packaging/pgo/ripstop.profdata.xz
  hash=$(sha256sum $packed)
  name=$PWD/target/pgo/${hash%% *}.profdata
  if [ ! -e "$name" ]; then
    mkdir -p target/pgo
    xz --decompress --stdout $packed >"$name.$$"
    mv "$name.$$" "$name"
  fi
  printf '%s\n' "$name"
}

# Packed relocations are half a megabyte less to read at each start.
flags="-Ctarget-feature=+crt-static -Clink-arg=-Wl,-z,pack-relative-relocs -Clinker-flavor=gcc"
profile=
if [ "$(uname -m)" = x86_64 ]; then
  # Here Rust links with LLD: functions that are the same code are one.
  flags="$flags -Clink-arg=-Wl,--icf=all"
  # The profile is of this architecture, and holds counts and no values.
  if [ "${1:-}" != untrained ]; then
    flags="$flags -Cllvm-args=-disable-vp=true"
    profile=$(unpacked)
    compiler=$(rustc --version)
    trained=$(cat packaging/pgo/compiler)
    [ "$compiler" = "$trained" ] || echo "the profile is of $trained, and tells $compiler little: packaging/pgo/train.sh" >&2
  fi
fi
# Cargo's separator, as a path may hold spaces.
printf '%s' "$flags" | tr ' ' '\037'
printf '\037-Clinker=%s' "$PWD/packaging/link.sh"
[ -z "$profile" ] || printf '\037-Cprofile-use=%s' "$profile"
echo
