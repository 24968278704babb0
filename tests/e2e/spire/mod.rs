//! Hosts whose identity comes by the Workload API of SPIFFE, of a stand-in for SPIRE's agent on each.

mod stand_in;

use crate::{
    lab::{Lab, ripstop, within},
    servers::{echo, nginx},
};
use serde_json::Value;
use stand_in::{Ca, StandIn, X509Svid};
use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::Duration,
};

const SETTINGS: &str = "state: state\nidentity: { spire: 'unix:///run/workload-api.sock' }\n";
const URL: &str = "http://api.shop.lab.test:8080/who";
/// How soon a host is disconnected for which the trust bundle does not vouch any more (the 5 s for what is revoked).
const CUT: Duration = Duration::from_secs(5);
/// How soon all else is seen.
const SOON: Duration = Duration::from_secs(8);
const HOUR: Duration = Duration::from_secs(3_600);

/// The host's /run, as this process sees it.
fn run(lab: &Lab, host: &str) -> PathBuf {
    lab.agent(host).socket().ancestors().nth(2).unwrap().to_owned()
}

fn host(name: &str) -> String {
    format!("spiffe://lab.test/host/{name}")
}

/// Both hosts, their Workload APIs, and two CAs of the fabric, the second in place of the first in the end.
struct Bed {
    lab: Lab,
    alpha: StandIn,
    beta: StandIn,
    one: Ca,
    two: Ca,
}

impl Bed {
    fn new() -> Self {
        let hosts = Lab::of(&["alpha", "beta"]).settings("alpha", SETTINGS).settings("beta", SETTINGS);
        let lab = hosts.without_agent("alpha").without_agent("beta").start();
        let socket = |host: &str| run(&lab, host).join("workload-api.sock");
        let (alpha, beta) = (StandIn::at(socket("alpha")), StandIn::at(socket("beta")));
        Self { alpha, beta, one: Ca::new("one"), two: Ca::new("two"), lab }
    }

    fn run(&self, host: &str) -> PathBuf {
        run(&self.lab, host)
    }

    fn svid(&self, ca: &Ca, name: &str, serial: u64, bundle: &[&Ca]) -> Vec<X509Svid> {
        // A quarter of its life is over, so that another one is not due yet.
        vec![ca.svid(&host(name), serial, 3 * HOUR, bundle)]
    }

    fn status(&self, name: &str) -> Value {
        self.lab.agent(name).status()
    }

    fn has_serial(&self, name: &str, serial: u64) {
        within(SOON, "the certificate", || self.status(name)["identity"]["serial"] == format!("{serial:02x}"));
    }

    /// What `ripstop status` says on a host whose agent serves nothing.
    fn waits(&self, name: &str, why: &str) {
        let status = [ripstop(), "status"];
        within(SOON, why, || {
            let output = self.lab.host(name).run(&status);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            !output.status.success()
                && said.contains("waits for its identity, and serves nothing")
                && said.contains(why)
        });
    }

    fn asks(&self) -> bool {
        let output = self.lab.workload("web").run(&["curl", "-sS", "-m", "2", URL]);
        String::from_utf8_lossy(&output.stdout) == "beta\n"
    }
}

fn says(mut stream: &TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"still").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"still"
}

#[test]
fn identities_come_and_go_by_a_workload_api() {
    let mut bed = Bed::new();
    nothing_is_served_without_an_identity(&mut bed);
    let api = bed.lab.workload("api");
    let (_nginx, _echo) = (nginx(&bed.lab, &api, "beta"), api.serve(80, echo));
    within(SOON, "a request", || bed.asks());
    let session = bed.lab.workload("web").connect(bed.lab.service("shop/api", 80)).unwrap();
    session.set_read_timeout(Some(SOON)).unwrap();
    assert!(says(&session));
    rotation_ends_no_session(&bed, &session);
    a_ca_that_is_gone_takes_its_hosts_along(&bed, &session);
    an_api_that_is_away_is_harmless(&mut bed);
    after_a_crash_it_waits_again(&mut bed);
}

