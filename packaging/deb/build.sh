#!/usr/bin/env bash
# Makes the Debian package of a built binary: packaging/deb/build.sh BINARY DIRECTORY
#
# Needs nothing but dpkg and binutils. The same binary, version and commit give the same package.
set -euo pipefail
binary=$(realpath "$1")
out=$(realpath "$2")
cd "$(dirname "$0")/../.."

version=$("$binary" --version | awk '{print $2}')
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# mktemp makes it 0700, and it becomes the package's /.
chmod 755 "$root"
umask 022

put() { install -D -m "${3:-644}" "$1" "$root/$2"; }

packed() { gzip -9n >"$root/$1"; }

put "$binary" usr/bin/ripstop 755
strip --strip-unneeded --remove-section=.comment "$root/usr/bin/ripstop"

for unit in ripstop.service ripstop-door.socket ripstop-door@.service; do
  sed 's|/usr/local/bin/ripstop|/usr/bin/ripstop|g' packaging/$unit >"$root/unit"
  put "$root/unit" lib/systemd/system/$unit
  rm "$root/unit"
done
put packaging/deb/tmpfiles.conf usr/lib/tmpfiles.d/ripstop.conf

mkdir -p "$root/usr/share/man/man1"
"$binary" man "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*.1

for shell in bash:usr/share/bash-completion/completions/ripstop zsh:usr/share/zsh/vendor-completions/_ripstop \
  fish:usr/share/fish/vendor_completions.d/ripstop.fish; do
  mkdir -p "$root/$(dirname "${shell#*:}")"
  "$binary" completions "${shell%%:*}" >"$root/${shell#*:}"
done

doc=usr/share/doc/ripstop
for example in agent.yaml graph.yaml; do put packaging/$example $doc/examples/$example; done
for example in prometheus/recording.yml prometheus/alerts.yml grafana/ripstop.json; do put packaging/$example $doc/examples/${example##*/}; done
put docs/metrics.md $doc/metrics.md
put packaging/deb/copyright $doc/copyright
packed $doc/NEWS.gz <CHANGELOG.md
packed $doc/changelog.gz <<CHANGES
ripstop ($version) unstable; urgency=medium

  * What a user sees of it is in NEWS.gz.

 -- The Ripstop developers <ripstop@users.noreply.github.com>  $(date -uR -d "@$SOURCE_DATE_EPOCH")
CHANGES
put packaging/deb/lintian-overrides usr/share/lintian/overrides/ripstop

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do install -m 755 packaging/deb/$script "$root/DEBIAN/$script"; done
(cd "$root" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
cat >"$root/DEBIAN/control" <<CONTROL
Package: ripstop
Version: $version
Architecture: $architecture
Maintainer: The Ripstop developers <ripstop@users.noreply.github.com>
Installed-Size: $(du -sk --apparent-size "$root" | cut -f1)
Section: net
Priority: optional
Homepage: https://github.com/ripstop/ripstop
Suggests: prometheus, podman
Description: service fabric without sidecars, derived from a declared service graph
 You declare hosts, workloads, services and who may call whom. The agent of each
 host gives every workload an interface and a DNS view of its own, decides each
 connection before it is accepted, and carries it over QUIC, encrypted and
 mutually authenticated, to a host that runs the service.
 .
 The service is not started until /etc/ripstop/agent.yaml is there, which
 "ripstop init" or "ripstop join" makes.
CONTROL
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0r touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
dpkg-deb --root-owner-group -Zxz -z3 --build "$root" "$out/ripstop_${version}_$architecture.deb"
