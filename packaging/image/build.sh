#!/usr/bin/env bash
# Makes the container image of a built static binary: packaging/image/build.sh BINARY ARCHIVE
#
# It is what the last stage of the Dockerfile makes, without the stage that builds. As that is FROM scratch, no registry is asked.
# Needs Debian's buildah and binutils. ARCHIVE is what `podman load -i` and `docker load -i` take, with the image `ripstop`. The same
# binary, version and commit give the same image.
set -euo pipefail
binary=$(realpath "$1")
archive=$(realpath -m "$2")
cd "$(dirname "$0")/../.."

file -L "$binary" | grep -Eq 'static-pie linked|statically linked' || {
  echo "$binary is no static binary, and the image holds nothing else: packaging/rustflags.sh says how one is built" >&2
  exit 1
}
version=$("$binary" --version | awk '{print $2}')
revision=${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/context/out"
strip --strip-all --remove-section=.comment -o "$work/context/out/ripstop" "$binary"
chmod 755 "$work/context/out/ripstop"
sed -n '/^FROM scratch/,$s/^COPY --from=build /COPY /p' Dockerfile | grep -q . || {
  echo "the Dockerfile's last stage is not as this script knows it: FROM scratch, with COPY --from=build" >&2
  exit 1
}
sed -n '/^FROM scratch/,$p' Dockerfile | sed 's/^COPY --from=build /COPY /' >"$work/Dockerfile"

# A store of its own, so that nothing is left on this machine.
store=(--root "$work/store" --runroot "$work/run" --storage-driver vfs)
buildah "${store[@]}" bud --isolation chroot --format docker --timestamp "$SOURCE_DATE_EPOCH" --quiet \
  --build-arg VERSION="$version" --build-arg REVISION="$revision" \
  --tag localhost/ripstop:latest --file "$work/Dockerfile" "$work/context" >/dev/null
rm -f "$archive"
buildah "${store[@]}" push --quiet localhost/ripstop:latest "docker-archive:$archive:localhost/ripstop:latest"
printf 'image ripstop %s: %s bytes, %s compressed\n' "$version" "$(stat -c %s "$archive")" "$(gzip -c "$archive" | wc -c)"