fn nothing_is_served_without_an_identity(bed: &mut Bed) {
    let first = bed.svid(&bed.one, "beta", 1, &[&bed.one]);
    bed.beta.offer(first);
    bed.beta.on();
    bed.lab.agent("beta").launch();
    bed.lab.agent("alpha").launch();
    bed.waits("alpha", "nobody answers on unix:///run/workload-api.sock");
    assert!(bed.lab.agent("alpha").http("/readyz").is_none() && !bed.asks());
    bed.alpha.on();
    bed.waits("alpha", "has no identity for this agent");
    let of = |id: &str| bed.one.svid(id, 2, HOUR, &[&bed.one]);
    bed.alpha.offer(vec![of("spiffe://lab.test/shop/web"), of(&host("beta"))]);
    bed.waits("alpha", "spiffe://lab.test/host/beta, spiffe://lab.test/shop/web is what");
    bed.alpha.offer(vec![of("spiffe://other.test/host/alpha")]);
    bed.waits("alpha", "spiffe://lab.test/host/alpha is needed");
    bed.alpha.offer(bed.svid(&bed.two, "alpha", 2, &[&bed.one]));
    bed.waits("alpha", "no CA of the trust bundle vouches for it");
    // Of several the one that fits.
    let all = [bed.svid(&bed.one, "alpha", 2, &[&bed.one]), vec![of("spiffe://lab.test/shop/web")]].concat();
    bed.alpha.offer(all);
    for name in ["beta", "alpha"] {
        bed.lab.agent(name).wait_ready();
    }
    bed.lab.agent("alpha").wait_connected(&["alpha", "beta"]);
    let shown = bed.lab.host("alpha").ok(&[ripstop(), "status"]);
    assert!(shown.contains("spiffe://lab.test/host/alpha, from SPIRE at unix:///run/workload-api.sock"), "{shown}");
    let checked = bed.lab.host("alpha").run(&[ripstop(), "check", "--config", &bed.lab.agent("alpha").config()]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.contains("SPIRE at unix:///run/workload-api.sock") && checked.contains("renewed at half"),
        "{checked}"
    );
}

fn rotation_ends_no_session(bed: &Bed, session: &TcpStream) {
    bed.beta.offer(bed.svid(&bed.one, "beta", 3, &[&bed.one, &bed.two]));
    bed.alpha.offer(bed.svid(&bed.one, "alpha", 4, &[&bed.two, &bed.one]));
    bed.has_serial("alpha", 4);
    bed.has_serial("beta", 3);
    assert!(says(session), "a session that was open before is open");
    assert_eq!(
        bed.lab.agent("alpha").log().matches("connected host=beta").count(),
        1,
        "{}",
        bed.lab.agent("alpha").log()
    );
    bed.lab.agent("alpha").wait_metric("ripstop_certificate_renewals_total", &[("result", "renewed")], 1.0);
}

fn a_ca_that_is_gone_takes_its_hosts_along(bed: &Bed, session: &TcpStream) {
    bed.beta.offer(bed.svid(&bed.two, "beta", 5, &[&bed.two]));
    let cut = within(CUT, "the session to be cut", || !says(session));
    println!("a session of a host for which no CA vouches any more was cut after {cut:?}");
    bed.has_serial("beta", 5);
    assert!(!bed.asks(), "and it stays out");
    let why = || bed.status("alpha")["peers"][0].to_string();
    within(SOON, "alpha to be told why", || !bed.lab.agent("alpha").is_up(&["beta"]) && why().contains("certificate"));
    // Which is what new connections begin with: nothing else is taken.
    bed.alpha.offer(bed.svid(&bed.two, "alpha", 6, &[&bed.two]));
    bed.has_serial("alpha", 6);
    within(SOON, "a request with the new certificate", || bed.asks());
}

fn an_api_that_is_away_is_harmless(bed: &mut Bed) {
    bed.alpha.off();
    within(SOON, "it to be missed", || bed.status("alpha")["identity"]["away"].is_string());
    assert!(bed.status("alpha")["certificate_warning"].is_null() && bed.asks());
    // Its last quarter, and nobody to renew it.
    bed.alpha.offer(vec![bed.two.svid(&host("alpha"), 7, HOUR / 6, &[&bed.two])]);
    bed.alpha.on();
    bed.has_serial("alpha", 7);
    assert!(bed.status("alpha")["identity"]["away"].is_null());
    bed.alpha.deny();
    within(SOON, "the alarm", || {
        let warning = bed.status("alpha")["certificate_warning"].to_string();
        warning.contains("it expires in 9 minutes, and was not renewed") && warning.contains("has no identity")
    });
    bed.lab.agent("alpha").wait_metric("ripstop_certificate_renewals_total", &[("result", "failed")], 1.0);
    assert!(bed.asks(), "until it expires");
}

fn after_a_crash_it_waits_again(bed: &mut Bed) {
    bed.alpha.off();
    let agent = bed.lab.agent("alpha");
    agent.kill();
    agent.launch();
    bed.waits("alpha", "nobody answers");
    assert!(!bed.asks(), "what it left behind in the kernel lets nothing through");
    bed.alpha.offer(bed.svid(&bed.two, "alpha", 8, &[&bed.two]));
    bed.alpha.on();
    agent.wait_ready();
    within(SOON, "a request after the crash", || bed.asks());
    // While it waits a service manager is told so, and it is told to stop like any other.
    bed.alpha.off();
    assert_eq!(agent.stop(), 0);
    let manager = UnixDatagram::bind(bed.run("alpha").join("notify.sock")).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    agent.launch_by(&["env", "NOTIFY_SOCKET=/run/notify.sock"], &[]);
    bed.waits("alpha", "nobody answers");
    let mut told = [0; 1_024];
    let length = manager.recv(&mut told).unwrap();
    let told = String::from_utf8_lossy(&told[..length]).into_owned();
    assert!(
        told.contains("STATUS=host alpha waits for its identity") && told.contains("EXTEND_TIMEOUT_USEC="),
        "{told}"
    );
    assert_eq!(agent.stop(), 0);
}
