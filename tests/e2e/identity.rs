//! Who called is known, whoever calls: thousands of short flows of users and namespaces, from the same ports again and
//! again, some of programs that are gone before their first packet is read.

use crate::lab::Lab;
use std::{
    io::{Read, Write},
    net::{IpAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Two users and two namespaces, and the port that each of them calls, by which the others know who it ought to be.
const CALLERS: [(&str, u16); 4] = [("one", 8081), ("two", 8082), ("ann", 8083), ("bob", 8084)];
/// Flows of each.
const FLOWS: usize = 2_500;
/// Every so many flows one is left by its program before it is open.
const DEAD: usize = 5;
/// All of it may take so long.
const LONGEST: Duration = Duration::from_secs(40);

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      one: { on: [alpha], run: { netns: one } }
      two: { on: [alpha], run: { netns: two } }
      ann: { on: [alpha], run: { user: 64001 } }
      bob: { on: [alpha], run: { user: 64002 } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, ports: [8081, 8082, 8083, 8084] }
    allow:
      - { from: one, to: api }
      - { from: two, to: api }
      - { from: ann, to: api }
      - { from: bob, to: api }
";

/// Opens flows from sixteen ports in turn, each closed by a reset so that its 4-tuple is free at once; prints how many were
/// not answered with the address that they were sent from.
const CALL: &str = "
import os, socket, struct, sys
to, flows, dead = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4])
def flow(number):
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    caller.settimeout(10)
    caller.bind(('', 20000 + number % 16))
    return caller
wrong = 0
for number in range(flows):
    caller = flow(number)
    if number % dead == 0:
        if os.fork() == 0:
            caller.setblocking(False)
            caller.connect_ex(to)
            os._exit(0)
        caller.close()
        os.wait()
        continue
    caller.connect(to)
    seen = caller.recv(64).decode()
    wrong += seen != caller.getsockname()[0]
    caller.close()
print(wrong)
";

/// Tells a caller from where it comes, and counts those that come from elsewhere than they ought to.
fn greet(mut stream: TcpStream, expected: IpAddr, strangers: &AtomicUsize) {
    let Ok(from) = stream.peer_addr().map(|from| from.ip().to_canonical()) else { return };
    if from != expected {
        strangers.fetch_add(1, Ordering::Relaxed);
    }
    let _ = stream.write_all(from.to_string().as_bytes());
    let _ = stream.read(&mut [0; 16]);
}

#[test]
fn ten_thousand_flows_are_each_their_caller_s() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let strangers = Arc::new(AtomicUsize::new(0));
    let servers: Vec<_> = CALLERS
        .into_iter()
        .map(|(name, port)| {
            let index = lab.policy().workload(&format!("shop/{name}").parse().unwrap()).unwrap();
            let expected = IpAddr::V4(lab.policy().workload_entry(index).v4);
            let strangers = Arc::clone(&strangers);
            lab.workload("api").serve(port, move |stream| greet(stream, expected, &strangers))
        })
        .collect();
    let begun = Instant::now();
    let calling: Vec<_> = CALLERS
        .into_iter()
        .map(|(name, port)| {
            let (place, to) = (lab.workload(name), lab.service("shop/api", port));
            let [ip, port, flows, dead] =
                [to.ip().to_string(), to.port().to_string(), FLOWS.to_string(), DEAD.to_string()];
            let said = move || place.ok(&["/usr/bin/python3", "-c", CALL, &ip, &port, &flows, &dead]);
            (name, thread::spawn(said))
        })
        .collect();
    for (name, calling) in calling {
        assert_eq!(calling.join().unwrap(), "0\n", "{name} was taken for another");
    }
    let took = begun.elapsed();
    eprintln!("{} flows in {:.1} s", FLOWS * CALLERS.len(), took.as_secs_f64());
    assert!(took < LONGEST, "{took:?}");
    assert_eq!(
        strangers.load(Ordering::Relaxed),
        0,
        "callers from elsewhere than they ought to be, as the server saw it"
    );
    let records = lab.agent("alpha").wait_records(FLOWS * CALLERS.len(), |_| true);
    for (host, records) in [("alpha", records), ("beta", lab.agent("beta").records())] {
        let answered = FLOWS * CALLERS.len() * (DEAD - 1) / DEAD;
        assert!(records.len() >= answered, "{host}: {}", records.len());
        for record in &records {
            assert_eq!(record["verdict"], "allow", "{host}: {record}");
            let port = record["port"].as_u64().unwrap_or(0);
            let (name, _) = CALLERS.into_iter().find(|(_, own)| u64::from(*own) == port).expect("one of the ports");
            assert_eq!(record["caller"], format!("shop/{name}"), "{host}: {record}");
        }
    }
    drop(servers);
}
