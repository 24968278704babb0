//! Tenants below each other: what crosses between them, and what does not.

use crate::{
    lab::{Lab, ripstop},
    servers::echo,
};
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      admin: { on: [alpha], run: { netns: admin } }
      db: { on: [beta], run: { netns: db } }
    services:
      db: { by: db, port: 5432/tcp, export: [shop/eu] }
    allow:
      - { from: admin, to: shop/eu/api }
  shop/eu:
    limit: { sessions: 2 }
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp, export: [shop] }
    allow:
      - { from: web, to: shop/db }
  shop/us:
    workloads:
      desk: { on: [alpha], run: { netns: desk } }
    allow:
      - { from: desk, to: shop/db }
      - { from: desk, to: shop/eu/api }
";

fn open(lab: &Lab, workload: &str, service: &str, port: u16) -> std::io::Result<TcpStream> {
    let mut stream = lab.workload(workload).connect(lab.service(service, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])?;
    Ok(stream)
}

/// The reason of the newest denial of a caller's.
fn denied(lab: &Lab, caller: &str, count: usize) -> String {
    let records =
        lab.agent("alpha").wait_records(count, |record| record["caller"] == caller && record["verdict"] == "deny");
    records.last().unwrap()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn what_crosses_between_a_tenant_and_one_below_it_has_both_consents() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let _servers = [lab.workload("db").serve(5432, echo), lab.workload("api").serve(8080, echo)];
    // Up, down, and to a sister, as what is exported to a tenant is exported to those below it.
    let mut session = open(&lab, "web", "shop/db", 5432).expect("the tenant above exports it, and the edge is here");
    open(&lab, "admin", "shop/eu/api", 8080).expect("the tenant below exports it to the one above");
    open(&lab, "desk", "shop/eu/api", 8080).expect("a sister is below the one above, too");
    let record = lab.agent("beta").record(|record| record["caller"] == "shop/us/desk");
    assert_eq!((&record["service"], &record["verdict"]), (&"shop/eu/api".into(), &"allow".into()), "{record}");
    let name = |workload: &str, name: &str| lab.workload(workload).run(&["getent", "ahostsv4", name]).status.success();
    assert!(name("web", "db.shop.lab.test") && name("admin", "api.eu.shop.lab.test"));

    // One consent is none: the edge is there, the export is not.
    assert_eq!(open(&lab, "desk", "shop/db", 5432).expect_err("not exported").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(denied(&lab, "shop/us/desk", 1), "not_exported");
    assert!(!name("desk", "db.shop.lab.test"), "nor is its name told");
    let (_, said) = lab.host("alpha").fails(&[ripstop(), "explain", "desk", "shop/db:5432"]);
    assert!(said.contains("not_exported") && said.contains("export"), "{said}");

    // The limit of the tenant holds its callers together.
    let second = open(&lab, "web", "shop/db", 5432).expect("the second of two");
    open(&lab, "web", "shop/db", 5432).expect_err("no third");
    assert_eq!(denied(&lab, "shop/eu/web", 1), "sessions");
    drop(second);

    // Either side takes its consent back, and what is open is cut.
    lab.edit_graph(|graph| graph.replace(", export: [shop/eu]", ""));
    assert_eq!(session.read(&mut [0; 4]).expect_err("cut").kind(), ErrorKind::ConnectionReset);
    open(&lab, "web", "shop/db", 5432).expect_err("not exported any more");
    assert_eq!(denied(&lab, "shop/eu/web", 2), "not_exported");
    lab.edit_graph(|graph| {
        graph
            .replace("port: 5432/tcp", "port: 5432/tcp, export: [shop/eu]")
            .replace("{ from: web, to: shop/db }", "{ from: web, to: api }")
    });
    open(&lab, "web", "shop/db", 5432).expect_err("no edge any more");
    assert_eq!(denied(&lab, "shop/eu/web", 3), "no_edge");
    open(&lab, "web", "shop/eu/api", 8080).expect("its own tenant's needs no export");
}
