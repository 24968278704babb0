# syntax=docker/dockerfile:1
# Ripstop as an image that holds one static binary and nothing else.
#
#   docker build -t ripstop .
#
# Without a registry, of a binary that is built: packaging/image/build.sh BINARY ARCHIVE. README says how to run it, and with which
# rights.

# The compiler that the profile is of (packaging/pgo/compiler).
ARG RUST_VERSION=1.95.0
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# aws-lc and ring, the cryptographic libraries, are C. Their compiler is that of the Debian release, which is what is fixed here.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential file xz-utils \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN target="$(uname -m)-unknown-linux-gnu" \
 && CARGO_ENCODED_RUSTFLAGS="$(packaging/rustflags.sh)" && export CARGO_ENCODED_RUSTFLAGS \
 && cargo build --release --locked --target "$target" --bin ripstop \
 && install -D "target/$target/release/ripstop" /out/ripstop \
 && strip --strip-all --remove-section=.comment /out/ripstop \
 && file /out/ripstop | grep -Eq 'static-pie linked|statically linked'

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Ripstop" \
      org.opencontainers.image.description="A sidecar-free service fabric: the network between services, derived from a declared service graph" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The Ripstop developers" \
      org.opencontainers.image.source="https://github.com/ripstop/ripstop" \
      org.opencontainers.image.documentation="https://github.com/ripstop/ripstop/blob/main/README.md" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ripstop /ripstop
EXPOSE 7477/udp 7477/tcp 7478/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/ripstop", "status", "--ready"]
ENTRYPOINT ["/ripstop"]
CMD ["agent", "--config", "/etc/ripstop/agent.yaml"]
