#!/usr/bin/env bash
# Trains the profile by which the static binary is optimised, packaging/pgo/ripstop.profdata.xz:
#
#   sudo packaging/pgo/train.sh
#
# A binary that counts how often each branch is taken carries every load of the benchmarks once, and reads a large graph. From the
# counts the compiler knows which code is worth its size, and what is to lie beside it (profile-guided optimisation,
# https://doc.rust-lang.org/rustc/profile-guided-optimization.html); what never ran is made small. They are kept in files that are mapped
# into memory before the agent gives up its access to others, and are all there however it ends; such files cannot hold
# values as well, so there are none. The door, which starts without an environment, is not counted.
#
# Half an hour, most of it compilation. Needs iperf3, wrk, nginx and dnsperf, and LLVM's llvm-profdata, from 19 to the compiler's own version:
# $LLVM_PROFDATA, rustup's (component llvm-tools) or Debian's (llvm-19). A profile is of one compiler, one set of dependencies and the
# code at that time: functions that have changed since are compiled as if there were none.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/pgo
target=$(uname -m)-unknown-linux-gnu

stop() { echo "$*" >&2 && exit 1; }
[ "$target" = x86_64-unknown-linux-gnu ] || stop "the profile is of x86_64, see packaging/rustflags.sh"
[ "$(id -u)" -eq 0 ] || stop "the benchmarks make hosts: they need root"
for one in iperf3 wrk nginx dnsperf; do command -v $one >/dev/null || stop "$one is missing"; done

newest=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
tool=
for one in "${LLVM_PROFDATA:-}" "$(rustc --print sysroot)/lib/rustlib/$target/bin/llvm-profdata" /usr/lib/llvm-*/bin/llvm-profdata; do
  [ -x "$one" ] && [ -z "$tool" ] || continue
  version=$("$one" --version 2>/dev/null | sed -n 's/.*LLVM version \([0-9]*\).*/\1/p') || continue
  [ "${version:-0}" -lt 19 ] || [ "$version" -gt "$newest" ] || tool=$one
done
[ -n "$tool" ] || stop "no llvm-profdata from 19 to $newest: apt-get install llvm-19, or rustup component add llvm-tools"

# The binary, and what loads it.
flags=$(packaging/rustflags.sh untrained)
for flag in "-Cprofile-generate=$out/counts" -Cllvm-args=-runtime-counter-relocation -Cllvm-args=-disable-vp=true; do
  flags+=$'\037'$flag
done
CARGO_ENCODED_RUSTFLAGS=$flags CARGO_TARGET_DIR=$out cargo build --release --locked --target "$target" --bin ripstop
cargo bench --locked --bench compare --bench fabric --no-run

# 50 hosts, 5 000 services, an edge to each.
large_graph() {
  seq 50 | awk 'BEGIN { print "fabric: large.test\nhosts:" } { print "  h" $1 ": { address: 192.0.2." $1 " }" }'
  seq 5000 | awk '
    BEGIN { print "tenants:\n  t:\n    workloads:\n      caller: { on: [h1], run: { netns: caller } }" }
    { host = $1 % 50 + 1
      workloads = workloads "      w" $1 ": { on: [h" host "], run: { netns: w" $1 " } }\n"
      services = services "      s" $1 ": { by: w" $1 ", port: 8080/tcp }\n"
      edges = edges "      - { from: caller, to: s" $1 " }\n" }
    END { printf "%s    services:\n%s    allow:\n%s", workloads, services, edges }'
}

rm -rf "$out/counts"
mkdir -m 777 "$out/counts"
# A directory for each process: the benchmarks' hosts number theirs alike.
cat >"$out/ripstop" <<END
#!/bin/sh
LLVM_PROFILE_FILE=\$(mktemp -d "$out/counts/XXXXXX")/%c.profraw
export LLVM_PROFILE_FILE
exec "$out/$target/release/ripstop" "\$@"
END
chmod 755 "$out/ripstop"
export RIPSTOP_LAB_BINARY=$out/ripstop
large_graph >"$out/large.yaml"
"$RIPSTOP_LAB_BINARY" graph check "$out/large.yaml"
others=(direct bare-tun wireguard-go boringtun openvpn nebula quincy haproxy)
cargo bench --locked --bench compare -- --quick "${others[@]/#/--without=}"
cargo bench --locked --bench fabric -- --quick

[ -z "$(find "$out/counts" -mindepth 1 -type d -empty)" ] || stop "a process has left no counts below $out/counts"
"$tool" merge -o "$out/merged.profdata" "$out/counts"
xz -9 --stdout "$out/merged.profdata" >"$out/merged.profdata.xz"
mv "$out/merged.profdata.xz" packaging/pgo/ripstop.profdata.xz
rustc --version >packaging/pgo/compiler
ls -l packaging/pgo/ripstop.profdata.xz
