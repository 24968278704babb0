#!/usr/bin/env bash
# The systems that `cargo bench --bench compare` measures beside the fabric: Debian's from apt (root), crates.io's into
# target/peers/bin, once. Says at the end what is there and what is not; the measurement does too.
#
#   sudo benches/compare/peers.sh
set -uo pipefail
cd "$(dirname "$0")/../.."

# package:program; wireguard-tools sets up wireguard-go and boringtun.
packages=(
  wireguard-go:wireguard-go wireguard-tools:wg openvpn:openvpn nebula:nebula haproxy:haproxy
  unbound:unbound dnsperf:dnsperf wrk:wrk nginx-light:nginx iperf3:iperf3
)
# crate@version:program, the versions that are compared.
crates=(boringtun-cli@0.7.1:boringtun-cli quincy-client@3.1.1:quincy-client quincy-server@3.1.1:quincy-server)

missing=()
for one in "${packages[@]}"; do
  command -v "${one#*:}" >/dev/null || missing+=("${one%%:*}")
done
if [ ${#missing[@]} -gt 0 ]; then
  printf 'installing Debian packages: %s\n' "${missing[*]}"
  # None of them is to start as a service of this machine.
  policy=/usr/sbin/policy-rc.d made=no
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=yes
  fi
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  # One by one: what another Debian lacks keeps nothing else away.
  apt-get update -qq
  for one in "${missing[@]}"; do
    apt-get install -y -qq --no-install-recommends "$one" >/dev/null || printf 'apt-get cannot install %s\n' "$one"
  done
  [ $made = yes ] && rm -f $policy
fi

for one in "${crates[@]}"; do
  [ -x "target/peers/bin/${one#*:}" ] && continue
  cargo install --locked --quiet --root target/peers "${one%%:*}" || printf 'cargo cannot install %s\n' "${one%%:*}"
done

absent=0
for one in "${packages[@]}" "${crates[@]}"; do
  program=${one#*:}
  if path=$(PATH="$PWD/target/peers/bin:$PATH:/usr/sbin:/sbin" command -v "$program"); then
    printf '%-14s %s\n' "$program" "$path"
  else
    printf '%-14s ABSENT (%s)\n' "$program" "${one%%:*}"
    absent=$((absent + 1))
  fi
done
[ $absent -eq 0 ]
