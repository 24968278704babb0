//! What limits cost each datagram, each read and each new session: limits of session, edge, workload, service and tenant, none
//! of which is reached.

use crate::{Round, bed};
use futures::FutureExt;
use ripstop_datapath::session::{
    limits::{Admission, LimitTable},
    live::Request,
    pump::Way,
};
use ripstop_policy::{Policy, Verdict};
use ripstop_telemetry::Side;
use std::{hint::black_box, time::Duration};

pub(crate) fn request(caller: &str, service: &str, port: &str) -> Request {
    Request {
        side: Side::Caller,
        caller: caller.parse().unwrap(),
        service: Some(service.parse().unwrap()),
        port: port.parse().unwrap(),
        v6: false,
        speaker: bed::host("alpha"),
    }
}

pub(crate) fn admitted(table: &LimitTable, policy: &Policy, request: &Request) -> Admission {
    let (caller, service) = (policy.workload(&request.caller).unwrap(), request.service.as_ref().unwrap());
    let service = policy.service(service).unwrap();
    let Verdict::Allow(permit) = policy.decide(caller, service, request.port) else { panic!("it has an edge") };
    table.admit(policy, &permit, request, service, &bed::host("alpha")).expect("far from any limit")
}

/// A datagram without any byte rate. The tenant's and the service's are on others.
pub(crate) fn none() -> Round {
    let policy = ripstop_policy::compile(
        ripstop_config::Graph::parse(
            "bench",
            "{ fabric: f, hosts: { alpha: }, tenants: { t: { workloads: { w: { on: alpha, run: { netns: w } } }, \
             services: { s: { by: w, port: 53/udp } }, allow: [{ from: w, to: s }] } } }",
        )
        .unwrap(),
    );
    let admission = admitted(&LimitTable::default(), &policy.unwrap(), &request("t/w", "t/s", "53/udp"));
    Box::new(move || assert!(black_box(&admission).police(Way::Up, 1_200)))
}

/// A datagram under five byte rates.
pub(crate) fn police() -> Round {
    let admission = admitted(&LimitTable::default(), &bed::policy(), &request("shop/web", "shop/api", "9125/udp"));
    Box::new(move || assert!(black_box(&admission).police(Way::Up, 1_200)))
}

/// Bytes of a stream that are read at once, far below what the rates allow in the time that a round takes.
const READ: usize = 8 * 1024;
/// Longer than it takes a bucket to fill: a stream's is empty when it is first used.
const FILLED: Duration = Duration::from_millis(100);

/// A read of a stream under five byte rates.
pub(crate) fn shape() -> Round {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let admission = admitted(&LimitTable::default(), &bed::policy(), &request("shop/web", "shop/api", "8080"));
    let shaper = admission.shaper(Way::Up);
    runtime.block_on(async {
        shaper.take(READ).await;
        tokio::time::sleep(FILLED).await;
    });
    Box::new(move || {
        assert!(shaper.unit().is_some());
        assert_eq!(shaper.take(READ).now_or_never(), Some(false));
    })
}

/// A session that is admitted, and ends.
pub(crate) fn admit() -> Round {
    let (table, policy) = (LimitTable::default(), bed::policy());
    let request = request("shop/web", "shop/api", "8080");
    Box::new(move || drop(admitted(&table, &policy, black_box(&request))))
}
