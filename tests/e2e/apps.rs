//! PostgreSQL, Redis, SSH and iperf3 through the fabric, each with its own client.

use crate::{
    lab::Lab,
    servers::{iperf3, postgresql, redis, sshd},
};

/// A caller on alpha, and a workload and service of the same name on beta with the given port.
fn lab(service: &str, port: u16) -> Lab {
    let graph = format!(
        "
tenants:
  shop:
    workloads:
      web: {{ on: [alpha], run: {{ netns: web }} }}
      {service}: {{ on: [beta], run: {{ netns: {service} }}, isolated: true }}
    services:
      {service}: {{ by: {service}, port: {port}/tcp }}
    allow:
      - {{ from: web, to: {service} }}
"
    );
    Lab::of(&["alpha", "beta"]).graph(&graph).start()
}

#[test]
fn postgresql_with_psql() {
    let lab = lab("db", 5432);
    let _server = postgresql(&lab, &lab.workload("db"));
    let web = lab.workload("web");
    let psql = |sql: &str| {
        web.ok(&[
            "psql",
            "-h",
            "db.shop.lab.test",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
            "-Atqc",
            sql,
        ])
    };
    assert_eq!(psql("select 6 * 7").trim(), "42");
    psql("create table parcels (id int primary key, label text)");
    psql("insert into parcels select n, repeat(md5(n::text), 3) from generate_series(1, 100000) n");
    let sum = psql("select md5(string_agg(label, '' order by id)) from parcels");
    let copy = lab.path("parcels.tsv");
    psql(&format!("\\copy parcels to '{copy}'"));
    assert!(std::fs::metadata(&copy).unwrap().len() > 10_000_000, "COPY moved ten megabytes down");
    psql("create table again (id int primary key, label text)");
    psql(&format!("\\copy again from '{copy}'"));
    assert_eq!(psql("select md5(string_agg(label, '' order by id)) from again"), sum, "and the same up");
    let client = psql("select inet_client_addr()");
    let index = lab.policy().workload(&"shop/web".parse().unwrap()).unwrap();
    // psql takes the name's IPv6 address first, and an endpoint that listens on both families is called by the caller's.
    let caller = lab.policy().workload_entry(index).v6.to_string();
    assert_eq!(client.trim(), caller, "the endpoint sees who calls");
}

#[test]
fn redis_with_its_client_and_benchmark() {
    let lab = lab("cache", 6379);
    let _server = redis(&lab, &lab.workload("cache"));
    let web = lab.workload("web");
    let cli = |line: &[&str]| web.ok(&[&["redis-cli", "-h", "cache.shop.lab.test"][..], line].concat());
    assert_eq!(cli(&["set", "parcel", "delivered"]).trim(), "OK");
    assert_eq!(cli(&["get", "parcel"]).trim(), "delivered");
    let benchmark = [
        "redis-benchmark",
        "-h",
        "cache.shop.lab.test",
        "-n",
        "20000",
        "-c",
        "50",
        "-P",
        "4",
        "-d",
        "100",
        "-t",
        "set,get",
        "-q",
    ];
    let output = web.ok(&benchmark);
    assert_eq!(output.matches("requests per second").count(), 2, "{output}");
    println!(
        "{}",
        output.replace('\r', "\n").lines().filter(|line| line.contains("per second")).collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn ssh_where_the_server_speaks_first() {
    let lab = lab("shell", 22);
    let (_server, options) = sshd(&lab, &lab.workload("shell"));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let web = lab.workload("web");
    let ssh = |line: &str| web.ok(&[&["ssh"], &options[..], &["root@shell.shop.lab.test", line]].concat());
    assert_eq!(ssh("echo hello from $((40 + 2))"), "hello from 42\n");
    let moved = web.sh(&format!(
        "head -c 5000000 /dev/zero | ssh {} root@shell.shop.lab.test 'wc -c; head -c 3000000 /dev/zero' | wc -c",
        options.join(" ")
    ));
    assert_eq!(moved.trim(), "3000008", "the remote wc's line and three million bytes");
}

#[test]
fn iperf3_both_ways_with_one_and_eight_streams() {
    let lab = lab("bulk", 5201);
    let _server = iperf3(&lab, &lab.workload("bulk"));
    for (streams, reverse) in [("1", false), ("1", true), ("8", false), ("8", true)] {
        let mut line = vec!["iperf3", "-c", "bulk.shop.lab.test", "-t", "2", "-P", streams, "-J"];
        if reverse {
            line.push("-R");
        }
        let report: serde_json::Value = serde_json::from_str(&lab.workload("web").ok(&line)).unwrap();
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
        println!("iperf3 with {streams} streams{}: {:.2} Gbit/s", if reverse { ", reverse" } else { "" }, rate / 1e9);
        assert!(rate > 100e6, "{rate} bits/s with {streams} streams, reverse {reverse}");
    }
    let records = lab.agent("alpha").wait_records(2 * 2 + 2 * 9, |record| record["verdict"] == "allow");
    let bytes: u64 = records.iter().map(|record| record["bytes_up"].as_u64().unwrap()).sum();
    assert!(bytes > 50_000_000, "the records account for what was sent: {bytes}");
}
