//! End-to-end tests: whole hosts with real agents, real clients and real servers. They need root and /dev/net/tun, and run
//! one at a time; `tests/run.sh` runs them with the rest.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![expect(unreachable_pub, reason = "one binary: nothing of it is public, and `pub` reads better than `pub(crate)`")]

mod apps;
mod attach;
mod bad_input;
mod balance;
mod book;
mod both_ends;
mod bypass;
mod callers;
mod capture;
#[cfg(feature = "etcd")]
mod carriers;
mod cleanup;
mod cni;
mod demo;
mod denied;
mod dns;
mod dns_upstream;
mod drain;
mod enrol;
mod exec;
mod failover;
mod fairness;
mod flows;
mod full;
mod health;
mod http;
mod http3;
mod identity;
mod image;
mod impaired;
mod ipv6;
mod killed;
mod lab;
mod lab_itself;
mod limits;
mod long_lived;
mod operate;
mod operators;
#[cfg(feature = "otel")]
mod otel;
mod packets;
mod page;
mod pattern;
mod ping;
mod podman;
mod privilege;
mod records;
mod relay;
mod reload;
mod replicas;
mod resolved;
mod scale;
mod servers;
mod signed;
mod small;
mod source;
#[cfg(feature = "spire")]
mod spire;
mod stage;
mod tcp;
mod telemetry;
mod tenants;
mod threads;
mod truth;
mod udp;
mod units;
mod upgrade;
mod users;
mod voice;
