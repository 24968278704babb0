# syntax=docker/dockerfile:1
# Ripstop as an image that holds one static binary and nothing else.
#
#   docker build -t ripstop .
#
# The agent works on its host's network, so it runs there:
#
#   docker run --rm --name ripstop --network host \
#     --cap-add NET_ADMIN --cap-add SYS_ADMIN --device /dev/net/tun \
#     -v /etc/ripstop:/etc/ripstop -v /run/ripstop:/run/ripstop -v /var/lib/ripstop:/var/lib/ripstop \
#     -v /run/netns:/run/netns:rslave \
#     ripstop agent --config /etc/ripstop/agent.yaml
#
# The image has no users of its own: for workloads that the graph names as `user: NAME` add `-v /etc/passwd:/etc/passwd:ro`, or
# give them by number. For `ip netns exec` on the host to find the fabric's resolver add `-v /etc/netns:/etc/netns`.
#
# NET_ADMIN makes the interfaces, rules and routes; SYS_ADMIN enters the workloads' network namespaces, which only a process of its
# own keeps, the door. --pid host and --cap-add SYS_PTRACE are needed only where the graph names namespaces by /proc/PID/ns/net, or
# containers.

ARG RUST_VERSION=1.95
ARG DEBIAN=bookworm

FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS build
# aws-lc, the cryptographic library, is C.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential file \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# crt-static needs an explicit target: without one it would be applied to procedural macros too, which are shared objects.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(uname -m)-unknown-linux-gnu" \
 && cargo build --release --locked --target "$target" --bin ripstop \
 && install -D "target/$target/release/ripstop" /out/ripstop \
 && file /out/ripstop | grep -Eq 'static-pie linked|statically linked'

FROM scratch
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Ripstop" \
      org.opencontainers.image.description="A sidecar-free service fabric: the network between services, derived from a declared service graph" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/ripstop/ripstop" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /out/ripstop /ripstop
EXPOSE 7477/udp 7477/tcp 7478/tcp
STOPSIGNAL SIGTERM
ENTRYPOINT ["/ripstop"]
CMD ["agent", "--config", "/etc/ripstop/agent.yaml"]
